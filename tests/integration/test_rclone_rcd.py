"""The supervisor with programs in rclone's place that misbehave, and with directories that do not do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import servers
from cloudpush.errors import CloudPushError, Code, EngineError, SettingsError
from cloudpush.transfer.rcd import Rcd


@pytest.fixture
def run() -> Iterator[Path]:
    """A short, private directory."""
    with servers.scratch() as directory:
        yield directory


def a_program(directory: Path, script: str) -> str:
    path = directory / "not-rclone"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return str(path)


def started(rclone: str, run: Path) -> CloudPushError:
    """The error that starting it ends with."""
    rcd = Rcd(rclone, run / "run")
    try:
        with pytest.raises(CloudPushError) as raised:
            rcd.start()
    finally:
        rcd.stop()
    assert list((run / "run").glob("*")) == []
    return raised.value


def test_a_program_that_ends_at_once_is_told_with_its_last_words(run: Path) -> None:
    """What it said is kept, without what looks like a secret."""
    error = started(a_program(run, "echo no luck today, secret=canary1234 >&2; exit 3"), run)

    assert (type(error), error.code, error.message) == (
        EngineError,
        Code.ENGINE_CRASHED,
        "rclone ended with status 3.",
    )
    assert error.detail == "no luck today, secret=[redacted]"


def test_a_program_that_talks_much_is_listened_to(run: Path) -> None:
    """A megabyte of complaints fills no pipe; its first and its last lines are kept."""
    error = started(
        a_program(run, "head -c 1000000 /dev/zero | tr '\\0' x | fold -w 50 >&2; echo >&2; echo last >&2; exit 1"), run
    )

    assert (error.message, error.detail.splitlines()[-1], len(error.detail.splitlines())) == (
        "rclone ended with status 1.",
        "last",
        20,
    )


def test_a_missing_program_is_told_before_anything_is_started(run: Path) -> None:
    """Nobody waits for what cannot come."""
    assert started(str(run / "nowhere"), run).code is Code.ENGINE_MISSING


@pytest.mark.parametrize("name", ["x" * 90, "line\nfeed"])
def test_a_directory_that_no_socket_fits_into_is_refused_by_name(run: Path, name: str) -> None:
    """The setting is named, and what to write instead."""
    rcd = Rcd("sh", run / name)

    with pytest.raises(SettingsError) as raised:
        rcd.start()

    assert raised.value.field == "CLOUDPUSH_RUNTIME_DIR"
    assert list((run / name).iterdir()) == []


def test_directories_of_the_dead_are_removed_and_others_left(run: Path) -> None:
    """Only what this program made, and whose owner has gone."""
    base = run / "run"
    dead, foreign = base / "cloudpush-engine-dead", base / "something-else"
    for directory in (dead, foreign):
        directory.mkdir(parents=True)
        (directory / "file").touch()
    (base / "cloudpush-engine-link").symlink_to(foreign)

    rcd = Rcd(a_program(run, "exit 1"), base)
    with pytest.raises(EngineError):
        rcd.start()
    rcd.stop()

    assert sorted(p.name for p in base.iterdir()) == ["cloudpush-engine-link", "something-else"]
    assert [p.name for p in foreign.iterdir()] == ["file"]
