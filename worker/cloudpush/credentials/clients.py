"""Client secrets: what CloudPush itself shows an OAuth provider. One a provider, under ``clients/NAME`` in Vault.

The keeper puts and forgets them and can read none; worker and web application read them, each for its own half of the
flow. ``sign-in`` is the name of the provider that signs people in.
"""

from __future__ import annotations

import re

from cloudpush.credentials.connection import Absent, VaultConnection
from cloudpush.errors import Code, InputError, VaultError

#: Whose secret it is that signs people in; no provider may have this name.
SIGN_IN = "sign-in"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_MOST = 4096


def is_name(name: str) -> bool:
    """Whether a provider may be called so: its name becomes part of paths."""
    return _NAME.fullmatch(name) is not None


class Clients:
    """The client secrets, as far as the connection's role may. Thread-safe."""

    def __init__(self, connection: VaultConnection) -> None:
        self._connection = connection

    def secret(self, name: str) -> str:
        """The client secret of provider ``name``; empty where there is none. Raises VaultError."""
        mount = self._connection.settings.vault_kv_mount
        try:
            found = self._connection.run(
                lambda vault: vault.secrets.kv.v2.read_secret_version(
                    _path(name), mount_point=mount, raise_on_deleted_version=True
                )
            )
        except Absent:
            return ""
        secret = found["data"].get("client_secret")
        if not isinstance(secret, str):
            raise VaultError(
                Code.VAULT_DENIED,
                f"What lies in Vault under {_path(name)} is no client secret: `cloudpush provider set-secret {name}`.",
            )
        return secret

    def put(self, name: str, secret: str) -> None:
        """Store it in place of an older one, of which nothing is kept. Repeatable. Raises InputError, VaultError."""
        if not secret or len(secret) > _MOST or not all("!" <= c <= "~" for c in secret):
            raise InputError(
                Code.BAD_INPUT,
                f"The client secret must have 1 to {_MOST} characters, printable ASCII without blanks: copy it again.",
                field="secret",
            )
        path, mount = _path(name), self._connection.settings.vault_kv_mount
        # One version only, and said before writing: the write itself then drops the older secret.
        self._connection.run(lambda vault: vault.secrets.kv.v2.update_metadata(path, max_versions=1, mount_point=mount))
        self._connection.run(
            lambda vault: vault.secrets.kv.v2.create_or_update_secret(
                path, {"client_secret": secret}, mount_point=mount
            )
        )

    def forget(self, name: str) -> None:
        """Destroy it and see that it is gone. Repeatable. Raises InputError, VaultError."""
        path, mount = _path(name), self._connection.settings.vault_kv_mount
        self._connection.run(
            lambda vault: vault.secrets.kv.v2.delete_metadata_and_all_versions(path, mount_point=mount)
        )
        try:
            self._connection.run(lambda vault: vault.secrets.kv.v2.read_secret_metadata(path, mount_point=mount))
        except Absent:
            return
        raise VaultError(Code.VAULT_DENIED, f"{path} is still in Vault after it was deleted: try again.")


def _path(name: str) -> str:
    if not is_name(name):
        raise InputError(
            Code.UNKNOWN_PROVIDER,
            f"provider={name[:100]!r} is not a name: write lower-case letters, digits and dashes.",
            field="provider",
        )
    return f"clients/{name}"
