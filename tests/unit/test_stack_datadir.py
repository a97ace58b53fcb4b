"""Whose data directory it is, and where its sockets lie."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from cloudpush.errors import StackError
from cloudpush.stack.datadir import RUN_BYTES, DataDir, Holder


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose name leaves room for a socket's."""
    with TemporaryDirectory(prefix="cp-") as path:
        yield Path(path)


def test_a_second_claim_says_who_holds_it_since_when_and_how_to_stop_it(tmp_path: Path) -> None:
    """Two stacks on the same data would destroy them."""
    first = DataDir(tmp_path / "data")
    first.claim()
    with pytest.raises(StackError) as refused:
        DataDir(tmp_path / "data").claim()
    holder = first.holder()
    assert holder is not None
    assert refused.value.message == (
        f"{tmp_path}/data is in use by another `cloudpush up` (process {os.getpid()}, since {holder.since}). "
        f"Stop it with `cloudpush down --data-dir {tmp_path}/data`, or choose another --data-dir."
    )
    first.release()


def test_a_released_directory_can_be_claimed_again(tmp_path: Path) -> None:
    """The lock is the kernel's: a file that is left says nothing."""
    data = DataDir(tmp_path / "data")
    data.claim()
    data.release()
    assert not data.in_use()
    data.claim()
    assert data.in_use()
    data.release()


def test_claiming_makes_it_private(tmp_path: Path) -> None:
    """Nobody else may look in."""
    os.umask(0o022)
    data = DataDir(tmp_path / "data")
    data.claim()
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (data.root, *data.root.iterdir())}
    assert modes == {"data": 0o700, "lock": 0o600, "logs": 0o700}
    data.release()


def test_a_directory_with_other_things_in_it_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    """`--data-dir ~` must not close somebody's home to others."""
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    (home / "thesis.tex").touch()
    with pytest.raises(StackError, match="not empty and was not made by `cloudpush up`"):
        DataDir(home).claim()
    assert (stat.S_IMODE(home.stat().st_mode), [p.name for p in home.iterdir()]) == (0o755, ["thesis.tex"])


def test_somebody_elses_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of its files could not be read."""
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    with pytest.raises(StackError, match=f"belongs to user id {tmp_path.stat().st_uid}; run as that user"):
        DataDir(tmp_path / "data").claim()


def test_another_process_with_the_same_id_is_not_the_holder() -> None:
    """Process ids are used again."""
    me = psutil.Process()
    assert Holder(me.pid, "", me.create_time()).alive()
    assert not Holder(me.pid, "", me.create_time() - 60).alive()


@pytest.mark.parametrize("name", ["x" * RUN_BYTES, "a,b"])
def test_sockets_move_to_a_private_directory_when_the_path_cannot_hold_them(
    short: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A socket's path has 107 bytes at most, and a comma separates hosts in a Postgres URL."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    data = DataDir(short / name)
    data.claim()
    path = data.run_dir()
    data.remember({"run_dir": str(path)})
    assert (str(path.parent), stat.S_IMODE(path.stat().st_mode)) == ("/tmp", 0o700)
    assert data.run_dir() == path  # also after a crash, so that nothing is left behind
    data.forget_run_dir(path)
    data.release()


def test_a_short_path_keeps_its_sockets_itself(short: Path) -> None:
    """The usual case: everything in one place."""
    data = DataDir(short / "data")
    data.claim()
    assert data.run_dir() == short / "data" / "run"
    data.release()


def test_a_broken_state_file_is_as_good_as_none(tmp_path: Path) -> None:
    """It only remembers conveniences."""
    (tmp_path / "state.json").write_text("{")
    assert DataDir(tmp_path).state() == {}
