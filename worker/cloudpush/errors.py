"""Everything that can go wrong, in one tree.

::

    CloudPushError
    ├── InputError                 the request itself is wrong; raised before anything is stored
    ├── SourceError                the files on our side
    ├── CredentialError            the sealed secret and its life
    ├── VaultError                 the place where secrets are sealed
    ├── DestinationError           what the user's cloud answered
    ├── EngineError                rclone itself, or the machine it runs on
    ├── AccessError                who asks, and what they may
    ├── StoreError                 Postgres
    ├── BrokerError                Redis / Valkey
    ├── ServerError                the API gives no answer, or none of ours
    └── StackError, LeaseLost, Cancelled, ConsentRevoked   the end of an execution

Every error is raised with a stable :class:`Code`. The code decides whether a retry can help
and who has to act; a caller never guesses that. Messages name the field, the value (never a
secret) and the fix.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Actor(StrEnum):
    """Who must act before a failed push can succeed."""

    USER = "user"
    OPERATOR = "operator"
    PROVIDER = "provider"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a code means to whoever reads it: may we retry, do we wait for somebody, who must act, what to do."""

    retryable: bool
    actor: Actor
    fix: str
    waits: bool = False


class Code(StrEnum):
    """Stable names of failures. A name is never reused and never changes its meaning."""

    # the request
    BAD_INPUT = "BAD_INPUT"
    BAD_URI = "BAD_URI"
    UNKNOWN_CREDENTIAL = "UNKNOWN_CREDENTIAL"
    UNKNOWN_PUSH = "UNKNOWN_PUSH"
    NOT_OWNER = "NOT_OWNER"
    IDEMPOTENCY_CONFLICT = "IDEMPOTENCY_CONFLICT"
    # the API
    UNAUTHENTICATED = "UNAUTHENTICATED"
    FORBIDDEN = "FORBIDDEN"
    RATE_LIMITED = "RATE_LIMITED"
    NOT_FOUND = "NOT_FOUND"
    TOO_MANY_BYTES = "TOO_MANY_BYTES"
    UNKNOWN_TOKEN = "UNKNOWN_TOKEN"
    LOGIN_PENDING = "LOGIN_PENDING"
    LOGIN_EXPIRED = "LOGIN_EXPIRED"
    SUBMISSION_REFUSED = "SUBMISSION_REFUSED"
    SERVER_UNREACHABLE = "SERVER_UNREACHABLE"
    # what is proved
    UNKNOWN_PREFLIGHT = "UNKNOWN_PREFLIGHT"
    RECEIPT_PENDING = "RECEIPT_PENDING"
    RECEIPT_INVALID = "RECEIPT_INVALID"
    RECORD_UNSOUND = "RECORD_UNSOUND"
    PACKAGE_INCOMPLETE = "PACKAGE_INCOMPLETE"
    ENDPOINT_FORBIDDEN = "ENDPOINT_FORBIDDEN"
    SETTINGS_INVALID = "SETTINGS_INVALID"
    # the source
    SOURCE_OUTSIDE_ROOTS = "SOURCE_OUTSIDE_ROOTS"
    SOURCE_MISSING = "SOURCE_MISSING"
    SOURCE_UNREADABLE = "SOURCE_UNREADABLE"
    SOURCE_CHANGED = "SOURCE_CHANGED"
    SOURCE_DIFFERS = "SOURCE_DIFFERS"
    SOURCE_NOT_A_FILE = "SOURCE_NOT_A_FILE"
    SOURCE_EMPTY = "SOURCE_EMPTY"
    NAME_NOT_A_KEY = "NAME_NOT_A_KEY"
    # the credential
    CREDENTIAL_EXPIRED = "CREDENTIAL_EXPIRED"
    CREDENTIAL_PURGED = "CREDENTIAL_PURGED"
    CREDENTIAL_CORRUPT = "CREDENTIAL_CORRUPT"
    # signed URLs
    BAD_MANIFEST = "BAD_MANIFEST"
    URL_UNUSABLE = "URL_UNUSABLE"
    URL_EXPIRED = "URL_EXPIRED"
    URL_NOT_YET_VALID = "URL_NOT_YET_VALID"
    UPLOAD_GONE = "UPLOAD_GONE"
    RESIGN_FAILED = "RESIGN_FAILED"
    # consent
    UNKNOWN_PROVIDER = "UNKNOWN_PROVIDER"
    UNKNOWN_GRANT = "UNKNOWN_GRANT"
    CONSENT_FAILED = "CONSENT_FAILED"
    SCOPE_TOO_NARROW = "SCOPE_TOO_NARROW"
    CONSENT_NEEDED = "CONSENT_NEEDED"
    CONSENT_REVOKED = "CONSENT_REVOKED"
    CLIENT_REJECTED = "CLIENT_REJECTED"
    GRANT_UNAVAILABLE = "GRANT_UNAVAILABLE"
    SIGN_IN_REFUSED = "SIGN_IN_REFUSED"
    VAULT_SEALED = "VAULT_SEALED"
    VAULT_UNREACHABLE = "VAULT_UNREACHABLE"
    VAULT_DENIED = "VAULT_DENIED"
    # the destination
    ACCESS_DENIED = "ACCESS_DENIED"
    BAD_SIGNATURE = "BAD_SIGNATURE"
    NO_SUCH_BUCKET = "NO_SUCH_BUCKET"
    WRONG_REGION = "WRONG_REGION"
    OBJECT_EXISTS = "OBJECT_EXISTS"
    OBJECT_MISSING = "OBJECT_MISSING"
    CONFLICT = "CONFLICT"
    THROTTLED = "THROTTLED"
    PROVIDER_UNAVAILABLE = "PROVIDER_UNAVAILABLE"
    PROVIDER_REFUSED = "PROVIDER_REFUSED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    TOO_LARGE = "TOO_LARGE"
    CLOCK_SKEW = "CLOCK_SKEW"
    CORRUPTED = "CORRUPTED"
    NOT_VERIFIED = "NOT_VERIFIED"
    NETWORK = "NETWORK"
    ENDPOINT_UNRESOLVABLE = "ENDPOINT_UNRESOLVABLE"
    ENDPOINT_REFUSED = "ENDPOINT_REFUSED"
    TLS_FAILED = "TLS_FAILED"
    # ourselves
    DISK_FULL = "DISK_FULL"
    ENGINE_CRASHED = "ENGINE_CRASHED"
    ENGINE_MISSING = "ENGINE_MISSING"
    DATABASE_UNREACHABLE = "DATABASE_UNREACHABLE"
    DATABASE_SCHEMA = "DATABASE_SCHEMA"
    BROKER_UNREACHABLE = "BROKER_UNREACHABLE"
    WORKER_LOST = "WORKER_LOST"
    LEASE_LOST = "LEASE_LOST"
    CANCELLED = "CANCELLED"
    STACK = "STACK"
    INTERNAL = "INTERNAL"

    @property
    def meaning(self) -> Meaning:
        """Retryability, who must act and the fix."""
        return MEANINGS[self]

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later with nobody acting."""
        return MEANINGS[self].retryable

    @property
    def waits(self) -> bool:
        """Whether the push pauses until somebody hands over what it needs, and then goes on where it stopped."""
        return MEANINGS[self].waits

    @property
    def actor(self) -> Actor:
        """Who must act."""
        return MEANINGS[self].actor

    @property
    def fix(self) -> str:
        """What whoever must act can do."""
        return MEANINGS[self].fix


def _user(fix: str) -> Meaning:
    return Meaning(retryable=False, actor=Actor.USER, fix=fix)


def _operator(fix: str, *, retryable: bool = False) -> Meaning:
    return Meaning(retryable=retryable, actor=Actor.OPERATOR, fix=fix)


def _passes(fix: str, actor: Actor = Actor.NOBODY) -> Meaning:
    return Meaning(retryable=True, actor=actor, fix=fix)


def _waits(fix: str) -> Meaning:
    return Meaning(retryable=False, actor=Actor.USER, fix=fix, waits=True)


MEANINGS: dict[Code, Meaning] = {
    Code.BAD_INPUT: _user("Correct the field that the message names and submit again."),
    Code.BAD_URI: _user(
        "Write the destination as s3://BUCKET/PREFIX (or gs://, az://CONTAINER, r2://, b2://, minio://, seaweedfs://)."
    ),
    Code.UNKNOWN_CREDENTIAL: _user("List your credentials with `cloudpush credential list`."),
    Code.UNKNOWN_PUSH: _user("List pushes with `cloudpush history`."),
    Code.NOT_OWNER: _user("Use a credential of your own, or submit as its owner."),
    Code.IDEMPOTENCY_CONFLICT: _user("Use a new idempotency key for a different request."),
    Code.UNAUTHENTICATED: _user("Run `cloudpush login`, or send a token that lives in the header Authorization."),
    Code.FORBIDDEN: _user("Use a token with the scope, of a principal with the role, that the message names."),
    Code.RATE_LIMITED: _passes("Wait as long as Retry-After says, and submit in batches.", Actor.USER),
    Code.NOT_FOUND: _user("Correct the address; GET /v1/openapi.json lists them."),
    Code.TOO_MANY_BYTES: _user("Send less at once: a batch holds at most 1,000 pushes."),
    Code.UNKNOWN_TOKEN: _user("List your tokens with `cloudpush token list`."),
    Code.LOGIN_PENDING: _passes("Confirm the code in a browser; the command goes on by itself.", Actor.USER),
    Code.LOGIN_EXPIRED: _user("Run `cloudpush login` again; a code lives for ten minutes."),
    Code.SUBMISSION_REFUSED: _user(
        "Get a submission token from POST /v1/submission-tokens for exactly this request and send it within its minutes."
    ),
    Code.SERVER_UNREACHABLE: _passes(
        "Check CLOUDPUSH_URL and the network; a submission is safe to repeat.", Actor.USER
    ),
    Code.UNKNOWN_PREFLIGHT: _user("Ask for a new one with `cloudpush preflight`."),
    Code.RECEIPT_PENDING: _passes("Wait: a receipt is signed within seconds after its push has ended."),
    Code.RECEIPT_INVALID: _user("Do not trust this file: get the receipt again from where it was issued."),
    Code.RECORD_UNSOUND: _operator("Keep the database as it is and investigate; see docs/audit.md."),
    Code.PACKAGE_INCOMPLETE: _user("Mend what failed and push again: a manifest of a part of the files would mislead."),
    Code.ENDPOINT_FORBIDDEN: _operator(
        "Ask the operator to list the endpoint in CLOUDPUSH_ALLOWED_ENDPOINTS or in a profile."
    ),
    Code.SETTINGS_INVALID: _operator("Correct the setting that the message names."),
    Code.SOURCE_OUTSIDE_ROOTS: _user("Put the data under one of the source roots, or ask the operator to add a root."),
    Code.SOURCE_MISSING: _user("Check the path; the worker must see it under the same name."),
    Code.SOURCE_UNREADABLE: _operator("Give the worker's account read access to the file."),
    Code.SOURCE_CHANGED: _user("Push again once the pipeline has finished writing."),
    Code.SOURCE_DIFFERS: _user("The file is not the one that the manifest describes: correct its digest or the file."),
    Code.SOURCE_NOT_A_FILE: _user("Devices, sockets and pipes cannot be pushed; exclude them."),
    Code.SOURCE_EMPTY: _user("Nothing matched; check the path and the include and exclude patterns."),
    Code.NAME_NOT_A_KEY: _user("Rename the file: keys are UTF-8, at most 1,024 bytes, without . and .. segments."),
    Code.CREDENTIAL_EXPIRED: _user("Add a fresh credential and push again."),
    Code.CREDENTIAL_PURGED: _user("The secret was destroyed; add a new credential."),
    Code.CREDENTIAL_CORRUPT: _operator(
        "The sealed secret does not decrypt under its own name: investigate, then add it anew."
    ),
    Code.BAD_MANIFEST: _user("Correct the rows that the message names and submit again; see docs/signed-urls.md."),
    Code.URL_UNUSABLE: _user("Sign the URL again as the message says; see docs/signed-urls.md."),
    Code.URL_EXPIRED: _waits(
        "Sign fresh URLs. A push that waits for them goes on where it stopped: `cloudpush resign PUSH`."
    ),
    Code.URL_NOT_YET_VALID: _user("Sign the URL without a start time, or submit once it is valid."),
    Code.UPLOAD_GONE: _waits(
        "The multipart upload was aborted: hand over the URLs of a new one with `cloudpush resign`."
    ),
    Code.RESIGN_FAILED: _passes(
        "Mend the callback, which is asked again, or hand over fresh URLs with `cloudpush resign PUSH`.", Actor.USER
    ),
    Code.UNKNOWN_PROVIDER: _user("Choose one of `cloudpush provider list`, or ask the operator to add it."),
    Code.UNKNOWN_GRANT: _user("List connections with `cloudpush grant list`."),
    Code.CONSENT_FAILED: _user("Begin again at *Connections*; nothing was connected."),
    Code.SCOPE_TOO_NARROW: _user("Connect again and leave every permission that is asked for ticked."),
    Code.CONSENT_NEEDED: _waits(
        "Press *Reconnect* at the connection: every push that waits for it goes on where it stopped."
    ),
    Code.CONSENT_REVOKED: _user("Connect the account again, or have it shared with you, and push again."),
    Code.CLIENT_REJECTED: _operator(
        "The provider does not know CloudPush's client id or secret: correct them (`cloudpush provider set-secret`); "
        "pushes go on by themselves.",
        retryable=True,
    ),
    Code.GRANT_UNAVAILABLE: _passes("Nothing: the push goes on when the provider lends access again.", Actor.PROVIDER),
    Code.SIGN_IN_REFUSED: _user("Sign in again; ask the operator for an account, or for a new link."),
    Code.VAULT_SEALED: _operator("Unseal Vault; pushes go on by themselves.", retryable=True),
    Code.VAULT_UNREACHABLE: _operator("Start Vault or mend the network; pushes go on by themselves.", retryable=True),
    Code.VAULT_DENIED: _operator(
        "Give the role its policy from config/vault (see `cloudpush doctor`).", retryable=True
    ),
    Code.ACCESS_DENIED: _user(
        "Let the key, role or account write and read below the prefix (S3: PutObject, GetObject), or check the secret."
    ),
    Code.BAD_SIGNATURE: _user("The key or its secret is wrong for this endpoint: add the credential again."),
    Code.NO_SUCH_BUCKET: _user("Create the bucket, or correct its name or region."),
    Code.WRONG_REGION: _user("Correct the bucket's region in the profile, or in the credential's endpoint."),
    Code.OBJECT_EXISTS: _user("Choose another prefix, or push with --overwrite if-different or always."),
    Code.OBJECT_MISSING: _passes("The upload was accepted but the object is not there.", Actor.PROVIDER),
    Code.CONFLICT: _user("Something else writes to the same key; push to another prefix."),
    Code.THROTTLED: _passes("Nothing: the push backs off and goes on.", Actor.PROVIDER),
    Code.PROVIDER_UNAVAILABLE: _passes("Nothing: the push goes on when the provider answers again.", Actor.PROVIDER),
    Code.PROVIDER_REFUSED: _user("Read the provider's own words in the push's events."),
    Code.QUOTA_EXCEEDED: _user("Free space or raise the quota at the provider."),
    Code.TOO_LARGE: _user("Split the file: it exceeds what the provider stores as one object."),
    Code.CLOCK_SKEW: _operator("Set the worker's clock (NTP).", retryable=True),
    Code.CORRUPTED: _passes("The bytes changed on their way; a second such failure ends the push.", Actor.OPERATOR),
    Code.NOT_VERIFIED: _user("Allow HEAD (s3:GetObject) on the prefix, or accept a lower --min-strength."),
    Code.NETWORK: _passes("Nothing: the push goes on when the network is back."),
    Code.ENDPOINT_UNRESOLVABLE: _passes("Check the endpoint's host name.", Actor.USER),
    Code.ENDPOINT_REFUSED: _passes("Check the endpoint's host and port.", Actor.USER),
    Code.TLS_FAILED: _user("The endpoint's certificate is not trusted; check the host name and the certificate."),
    Code.DISK_FULL: _operator("Free space on the worker's disk.", retryable=True),
    Code.ENGINE_CRASHED: _passes("Nothing: rclone is restarted and the part retried."),
    Code.ENGINE_MISSING: _operator(
        "Install rclone 1.73.5 or newer (pip install 'cloudpush[embedded]').", retryable=True
    ),
    Code.DATABASE_UNREACHABLE: _operator(
        "Start Postgres (`cloudpush up` brings its own), or correct CLOUDPUSH_DATABASE_URL.", retryable=True
    ),
    Code.DATABASE_SCHEMA: _operator("Run `cloudpush db upgrade`.", retryable=True),
    Code.BROKER_UNREACHABLE: _operator(
        "Start Redis or correct CLOUDPUSH_REDIS_URL; what was stored goes out by itself.", retryable=True
    ),
    Code.WORKER_LOST: _passes("Nothing: another worker takes over."),
    Code.LEASE_LOST: _passes("Nothing: another worker has taken over."),
    Code.CANCELLED: Meaning(retryable=False, actor=Actor.NOBODY, fix="Submit again if it was a mistake."),
    Code.STACK: _operator("Read the named log file, or run `cloudpush doctor`."),
    Code.INTERNAL: _operator("This is a defect in CloudPush: report it with the push id.", retryable=True),
}


class CloudPushError(Exception):
    """Base of every error that CloudPush raises on purpose.

    ``message`` says what happened in words fit for a user; ``detail`` keeps the foreign
    system's own words, already redacted; ``field`` names the wrong input where there is one.
    ``status`` is the API's HTTP status where the API said so.
    """

    status: int | None = None

    def __init__(self, code: Code, message: str, *, detail: str = "", field: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail
        self.field = field

    @property
    def fix(self) -> str:
        """What whoever must act can do."""
        return self.code.fix

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class InputError(CloudPushError):
    """The request is wrong: nothing was stored."""


class SettingsError(InputError):
    """A setting is wrong: the process does not start."""


class AccessError(CloudPushError):
    """Nobody knows who asks, or they may not. Nothing was changed."""


class SourceError(CloudPushError):
    """A file or directory on our side cannot be pushed as it is."""


class CredentialError(CloudPushError):
    """The sealed secret is unknown, expired, purged or corrupt."""


class VaultError(CloudPushError):
    """Vault is sealed, away or refuses our role."""


class DestinationError(CloudPushError):
    """The user's cloud, or the way to it, said no."""


class EngineError(CloudPushError):
    """rclone is missing, crashed or out of disk."""


class StoreError(CloudPushError):
    """Postgres is away or at another schema."""


class BrokerError(CloudPushError):
    """Redis is away; the truth is in Postgres, so nothing is lost."""


class ServerError(CloudPushError):
    """CloudPush's API gives no answer, or none that is its own."""


class StackError(CloudPushError):
    """A part of the embedded stack did not start, died, or is held by someone else."""


class LeaseLost(CloudPushError):
    """Another worker holds this lease now: stop, write nothing."""

    def __init__(self, what: str) -> None:
        super().__init__(Code.LEASE_LOST, f"The lease on {what} ran out and was taken over.")


class ConsentRevoked(CloudPushError):
    """The consent that a push uses was taken back, or is not shared with it any more: stop, ask for nothing."""

    def __init__(self, why: str = "The consent that this push used was revoked.") -> None:
        super().__init__(Code.CONSENT_REVOKED, why)


class Cancelled(CloudPushError):
    """The push was cancelled while it ran."""

    def __init__(self) -> None:
        super().__init__(Code.CANCELLED, "The push was cancelled.")
