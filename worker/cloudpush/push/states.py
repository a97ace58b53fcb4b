"""Few states, many events: each with its meaning beside it.

``tests/unit/test_states.py`` and the migration tests hold these enums, the transition table
and the database's own constraints in step.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class State(StrEnum):
    """Where a push, or one of its parts, stands."""

    QUEUED = "queued"  # stored; nobody executes it now
    RUNNING = "running"  # a worker holds the lease
    AWAITING_CONSENT = "awaiting_consent"  # paused until its grant is valid again, or fresh URLs are handed over
    SUCCEEDED = "succeeded"  # every file is there and proved as strongly as demanded
    UNVERIFIED = "unverified"  # uploaded, but not proved as strongly as demanded
    FAILED = "failed"  # ended with a code; see who must act
    CANCELLED = "cancelled"  # ended because somebody asked for it

    @property
    def final(self) -> bool:
        """Whether nothing can follow."""
        return not TRANSITIONS[self]


TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.AWAITING_CONSENT, State.FAILED, State.CANCELLED}),
    State.RUNNING: frozenset(
        {
            State.QUEUED,
            State.AWAITING_CONSENT,
            State.SUCCEEDED,
            State.UNVERIFIED,
            State.FAILED,
            State.CANCELLED,
        }
    ),
    # A planned push goes on with its parts, which are queued; one that was not planned is queued itself.
    State.AWAITING_CONSENT: frozenset({State.QUEUED, State.RUNNING, State.FAILED, State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.UNVERIFIED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}


class Wish(IntEnum):
    """What the heartbeat brings back for a lease: how its push is to go on. The higher one counts."""

    GO_ON = 0
    REVOKED = 1  # the consent that it uses was taken back, or the share that let it use it has ended
    CANCEL = 2  # somebody asked to stop


class FileState(StrEnum):
    """Where one file stands. Everything but PLANNED is a verdict."""

    PLANNED = "planned"  # listed, not yet dealt with
    VERIFIED = "verified"  # uploaded and proved as strongly as demanded
    SKIPPED = "skipped"  # was there already and is proved equal; nothing was sent
    UNVERIFIED = "unverified"  # uploaded, proved less strongly than demanded
    FAILED = "failed"  # see its error code
    CANCELLED = "cancelled"  # not dealt with before the push was cancelled

    @property
    def done(self) -> bool:
        """Whether the file is at the destination and proved: a retry leaves it alone."""
        return self in (FileState.VERIFIED, FileState.SKIPPED)


class Strength(IntEnum):
    """How strongly a file is proved to be at the destination; a higher one proves more.

    A digest that the client itself stored as metadata proves nothing and has no place here.
    """

    NONE = 0  # nothing was seen
    RESPONSE = 1  # only a 2xx answer
    SIZE = 2  # the provider reports our size
    INGEST = 3  # the provider checked each piece against a digest that we sent
    CHECKSUM = 4  # a digest that the provider computed over the stored object equals ours
    REREAD = 5  # the object's bytes were read back and hashed

    @property
    def word(self) -> str:
        """The name in lower case, as the database and users write it."""
        return self.name.lower()

    @classmethod
    def of(cls, word: str) -> Strength:
        """The strength called ``word``; raises KeyError."""
        return cls[word.upper()]


class Overwrite(StrEnum):
    """What to do about an object that is there already."""

    NEVER = "never"  # an equal object is skipped, a different one fails the file
    IF_DIFFERENT = "if-different"  # an equal object is skipped, a different one replaced
    ALWAYS = "always"  # send everything


class Package(StrEnum):
    """What a push writes beside the data, where it was asked to."""

    BAGIT = "bagit"  # RFC 8493: the data below data/, with bagit.txt and manifest-sha256.txt
    RO_CRATE = "ro-crate"  # ro-crate-metadata.json at the root of the data


class Event(StrEnum):
    """What the audit can say. Appended, never changed."""

    PUSH_QUEUED = "push.queued"  # intake stored the request
    PUSH_ANNOUNCED_AGAIN = "push.announced_again"  # the sweep found the message lost
    PUSH_CLAIMED = "push.claimed"  # a worker took the lease
    PUSH_PLANNED = "push.planned"  # the source was walked; files and parts are known
    PUSH_RETRY_SCHEDULED = "push.retry_scheduled"  # failed for a passing reason
    PUSH_LEASE_EXPIRED = "push.lease_expired"  # its worker vanished
    PUSH_CANCEL_REQUESTED = "push.cancel_requested"  # somebody asked to stop
    PUSH_AWAITING_CONSENT = "push.awaiting_consent"  # every part that is not over waits for a user
    PUSH_RESUMED = "push.resumed"  # the waiting parts are queued again; says why
    PUSH_RESIGNED = "push.resigned"  # somebody handed over fresh URLs: another sealed set
    PUSH_PREFLIGHT = "push.preflight"  # a probe object was tried at the destination before anything else; how that went
    PUSH_RECEIPT_ISSUED = "push.receipt_issued"  # its receipt was signed
    PUSH_NOTIFIED = "push.notified"  # a webhook of its owner's was told the verdict, or could not be
    PUSH_RESIGN_ASKED = "push.resign_asked"  # a worker asked the registered callback for fresh URLs
    PUSH_SUCCEEDED = "push.succeeded"
    PUSH_UNVERIFIED = "push.unverified"
    PUSH_FAILED = "push.failed"
    PUSH_CANCELLED = "push.cancelled"
    PART_CLAIMED = "part.claimed"
    PART_RETRY_SCHEDULED = "part.retry_scheduled"
    PART_LEASE_EXPIRED = "part.lease_expired"
    PART_PAUSED = "part.paused"  # waits for a user, with the code that says for what
    PART_FINISHED = "part.finished"  # carries the digest of the part's file rows
    FILE_FAILED = "file.failed"  # with the provider's words, redacted
    CREDENTIAL_SEALING = "credential.sealing"  # row written, secret on its way to Vault
    CREDENTIAL_CREATED = "credential.created"  # the secret is in Vault
    CREDENTIAL_USED = "credential.used"  # unsealed: by which worker, for which push
    CREDENTIAL_REWRAPPED = "credential.rewrapped"  # its data key is under the newest Transit key
    CREDENTIAL_EXPIRED = "credential.expired"
    CREDENTIAL_PURGING = "credential.purging"  # may not be used any more; on its way out of Vault
    CREDENTIAL_PURGED = "credential.purged"  # destroyed in Vault, seen to be gone
    GRANT_ASKED = "grant.asked"  # a browser was sent to the provider: which scopes, for whom
    GRANT_GRANTED = "grant.granted"  # consent given: which scopes, by which account
    GRANT_REFUSED = "grant.refused"  # the user or the provider said no, or less was granted than is needed
    GRANT_OPENED = "grant.opened"  # a worker unsealed its tokens
    GRANT_REFRESHING = "grant.refreshing"  # written ahead: a refresh token is about to be spent
    GRANT_REFRESHED = "grant.refreshed"  # the tokens that came for it are sealed
    GRANT_REFRESH_FAILED = "grant.refresh_failed"  # the provider gave none; carries its code
    GRANT_RECONNECT_NEEDED = "grant.reconnect_needed"  # its refresh token is dead: pushes wait for its user
    GRANT_RECONNECTED = "grant.reconnected"  # the same account consented anew: what waited goes on
    GRANT_CHECKED = "grant.checked"  # it was tried out at the provider, and how that went
    GRANT_SHARED = "grant.shared"  # somebody else may push with it: who, where, until when
    GRANT_UNSHARED = "grant.unshared"
    GRANT_NOTIFIED = "grant.notified"  # its user's webhook was told that a reconnect is needed
    GRANT_SUPERSEDED = "grant.superseded"  # tokens of earlier generations were destroyed in Vault
    GRANT_REVOKING = "grant.revoking"  # from now on nobody may use it
    GRANT_REVOKED = "grant.revoked"  # carries whether the provider was told
    PREFLIGHT_ASKED = "preflight.asked"  # somebody wants to know whether a credential reaches a destination
    PREFLIGHT_ENDED = "preflight.ended"  # carries what was tried and how that went
    ROLE_GRANTED = "role.granted"
    ROLE_REVOKED = "role.revoked"
    TOKEN_CREATED = "token.created"  # an API token: whose, which role and scopes, until when
    TOKEN_REVOKED = "token.revoked"
    AUDIT_EXPORTED = "audit.exported"  # somebody took a copy of a table: which, by which filter, how many rows
    AUDIT_ARCHIVED = "audit.archived"  # a month was written to files, with its checkpoints
    AUDIT_DROPPED = "audit.dropped"  # … and taken out of the database
    AUDIT_PSEUDONYMISED = "audit.pseudonymised"  # a person's name was replaced: by what, in which events
    SESSION_STARTED = "session.started"  # somebody signed in to the web pages
    SESSION_ENDED = "session.ended"
    VAULT_KEY_ROTATED = "vault.key_rotated"  # the Transit key has a new version
    VAULT_KEY_RETIRED = "vault.key_retired"  # its older versions unwrap nothing any more


#: The event that says that a push has reached a final state.
ENDINGS: dict[State, Event] = {
    State.SUCCEEDED: Event.PUSH_SUCCEEDED,
    State.UNVERIFIED: Event.PUSH_UNVERIFIED,
    State.FAILED: Event.PUSH_FAILED,
    State.CANCELLED: Event.PUSH_CANCELLED,
}
