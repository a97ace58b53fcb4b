"""Whether to try again, and when."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import NOON, an_error
from cloudpush.errors import Code
from cloudpush.push.job import Verdict
from cloudpush.push.retry import OUTAGES, STRIKES, Policy, age_of
from cloudpush.push.states import State

POLICY = Policy(strikes=4, base=2, cap=300, patience=timedelta(days=7))
YOUNG = timedelta(minutes=1)


def decide(code: Code, strikes: int = 0, age: timedelta = YOUNG, jitter: float = 1.0) -> Verdict:
    return POLICY.decide(an_error(code), strikes=strikes, age=age, jitter=jitter)


WAITING = [c for c in Code if c.waits]


@pytest.mark.parametrize("code", [c for c in Code if not c.retryable and not c.waits and c is not Code.CANCELLED])
def test_what_somebody_must_mend_fails_at_once(code: Code) -> None:
    """However young the push is."""
    verdict = decide(code)

    assert (verdict.state, verdict.error and verdict.error.code, verdict.retry_in) == (State.FAILED, code, None)


@pytest.mark.parametrize("code", [c for c in Code if c.retryable and c not in OUTAGES])
def test_what_may_pass_is_tried_again_with_a_strike(code: Code) -> None:
    """After the base's time at first."""
    verdict = decide(code)

    assert (verdict.state, verdict.retry_in, verdict.strike) == (State.QUEUED, 2.0, True)


def test_a_callback_that_is_away_for_long_pauses_the_push() -> None:
    """Fresh URLs may still be handed over; until patience ends, as with any pause."""
    often = decide(Code.RESIGN_FAILED, strikes=100)
    late = decide(Code.RESIGN_FAILED, strikes=100, age=timedelta(days=7, seconds=1))

    assert (often.state, late.state) == (State.AWAITING_CONSENT, State.FAILED)


@pytest.mark.parametrize("code", sorted(OUTAGES))
def test_an_outage_is_no_strike_however_often_it_comes(code: Code) -> None:
    """A fixed pause, as long as patience lasts."""
    verdict = decide(code, strikes=100)

    assert (verdict.state, verdict.retry_in, verdict.strike) == (State.QUEUED, 8.0, False)


@pytest.mark.parametrize("code", sorted(OUTAGES))
def test_patience_with_outages_ends(code: Code) -> None:
    """Counted from the push's submission."""
    assert decide(code, age=timedelta(days=7, seconds=1)).state is State.FAILED


@pytest.mark.parametrize("code", WAITING)
def test_what_waits_for_somebody_pauses_however_often_it_comes(code: Code) -> None:
    """No strike, and no time of a next attempt: it comes with what is waited for."""
    verdict = decide(code, strikes=100)

    assert (verdict.state, verdict.error and verdict.error.code, verdict.retry_in, verdict.strike) == (
        State.AWAITING_CONSENT,
        code,
        None,
        False,
    )


@pytest.mark.parametrize("code", WAITING)
def test_patience_with_pauses_ends(code: Code) -> None:
    """Counted from the push's submission, to the second."""
    states = [decide(code, age=timedelta(days=7, seconds=n)).state for n in (0, 1)]

    assert states == [State.AWAITING_CONSENT, State.FAILED]


def test_what_waits_is_nothing_that_may_pass() -> None:
    """One code has one way."""
    assert (WAITING != [], [code for code in WAITING if code.retryable]) == (True, [])


def test_outages_may_pass() -> None:
    """A code that is no retryable one would fail before anybody was patient."""
    assert [code for code in OUTAGES if not code.retryable] == []


@pytest.mark.parametrize(("code", "limit"), [(Code.NETWORK, 4), (Code.CORRUPTED, 2), (Code.INTERNAL, 3)])
def test_strikes_come_to_an_end(code: Code, limit: int) -> None:
    """Earlier for what tells everything at once; never later than the policy says."""
    states = [decide(code, strikes=n).state for n in range(limit)]

    assert states == [State.QUEUED] * (limit - 1) + [State.FAILED]


def test_codes_with_a_limit_of_their_own_may_pass() -> None:
    """For others the limit would never be looked at."""
    assert [code for code in STRIKES if not code.retryable or code in OUTAGES] == []


def test_a_cancel_is_neither_failure_nor_retry() -> None:
    """It ends as what it is."""
    assert decide(Code.CANCELLED).state is State.CANCELLED


@pytest.mark.parametrize(("strikes", "seconds"), [(0, 2), (1, 4), (2, 8), (7, 256), (8, 300), (1000, 300)])
def test_pauses_double_up_to_the_cap(strikes: int, seconds: float) -> None:
    """At their longest here."""
    assert POLICY.delay(strikes, 1.0) == seconds


@given(strikes=st.integers(0, 10_000), jitter=st.floats(0, 1, exclude_max=True))
def test_chance_spreads_pauses_over_their_upper_half(strikes: int, jitter: float) -> None:
    """Never nothing, never more than the cap."""
    longest = POLICY.delay(strikes, 1.0)

    assert longest / 2 <= POLICY.delay(strikes, jitter) <= longest <= 300


def test_age_is_never_negative() -> None:
    """Two clocks are involved."""
    assert (age_of(NOON, NOON - YOUNG), age_of(NOON, NOON + YOUNG)) == (timedelta(0), YOUNG)
