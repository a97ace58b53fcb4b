"""Exit codes: a script can tell what happened without reading a word."""

from __future__ import annotations

import pytest

from cloudpush.cli.exits import ENDINGS, Exit, exit_code_of
from cloudpush.errors import (
    BrokerError,
    CloudPushError,
    Code,
    CredentialError,
    InputError,
    SettingsError,
    SourceError,
    StackError,
    StoreError,
    VaultError,
)
from cloudpush.push.states import State


def test_every_ending_has_a_code_of_its_own() -> None:
    """And nothing but success is zero."""
    assert {state: int(code) for state, code in ENDINGS.items()} == {
        State.SUCCEEDED: 0,
        State.FAILED: 3,
        State.UNVERIFIED: 4,
        State.CANCELLED: 5,
    }
    assert set(ENDINGS) == {s for s in State if s.final}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError(Code.BAD_URI, ""), Exit.BAD_INPUT),
        (InputError(Code.UNKNOWN_CREDENTIAL, ""), Exit.BAD_INPUT),
        (SettingsError(Code.SETTINGS_INVALID, ""), Exit.BAD_INPUT),
        (SourceError(Code.SOURCE_MISSING, ""), Exit.BAD_INPUT),
        (CredentialError(Code.CREDENTIAL_EXPIRED, ""), Exit.BAD_INPUT),
        (StoreError(Code.DATABASE_UNREACHABLE, ""), Exit.UNAVAILABLE),
        (StoreError(Code.DATABASE_SCHEMA, ""), Exit.UNAVAILABLE),
        (BrokerError(Code.BROKER_UNREACHABLE, ""), Exit.UNAVAILABLE),
        (VaultError(Code.VAULT_SEALED, ""), Exit.UNAVAILABLE),
        (VaultError(Code.VAULT_DENIED, ""), Exit.UNAVAILABLE),
        (StackError(Code.STACK, ""), Exit.UNAVAILABLE),
        (CloudPushError(Code.INTERNAL, ""), Exit.ERROR),
    ],
)
def test_an_error_has_the_code_of_who_must_act(error: CloudPushError, code: Exit) -> None:
    """Correct the request, wait for the servers, or report a defect."""
    assert exit_code_of(error) is code


def test_codes_are_what_scripts_rely_on() -> None:
    """A number is never given a new meaning."""
    assert {e.name: e.value for e in Exit} == {
        "SUCCEEDED": 0,
        "ERROR": 1,
        "BAD_INPUT": 2,
        "FAILED": 3,
        "UNVERIFIED": 4,
        "CANCELLED": 5,
        "UNAVAILABLE": 6,
        "TIMED_OUT": 7,
        "UNSOUND": 8,
        "PAUSED": 9,
    }
