"""The Inspector for S3 and everything that speaks it: HEADs, many at once, and listings where they are cheaper."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from cloudpush.errors import DestinationError
from cloudpush.net import Answer, BadXml, Pool, parse_xml, watched
from cloudpush.push.endpoints import Endpoint, resolve
from cloudpush.push.job import Destination, Secret, Seen
from cloudpush.push.ports import Control
from cloudpush.verify.answers import Refused, error_of, read_refusal
from cloudpush.verify.listing import PAGE_BYTES, Survey, page_parameters, read_page
from cloudpush.verify.questions import HeadInspector, Questions
from cloudpush.verify.sigv4 import Signer, encode_query
from cloudpush.verify.wire import Wire

#: Up to so many keys HEADs are sent at once, and are as quick as the first page of a listing.
FEW = 32

#: Bytes of an answer that is read for its words.
WORDS = 64 * 1024

#: Encryption under which an ETag is no MD5, although it may have the shape of one.
_OPAQUE = ("aws:kms", "aws:kms:dsse")


class S3Inspector(HeadInspector):
    """Asks S3-compatible destinations. Answers from a listing have no version and no digest but the ETag."""

    def questions(
        self, pool: Pool, endpoint: Endpoint, destination: Destination, secret: Secret, allowed: Collection[str]
    ) -> Questions:
        """See :class:`HeadInspector`."""
        return _S3Questions(pool, endpoint, destination, secret, allowed)

    def begin_upload(self, destination: Destination, secret: Secret, key: str, control: Control) -> str:
        """Begin an upload in pieces to ``key``; its id. Raises DestinationError."""
        return self._pool.run(watched(self._asking(destination, secret).begin(key), control))

    def erase(self, destination: Destination, secret: Secret, key: str, control: Control) -> None:
        """Delete an object; also where it is gone already. Raises DestinationError."""
        self._pool.run(watched(self._asking(destination, secret).delete(key, ""), control))

    def end_upload(self, destination: Destination, secret: Secret, key: str, upload: str, control: Control) -> None:
        """Abort it; also where it is gone already. Raises DestinationError."""
        self._pool.run(watched(self._asking(destination, secret).abort(key, upload), control))

    def _asking(self, destination: Destination, secret: Secret) -> _S3Questions:
        endpoint = resolve(destination, secret, self._allowed)
        return _S3Questions(self._pool, endpoint, destination, secret, self._allowed)


class _S3Questions(Questions):
    """One call's conversation with an S3 server."""

    def __init__(
        self, pool: Pool, endpoint: Endpoint, destination: Destination, secret: Secret, allowed: Collection[str]
    ) -> None:
        super().__init__(Wire(pool, endpoint, destination.bucket, allowed))
        fields = secret.reveal()
        self._signer = Signer(
            access_key_id=fields.get("access_key_id", ""),
            secret_access_key=fields.get("secret_access_key", ""),
            session_token=fields.get("session_token", ""),
            region=endpoint.region,
            host=self._wire.host,
        )
        self._region = endpoint.region
        self._bucket = destination.bucket
        self._secret = secret

    async def survey(self, keys: Sequence[str]) -> Mapping[str, Seen]:
        """Of many keys listings first; what they leave open is asked key by key."""
        if len(keys) <= FEW:
            return await self.peek(keys)
        survey = Survey(keys)
        while (after := survey.start_after()) is not None:
            try:
                answer = await self._page(page_parameters(survey.prefix, after))
                if answer.status == 404:
                    raise self.error(read_refusal(answer.status, answer.body), keys[0])
                if answer.status != 200:
                    break  # may not list, or something that the HEADs will run into and put into words
                survey.take(read_page(answer.body))
            except BadXml:
                break
        answers = survey.answers()
        rest = [key for key in keys if key not in answers]
        return answers if not rest else {**answers, **await self.peek(rest)}

    async def head(self, key: str) -> Answer:
        """With the digests that the provider computed."""
        return await self._request("HEAD", self._wire.path(key), "", {"x-amz-checksum-mode": "ENABLED"}, limit=0)

    async def first_byte(self, key: str) -> Answer:
        """See :class:`Questions`."""
        return await self._request("GET", self._wire.path(key), "", {"range": "bytes=0-0"}, limit=WORDS)

    async def begin(self, key: str) -> str:
        """Begin an upload in pieces; its id."""
        answer = await self._request("POST", self._wire.path(key), "uploads=", {}, limit=WORDS)
        found = _upload_id(answer.body) if answer.status == 200 else ""
        if not found:
            raise self.error(self.refused(answer), key)
        return found

    async def abort(self, key: str, upload: str) -> None:
        """Abort an upload in pieces."""
        await self.delete(key, encode_query({"uploadId": upload}))

    async def delete(self, key: str, query: str) -> None:
        """Delete an object, or what ``query`` names of it."""
        answer = await self._request("DELETE", self._wire.path(key), query, {}, limit=WORDS)
        if answer.status not in (200, 204, 404):
            raise self.error(self.refused(answer), key)

    async def _page(self, parameters: Mapping[str, str]) -> Answer:
        return await self._request("GET", self._wire.base or "/", encode_query(parameters), {}, limit=PAGE_BYTES)

    async def _request(self, method: str, path: str, query: str, extra: Mapping[str, str], limit: int) -> Answer:
        def headers(now: float) -> Mapping[str, str]:
            return self._signer.headers(method, path, query, now, extra)

        return await self._wire.request(method, path, query, headers, limit=limit)

    def refused(self, answer: Answer) -> Refused:
        """See :class:`Questions`."""
        headers = answer.headers
        return read_refusal(answer.status, answer.body, headers.get("x-amz-bucket-region", ""), headers.get("Date", ""))

    def error(self, refused: Refused, key: str) -> DestinationError:
        """See :class:`Questions`."""
        fields = self._secret.reveal()
        return error_of(
            refused,
            bucket=self._bucket,
            what=repr(key),
            region=self._region,
            session=bool(fields.get("session_token")),
            secrets=tuple(v for k, v in fields.items() if k in {"access_key_id", "secret_access_key", "session_token"}),
        )

    def seen(self, answer: Answer) -> Seen:
        """See :class:`Questions`."""
        headers = answer.headers
        length = headers.get("Content-Length", "")
        sha256 = headers.get("x-amz-checksum-sha256", "")
        return Seen(
            exists=True,
            size=int(length) if length.isdecimal() else None,
            etag=headers.get("ETag", "").removeprefix("W/").strip('"'),
            version_id=headers.get("x-amz-version-id", ""),
            opaque_etag=(
                headers.get("x-amz-server-side-encryption", "") in _OPAQUE
                or "x-amz-server-side-encryption-customer-algorithm" in headers
            ),
            sha256="" if "-" in sha256 else sha256,  # with a dash it is a digest of digests
        )


def _upload_id(body: bytes) -> str:
    """From the answer to a begun upload; empty where it is none."""
    found: list[str] = []

    def leaf(path: tuple[str, ...], text: str) -> None:
        if len(path) == 2 and path[1] == "UploadId":
            found.append(text)

    try:
        parse_xml(body, leaf)
    except BadXml:
        return ""
    return found[0] if found else ""
