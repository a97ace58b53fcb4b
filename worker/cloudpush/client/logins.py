"""Where a login is kept, and found again: the environment, a file that somebody names, the system's keyring, a file of ours.

Strongest first: ``CLOUDPUSH_TOKEN``; the file that ``CLOUDPUSH_TOKEN_FILE`` names; the keyring; ``login.json`` in the user's
configuration directory, mode 0600. ``CLOUDPUSH_URL`` says which server is meant; without it, the one of the last
``cloudpush login``. A token that was kept for one server is never used for another.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from cloudpush.client.transport import checked_url
from cloudpush.errors import Code, InputError

SERVICE = "cloudpush"
#: A token, or a JWT with many claims, and its line's end.
MOST_BYTES = 64 * 1024
#: Keyrings below this priority keep nothing, or keep it in the open.
LEAST_PRIORITY = 1.0


@dataclass(frozen=True, slots=True)
class Login:
    """An address and the token for it; an empty token where none was found. ``source``: where it was found."""

    url: str
    token: str = field(repr=False)
    source: str


@dataclass(frozen=True, slots=True)
class Kept:
    """What is remembered of a login beside its token."""

    url: str
    name: str = ""
    token_id: str = ""
    expires_at: str = ""


def find_login() -> Login | None:
    """The login that this process uses; None where no server is named. Raises InputError."""
    kept = _read()
    url = os.environ.get("CLOUDPUSH_URL", "") or str(kept.get("url", ""))
    if not url:
        return None
    url = checked_url(url)
    if token := os.environ.get("CLOUDPUSH_TOKEN", ""):
        return Login(url, token, "CLOUDPUSH_TOKEN")
    if named := os.environ.get("CLOUDPUSH_TOKEN_FILE", ""):
        return Login(url, _token_of(Path(named)), "CLOUDPUSH_TOKEN_FILE")
    one = _one(kept, url)
    if one.get("keyring") and (token := _from_keyring(url)):
        return Login(url, token, "keyring")
    return Login(url, str(one.get("token", "")), "file" if one.get("token") else "")


def keep_login(kept: Kept, token: str) -> str:
    """Keep ``token`` for its server, which is the one that is meant from now on. Returns "keyring" or the file's path."""
    ringed = _to_keyring(kept.url, token)
    one: dict[str, Any] = {"name": kept.name, "token_id": kept.token_id, "expires_at": kept.expires_at}
    one |= {"keyring": True} if ringed else {"token": token}
    found = _read()
    _write({"url": kept.url, "logins": {**_logins(found), kept.url: one}})
    return "keyring" if ringed else str(login_file())


def forget_login(url: str) -> None:
    """Keep nothing of it any more. Repeatable."""
    found = _read()
    logins = dict(_logins(found))
    one = logins.pop(url, None)
    if one is not None and one.get("keyring"):
        _out_of_keyring(url)
    if one is not None:
        _write({"url": "" if found.get("url") == url else found.get("url", ""), "logins": logins})


def known_login(url: str = "") -> Kept | None:
    """What is remembered of the login at ``url``, or of the one that is meant."""
    found = _read()
    url = url or str(found.get("url", ""))
    one = _one(found, url)
    return Kept(url, *(str(one.get(k, "")) for k in ("name", "token_id", "expires_at"))) if one else None


def login_file() -> Path:
    """Where logins are remembered."""
    return platformdirs.user_config_path("cloudpush") / "login.json"


# -- files -------------------------------------------------------------------------------------


def _token_of(path: Path) -> str:
    """The token in a file that is nobody else's to read."""
    try:
        return _private(path).strip()
    except OSError as e:
        raise _wrong(path, f"cannot be read: {e.strerror or type(e).__name__}") from e


def _private(path: Path) -> str:
    """The text of a file that only we can read, or a group of ours that the system's own user let read it (as Kubernetes does)."""
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        open_to = 0o037 if found.st_uid == 0 and os.geteuid() != 0 else 0o077
        if stat.S_IMODE(found.st_mode) & open_to:
            raise _wrong(path, "can be read by others: `chmod 600` it, and make a new token if others may have read it")
        if found.st_uid not in (0, os.geteuid()):
            raise _wrong(path, "is another user's")
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES or not data.isascii():
        raise _wrong(path, "holds no token")
    return data.decode("ascii")


def _wrong(path: Path, why: str) -> InputError:
    return InputError(Code.BAD_INPUT, f"The token file {str(path)!r} {why}.", field="CLOUDPUSH_TOKEN_FILE")


def _read() -> Mapping[str, Any]:
    path = login_file()
    try:
        found = json.loads(_private(path))
    except FileNotFoundError:
        return {}
    except OSError as e:
        raise _wrong(path, f"cannot be read: {e.strerror or type(e).__name__}") from e
    except ValueError:
        raise _wrong(path, "is no JSON: remove it and run `cloudpush login` again") from None
    return found if isinstance(found, dict) else {}


def _write(value: Mapping[str, Any]) -> None:
    """Whole or not at all, and never readable by others, not for a moment."""
    path = login_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".login-", dir=path.parent)  # 0600
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            json.dump(value, file)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _logins(found: Mapping[str, Any]) -> Mapping[str, Any]:
    logins = found.get("logins")
    return logins if isinstance(logins, dict) else {}


def _one(found: Mapping[str, Any], url: str) -> Mapping[str, Any]:
    one = _logins(found).get(url)
    return one if isinstance(one, dict) else {}


# -- the keyring -------------------------------------------------------------------------------


def _ring() -> Any:
    """The system's keyring; None where there is none that keeps secrets."""
    import keyring  # noqa: PLC0415 -- looks for all there are: only where one is used

    try:
        ring = keyring.get_keyring()
        return ring if float(ring.priority) >= LEAST_PRIORITY else None
    except Exception:  # noqa: BLE001 -- any of the system's libraries: as good as none
        return None


def _from_keyring(url: str) -> str:
    try:
        ring = _ring()
        return (ring.get_password(SERVICE, url) or "") if ring else ""
    except Exception:  # noqa: BLE001 -- locked, or away: likewise
        return ""


def _to_keyring(url: str, token: str) -> bool:
    try:
        ring = _ring()
        if ring is None:
            return False
        ring.set_password(SERVICE, url, token)
        return bool(ring.get_password(SERVICE, url) == token)
    except Exception:  # noqa: BLE001 -- likewise
        return False


def _out_of_keyring(url: str) -> None:
    try:
        if ring := _ring():
            ring.delete_password(SERVICE, url)
    except Exception:  # noqa: BLE001, S110 -- likewise: what is revoked opens nothing
        pass
