"""Signing in a command line by a browser elsewhere (RFC 8628): it works over ssh.

The command shows a short code; whoever is signed in to the pages confirms that code, and sees which host asked from where;
the command, which asks all the while, gets its token then, once. The long code that it asks with is known to it alone.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from cloudpush.errors import AccessError, Code, InputError
from cloudpush.push.access.desk import DAY_SECONDS, Made
from cloudpush.push.access.model import Principal, Right, Scope
from cloudpush.push.access.ports import DeviceLogin, LoginBook
from cloudpush.push.access.tokens import digest, new_token

#: A code lives so long.
LOGIN_SECONDS = 600.0
#: A command asks no sooner than this again.
INTERVAL_SECONDS = 5
#: No vowels, so that no word comes of it; 20 letters, 8 of them: 34 bits.
ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"
CODE_CHARS = 8
#: What a login's token lives, at most.
LOGIN_DAYS = 30
_TRIES = 8
_HOST_LENGTH = 100


@dataclass(frozen=True, slots=True)
class Begun:
    """What the command needs. ``device_code`` is its secret."""

    device_code: str = field(repr=False)
    user_code: str
    seconds: int
    interval: int


class TooSoon(AccessError):
    """It was asked before its interval had passed: from now on it is 5 seconds longer. ``seconds``: seconds."""

    def __init__(self) -> None:
        longer = INTERVAL_SECONDS + 5
        super().__init__(Code.RATE_LIMITED, f"Ask for the token every {longer} s, no sooner.")
        self.seconds = longer


class DeviceLogins:
    """Logins on their way. Thread-safe."""

    def __init__(self, book: LoginBook, most_days: int) -> None:
        self._book = book
        self._seconds = min(LOGIN_DAYS, most_days) * DAY_SECONDS

    def begin(self, scopes: frozenset[Scope], host: str, address: str) -> Begun:
        """A login that waits to be confirmed. ``host``: as the command says; ``address``: as we see. Raises StoreError."""
        code = secrets.token_urlsafe(32)
        host = "".join(c for c in host if c.isprintable()).strip()[:_HOST_LENGTH]
        asked_from = f"{host} ({address})" if host else address
        for _ in range(_TRIES):
            user_code = "".join(secrets.choice(ALPHABET) for _ in range(CODE_CHARS))
            made = self._book.add_device(
                digest(code), user_code, asked_from=asked_from, scopes=scopes, seconds=LOGIN_SECONDS
            )
            if made is not None:
                return Begun(code, shown(user_code), int(LOGIN_SECONDS), INTERVAL_SECONDS)
        raise AccessError(Code.RATE_LIMITED, "Too many logins are on their way: try again in a minute.")

    def find(self, user_code: str) -> DeviceLogin | None:
        """The login of a code that somebody typed, if it still waits. Raises StoreError."""
        code = plain(user_code)
        return self._book.find_by_user_code(code) if code else None

    def decide(self, asked_by: Principal, user_code: str, *, approve: bool) -> None:
        """Confirm or deny. Raises AccessError FORBIDDEN, InputError LOGIN_EXPIRED, StoreError."""
        if approve:
            asked_by.need(Right.TOKENS)
        if not plain(user_code) or not self._book.decide(plain(user_code), asked_by.name, approve=approve):
            raise expired()

    def fetch(self, device_code: str) -> Made:
        """The token, once it is confirmed.

        Raises InputError LOGIN_PENDING, LOGIN_EXPIRED; AccessError FORBIDDEN: denied; TooSoon; StoreError.
        """
        key = digest(device_code)
        found = self._book.poll(key, INTERVAL_SECONDS - 1)
        if found is None or found[0].taken:
            raise expired()
        login, early = found
        if login.owner is None:
            if early:
                raise TooSoon
            raise InputError(Code.LOGIN_PENDING, "Nobody has confirmed this login yet.", field="device_code")
        if login.denied:
            raise AccessError(Code.FORBIDDEN, "This login was denied in the browser.", field="device_code")
        text = new_token()
        token = self._book.take(key, digest(text), seconds=self._seconds)
        if token is None:
            raise expired()
        return Made(token, text)


def shown(user_code: str) -> str:
    """As people read it: XXXX-XXXX."""
    return f"{user_code[:4]}-{user_code[4:]}"


def plain(text: str) -> str:
    """The code that somebody typed, in whatever case and with whatever dashes; empty where it is none."""
    code = "".join(c for c in text.upper()[:40] if c not in "- \t")
    return code if len(code) == CODE_CHARS and all(c in ALPHABET for c in code) else ""


def expired() -> InputError:
    """No such login, or not any more."""
    return InputError(Code.LOGIN_EXPIRED, "This code is not known, was used or has expired.", field="device_code")
