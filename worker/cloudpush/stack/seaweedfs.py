"""SeaweedFS: a real S3 server that stands for a user's cloud, in the demo and in tests."""

from __future__ import annotations

import base64
import http.client
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloudpush.stack import binaries
from cloudpush.stack.ports import HOST, free_ports
from cloudpush.stack.private import private_dir, write_private
from cloudpush.stack.process import Child, Pause
from cloudpush.stack.service import Service

_LISTENERS = ("master", "volume", "filer", "s3", "admin")
#: Sockets that it makes in /tmp by fixed names and leaves there.
_STRAY = (
    *(Path(f"/tmp/seaweedfs-{name}-grpc-") for name in _LISTENERS),  # noqa: S108 - SeaweedFS chose the place
    *(Path(f"/tmp/seaweedfs-{name}-") for name in _LISTENERS),  # noqa: S108
)


@dataclass(frozen=True, slots=True)
class S3Identity:
    """An access key and what it may do: ``Admin``, ``Read``, ``Write``, ``List``, or ``Write:BUCKET``."""

    name: str
    access_key: str
    secret_key: str = field(repr=False)
    actions: tuple[str, ...] = ("Admin", "Read", "Write", "List", "Tagging")

    def document(self) -> dict[str, Any]:
        """As SeaweedFS reads it."""
        return {
            "name": self.name,
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": list(self.actions),
        }


#: The name of the identity provider in :func:`web_identity`'s document.
_PROVIDER = "cloudpush"


def web_identity(
    issuer: str,
    jwks_url: str,
    audience: str,
    roles: Mapping[str, str],
    *,
    session: str = "1h",
) -> dict[str, Any]:
    """SeaweedFS' document for roles that trust an OpenID Connect issuer: its STS lends their keys for identity tokens.

    ``roles``: name → the `sub` that it demands, or nothing for any; each may do everything with every bucket, so that what a
    session may do is what its own policy says. ``session``: how long keys live where a request does not say. The role's ARN
    is :func:`role_arn`. Roles are in this document only: SeaweedFS reads it at its start.
    """
    everything = {"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*", "arn:aws:s3:::*/*"]}
    itself = {"Effect": "Allow", "Action": ["sts:ValidateSession"], "Resource": ["*"]}
    return {
        "sts": {
            "tokenDuration": session,
            "maxSessionLength": "12h",
            "issuer": "seaweedfs-sts",
            "signingKey": base64.b64encode(secrets.token_bytes(32)).decode(),
        },
        "providers": [
            {
                "name": _PROVIDER,
                "type": "oidc",
                "enabled": True,
                "config": {"issuer": issuer, "clientId": audience, "jwksUri": jwks_url},
            }
        ],
        "policy": {"defaultEffect": "Deny"},
        "roles": [
            {
                "roleName": name,
                "roleArn": role_arn(name),
                "trustPolicy": {"Version": "2012-10-17", "Statement": [_trust(subject)]},
                "attachedPolicies": ["everything"],
            }
            for name, subject in roles.items()
        ],
        "policies": [{"name": "everything", "document": {"Version": "2012-10-17", "Statement": [everything, itself]}}],
    }


def role_arn(name: str) -> str:
    """What SeaweedFS calls a role: without an account."""
    return f"arn:aws:iam::role/{name}"


def _trust(subject: str) -> dict[str, Any]:
    statement: dict[str, Any] = {
        "Effect": "Allow",
        "Principal": {"Federated": _PROVIDER},
        "Action": ["sts:AssumeRoleWithWebIdentity"],
    }
    # AWS calls the key HOST:sub.
    return statement | ({"Condition": {"StringEquals": {"oidc:sub": subject}}} if subject else {})


class SeaweedFS(Service):
    """One S3 endpoint on loopback that keeps its data in ``directory``. Signatures are checked."""

    name = "seaweedfs"

    def __init__(
        self,
        directory: Path,
        identities: Sequence[S3Identity],
        *,
        buckets: Sequence[str] = (),
        iam: Mapping[str, Any] | None = None,
        log: Path | None = None,
    ) -> None:
        """``buckets`` are made at the start; ``iam`` is SeaweedFS' own document for STS and roles."""
        super().__init__()
        self.directory = directory
        self._identities = tuple(identities)
        self._buckets = tuple(buckets)
        self._iam = iam
        self._log = log or directory / "seaweedfs.log"
        self._ports: list[int] = []

    @property
    def endpoint(self) -> str:
        """``http://127.0.0.1:PORT``; known once it was started."""
        return f"http://{self.address}"

    @property
    def address(self) -> str:
        """``127.0.0.1:PORT``, as an operator lists an allowed endpoint."""
        return f"{HOST}:{self._port('s3')}"

    @property
    def where(self) -> str:
        """The endpoint."""
        return self.endpoint if self._ports else ""

    def launch(self) -> Child:
        """Start all its servers in one process, each on a port that is free."""
        data = private_dir(private_dir(self.directory) / "data")
        config = self.directory / "s3.json"
        write_private(config, json.dumps({"identities": [one.document() for one in self._identities]}))
        self._ports = self._ports or free_ports(2 * len(_LISTENERS))
        options = {
            "dir": str(data),
            "ip": HOST,
            "ip.bind": HOST,
            "master.telemetry": "false",
            **{f"{name}.port": str(self._port(name)) for name in _LISTENERS},
            **{f"{name}.port.grpc": str(self._port(name, grpc=True)) for name in _LISTENERS},
            "s3.port.iceberg": "0",
            "s3.port.lance": "0",
            "s3.autoCreateBucket": "false",  # a missing bucket is an error here, as everywhere else
            "s3.config": str(config),
            "webdav": "false",
            "admin.ui": "false",
            "volume.preStopSeconds": "0",
        }
        if self._buckets:
            options["bucket"] = ",".join(self._buckets)
        if self._iam is not None:
            write_private(self.directory / "iam.json", json.dumps(self._iam))
            options["s3.iam.config"] = str(self.directory / "iam.json")
        command: list[str | Path] = [
            binaries.seaweedfs(),
            "-logtostderr",
            "mini",
            *(f"-{key}={value}" for key, value in options.items()),
        ]
        return Child(command, self._log, directory=self.directory)

    def probe(self) -> bool:
        """Whether S3 answers and a volume takes files."""
        try:
            status, _ = _get(self._port("s3"), "/")
            _, assigned = _get(self._port("master"), "/dir/assign")
            made = all(_get(self._port("filer"), f"/buckets/{b}/")[0] == http.HTTPStatus.OK for b in self._buckets)
        except (OSError, http.client.HTTPException):
            return False
        return made and status in (http.HTTPStatus.OK, http.HTTPStatus.FORBIDDEN) and b'"fid"' in assigned

    def stop(self, pause: Pause | None = None) -> bool:
        """As every service; removes the sockets that it leaves behind."""
        gentle = super().stop(pause) if pause else super().stop()
        for stray in _STRAY:
            for port in self._ports:
                stray.with_name(f"{stray.name}{port}.sock").unlink(missing_ok=True)
        return gentle

    def _port(self, name: str, *, grpc: bool = False) -> int:
        return self._ports[2 * _LISTENERS.index(name) + grpc]


def _get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
