"""Webhooks are told how pushes ended: owed by a trigger, told by some worker's hands, tried again, and never forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives import hashes, hmac

from builders import OWNER, failed, verified
from cloudpush.audit.credentials import MOST_HOOKS, Credentials
from cloudpush.audit.deliveries import Deliveries
from cloudpush.audit.integrity import verify as verify_record
from cloudpush.credentials.kinds import parse
from cloudpush.errors import Code, InputError, VaultError
from cloudpush.net import Pool
from cloudpush.push.credential import Reason
from cloudpush.push.grants.hands import TAKEN_SECONDS
from cloudpush.push.grants.model import NOTIFY_HOOK
from cloudpush.push.notices import LATEST, PATIENCE, SOONEST, Notifying, Owed
from cloudpush.transfer.telling import HttpTeller
from fakes import FakeClock
from fakes_vault import FakeVault
from integration.test_hook import SECRET, Pipeline, hangs_up, says
from records import Record

WEB = "https://push.example"


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    made = Pool("verdicts", aiohttp.ClientTimeout(total=60))
    yield made
    made.close()


@pytest.fixture
def webhook() -> Iterator[Pipeline]:
    made = Pipeline()
    made.answers = [says(b"", 204)]
    yield made
    made.close()


class Stage:
    """One owner's webhooks, sealed, what they are owed, and a worker that tells them."""

    def __init__(self, record: Record, pool: Pool, *webhooks: Pipeline, allowed: bool = True) -> None:
        self.record = record
        self.vault = FakeVault()
        self.store = Deliveries(record.app)
        self.hooks = [self.add(webhook) for webhook in webhooks]
        self.clock = FakeClock(record.now())
        teller = HttpTeller(pool, [w.address for w in webhooks] if allowed else [], self.vault, pause=0.001)
        self.notifying = Notifying(store=self.store, teller=teller, clock=self.clock, web_url=WEB)

    def add(self, webhook: Pipeline) -> UUID:
        card = self.record.credential(kind=NOTIFY_HOOK)
        self.vault.seal(card.id, OWNER, parse(NOTIFY_HOOK, webhook.fields))
        return card.id

    def work(self, taken_before: float = TAKEN_SECONDS) -> int:
        """What a worker's hands do in one look; how many tries."""
        return sum(self.notifying.attend(owed) for owed in self.store.chores(4, taken_before))

    def row(self, push_id: UUID, hook: int = 0) -> dict[str, Any]:
        query = sa.text(
            "SELECT attempts, done_at IS NOT NULL AS done, error_code AS code, "
            "extract(epoch FROM due_at - clock_timestamp())::float AS wait FROM delivery "
            "WHERE push_id = :push AND hook_id = :hook"
        )
        with self.record.app.connect() as c:
            return dict(c.execute(query, {"push": push_id, "hook": self.hooks[hook]}).mappings().one())

    def let_pass(self, seconds: float) -> None:
        """Time passes: what waits, and what was taken up, is that much older."""
        self.clock.moment += timedelta(seconds=seconds)
        with self.record.owner.begin() as c:
            c.execute(
                sa.text(
                    "UPDATE delivery SET due_at = due_at - make_interval(secs => :s), "
                    "since = since - make_interval(secs => :s), taken_at = taken_at - make_interval(secs => :s)"
                ),
                {"s": seconds},
            )

    def told(self, push_id: UUID) -> list[dict[str, Any]]:
        return [row["data"] for row in self.record.history.events(push_id) if row["kind"] == "push.notified"]


@pytest.fixture
def stage(record: Record, pool: Pool, webhook: Pipeline) -> Stage:
    """With one webhook that says yes. Those of tests before are gone."""
    with record.owner.begin() as c:
        c.execute(sa.text("DELETE FROM delivery"))
        c.execute(sa.text("UPDATE credential SET state = 'purging' WHERE kind = 'notify_hook'"))
    return Stage(record, pool, webhook)


def test_owner_s_webhook_is_told_the_verdict(stage: Stage, webhook: Pipeline) -> None:
    """With counts, and with where the rest is; nothing of a secret."""
    push_id = stage.record.finished([*verified([1]), failed(2)], labels={"run": "7"})

    assert stage.work() == 1

    [(path, _, body)] = webhook.questions
    row, message = stage.record.history.push(push_id), json.loads(body)
    assert (path, message) == (
        "/canary-path?token=canary-query",
        {
            "version": 1,
            "event": "push.failed",
            "push": str(push_id),
            "owner": OWNER,
            "source": row["source"],
            "destination": row["uri"],
            "state": "failed",
            "code": "ACCESS_DENIED",
            "message": row["error_message"],
            "strength": "checksum",
            "files": {"total": 2, "verified": 1, "skipped": 0, "unverified": 0, "failed": 1},
            "bytes": {"total": 20, "verified": 10},
            "finished_at": row["finished_at"].isoformat().replace("+00:00", "Z"),
            "labels": {"run": "7"},
            "page": f"{WEB}/pushes/{push_id}",
            "receipt": f"{WEB}/v1/pushes/{push_id}/receipt",
        },
    )
    assert stage.told(push_id) == [{"hook": str(stage.hooks[0]), "attempts": 1}]
    assert (stage.work(), verify_record(stage.record.app, push_id).sound) == (0, True)


def test_message_is_signed(stage: Stage, webhook: Pipeline) -> None:
    """Verified as a receiver would, by another implementation of HMAC."""
    stage.record.finished()
    stage.work()

    [(_, headers, body)] = webhook.questions
    signature = hmac.HMAC(SECRET.encode(), hashes.SHA256())
    signature.update(f"{headers['CloudPush-Timestamp']}.{headers['CloudPush-Id']}.".encode() + body)
    signature.verify(bytes.fromhex(headers["CloudPush-Signature"].removeprefix("v1=")))


def test_pushes_of_others_and_those_that_run_are_nobody_s_news(stage: Stage, webhook: Pipeline) -> None:
    stage.record.finished(owner="bob")
    stage.record.running()

    assert (stage.work(), webhook.questions) == (0, [])


def test_webhook_that_fails_is_tried_again_later_under_the_same_id(stage: Stage, webhook: Pipeline) -> None:
    """The pauses grow with how long it is owed."""
    webhook.answers = [says(b"", 500)] * 3 + [hangs_up] * 3 + [says(b"", 404), says(b"", 204)]
    push_id = stage.record.finished()

    waits = []
    for _ in range(3):
        assert (stage.work(), stage.work()) == (1, 0)
        waits.append(stage.row(push_id)["wait"])
        stage.let_pass(waits[-1] + 600)
    stage.work()

    assert waits[0] == pytest.approx(SOONEST, abs=1)
    assert waits[0] < waits[1] < waits[2] < LATEST
    assert len({headers["CloudPush-Id"] for _, headers, _ in webhook.questions}) == 1
    assert stage.told(push_id) == [{"hook": str(stage.hooks[0]), "attempts": 4}]


def test_webhook_that_never_answers_is_given_up_after_a_day(stage: Stage, webhook: Pipeline) -> None:
    webhook.answers = [says(b"canary-answer", 503)]
    push_id = stage.record.finished()
    stage.work()
    stage.let_pass(PATIENCE.total_seconds())

    stage.work()

    [told] = stage.told(push_id)
    assert (told["code"], told["attempts"], "canary" in str(told)) == ("PROVIDER_UNAVAILABLE", 2, False)
    assert stage.row(push_id)["done"]


def test_redirects_are_not_followed(stage: Stage, webhook: Pipeline) -> None:
    webhook.answers = [says(b"", 302, Location=f"http://{webhook.address}/elsewhere")]
    push_id = stage.record.finished()
    stage.work()

    assert (len(webhook.questions), stage.row(push_id)["code"]) == (1, "PROVIDER_REFUSED")


def test_private_address_is_not_called_unless_listed(record: Record, pool: Pool, stage: Stage) -> None:
    """It is given up at once: no answer of its could help."""
    inside = Pipeline()
    guarded = Stage(record, pool, inside, allowed=False)
    push_id = record.finished()
    guarded.work()
    inside.close()

    assert (guarded.row(push_id)["code"], guarded.row(push_id)["done"]) == ("ENDPOINT_FORBIDDEN", True)
    assert inside.questions == []


def test_webhook_that_was_taken_back_meanwhile_ends_quietly(stage: Stage, webhook: Pipeline) -> None:
    push_id = stage.record.finished()
    Credentials(stage.record.app).start_purge(stage.hooks[0], Reason.REQUESTED, OWNER)

    assert stage.work() == 1

    assert (webhook.questions, stage.told(push_id), stage.row(push_id)["code"]) == ([], [], "CREDENTIAL_PURGED")


def test_what_a_killed_worker_had_taken_up_another_tells_under_the_same_id(stage: Stage, webhook: Pipeline) -> None:
    """Whether or not it was told before: the receiver sees that it is the same. The dead one's word counts no more."""
    push_id = stage.record.finished()
    [owed] = stage.store.chores(4, TAKEN_SECONDS)
    notice = stage.store.get(owed)
    assert notice is not None
    assert stage.work() == 0  # taken up, and not long enough ago

    stage.let_pass(TAKEN_SECONDS + 1)
    assert stage.work() == 1
    stage.store.end(owed, None)
    stage.store.postpone(owed, VaultError(Code.VAULT_SEALED, "late"), 1)

    [(_, headers, _)] = webhook.questions
    assert headers["CloudPush-Id"] == notice.id
    assert stage.told(push_id) == [{"hook": str(stage.hooks[0]), "attempts": 2}]
    assert stage.store.get(owed) is None


def test_vault_that_is_away_is_waited_for_longer_than_a_day(stage: Stage, webhook: Pipeline) -> None:
    """It is no fault of the webhook's."""
    push_id = stage.record.finished()
    stage.let_pass(PATIENCE.total_seconds() * 2)
    stage.vault.go_away()

    stage.work()

    assert (stage.row(push_id)["done"], stage.told(push_id)) == (False, [])


def test_a_webhook_that_answers_hears_all_it_is_owed_in_one_look(stage: Stage, webhook: Pipeline) -> None:
    pushes = [stage.record.finished() for _ in range(6)]

    assert stage.work() == 6

    assert {json.loads(body)["push"] for _, _, body in webhook.questions} == {str(p) for p in pushes}


def test_a_webhook_that_fails_in_between_is_left_alone_for_a_while(stage: Stage, webhook: Pipeline) -> None:
    webhook.answers = [says(b"", 204)] + [says(b"", 500)] * 3 + [says(b"", 204)]
    for _ in range(4):
        stage.record.finished()

    assert (stage.work(), len(webhook.questions)) == (2, 4)


def test_a_dead_webhook_keeps_one_hand_busy_and_no_other_webhook_waiting(
    record: Record, pool: Pool, stage: Stage, webhook: Pipeline
) -> None:
    dead = Pipeline()
    dead.answers = [says(b"", 500)]
    both = Stage(record, pool, dead, webhook)
    Credentials(record.app).start_purge(stage.hooks[0], Reason.REQUESTED, OWNER)
    pushes = [record.finished() for _ in range(5)]

    taken = both.store.chores(4, TAKEN_SECONDS)
    tries = {owed.hook_id: both.notifying.attend(owed) for owed in taken}
    dead.close()

    assert tries == {both.hooks[0]: 1, both.hooks[1]: 5}
    assert [both.row(push_id, 1)["done"] for push_id in pushes] == [True] * 5


def test_a_defect_of_ours_is_tried_again(stage: Stage) -> None:
    push_id = stage.record.finished()

    class Broken:
        def tell(self, *_: object) -> None:
            raise RuntimeError("canary")

    notifying = Notifying(store=stage.store, teller=Broken(), clock=stage.clock, web_url="")
    [owed] = stage.store.chores(4, TAKEN_SECONDS)
    notifying.attend(owed)

    assert (stage.row(push_id)["code"], stage.row(push_id)["done"]) == ("INTERNAL", False)


def test_somebody_else_s_try_is_left_alone(stage: Stage, webhook: Pipeline) -> None:
    push_id = stage.record.finished()
    [owed] = stage.store.chores(4, TAKEN_SECONDS)

    stage.notifying.attend(Owed(push_id, owed.hook_id, owed.attempt - 1))

    assert webhook.questions == []


def test_webhooks_that_fail_keep_no_other_waiting(record: Record, pool: Pool, stage: Stage) -> None:
    """However much they are owed, and for however much longer: one hand is always left for others."""
    with closing(Pipeline()) as dead, closing(Pipeline()) as live:
        both = Stage(record, pool, dead, live)
        dead_hook, live_hook = both.hooks
        Credentials(record.app).start_purge(stage.hooks[0], Reason.REQUESTED, OWNER)
        for _ in range(3):
            record.finished()
        for owed in both.store.chores(4, TAKEN_SECONDS):
            following: Owed | None = owed
            if owed.hook_id == dead_hook:
                both.store.postpone(owed, VaultError(Code.PROVIDER_UNAVAILABLE, "no answer"), 60)
                continue
            while following is not None:
                both.store.end(following, None)
                following = both.store.following(following)
        record.finished()

        assert [owed.hook_id for owed in both.store.chores(1, TAKEN_SECONDS)] == [live_hook]
        assert both.store.chores(1, TAKEN_SECONDS) == []
        assert [owed.hook_id for owed in both.store.chores(2, TAKEN_SECONDS)] == [dead_hook]


def test_nobody_makes_many_requests_of_one_push(record: Record) -> None:
    """Each verdict is told to each webhook: a thousand of them to one victim made a thousand requests of each push."""
    owner = f"flood-{uuid4()}"
    for _ in range(MOST_HOOKS):
        record.credential(owner, kind=NOTIFY_HOOK, name=str(uuid4()))
    with pytest.raises(InputError) as e:
        record.credential(owner, kind=NOTIFY_HOOK, name=str(uuid4()))
    assert e.value.code is Code.BAD_INPUT
