"""How things are said: times, sizes, states, and each event as a sentence. Everything here is text; templates escape it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

from cloudpush.errors import Actor, Code
from cloudpush.push.grants.model import NOTIFY_HOOK, OAUTH_GRANT, WEB_IDENTITY, GrantState
from cloudpush.push.signed.model import RESIGN_HOOK, SIGNED_URLS
from cloudpush.push.states import FileState, State

Data = Mapping[str, Any]

#: state → (tone, word, what it means). The tone is a colour beside the word, never instead of it.
PUSH_STATES: dict[str, tuple[str, str, str]] = {
    State.QUEUED: ("wait", "Queued", "It is stored, and the next free worker takes it."),
    State.RUNNING: ("run", "Running", "A worker is at it."),
    State.AWAITING_CONSENT: ("act", "Waits for you", "It goes on where it stopped as soon as you have acted."),
    State.SUCCEEDED: ("good", "Succeeded", "Every file is there and proved."),
    State.UNVERIFIED: ("act", "Not proved", "It was uploaded, but not proved as strongly as was demanded."),
    State.FAILED: ("bad", "Failed", "It ended; see why below."),
    State.CANCELLED: ("off", "Cancelled", "Somebody asked to stop it."),
}
GRANT_STATES: dict[str, tuple[str, str, str]] = {
    GrantState.ACTIVE: ("good", "Connected", "Pushes can use it."),
    GrantState.RECONNECT: (
        "act",
        "Needs you",
        "The provider no longer accepts it. Reconnect, and pushes that wait go on.",
    ),
    GrantState.REVOKING: ("wait", "Being revoked", "Nothing can use it any more; the provider is being told."),
    GrantState.REVOKED: ("off", "Revoked", "It is over, and its tokens are destroyed."),
}
FILE_STATES: dict[str, tuple[str, str]] = {
    FileState.PLANNED: ("wait", "to do"),
    FileState.VERIFIED: ("good", "verified"),
    FileState.SKIPPED: ("good", "was there already"),
    FileState.UNVERIFIED: ("act", "not proved"),
    FileState.FAILED: ("bad", "failed"),
    FileState.CANCELLED: ("off", "cancelled"),
}
STRENGTHS = {
    "reread": "read back and hashed",
    "checksum": "provider's checksum equals ours",
    "ingest": "each piece checked as it arrived",
    "size": "size only",
    "response": "only the answer “received”",
    "none": "nothing seen",
}
CREDENTIAL_KINDS = {
    "access_key": "access key",
    OAUTH_GRANT: "consent (tokens)",
    WEB_IDENTITY: "consent (trusted role)",
    SIGNED_URLS: "signed URLs",
    RESIGN_HOOK: "callback for fresh URLs",
    NOTIFY_HOOK: "webhook",
}
#: Kinds that no push uses as its credential.
HOOKS = frozenset({RESIGN_HOOK, NOTIFY_HOOK})
#: Of credentials and of grants: a grant's own word says more.
CREDENTIAL_STATES: dict[str, tuple[str, str]] = {
    "sealing": ("wait", "on its way to Vault"),
    "active": ("good", "can be used"),
    "expired": ("off", "expired"),
    "purging": ("wait", "being destroyed"),
    "purged": ("off", "destroyed"),
    "reconnect": ("act", "needs a reconnect"),
    "revoking": ("wait", "being revoked"),
    "revoked": ("off", "revoked"),
}
#: Characters that change how their neighbours are read, by what Unicode calls them.
UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
ACTORS = {
    Actor.USER: "You have to act.",
    Actor.OPERATOR: "The operator has to act.",
    Actor.PROVIDER: "The provider has to act.",
    Actor.NOBODY: "Nobody has to act.",
}


def size(count: float | None) -> str:
    """Bytes for people: ``3.4 MiB``."""
    value = float(count or 0)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def count(number: int | None, one: str, many: str = "") -> str:
    """``1 file``, ``2,300 files``."""
    n = number or 0
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def span(seconds: float) -> str:
    """A length of time in one unit: ``12 seconds``, ``3 minutes``."""
    for limit, unit, name in ((90, 1, "second"), (90 * 60, 60, "minute"), (36 * 3600, 3600, "hour")):
        if seconds < limit:
            return count(round(seconds / unit), name)
    return count(round(seconds / 86400), "day")


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """``3 minutes ago``, ``in 2 hours``, ``just now``."""
    if moment is None:
        return "never"
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if abs(seconds) < 5:
        return "just now"
    return f"{span(seconds)} ago" if seconds > 0 else f"in {span(-seconds)}"


def absolute(moment: datetime) -> str:
    """``28 Nov 2026, 20:15 UTC``."""
    return f"{moment.astimezone(UTC):%-d %b %Y, %H:%M} UTC"


def when(moment: datetime | None, never: str = "never") -> Markup | str:
    """A <time> element that says how long ago; the exact time is its title, and readable by machines."""
    if moment is None:
        return never
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        moment.astimezone(UTC).isoformat(timespec="seconds"), absolute(moment), ago(moment)
    )


def exact(moment: datetime | None, never: str = "") -> Markup | str:
    """A <time> element that says the exact time."""
    if moment is None:
        return never
    iso = moment.astimezone(UTC).isoformat(timespec="seconds")
    return Markup('<time datetime="{}">{:%-d %b %Y, %H:%M:%S}</time>').format(iso, moment.astimezone(UTC))


def minute(moment: datetime | None, never: str = "") -> Markup | str:
    """The same without seconds, for what was chosen by people."""
    if moment is None:
        return never
    iso = moment.astimezone(UTC).isoformat(timespec="minutes")
    return Markup('<time datetime="{}" data-minute>{}</time>').format(iso, absolute(moment))


def cut(text: str, length: int = 14) -> str:
    """The beginning of something long."""
    return text if len(text) <= length else f"{text[:length]}…"


def instant(moment: datetime | None, never: str = "") -> Markup | str:
    """The exact time in UTC, as auditors compare it: the same for every reader, wherever they are."""
    if moment is None:
        return never
    utc = moment.astimezone(UTC)
    return Markup('<time datetime="{}" data-utc title="{}">{:%Y-%m-%d %H:%M:%S}</time>').format(
        utc.isoformat(), f"{utc:%Y-%m-%d %H:%M:%S.%f} UTC", utc
    )


def prose(text: str) -> Markup:
    """Our own fixed words with their marks: ``*a button*`` and ```a command```. Everything in them is escaped."""
    escaped = str(escape(text))
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    return Markup(re.sub(r"\*([^*<>]+)\*", r"<strong>\1</strong>", escaped))  # noqa: S704 -- escaped above


def visible(text: object) -> Markup:
    """Somebody else's text, on its own: what is written from right to left disturbs no neighbour.

    Characters that nobody sees, such as those that turn the rest of a name round, are shown by their numbers.
    """
    escaped = str(escape(str(text)))
    shown = UNSEEN.sub(lambda m: f'<span class="unseen">U+{ord(m.group()):04X}</span>', escaped)
    return Markup("<bdi>{}</bdi>").format(Markup(shown))  # noqa: S704 -- escaped above


def spelled(text: object) -> str:
    """The same where there are no elements, such as in a page's title."""
    return UNSEEN.sub(lambda m: f"[U+{ord(m.group()):04X}]", str(text))


def short(digest: str | None, length: int = 10) -> Markup | str:
    """The beginning of a digest; all of it is the title."""
    if not digest:
        return ""
    return Markup('<code class="digest" title="{}">{}…</code>').format(digest, digest[:length])


def error(code: str | None, message: str | None) -> dict[str, str]:
    """A stored error for a page: code, message, who must act, the fix."""
    if not code:
        return {}
    try:
        known = Code(code)
    except ValueError:
        return {"code": code, "message": message or "", "who": "", "fix": ""}
    return {"code": code, "message": message or "", "who": ACTORS[known.actor], "fix": known.fix}


def scope(explains: Mapping[str, str], name: str) -> str:
    """What a scope allows, in plain words where the operator gave some."""
    return explains.get(name, name)


# -- events -------------------------------------------------------------------------------


def sentence(kind: str, data: Data, explains: Mapping[str, str] | None = None) -> str:
    """What happened, as a sentence. An event that we do not know is told by its name.

    ``explains``: scope → what it allows, as the event's provider is known to call it.
    """
    if explains and "scopes" in data:
        data = {**data, "scopes": [scope(explains, str(name)) for name in data["scopes"] or ()]}
    make = SENTENCES.get(kind)
    if make is None:
        return f"{kind.replace('.', ': ').replace('_', ' ')}."
    return make(data) if callable(make) else make


def _why(data: Data) -> str:
    text = data.get("message") or data.get("code")
    return f": {text}" if text else "."


def _for(data: Data) -> str:
    """`` for: this; that`` where the event names scopes."""
    return f" for: {'; '.join(data['scopes'])}." if data.get("scopes") else "."


def _files(data: Data) -> str:
    return count(int(data["files"]), "file") if "files" in data else "its files"


def _retry(data: Data) -> str:
    seconds = data.get("retry_in_seconds")
    soon = f" It is tried again in {span(float(seconds))}." if seconds is not None else ""
    return f"Did not work just now{_why(data)}{soon}"


def _asked(data: Data) -> str:
    return f"The provider was asked{_for(data)}" if data.get("scopes") else "The connection was asked for."


def _granted(data: Data) -> str:
    if not data.get("scopes"):
        return "Connected; it keeps no secret."
    by = f" by {data['subject']}" if data.get("subject") else ""
    return f"Consent was given{by}{_for(data)}"


def _sealing(data: Data) -> str:
    secret = "" if data.get("kind") == WEB_IDENTITY else ", and what is secret of it is on its way into Vault"
    return f"It was stored{secret}."


def _created(data: Data) -> str:
    # Of a grant, how many blocks are sealed is told: none where a role trusts us.
    return "There is nothing secret to seal." if data.get("blocks") == 0 else "Its secrets are sealed in Vault."


def _opened(data: Data) -> str:
    number = data.get("generation")
    return "A worker opened the tokens" + (f" (generation {number})." if number else ".")


def _preflight(data: Data) -> str:
    return (
        f"A probe of the destination failed{_why(data)}" if data.get("code") else "A probe of the destination passed."
    )


def _revoked(data: Data) -> str:
    if data.get("provider_told"):
        return "Revoked; the provider was told, and no longer accepts its tokens."
    return "Revoked; the provider could not be told" + _why(data)


def _checked(data: Data) -> str:
    return f"Tried out; it did not work{_why(data)}" if data.get("code") else "Tried out: it works."


def _shared(data: Data) -> str:
    return f"Shared with {data.get('principal', 'somebody')} for {data.get('uri', '?')}, until {str(data.get('until', '?'))[:16].replace('T', ' ')}."


def _unshared(data: Data) -> str:
    return f"No longer shared with {data['principal']}." if "principal" in data else "A share ended."


def _planned(data: Data) -> str:
    parts = data.get("parts")
    return (
        f"The source was listed: {_files(data)}"
        + (f", {size(data['bytes'])}" if "bytes" in data else "")
        + (f", in {count(int(parts), 'part')}." if parts else ".")
    )


def _quoted(data: Data, name: str, otherwise: str) -> str:
    return f"“{data[name]}”" if data.get(name) else otherwise


def _probe(data: Data) -> str:
    where = f" at {data['uri']}" if data.get("uri") else ""
    if data.get("code"):
        return f"A probe{where} failed{_why(data)}"
    return f"A probe{where} passed."


def _role(words: str) -> Callable[[Data], str]:
    return lambda data: f"The role {data.get('role', '?')} was {words} {data.get('principal', 'somebody')}."


def _token_created(data: Data) -> str:
    scopes = data.get("scopes") or ()
    may = f", for {', '.join(str(s) for s in scopes)}" if scopes else ""
    until = f", until {str(data['expires_at'])[:16].replace('T', ' ')}" if data.get("expires_at") else ""
    return f"The API token {_quoted(data, 'name', '')} was made{may}{until}.".replace("token  was", "token was")


def _exported(data: Data) -> str:
    rows = f", {count(int(data['rows']), 'row')}" if data.get("rows") is not None else ""
    form = f" as {data['format']}" if data.get("format") else ""
    return f"A copy of {data.get('table', 'a table')} was taken{form}{rows}."


def _month(words: str) -> Callable[[Data], str]:
    return lambda data: f"{str(data.get('month', 'A month'))[:7]} was {words}."


def _part(words: str) -> Callable[[Data], str]:
    return lambda data: f"Part {data['part']} {words}." if "part" in data else f"A part {words}."


SENTENCES: dict[str, str | Callable[[Data], str]] = {
    "push.queued": lambda d: f"Asked for: to {d.get('destination', 'its destination')}.",
    "push.announced_again": "The message to the workers was lost; it was sent again.",
    "push.claimed": "A worker took it.",
    "push.planned": _planned,
    "push.retry_scheduled": _retry,
    "push.lease_expired": "Its worker vanished; another takes over.",
    "push.cancel_requested": "Somebody asked to stop it.",
    "push.awaiting_consent": lambda d: f"Paused until somebody acts{_why(d)}",
    "push.resumed": "It goes on.",
    "push.resigned": "Fresh URLs were handed over.",
    "push.preflight": _preflight,
    "push.receipt_issued": "Its receipt was signed.",
    "push.notified": lambda d: f"A webhook could not be told{_why(d)}" if d.get("code") else "A webhook was told.",
    "push.resign_asked": "The callback was asked for fresh URLs.",
    "push.succeeded": "Succeeded: every file is there and proved.",
    "push.unverified": lambda d: f"Ended: uploaded, but not proved as strongly as demanded{_why(d)}",
    "push.failed": lambda d: f"Failed{_why(d)}",
    "push.cancelled": "Cancelled.",
    "part.claimed": _part("was taken by a worker"),
    "part.retry_scheduled": _retry,
    "part.lease_expired": _part("lost its worker; another takes over"),
    "part.paused": lambda d: f"Part {d.get('part', '?')} waits{_why(d)}",
    "part.finished": _part("is done"),
    "file.failed": lambda d: f"A file failed ({d.get('path', '?')}){_why(d)}",
    "credential.sealing": _sealing,
    "credential.created": _created,
    "credential.used": "Its secrets were opened, to be used.",
    "credential.rewrapped": "Sealed anew under the newest key.",
    "credential.expired": "It expired.",
    "credential.purging": "Its secrets are being destroyed.",
    "credential.purged": "Its secrets were destroyed in Vault, and seen to be gone.",
    "grant.asked": _asked,
    "grant.granted": _granted,
    "grant.refused": lambda d: f"Consent was refused{_why(d)}",
    "grant.opened": _opened,
    "grant.refreshing": "A refresh was begun (noted before the refresh token was spent).",
    "grant.refreshed": "Fresh tokens came and are sealed.",
    "grant.refresh_failed": lambda d: f"The provider gave no fresh tokens{_why(d)}",
    "grant.reconnect_needed": "The provider no longer accepts its tokens: you have to reconnect.",
    "grant.reconnected": "Reconnected: pushes that waited go on.",
    "grant.checked": _checked,
    "grant.shared": _shared,
    "grant.unshared": _unshared,
    "grant.notified": "Your webhook was told that a reconnect is needed.",
    "grant.superseded": "Tokens of earlier generations were destroyed in Vault.",
    "grant.revoking": "Taken back: from here on nothing can use it.",
    "grant.revoked": _revoked,
    "preflight.asked": lambda d: f"A probe was asked for{' at ' + str(d['uri']) if d.get('uri') else ''}.",
    "preflight.ended": _probe,
    "role.granted": _role("given to"),
    "role.revoked": _role("taken from"),
    "token.created": _token_created,
    "token.revoked": lambda d: f"The API token {_quoted(d, 'name', '')} was revoked.".replace(
        "token  was", "token was"
    ),
    "audit.exported": _exported,
    "audit.archived": _month("written to files, with its checkpoints"),
    "audit.dropped": _month("taken out of the database; its archive is what is left"),
    "audit.pseudonymised": "A person's name was replaced by a pseudonym.",
    "session.started": "Somebody signed in to the web pages.",
    "session.ended": "A session in the web pages ended.",
    "vault.key_rotated": "The key that seals secrets has a new version.",
    "vault.key_retired": "Older versions of the key that seals secrets unwrap nothing any more.",
}


def left(sent: int, total: int, speed: float | None) -> str:
    """How it gets on: ``3.1 MiB of 10.0 MiB, 1.2 MiB a second, about 5 seconds left``."""
    words = [f"{size(sent)} of {size(total)}"]
    if speed and speed > 1 and sent < total:
        words += [f"{size(speed)} a second", f"about {span(max(1, (total - sent) / speed))} left"]
    return ", ".join(words)
