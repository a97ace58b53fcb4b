"""Google Cloud Storage in memory: the XML API as far as signed URLs and access tokens reach, and what rclone uses of the JSON API.

It verifies V4 and V2 signatures (RSA) over exactly what was sent, refuses ``x-goog-*``, Content-MD5 and Content-Type headers
that a V4 URL does not sign, checks every hash that it is given, and answers with hashes of what it stored. Uploads: PUT,
resumable (a signed start, then an unsigned session), XML multipart.

What the emulator from PyPI does not check at all is checked here; where the documents leave something open, the stricter
reading was taken.

Access tokens: :attr:`GcsDouble.tokens` says which are taken, and until when; :attr:`GcsDouble.log` what each was used for.
The JSON API's uploads are in :mod:`doubles.gcs_json`.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, unquote
from xml.etree import ElementTree as ET

import google_crc32c
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from multidict import CIMultiDict

from doubles.gcs_json import (
    INVALID_CREDENTIALS,
    OBJECT,
    RANGE,
    UPLOADS,
    Gate,
    JsonRefused,
    Logged,
    Session,
    Tokens,
    name_in,
    new_session,
    resource,
    split_related,
    token_of,
)
from doubles.serving import HttpDouble, Refused, chunks, parameters, whole

ALGORITHM = "GOOG4-RSA-SHA256"
#: What is kept of an unfinished upload is a multiple of this.
GRAIN = 256 * 1024
#: Least size of a part, the last excepted.
PART_BYTES = 5 * 1024 * 1024
WEEK_SECONDS = 604_800
_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
_SUBRESOURCES = frozenset({"partNumber", "uploadId", "uploads"})


@dataclass(frozen=True)
class GcsObject:
    """What is stored, with what the service computed over it. ``composed``: of parts, so it has no MD5."""

    data: bytes = field(repr=False)
    generation: int
    composed: bool = False

    @property
    def md5(self) -> bytes:
        return hashlib.md5(self.data).digest()

    @property
    def etag(self) -> str:
        """The MD5, or for an object of parts something that looks like one."""
        return hashlib.sha256(self.data).hexdigest()[:32] + "-N" if self.composed else self.md5.hex()

    @property
    def hashes(self) -> list[str]:
        """Lines of ``x-goog-hash``."""
        crc = "crc32c=" + _b64(google_crc32c.value(self.data).to_bytes(4, "big"))
        return [crc] if self.composed else [crc, "md5=" + _b64(self.md5)]


@dataclass
class _Resumable:
    """A session: what arrived so far. ``done`` once it is an object, ``gone`` once it was cancelled or forgotten."""

    bucket: str
    key: str
    kept: bytearray = field(default_factory=bytearray)
    done: GcsObject | None = None
    gone: bool = False


@dataclass
class _Multipart:
    bucket: str
    key: str
    parts: dict[int, bytes] = field(default_factory=dict)


class GcsDouble(HttpDouble):
    """``keys``: service account → public key."""

    def __init__(self, keys: Mapping[str, RSAPublicKey], buckets: Iterable[str] = ("bucket",)) -> None:
        super().__init__()
        self._keys = dict(keys)
        self.buckets = set(buckets)
        self.objects: dict[tuple[str, str], GcsObject] = {}
        #: Access tokens that are taken; requests that came with one; pieces of JSON uploads pass here.
        self.tokens = Tokens()
        self.log: list[Logged] = []
        self.gate = Gate()
        #: (bucket, key) of which the next upload through the JSON API is stored with one byte changed.
        self.corrupts: set[tuple[str, str]] = set()
        #: (bucket, key) that no token may write, or look at.
        self.forbidden: set[tuple[str, str]] = set()
        self._json: dict[str, Session] = {}
        #: At most so many bytes of a resumable request that is not the last are kept; None: all.
        self.keeps: int | None = None
        self._sessions: dict[str, _Resumable] = {}
        self._uploads: dict[str, _Multipart] = {}
        self._generations = itertools.count(1_700_000_000_000_000)

    def read(self, bucket: str, key: str) -> bytes:
        """The bytes of one object."""
        return self.objects[bucket, key].data

    def put(self, bucket: str, key: str, data: bytes, *, composed: bool = False) -> None:
        """Store an object; ``composed`` of others, it has no MD5."""
        self._store(bucket, key, data, composed=composed)

    def forget_sessions(self) -> None:
        """Resumable uploads under way are gone, as after a week."""
        for session in self._sessions.values():
            session.gone = True

    @property
    def open_uploads(self) -> int:
        """Resumable and multipart uploads that nobody finished or ended."""
        return len(self._uploads) + len(self._json) + sum(not (s.done or s.gone) for s in self._sessions.values())

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, text = request.raw_path.partition("?")
        query = parameters(text)
        names = dict(query)
        headers = {name.lower(): value for name, value in request.headers.items()}
        token = token_of(headers)
        if token is not None:
            return await self._with_token(request, path, names, headers, token)
        if "upload_id" in names and request.method != "POST":
            return await self._in_session(request, names["upload_id"], headers)
        if len(names) != len(query):
            raise Refused(400, "InvalidArgument", "Invalid argument.", {"Details": "Duplicate query parameter"})
        if "X-Goog-Signature" in names:
            method = self._check_v4(request.method, path, query, headers)
        elif "GoogleAccessId" in names:
            method = self._check_v2(request.method, path, query, headers)
        else:
            raise Refused(403, "AccessDenied", "Access denied.", {"Details": "Anonymous caller does not have access"})
        bucket, _, key = unquote(path).lstrip("/").partition("/")
        if bucket not in self.buckets:
            raise Refused(404, "NoSuchBucket", "The specified bucket does not exist.")
        if "uploadId" in names or "uploads" in names:
            return await self._multipart(request, bucket, key, names)
        if method == "PUT":
            return await self._put(request, bucket, key, headers)
        if method == "POST" and headers.get("x-goog-resumable") == "start":
            return await self._start(request, bucket, key)
        if method in {"GET", "HEAD"}:
            return self._get(method, bucket, key, headers)
        raise Refused(400, "InvalidArgument", "Invalid argument.")

    # -- with an access token --------------------------------------------------------------------

    async def _with_token(
        self, request: web.BaseRequest, path: str, names: Mapping[str, str], headers: Mapping[str, str], token: str
    ) -> web.StreamResponse:
        """The answer of the JSON or the XML API. Whether the token is taken is judged when the request begins."""
        in_json = path.startswith(("/storage/", "/upload/"))
        try:
            if not self.tokens.good(token):
                if request.method != "HEAD":
                    await whole(request)
                reason, message = INVALID_CREDENTIALS
                raise (
                    JsonRefused(401, reason, message)
                    if in_json
                    else Refused(401, "AuthenticationRequired", "Authentication required.")
                )
            if in_json:
                answer: web.StreamResponse = await self._json_api(request, path, names, headers, token)
            else:
                answer = self._xml_api(request, path, headers)
        except JsonRefused as e:
            answer = e.response()
        except Refused as e:
            answer = e.response(request.method)
        self.log.append(Logged(request.method, request.raw_path, token, answer.status))
        return answer

    def _xml_api(self, request: web.BaseRequest, path: str, headers: Mapping[str, str]) -> web.StreamResponse:
        bucket, _, key = unquote(path).lstrip("/").partition("/")
        if bucket not in self.buckets:
            raise Refused(404, "NoSuchBucket", "The specified bucket does not exist.")
        if request.method not in {"GET", "HEAD"}:
            raise Refused(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")
        if (bucket, key) in self.forbidden:
            raise Refused(403, "AccessDenied", "Access denied.", {"Details": "storage.objects.get access is missing."})
        return self._get(request.method, bucket, key, headers)

    async def _json_api(
        self,
        request: web.BaseRequest,
        path: str,
        names: Mapping[str, str],
        headers: Mapping[str, str],
        token: str,
    ) -> web.StreamResponse:
        if (uploads := UPLOADS.fullmatch(path)) is not None:
            return await self._json_upload(request, name_in(uploads[1]), names, headers, token)
        if (found := OBJECT.fullmatch(path)) is None:
            raise JsonRefused(400, "invalid", f"{request.method} is not served here.")
        place = name_in(found[1]), name_in(found[2])
        if place not in self.objects:
            raise JsonRefused(404, "notFound", f"No such object: {'/'.join(place)}")
        if request.method == "DELETE":
            del self.objects[place]
            return web.Response(status=204)
        return _described(*place, self.objects[place])

    async def _json_upload(
        self,
        request: web.BaseRequest,
        bucket: str,
        names: Mapping[str, str],
        headers: Mapping[str, str],
        token: str,
    ) -> web.StreamResponse:
        if request.method != "POST":
            raise JsonRefused(400, "invalid", "Uploads are POSTed here.")
        if "upload_id" in names:
            await self.gate.passed()
            return await self._json_piece(request, names["upload_id"], headers)
        body = await whole(request)
        if bucket not in self.buckets:
            raise JsonRefused(404, "notFound", "The specified bucket does not exist.")
        if names.get("uploadType") == "multipart":
            meta, data = split_related(headers["content-type"], body)
            key = str(meta["name"])
            self._check_json_place(bucket, key)
            return _described(bucket, key, self._store_json(bucket, key, data))
        if names.get("uploadType") != "resumable":
            raise JsonRefused(400, "invalid", f"uploadType {names.get('uploadType')!r} is not served here.")
        key = str(json.loads(body)["name"])
        self._check_json_place(bucket, key)
        name = new_session()
        self._json[name] = Session(bucket, key, token)
        location = f"http://{request.headers['Host']}{request.raw_path}&upload_id={name}"
        return web.Response(headers={"Location": location, "X-GUploader-UploadID": name})

    async def _json_piece(self, request: web.BaseRequest, name: str, headers: Mapping[str, str]) -> web.StreamResponse:
        session = self._json.get(name)
        if session is None:
            await whole(request)
            raise JsonRefused(404, "notFound", "The upload is not known.")
        said = RANGE.fullmatch(headers.get("content-range", ""))
        data = await whole(request)
        if said is None or (said[1] is not None and int(said[1]) != len(session.kept)):
            raise JsonRefused(400, "invalid", "Content-Range does not go on where the upload stands.")
        session.kept += data
        if said[3] != "*" and int(said[3]) == len(session.kept):
            del self._json[name]
            return _described(
                session.bucket, session.key, self._store_json(session.bucket, session.key, bytes(session.kept))
            )
        if len(session.kept) % GRAIN:
            raise JsonRefused(400, "invalid", "Pieces are multiples of 256 KiB.")
        kept = {"Range": f"bytes=0-{len(session.kept) - 1}"} if session.kept else {}
        if "x-guploader-no-308" in headers:
            return web.Response(headers={"X-HTTP-Status-Code-Override": "308", **kept})
        return web.Response(status=308, headers=kept)

    def _check_json_place(self, bucket: str, key: str) -> None:
        if (bucket, key) in self.forbidden:
            message = "the caller does not have storage.objects.create access to the Google Cloud Storage object."
            raise JsonRefused(403, "forbidden", message)

    def _store_json(self, bucket: str, key: str, data: bytes) -> GcsObject:
        """Stored and described as it came; what is to be corrupted rots a moment later."""
        stored = self._store(bucket, key, data)
        if (bucket, key) in self.corrupts:
            self.corrupts.discard((bucket, key))
            self._store(bucket, key, bytes([data[0] ^ 1]) + data[1:])
        return stored

    # -- with a signed URL -----------------------------------------------------------------------

    def _check_v4(self, method: str, path: str, query: list[tuple[str, str]], headers: Mapping[str, str]) -> str:
        names = dict(query)
        try:
            account, _, scope = names["X-Goog-Credential"].partition("/")
            began = datetime.strptime(names["X-Goog-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            seconds = int(names["X-Goog-Expires"])
            signed = names["X-Goog-SignedHeaders"].split(";")
            signature = bytes.fromhex(names["X-Goog-Signature"])
        except (KeyError, ValueError) as e:
            raise _malformed("A parameter of the signature is missing or malformed.") from e
        if names.get("X-Goog-Algorithm") != ALGORITHM or not 0 < seconds <= WEEK_SECONDS:
            raise _malformed("X-Goog-Expires must be at most a week.")
        self._check_time(began + timedelta(seconds=seconds))
        for name in signed:
            if name not in headers:
                raise _malformed("Header was included in signedheaders, but not in the request.", name)
        for name in headers:
            guarded = name.startswith("x-goog-") or name in {"content-md5", "content-type"}
            if guarded and name not in signed:
                raise _malformed("Header was included in the request, but not in signedheaders.", name)
        pairs = [(n, v) for n, v in query if n != "X-Goog-Signature"]
        text = "&".join(f"{quote(n, safe='~')}={quote(v, safe='~')}" for n, v in sorted(pairs))
        lines = [f"{name}:{' '.join(headers[name].split())}" for name in signed]
        payload = headers.get("x-goog-content-sha256", "UNSIGNED-PAYLOAD")
        asked = [method] if method != "HEAD" else ["HEAD", "GET"]  # a URL for GET serves HEAD too
        for one in asked:
            canonical = "\n".join([one, path, text, *lines, "", ";".join(signed), payload])
            digest = hashlib.sha256(canonical.encode()).hexdigest()
            if self._signed(account, signature, "\n".join([ALGORITHM, names["X-Goog-Date"], scope, digest])):
                return method
        raise _wrong_signature()

    def _check_v2(self, method: str, path: str, query: list[tuple[str, str]], headers: Mapping[str, str]) -> str:
        names = dict(query)
        try:
            self._check_time(datetime.fromtimestamp(int(names["Expires"]), UTC))
            signature = base64.b64decode(names["Signature"], validate=True)
        except (KeyError, ValueError) as e:
            raise _malformed("Signature was not base64 encoded", "signature") from e
        goog = "".join(f"{n}:{v.strip()}\n" for n, v in sorted(headers.items()) if n.startswith("x-goog-"))
        sub = "&".join(f"{n}={v}" if v else n for n, v in sorted(query) if n in _SUBRESOURCES)
        md5, kind = headers.get("content-md5", ""), headers.get("content-type", "")
        for one in [method] if method != "HEAD" else ["HEAD", "GET"]:
            text = f"{one}\n{md5}\n{kind}\n{names['Expires']}\n{goog}{path}{'?' if sub else ''}{sub}"
            if self._signed(names["GoogleAccessId"], signature, text):
                return method
        raise _wrong_signature()

    def _signed(self, account: str, signature: bytes, text: str) -> bool:
        key = self._keys.get(account)
        if key is None:
            return False
        try:
            key.verify(signature, text.encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return False
        return True

    @staticmethod
    def _check_time(ends: datetime) -> None:
        if ends <= datetime.now(UTC):
            detail = f"The provided token has expired. Request signature expired at: {ends:%Y-%m-%dT%H:%M:%S+00:00}"
            raise Refused(400, "ExpiredToken", "Invalid argument.", {"Details": detail})

    async def _put(
        self, request: web.BaseRequest, bucket: str, key: str, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        condition = headers.get("x-goog-if-generation-match")
        present = self.objects.get((bucket, key))
        if condition is not None and int(condition) != (present.generation if present else 0):
            raise Refused(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")
        data = await whole(request)
        self._check_hashes(data, headers)
        return _stored(self._store(bucket, key, data))

    @staticmethod
    def _check_hashes(data: bytes, headers: Mapping[str, str]) -> None:
        """Compare what was sent with the digests that came along."""
        md5 = _b64(hashlib.md5(data).digest())
        mine = {"md5": md5, "crc32c": _b64(google_crc32c.value(data).to_bytes(4, "big"))}
        given = [pair.strip().partition("=")[::2] for pair in headers.get("x-goog-hash", "").split(",") if pair]
        if "content-md5" in headers:
            given.append(("md5", headers["content-md5"]))
        for name, value in given:
            if mine.get(name) != value:
                detail = (
                    f"The {name.upper()} you specified ('{value}') did not match what we computed ('{mine.get(name)}')."
                )
                raise Refused(
                    400, "BadDigest", "The hash that you specified did not match what we received.", {"Details": detail}
                )

    async def _start(self, request: web.BaseRequest, bucket: str, key: str) -> web.StreamResponse:
        if await whole(request):
            raise Refused(400, "InvalidArgument", "Invalid argument.", {"Details": "The start has no body."})
        name = secrets.token_urlsafe(48)
        self._sessions[name] = _Resumable(bucket, key)
        location = f"http://{request.headers['Host']}{request.raw_path}&upload_id={name}"
        return web.Response(status=201, headers={"Location": location, "X-GUploader-UploadID": name})

    async def _in_session(self, request: web.BaseRequest, name: str, headers: Mapping[str, str]) -> web.StreamResponse:
        session = self._sessions.get(name)
        if session is None:
            raise Refused(404, "NoSuchUpload", "The requested upload was not found.")
        if session.gone:
            raise Refused(410, "Gone", "The upload session has expired.")
        if request.method == "DELETE":
            session.gone = True
            return web.Response(status=499, reason="Client Closed Request")
        if any(name.startswith("x-goog-") for name in headers):
            raise _malformed("Requests in a session carry no x-goog-* headers here.")
        if request.method != "PUT":
            raise Refused(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")
        if session.done:
            return _stored(session.done)
        return await self._go_on(request, session, headers)

    async def _go_on(
        self, request: web.BaseRequest, session: _Resumable, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        length = request.content_length or 0
        said = _RANGE.fullmatch(
            headers.get("content-range", f"bytes 0-{length - 1}/{length}" if length else "bytes */0")
        )
        if said is None:
            raise Refused(400, "InvalidArgument", "Failed to parse Content-Range header.")
        first, last, text = said.groups()
        total = None if text == "*" else int(text)
        if first is None:
            return self._finished(session) if total == len(session.kept) else _unfinished(session)
        begin, end = int(first), int(last) + 1
        if end - begin != length or (total is not None and end > total):
            raise Refused(400, "InvalidArgument", "Content-Range does not fit the length of the body.")
        if begin > len(session.kept):
            raise Refused(
                400,
                "InvalidArgument",
                f"Invalid request.  According to the Content-Range header, the upload offset is {begin} byte(s), "
                f"which exceeds already uploaded size of {len(session.kept)} byte(s).",
            )
        final = end == total
        body = bytearray()
        try:
            async for data in chunks(request):
                body += data
        finally:  # whoever sends may go away in the middle: what came so far is kept all the same
            fresh = body[len(session.kept) - begin :]
            if not (final and len(body) == length):
                fresh = fresh[: self.keeps] if self.keeps is not None else fresh
                fresh = fresh[: (len(session.kept) + len(fresh)) // GRAIN * GRAIN - len(session.kept)]
            session.kept += fresh
        return self._finished(session) if final else _unfinished(session)

    def _finished(self, session: _Resumable) -> web.StreamResponse:
        session.done = self._store(session.bucket, session.key, bytes(session.kept))
        return _stored(session.done)

    async def _multipart(
        self, request: web.BaseRequest, bucket: str, key: str, names: Mapping[str, str]
    ) -> web.StreamResponse:
        if request.method == "POST" and "uploads" in names:
            await whole(request)
            name = secrets.token_urlsafe(24)
            self._uploads[name] = _Multipart(bucket, key)
            return _xml(
                f"<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{key}</Key><UploadId>{name}</UploadId></InitiateMultipartUploadResult>"
            )
        name = names.get("uploadId", "")
        upload = self._uploads.get(name)
        if upload is None or (upload.bucket, upload.key) != (bucket, key):
            raise Refused(404, "NoSuchUpload", "The requested upload was not found.")
        if request.method == "PUT":
            data = await whole(request)
            self._check_hashes(data, {n.lower(): v for n, v in request.headers.items()})
            upload.parts[int(names["partNumber"])] = data
            return _stored(GcsObject(data, 0))
        if request.method == "DELETE":
            del self._uploads[name]
            return web.Response(status=204)
        if request.method != "POST":
            raise Refused(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")
        data = _assembled(upload, await whole(request))
        del self._uploads[name]
        stored = self._store(bucket, key, data, composed=True)
        answer = _xml(
            f"<CompleteMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{key}</Key><ETag>&quot;{stored.etag}&quot;</ETag></CompleteMultipartUploadResult>"
        )
        answer.headers.extend([("x-goog-hash", line) for line in stored.hashes])
        return answer

    def _get(self, method: str, bucket: str, key: str, headers: Mapping[str, str]) -> web.StreamResponse:
        found = self.objects.get((bucket, key))
        if found is None:
            raise Refused(404, "NoSuchKey", "The specified key does not exist.")
        told = _headers(found)
        if method == "HEAD":
            told["Content-Length"] = str(len(found.data))
            return web.Response(headers=told)
        if headers.get("range") == "bytes=0-0" and found.data:
            told["Content-Range"] = f"bytes 0-0/{len(found.data)}"
            return web.Response(status=206, headers=told, body=found.data[:1])
        return web.Response(headers=told, body=found.data)

    def _store(self, bucket: str, key: str, data: bytes, *, composed: bool = False) -> GcsObject:
        stored = self.objects[bucket, key] = GcsObject(data, next(self._generations), composed)
        return stored


def _assembled(upload: _Multipart, body: bytes) -> bytes:
    """The object that a request to complete describes."""
    try:
        root = ET.fromstring(body)
    except ET.ParseError as e:
        raise Refused(400, "MalformedXML", "The XML you provided was not well-formed.") from e
    named = []
    for part in root.iter():
        if part.tag.rpartition("}")[2] == "Part":
            fields = {child.tag.rpartition("}")[2]: (child.text or "").strip('"') for child in part}
            named.append((int(fields["PartNumber"]), fields["ETag"]))
    if named != sorted(named) or not named:
        raise Refused(400, "InvalidPartOrder", "The list of parts was not in ascending order.")
    data = b""
    for place, (number, etag) in enumerate(named, 1):
        part_data = upload.parts.get(number)
        if part_data is None or hashlib.md5(part_data).hexdigest() != etag:
            raise Refused(400, "InvalidPart", "One or more of the specified parts could not be found.")
        if len(part_data) < PART_BYTES and place < len(named):
            raise Refused(400, "EntityTooSmall", "Your proposed upload is smaller than the minimum object size.")
        data += part_data
    return data


def _headers(found: GcsObject) -> CIMultiDict[str]:
    told = CIMultiDict(
        {
            "ETag": f'"{found.etag}"',
            "x-goog-generation": str(found.generation),
            "x-goog-metageneration": "1",
            "x-goog-stored-content-encoding": "identity",
            "x-goog-stored-content-length": str(len(found.data)),
            "x-goog-storage-class": "STANDARD",
        }
    )
    told.extend([("x-goog-hash", line) for line in found.hashes])
    return told


def _stored(found: GcsObject) -> web.Response:
    return web.Response(headers=_headers(found))


def _described(bucket: str, key: str, found: GcsObject) -> web.Response:
    crc32c = google_crc32c.value(found.data).to_bytes(4, "big")
    return web.json_response(resource(bucket, key, found.data, found.generation, found.md5, crc32c))


def _unfinished(session: _Resumable) -> web.Response:
    kept = len(session.kept)
    return web.Response(
        status=308, reason="Resume Incomplete", headers={"Range": f"bytes=0-{kept - 1}"} if kept else {}
    )


def _xml(text: str) -> web.Response:
    return web.Response(text=f"<?xml version='1.0' encoding='UTF-8'?>{text}", content_type="application/xml")


def _malformed(detail: str, parameter: str = "") -> Refused:
    more = {"Details": f"Your request has a malformed header. {detail}"}
    if parameter:
        more["ParameterName"] = parameter
    return Refused(400, "MalformedSecurityHeader", "Invalid argument.", more)


def _wrong_signature() -> Refused:
    return Refused(
        403,
        "SignatureDoesNotMatch",
        "Access denied.",
        {"Details": "The request signature we calculated does not match the signature you provided."},
    )


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
