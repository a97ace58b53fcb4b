"""The demo's chapters on the API: a token, the Python client, and a batch by plain HTTP."""

from __future__ import annotations

import json
import os
from typing import Any

import requests

from cloudpush.cli.demo_keys import KEY
from cloudpush.cli.demo_run import BUCKET, Run, chapter, quote, say
from cloudpush.errors import Code, StackError

BIG_FILE_MIB = 256
#: Everything but the paths: what docs/client.md shows.
PROGRAM = """\
from cloudpush import Client

with Client() as cloudpush:
    handle = cloudpush.push({source!r}, {destination!r}, {credential!r})
    push = handle.wait().check()
    print(push.state, push.files_verified, "file proved by", push.strength)
"""
#: Seconds for one answer.
ANSWER_SECONDS = 30.0


def get_a_token(run: Run) -> None:
    """A token for whoever runs the demo; from here on the command line goes through the API."""
    chapter("1. A token: from here on it goes through the REST API")
    make_token(run, "demo", "--scope", "submit", "--scope", "read")
    run("whoami", says="CLOUDPUSH_URL and CLOUDPUSH_TOKEN_FILE are set: the command line asks the server.")


def make_token(run: Run, name: str, *options: str) -> None:
    """Have the operator of this machine make a token; it goes into a file of mode 0600, and nowhere else."""
    words = ["--local", "token", "create", name, *options]
    say("An operator makes it; it is shown once, and goes into a file that only its user can read.")
    run.show(*words, f"> {run.token_file.name}")
    run.keep_token(run.quietly(*words).strip())


def push_with_the_client(run: Run) -> None:
    """One large file, by a program of six lines."""
    chapter(f"4. One file of {BIG_FILE_MIB} MiB, by the Python client")
    block, big = os.urandom(2**20), run.base / "data" / "measurement.bin"
    with big.open("wb") as f:
        for number in range(BIG_FILE_MIB):
            f.write(number.to_bytes(8, "big") + block[8:])
    program = run.base / "push.py"
    program.write_text(PROGRAM.format(source=str(big), destination=f"s3://{BUCKET}/runs/42", credential=KEY))
    say("Address and token are found as the command line finds them.")
    quote(program.read_text())
    run.script(program)


def push_a_batch(run: Run) -> None:
    """Three pushes in one request, one of them wrong."""
    chapter("5. A batch by plain HTTP: each push of it stands alone")
    sources = [str(run.reports / "report-1.txt"), str(run.reports / "report-2.txt"), "/etc/passwd"]
    pushes = [
        {"source": source, "destination": f"s3://{BUCKET}/batch", "credential": KEY, "idempotency_key": f"demo-{n}"}
        for n, source in enumerate(sources, 1)
    ]
    say("Two are fine; the third asks for a file outside the directories that may be pushed from.")
    quote(f"POST {run.url}/v1/pushes/batch   Authorization: Bearer …\n{json.dumps({'pushes': pushes})[:150]}…")
    results = _post(run, "/v1/pushes/batch", {"pushes": pushes})["results"]
    for result in results:
        quote("  " + json.dumps(_short(result)))
    again = _post(run, "/v1/pushes/batch", {"pushes": pushes})["results"]
    say("Sent again under the same idempotency keys: nothing is stored twice.")
    for result in again:
        quote("  " + json.dumps(_short(result)))
    say("")
    if [r.get("push") for r in again] != [r.get("push") for r in results]:
        raise StackError(Code.STACK, "A batch that was sent twice became other pushes.")
    for result in results:
        if "push" in result:
            run("wait", result["push"])


def _short(result: dict[str, Any]) -> dict[str, Any]:
    problem = result.get("problem")
    if problem:
        return {"problem": {name: problem[name] for name in ("code", "status", "actor", "fix")}}
    return {name: result[name] for name in ("push", "created")}


def _post(run: Run, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """As any program with an HTTP library would. Raises StackError."""
    with requests.Session() as session:
        session.trust_env = False  # neither proxies nor .netrc
        session.headers["Authorization"] = f"Bearer {run.token_file.read_text()}"
        try:
            answer = session.post(run.url + path, json=body, timeout=ANSWER_SECONDS)
            answer.raise_for_status()
            found: dict[str, Any] = answer.json()
        except requests.RequestException as e:
            raise StackError(Code.STACK, f"POST {path} was not answered as expected: {e}") from e
    return found
