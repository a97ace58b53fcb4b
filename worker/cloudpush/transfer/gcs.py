"""Google Cloud Storage as an rclone remote, opened with an access token.

rclone is told an ``expiry`` and no refresh token: when the token's time comes it looks into its configuration for another
and, where there is none, fails at once. (Its option ``access_token`` would go around its own HTTP client.) It cuts large
files into pieces of 16 MiB and offers no option for that; a file is one request to whoever verifies, since Google computes
MD5 over the whole.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from rclone_python.remote_types import RemoteTypes

from cloudpush.push.endpoints import Endpoint, check_secret
from cloudpush.push.grants.model import Bearer
from cloudpush.push.job import Destination, Secret
from cloudpush.transfer.remotes import Backend

#: rclone calls a token expired so long before its expiry (golang.org/x/oauth2, ``defaultExpiryDelta``).
EARLY = timedelta(seconds=10)
#: rclone turns to the next token this share of the time between renewal and end before the end, and at most so long.
TURN_SHARE, TURN_MOST = 4, timedelta(seconds=30)


def parameters(destination: Destination, secret: Secret, endpoint: Endpoint) -> dict[str, str]:
    """The remote's options by name, the token among them. Raises InputError for another kind of secret."""
    check_secret(destination, secret)
    options = {
        "env_auth": "false",
        **opens(secret),
        "bucket_policy_only": "true",  # no ACLs: buckets with uniform access refuse them
        "no_check_bucket": "true",
        "encoding": "Raw",
    }
    if endpoint.url != "https://storage.googleapis.com":
        options["endpoint"] = f"{endpoint.url}/storage/v1/"
    return options


def opens(secret: Secret) -> dict[str, str]:
    """The option that holds the token."""
    assert isinstance(secret, Bearer)  # noqa: S101 - the kind was checked
    token = {"access_token": secret.access_token, "token_type": "Bearer"}
    if (turn := turns_at(secret)) is not None:
        token["expiry"] = _stamp(turn + EARLY)
    # Exactly as rclone would write it: what differs it stores again, some time later.
    return {"token": json.dumps(token, separators=(",", ":"))}


def turns_at(secret: Bearer) -> datetime | None:
    """When rclone is to turn to the next token: after that was to be had, before this one ends. None: never."""
    if secret.expires_at is None:
        return None
    left = secret.expires_at - secret.renew_at if secret.renew_at is not None else timedelta()
    return secret.expires_at - min(max(left, timedelta()) / TURN_SHARE, TURN_MOST)


def _stamp(when: datetime) -> str:
    """RFC 3339 as Go writes it: UTC, no zeros at the end of the fraction."""
    text = when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return text.rstrip("0").rstrip(".") + "Z"


def _masked(secret: Secret) -> tuple[str, ...]:
    return (secret.reveal()["access_token"],)


def _ends(secret: Secret) -> datetime | None:
    return secret.expires_at if isinstance(secret, Bearer) else None


GCS = Backend(
    type=RemoteTypes.google_cloud_storage.value,
    secrets=("token",),
    parameters=parameters,
    opens=opens,
    masked=_masked,
    piece_size=lambda _size: None,
    ends=_ends,
)
