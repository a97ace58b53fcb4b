"""A slow road to a server: what is sent takes a while, so that something is on its way when something is killed."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from cloudpush.stack.ports import HOST
from doubles.serving import CHUNK, Double


class SlowRoad(Double):
    """Forwards TCP connections to ``server``, a ``HOST:PORT``; all uploads together are no faster than ``speed``."""

    def __init__(self, server: str, speed: int) -> None:
        """``speed`` in bytes per second."""
        super().__init__()
        host, _, port = server.rpartition(":")
        self._server = (host, int(port))
        self._speed = speed
        self._free_at = 0.0
        self._connections: set[asyncio.Task[None]] = set()

    async def listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._carry, HOST, 0)

    async def close(self) -> None:
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        ends = [writer]
        try:
            back, forth = await asyncio.open_connection(*self._server)
            ends.append(forth)
            going = asyncio.create_task(self._pump(reader, forth, slow=True))
            coming = asyncio.create_task(self._pump(back, writer, slow=False))
            try:
                await asyncio.wait({going, coming}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                going.cancel()
                coming.cancel()
                await asyncio.gather(going, coming, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            for end in ends:
                with suppress(OSError):
                    end.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool) -> None:
        while data := await reader.read(CHUNK):
            if slow:
                now = time.monotonic()
                self._free_at = max(now, self._free_at) + len(data) / self._speed
                await asyncio.sleep(self._free_at - now)
            writer.write(data)
            await writer.drain()
