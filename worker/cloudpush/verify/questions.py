"""HEADs of many keys at once, whatever the provider: who is asked how, and what an answer means, is a subclass's."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence

from cloudpush.errors import Code, DestinationError
from cloudpush.net import PASSING, Answer, Pool, watched
from cloudpush.push.endpoints import Endpoint, resolve
from cloudpush.push.job import Destination, Fingerprint, Secret, Seen
from cloudpush.push.ports import Control, Inspector
from cloudpush.push.states import Strength
from cloudpush.verify.answers import FATAL, Refused
from cloudpush.verify.proof import strength_of
from cloudpush.verify.wire import TIMEOUT, Wire

#: Requests in flight in one call.
CONCURRENCY = 64
#: Keys in a row that got no proper answer: the rest would not either, and each would take its time.
STREAK = 8


class HeadInspector(Inspector, ABC):
    """Asks one sort of destinations. Safe to use from several threads.

    Its connections are kept for the next call: an event loop in a thread of its own holds them.
    """

    def __init__(self, *, allowed_endpoints: Collection[str] = (), concurrency: int = CONCURRENCY) -> None:
        """``allowed_endpoints``: the operator's listed hosts, which may be private; see push.guard."""
        self._allowed = frozenset(allowed_endpoints)
        self._concurrency = concurrency
        self._pool = Pool("inspector", TIMEOUT)

    @abstractmethod
    def questions(
        self, pool: Pool, endpoint: Endpoint, destination: Destination, secret: Secret, allowed: Collection[str]
    ) -> Questions:
        """A conversation with ``destination``. Resolves its host, which blocks. Raises DestinationError."""

    def close(self) -> None:
        """Close the kept connections."""
        self._pool.close()

    def look(self, destination: Destination, secret: Secret, keys: Sequence[str], control: Control) -> Sequence[Seen]:
        """See Inspector. Blocks, so it must not be called from within an event loop."""
        return self._run(destination, secret, keys, control, lambda questions: questions.look(keys))

    def survey(self, destination: Destination, secret: Secret, keys: Sequence[str], control: Control) -> Sequence[Seen]:
        """See Inspector."""
        return self._run(destination, secret, keys, control, lambda questions: questions.survey(keys))

    def strength(self, expected: Fingerprint, seen: Seen) -> Strength:
        """See Inspector and :func:`cloudpush.verify.proof.strength_of`."""
        return strength_of(expected, seen)

    def _run(
        self,
        destination: Destination,
        secret: Secret,
        keys: Sequence[str],
        control: Control,
        ask: Callable[[Questions], Coroutine[None, None, Mapping[str, Seen]]],
    ) -> Sequence[Seen]:
        control.check()
        if not keys:
            return []
        endpoint = resolve(destination, secret, self._allowed)
        questions = self.questions(self._pool, endpoint, destination, secret, self._allowed)
        questions.lanes = min(self._concurrency, len(keys))
        answers = self._pool.run(watched(ask(questions), control))
        return [answers[key] for key in keys]


async def _stop(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Questions(ABC):
    """One call's conversation with a destination. ``lanes``: requests in flight."""

    lanes = CONCURRENCY

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._explained: dict[int, DestinationError] = {}
        self._explaining = asyncio.Lock()
        self._absent = Answer(404, {})  # the last of its sort
        self._streak = 0

    # -- what each provider has of its own ---------------------------------------------------------

    @abstractmethod
    async def head(self, key: str) -> Answer:
        """HEAD of an object. Raises DestinationError where there is no answer."""

    @abstractmethod
    async def first_byte(self, key: str) -> Answer:
        """GET of an object's first byte: says in words what a HEAD says by status only."""

    @abstractmethod
    def seen(self, answer: Answer) -> Seen:
        """What a HEAD's 200 tells."""

    @abstractmethod
    def refused(self, answer: Answer) -> Refused:
        """What an answer that is an error says."""

    @abstractmethod
    def error(self, refused: Refused, key: str) -> DestinationError:
        """The error that it amounts to."""

    def says_all(self, answer: Answer) -> bool:  # noqa: ARG002 -- for subclasses
        """Whether a HEAD that failed has told why, so that no GET need be sent."""
        return False

    async def proved(self, key: str, seen: Seen) -> Seen:  # noqa: ARG002 -- for subclasses
        """``seen`` of an object that was just sent, with what can be learnt beyond its HEAD."""
        return seen

    # -- what is asked ---------------------------------------------------------------------------

    async def survey(self, keys: Sequence[str]) -> Mapping[str, Seen]:
        """What is there of ``keys``, as cheaply as may be. Raises as ``peek`` does."""
        return await self.peek(keys)

    async def look(self, keys: Sequence[str]) -> Mapping[str, Seen]:
        """HEADs of all ``keys``, and what proves more. Raises DestinationError where no key can be asked, or the bucket is missing."""
        answers = await self._each(keys, self._look_closely)
        if all(seen.exists is False for seen in answers.values()):
            # A HEAD says 404 for a missing bucket, too.
            await self._explain(self._absent, keys[0])
        return answers

    async def peek(self, keys: Sequence[str]) -> Mapping[str, Seen]:
        """HEADs of all ``keys``, ``lanes`` at a time; a missing bucket holds none of them, and nothing is said of it.

        Raises DestinationError where no key can be asked.
        """
        return await self._each(keys, self._look_at)

    async def _each(self, keys: Sequence[str], ask: Callable[[str], Coroutine[None, None, Seen]]) -> Mapping[str, Seen]:
        answers: dict[str, Seen] = {}
        waiting = iter(dict.fromkeys(keys))

        async def lane() -> None:
            for key in waiting:
                answers[key] = await ask(key)

        lanes = [asyncio.create_task(lane()) for _ in range(self.lanes)]
        try:
            await asyncio.gather(*lanes)
        finally:
            await _stop(lanes)
        if all(seen.error is not None and seen.error.code.retryable for seen in answers.values()):
            raise next(seen.error for seen in answers.values() if seen.error is not None)
        return answers

    async def _look_closely(self, key: str) -> Seen:
        seen = await self._look_at(key)
        return await self.proved(key, seen) if seen.exists else seen

    async def _look_at(self, key: str) -> Seen:
        try:
            answer = await self.head(key)
        except DestinationError as e:
            if e.code is not Code.NETWORK:
                raise
            return self.passing(e)
        if answer.status in PASSING:
            return self.passing(self.error(Refused(answer.status), key))
        self._streak = 0
        if answer.status == 200:
            return self.seen(answer)
        if answer.status == 404:
            self._absent = answer
            return Seen(exists=False)
        return Seen(exists=None, error=await self._explain(answer, key))

    def passing(self, error: DestinationError) -> Seen:
        """A failure that concerns one key and may pass. Raises it where it has become a row of them."""
        self._streak += 1
        if self._streak >= STREAK:
            raise error
        return Seen(exists=None, error=error)

    async def _explain(self, answer: Answer, key: str) -> DestinationError:
        """What the answer to a HEAD means, by a GET of the same key where it does not say; asked once per status.

        Raises it where it concerns every key.
        """
        if self.says_all(answer):
            error = self.error(self.refused(answer), key)
        else:
            async with self._explaining:
                known = self._explained.get(answer.status)
                error = self._explained[answer.status] = known or await self._words(answer, key)
        if error.code in FATAL:
            raise error
        return error

    async def _words(self, head: Answer, key: str) -> DestinationError:
        answer = await self.first_byte(key)
        # A GET that succeeds, or finds another obstacle that may pass, says nothing about the HEAD.
        told = answer.status >= 300 and answer.status not in PASSING
        hint = self.refused(head).region or self.refused(answer).region
        refused = self.refused(answer) if told else Refused(head.status)
        return self.error(Refused(refused.status, refused.code, refused.message, hint, refused.time), key)
