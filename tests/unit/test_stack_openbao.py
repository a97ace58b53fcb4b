"""The configuration that OpenBao starts with."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from cloudpush.errors import StackError
from cloudpush.stack.openbao import OpenBao, _hcl, _quoted
from cloudpush.stack.ports import free_ports, is_free


def test_no_secret_is_in_the_configuration(tmp_path: Path) -> None:
    """OpenBao reads the ids and secrets of the roles from their own files."""
    bao = OpenBao(tmp_path, tmp_path / "log")
    bao.choose_ports()
    text = bao._configuration()
    files = [f'path = "{tmp_path}/auth/{role}-secret-id"' for role in ("worker", "intake", "keeper", "web")]
    assert all(f in text for f in files)
    assert f'path = "{tmp_path}/setup/setup-secret-id"' in text
    assert 'secret_id = "' not in text


def test_the_setup_role_may_write_the_policies_and_nothing_else(tmp_path: Path) -> None:
    """It is what an upgrade needs, and no way to a secret that does not lead through the seal key's directory."""
    bao = OpenBao(tmp_path, tmp_path / "log")
    bao.choose_ports()
    (line,) = [x for x in bao._configuration().splitlines() if "sys/policies/acl/worker" in x]
    assert line.count("path ") == 6
    assert "sys/policies/acl/setup" not in line


def test_values_are_quoted_as_hcl_wants_them() -> None:
    """A data directory may have any name."""
    assert _quoted('/a "b"\\ü') == '"/a \\"b\\"\\\\ü"'
    assert _hcl({"a": ["x"], "b": True, "c": {"d": 1}}) == '{ a = ["x"], b = true, c = { d = 1 } }'


def test_taken_ports_are_replaced_and_that_is_said(tmp_path: Path) -> None:
    """The user's own Vault may sit on 8200."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        (free,) = free_ports(1)
        bao = OpenBao(tmp_path, tmp_path / "log", ports=(taken, free))
        bao.choose_ports()
    assert bao.ports is not None
    assert bao.remark == f"taken: port {taken}; using {bao.ports[0]} and {bao.ports[1]} from now on"
    assert taken not in bao.ports


def test_ports_that_are_lost_before_it_serves_are_replaced_and_afterwards_kept(tmp_path: Path) -> None:
    """Somebody else may be quicker; but clients of a server that crashed look for it where it was."""
    bao = OpenBao(tmp_path, tmp_path / "log")
    bao.choose_ports()
    first = bao.ports
    assert first is not None
    with socket.socket() as quicker:
        quicker.bind(("127.0.0.1", first[0]))
        quicker.listen()
        bao.choose_ports()
    second = bao.ports
    assert second is not None
    bao._served = True
    with socket.socket() as too_late:
        too_late.bind(("127.0.0.1", second[0]))
        too_late.listen()
        bao.choose_ports()
    assert (first[0] in second, bao.ports) == (False, second)


def test_free_ports_are_different_and_free() -> None:
    """All at the same moment."""
    found = free_ports(20)
    assert (len(set(found)), all(is_free(p) for p in found)) == (20, True)


@pytest.mark.parametrize(
    ("found", "words"),
    [("1", "Move this directory away"), ("2", "Move this directory away"), ("4", "install that version again")],
)
def test_a_directory_that_another_version_set_up_is_refused_and_left_alone(
    tmp_path: Path, found: str, words: str
) -> None:
    """What a first start makes cannot be added later: nobody has a root token."""
    (tmp_path / "set-up").write_text(f"{found}\n")
    (tmp_path / "raft").mkdir()
    (tmp_path / "raft" / "vault.db").write_text("sealed")

    with pytest.raises(StackError, match=words):
        OpenBao(tmp_path, tmp_path / "log").launch()

    assert sorted(p.name for p in tmp_path.iterdir()) == ["raft", "set-up"]
    assert (tmp_path / "raft" / "vault.db").read_text() == "sealed"
