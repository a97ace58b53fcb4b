"""Submissions by message, on a real broker and a real Vault: the API signs, a pipeline sends, a worker takes or refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from queue import Queue
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
import sqlalchemy as sa
from celery import Celery
from celery.contrib.testing.worker import start_worker
from starlette.testclient import TestClient

from cloudpush.audit.access import AccessBook
from cloudpush.broker import SUBMIT_QUEUE, SUBMIT_TASK, celery_url
from cloudpush.credentials.submission import SubmissionVerifier
from cloudpush.errors import AccessError, CloudPushError, Code
from cloudpush.push.access.model import Role, Scope
from cloudpush.push.access.submission import Submissions, request_digest
from cloudpush.push.access.tokens import digest, new_token
from cloudpush.push.intake import Accepted
from cloudpush.push.trust.base64url import to_base64url
from cloudpush.settings import Settings
from cloudpush.tasks import register_submit
from cloudpush.web.app import make_app
from cloudpush.wiring import build_web, build_worker
from records import Record
from servers import Database

WEB_URL = "https://push.example"


class Watched(Submissions):
    """Says what became of each message."""

    def __init__(self, inner: Submissions) -> None:
        self._inner = inner
        self.ends: Queue[Accepted | CloudPushError] = Queue()

    def execute(self, request: object, token: object, idempotency_key: object) -> Accepted:
        try:
            accepted = self._inner.execute(request, token, idempotency_key)
        except CloudPushError as e:
            self.ends.put(e)
            raise
        self.ends.put(accepted)
        return accepted


@dataclass
class Stand:
    """An API, a broker, a worker, and a pipeline that knows the first two."""

    settings: Settings
    record: Record
    client: TestClient
    pipeline: Celery
    taken: Watched
    owner: str = field(default_factory=lambda: f"owner-{uuid4()}")

    def token(self, *, role: Role | None = Role.PIPELINE) -> tuple[str, UUID]:
        text = new_token()
        made = AccessBook(self.record.app).add_token(
            digest(text), owner=self.owner, name="t", role=role, scopes=frozenset(Scope), seconds=600, actor="test"
        )
        return text, made.id

    def request(self, **changes: Any) -> dict[str, Any]:
        source = self.settings.source_roots[0] / f"run-{uuid4()}"
        source.write_text("data")
        card = self.record.credential(self.owner)
        return {"source": str(source), "destination": "s3://lab/run", "credential": str(card.id)} | changes

    def ask(self, request: Mapping[str, Any], key: str, api_token: str = "") -> Any:
        headers = {"authorization": f"Bearer {api_token or self.token()[0]}"}
        body = {"request": request, "idempotency_key": key}
        return self.client.post("/v1/submission-tokens", json=body, headers=headers)

    def signed(self, request: Mapping[str, Any], key: str, api_token: str = "") -> str:
        answer = self.ask(request, key, api_token)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    def send(self, request: Any, token: Any, key: Any) -> Accepted | CloudPushError:
        message = {"request": request, "token": token, "idempotency_key": key}
        self.pipeline.send_task(SUBMIT_TASK, kwargs=message, queue=SUBMIT_QUEUE)
        return self.taken.ends.get(timeout=5)

    def refused(self, request: Any, token: Any, key: Any) -> Code:
        end = self.send(request, token, key)
        assert isinstance(end, CloudPushError), end
        return end.code

    def pushes(self) -> list[Any]:
        with self.record.app.connect() as c:
            rows = c.execute(sa.text("SELECT id, actor, source FROM push WHERE owner = :o"), {"o": self.owner})
            return list(rows.all())


@pytest.fixture(scope="module")
def running(settings: Settings, database: Database) -> Iterator[Stand]:
    chosen = settings.model_copy(update={"web_url": WEB_URL, "celery_submit": True})
    with ExitStack() as closing:
        web, worker = build_web(chosen), build_worker(chosen)
        closing.callback(web.close)
        closing.callback(worker.close)
        assert worker.submissions is not None
        taken = Watched(worker.submissions)
        register_submit(worker.celery, taken)
        closing.enter_context(start_worker(worker.celery, pool="solo", perform_ping_check=False))
        record = Record(database)
        closing.callback(record.close)
        client = TestClient(make_app(web), base_url=WEB_URL)
        yield Stand(chosen, record, client, Celery(broker=celery_url(chosen.redis_url), set_as_current=False), taken)


@pytest.fixture
def stand(running: Stand) -> Stand:
    return replace(running, owner=f"owner-{uuid4()}")


def test_a_message_with_its_token_is_a_push(stand: Stand) -> None:
    request, key = stand.request(labels={"run": "17"}), str(uuid4())
    api_token, token_id = stand.token()
    end = stand.send(request, stand.signed(request, key, api_token), key)
    assert isinstance(end, Accepted)
    assert stand.pushes() == [(end.push_id, f"{stand.owner} (token {str(token_id)[:8]})", request["source"])]


def test_a_message_that_comes_again_is_the_same_push(stand: Stand) -> None:
    request, key = stand.request(), str(uuid4())
    token = stand.signed(request, key)
    ends = [stand.send(request, token, key) for _ in range(3)]
    assert [end.created for end in ends if isinstance(end, Accepted)] == [True, False, False]
    assert len(stand.pushes()) == 1


def test_a_token_is_for_its_request_and_its_key_alone(stand: Stand) -> None:
    request, key = stand.request(), str(uuid4())
    token = stand.signed(request, key)
    assert stand.refused({**request, "destination": "s3://mine/run"}, token, key) is Code.SUBMISSION_REFUSED
    assert stand.refused({**request, "owner": "bob"}, token, key) is Code.SUBMISSION_REFUSED
    assert stand.refused(request, token, "another") is Code.SUBMISSION_REFUSED
    assert stand.pushes() == []


def test_whoever_can_write_to_the_broker_but_has_no_token_is_refused(stand: Stand) -> None:
    request, key = stand.request(), str(uuid4())
    head, body, signature = stand.signed(request, key).split(".")
    claims = json.loads(_bytes(body))
    forged = to_base64url(json.dumps({**claims, "sub": "root", "roles": ["admin"]}).encode())
    nothing = to_base64url(json.dumps({"alg": "none", "typ": "cloudpush-submission+jwt"}).encode())
    for token in (
        *(None, "", "x", 7, f"{head}.{forged}.{signature}", f"{nothing}.{body}.", f"{nothing}.{body}.{signature}"),
        *(f"{head}.{body}.{to_base64url(bytes(64))}", f"{head}.{body}.{signature}x", "a" * 100_000),
    ):
        assert stand.refused(request, token, key) is Code.SUBMISSION_REFUSED
    messages: list[Any] = [
        (None, "x", key),
        ([], "x", key),
        ({"n": 1.5}, "x", key),
        (request, "x", ""),
        (request, "x", 7),
    ]
    for message in messages:
        assert stand.refused(*message) is Code.SUBMISSION_REFUSED
    assert stand.pushes() == []


def test_what_its_principal_may_is_looked_up_when_it_is_executed(stand: Stand) -> None:
    request, key = stand.request(), str(uuid4())
    api_token, token_id = stand.token()
    token = stand.signed(request, key, api_token)
    book = AccessBook(stand.record.app)
    book.revoke_token(token_id, None, "test")
    assert stand.refused(request, token, key) is Code.SUBMISSION_REFUSED
    admin, key = stand.token(role=Role.ADMIN)[0], str(uuid4())
    book.grant_role(stand.owner, Role.ADMIN, "test")
    token = stand.signed(request, key, admin)
    book.revoke_role(stand.owner, Role.ADMIN, "test")
    assert stand.refused(request, token, key) is Code.FORBIDDEN
    assert stand.pushes() == []


def test_a_request_that_is_wrong_is_refused_as_the_api_refuses_it(stand: Stand) -> None:
    request, key = stand.request(source="/etc/passwd"), str(uuid4())
    assert stand.refused(request, stand.signed(request, key), key) is Code.SOURCE_OUTSIDE_ROOTS
    assert stand.ask(stand.request(urls=[{"url": "https://x"}]), key).status_code == 422
    assert stand.ask(stand.request(owner="bob"), key).status_code == 403
    assert stand.ask(stand.request(), "").status_code == 422


def test_a_token_expires(stand: Stand, settings: Settings) -> None:
    from cloudpush.credentials.connection import VaultConnection

    request, key = stand.request(), str(uuid4())
    token, bound = stand.signed(request, key), request_digest(request, key)
    connection = VaultConnection(settings, "worker")
    try:
        for seconds, issuer in ((311, WEB_URL), (-11, WEB_URL), (0, "https://other.example")):
            claims = json.loads(_bytes(token.split(".")[1]))
            now = claims["exp"] - 300 + seconds
            by = SubmissionVerifier(connection, settings.vault_submission_key, issuer, now=lambda now=now: now)  # type: ignore[misc]
            with pytest.raises(AccessError) as caught:
                by.submitter(token, bound)
            assert caught.value.code is Code.SUBMISSION_REFUSED
    finally:
        connection.close()


def test_without_the_operators_setting_a_message_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[dict[str, object]] = []

    class Log:  # whatever another test set logging up for
        def warning(self, event: str, **fields: object) -> None:
            said.append(fields)

    monkeypatch.setattr("cloudpush.tasks.log", Log())
    app = Celery("x", set_as_current=False)
    register_submit(app, None)
    app.tasks[SUBMIT_TASK](request={"source": "/s"}, token="secret", idempotency_key="k")
    assert [line["code"] for line in said] == [Code.SUBMISSION_REFUSED]
    assert "secret" not in str(said)
    assert SUBMIT_QUEUE not in app.amqp.queues


def test_nothing_of_a_token_stays_in_the_broker(stand: Stand) -> None:
    request, key = stand.request(), str(uuid4())
    token = stand.signed(request, key)
    stand.send(request, token, key)
    with redis.Redis.from_url(stand.settings.redis_url) as client:
        kept = [client.dump(name) for name in client.scan_iter("*")]
    assert token.rpartition(".")[2].encode() not in b"".join(bytes(one or b"") for one in kept)


def _bytes(part: str) -> bytes:
    import base64

    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
