"""What is made of the answers when a blob that was just sent is read back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from cloudpush.errors import Code, DestinationError
from cloudpush.net import Answer
from cloudpush.push.blocks import BLOCK
from cloudpush.push.job import Seen
from cloudpush.verify.azure import _AzureQuestions
from cloudpush.verify.wire import Reading

THERE = Answer(200, {"Content-Length": "3", "ETag": '"0x1"'})


class Asking(_AzureQuestions):
    """A conversation whose answer to a GET is given; HEADs find three bytes."""

    def __init__(self, answer: Answer, ends: datetime) -> None:
        self.lanes, self.got = 1, answer
        self._bucket, self._query, self._ends = "results", "sig=abc", ends
        self._explained, self._streak, self._absent = {}, 0, Answer(404, {})

    async def _request(
        self, method: str, key: str, extra: Mapping[str, str], *, limit: int = 0, read: Reading | None = None
    ) -> Answer:
        return THERE if method == "HEAD" else self.got


def looked(answer: Answer, *, ended: bool = False) -> Seen:
    """What comes of a look at ``a``."""
    ends = datetime.now(UTC) + timedelta(minutes=-1 if ended else 10)
    return asyncio.run(Asking(answer, ends).look(["a"]))["a"]


def refusal(status: int, code: str) -> Answer:
    return Answer(status, {"x-ms-error-code": code})


def test_what_was_read_back_is_the_proof() -> None:
    """The digest of its bytes."""
    assert looked(Answer(200, {}, b"digest")).reread == b"digest"


def test_signature_that_ends_between_head_and_get_is_an_expired_credential() -> None:
    """It is renewed, and the batch dealt with once more; else files that are there would be `unverified` for good."""
    with pytest.raises(DestinationError) as caught:
        looked(refusal(403, "AuthenticationFailed"), ended=True)

    assert caught.value.code is Code.CREDENTIAL_EXPIRED


def test_blob_that_vanished_between_head_and_get_is_not_there() -> None:
    """And is sent again."""
    assert looked(refusal(404, "BlobNotFound")).exists is False


def test_signature_that_may_not_read_leaves_what_the_head_said() -> None:
    """Proved by its size, and the reason is told."""
    seen = looked(refusal(403, "AuthorizationPermissionMismatch"))

    assert (seen.exists, seen.size, seen.error and seen.error.code) == (True, 3, Code.ACCESS_DENIED)


def test_only_a_look_right_after_sending_calls_a_size_ingest() -> None:
    """A blob that was there before, of the same size, is nothing that was checked as it came."""
    large = Answer(200, {"Content-Length": str(BLOCK + 1)})

    class Large(Asking):
        async def head(self, key: str) -> Answer:
            return large

    def asking() -> Large:
        return Large(THERE, datetime.now(UTC) + timedelta(minutes=10))

    surveyed, seen = asyncio.run(asking().survey(["a"])), asyncio.run(asking().look(["a"]))

    assert (surveyed["a"].ingest, seen["a"].ingest) == (False, True)
