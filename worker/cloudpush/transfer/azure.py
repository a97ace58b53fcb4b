"""A container of Azure Blob Storage as an rclone remote, opened with a shared access signature.

The signature must have the permissions ``rcw``: after each upload rclone asks for the blob, and no option forbids that. A
file of up to one block goes in a single request without a digest; a larger one in blocks, each with its MD5, which Azure
compares. rclone does not read a file beforehand for a digest that Azure would only store (``disable_checksum``).
"""

from __future__ import annotations

from datetime import datetime
from urllib.parse import parse_qs

from rclone_python.remote_types import RemoteTypes

from cloudpush.push.blocks import BLOCK, block_size
from cloudpush.push.endpoints import Endpoint, check_secret
from cloudpush.push.grants.model import Sas
from cloudpush.push.job import Destination, Secret
from cloudpush.transfer.remotes import Backend

#: Blocks of one file under way at once; each is held in memory.
BLOCKS_AT_ONCE = 4


def parameters(destination: Destination, secret: Secret, endpoint: Endpoint) -> dict[str, str]:  # noqa: ARG001 -- the URL is the secret's
    """The remote's options by name, the signature among them. Raises InputError for another kind of secret."""
    check_secret(destination, secret)
    return {
        "env_auth": "false",
        **opens(secret),
        "no_check_container": "true",
        "encoding": "Raw",
        "disable_checksum": "true",
        "chunk_size": f"{BLOCK}B",  # a number alone would be KiB
        "upload_concurrency": str(BLOCKS_AT_ONCE),
    }


def opens(secret: Secret) -> dict[str, str]:
    """The option that holds the signature."""
    return {"sas_url": secret.reveal()["sas_url"]}


def _masked(secret: Secret) -> tuple[str, ...]:
    """The query, and in it what signs: servers quote either."""
    query = secret.reveal()["query"]
    return (query, *parse_qs(query).get("sig", ()))


def _ends(secret: Secret) -> datetime | None:
    return secret.expires_at if isinstance(secret, Sas) else None


AZURE = Backend(
    type=RemoteTypes.azureblob.value,
    secrets=("sas_url",),
    parameters=parameters,
    opens=opens,
    masked=_masked,
    piece_size=block_size,
    ends=_ends,
)
