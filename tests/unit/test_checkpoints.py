"""What a checkpoint says, to the byte, and the tree that it stands on."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudpush.push.trust.checkpoints import CHUNK, LEAF_BYTES, Seal, Statement, leaf, leaves, signed_text
from cloudpush.push.trust.merkle import Tree

A_STATEMENT = Statement(7, 101, 104, 3, bytes(range(32)), "ab" * 32, datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC))


def test_a_statement_is_written_in_one_way() -> None:
    """Keys in order, no space, times in microseconds: what is signed follows from what it says."""
    root, previous = bytes(range(32)).hex(), "ab" * 32
    text = (
        f'{{"events":3,"first_id":101,"last_id":104,"made_at":"2026-01-02T03:04:05.678901Z","number":7,'
        f'"previous":"{previous}","root":"{root}","version":1}}'
    )

    assert A_STATEMENT.text() == text.encode()
    assert signed_text(A_STATEMENT.text()) == b"cloudpush-checkpoint-1\n" + text.encode()


@pytest.mark.parametrize(
    "changes", [{}, {"previous": None}, {"gone": (3, 6)}, {"made_at": datetime(2026, 1, 1, tzinfo=UTC)}]
)
def test_a_statement_is_read_as_it_was_written(changes: dict[str, object]) -> None:
    """The first one, one after a loss, one at a full second."""
    statement = replace(A_STATEMENT, **changes)  # type: ignore[arg-type]

    assert Statement.read(statement.text()) == statement


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"root": "00"},
        {"number": "7"},
        {"events": None},
        {"made_at": "yesterday"},
        {"made_at": "2026-01-02T03:04:05.678901+00:00"},
        {"more": 1},
        {"gone": [1]},
        {"gone": 1},
    ],
)
def test_what_is_no_statement_is_refused(change: dict[str, object]) -> None:
    """Another version, another type, a field too many."""
    value = json.loads(A_STATEMENT.text()) | change

    with pytest.raises(ValueError, match="it is no c"):
        Statement.read(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


@given(at=st.integers(0, len(A_STATEMENT.text()) - 1), to=st.integers(0, 255))
def test_no_byte_of_a_statement_can_change_unnoticed(at: int, to: int) -> None:
    """It is refused, or says something else."""
    text = bytearray(A_STATEMENT.text())
    text[at] = to
    try:
        found = Statement.read(bytes(text))
    except ValueError:
        return

    assert (found == A_STATEMENT) == (bytes(text) == A_STATEMENT.text())


def entries(count: int) -> bytes:
    """That many leaves."""
    return b"".join(leaf(n, UUID(int=n).bytes, n, bytes(32)) for n in range(count))


def root_of(whole: bytes) -> bytes:
    tree = Tree()
    for at in range(0, len(whole), LEAF_BYTES):
        tree.add(whole[at : at + LEAF_BYTES])
    return tree.root()


@pytest.mark.parametrize("count", [1, 2, 3, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5])
def test_chunks_give_the_root_of_the_whole_tree(count: int) -> None:
    """However the leaves are cut into chunks: RFC 9162's tree over all of them."""
    whole, seal, step = entries(count), Seal(), CHUNK * LEAF_BYTES

    roots = [seal.add(whole[at : at + step]) for at in range(0, len(whole), step)]

    assert (seal.root(), seal.events) == (root_of(whole), count)
    assert roots == [root_of(whole[at : at + step]) for at in range(0, len(whole), step)]


def test_only_the_last_chunk_may_have_fewer_leaves() -> None:
    """Otherwise one tree would have two ways to be cut."""
    seal = Seal()
    seal.add(entries(3))

    with pytest.raises(ValueError, match="only the last chunk"):
        seal.add(entries(3))


def test_a_leaf_tells_which_event_it_is_of() -> None:
    """By id, stream and number."""
    stream = uuid4()

    assert list(leaves(leaf(2**40, stream.bytes, 3, bytes(32)))) == [(2**40, stream.bytes, 3, bytes(32))]
