"""One tree of errors; a code means the same everywhere."""

from __future__ import annotations

import re

import pytest

from cloudpush import errors
from cloudpush.errors import MEANINGS, Actor, Cancelled, CloudPushError, Code, InputError, LeaseLost


def test_every_code_has_a_meaning() -> None:
    """And no meaning is left over."""
    assert set(MEANINGS) == set(Code)


@pytest.mark.parametrize("code", Code)
def test_a_code_is_its_own_name_and_says_what_to_do(code: Code) -> None:
    """Stable for scripts, and a sentence for whoever must act."""
    assert re.fullmatch(r"[A-Z]+(_[A-Z]+)*", code.value)
    assert code.value == code.name
    assert (code.retryable, code.actor, code.fix) == (code.meaning.retryable, code.meaning.actor, code.meaning.fix)
    assert re.fullmatch(r"[A-Z`].{14,}[.)]", code.fix), code.fix


@pytest.mark.parametrize("code", [c for c in Code if not c.retryable and c is not Code.CANCELLED])
def test_what_does_not_pass_by_itself_names_who_must_act(code: Code) -> None:
    """Nobody cannot act."""
    assert code.actor in (Actor.USER, Actor.OPERATOR)


def test_every_error_is_one_of_ours() -> None:
    """One except clause catches them all."""
    kinds = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)]

    assert [k for k in kinds if not issubclass(k, CloudPushError)] == []


def test_an_error_carries_its_words_apart() -> None:
    """What users read, what the other system said, and which field was wrong."""
    error = InputError(Code.BAD_URI, "destination 'x' has no scheme", detail="theirs", field="destination")

    assert (str(error), error.message, error.detail, error.field) == (
        "BAD_URI: destination 'x' has no scheme",
        "destination 'x' has no scheme",
        "theirs",
        "destination",
    )


def test_the_words_of_other_systems_stay_out_of_the_short_form() -> None:
    """They go into events, not into every log line."""
    error = CloudPushError(Code.PROVIDER_REFUSED, "Refused.", detail="<Error>long</Error>")

    assert "long" not in str(error) + repr(error)


def test_ends_of_an_execution_have_their_own_codes() -> None:
    """So that nobody takes them for failures of a push."""
    assert (LeaseLost("push 7").code, Cancelled().code) == (Code.LEASE_LOST, Code.CANCELLED)
