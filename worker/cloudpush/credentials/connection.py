"""The way to Vault as one role: login, renewal, re-login, and foreign errors translated here.

One connection serves all threads of a process. It logs in at first use, renews its token at two
thirds of the token's life, and logs in again when the token turns out to be dead.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import hvac
import requests
from hvac import exceptions as vault_errors
from requests.adapters import HTTPAdapter

from cloudpush.errors import Code, VaultError
from cloudpush.logs import get_logger, redact
from cloudpush.settings import Settings

CONNECT_SECONDS = 3.0
READ_SECONDS = 10.0
CLOSE_SECONDS = 2.0
#: Kept-alive connections; as many threads may ask at once as a worker can have.
POOL = 64
RENEW_AT = 2 / 3  # of the token's life
#: A token that lives and is refused is replaced once it is this old: its role may have got its policy since.
STALE_SECONDS = 60.0
#: After a renewal that failed for a passing reason.
RENEW_AGAIN_SECONDS = 5.0

log = get_logger(__name__)


class Rejected(VaultError):
    """Vault understood and refused this very input (400): a wrong ciphertext, a lost check-and-set."""


class Absent(VaultError):
    """Nothing lies under this path (404), on a mount that exists."""


@dataclass(frozen=True, slots=True)
class _Login:
    """A token and the moments of its life, in seconds of the monotonic clock."""

    token: str
    at: float
    life: float
    renew_at: float
    ends_at: float

    @classmethod
    def of(cls, auth: Mapping[str, Any], now: float, at: float | None = None) -> _Login:
        life = float(auth["lease_duration"]) or math.inf  # 0: the token does not end
        renew_at = now + life * RENEW_AT if auth["renewable"] else now + life
        return cls(str(auth["client_token"]), now if at is None else at, life, renew_at, now + life)

    def __repr__(self) -> str:
        return "<_Login ****>"


class VaultConnection:
    """Requests to Vault as ``role``. Thread-safe; connects and logs in at first use."""

    def __init__(self, settings: Settings, role: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.role = role
        self._clock = clock
        self._lock = threading.Lock()
        self._login: _Login | None = None
        session = requests.Session()
        # Proxy, CA and netrc variables of the environment must not divert a request that carries a token.
        session.trust_env = False
        session.verify = str(settings.vault_ca_file) if settings.vault_ca_file else True
        pool = HTTPAdapter(pool_connections=1, pool_maxsize=POOL)
        session.mount("http://", pool)
        session.mount("https://", pool)
        self._client = hvac.Client(
            url=settings.vault_url,
            token="",  # not None, which would make hvac read VAULT_TOKEN and ~/.vault-token
            cert=(),  # not None, which would make it read VAULT_CLIENT_CERT
            verify=session.verify,
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            allow_redirects=False,  # a redirect would carry the token to wherever it leads
            session=session,
            namespace=settings.vault_namespace or None,
        )

    def run(self, request: Callable[[hvac.Client], Any]) -> dict[str, Any]:
        """The ``data`` of Vault's answer to ``request``; empty where it answers with nothing.

        A dead token is replaced and the request sent once more, so it must be repeatable or refuse
        to be repeated (check-and-set). Raises VaultError; Rejected and Absent where the caller may know better.
        """
        with translated(self.settings.vault_url, f"role {self.role}"):
            login = self._current()
            try:
                return _data(request(self._client))
            except vault_errors.Forbidden:
                if not self._replaced(login):
                    raise
            return _data(request(self._client))

    def check(self) -> None:
        """Ask Vault about our own token. Raises VaultError: away, sealed, or the role cannot log in."""
        self.run(lambda client: client.auth.token.lookup_self())

    def close(self) -> None:
        """Give the token back and close the kept-alive connections; another request would log in anew. Never raises."""
        with self._lock:
            login, self._login = self._login, None
            if login is not None:
                # A command of a second must not leave a token that lives for an hour. Where Vault is away, it ends by itself.
                with suppress(vault_errors.VaultError, requests.RequestException):
                    self._client.adapter.post("/v1/auth/token/revoke-self", timeout=CLOSE_SECONDS)
            self._client.token = ""
            self._client.adapter.close()

    def _current(self) -> _Login:
        """A login that is not over, renewed when it is time."""
        login, now = self._login, self._clock()
        if login is not None and now < login.renew_at:
            return login
        # While one thread renews a token that still lives, the others go on with it.
        if not self._lock.acquire(blocking=login is None or now >= login.ends_at) and login is not None:
            return login
        try:
            login, now = self._login, self._clock()
            if login is None or now >= login.ends_at:
                login = self._log_in()
            elif now >= login.renew_at:
                login = self._renew(login)
        finally:
            self._lock.release()
        return login

    def _log_in(self) -> _Login:
        """Log in with the role's files as they are now, so a replaced secret id needs no restart."""
        role_id, secret_id = self._read("role-id"), self._read("secret-id")
        try:
            answer = self._client.auth.approle.login(
                role_id, secret_id, use_token=False, mount_point=self.settings.vault_approle_mount
            )
        except vault_errors.InvalidRequest as e:
            # Not Rejected: it is the role that is refused, not what the caller asks.
            raise VaultError(
                Code.VAULT_DENIED, f"Vault refuses the login of the role {self.role}: {_words(e)}.", detail=_words(e)
            ) from e
        return self._adopt(_Login.of(_auth(answer), self._clock()))

    def _renew(self, login: _Login) -> _Login:
        try:
            renewed = _Login.of(_auth(self._client.auth.token.renew_self()), self._clock(), login.at)
        except (vault_errors.Forbidden, vault_errors.InvalidRequest):
            return self._log_in()  # revoked, or not renewable any more
        except (vault_errors.VaultError, requests.RequestException):
            # Vault is away. The token still lives: let the request itself tell, and renew a little later.
            again = min(self._clock() + RENEW_AGAIN_SECONDS, login.ends_at)
            return self._adopt(_Login(login.token, login.at, login.life, again, login.ends_at))
        if renewed.life < login.life / 2:
            return self._log_in()  # its greatest age is near: renewing gives ever less
        return self._adopt(renewed)

    def _adopt(self, login: _Login) -> _Login:
        self._client.token = login.token
        self._login = login
        return login

    def _replaced(self, refused: _Login) -> bool:
        """Whether there is another token now than the ``refused`` one, so that asking again makes sense."""
        with self._lock:
            if self._login is not None and self._login.token != refused.token:
                return True
            if self._clock() - refused.at < STALE_SECONDS and self._alive():
                return False  # a fresh token that lives: it is the policy that refuses
            log.info("vault.login_again", role=self.role)
            self._log_in()
            return True

    def _alive(self) -> bool:
        try:
            self._client.auth.token.lookup_self()
        except vault_errors.Forbidden:
            return False
        return True

    def _read(self, what: str) -> str:
        path = self.settings.vault_auth_dir / f"{self.role}-{what}"
        try:
            text = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as e:
            why = e.strerror if isinstance(e, OSError) else "not ASCII"
            raise VaultError(
                Code.VAULT_DENIED, f"The Vault role {self.role} cannot log in: {path} cannot be read ({why})."
            ) from None
        if not text:
            raise VaultError(Code.VAULT_DENIED, f"The Vault role {self.role} cannot log in: {path} is empty.")
        return text


def _body(answer: object) -> dict[str, Any]:
    """The answer's JSON object. hvac gives a raw response for whatever is no JSON with status 200."""
    if isinstance(answer, dict):
        return answer
    if isinstance(answer, requests.Response) and answer.status_code == requests.codes.no_content:
        return {}
    status = answer.status_code if isinstance(answer, requests.Response) else "no"
    raise VaultError(
        Code.VAULT_UNREACHABLE,
        f"What answers is not an active Vault (status {status}): set CLOUDPUSH_VAULT_URL to the active node.",
    )


def _data(answer: object) -> dict[str, Any]:
    return _body(answer).get("data") or {}


def _auth(answer: object) -> dict[str, Any]:
    auth: dict[str, Any] = _body(answer)["auth"]
    return auth


#: hvac's exception → our code and words. The first that matches holds.
_ANSWERS: tuple[tuple[type[Exception], Code, str], ...] = (
    (vault_errors.Forbidden, Code.VAULT_DENIED, "Vault refuses the {who}"),
    (vault_errors.Unauthorized, Code.VAULT_DENIED, "Vault refuses the {who}"),
    (vault_errors.InvalidPath, Code.VAULT_DENIED, "Vault lacks a mount that the {who} needs"),
    (vault_errors.VaultNotInitialized, Code.VAULT_SEALED, "Vault at {url} is not initialised"),
    (vault_errors.VaultDown, Code.VAULT_SEALED, "Vault at {url} is sealed"),
    (vault_errors.RateLimitExceeded, Code.VAULT_UNREACHABLE, "Vault at {url} asks us to slow down"),
    (vault_errors.VaultError, Code.VAULT_UNREACHABLE, "Vault at {url} failed"),
    (requests.exceptions.SSLError, Code.VAULT_UNREACHABLE, "The certificate of Vault at {url} is not trusted"),
    (requests.exceptions.ConnectTimeout, Code.VAULT_UNREACHABLE, "Vault at {url} cannot be reached in time"),
    (requests.exceptions.Timeout, Code.VAULT_UNREACHABLE, "Vault at {url} does not answer in time"),
    (requests.exceptions.RequestException, Code.VAULT_UNREACHABLE, "Vault at {url} cannot be reached"),
    (OSError, Code.VAULT_UNREACHABLE, "CLOUDPUSH_VAULT_CA_FILE cannot be used"),
)
#: What a 503 says when it is not a standby, or a proxy before Vault, that answers.
_SEALED_WORDS = ("sealed", "initialized")


@contextmanager
def translated(url: str, who: str) -> Iterator[None]:
    """Errors of hvac and requests as ours, with Vault's own words redacted in ``detail``."""
    try:
        yield
    except (vault_errors.VaultError, requests.RequestException, OSError) as e:
        error = _translate(e, url, who)
        _disarm(e)
        raise error from e


def _translate(error: Exception, url: str, who: str) -> VaultError:
    words = _words(error)
    if isinstance(error, vault_errors.VaultError) and not _from_vault(error):
        # A proxy, a web server, a TLS port asked in plain text: its 400 or 404 says nothing of our secrets.
        return VaultError(Code.VAULT_UNREACHABLE, f"What answers at {url} is not Vault: {words}.", detail=words)
    if isinstance(error, vault_errors.InvalidRequest):
        return Rejected(Code.VAULT_DENIED, f"Vault refuses a request of the {who}: {words}.", detail=words)
    if isinstance(error, vault_errors.InvalidPath) and not error.errors:
        return Absent(Code.VAULT_DENIED, "Vault has nothing under this name.", detail=words)
    if isinstance(error, vault_errors.VaultDown) and not any(w in words for w in _SEALED_WORDS):
        return VaultError(Code.VAULT_UNREACHABLE, f"Vault at {url} is not active: {words}.", detail=words)
    code, message = next((code, message) for kind, code, message in _ANSWERS if isinstance(error, kind))
    return VaultError(code, f"{message.format(url=url, who=who)}: {words}.", detail=words)


def _words(error: Exception) -> str:
    """Vault's own words on one line, redacted; the exception's name where it gave none."""
    errors = getattr(error, "errors", None) or []
    return redact("; ".join(" ".join(str(e).split()) for e in errors) or type(error).__name__)


def _from_vault(error: vault_errors.VaultError) -> bool:
    """Whether the answer has the shape of Vault's: a list of errors, or (a deleted version) data."""
    return error.errors is not None or (isinstance(error.json, dict) and "data" in error.json)


def _disarm(error: Exception) -> None:
    """Drop what the exception carries beside its text: request bodies and headers hold keys and tokens."""
    if isinstance(error, requests.RequestException):
        error.request = error.response = None
    elif isinstance(error, vault_errors.VaultError):
        error.text = error.json = None
