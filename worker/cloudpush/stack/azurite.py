"""Azurite: a real Azure Blob server that stands for a user's storage account, in the demo and in tests."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, urlencode

from cloudpush.errors import Code, StackError
from cloudpush.stack import binaries
from cloudpush.stack.certificate import CERTIFICATE, certificate
from cloudpush.stack.ports import HOST, free_ports
from cloudpush.stack.private import private_dir
from cloudpush.stack.process import Child
from cloudpush.stack.service import Service

#: The service version that signatures here are made for: Azurite refuses those of newer ones, Azure takes both.
_VERSION = "2022-11-02"


@dataclass(frozen=True, slots=True)
class AzureAccount:
    """A storage account. The default is the one that every Azurite serves; its key is public knowledge."""

    name: str = "devstoreaccount1"
    key: str = field(
        default="Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==", repr=False
    )

    def sign(self, *fields: str) -> str:
        """The signature over ``fields``, as Azure joins them."""
        secret = base64.b64decode(self.key)
        return base64.b64encode(hmac.digest(secret, "\n".join(fields).encode(), hashlib.sha256)).decode()


class Azurite(Service):
    """One Blob endpoint on loopback that keeps its data in ``directory``. Shared access signatures are checked.

    With ``oauth`` it speaks TLS, by a certificate of its own, and takes access tokens; of these it checks the claims (issuer,
    audience, times) and not the signature.
    """

    name = "azurite"

    def __init__(
        self, directory: Path, *, containers: Sequence[str] = (), oauth: bool = False, log: Path | None = None
    ) -> None:
        """``containers`` are made at the start."""
        super().__init__()
        self.oauth = oauth
        self.directory = directory
        self.account = AzureAccount()
        self._missing = list(containers)
        self._log = log or directory / "azurite.log"
        self._port = 0

    @property
    def address(self) -> str:
        """``127.0.0.1:PORT``, as an operator lists an allowed endpoint; known once it was started."""
        return f"{HOST}:{self._port}"

    @property
    def endpoint(self) -> str:
        """``http[s]://127.0.0.1:PORT/ACCOUNT``: on an address, the account is the first segment of the path."""
        return f"{'https' if self.oauth else 'http'}://{self.address}/{self.account.name}"

    @property
    def ca_file(self) -> Path:
        """What clients verify its certificate with, where it speaks TLS; there once it was started."""
        return self.directory / CERTIFICATE

    @property
    def where(self) -> str:
        """The endpoint."""
        return self.endpoint if self._port else ""

    def launch(self) -> Child:
        """Start it on a port that is free."""
        data = private_dir(private_dir(self.directory) / "data")
        self._port = self._port or free_ports(1)[0]
        command: list[str | Path] = [
            binaries.node(),
            binaries.azurite(),
            "--blobHost",
            HOST,
            "--blobPort",
            str(self._port),
            "--location",
            data,
            "--silent",
            "--skipApiVersionCheck",  # clients may be newer than it
            "--disableTelemetry",
        ]
        if self.oauth:
            public, key = certificate(self.directory, self.name)
            command += ["--oauth", "basic", "--cert", public, "--key", key]
        return Child(command, self._log, directory=self.directory)

    def probe(self) -> bool:
        """Whether it answers, and has the containers."""
        try:
            while self._missing:
                self.make_container(self._missing[0])
                self._missing.pop(0)
            return self._put(f"/{self.account.name}/?comp=list") != http.HTTPStatus.INTERNAL_SERVER_ERROR
        except (OSError, http.client.HTTPException):
            return False

    def make_container(self, name: str) -> None:
        """Make it, unless it is there. Raises StackError where Azurite refuses; OSError, HTTPException while it is away."""
        until = _stamp(datetime.now(UTC) + timedelta(minutes=5))
        # Of an account: permission to create, on the Blob service, for containers.
        fields = [self.account.name, "c", "b", "c", "", until, "", "", _VERSION, "", ""]
        query = {"sv": _VERSION, "ss": "b", "srt": "c", "sp": "c", "se": until, "sig": self.account.sign(*fields)}
        status = self._put(f"/{self.account.name}/{quote(name)}?restype=container&{urlencode(query)}")
        if status not in (http.HTTPStatus.CREATED, http.HTTPStatus.CONFLICT):
            raise StackError(Code.STACK, f"{self.name} answers {int(status)} when container {name!r} is made.")

    def signed_url(self, container: str, blob: str = "", *, permissions: str = "cw", seconds: float = 3600) -> str:
        """A URL with a shared access signature for ``blob``, or for the whole container, that lives so long."""
        until = _stamp(datetime.now(UTC) + timedelta(seconds=seconds))
        scope = "b" if blob else "c"
        name = f"{container}/{blob}" if blob else container
        what = f"/blob/{self.account.name}/{name}"
        # permissions, start, expiry, resource, identifier, addresses, protocols, version, scope, snapshot,
        # encryption scope, five headers of the answer
        fields = [permissions, "", until, what, "", "", "", _VERSION, scope, "", "", *[""] * 5]
        query = {"sv": _VERSION, "sp": permissions, "se": until, "sr": scope, "sig": self.account.sign(*fields)}
        return f"{self.endpoint}/{quote(name)}?{urlencode(query)}"

    def _put(self, target: str) -> int:
        connection = self._connection()
        try:
            connection.request("PUT", target, headers={"Content-Length": "0"})
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if not self.oauth:
            return http.client.HTTPConnection(HOST, self._port, timeout=2)
        context = ssl.create_default_context(cafile=self.ca_file)
        return http.client.HTTPSConnection(HOST, self._port, timeout=2, context=context)


def _stamp(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
