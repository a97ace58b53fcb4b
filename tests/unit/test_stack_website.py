"""The web pages as a part of the stack."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from cloudpush.stack.datadir import DataDir
from cloudpush.stack.up import UpOptions, _how_to_use, _website
from cloudpush.stack.website import Website

URL = "http://127.0.0.1:1"
LINK = f"{URL}/sign-in/link?token=secret"


def website(tmp_path: Path, port: int) -> Website:
    return Website("web", (), tmp_path / "env", tmp_path / "log", port=port)


def test_a_port_that_somebody_has_is_left_to_them_and_that_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        web = website(tmp_path, port)
        web.choose_port()
    assert web.port != port
    assert web.url == f"http://127.0.0.1:{web.port}"
    assert str(port) in web.remark


def test_the_port_of_the_last_time_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the environment names another, and the address that browsers know may be another in any case."""
    data = DataDir(tmp_path)
    assert _website(UpOptions(tmp_path), data, {}).port == 8765
    assert _website(UpOptions(tmp_path), data, {"ports": {"openbao": [1, 2], "web": 8801}}).port == 8801
    monkeypatch.setenv("CLOUDPUSH_WEB_PORT", "8802")
    monkeypatch.setenv("CLOUDPUSH_WEB_URL", "https://push.example")
    made = _website(UpOptions(tmp_path), data, {"ports": {"web": 8801}})
    assert (made.port, made.url) == (8802, "https://push.example")


def test_it_serves_once_it_answers(tmp_path: Path) -> None:
    """Neither a closed port nor a stranger on it is taken for the pages."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert website(tmp_path, port).probe() is False


def test_the_link_is_told_to_whoever_asked_and_to_no_log(tmp_path: Path) -> None:
    """What a view may write into a file has no link in it."""
    assert LINK in _how_to_use(DataDir(tmp_path), URL, LINK)
    assert "sign-in" not in _how_to_use(DataDir(tmp_path), URL)


def test_how_to_use_it_says_where_the_api_is_and_how_to_get_a_token(tmp_path: Path) -> None:
    words = _how_to_use(DataDir(tmp_path), URL)
    assert f"{URL}/v1" in words
    assert f"cloudpush login {URL}" in words
    assert "cloudpush token create" in words
