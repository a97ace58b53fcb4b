"""Rows and URLs as users hand them over, for tests that send nothing: their signatures are made up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

#: What must be nowhere but in Vault: 64 hex digits, as a signature is.
CANARY = ("c0ffee" * 11)[:64]
BUCKET = "bkt-1"
ORIGIN = f"https://{BUCKET}.s3.eu-west-1.amazonaws.com"


def put_url(
    key: str, at: datetime, *, life: int = 3600, origin: str = ORIGIN, signed: str = "host", **more: Any
) -> str:
    """A PUT of ``key``, presigned at ``at`` for ``life`` seconds."""
    query = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"AKCANARYID/{at:%Y%m%d}/eu-west-1/s3/aws4_request",
        "X-Amz-Date": f"{at:%Y%m%dT%H%M%SZ}",
        "X-Amz-Expires": str(life),
        "X-Amz-SignedHeaders": signed,
        **more,
        "X-Amz-Signature": CANARY,
    }
    return f"{origin}/{quote(key)}?" + "&".join(f"{name}={quote(str(value), safe='')}" for name, value in query.items())


def tree_sas(directory: str, at: datetime, *, life: int = 3600) -> str:
    """A container SAS of Azure, cut to ``directory``."""
    until = at + timedelta(seconds=life)
    return (
        f"https://acct.blob.core.windows.net/{BUCKET}/{directory}?sv=2022-11-02&sp=rcw&sr=c&spr=https"
        f"&se={until:%Y-%m-%dT%H%%3A%M%%3A%SZ}&sig={CANARY}"
    )


def a_row(path: str, at: datetime, *, prefix: str = "runs/7/", **options: Any) -> dict[str, object]:
    """A row with a PUT URL for ``path`` below ``prefix``."""
    return {"path": path, "url": put_url(prefix + path, at, **options)}


def numbered(*rows: Mapping[str, object]) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Rows with the lines of a CSV file: the first is its header."""
    yield from enumerate(rows, 2)
