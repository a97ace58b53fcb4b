"""A destination and a secret as an rclone remote, and how files are cut into pieces.

The options and why: CloudPush looks at every object itself after the upload, so rclone need not (``no_head``); it never
creates buckets (``no_check_bucket``); it does not read a large file a second time for a digest that only itself would
look at (``disable_checksum``; each piece is still sent with its MD5, which the server checks).
"""

from __future__ import annotations

from rclone_python.remote_types import RemoteTypes

from cloudpush.errors import Code, InputError
from cloudpush.push.endpoints import Endpoint
from cloudpush.push.job import Destination, Secret

MIB = 1024 * 1024

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

DESTINATION_TYPE = RemoteTypes.s3.value
#: What opens something, of the options below.
SECRET_OPTIONS = ("access_key_id", "secret_access_key", "session_token")
#: For calls that change the configuration: ask nothing, and take values as they are.
QUIETLY = {"nonInteractive": True, "noObscure": True}
KIND = "access_key"

#: Dialect → rclone's provider. What is not here speaks plain S3.
_PROVIDERS = {
    "aws": "AWS",
    "ceph": "Ceph",
    "cloudflare": "Cloudflare",
    "minio": "Minio",
    "seaweedfs": "SeaweedFS",
}
_PLAIN = "Other"


def parameters(destination: Destination, secret: Secret, endpoint: Endpoint) -> dict[str, str]:
    """The remote's options by name, the secret among them. Raises InputError for a kind of secret that is no key pair."""
    if secret.kind != KIND:
        raise InputError(
            Code.BAD_INPUT,
            f"A credential of kind {secret.kind!r} cannot open {destination.uri!r}; use {KIND}.",
            field="kind",
        )
    fields = secret.reveal()
    return {
        "provider": _provider(destination, endpoint),
        "env_auth": "false",
        "access_key_id": fields["access_key_id"],
        "secret_access_key": fields["secret_access_key"],
        "session_token": fields.get("session_token", ""),
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


def _provider(destination: Destination, endpoint: Endpoint) -> str:
    """What rclone calls the provider. Its ``AWS`` always puts the bucket into the host name, and needs TLS for its checksums."""
    provider = _PROVIDERS.get(destination.profile.dialect, _PLAIN)
    if provider == _PROVIDERS["aws"] and (endpoint.path_style or not endpoint.url.startswith("https://")):
        return _PLAIN
    return provider


def _flag(value: bool) -> str:
    return "true" if value else "false"


def piece_size(size: int) -> int | None:
    """Bytes per piece that rclone sends a file of ``size`` bytes in; None for a single request.

    The arithmetic is rclone's (``fs/chunksize``): the configured size while that gives few enough pieces, else
    the smallest whole number of MiB that does.
    """
    if size < CUTOFF:
        return None
    if size <= PIECE * MAX_PIECES:
        return PIECE
    piece = -(-(size // MAX_PIECES) // MIB) * MIB
    if size // piece == MAX_PIECES and size % MAX_PIECES:
        piece += MIB
    return piece
