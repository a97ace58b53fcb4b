"""AWS before SeaweedFS: what S3 at Amazon does and SeaweedFS does not.

The proxy checks every signature itself, with the keys that it was given, refuses as AWS refuses, and passes on what is
left under a signature of its own, which SeaweedFS checks in turn. What AWS does and SeaweedFS does not:

- any unsigned ``Content-MD5`` or ``x-amz-*`` header on a presigned request: 403 AccessDenied, HeadersNotSigned
- ``x-amz-checksum-crc64nvme`` of what arrived in the answer to a PUT, whether or not a checksum was sent
- checksums hoisted into the query are ignored
- HEAD and GET of a missing key are 403 for who may not list
- session credentials that ended: 400 ExpiredToken
- an expired URL is told with Expires and ServerTime
- a body without a length: 411
- on demand: ETags that are no digests (SSE-KMS), a Complete that answers 200 with an error in its body
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import aiohttp
from aiohttp import web
from awscrt import checksums
from yarl import URL

from cloudpush.stack.seaweedfs import S3Identity
from doubles import sigv4
from doubles.serving import HttpDouble, Refused, chunks, parameters

DATE = "%Y%m%dT%H%M%SZ"
ISO = "%Y-%m-%dT%H:%M:%SZ"
WEEK_SECONDS = 604_800
#: Headers of a request that are passed on, beside x-amz-*.
_PASSED = frozenset({"cache-control", "content-disposition", "content-md5", "content-type", "if-none-match", "range"})
#: Headers of an answer that are passed back, beside x-amz-*.
_RETURNED = frozenset({"accept-ranges", "content-length", "content-range", "content-type", "etag", "last-modified"})
#: What a form may hold without a condition on it.
_FREE_FIELDS = frozenset({"file", "policy", "x-amz-signature", "awsaccesskeyid", "signature"})


@dataclass(frozen=True)
class AwsSession:
    """Session credentials, which end before their URLs may."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str = field(repr=False)
    ends_at: datetime


@dataclass(frozen=True)
class _Key:
    secret: str = field(repr=False)
    session: AwsSession | None = None


class AwsProxy(HttpDouble):
    """S3 as AWS answers it, before ``upstream``. ``keys`` sign URLs; ``admin`` is who the proxy is to SeaweedFS."""

    def __init__(
        self,
        upstream: str,
        admin: S3Identity,
        keys: Iterable[S3Identity],
        *,
        sessions: Iterable[AwsSession] = (),
        region: str = "us-east-1",
    ) -> None:
        super().__init__()
        self.upstream = upstream.rstrip("/")
        self.region = region
        self._admin = admin
        self._keys = {one.access_key: _Key(one.secret_key) for one in keys}
        self._keys |= {one.access_key: _Key(one.secret_key, one) for one in sessions}
        #: Encrypt as SSE-KMS does: an ETag looks like an MD5 and is none.
        self.kms = False
        #: Whether answers to PUT carry the checksum that AWS adds.
        self.checksums = True
        #: So many requests to complete a multipart upload are answered 200 with an error in the body.
        self.failing_completes = 0
        self._etags: dict[str, str] = {}  # by the one that was shown: the real one
        self._client: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        await super().close()
        if self._client:
            await self._client.close()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, text = request.raw_path.partition("?")
        query = parameters(text)
        names = dict(query)
        if request.method == "POST" and request.content_type == "multipart/form-data":
            return await self._form(request, path)
        if len(names) != len(query):
            raise Refused(400, "InvalidArgument", "A query parameter was given more than once.")
        headers = {name.lower(): value for name, value in request.headers.items()}
        if "X-Amz-Signature" in names:
            self._check_v4(request.method, path, query, headers)
        elif "AWSAccessKeyId" in names:
            self._check_v2(request.method, path, query, headers)
        else:
            raise Refused(403, "AccessDenied", "Access Denied")
        return await self._operate(request, path, names, headers)

    def _check_v4(self, method: str, path: str, query: list[tuple[str, str]], headers: Mapping[str, str]) -> None:
        names = dict(query)
        try:
            access_key, day, region, service, last = names["X-Amz-Credential"].split("/")
            began = datetime.strptime(names["X-Amz-Date"], DATE).replace(tzinfo=UTC)
            seconds = int(names["X-Amz-Expires"])
            signed = names["X-Amz-SignedHeaders"].split(";")
        except (KeyError, ValueError) as e:
            raise Refused(400, "AuthorizationQueryParametersError", "Query-string authentication needs more.") from e
        if not 0 < seconds <= WEEK_SECONDS or names.get("X-Amz-Algorithm") != sigv4.ALGORITHM:
            raise Refused(
                400,
                "AuthorizationQueryParametersError",
                "X-Amz-Expires must be less than a week (in seconds); that is, less than 604800 seconds",
            )
        if (region, service, last, day) != (self.region, "s3", "aws4_request", names["X-Amz-Date"][:8]):
            raise Refused(400, "AuthorizationQueryParametersError", "Error parsing the X-Amz-Credential parameter.")
        key = self._key(access_key, names.get("X-Amz-Security-Token", ""))
        now = datetime.now(UTC)
        if began - now > timedelta(minutes=15):
            raise Refused(403, "AccessDenied", "Request is not valid yet", {"ServerTime": now.strftime(ISO)})
        self._check_time(began + timedelta(seconds=seconds), names["X-Amz-Expires"])
        self._check_headers_signed(headers, signed)
        missing = [name for name in signed if name not in headers]
        rest = [(name, value) for name, value in query if name != "X-Amz-Signature"]
        expected = sigv4.signature_v4(
            key.secret, method, path, rest, headers, signed, names["X-Amz-Date"], self.region, _payload(headers)
        )
        if missing or "host" not in signed or not secrets.compare_digest(expected, names["X-Amz-Signature"]):
            raise _wrong_signature()

    def _check_v2(self, method: str, path: str, query: list[tuple[str, str]], headers: Mapping[str, str]) -> None:
        names = dict(query)
        key = self._key(names["AWSAccessKeyId"], names.get("x-amz-security-token", ""))
        try:
            ends = datetime.fromtimestamp(int(names["Expires"]), UTC)
        except (KeyError, ValueError) as e:
            raise Refused(403, "AccessDenied", "Query-string authentication requires Expires.") from e
        self._check_time(ends)
        # A header that was not signed changes what is signed here; AWS has no word of its own for it.
        expected = sigv4.signature_v2(key.secret, method, path, query, headers, names["Expires"])
        if not secrets.compare_digest(expected, names.get("Signature", "")):
            raise _wrong_signature()

    def _key(self, access_key: str, token: str) -> _Key:
        key = self._keys.get(access_key)
        if key is None:
            raise Refused(
                403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."
            )
        if (key.session.token if key.session else "") != token:
            raise Refused(400, "InvalidToken", "The provided token is malformed or otherwise invalid.")
        if key.session and key.session.ends_at <= datetime.now(UTC):
            raise Refused(400, "ExpiredToken", "The provided token has expired.")
        return key

    @staticmethod
    def _check_time(ends: datetime, seconds: str = "") -> None:
        now = datetime.now(UTC)
        if ends <= now:
            more = {"X-Amz-Expires": seconds} if seconds else {}
            more |= {"Expires": ends.strftime(ISO), "ServerTime": now.strftime(ISO)}
            raise Refused(403, "AccessDenied", "Request has expired", more)

    @staticmethod
    def _check_headers_signed(headers: Mapping[str, str], signed: Iterable[str]) -> None:
        unsigned = sorted(
            name
            for name in headers
            if name not in signed
            and (name == "content-md5" or name.startswith("x-amz-"))
            and name != "x-amz-content-sha256"  # changes the payload's place in what is signed, so nothing fits
        )
        if unsigned:
            raise Refused(
                403,
                "AccessDenied",
                "There were headers present in the request which were not signed",
                {"HeadersNotSigned": ", ".join(unsigned)},
            )

    async def _operate(
        self, request: web.BaseRequest, path: str, names: Mapping[str, str], headers: Mapping[str, str]
    ) -> web.StreamResponse:
        query = {name: names[name] for name in ("partNumber", "uploadId") if name in names}
        passed = {
            name: value
            for name, value in headers.items()
            if name in _PASSED or (name.startswith("x-amz-") and name != "x-amz-content-sha256")
        }
        method = request.method
        if method == "PUT":
            if request.content_length is None:
                raise Refused(411, "MissingContentLength", "You must provide the Content-Length HTTP header.")
            crc = _Crc(chunks(request))
            answer = await self._forward(method, path, query, passed, crc, request.content_length)
            if answer.status == 200 and "partNumber" not in query:
                return self._stored(answer, crc.value)
            return self._disguised(answer)
        if method == "POST" and "uploadId" in query:
            return await self._complete(request, path, query, passed)
        if method in {"GET", "HEAD", "DELETE"}:
            answer = await self._forward(method, path, query, passed)
            if answer.status == 404 and method != "DELETE":
                raise Refused(403, "AccessDenied", "Access Denied")
            return answer
        raise Refused(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")

    async def _complete(
        self, request: web.BaseRequest, path: str, query: Mapping[str, str], passed: Mapping[str, str]
    ) -> web.StreamResponse:
        body = b"".join([data async for data in chunks(request)])
        if self.failing_completes:
            self.failing_completes -= 1
            error = Refused(500, "InternalError", "We encountered an internal error. Please try again.")
            return web.Response(status=200, body=b"   \n" + error.body, content_type="application/xml")
        for shown, hidden in self._etags.items():
            body = body.replace(shown.encode(), hidden.encode())
        answer = await self._forward("POST", path, query, passed, _once(body), len(body))
        if answer.status == 200 and self.kms and isinstance(answer.body, bytes):
            opaque = f'"{secrets.token_hex(16)}-{body.count(b"<Part>")}"'
            real = answer.body.partition(b"<ETag>")[2].partition(b"</ETag>")[0]
            text = answer.body.replace(real, opaque.encode())
            return web.Response(body=text, headers=_kms(), content_type="application/xml")
        return answer

    async def _form(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        fields: dict[str, str] = {}
        content: bytes | None = None
        form = aiohttp.MultipartReader(request.headers, request.content)
        try:
            while part := await form.next():
                if not isinstance(part, aiohttp.BodyPartReader) or content is not None:
                    break  # what follows the file is ignored
                name = (part.name or "").lower()
                if name == "file":
                    content = bytes(await part.read())
                else:
                    fields[name] = await part.text()
        except ValueError as e:
            raise Refused(400, "MalformedPOSTRequest", "The body of your POST request is not well-formed.") from e
        if content is None:
            raise Refused(400, "InvalidArgument", "POST requires exactly one file upload per request.")
        self._check_policy(fields, path.strip("/"), len(content))
        key = f"/{path.strip('/')}/{fields['key']}"
        headers = {name: value for name, value in fields.items() if name == "content-type"}
        answer = await self._forward("PUT", URL(key).raw_path, {}, headers, _once(content), len(content))
        if answer.status != 200:
            return answer
        status = 201 if fields.get("success_action_status") == "201" else 204
        etag = answer.headers["ETag"]
        body = f"<PostResponse><Bucket>{path.strip('/')}</Bucket><Key>{fields['key']}</Key><ETag>{etag}</ETag></PostResponse>"
        if status == 204:
            return web.Response(status=status, headers={"ETag": etag})
        return web.Response(status=status, headers={"ETag": etag}, text=body, content_type="application/xml")

    def _check_policy(self, fields: Mapping[str, str], bucket: str, size: int) -> None:
        try:
            text = fields["policy"]
            access_key, day, region, _service, _last = fields["x-amz-credential"].split("/")
            signature = fields["x-amz-signature"]
            policy = json.loads(base64.b64decode(text))
        except (KeyError, ValueError) as e:
            raise Refused(400, "InvalidPolicyDocument", "The content of the form does not meet the conditions.") from e
        key = self._key(access_key, fields.get("x-amz-security-token", ""))
        expected = hmac.digest(sigv4.signing_key(key.secret, day, region), text.encode(), "sha256").hex()
        if not secrets.compare_digest(expected, signature):
            raise _wrong_signature()
        if datetime.fromisoformat(policy["expiration"]) <= datetime.now(UTC):
            raise Refused(403, "AccessDenied", "Invalid according to Policy: Policy expired.")
        given = {**fields, "bucket": bucket}
        named = set()
        for condition in policy["conditions"]:
            rule = next(["eq", f"${k}", v] for k, v in condition.items()) if isinstance(condition, dict) else condition
            if rule[0] == "content-length-range":
                if size > int(rule[2]):
                    raise Refused(
                        400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size", _sizes(rule)
                    )
                if size < int(rule[1]):
                    raise Refused(
                        400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size"
                    )
                continue
            name = rule[1].lstrip("$").lower()
            named.add(name)
            value = given.get(name, "")
            if not (value.startswith(rule[2]) if rule[0] == "starts-with" else value == rule[2]):
                raise Refused(
                    403, "AccessDenied", f"Invalid according to Policy: Policy Condition failed: {json.dumps(rule)}"
                )
        extra = sorted(set(fields) - named - _FREE_FIELDS)
        if extra:
            raise Refused(403, "AccessDenied", f"Invalid according to Policy: Extra input fields: {', '.join(extra)}")

    def _stored(self, answer: web.Response, crc: int) -> web.Response:
        answer = self._disguised(answer)
        if self.checksums:
            answer.headers["x-amz-checksum-crc64nvme"] = base64.b64encode(crc.to_bytes(8, "big")).decode()
            answer.headers["x-amz-checksum-type"] = "FULL_OBJECT"
        return answer

    def _disguised(self, answer: web.Response) -> web.Response:
        if self.kms and answer.status == 200 and "ETag" in answer.headers:
            shown = secrets.token_hex(16)
            self._etags[shown] = answer.headers["ETag"].strip('"')
            answer.headers["ETag"] = f'"{shown}"'
            answer.headers.update(_kms())
        return answer

    async def _forward(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: AsyncIterable[bytes] | None = None,
        length: int = 0,
    ) -> web.Response:
        """Ask SeaweedFS, under the proxy's own signature."""
        if self._client is None:
            self._client = aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=60))
        stamp = datetime.now(UTC).strftime(DATE)
        sent = {
            **headers,
            "host": self.upstream.removeprefix("http://"),
            "x-amz-content-sha256": sigv4.UNSIGNED,
            "x-amz-date": stamp,
        }
        signed = sorted(sent)
        signature = sigv4.signature_v4(
            self._admin.secret_key, method, path, list(query.items()), sent, signed, stamp, self.region
        )
        scope = f"{self._admin.access_key}/{stamp[:8]}/{self.region}/s3/aws4_request"
        sent["Authorization"] = (
            f"{sigv4.ALGORITHM} Credential={scope}, SignedHeaders={';'.join(signed)}, Signature={signature}"
        )
        if body is not None:
            sent["Content-Length"] = str(length)
        url = URL(f"{self.upstream}{path}", encoded=True).with_query(query)
        skipped = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
        async with self._client.request(method, url, headers=sent, data=body, skip_auto_headers=skipped) as answer:
            content = await answer.read()
            returned = {
                name: value
                for name, value in answer.headers.items()
                if name.lower() in _RETURNED or name.lower().startswith("x-amz-")
            }
            if method != "HEAD":
                returned.pop("Content-Length", None)
            return web.Response(status=answer.status, headers=returned, body=content)


class _Crc:
    """A body that is summed while it passes."""

    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self._body = body
        self.value = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pass()

    async def _pass(self) -> AsyncIterator[bytes]:
        async for data in self._body:
            self.value = checksums.crc64nvme(data, self.value)
            yield data


async def _once(body: bytes) -> AsyncIterator[bytes]:
    await asyncio.sleep(0)
    yield body


def _payload(headers: Mapping[str, str]) -> str:
    return headers.get("x-amz-content-sha256", sigv4.UNSIGNED)


def _kms() -> dict[str, str]:
    return {"x-amz-server-side-encryption": "aws:kms"}


def _sizes(rule: list[object]) -> dict[str, str]:
    return {"MaxSizeAllowed": str(rule[2])}


def _wrong_signature() -> Refused:
    return Refused(
        403,
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided. Check your key and signing method.",
    )
