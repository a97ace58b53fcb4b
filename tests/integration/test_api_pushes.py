"""The API: pushes are submitted, seen and acted on, by whoever may, once for each key, and in batches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from starlette.testclient import TestClient

from api_site import SECRET, ApiSite, api_site
from cloudpush.broker import QUEUE, Announcer
from cloudpush.errors import BrokerError, Code
from cloudpush.push.access.model import Role, Scope
from cloudpush.stack.services import OpenBao, Valkey
from cloudpush.web.api.paging import encode
from servers import Database
from signed_rows import CANARY, a_row


@pytest.fixture(scope="module")
def api(
    database: Database, valkey: Valkey, openbao: OpenBao, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiSite]:
    base = tmp_path_factory.mktemp("api")
    vault = {"vault_url": openbao.url, "vault_auth_dir": openbao.auth_dir}
    with api_site(database, valkey.url(), base, **vault) as made:
        yield made


@pytest.fixture(scope="module")
def alice(api: ApiSite) -> TestClient:
    return api.client("alice")


@pytest.fixture(scope="module")
def key(api: ApiSite) -> UUID:
    return api.credential("alice", name="lab")


def _problem(answer: Any, status: int, code: Code) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    problem: dict[str, Any] = answer.json()
    assert problem["code"] == code
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem


def test_a_push_is_submitted_with_its_owners_actor_and_seen_again(api: ApiSite, alice: TestClient, key: UUID) -> None:
    answer = alice.post("/v1/pushes", json=api.body("lab", labels={"run": "17"}))

    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made == {"push": made["push"], "created": True, "announced": True, "warnings": []}
    assert answer.headers["location"] == f"/v1/pushes/{made['push']}"
    shown = alice.get(answer.headers["location"]).json()
    assert (shown["owner"], shown["state"], shown["labels"]) == ("alice", "queued", {"run": "17"})
    assert shown["actor"].startswith("alice (token ")
    assert shown["created_at"].endswith("Z")
    assert not {"lease_token", "request_sha256", "idempotency_key"} & shown.keys()


def test_the_same_key_is_the_same_push_and_another_request_under_it_is_refused(
    api: ApiSite, alice: TestClient, key: UUID
) -> None:
    under = {"idempotency-key": f"k-{uuid4()}"}
    first = alice.post("/v1/pushes", json=api.body(key), headers=under)
    again = alice.post("/v1/pushes", json=api.body(key), headers=under)
    other = alice.post("/v1/pushes", json=api.body(key, destination="s3://lab-archive/other"), headers=under)

    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["push"] == first.json()["push"]
    _problem(other, 409, Code.IDEMPOTENCY_CONFLICT)


def test_many_submissions_of_one_key_at_once_are_one_push(api: ApiSite, alice: TestClient, key: UUID) -> None:
    under = {"idempotency-key": f"k-{uuid4()}"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: alice.post("/v1/pushes", json=api.body(key), headers=under), range(16)))

    assert sorted(a.status_code for a in answers) == [200] * 15 + [201]
    assert len({a.json()["push"] for a in answers}) == 1


def test_each_push_of_a_batch_stands_alone(api: ApiSite, alice: TestClient, key: UUID) -> None:
    known, name = alice.post("/v1/pushes", json=api.body(key), headers={"idempotency-key": "known"}).json(), "new"
    items = [
        api.body("lab", idempotency_key=name),
        api.body("lab", destination="nowhere"),
        api.body(key, idempotency_key="known"),
        api.body("lab", idempotency_key=name),
        api.body("lab", idempotency_key=name, destination="s3://lab-archive/x"),
        api.body(api.credential("bob")),
        api.body("lab", source="/etc"),
        api.body("lab", owner="bob"),
        api.body("lab"),
    ]
    answer = alice.post("/v1/pushes/batch", json={"pushes": items})

    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [r["problem"]["code"] if "problem" in r else r["created"] for r in results] == [
        *(True, "BAD_URI", False, False, "IDEMPOTENCY_CONFLICT", "UNKNOWN_CREDENTIAL", "SOURCE_OUTSIDE_ROOTS"),
        *("FORBIDDEN", True),
    ]
    assert results[2]["push"] == known["push"]
    assert results[3]["push"] == results[0]["push"]
    assert all(r["announced"] for r in results if "push" in r)
    found = alice.get(f"/v1/pushes/{results[0]['push']}/events").json()["items"]
    assert [(e["kind"], e["seq"]) for e in found] == [("push.queued", 1)]


def test_a_batch_is_recorded_as_single_submissions_are(api: ApiSite, alice: TestClient, key: UUID) -> None:
    one = alice.post("/v1/pushes", json=api.body(key, include=["*.txt"], labels={"a": "b"})).json()["push"]
    batch = {"pushes": [api.body(key, include=["*.txt"], labels={"a": "b"})]}
    many = alice.post("/v1/pushes/batch", json=batch).json()["results"][0]["push"]

    own = {"id", "created_at"}
    views = [alice.get(f"/v1/pushes/{push}").json() for push in (one, many)]
    assert [{k: v for k, v in view.items() if k not in own} for view in views][1] == {
        k: v for k, v in views[0].items() if k not in own
    }
    told = [alice.get(f"/v1/pushes/{push}/events").json()["items"][0]["data"] for push in (one, many)]
    assert told[0] == told[1]


def test_messages_of_a_batch_are_celerys_own(api: ApiSite, alice: TestClient, key: UUID, valkey: Valkey) -> None:
    def sent(client: redis.Redis, ids: list[str]) -> list[dict[str, Any]]:
        found = [json.loads(m) for m in client.lrange(QUEUE, 0, -1)]
        return [m for i in ids for m in found if i in m["headers"]["kwargsrepr"]]

    one = alice.post("/v1/pushes", json=api.body(key)).json()["push"]
    many = alice.post("/v1/pushes/batch", json={"pushes": [api.body(key), api.body(key)]}).json()["results"]
    with redis.Redis.from_url(valkey.url()) as client:
        ours = sent(client, [one, *(r["push"] for r in many)])

    assert len(ours) == 3
    assert len({m["headers"]["id"] for m in ours}) == len({m["properties"]["delivery_tag"] for m in ours}) == 3
    plain = [
        json.dumps(m, sort_keys=True)
        .replace(m["headers"]["id"], "ID")
        .replace(m["properties"]["delivery_tag"], "TAG")
        .replace(push, "PUSH")
        .replace(m["body"], "BODY")
        for m, push in zip(ours, [one, *(r["push"] for r in many)], strict=True)
    ]
    assert {len(m["body"]) for m in ours} == {len(ours[0]["body"])}
    differing = [{k: v for k, v in json.loads(p)["headers"].items() if k not in ("origin", "expires")} for p in plain]
    assert differing[0] == differing[1] == differing[2]


def test_a_dry_run_stores_nothing(api: ApiSite, alice: TestClient, key: UUID) -> None:
    before = alice.get("/v1/pushes", params={"limit": 1}).json()["items"][0]["id"]
    answer = alice.post("/v1/pushes", params={"dry_run": "true"}, json=api.body(key))

    assert answer.status_code == 200, answer.text
    assert answer.json()["first"] == [{"path": "a.txt", "key": "run/a.txt", "size": 1}]
    assert alice.get("/v1/pushes", params={"limit": 1}).json()["items"][0]["id"] == before


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"destination": 7}, 422, "destination"),
        ({"colour": "red"}, 422, "colour"),
        ({"labels": {"A B": "x"}}, 422, "label"),
        ({"destination": ""}, 422, "destination"),
        ({"overwrite": "perhaps"}, 422, "overwrite"),
    ],
)
def test_a_wrong_field_is_named(
    api: ApiSite, alice: TestClient, key: UUID, change: dict[str, Any], status: int, field: str
) -> None:
    assert _problem(alice.post("/v1/pushes", json=api.body(key, **change)), status, Code.BAD_INPUT)["field"] == field


def test_what_cannot_be_read_is_refused_without_being_repeated(alice: TestClient) -> None:
    json_type = {"content-type": "application/json"}
    _problem(alice.post("/v1/pushes", content=b"{canary", headers=json_type), 400, Code.BAD_INPUT)
    _problem(alice.post("/v1/pushes", content=b'{"a": "\xff"}', headers=json_type), 400, Code.BAD_INPUT)
    _problem(alice.post("/v1/pushes", content=b"[" * 100_000, headers=json_type), 400, Code.BAD_INPUT)
    _problem(alice.post("/v1/pushes", content=b" " * (8 * 1024 * 1024 + 1)), 413, Code.TOO_MANY_BYTES)
    _problem(alice.get("/v1/pushes", params={"colour": "red"}), 422, Code.BAD_INPUT)
    _problem(alice.get("/v1/nowhere"), 404, Code.NOT_FOUND)
    _problem(alice.put("/v1/pushes"), 405, Code.NOT_FOUND)
    _problem(alice.get("/v1/pushes/none"), 404, Code.UNKNOWN_PUSH)
    wrong = alice.post("/v1/pushes", json={"urls": [["https://b.example/k?X-Amz-Signature=canary"]]})
    assert "canary" not in wrong.text


def test_nobody_is_told_how_to_ask(api: ApiSite) -> None:
    nobody = api.client()
    assert nobody.get("/v1/pushes").headers["www-authenticate"] == "Bearer"
    _problem(nobody.get("/v1/pushes"), 401, Code.UNAUTHENTICATED)
    assert nobody.get("/v1/openapi.json").status_code == 200
    assert nobody.get("/v1/problems/BAD_INPUT").json()["status"] is None


def test_pages_of_a_list_hold_each_push_once(api: ApiSite) -> None:
    carol, card = api.client("carol"), api.credential("carol")
    items = [api.body(card, labels={"n": str(n)}) for n in range(7)]
    made = [r["push"] for r in carol.post("/v1/pushes/batch", json={"pushes": items}).json()["results"]]

    found, cursor = [], ""
    while cursor is not None:
        page = carol.get("/v1/pushes", params={"limit": 3, "cursor": cursor}).json()
        found += [item["id"] for item in page["items"]]
        cursor = page["next"]
    assert len(found) == 7
    assert set(found) == set(made)
    one = carol.get("/v1/pushes", params={"label": "n=3"}).json()["items"]
    assert [item["labels"] for item in one] == [{"n": "3"}]
    _problem(carol.get("/v1/pushes", params={"cursor": "bm9uZQ"}), 422, Code.BAD_INPUT)


def test_what_has_not_changed_is_not_sent_again(api: ApiSite, alice: TestClient, key: UUID) -> None:
    path = f"/v1/pushes/{alice.post('/v1/pushes', json=api.body(key)).json()['push']}"
    first = alice.get(path)
    again = alice.get(path, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])

    alice.post(f"{path}/cancel")
    assert alice.get(path, headers={"if-none-match": first.headers["etag"]}).json()["state"] == "cancelled"


def test_a_push_that_ended_is_tried_again_once(api: ApiSite, alice: TestClient, key: UUID) -> None:
    push = alice.post("/v1/pushes", json=api.body(key)).json()["push"]
    assert alice.post(f"/v1/pushes/{push}/cancel").json() == {"push": push, "state": "cancelled"}

    first, again = (alice.post(f"/v1/pushes/{push}/retry") for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["push"] == again.json()["push"] != push
    assert alice.get(f"/v1/pushes/{first.json()['push']}").json()["retry_of"] == push


def test_the_stream_of_a_push_ends_with_its_verdict(api: ApiSite, alice: TestClient, key: UUID) -> None:
    push = alice.post("/v1/pushes", json=api.body(key)).json()["push"]
    alice.post(f"/v1/pushes/{push}/cancel")

    answer = alice.get(f"/v1/pushes/{push}/progress")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.startswith("event: state\ndata: {")
    assert json.loads(answer.text.split("data: ", 1)[1])["state"] == "cancelled"


def test_a_push_tells_its_parts_files_events_and_needs(api: ApiSite, alice: TestClient) -> None:
    made = alice.post("/v1/pushes", json=api.body("lab")).json()["push"]
    for part in ("parts", "files", "events", "needs"):
        assert alice.get(f"/v1/pushes/{made}/{part}").status_code == 200


def test_pages_of_parts_and_events_end_wherever_a_cursor_leads(api: ApiSite, alice: TestClient, key: UUID) -> None:
    made = alice.post("/v1/pushes", json=api.body(key)).json()["push"]
    alice.post(f"/v1/pushes/{made}/cancel")
    first = alice.get(f"/v1/pushes/{made}/events", params={"limit": 1}).json()
    more = alice.get(f"/v1/pushes/{made}/events", params={"cursor": first["next"]}).json()
    assert [e["seq"] for e in [*first["items"], *more["items"]]] == [3, 2, 1]
    for part in ("parts", "files", "events", "needs"):
        assert alice.get(f"/v1/pushes/{made}/{part}", params={"cursor": encode(2**62)}).status_code == 200
    assert alice.get(f"/v1/pushes/{made}/events", params={"cursor": encode(-(2**62))}).json()["items"] == []


def test_a_batch_seals_so_many_urls_and_no_more(api: ApiSite, alice: TestClient) -> None:
    item = {"source": str(api.source), "urls": [{}] * 1001}
    refused = _problem(alice.post("/v1/pushes/batch", json={"pushes": [item, item]}), 422, Code.BAD_INPUT)
    assert refused["field"] == "pushes"


def test_signed_urls_are_sealed_and_never_told(api: ApiSite, alice: TestClient) -> None:
    url = "https://lab.s3.eu-central-1.amazonaws.com/run/a.txt?X-Amz-Signature=canary"
    refused = alice.post("/v1/pushes", json={"source": str(api.source), "urls": [{"path": "a.txt", "url": url}]})
    assert refused.status_code == 422
    assert "canary" not in refused.text

    row = a_row("a.txt", datetime.now(UTC) - timedelta(seconds=5))
    made = alice.post("/v1/pushes", json={"source": str(api.source), "urls": [row]})
    assert made.status_code == 201, made.text
    shown = alice.get(f"/v1/pushes/{made.json()['push']}")
    assert shown.json()["urls"]["state"] == "active"
    assert CANARY not in shown.text


def test_a_secret_goes_in_and_never_comes_out(api: ApiSite, alice: TestClient) -> None:
    made = alice.post("/v1/credentials", json={"name": "sealed", "secret": SECRET})
    assert made.status_code == 201, made.text
    assert made.json()["state"] == "active"
    path = f"/v1/credentials/{made.json()['id']}"
    twice = alice.post("/v1/credentials", json={"name": "sealed", "secret": SECRET})
    wrong = alice.post("/v1/credentials", json={"name": "w", "secret": SECRET | {"access_key_id": "s3cr3t-canary x"}})
    _problem(wrong, 422, Code.BAD_INPUT)
    purged = alice.delete(path)
    assert (purged.status_code, purged.json()["state"]) == (202, "purging")
    answers = [made, twice, wrong, purged, alice.get(path), alice.get("/v1/credentials")]
    assert not [a.text for a in answers if "s3cr3t-canary" in a.text]


def test_a_tokens_scopes_bound_it(api: ApiSite, key: UUID) -> None:
    reads = api.client("alice", scopes=frozenset({Scope.READ}))
    assert reads.get("/v1/pushes").status_code == 200
    assert _problem(reads.post("/v1/pushes", json=api.body(key)), 403, Code.FORBIDDEN)["field"] == "authorization"
    assert api.client("root", Role.ADMIN).post("/v1/pushes", json=api.body(key, owner="alice")).status_code == 201


def test_the_broker_may_be_away(api: ApiSite, alice: TestClient, key: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise BrokerError(Code.BROKER_UNREACHABLE, "away")

    monkeypatch.setattr(Announcer, "push_many", away)
    results = alice.post("/v1/pushes/batch", json={"pushes": [api.body(key)]}).json()["results"]
    assert (results[0]["created"], results[0]["announced"]) == (True, False)
