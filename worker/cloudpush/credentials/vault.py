"""The rights over sealed credentials, held by the roles in Vault.

::

    Sealer       role intake   seals; cannot read back
    TokenSealer  role web      seals the tokens that a consent gave; cannot read back
    Vault        role worker   unseals credentials; cannot change them
    Safe         role worker   unseals sheets of signed URLs, and seals new ones; cannot change them
    TokenSafe    role worker   unseals tokens, and seals those that follow; cannot change them
    Keeper       role keeper   destroys, rotates, rewraps; cannot decrypt

``config/vault/policies`` holds each role to this; the integration tests try every right that a role must not have.
A block, of a sheet or of tokens, is bound to its set or grant, its owner and its number: no two can be exchanged unnoticed.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn
from uuid import UUID

from cloudpush.credentials.connection import Absent, Rejected, VaultConnection
from cloudpush.credentials.envelope import KEY_BITS, Binding, Envelope, decrypt, encrypt, key_version, read_envelope
from cloudpush.credentials.kinds import dump, load
from cloudpush.errors import CloudPushError, Code, CredentialError, VaultError
from cloudpush.push.grants.model import OAUTH_GRANT
from cloudpush.push.job import Secret
from cloudpush.push.signed.model import SIGNED_URLS
from cloudpush.push.signed.sheets import BLOCK_BYTES

#: Transit's words about a wrapped data key that it will not unwrap. Other refusals, such as a Transit
#: key that is missing, are no fault of a credential.
_DAMAGED = ("message authentication failed", "invalid ciphertext", "base64", "too old")


#: Envelopes kept at most; a worker that meets more credentials than that within the time starts afresh.
KNOWN = 1024

#: Blocks of one set that are destroyed at a time.
PURGERS = 8


def _path(credential_id: UUID) -> str:
    return f"credentials/{credential_id}"


def _sheet_path(credential_id: UUID, number: int) -> str:
    return f"sheets/{credential_id}.{number}"


def _block_binding(credential_id: UUID, owner: str, number: int, kind: str) -> Binding:
    return Binding(owner, credential_id, f"{kind}.{number}")


def _data_key(connection: VaultConnection) -> tuple[bytes, str]:
    """A fresh data key and the same wrapped. Raises VaultError."""
    settings = connection.settings
    made = connection.run(
        lambda vault: vault.secrets.transit.generate_data_key(
            settings.vault_transit_key, "plaintext", bits=KEY_BITS, mount_point=settings.vault_transit_mount
        )
    )
    return base64.b64decode(made["plaintext"]), str(made["ciphertext"])


def _create(connection: VaultConnection, path: str, envelope: Envelope) -> None:
    """Store it where nothing is yet. Raises VaultError."""
    connection.run(
        lambda vault: vault.secrets.kv.v2.create_or_update_secret(
            path, envelope.stored(), cas=0, mount_point=connection.settings.vault_kv_mount
        )
    )


def _seal(connection: VaultConnection, path: str, plaintext: bytes, binding: Binding) -> int:
    """Seal under a data key of its own and return the Transit key's version. Raises VaultError; overwrites nothing."""
    key, wrapped = _data_key(connection)
    envelope = encrypt(plaintext, key, wrapped, binding)
    del key  # it lives no longer than this call
    _create(connection, path, envelope)
    return envelope.key_version


def _seal_block(
    connection: VaultConnection, credential_id: UUID, owner: str, number: int, kind: str, plaintext: bytes
) -> int:
    if len(plaintext) > BLOCK_BYTES:
        raise ValueError(f"a block of {len(plaintext)} bytes; none may be above {BLOCK_BYTES}")
    path, binding = _sheet_path(credential_id, number), _block_binding(credential_id, owner, number, kind)
    return _seal(connection, path, plaintext, binding)


def _open_block(connection: VaultConnection, credential_id: UUID, owner: str, number: int, kind: str) -> _Opened:
    path, binding = _sheet_path(credential_id, number), _block_binding(credential_id, owner, number, kind)
    return _open(connection, path, binding, _fetch(connection, path, binding))


def _fetch(connection: VaultConnection, path: str, binding: Binding) -> Envelope:
    """The envelope under ``path``. Raises VaultError, CredentialError (purged, corrupt)."""
    try:
        found = connection.run(
            lambda vault: vault.secrets.kv.v2.read_secret_version(
                path, mount_point=connection.settings.vault_kv_mount, raise_on_deleted_version=True
            )
        )
    except Absent as e:
        raise _gone(binding) from e
    return read_envelope(found["data"], binding)


#: A plaintext and the envelope that it was in.
_Opened = tuple[bytes, Envelope]


def _open(connection: VaultConnection, path: str, binding: Binding, envelope: Envelope) -> _Opened:
    """The plaintext and the envelope that it was in: ``envelope``, or a newer one. Raises as :func:`_fetch` does."""
    try:
        key = _unwrap(connection, envelope, binding)
    except CredentialError:
        # A rotation may have rewrapped it, and retired the old key version, between our two requests.
        stale, envelope = envelope, _fetch(connection, path, binding)
        if envelope.wrapped == stale.wrapped:
            raise
        key = _unwrap(connection, envelope, binding)
    return decrypt(envelope, key, binding), envelope


def _unwrap(connection: VaultConnection, envelope: Envelope, binding: Binding) -> bytes:
    settings = connection.settings
    try:
        answer = connection.run(
            lambda vault: vault.secrets.transit.decrypt_data(
                settings.vault_transit_key, envelope.wrapped, mount_point=settings.vault_transit_mount
            )
        )
    except Rejected as e:
        raise _blame(e, binding) from e
    try:
        return base64.b64decode(answer["plaintext"], validate=True)
    except binascii.Error:
        return b""  # no data key: decrypting with it says what is wrong


class Sealer:
    """Seals credentials (role ``intake``). Implements :class:`cloudpush.push.credential.Sealer`."""

    def __init__(self, connection: VaultConnection) -> None:
        self._connection = connection

    def seal(self, credential_id: UUID, owner: str, secret: Secret) -> int:
        """Seal ``secret`` under ``credential_id`` and return the Transit key's version.

        Raises VaultError, also where something is sealed under this id already: nothing is overwritten.
        """
        binding = Binding(owner, credential_id, secret.kind)
        return _seal(self._connection, _path(credential_id), dump(secret), binding)

    def seal_sheet(self, credential_id: UUID, owner: str, number: int, plaintext: bytes) -> int:
        """Seal one block of a sheet under its number and return the Transit key's version.

        Raises VaultError, also where something is sealed under this number already. Thread-safe.
        """
        return _seal_block(self._connection, credential_id, owner, number, SIGNED_URLS, plaintext)


class TokenSealer:
    """Seals tokens (role ``web``). Implements ``push.grants.ports.TokenSealer``."""

    def __init__(self, connection: VaultConnection) -> None:
        self._connection = connection

    def seal_tokens(self, grant_id: UUID, owner: str, number: int, plaintext: bytes) -> int:
        """Seal one generation and return the version of the key that wraps it.

        Raises VaultError, also where something is sealed under this number already. Thread-safe.
        """
        return _seal_block(self._connection, grant_id, owner, number, OAUTH_GRANT, plaintext)


class Leaver:
    """Destroys nothing (role ``web``): what is marked as ``purging`` the sweeper destroys. Implements ``push.credential.Keeper``."""

    def _refuse(self, *_: object) -> NoReturn:
        raise VaultError(Code.VAULT_DENIED, "The role web destroys and rewraps nothing: the sweeper does.")

    purge = purge_sheets = rotate = newest = rewrap = rewrap_sheet = retire = _refuse


class Vault:
    """Unseals credentials (role ``worker``). Implements :class:`cloudpush.push.ports.Vault`.

    ``remember``: seconds for which an envelope, the ciphertext, is kept so that the next part asks Vault for one thing
    and not two. Its data key is asked for each time. Whether a credential may still be used is what Postgres says
    before each use; that its ciphertext is known does not matter to that.
    """

    def __init__(self, connection: VaultConnection, *, remember: float = 0.0) -> None:
        self._connection = connection
        self._remember = remember
        self._known: dict[Binding, tuple[float, Envelope]] = {}

    def unseal(self, credential_id: UUID, owner: str, kind: str) -> Secret:
        """Return the plaintext credential. Repeatable.

        Raises VaultError (sealed, away, denied: all retryable) or CredentialError (purged: nothing in
        Vault under this id; corrupt: does not decrypt for this owner, id and kind).
        """
        binding = Binding(owner, credential_id, kind)
        known = self._recall(binding)
        envelope = known or _fetch(self._connection, _path(credential_id), binding)
        plaintext, envelope = _open(self._connection, _path(credential_id), binding, envelope)
        if envelope is not known:
            self._keep(binding, envelope)
        return load(kind, plaintext)

    def _recall(self, binding: Binding) -> Envelope | None:
        until, envelope = self._known.get(binding, (0.0, None))
        return envelope if time.monotonic() < until else None

    def _keep(self, binding: Binding, envelope: Envelope) -> None:
        if self._remember:
            if len(self._known) >= KNOWN:
                self._known.clear()
            self._known[binding] = (time.monotonic() + self._remember, envelope)


class Safe:
    """Opens sheets of signed URLs and seals further ones (role ``worker``). Implements ``push.signed.ports.Safe``."""

    def __init__(self, connection: VaultConnection) -> None:
        self._connection = connection

    def open_sheet(self, credential_id: UUID, owner: str, number: int) -> bytes:
        """The plaintext of one block. Repeatable.

        Raises VaultError, or CredentialError: purged (nothing under this number), corrupt.
        """
        return _open_block(self._connection, credential_id, owner, number, SIGNED_URLS)[0]

    def seal_sheet(self, credential_id: UUID, owner: str, number: int, plaintext: bytes) -> int:
        """Seal one block of at most ``sheets.BLOCK_BYTES``; returns the version of the key that wraps it.

        Raises VaultError, also where something is sealed under this number already.
        """
        return _seal_block(self._connection, credential_id, owner, number, SIGNED_URLS, plaintext)


class TokenSafe:
    """Opens tokens and seals those that follow (role ``worker``). Implements ``push.grants.ports.TokenSafe``. Thread-safe."""

    def __init__(self, connection: VaultConnection) -> None:
        self._connection = connection

    def open_tokens(self, grant_id: UUID, owner: str, number: int) -> bytes:
        """The plaintext of one generation. Repeatable.

        Raises VaultError, or CredentialError: purged (nothing under this number), corrupt.
        """
        return _open_block(self._connection, grant_id, owner, number, OAUTH_GRANT)[0]

    def find_tokens(self, grant_id: UUID, owner: str, number: int) -> tuple[bytes, int] | None:
        """As :meth:`open_tokens`, with the version of the key that wraps it; None where nothing is there that opens."""
        try:
            plaintext, envelope = _open_block(self._connection, grant_id, owner, number, OAUTH_GRANT)
        except CredentialError:
            return None
        return plaintext, envelope.key_version

    def prepare(self, grant_id: UUID, owner: str, marker: int, number: int) -> TokenPen:
        """Prove that Vault takes blocks of this grant by storing an empty one; fetch the key of the next.

        Raises VaultError: then nothing may be spent.
        """
        _seal_block(self._connection, grant_id, owner, marker, OAUTH_GRANT, b"")
        binding = _block_binding(grant_id, owner, number, OAUTH_GRANT)
        return TokenPen(self._connection, _sheet_path(grant_id, number), binding, *_data_key(self._connection))


class TokenPen:
    """A block that is ready to be written. Implements ``push.grants.ports.Pen``."""

    def __init__(self, connection: VaultConnection, path: str, binding: Binding, key: bytes, wrapped: str) -> None:
        self._connection = connection
        self._path = path
        self._binding = binding
        self._key = key
        self._wrapped = wrapped
        self._written: tuple[bytes, Envelope] | None = None

    def write(self, plaintext: bytes) -> int:
        """Store it and return the version of the key that wraps it. One request while all is well. Raises VaultError.

        Repeatable with the same plaintext: where an answer got lost on its way, the block that is there is ours.
        """
        if self._written is None:
            self._written = plaintext, encrypt(plaintext, self._key, self._wrapped, self._binding)
            self._key = b""  # it encrypts once
        text, envelope = self._written
        if text != plaintext:
            raise ValueError("a pen writes one text")
        try:
            _create(self._connection, self._path, envelope)
        except VaultError as e:
            if e.code is not Code.VAULT_DENIED or not self._is_there(envelope):
                raise
        return envelope.key_version

    def _is_there(self, envelope: Envelope) -> bool:
        """Whether what is stored is what we wrote: an earlier request got there, and its answer did not get here."""
        try:
            return _fetch(self._connection, self._path, self._binding).ciphertext == envelope.ciphertext
        except (VaultError, CredentialError):
            return False

    def __repr__(self) -> str:
        return "<TokenPen ****>"


class Keeper:
    """Destroys, rotates and rewraps (role ``keeper``). Implements :class:`cloudpush.push.credential.Keeper`."""

    def __init__(self, connection: VaultConnection) -> None:
        self._connection = connection

    def purge(self, credential_id: UUID) -> None:
        """Destroy every version of the credential and see that it is gone. Repeatable. Raises VaultError."""
        self._purge(_path(credential_id), f"Credential {credential_id}")

    def purge_sheets(self, credential_id: UUID, numbers: Iterable[int]) -> None:
        """Destroy these blocks of a set and see that they are gone. Repeatable. Raises VaultError."""

        def purge(number: int) -> None:
            self._purge(_sheet_path(credential_id, number), f"Block {number} of {credential_id}")

        with ThreadPoolExecutor(PURGERS, thread_name_prefix="purge") as pool:
            for _ in pool.map(purge, numbers):
                pass  # asked for, so that what one of them raised is raised here

    def _purge(self, path: str, what: str) -> None:
        mount = self._connection.settings.vault_kv_mount
        self._connection.run(
            lambda vault: vault.secrets.kv.v2.delete_metadata_and_all_versions(path, mount_point=mount)
        )
        try:
            self._connection.run(lambda vault: vault.secrets.kv.v2.read_secret_metadata(path, mount_point=mount))
        except Absent:
            return
        raise VaultError(Code.VAULT_DENIED, f"{what} is still in Vault after it was deleted; it is tried again.")

    def rotate(self) -> int:
        """Add a version to the Transit key and return its number. Raises VaultError."""
        settings = self._connection.settings
        self._connection.run(
            lambda vault: vault.secrets.transit.rotate_key(
                settings.vault_transit_key, mount_point=settings.vault_transit_mount
            )
        )
        return self.newest()

    def newest(self) -> int:
        """The newest version of the Transit key. Raises VaultError."""
        settings = self._connection.settings
        key = self._connection.run(
            lambda vault: vault.secrets.transit.read_key(
                settings.vault_transit_key, mount_point=settings.vault_transit_mount
            )
        )
        return int(key["latest_version"])

    def rewrap(self, credential_id: UUID, owner: str, kind: str, version: int) -> int:
        """Have the data key wrapped by the newest key version, unless it is by ``version`` or later already.

        Returns the version that wraps it now, and leaves no older wrapping behind. Repeatable. Raises
        VaultError, or CredentialError (purged; corrupt: not an envelope, or not wrapped by our key).
        """
        return self._rewrap(_path(credential_id), Binding(owner, credential_id, kind), version)

    def rewrap_sheet(self, credential_id: UUID, owner: str, number: int, version: int, kind: str) -> int:
        """As :meth:`rewrap`, for one block of a credential of this ``kind``: a set's, or a grant's."""
        binding = _block_binding(credential_id, owner, number, kind)
        return self._rewrap(_sheet_path(credential_id, number), binding, version)

    def _rewrap(self, path: str, binding: Binding, version: int) -> int:
        mount = self._connection.settings.vault_kv_mount
        try:
            found = self._connection.run(
                lambda vault: vault.secrets.kv.v2.read_secret_version(
                    path, mount_point=mount, raise_on_deleted_version=True
                )
            )
        except Absent as e:
            raise _gone(binding) from e
        envelope = read_envelope(found["data"], binding)
        if envelope.key_version >= version:
            return envelope.key_version
        envelope = envelope.rewrapped(self._rewrapped(envelope, binding))
        # One version only, and said before writing: the write itself then drops the old wrapping.
        self._connection.run(lambda vault: vault.secrets.kv.v2.update_metadata(path, max_versions=1, mount_point=mount))
        # Lost to another rewrap or a purge, the check-and-set is refused: VaultError, and the caller repeats.
        self._connection.run(
            lambda vault: vault.secrets.kv.v2.create_or_update_secret(
                path, envelope.stored(), cas=found["metadata"]["version"], mount_point=mount
            )
        )
        return envelope.key_version

    def retire(self, version: int) -> None:
        """Let Transit refuse what is wrapped by a key older than ``version``. Repeatable. Raises VaultError."""
        settings = self._connection.settings
        self._connection.run(
            lambda vault: vault.secrets.transit.update_key_configuration(
                settings.vault_transit_key,
                min_decryption_version=version,
                mount_point=settings.vault_transit_mount,
            )
        )

    def _rewrapped(self, envelope: Envelope, binding: Binding) -> str:
        settings = self._connection.settings
        try:
            answer = self._connection.run(
                lambda vault: vault.secrets.transit.rewrap_data(
                    settings.vault_transit_key, envelope.wrapped, mount_point=settings.vault_transit_mount
                )
            )
        except Rejected as e:
            raise _blame(e, binding) from e
        wrapped = str(answer["ciphertext"])
        key_version(wrapped)
        return wrapped


def _gone(binding: Binding) -> CredentialError:
    return CredentialError(
        Code.CREDENTIAL_PURGED, f"Credential {binding.credential_id} is not in Vault: it was purged, or never sealed."
    )


def _blame(error: Rejected, binding: Binding) -> CloudPushError:
    """What a refused unwrapping means: a corrupt credential, or a fault of Vault's."""
    if any(words in error.detail for words in _DAMAGED):
        return binding.corrupt(f"has a data key that Vault does not unwrap ({error.detail})")
    return VaultError(error.code, error.message, detail=error.detail)
