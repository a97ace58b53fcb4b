"""States, events and their tables."""

from __future__ import annotations

import re

import pytest

from builders import an_error
from cloudpush.audit.tables import FILE_STATES, STATES
from cloudpush.errors import Code
from cloudpush.push.job import Tally
from cloudpush.push.states import ENDINGS, TRANSITIONS, Event, FileState, State, Strength


def test_every_state_has_its_transitions() -> None:
    """The table names each state, and leads only to states."""
    assert set(TRANSITIONS) == set(State)
    assert set().union(*TRANSITIONS.values()) <= set(State)


def test_final_states_are_those_that_an_ending_tells() -> None:
    """Nothing follows them, and each has the event of its own name."""
    assert {s for s in State if s.final} == set(ENDINGS)
    assert {state: event.value for state, event in ENDINGS.items()} == {s: f"push.{s}" for s in ENDINGS}


def test_success_is_reached_by_running_only() -> None:
    """No push succeeds, or is called unverified, without somebody having executed it."""
    for state in (State.SUCCEEDED, State.UNVERIFIED):
        assert [s for s in State if state in TRANSITIONS[s]] == [State.RUNNING]


def test_every_state_can_come_to_an_end() -> None:
    """There is a way from everywhere to a final state, and none leads back from one."""
    for state in State:
        reached, new = {state}, {state}
        while new:
            new = set().union(*(TRANSITIONS[s] for s in new)) - reached
            reached |= new
        assert any(s.final for s in reached)


def test_the_tables_know_the_same_states() -> None:
    """Python's enums and the columns' constraints are made of the same words."""
    assert (tuple(s.value for s in State), tuple(s.value for s in FileState)) == (STATES, FILE_STATES)


def test_events_are_named_by_what_they_concern() -> None:
    """Subject, dot, what happened; no name twice."""
    names = [e.value for e in Event]
    assert len(set(names)) == len(names)
    assert all(
        re.fullmatch(r"(push|part|file|credential|grant|preflight|role|token|audit|session|vault)\.[a-z_]+", name)
        for name in names
    )


def test_strengths_are_ordered_as_users_read_them() -> None:
    """Best last; the words go there and back."""
    words = ["none", "response", "size", "ingest", "checksum", "reread"]
    assert [s.word for s in sorted(Strength)] == words
    assert [Strength.of(word) for word in words] == sorted(Strength)


def test_an_unknown_strength_is_refused() -> None:
    """A word that is none raises KeyError."""
    with pytest.raises(KeyError):
        Strength.of("absolutely")


@pytest.mark.parametrize(
    ("tally", "state"),
    [
        (Tally(verified=1), State.SUCCEEDED),
        (Tally(skipped=1), State.SUCCEEDED),
        (Tally(), State.FAILED),
        (Tally(verified=9, unverified=1), State.UNVERIFIED),
        (Tally(verified=9, unverified=9, failed=1), State.FAILED),
        (Tally(verified=9, unverified=9, failed=9, cancelled=1), State.CANCELLED),
    ],
)
def test_a_tally_amounts_to_a_state(tally: Tally, state: State) -> None:
    """Nothing at all is no success; the worst decides."""
    assert tally.state is state


@pytest.mark.parametrize("state", FileState)
def test_done_files_are_those_that_are_proved(state: FileState) -> None:
    """Verified and skipped, nothing else."""
    assert state.done == (state.value in ("verified", "skipped"))


def test_an_error_says_its_code_and_its_words() -> None:
    """As logs and users see it."""
    assert str(an_error(Code.THROTTLED)) == "THROTTLED: The provider said THROTTLED."
