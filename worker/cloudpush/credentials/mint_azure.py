"""A user-delegation SAS: with a consent's token Azure gives a key, and with that we sign for one container or directory.

The signature's version is pinned at one that Azure and Azurite both take; each later one adds lines to what is signed.
The token itself goes nowhere but to the account's own key request; the key never leaves this process.

Sources: "Create a user delegation SAS" and "Get User Delegation Key" of the Storage REST reference; provider-facts §1.3, §3.2.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from cloudpush.credentials.calls import Reply, fill, origin_of, post, unfit
from cloudpush.errors import CloudPushError, Code, CredentialError, DestinationError, InputError
from cloudpush.logs import redact
from cloudpush.net import BadXml, parse_xml
from cloudpush.push.grants.model import Grant, Provider, Sas

VERSION = "2022-11-02"
#: Read, create, write: what an upload in blocks and a HEAD need. No delete, no list.
PERMISSIONS = "rcw"
#: … and of a preflight, which deletes its probe.
PROBE_PERMISSIONS = "rcwd"
#: A key lives twice as long as what is signed with it, so that all of it has its full life; Azure gives no more than this.
KEY_SESSIONS = 2
KEY_MOST = timedelta(days=7)
#: Azure's clock may be behind ours.
SKEW = timedelta(minutes=15)

#: The answer to the question ``namespace`` of a storage account whose directories are real ones (ADLS Gen2).
HIERARCHICAL = "hierarchical"

_KEY_FIELDS = (
    "SignedOid",
    "SignedTid",
    "SignedStart",
    "SignedExpiry",
    "SignedService",
    "SignedVersion",
    "Value",
)


@dataclass(frozen=True, slots=True)
class Account:
    """A storage account.

    ``url``: https://HOST[/NAME], without trailing slash, the operator's with the user's name in it; ``ca_file``: the
    provider's.
    """

    name: str
    url: str
    hierarchical: bool
    ca_file: str = ""

    @classmethod
    def of(cls, provider: Provider, grant: Grant) -> Account:
        """Whose account ``grant`` is for. Raises InputError, SettingsError."""
        if not provider.endpoint:
            raise unfit(provider, "endpoint", "", "is missing: write https://{account}.blob.core.windows.net")
        url = fill(provider.endpoint, provider, grant.settings, "endpoint")
        origin = origin_of(url, provider, "endpoint")
        if origin.scheme != "https":
            raise unfit(provider, "endpoint", url, "is not https: access tokens go to it")
        name = grant.settings.get("account") or origin.host.partition(".")[0]
        return cls(name, url, grant.settings.get("namespace", "") == HIERARCHICAL, provider.ca_file)


@dataclass(frozen=True, slots=True)
class DelegationKey:
    """What Azure gives for a token. Whoever has ``value`` can sign for all that the user may do in the account."""

    oid: str
    tid: str
    start: str
    expiry: str
    service: str
    version: str
    value: bytes = field(repr=False)
    made_at: datetime
    expires_at: datetime

    @property
    def fresh_until(self) -> datetime:
        """Until when it signs: then half of its life is left for what it signed last."""
        return self.made_at + (self.expires_at - self.made_at) / 2


def fetch_key(provider: Provider, account: Account, access_token: str, now: datetime) -> DelegationKey:
    """A key for ``account`` in the name of whom ``access_token`` stands for. One request.

    Raises DestinationError ACCESS_DENIED (a role is missing) and what passes; CredentialError CONSENT_NEEDED: Azure does
    not take this user's tokens.
    """
    life = min(KEY_SESSIONS * timedelta(seconds=provider.session_seconds), KEY_MOST)
    start, expiry = stamp(now - SKEW), stamp(now + life)
    body = f'<?xml version="1.0" encoding="utf-8"?><KeyInfo><Start>{start}</Start><Expiry>{expiry}</Expiry></KeyInfo>'
    reply = post(
        provider,
        f"{account.url}/?restype=service&comp=userdelegationkey",
        data=body.encode(),
        headers={"Content-Type": "application/xml", "x-ms-version": VERSION},
        access_token=access_token,
    )
    if reply.status != 200:
        raise _refusal(reply, account, access_token)
    return _read_key(reply.body, account, now)


def sign(
    account: Account, key: DelegationKey, container: str, prefix: str, expires_at: datetime, *, probe: bool = False
) -> Sas:
    """A signature for ``container``, or for the directory ``prefix`` in it where the account has directories.

    ``probe``: for a preflight. ``expires_at`` is cut to the key's own end. Raises InputError for a name that would forge what is signed.
    """
    ends = min(expires_at, key.expires_at).replace(microsecond=0)
    directory = prefix if account.hierarchical else ""
    for name in (container, directory):
        if any(ord(c) < ord(" ") or ord(c) == 0x7F for c in name):
            raise InputError(
                Code.BAD_INPUT, f"destination: {name[:200]!r} has a control character.", field="destination"
            )
    query = {
        "sv": VERSION,
        "sp": PROBE_PERMISSIONS if probe else PERMISSIONS,
        "se": stamp(ends),
        "sr": "d" if directory else "c",
        "spr": "https",
        "skoid": key.oid,
        "sktid": key.tid,
        "skt": key.start,
        "ske": key.expiry,
        "sks": key.service,
        "skv": key.version,
    }
    if directory:
        query["sdd"] = str(directory.count("/") + 1)
    text = string_to_sign(account.name, f"{container}/{directory}" if directory else container, query)
    query["sig"] = base64.b64encode(hmac.digest(key.value, text.encode(), hashlib.sha256)).decode()
    return Sas(f"{account.url}/{container}", urlencode(query), ends, ca_file=account.ca_file)


def string_to_sign(account: str, what: str, query: dict[str, str]) -> str:
    """What is signed for ``query``; ``what``: CONTAINER[/DIRECTORY], unencoded."""
    said = query.get
    return "\n".join(
        (
            said("sp", ""),
            said("st", ""),  # no start: our clock may be ahead
            said("se", ""),
            f"/blob/{account}/{what}",
            *(said(name, "") for name in ("skoid", "sktid", "skt", "ske", "sks", "skv")),
            *("", "", ""),  # authorised and unauthorised object ids, correlation id
            said("sip", ""),
            said("spr", ""),
            said("sv", ""),
            said("sr", ""),
            *("", ""),  # snapshot, encryption scope
            *("", "", "", "", ""),  # headers of answers
        )
    )


def stamp(when: datetime) -> str:
    """Azure's form, in whole seconds."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _read_key(body: bytes, account: Account, now: datetime) -> DelegationKey:
    found: dict[str, str] = {}

    def leaf(path: tuple[str, ...], text: str) -> None:
        if len(path) == 2 and path[0] == "UserDelegationKey":
            found[path[1]] = text.strip()

    key: DelegationKey | None = None
    try:
        parse_xml(body, leaf)
        oid, tid, start, expiry, service, version, value = (found[name] for name in _KEY_FIELDS)
        secret, expires_at = base64.b64decode(value, validate=True), datetime.fromisoformat(expiry)
        if expires_at.tzinfo is not None and all((oid, tid, start, service, version, secret)):
            key = DelegationKey(oid, tid, start, expiry, service, version, secret, now, expires_at)
    except (BadXml, KeyError, ValueError):  # binascii.Error is a ValueError
        key = None  # the errors may quote the key
    if key is None:
        raise DestinationError(
            Code.PROVIDER_REFUSED,
            f"The storage account {account.name!r} answers with something else than a delegation key.",
        )
    return key


#: What an account says with 401 or 403 when it is the token that it does not take.
_BAD_TOKEN = frozenset({"InvalidAuthenticationInfo", "AuthenticationFailed", "NoAuthenticationInformation"})
_LATE = ("Lifetime validation failed", "token is expired", "not yet valid")
_BUSY = frozenset({"ServerBusy", "OperationTimedOut"})


def _refusal(reply: Reply, account: Account, access_token: str) -> CloudPushError:
    """What Azure's answer means for the push, and for whoever must act."""
    code, words = _read_error(reply)
    detail = redact(f"{reply.status} {code} ({words})", access_token, limit=500)
    who = f"The storage account {account.name!r}"
    if reply.status == 429:
        return DestinationError(Code.THROTTLED, f"{who} asks us to slow down.", detail=detail)
    if reply.status in {408, 500, 502, 503, 504} or code in _BUSY:
        return DestinationError(Code.PROVIDER_UNAVAILABLE, f"{who} gives no delegation key just now.", detail=detail)
    if code == "AuthorizationPermissionMismatch":
        return DestinationError(
            Code.ACCESS_DENIED,
            f"{who} gives you no delegation key: have its owner assign you the role Storage Blob Delegator on the account, its "
            "resource group or subscription (a role on the container is not enough), and Storage Blob Data Contributor for "
            "writing. New roles take up to ten minutes.",
            detail=detail,
        )
    if reply.status in {401, 403} and any(late in words for late in _LATE):
        # Ours was fresh a moment ago: two clocks disagree, and the next token may pass.
        return DestinationError(
            Code.CLOCK_SKEW, f"{who} takes an access token that is not over for expired.", detail=detail
        )
    if reply.status == 401 or (reply.status == 403 and code in _BAD_TOKEN):
        # Another tenant's user, a session that an administrator ended, a policy that wants a new sign-in: no retry helps and
        # nothing of the push is wrong. Only its user can bring another token, so the push waits for that.
        return CredentialError(
            Code.CONSENT_NEEDED,
            f"{who} does not take the access token of this connection: reconnect with an account of the directory (tenant) that "
            "the storage account belongs to.",
            detail=detail,
        )
    if reply.status == 403:
        return DestinationError(
            Code.ACCESS_DENIED,
            f"{who} refuses us ({code or 'without a code'}): check its firewall and network rules, that it is enabled, and your roles "
            "Storage Blob Delegator and Storage Blob Data Contributor.",
            detail=detail,
        )
    return DestinationError(
        Code.PROVIDER_REFUSED,
        f"{who} answers {reply.status} {code or 'without a code'} instead of a delegation key.",
        detail=detail,
    )


def _read_error(reply: Reply) -> tuple[str, str]:
    """Code and words of an error; empty where it has none."""
    found: dict[str, str] = {}

    def leaf(path: tuple[str, ...], text: str) -> None:
        if len(path) == 2 and path[0] == "Error":
            found.setdefault(path[1], " ".join(text.split()))

    try:
        parse_xml(reply.body.removeprefix(b"\xef\xbb\xbf"), leaf)
    except BadXml:
        found = {}
    words = f"{found.get('Message', '')} {found.get('AuthenticationErrorDetail', '')}".strip()
    return reply.headers.get("x-ms-error-code", "") or found.get("Code", ""), words
