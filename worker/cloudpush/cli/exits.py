"""Exit codes: a script can tell apart what happened without reading a word."""

from __future__ import annotations

from enum import IntEnum

from cloudpush.errors import AccessError, CloudPushError, Code, CredentialError, InputError, SourceError, StackError
from cloudpush.push.states import State


class Exit(IntEnum):
    """What ``cloudpush`` returns to the shell."""

    SUCCEEDED = 0  # done; with --wait: every file is there and proved
    ERROR = 1  # a defect, or something that no other code names
    BAD_INPUT = 2  # the request was refused, nothing was stored; also wrong usage
    FAILED = 3  # the push ended as failed
    UNVERIFIED = 4  # uploaded, not proved as strongly as demanded
    CANCELLED = 5  # the push was cancelled
    UNAVAILABLE = 6  # Postgres, Vault or Redis is away: try again later
    TIMED_OUT = 7  # --timeout passed; the push goes on
    UNSOUND = 8  # audit verify or doctor found something wrong
    PAUSED = 9  # --until-paused: the push waits for somebody, and goes on once they have acted


ENDINGS = {
    State.SUCCEEDED: Exit.SUCCEEDED,
    State.UNVERIFIED: Exit.UNVERIFIED,
    State.FAILED: Exit.FAILED,
    State.CANCELLED: Exit.CANCELLED,
}

AWAY = frozenset(
    {
        Code.DATABASE_UNREACHABLE,
        Code.DATABASE_SCHEMA,
        Code.BROKER_UNREACHABLE,
        Code.VAULT_SEALED,
        Code.VAULT_UNREACHABLE,
        Code.VAULT_DENIED,
        Code.SERVER_UNREACHABLE,
        Code.RATE_LIMITED,
    }
)


def exit_code_of(error: CloudPushError) -> Exit:
    """The exit code of a command that ended with ``error``."""
    if error.code in AWAY:
        return Exit.UNAVAILABLE
    if isinstance(error, InputError | SourceError | CredentialError | AccessError):
        return Exit.BAD_INPUT
    return Exit.ERROR if not isinstance(error, StackError) else Exit.UNAVAILABLE
