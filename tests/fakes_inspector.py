"""A bucket in memory that an Inspector can be asked about, and a secret that is none."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cloudpush.errors import CloudPushError, Code, DestinationError
from cloudpush.push.job import Destination, Fingerprint, Secret, Seen
from cloudpush.push.ports import Control, Inspector
from cloudpush.push.states import Strength
from cloudpush.verify.proof import strength_of


@dataclass(frozen=True)
class PlainSecret(Secret):
    """An access key for tests."""

    access_key_id: str = "AKTEST00000000000001"
    secret_access_key: str = field(default="test-secret-canary", repr=False)
    session_token: str = field(default="", repr=False)
    region: str = ""
    own_endpoint: str = ""

    @property
    def kind(self) -> str:
        return "access_key"

    @property
    def endpoint(self) -> str:
        return self.own_endpoint

    def reveal(self) -> Mapping[str, str]:
        return {
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
            "session_token": self.session_token,
            "region": self.region,
        }


class GoOn(Control):
    """A control that never objects."""

    def check(self) -> None:
        return


@dataclass
class FakeInspector(Inspector):
    """Answers from ``objects``.

    ``bucket``: the only one that exists. ``hidden``: keys that the credential may not look at. ``error``: raised by
    every question. ``asked``: what each call asked for.
    """

    bucket: str
    objects: dict[str, Seen] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    error: CloudPushError | None = None
    asked: list[tuple[str, ...]] = field(default_factory=list)
    closed: CloudPushError | None = None  # raised by whoever begins an upload in pieces
    uploads: dict[str, str] = field(default_factory=dict)  # begun and not ended

    def put(self, key: str, data: bytes, piece_size: int | None = None) -> None:
        """Store ``data`` as an upload would, in pieces if ``piece_size`` is given."""
        self.objects[key] = Seen(exists=True, size=len(data), etag=etag_of(data, piece_size))

    def look(self, destination: Destination, secret: Secret, keys: Sequence[str], control: Control) -> Sequence[Seen]:
        control.check()
        self.asked.append(tuple(keys))
        if self.error is not None:
            raise self.error
        if keys and destination.bucket != self.bucket:
            raise DestinationError(Code.NO_SUCH_BUCKET, f"The bucket {destination.bucket!r} does not exist.")
        return [self._seen(key) for key in keys]

    def survey(self, destination: Destination, secret: Secret, keys: Sequence[str], control: Control) -> Sequence[Seen]:
        return self.look(destination, secret, keys, control)

    def begin_upload(self, destination: Destination, secret: Secret, key: str, control: Control) -> str:
        if self.closed is not None:
            raise self.closed
        self.uploads[key] = f"upload-{len(self.uploads)}"
        return self.uploads[key]

    def erase(self, destination: Destination, secret: Secret, key: str, control: Control) -> bool:
        return False

    def end_upload(self, destination: Destination, secret: Secret, key: str, upload: str, control: Control) -> None:
        self.uploads.pop(key, None)

    def strength(self, expected: Fingerprint, seen: Seen) -> Strength:
        return strength_of(expected, seen)

    def _seen(self, key: str) -> Seen:
        if key in self.hidden:
            return Seen(exists=None, error=DestinationError(Code.ACCESS_DENIED, f"{key!r} may not be looked at."))
        return self.objects.get(key, Seen(exists=False))


def etag_of(data: bytes, piece_size: int | None = None) -> str:
    """The ETag that S3 gives ``data``."""
    if piece_size is None:
        return hashlib.md5(data).hexdigest()
    pieces = [hashlib.md5(data[i : i + piece_size]).digest() for i in range(0, max(len(data), 1), piece_size)]
    return f"{hashlib.md5(b''.join(pieces)).hexdigest()}-{len(pieces)}"


def print_of(data: bytes, piece_size: int | None = None) -> Fingerprint:
    """The Fingerprint of ``data``, sent in pieces if ``piece_size`` is given."""
    return Fingerprint(
        size=len(data),
        mtime_ns=0,
        sha256=hashlib.sha256(data).digest(),
        md5=hashlib.md5(data).digest() if piece_size is None else None,
        md5_etag=etag_of(data, piece_size),
    )
