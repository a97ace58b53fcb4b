"""Files on their way, as the uploader's protocols see them, and clouds that answer from memory.

The source is a real file; what is sent goes to a function instead of a server. Error answers are translated as the real
wire does it, and it tries once.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, urlsplit

from awscrt import checksums
from multidict import CIMultiDict, CIMultiDictProxy

from cloudpush.errors import Code, DestinationError
from cloudpush.net import Answer
from cloudpush.push.guard import Origin
from cloudpush.push.job import PlannedFile
from cloudpush.push.signed.model import Kind, Need, Piece, Provider, SignedUrl, Ticket
from cloudpush.push.signed.ports import Errand
from cloudpush.push.states import Overwrite
from cloudpush.transfer.signed.answers import is_error_body, refusal
from cloudpush.transfer.signed.job import Job
from cloudpush.transfer.signed.pace import Budget
from cloudpush.transfer.signed.request import Request
from cloudpush.transfer.signed.source import Meter, OpenSource, Readers

T = TypeVar("T")
MIB = 1024 * 1024
HOST = "storage.example"
SIGNATURE = "deadbeef"


def a_url(
    path: str = "/bkt/key", query: str = "", provider: Provider = Provider.S3, flavour: str = "other", **more: object
) -> SignedUrl:
    """A signed URL; ``query`` is what it has besides its signature."""
    text = f"https://{HOST}{path}?{query + '&' if query else ''}sig={SIGNATURE}"
    values: dict[str, object] = {"bucket": "bkt", "key": path.removeprefix("/bkt/"), "vouched": True} | more
    return SignedUrl(text, provider, flavour, "v4", Origin("https", HOST, 443), **values)  # type: ignore[arg-type]  # a test's own names


def reply(status: int = 200, body: bytes = b"", **headers: str) -> Answer:
    """An answer; underscores in names of headers are dashes."""
    return Answer(status, CIMultiDictProxy(CIMultiDict({k.replace("_", "-"): v for k, v in headers.items()})), body)


def error(status: int, code: str, message: str = "words") -> Answer:
    """An error document."""
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return reply(status, body, x_ms_error_code=code)


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def line(self) -> str:
        """What was asked, in short: the method and the parameters that are not the signature."""
        return " ".join([self.method, *(f"{k}={v}" for k, v in self.query.items() if k not in {"sig", "uploadId"})])


@dataclass
class Script:
    """``job.Sender``: answers by a function of what was asked; keeps all of it.

    ``trouble``: by the line of a request, what happens to it instead, in turn: an answer, or an error that is raised
    after the body was sent.
    """

    answer: Callable[[Asked], Answer]
    provider: Provider
    meter: Meter
    asked: list[Asked] = field(default_factory=list)
    trouble: dict[str, list[Answer | Exception]] = field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        return [asked.line for asked in self.asked]

    async def send(self, request: Request) -> Answer:
        if isinstance(request.body, bytes):
            body = request.body
            self.meter.add(request.content)
        else:
            async with aclosing(request.body.chunks()) as chunks:
                body = b"".join([bytes(chunk) async for chunk in chunks])
        parts = urlsplit(request.url)
        asked = Asked(request.method, parts.path, dict(parse_qsl(parts.query)), dict(request.headers), body)
        self.asked.append(asked)
        planned = self.trouble.get(asked.line)
        answer = planned.pop(0) if planned else self.answer(asked)
        if isinstance(answer, Exception):
            raise answer
        well = 200 <= answer.status < 300 and not is_error_body(answer)
        if well or answer.status in request.accepts:
            return answer
        raise refusal(self.provider, answer, request.url, late=False, sent=request.sent)


class Diary:
    """A journal that remembers."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.events: list[str] = []
        self.trouble: Exception | None = None  # of storing

    def arrived(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.events.append(f"arrived {piece.number}")

    def began(self, seq: int, session: str) -> None:
        self.events.append(f"began {session}")

    def lost(self, seq: int) -> None:
        self.pieces.clear()
        self.events.append("lost")

    def flush(self) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.events.append("flushed")


class Supply:
    """Fresh tickets, in turn; keeps what was needed."""

    def __init__(self, *tickets: Ticket) -> None:
        self.tickets = list(tickets)
        self.needs: list[Need] = []

    async def ticket(self, need: Need) -> Ticket | None:
        self.needs.append(need)
        return self.tickets.pop(0) if self.tickets else None


@dataclass
class Bench:
    """One file, its job and everything that happened to it."""

    job: Job
    script: Script
    diary: Diary
    supply: Supply
    path: Path

    def do(self, work: Callable[[Job], Awaitable[T]]) -> T:
        """The result of a protocol's function."""

        async def run() -> T:
            return await work(self.job)

        return asyncio.run(run())


@contextmanager
def bench(
    directory: Path,
    data: bytes,
    ticket: Ticket | None,
    answer: Callable[[Asked], Answer],
    *,
    provider: Provider = Provider.S3,
    pieces: Sequence[Piece] = (),
    session: str = "",
    fresh: Sequence[Ticket] = (),
    overwrite: Overwrite = Overwrite.IF_DIFFERENT,
) -> Iterator[Bench]:
    """A file with ``data`` that is to be sent with ``ticket`` to where ``answer`` answers."""
    path = directory / "file.bin"
    path.write_bytes(data)
    planned = PlannedFile(1, path.name, "key", len(data), path.stat().st_mtime_ns)
    meter, readers, diary, supply = Meter(), Readers(), Diary(), Supply(*fresh)
    script = Script(answer, provider, meter)
    source = OpenSource(planned, readers, meter)
    source.open(path, [str(directory.resolve())])
    clerks = ThreadPoolExecutor(1)
    try:
        job = Job(
            errand=Errand(planned, ticket, pieces, session),
            source=source,
            overwrite=overwrite,
            budget=Budget(40 * MIB),
            sender=script,
            fresh=supply,
            journal=diary,
            clerks=clerks,
            ticket=ticket,
        )
        yield Bench(job, script, diary, supply, path)
    finally:
        source.close()
        readers.close()
        clerks.shutdown()


def expired() -> DestinationError:
    """What the wire raises for a URL that is over."""
    return DestinationError(Code.URL_EXPIRED, "The signed URL expired.")


def broken() -> DestinationError:
    """What the wire raises where no answer came, after its last try."""
    return DestinationError(Code.NETWORK, "no answer")


class S3Uploads:
    """Multipart uploads of one object, as S3 has them."""

    def __init__(self, *uploads: str) -> None:
        self.open: dict[str, dict[int, bytes]] = {upload: {} for upload in uploads}
        self.done: dict[str, str] = {}
        self.object: bytes | None = None

    def __call__(self, asked: Asked) -> Answer:
        upload = asked.query.get("uploadId", "")
        if asked.method == "HEAD":
            return self._head()
        if asked.method == "POST" and upload in self.done:
            return self._result(self.done[upload])
        if upload not in self.open:
            return error(404, "NoSuchUpload")
        match asked.method:
            case "PUT":
                self.open[upload][int(asked.query["partNumber"])] = asked.body
                return reply(ETag=f'"{hashlib.md5(asked.body).hexdigest()}"')
            case "DELETE":
                del self.open[upload]
                return reply(204)
        return self._complete(upload, asked.body.decode())

    def _complete(self, upload: str, document: str) -> Answer:
        parts = self.open[upload]
        named = re.findall(r'<Part><PartNumber>(\d+)</PartNumber><ETag>"(\w+)"</ETag></Part>', document)
        if not named or any(hashlib.md5(parts.get(int(n), b"?")).hexdigest() != etag for n, etag in named):
            return error(400, "InvalidPart")
        self.object = b"".join(parts[int(n)] for n, _ in named)
        md5s = b"".join(bytes.fromhex(etag) for _, etag in named)
        self.done[upload] = f"{hashlib.md5(md5s).hexdigest()}-{len(named)}"
        del self.open[upload]
        return self._result(self.done[upload])

    def _result(self, etag: str) -> Answer:
        xmlns = "http://s3.amazonaws.com/doc/2006-03-01/"
        body = f'<CompleteMultipartUploadResult xmlns="{xmlns}"><ETag>"{etag}"</ETag></CompleteMultipartUploadResult>'
        return reply(200, b'<?xml version="1.0"?>\n' + body.encode())

    def _head(self) -> Answer:
        if self.object is None:
            return reply(404)
        return reply(Content_Length=str(len(self.object)), ETag=f'"{list(self.done.values())[-1]}"')


def multipart_ticket(
    upload: str, parts: int, *, numbers: Sequence[int] = (), abort: bool = True, verify: bool = False, size: int = 0
) -> Ticket:
    """Part URLs 1 … ``parts``, or those of ``numbers``; a URL to complete and one to abort."""
    query = f"uploadId={upload}"
    chosen = numbers or range(1, parts + 1)
    return Ticket(
        path="file.bin",
        kind=Kind.MULTIPART,
        url=a_url(query=query, upload=upload),
        parts=tuple(a_url(query=f"partNumber={n}&{query}").text for n in chosen),
        abort=a_url(query=query).text if abort else "",
        verify=a_url() if verify else None,
        verify_method="HEAD" if verify else "",
        part_size=size,
    )


class Blob:
    """One block blob and its uncommitted blocks, as Azure has them."""

    def __init__(self) -> None:
        self.blocks: dict[str, bytes] = {}
        self.committed: dict[str, bytes] = {}
        self.object: bytes | None = None

    def __call__(self, asked: Asked) -> Answer:
        match asked.query.get("comp"):
            case "block":
                return self._put_block(asked)
            case "blocklist":
                return self._commit(asked)
        if self.object is None:
            return reply(404)
        return reply(Content_Length=str(len(self.object)), ETag='"0x1"', Content_MD5="AAAAAAAAAAAAAAAAAAAAAA==")

    def _put_block(self, asked: Asked) -> Answer:
        md5 = base64.b64encode(hashlib.md5(asked.body).digest()).decode()
        if asked.headers.get("content-md5") != md5:
            return error(400, "Md5Mismatch")
        name = asked.query["blockid"]
        if any(len(base64.b64decode(other)) != len(base64.b64decode(name)) for other in self.blocks):
            return error(400, "InvalidBlobOrBlock")
        self.blocks[name] = asked.body
        return reply(201, Content_MD5=md5)

    def _commit(self, asked: Asked) -> Answer:
        if asked.headers.get("if-none-match") == "*" and self.object is not None:
            return error(409, "BlobAlreadyExists")
        names = re.findall(r"<Latest>([^<]*)</Latest>", asked.body.decode())
        known = self.committed | self.blocks
        if any(name not in known for name in names):
            return error(400, "InvalidBlockList")
        self.object = b"".join(known[name] for name in names)
        self.committed, self.blocks = {name: known[name] for name in names}, {}
        # The MD5 of the list that was sent, not of the blob.
        return reply(201, ETag='"0x1"', Content_MD5=base64.b64encode(hashlib.md5(asked.body).digest()).decode())


class Session:
    """One object that is sent with a resumable upload, as GCS has it. ``grain``: what is stored of a chunk."""

    def __init__(self, grain: int = 256 * 1024) -> None:
        self.grain = grain
        self.stored: dict[str, bytearray] = {}
        self.object: bytes | None = None
        self.host = HOST

    def __call__(self, asked: Asked) -> Answer:
        if asked.method == "POST":
            name = f"S{len(self.stored) + 1}"
            self.stored[name] = bytearray()
            return reply(201, Location=self.uri(name))
        name = asked.query.get("upload_id", "")
        if name not in self.stored:
            return reply(410)
        if asked.method == "DELETE":
            del self.stored[name]
            return reply(499)
        return self._put(self.stored[name], asked)

    def uri(self, name: str) -> str:
        """The session's URI."""
        return f"https://{self.host}/bkt/key?upload_id={name}&sig={SIGNATURE}"

    def _put(self, stored: bytearray, asked: Asked) -> Answer:
        told, _, total = asked.headers["content-range"].removeprefix("bytes ").partition("/")
        if told != "*":
            first, _, last = told.partition("-")
            assert int(last) - int(first) + 1 == len(asked.body), "Content-Range and body agree"
            assert int(first) <= len(stored), "no gap"
            stored[int(first) :] = asked.body
        if len(stored) == int(total):
            return self._complete(bytes(stored))
        del stored[len(stored) // self.grain * self.grain :]
        return reply(308, Range=f"bytes=0-{len(stored) - 1}") if stored else reply(308)

    def _complete(self, data: bytes) -> Answer:
        self.object = data
        crc = base64.b64encode(checksums.crc32c(data).to_bytes(4, "big")).decode()
        return reply(200, x_goog_hash=f"crc32c={crc}", ETag='"etag"', x_goog_stored_content_length=str(len(data)))
