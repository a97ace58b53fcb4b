"""A slow road to a server: what is sent takes a while, so that something is on its way when something is killed."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress

from cloudpush.stack.ports import HOST
from doubles.serving import CHUNK, Double

#: Whose turn it is: older connections first, then in the order of asking. Bytes. Set when they may pass.
Turn = tuple[int, int, int, asyncio.Event]


class SlowRoad(Double):
    """Forwards TCP connections to ``server``, a ``HOST:PORT``; all uploads together are no faster than ``speed``.

    Older connections have right of way, so that uploads that begin together arrive one after the other.
    """

    def __init__(self, server: str, speed: int) -> None:
        """``speed`` in bytes per second."""
        super().__init__()
        host, _, port = server.rpartition(":")
        self._server = (host, int(port))
        self._speed = speed
        self._numbers = itertools.count()
        self._waiting: asyncio.PriorityQueue[Turn] = asyncio.PriorityQueue()
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self) -> asyncio.Server:
        self._tasks.add(asyncio.create_task(self._give_way()))
        return await asyncio.start_server(self._carry, HOST, 0)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _give_way(self) -> None:
        while True:
            *_, size, passed = await self._waiting.get()
            await asyncio.sleep(size / self._speed)
            passed.set()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        ends = [writer]
        try:
            back, forth = await asyncio.open_connection(*self._server)
            ends.append(forth)
            pumps = [asyncio.create_task(p) for p in (self._there(reader, forth), self._back(back, writer))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for end in ends:
                with suppress(OSError):
                    end.close()

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        age = next(self._numbers)
        while data := await reader.read(CHUNK):
            passed = asyncio.Event()
            self._waiting.put_nowait((age, next(self._numbers), len(data), passed))
            await passed.wait()
            writer.write(data)
            await writer.drain()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
