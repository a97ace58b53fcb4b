"""Fresh URLs for files whose own have expired: asked for together, where many expire at once."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

from cloudpush.push.ports import Control
from cloudpush.push.signed.model import Need, Ticket
from cloudpush.push.signed.ports import Renewals
from cloudpush.transfer.signed.job import Fresh

#: Seconds in which needs are gathered: URLs that were signed together expire together.
GATHER = 0.05


class Renewer(Fresh):
    """Asks ``Renewals`` in a thread, one question at a time."""

    def __init__(self, renewals: Renewals, control: Control, threads: Executor) -> None:
        """``threads``: nobody else's, for a callback may take minutes."""
        self._renewals = renewals
        self._control = control
        self._threads = threads
        self._needs: dict[int, tuple[Need, asyncio.Future[Ticket | None]]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def ticket(self, need: Need) -> Ticket | None:
        """See ``job.Fresh``. Raises what ``Renewals.fresh`` raises."""
        answer: asyncio.Future[Ticket | None] = asyncio.get_running_loop().create_future()
        self._needs[need.seq] = (need, answer)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        return await answer

    async def aclose(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> None:
        try:
            while self._needs:
                await asyncio.sleep(GATHER)
                await self._ask_for(self._needs)
        finally:
            self._asking = None

    async def _ask_for(self, asked: dict[int, tuple[Need, asyncio.Future[Ticket | None]]]) -> None:
        self._needs = {}
        needs = [need for need, answer in asked.values() if not answer.done()]
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._threads, self._renewals.fresh, needs, self._control)
        except Exception as e:  # noqa: BLE001 -- handed to everybody who waits for it
            for _, answer in asked.values():
                if not answer.done():
                    answer.set_exception(e)
            return
        for seq, (_, answer) in asked.items():
            if not answer.done():
                answer.set_result(found.get(seq))
