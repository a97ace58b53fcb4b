"""What a push with signed URLs consists of: the manifest's rows, looked up below the source."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders import OWNER, a_signed_push
from cloudpush.errors import Code, CredentialError, SourceError
from cloudpush.push import walk
from cloudpush.push.job import PlannedFile, Push, Refusal
from cloudpush.push.signed.book import TicketBook
from cloudpush.push.signed.model import Kind, Ticket
from cloudpush.push.signed.planning import find
from fakes_uploader import PREFIX, SignedWorld, a_ticket, openings


@pytest.fixture
def world(tmp_path: Path) -> SignedWorld:
    """A source of two files, one of them in a directory; beside it a secret."""
    (tmp_path / "secret").write_text("not for you")
    source = tmp_path / "run"
    source.mkdir()
    made = SignedWorld(source)
    made.write("a", "sub/b")
    return made


def found(world: SignedWorld, *tickets: Ticket, source: str = "", root: Path | None = None) -> list[tuple[object, ...]]:
    """(seq, path, key, size) of files, (seq, path, code) of refusals."""
    push = world.hand_over(*tickets, source=world.source / source if source else world.source)
    return [row(r) for r in rows(world, push, root)]


def rows(world: SignedWorld, push: Push, root: Path | None = None) -> Iterator[PlannedFile | Refusal]:
    book = TicketBook.of(push, world.vault, world.store, 1, None)
    return find(push, book, (root or world.source,))


def row(r: PlannedFile | Refusal) -> tuple[object, ...]:
    if isinstance(r, Refusal):
        return (r.seq, r.path, r.error.code)
    return (r.seq, r.path, r.key, r.size)


def test_rows_are_files_numbered_as_in_the_manifest(world: SignedWorld) -> None:
    """Their keys are what their URLs lead to, whatever their paths are."""
    assert found(world, a_ticket("sub/b"), a_ticket("a", key="elsewhere/x")) == [
        (1, "sub/b", f"{PREFIX}/sub/b", 5),
        (2, "a", "elsewhere/x", 1),
    ]


def test_what_cannot_be_pushed_is_refused_alone(world: SignedWorld) -> None:
    """And keeps its number."""
    (world.source / "out").symlink_to("../secret")
    (world.source / "away").symlink_to("..")
    (world.source / "dangling").symlink_to("nowhere")
    os.mkfifo(world.source / "pipe")
    names = ["gone", "a/below", "sub", "out", "away/secret", "dangling", "pipe", "sub/../../secret", "nul\0", "a"]

    assert found(world, *(a_ticket(name) for name in names)) == [
        (1, "gone", Code.SOURCE_MISSING),
        (2, "a/below", Code.SOURCE_MISSING),
        (3, "sub", Code.SOURCE_NOT_A_FILE),
        (4, "out", Code.SOURCE_OUTSIDE_ROOTS),
        (5, "away/secret", Code.SOURCE_OUTSIDE_ROOTS),
        (6, "dangling", Code.SOURCE_MISSING),
        (7, "pipe", Code.SOURCE_NOT_A_FILE),
        (8, "sub/../../secret", Code.SOURCE_OUTSIDE_ROOTS),
        (9, "nul\0", Code.NAME_NOT_A_KEY),
        (10, "a", f"{PREFIX}/a", 1),
    ]


def test_links_within_the_roots_are_followed(world: SignedWorld) -> None:
    """To files and to directories, as a walk does; size and time are those of what they lead to."""
    (world.source / "link").symlink_to("sub/b")
    (world.source / "dir").symlink_to("sub")

    assert found(world, a_ticket("link"), a_ticket("dir/b")) == [
        (1, "link", f"{PREFIX}/link", 5),
        (2, "dir/b", f"{PREFIX}/dir/b", 5),
    ]


@pytest.mark.parametrize("path", ["", "a"])
def test_a_single_file_is_named_or_not(world: SignedWorld, path: str) -> None:
    """The source says which it is."""
    ticket = a_ticket(path, key=f"{PREFIX}/x")

    assert found(world, ticket, source="a") == [(1, "a", f"{PREFIX}/x", 1)]


def test_a_single_file_is_all_there_is(world: SignedWorld) -> None:
    """Its neighbours were not asked for."""
    assert found(world, a_ticket("a"), a_ticket("sub/b"), source="a")[1] == (2, "sub/b", Code.SOURCE_MISSING)


def test_a_directory_is_no_single_file(world: SignedWorld) -> None:
    """A URL for one file, and a source of many."""
    assert found(world, a_ticket("", key="x")) == [(1, "", Code.SOURCE_NOT_A_FILE)]


def test_one_sas_is_for_what_is_found_below_the_source(world: SignedWorld) -> None:
    """Keys as of any push."""
    assert found(world, a_ticket("", Kind.TREE)) == [
        (1, "a", f"{PREFIX}/a", 1),
        (2, "sub/b", f"{PREFIX}/sub/b", 5),
    ]


def test_a_source_outside_the_roots_is_refused_as_a_whole(world: SignedWorld) -> None:
    """Before a file is looked at."""
    with pytest.raises(SourceError) as e:
        found(world, a_ticket("a"), root=world.source / "sub")

    assert e.value.code is Code.SOURCE_OUTSIDE_ROOTS


def test_a_set_that_was_destroyed_cannot_be_planned(world: SignedWorld) -> None:
    """The push waits for another."""
    push = world.hand_over(a_ticket("a"))
    world.purge(push.credential_id)

    with pytest.raises(CredentialError) as e:
        rows(world, push)

    assert (e.value.code, e.value.code.waits) == (Code.URL_EXPIRED, True)


def test_sheets_are_opened_one_at_a_time(world: SignedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Constant memory: what is not asked for is not unsealed."""
    push = world.hand_over(*(a_ticket(f"f{n}") for n in range(10)))
    opened = openings(world, monkeypatch)

    planned = rows(world, push)
    for _ in range(3):
        next(planned)

    assert opened == [1, 2]


def test_directories_that_are_remembered_are_bounded(world: SignedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million rows may lie in a million directories."""
    monkeypatch.setattr(walk, "_KNOWN_DIRECTORIES", 2)
    for n in range(5):
        world.write(f"d{n}/x")
    lookup = walk.Lookup(str(world.source), walk.real_roots([world.source]))

    sizes = [lookup.file(f"d{n}/x").st_size for n in (0, 1, 2, 3, 4, 0)]

    assert (sizes, len(lookup._directories) <= 2) == ([4] * 6, True)


def test_another_owner_cannot_read_a_book(world: SignedWorld) -> None:
    """A set is sealed for its owner."""
    set_id = world.seal([a_ticket("a")])
    push = a_signed_push(world.source, credential_id=set_id, owner=OWNER + "'s neighbour")
    world.store.add(push)

    with pytest.raises(CredentialError) as e:
        rows(world, push)

    assert e.value.code is Code.CREDENTIAL_CORRUPT
