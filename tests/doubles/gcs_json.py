"""The JSON API of Google Cloud Storage as rclone speaks it, and the access tokens that open both APIs.

Uploads: ``multipart`` (small files, one request) and ``resumable`` in pieces, where an unfinished piece is answered with
200 and ``X-HTTP-Status-Code-Override: 308``, as Google's Go library asks for. Errors are Google's own JSON.
"""

from __future__ import annotations

import asyncio
import base64
import email.parser
import email.policy
import json
import re
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from aiohttp import web

UPLOADS = re.compile(r"/upload/storage/v1/b/([^/]+)/o")
OBJECT = re.compile(r"/storage/v1/b/([^/]+)/o/([^/]+)")
RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


@dataclass(frozen=True)
class Logged:
    """A request that came with a token. ``status`` of the answer; ``token`` is what it came with."""

    method: str
    path: str
    token: str = field(repr=False)
    status: int

    @property
    def what(self) -> str:
        """``upload``, ``piece``, ``head`` and so on, for readable assertions."""
        if "upload_id=" in self.path:
            return "piece"
        if "uploadType=" in self.path:
            return "start" if "uploadType=resumable" in self.path else "upload"
        return self.method.lower()


class Tokens:
    """Access tokens that the double takes. Thread-safe."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def accept(self, token: str, seconds: float = 3600) -> str:
        """Take ``token`` for so long from now on; returns it."""
        with self._lock:
            self._until[token] = time.monotonic() + seconds
        return token

    def refuse(self, token: str) -> None:
        """It has expired, or was revoked."""
        with self._lock:
            self._until.pop(token, None)

    def good(self, token: str) -> bool:
        """Whether it is taken at this moment."""
        with self._lock:
            return time.monotonic() < self._until.get(token, 0.0)


class Gate:
    """Pieces of resumable uploads pass one after another, or wait, as a test says. Thread-safe."""

    def __init__(self) -> None:
        self._passes: int | None = None
        self._lock = threading.Lock()
        self.waiting = 0

    def let(self, pieces: int | None) -> None:
        """Let so many further pieces pass; the others wait. None: all."""
        with self._lock:
            self._passes = pieces

    async def passed(self) -> None:
        """Return once it is open."""
        self.waiting += 1
        try:
            while not self._pass():  # noqa: ASYNC110 -- a test's thread opens it
                await asyncio.sleep(0.01)
        finally:
            self.waiting -= 1

    def _pass(self) -> bool:
        with self._lock:
            if self._passes is None:
                return True
            if not self._passes:
                return False
            self._passes -= 1
            return True


class JsonRefused(Exception):
    """An error as the JSON API writes it."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason
        self.message = message

    def response(self) -> web.Response:
        """The answer."""
        one = {"message": self.message, "domain": "global", "reason": self.reason}
        body = {"error": {"code": self.status, "message": self.message, "errors": [one]}}
        return web.Response(status=self.status, body=json.dumps(body).encode(), content_type="application/json")


INVALID_CREDENTIALS = ("authError", "Invalid Credentials")


@dataclass
class Session:
    """A resumable upload."""

    bucket: str
    key: str
    token: str = field(repr=False)
    kept: bytearray = field(default_factory=bytearray)


def split_related(content_type: str, body: bytes) -> tuple[dict[str, object], bytes]:
    """Metadata and bytes of a ``multipart/related`` upload."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    boundary = message.get_boundary()
    assert boundary, "a multipart upload names its boundary"
    # The parser would touch line ends of the content, so that only the boundary is taken from it.
    parts = body.split(b"--" + boundary.encode())
    meta, data = (part.partition(b"\r\n\r\n")[2] for part in parts[1:3])
    return json.loads(meta), data.removesuffix(b"\r\n")


def resource(bucket: str, key: str, data: bytes, generation: int, md5: bytes, crc32c: bytes) -> dict[str, str]:
    """An object's description."""
    return {
        "kind": "storage#object",
        "name": key,
        "bucket": bucket,
        "generation": str(generation),
        "size": str(len(data)),
        "md5Hash": base64.b64encode(md5).decode(),
        "crc32c": base64.b64encode(crc32c).decode(),
        "updated": "2026-01-01T00:00:00.000Z",
        "mediaLink": f"http://media.invalid/{generation}",
    }


def token_of(headers: Mapping[str, str]) -> str | None:
    """The bearer token of a request; None where it has none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else None


def new_session() -> str:
    """The name of one."""
    return secrets.token_urlsafe(24)


def name_in(text: str) -> str:
    """A name in a path, decoded."""
    return unquote(text)
