"""Which rclone is good enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudpush.errors import Code, EngineError
from cloudpush.transfer.binary import check_rclone, new_enough


def a_program(tmp_path: Path, script: str) -> str:
    path = tmp_path / "an rclone; with $(odd) name"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("version", ["v1.73.5", "v1.74.0-beta.1.abc", "v1.75.2", "v2.0.0"])
def test_newer_ones_are_good(version: str) -> None:
    """The version is given back without its letter."""
    assert new_enough(version, "rclone") == version.removeprefix("v")


@pytest.mark.parametrize("version", ["v1.73.4", "v1.73.5-beta.1.abc", "v1.60.1-DEV", "v0.9.9", "nonsense", ""])
def test_older_ones_are_refused(version: str) -> None:
    """The message names the program, its version and what is needed."""
    with pytest.raises(EngineError) as raised:
        new_enough(version, "/usr/bin/rclone")

    assert raised.value.code is Code.ENGINE_MISSING
    assert f"/usr/bin/rclone is version {version}; CloudPush needs 1.73.5 or newer" in raised.value.message


def test_it_is_asked_without_shell_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path may hold anything, and the program sees no variable of the worker."""
    monkeypatch.setenv("CANARY", "leaks")
    program = a_program(tmp_path, 'test -z "$CANARY" && echo "rclone v1.75.2" && echo "- os/version: $*"')

    assert check_rclone(program) == "1.75.2"


@pytest.mark.parametrize("script", ["echo something else", "exit 1", "echo rclone v1.75.2; exit 3"])
def test_another_program_is_no_rclone(tmp_path: Path, script: str) -> None:
    """What does not answer as rclone does is refused."""
    with pytest.raises(EngineError) as raised:
        check_rclone(a_program(tmp_path, script))

    assert raised.value.code is Code.ENGINE_MISSING


def test_a_missing_program_is_named() -> None:
    """The setting, its value and the code."""
    with pytest.raises(EngineError) as raised:
        check_rclone("/nowhere/rclone")

    assert (raised.value.code, raised.value.field) == (Code.ENGINE_MISSING, "CLOUDPUSH_RCLONE")
    assert "'/nowhere/rclone'" in raised.value.message
