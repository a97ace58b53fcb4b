"""The webhook that says a reconnect is needed: signed as a pipeline verifies it, judged as every host is, bounded."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest
from cryptography.hazmat.primitives import hashes, hmac

from builders import NOON, OWNER
from cloudpush.credentials.kinds import parse
from cloudpush.errors import CloudPushError, Code, CredentialError, VaultError
from cloudpush.net import Pool
from cloudpush.push.grants.model import NOTIFY_HOOK, OAUTH_GRANT, Grant, GrantState
from cloudpush.transfer.notify import HttpNotifier
from fakes_vault import FakeVault
from integration.test_hook import SECRET, Pipeline, hangs_up, says

PAGE = "https://cloudpush.example/connections"
PUSHES = [uuid4(), uuid4()]
GRANT = Grant(
    id=uuid4(),
    owner=OWNER,
    name="drive",
    kind=OAUTH_GRANT,
    provider="google",
    state=GrantState.RECONNECT,
    credential_state="active",
    generation=7,
    created_at=NOON,
    trouble_code="CONSENT_NEEDED",
    trouble_message="The provider answers invalid_grant.",
)


@pytest.fixture
def webhook() -> Iterator[Pipeline]:
    made = Pipeline()
    made.answers = [says(b"", 204)]
    yield made
    made.close()


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    made = Pool("notices", aiohttp.ClientTimeout(total=60))
    yield made
    made.close()


class Stage:
    """Webhooks of one owner, sealed, and who tells them."""

    def __init__(self, pool: Pool, *webhooks: Pipeline, allowed: bool = True) -> None:
        self.vault = FakeVault()
        self.hooks = [self.add(w.fields) for w in webhooks]
        self.asked: list[str] = []
        self.notifier = HttpNotifier(
            pool, [w.address for w in webhooks] if allowed else [], self.vault, self._hooks, page=PAGE, pause=0.001
        )

    def add(self, fields: dict[str, str]) -> UUID:
        """Seal one."""
        made = uuid4()
        self.vault.seal(made, OWNER, parse(NOTIFY_HOOK, fields))
        return made

    def tell(self, **changes: Any) -> bool:
        """That a reconnect is needed."""
        return self.notifier.reconnect_needed(replace(GRANT, **changes), PUSHES)

    def failure(self) -> CloudPushError:
        """What telling raises: it says nothing of what is secret, however it is shown."""
        with pytest.raises(CloudPushError) as caught:
            self.tell()
        told = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + caught.value.detail
        assert "canary" not in told
        return caught.value

    def _hooks(self, owner: str) -> list[UUID]:
        self.asked.append(owner)
        return self.hooks


def test_owner_hears_what_waits_and_where_to_reconnect(pool: Pool, webhook: Pipeline) -> None:
    """In JSON, with nothing of a token."""
    stage = Stage(pool, webhook)

    assert stage.tell()

    [(path, _, body)] = webhook.questions
    assert (path, stage.asked, json.loads(body)) == (
        "/canary-path?token=canary-query",
        [OWNER],
        {
            "version": 1,
            "event": "grant.reconnect_needed",
            "owner": OWNER,
            "grant": str(GRANT.id),
            "name": "drive",
            "provider": "google",
            "code": "CONSENT_NEEDED",
            "pushes": [str(p) for p in PUSHES],
            "page": PAGE,
        },
    )


def test_message_is_signed(pool: Pool, webhook: Pipeline) -> None:
    """Verified here as a receiver would, by another implementation of HMAC."""
    Stage(pool, webhook).tell()

    [(_, headers, body)] = webhook.questions
    signature = hmac.HMAC(SECRET.encode(), hashes.SHA256())
    signature.update(f"{headers['CloudPush-Timestamp']}.{headers['CloudPush-Id']}.".encode() + body)
    version, _, given = headers["CloudPush-Signature"].partition("=")
    signature.verify(bytes.fromhex(given))
    assert version == "v1"


def test_message_that_comes_twice_has_the_same_id(pool: Pool, webhook: Pipeline) -> None:
    """And another after the next reconnect."""
    stage = Stage(pool, webhook)
    for generation in (7, 7, 8):
        stage.tell(generation=generation)

    first, again, later = (headers["CloudPush-Id"] for _, headers, _ in webhook.questions)
    assert (first == again, first == later) == (True, False)


def test_nobody_registered_is_no_failure(pool: Pool) -> None:
    """The page shows it all the same."""
    assert Stage(pool).tell() is False


def test_webhook_that_hangs_up_is_asked_again(pool: Pool, webhook: Pipeline) -> None:
    """Within one chore."""
    webhook.answers = [hangs_up, says(b"", 503), says({"ok": True})]

    assert (Stage(pool, webhook).tell(), len(webhook.questions)) == (True, 3)


@pytest.mark.parametrize(
    ("status", "code"),
    [(503, Code.PROVIDER_UNAVAILABLE), (302, Code.PROVIDER_REFUSED), (401, Code.PROVIDER_REFUSED)],
)
def test_webhook_that_says_no_is_named_by_its_host_only(pool: Pool, webhook: Pipeline, status: int, code: Code) -> None:
    """Redirects are not followed; what may pass is told so."""
    webhook.answers = [says(b"canary-answer", status, Location=f"http://{webhook.address}/elsewhere")]

    failure = Stage(pool, webhook).failure()

    assert (failure.code, webhook.address in failure.message) == (code, True)


def test_private_address_is_not_called(pool: Pool, webhook: Pipeline) -> None:
    """Unless the operator lists it."""
    failure = Stage(pool, webhook, allowed=False).failure()

    assert (failure.code, webhook.questions) == (Code.ENDPOINT_FORBIDDEN, [])


def test_one_webhook_that_fails_keeps_no_other_from_being_told(pool: Pool, webhook: Pipeline) -> None:
    """Its failure is told afterwards."""
    stage = Stage(pool, webhook)
    gone = uuid4()  # purged in the meantime
    stage.hooks = [gone, *stage.hooks]

    with pytest.raises(CredentialError):
        stage.tell()

    assert len(webhook.questions) == 1


def test_vault_that_is_away_is_what_is_told(pool: Pool, webhook: Pipeline) -> None:
    """It passes."""
    stage = Stage(pool, webhook)
    stage.vault.go_away()

    with pytest.raises(VaultError):
        stage.tell()
