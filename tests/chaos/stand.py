"""What the pushes of a round have in common: where they go, what they send, how they have to end."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import boto3
from botocore.config import Config

from cloudpush.push.states import State
from cloudpush.stack.seaweedfs import S3Identity

BUCKET = "chaos"
REGION = "us-east-1"
OWNER = "chaos"
USER = S3Identity("chaos", "CHAOSKEY000000000001", "chaossecret0000000000000000000000000001")
KIB, MIB = 1024, 1024**2

#: Relative path → MD5.
Digests = Mapping[str, bytes]


@dataclass(frozen=True)
class Expected:
    """A push that was submitted, and how it has to end."""

    push_id: UUID
    prefix: str
    states: tuple[State, ...]
    files: Digests = field(default_factory=dict)


def client(endpoint: str) -> Any:
    """A boto3 client of the user."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=USER.access_key,
        aws_secret_access_key=USER.secret_key,
        region_name=REGION,
        config=Config(proxies={}, s3={"addressing_style": "path"}),
    )


def write(top: Path, sizes: Mapping[str, int]) -> Digests:
    """Files of these sizes below ``top``."""
    digests = {}
    for path, size in sizes.items():
        data = os.urandom(min(size, MIB)) * (size // min(size, MIB))
        where = top / path
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(data)
        digests[path] = hashlib.md5(data, usedforsecurity=False).digest()
    return digests
