"""A destination and a secret as an rclone remote, and how files are cut into pieces: S3's, and the choice between backends.

The options and why: CloudPush looks at every object itself after the upload, so rclone need not (``no_head``); it never
creates buckets (``no_check_bucket``); it does not read a large file a second time for a digest that only itself would
look at (``disable_checksum``; each piece is still sent with its MD5, which the server checks).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from rclone_python.remote_types import RemoteTypes

from cloudpush.push.blocks import MIB, cut
from cloudpush.push.endpoints import Endpoint, check_secret
from cloudpush.push.job import Destination, Secret

#: Files of this size or more are sent in pieces: a single request cannot be resumed, pieces go in parallel.
CUTOFF = 64 * MIB
PIECE = 16 * MIB
#: Pieces of one file under way at once. They are read from the file as they are sent, not buffered.
PIECES_AT_ONCE = 4
#: S3 accepts no more pieces of one object.
MAX_PIECES = 10_000

SOURCE_REMOTE = "cloudpush-source"
SOURCE_TYPE = RemoteTypes.local.value
#: Planning has decided which symlinks may be followed.
SOURCE_PARAMETERS = {"encoding": "Raw", "copy_links": "true"}

#: For calls that change the configuration: ask nothing, and take values as they are.
QUIETLY = {"nonInteractive": True, "noObscure": True}

#: Dialect → rclone's provider. What is not here speaks plain S3.
_PROVIDERS = {
    "aws": "AWS",
    "ceph": "Ceph",
    "cloudflare": "Cloudflare",
    "minio": "Minio",
    "seaweedfs": "SeaweedFS",
}
_PLAIN = "Other"


@dataclass(frozen=True, slots=True)
class Backend:
    """How rclone speaks one protocol.

    ``opens``: the options that a secret fills, and nothing else does; ``secrets``: their names. ``masked``: what of a secret must never be shown.
    ``ends``: when a secret ends, where that is known. ``sets``: uploads under way are given a further secret by
    ``backend/command set``; without it they read it from the configuration, or keep theirs. ``lists``: ``sync/copy``
    sends uploads and nothing else, so that many files may go as a list. ``own_connections``: each remote has its own, made
    as the call that first used it wished; without it all remotes share those that the first one made. ``abandons``: what
    a killed rclone left unfinished can be found and ended; elsewhere it vanishes by itself.
    """

    type: str
    secrets: tuple[str, ...]
    parameters: Callable[[Destination, Secret, Endpoint], dict[str, str]]
    opens: Callable[[Secret], dict[str, str]]
    masked: Callable[[Secret], tuple[str, ...]]
    piece_size: Callable[[int], int | None]
    ends: Callable[[Secret], datetime | None] = lambda _secret: None
    sets: bool = False
    lists: bool = False
    own_connections: bool = False
    abandons: bool = False


def parameters(destination: Destination, secret: Secret, endpoint: Endpoint) -> dict[str, str]:
    """The remote's options by name, the secret among them. Raises InputError for a kind of secret that is no key pair."""
    check_secret(destination, secret)
    return {
        "provider": _provider(destination, endpoint),
        "env_auth": "false",
        **opens(secret),
        "endpoint": endpoint.url,
        "region": endpoint.region,
        "force_path_style": _flag(endpoint.path_style),
        "encoding": "Raw",
        "no_check_bucket": "true",
        "no_head": "true",
        "disable_checksum": "true",
        "upload_cutoff": f"{CUTOFF}B",  # a number alone would be KiB
        "chunk_size": f"{PIECE}B",
        "upload_concurrency": str(PIECES_AT_ONCE),
    }


def opens(secret: Secret) -> dict[str, str]:
    """The options that hold a key pair."""
    fields = secret.reveal()
    return {
        "access_key_id": fields["access_key_id"],
        "secret_access_key": fields["secret_access_key"],
        "session_token": fields.get("session_token", ""),
    }


def _provider(destination: Destination, endpoint: Endpoint) -> str:
    """What rclone calls the provider. Its ``AWS`` always puts the bucket into the host name, and needs TLS for its checksums."""
    provider = _PROVIDERS.get(destination.profile.dialect, _PLAIN)
    if provider == _PROVIDERS["aws"] and (endpoint.path_style or not endpoint.url.startswith("https://")):
        return _PLAIN
    return provider


def _flag(value: bool) -> str:
    return "true" if value else "false"


def piece_size(size: int) -> int | None:
    """Bytes per piece that rclone sends a file of ``size`` bytes in; None for a single request."""
    return None if size < CUTOFF else cut(size, PIECE, MAX_PIECES)


def _masked(secret: Secret) -> tuple[str, ...]:
    return tuple(opens(secret).values())


S3 = Backend(
    type=RemoteTypes.s3.value,
    secrets=("access_key_id", "secret_access_key", "session_token"),
    parameters=parameters,
    opens=opens,
    masked=_masked,
    piece_size=piece_size,
    sets=True,
    lists=True,
    own_connections=True,
    abandons=True,
)
