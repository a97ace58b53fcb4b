"""`cloudpush web` and `cloudpush web-link`: what can be told before anything is served."""

from __future__ import annotations

import socket

import pytest

from cloudpush.cli.web import _check_url, _listen
from cloudpush.errors import Code, SettingsError, StackError
from cloudpush.settings import Settings


def test_a_missing_web_url_is_named() -> None:
    with pytest.raises(SettingsError, match="CLOUDPUSH_WEB_URL is missing") as caught:
        _check_url(Settings())
    assert caught.value.code is Code.SETTINGS_INVALID


def test_a_port_that_is_taken_is_told_in_our_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=f"cannot listen at 127.0.0.1:{port}"):
            _listen(Settings(web_port=port))


def test_a_free_port_is_listened_at() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with _listen(Settings(web_port=port)) as listening:
        assert listening.getsockname()[:2] == ("127.0.0.1", port)


def test_no_answer_waits_for_an_acknowledgement() -> None:
    """What is accepted has Nagle's algorithm off, which would hold the body of each answer back for 40 ms."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        _listen(Settings(web_port=port)) as listening,
        socket.create_connection(("127.0.0.1", port)),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
