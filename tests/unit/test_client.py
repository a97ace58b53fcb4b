"""The Python client: what it sends, what it sends again, what it makes of answers, and where its token never goes."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import cloudpush
from cloudpush.client import Client, Progress, Push, PushFailed, Submission, transport
from cloudpush.client import handle as handles
from cloudpush.client.handle import AWAY_SECONDS, DEFECT_SECONDS, _Patience
from cloudpush.errors import (
    AccessError,
    CloudPushError,
    Code,
    CredentialError,
    InputError,
    ServerError,
    SourceError,
    StoreError,
)
from doubles import api as double
from doubles.api import Api, Say, problem, stream

PUSH = "019a9c5e-0000-7000-8000-000000000001"
TOKEN = "cpt_canary-token"
AT = f"/v1/pushes/{PUSH}"
ACCEPTED = {"push": {"id": PUSH}, "created": True, "announced": True, "warnings": ["soon"]}


def a_push(state: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": PUSH,
        "owner": "ada",
        "state": state,
        "bytes_total": 10,
        "created_at": "2026-03-01T12:00:00Z",
    } | changes


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setattr(transport, "_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(handles, "POLL_SECONDS", 0.001)
    with double.running() as made:
        yield made


@pytest.fixture
def client(api: Api) -> Iterator[Client]:
    with Client(api.url, TOKEN, timeout=5, patience=5) as made:
        yield made


# -- submitting ----------------------------------------------------------------------------


def test_a_push_is_one_request_with_what_was_given(api: Api, client: Client) -> None:
    """And nothing that was not; the answer is a handle."""
    api.on("POST /v1/pushes", Say(201, ACCEPTED))

    handle = client.push("/data/run", "s3://lab/run", "key", labels={"run": "42"}, idempotency_key="k-1")

    [asked] = api.asked
    assert asked.body == {
        "source": "/data/run",
        "destination": "s3://lab/run",
        "credential": "key",
        "labels": {"run": "42"},
    }
    assert (asked.headers["authorization"], asked.headers["idempotency-key"]) == (f"Bearer {TOKEN}", "k-1")
    assert (handle.id, handle.created, handle.announced, handle.warnings) == (UUID(PUSH), True, True, ("soon",))


@pytest.mark.parametrize("trouble", [Say(0), Say(503, "away"), Say(502, b"<html>"), problem(429, "RATE_LIMITED")])
def test_a_submission_is_repeated_under_its_own_key(api: Api, client: Client, trouble: Say) -> None:
    """However often the connection breaks, or the server is away: it is one push."""
    api.on("POST /v1/pushes", trouble, trouble, Say(201, ACCEPTED))

    assert client.push("/data/run", "s3://lab", "key").id == UUID(PUSH)
    client.push("/data/run", "s3://lab", "key")

    *first, other = [asked.headers["idempotency-key"] for asked in api.asked]
    assert (len(first), len({*first}), other in first) == (3, 1, False)


def test_a_server_that_wants_time_gets_it(api: Api, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as Retry-After says; not where that is longer than our patience."""
    slept: list[float] = []
    monkeypatch.setattr(client._transport, "sleep", slept.append)
    api.on("POST /v1/pushes", problem(429, "RATE_LIMITED", retry_after="3"), Say(201, ACCEPTED))
    client.push("/data/run", "s3://lab", "key")
    api.on("GET /v1/me", problem(429, "RATE_LIMITED", retry_after="3600"))

    with pytest.raises(CloudPushError) as refused:
        client.me()

    assert (slept, refused.value.code, refused.value.status) == ([3.0], Code.RATE_LIMITED, 429)


def test_what_is_not_safe_to_repeat_is_not_repeated(api: Api, client: Client) -> None:
    """A secret, and fresh URLs: whether the first one arrived is not known. A read is."""
    for route in ("POST /v1/credentials", f"POST {AT}/resign", "GET /v1/me"):
        api.on(route, Say(0), Say(0), Say(200, {"name": "ada"}))

    for act in (lambda: client.credentials.add("k", {"a": "b"}), lambda: client.handle(PUSH).resign([])):
        with pytest.raises(ServerError, match="SERVER_UNREACHABLE"):
            act()

    assert (client.me().name, [asked.method for asked in api.asked]) == ("ada", ["POST", "POST", "GET", "GET", "GET"])


def test_a_server_that_nobody_runs_is_told_so() -> None:
    """After the patience that was asked for."""
    with Client("http://127.0.0.1:9", TOKEN, patience=0) as client, pytest.raises(ServerError) as refused:
        client.push("/data/run", "s3://lab", "key")

    assert (refused.value.code, refused.value.fix) == (Code.SERVER_UNREACHABLE, Code.SERVER_UNREACHABLE.fix)


def test_many_go_in_batches_and_each_has_its_own_fate(api: Api, client: Client) -> None:
    """1,000 with each request, in order; a refused one raises when it is asked, not before."""

    def answer(asked: double.Asked) -> Say:
        refused = {"problem": {"code": "BAD_URI", "status": 422, "detail": "no", "field": "destination"}}
        return Say(200, {"results": [refused if i["source"] == "/d/7" else ACCEPTED for i in asked.body["pushes"]]})

    api.on("POST /v1/pushes/batch", answer)

    found = client.push_many(Submission(source=f"/d/{n}") for n in range(1002))

    keys = [item["idempotency_key"] for asked in api.asked for item in asked.body["pushes"]]
    assert [len(asked.body["pushes"]) for asked in api.asked] == [1000, 2]
    assert (len(set(keys)), [n for n, o in enumerate(found) if o.error]) == (1002, [7])
    with pytest.raises(InputError, match="BAD_URI"):
        found[7].get()
    assert found[8].get().id == UUID(PUSH)


# -- refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind", "code", "status"),
    [
        (problem(422, "BAD_INPUT", "label 'x'", "label"), InputError, Code.BAD_INPUT, 422),
        (problem(404, "UNKNOWN_PUSH"), InputError, Code.UNKNOWN_PUSH, 404),
        (problem(401, "UNAUTHENTICATED"), AccessError, Code.UNAUTHENTICATED, 401),
        (problem(403, "FORBIDDEN"), AccessError, Code.FORBIDDEN, 403),
        (problem(422, "SOURCE_MISSING"), SourceError, Code.SOURCE_MISSING, 422),
        (problem(422, "CREDENTIAL_PURGED"), CredentialError, Code.CREDENTIAL_PURGED, 422),
        (problem(500, "DATABASE_SCHEMA"), StoreError, Code.DATABASE_SCHEMA, 500),
        (problem(422, "OF_NEXT_YEAR"), InputError, Code.INTERNAL, 422),
        (Say(403, b"<html>proxy</html>"), AccessError, Code.FORBIDDEN, 403),
        (Say(200, b"<html>portal</html>"), ServerError, Code.SERVER_UNREACHABLE, None),
        (Say(302, b"", {"location": "https://evil.example/"}), ServerError, Code.SERVER_UNREACHABLE, None),
    ],
)
def test_a_refusal_is_the_error_that_it_is_here(
    api: Api, client: Client, answer: Say, kind: type[CloudPushError], code: Code, status: int | None
) -> None:
    """Class, code, field, status; also of what is no CloudPush."""
    api.on("GET /v1/me", answer)

    with pytest.raises(kind) as refused:
        client.me()

    field = answer.body.get("field") or "" if isinstance(answer.body, dict) else ""
    assert (refused.value.code, refused.value.status, refused.value.field) == (code, status, field)


# -- the token -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["http://push.example", "http://10.0.0.1", "ftp://push.example", TOKEN, "https://a:b@push.example", "https://"],
)
def test_no_address_gets_the_token_in_the_open(url: str) -> None:
    """Nor is it repeated where it stands in the wrong place."""
    with pytest.raises(InputError) as refused:
        Client(url, TOKEN)

    assert TOKEN not in str(refused.value)


def test_the_token_shows_nowhere(api: Api, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Not in what is printed, logged, raised or pickled."""
    caplog.set_level(logging.DEBUG)
    api.on("GET /v1/me", problem(401, "UNAUTHENTICATED"))
    with pytest.raises(AccessError) as refused:
        client.me()

    told: BaseException | None = refused.value
    shown = [
        repr(client),
        repr(client._transport),
        repr(vars(client._transport)),
        repr(client.handle(PUSH)),
        caplog.text,
    ]
    while told is not None:
        shown.append(repr(told))
        told = told.__cause__ or told.__context__
    assert [text for text in shown if TOKEN in text] == []
    with pytest.raises(TypeError):
        pickle.dumps(client._transport._headers)


def test_a_redirect_is_not_followed(api: Api, client: Client) -> None:
    """Wherever it leads: the other origin never hears of us."""
    with double.running() as other:
        api.on("GET /v1/me", Say(307, b"", {"location": f"{other.url}/v1/me"}))
        with pytest.raises(ServerError, match="leads elsewhere"):
            client.me()

    assert (len(api.asked), other.asked) == (1, [])


def test_proxies_of_the_environment_lead_out_but_not_to_loopback(monkeypatch: pytest.MonkeyPatch, api: Api) -> None:
    """Where NO_PROXY does not say otherwise."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example")
    api.on("GET /v1/me", Say(200, {"name": "ada"}))

    ways = {
        url: Client(url, TOKEN)._transport._pool.proxy
        for url in ("https://push.example", "https://push.inside.example")
    }

    assert [proxy and proxy.host for proxy in ways.values()] == ["proxy.example", None]
    assert Client(api.url, TOKEN).me().name == "ada"


def test_a_login_of_this_machine_is_for_its_own_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its token goes to no other; without any login it is said what to do."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDPUSH_URL", "https://push.example/")
    monkeypatch.setenv("CLOUDPUSH_TOKEN", TOKEN)

    assert (Client().url, Client("https://push.example/v1").url) == ("https://push.example", "https://push.example")
    with pytest.raises(AccessError, match="login of this machine is for"):
        Client("https://evil.example")
    monkeypatch.delenv("CLOUDPUSH_TOKEN")
    with pytest.raises(AccessError, match="There is no token"):
        Client()
    monkeypatch.delenv("CLOUDPUSH_URL")
    with pytest.raises(AccessError, match="Nobody logged in"):
        Client()


# -- lists ---------------------------------------------------------------------------------


def test_a_list_is_read_page_by_page(api: Api, client: Client) -> None:
    """As far as it is wanted, with filters and times as the API reads them."""
    api.on(
        "GET /v1/pushes",
        Say(200, {"items": [a_push("queued"), a_push("running")], "next": "c1"}),
        Say(200, {"items": [a_push("failed"), a_push("running")], "next": None}),
    )

    found = [
        p.state for p in client.list(limit=3, state="x", since=datetime(2026, 1, 1, tzinfo=UTC), label=["a=1", "b=2"])
    ]

    assert found == ["queued", "running", "failed"]
    assert [asked.path for asked in api.asked] == [
        "/v1/pushes?state=x&since=2026-01-01T00%3A00%3A00%2B00%3A00&label=a%3D1&label=b%3D2&limit=3",
        "/v1/pushes?state=x&since=2026-01-01T00%3A00%3A00%2B00%3A00&label=a%3D1&label=b%3D2&limit=3&cursor=c1",
    ]


def test_a_push_is_typed(api: Api, client: Client) -> None:
    """Ids, times and numbers; what a newer server adds is in ``raw``."""
    api.on(f"GET {AT}", Say(200, a_push("succeeded", include=["*.csv"], speed=3, colour="red", credential_id=PUSH)))

    push = client.get(PUSH).show()

    assert (push.id, push.credential_id, push.include) == (UUID(PUSH), UUID(PUSH), ("*.csv",))
    assert (push.created_at, push.finished_at) == (datetime(2026, 3, 1, 12, tzinfo=UTC), None)
    assert (push.final, push.succeeded, push.raw["colour"], push.check() is push) == (True, True, "red", True)


@pytest.mark.parametrize("state", ["unverified", "failed", "cancelled", "running"])
def test_nothing_but_success_passes_for_it(state: str) -> None:
    """check() raises with the push's own code."""
    push = Push(id=UUID(PUSH), owner="ada", state=state, error_code="NOT_VERIFIED" if state == "unverified" else None)

    with pytest.raises(PushFailed) as failed:
        push.check()

    codes = {"unverified": Code.NOT_VERIFIED, "cancelled": Code.CANCELLED}
    assert (failed.value.code, failed.value.push) == (codes.get(state, Code.INTERNAL), push)


# -- waiting -------------------------------------------------------------------------------


def test_waiting_hears_the_verdict_from_the_stream(api: Api, client: Client) -> None:
    """No question is asked after the first."""
    api.on(f"GET {AT}", Say(200, a_push("running")))
    api.on(f"GET {AT}/progress", stream(("progress", {"bytes": 4}), ("state", a_push("succeeded"))))

    assert client.handle(PUSH).wait().succeeded

    assert [len(api.heard(f"GET {path}")) for path in (AT, f"{AT}/progress")] == [1, 1]


def test_a_stream_that_breaks_is_begun_anew(api: Api, client: Client) -> None:
    """In its middle or at its start, and while the server is away; nothing of that ends the waiting."""
    api.on(f"GET {AT}", Say(200, a_push("queued")), Say(0), Say(503, "away"), Say(200, a_push("running")))
    end = stream(("state", a_push("failed")))
    broken = stream(("progress", {"bytes": 1}), cut=True)
    api.on(f"GET {AT}/progress", Say(0), broken, problem(503, "DATABASE_UNREACHABLE"), end)

    assert client.handle(PUSH).wait().state == "failed"

    assert len(api.heard(f"GET {AT}/progress")) == 4


def test_without_streams_questions_do(api: Api, client: Client) -> None:
    """As from a server, or through a proxy, that has none."""
    api.on(f"GET {AT}", *(Say(200, a_push(s)) for s in ("queued", "running", "running", "unverified")))
    api.on(f"GET {AT}/progress", problem(404, "NOT_FOUND"), Say(200, b"<html>", {}), Say(200, b"x" * 2_000_000))

    assert client.handle(PUSH).wait().state == "unverified"


def test_waiting_ends_with_its_patience(api: Api, client: Client) -> None:
    """With an error: a push that goes on is never taken for one that ended."""
    api.on(f"GET {AT}", Say(200, a_push("running")))
    began = time.monotonic()

    with pytest.raises(TimeoutError, match="goes on"):
        client.handle(PUSH).wait(0.05)

    assert (time.monotonic() - began < 5, api.heard(f"GET {AT}/progress")) == (True, [])


def test_waiting_ends_at_a_pause_where_that_is_wanted(api: Api, client: Client) -> None:
    """Whoever waits may be the one who has to act."""
    api.on(f"GET {AT}", Say(200, a_push("running")))
    api.on(f"GET {AT}/progress", stream(("state", a_push("awaiting_consent")), ("state", a_push("succeeded"))))

    handle = client.handle(PUSH)

    assert (handle.wait(until_paused=True).state, handle.wait().state) == ("awaiting_consent", "succeeded")


@pytest.mark.parametrize("answer", [problem(404, "UNKNOWN_PUSH"), problem(401, "UNAUTHENTICATED")])
def test_a_refusal_ends_the_waiting_at_once(api: Api, client: Client, answer: Say) -> None:
    """No patience helps there."""
    api.on(f"GET {AT}", answer)

    with pytest.raises((InputError, AccessError)):
        client.handle(PUSH).wait()

    assert len(api.asked) == 1


def test_progress_tells_bytes_until_the_verdict(api: Api, client: Client) -> None:
    """In the state that the push is in."""
    api.on(f"GET {AT}", Say(200, a_push("running")))
    api.on(
        f"GET {AT}/progress",
        stream(
            ("progress", {"bytes": 4, "bytes_total": 10, "speed": 2.0}),
            ("state", a_push("succeeded", bytes_verified=10)),
        ),
    )

    assert list(client.handle(PUSH).progress()) == [
        Progress(state="running", bytes_total=10),
        Progress(state="running", bytes=4, bytes_total=10, speed=2.0),
        Progress(state="succeeded", bytes=10, bytes_total=10),
    ]


@pytest.mark.parametrize(
    ("bytes_", "total", "fraction"),
    [(0, 0, 0.0), (5, 0, 0.0), (0, 10, 0.0), (4, 10, 0.4), (10, 10, 1.0), (11, 10, 1.0)],
)
def test_progress_as_a_fraction_never_leaves_the_bar(bytes_: int, total: int, fraction: float) -> None:
    """Also before the plan says how much it is, and where a file was sent twice."""
    assert Progress(state="running", bytes=bytes_, bytes_total=total).fraction == fraction


# -- acting and proof ----------------------------------------------------------------------


def test_cancel_and_retry_can_be_repeated(api: Api, client: Client) -> None:
    """And are, by themselves."""
    other = PUSH[:-1] + "2"
    api.on(f"POST {AT}/cancel", Say(0), Say(202, {"state": "cancelled"}))
    api.on(f"POST {AT}/retry", Say(0), Say(201, ACCEPTED | {"push": {"id": other}}))

    assert (client.handle(PUSH).cancel(), client.handle(PUSH).retry().id) == ("cancelled", UUID(other))


def test_a_receipt_is_waited_for_and_saved_whole(api: Api, client: Client, tmp_path: Path) -> None:
    """One that breaks off is asked for again; what was there before stays until then."""
    path = tmp_path / "receipt.json"
    path.write_bytes(b"old")
    pending = problem(404, "RECEIPT_PENDING")
    api.on(f"GET {AT}/receipt", pending, Say(200, b'{"half', cut=True), Say(200, {"receipt": 1}))

    assert client.handle(PUSH).receipt(path) == path

    assert (path.read_bytes(), [*tmp_path.iterdir()]) == (b'{"receipt": 1}', [path])
    assert client.handle(PUSH).receipt() == b'{"receipt": 1}'


# -- what it costs -------------------------------------------------------------------------

HEAVY = "sqlalchemy celery kombu redis hvac psycopg starlette fastapi pydantic aiohttp requests structlog typer keyring"


def imported(code: str, heavy: str = HEAVY, **variables: str) -> list[str]:
    told = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*(m for m in '{heavy}'.split() if m in sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **variables},
    )
    return told.stdout.splitlines()[-1].split()


def test_the_client_loads_nothing_heavy() -> None:
    """A pipeline imports it into processes of its own."""
    assert imported("import cloudpush; cloudpush.Client('https://push.example', 'token')") == []
    assert cloudpush.Client is Client


def test_a_push_over_rest_loads_nothing_heavy(api: Api) -> None:
    """A command that is started anew for every file of a pipeline does not pay for a database that it never asks.

    Typer brings pydantic along.
    """
    api.on("POST /v1/pushes", Say(201, ACCEPTED))
    code = (
        "import sys; from cloudpush.cli.main import app; sys.argv[1:] = ['push', '/data/run', 's3://lab', '-c', 'key']\n"
        "try: app()\nexcept SystemExit as e: assert e.code in (0, None), e.code"
    )

    heavy = imported(
        code,
        HEAVY.replace("pydantic", "").replace("typer", ""),
        CLOUDPUSH_URL=api.url,
        CLOUDPUSH_TOKEN=TOKEN,
        CLOUDPUSH_LOCAL="",
    )

    assert (heavy, [asked.path for asked in api.asked]) == ([], ["/v1/pushes"])


@pytest.mark.parametrize(
    ("code", "borne", "not_borne"),
    [(Code.INTERNAL, DEFECT_SECONDS, DEFECT_SECONDS + 1), (Code.DATABASE_UNREACHABLE, AWAY_SECONDS, AWAY_SECONDS + 1)],
)
def test_a_defect_over_there_is_borne_for_less_long_than_an_outage(code: Code, borne: float, not_borne: float) -> None:
    """It seldom goes away by itself, and whoever waits sees nothing meanwhile."""
    now = [0.0]
    patience, error = _Patience(lambda: now[0]), ServerError(code, "Something went wrong.")
    patience.bear(error)
    now[0] = borne
    patience.bear(error)
    now[0] = not_borne
    with pytest.raises(ServerError):
        patience.bear(error)
