"""What the doubles share: a server in a thread of its own, and answers in XML."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Self
from urllib.parse import unquote_plus
from xml.sax.saxutils import escape

from aiohttp import web

from cloudpush.stack.ports import HOST

#: Bytes of a body that are read at once.
CHUNK = 256 * 1024


class Double(ABC):
    """A server on loopback that lives as long as the `with` block."""

    def __init__(self) -> None:
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._ready = threading.Event()
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    @abstractmethod
    async def listen(self) -> asyncio.Server:
        """Begin to listen on a free port of :data:`HOST`."""

    @abstractmethod
    async def close(self) -> None:
        """Give back what :meth:`listen` took beside the port."""

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(10)
        if self._failed:
            raise self._failed
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)
        if self._failed and error is None:
            raise self._failed

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._live())
        except Exception as e:  # noqa: BLE001 -- raised in the thread that started this one
            self._failed = e
        finally:
            self._ready.set()

    async def _live(self) -> None:
        server = await self.listen()
        try:
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()
            await self._over.wait()
        finally:
            server.close()
            await self.close()


class HttpDouble(Double):
    """A double that answers whole requests."""

    @abstractmethod
    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer; a :class:`Refused` is one too."""

    async def listen(self) -> asyncio.Server:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            if request.headers.get("Expect", "").lower() == "100-continue" and request.transport:
                request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            try:
                return await self.answer(request)
            except Refused as refused:
                return refused.response(request.method)
            except ConnectionError:  # whoever sent went away; nobody reads this
                return web.Response(status=400)

        self._web = web.Server(handle, lingering_time=2)
        return await asyncio.get_running_loop().create_server(self._web, HOST, 0)

    async def close(self) -> None:
        await self._web.shutdown(0.2)


class Refused(Exception):
    """An answer that is an error, as S3 and Google write it."""

    def __init__(self, status: int, code: str, message: str, more: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code
        self.message = message
        self.more = dict(more or {})

    @property
    def body(self) -> bytes:
        fields = {"Code": self.code, "Message": self.message, **self.more}
        inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
        return f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'.encode()

    def response(self, method: str) -> web.Response:
        if method == "HEAD":
            return web.Response(status=self.status, headers={"Content-Type": "application/xml"})
        return web.Response(status=self.status, body=self.body, content_type="application/xml")


def parameters(query: str) -> list[tuple[str, str]]:
    """Names and values of a query string, decoded, in order; a name without a value has an empty one."""
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    return [(unquote_plus(name), unquote_plus(value)) for name, _, value in pairs]


async def chunks(request: web.BaseRequest) -> AsyncIterator[bytes]:
    """The body, a piece at a time. Raises where the sender goes away before the end."""
    while data := await request.content.readany():
        yield data


async def whole(request: web.BaseRequest, limit: int = 256 * 1024 * 1024) -> bytes:
    """The body at once."""
    body = bytearray()
    async for data in chunks(request):
        body += data
        assert len(body) <= limit, "tests send no more than that"
    return bytes(body)
