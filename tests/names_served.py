"""What a hostile name server says, and whom one connects to then."""

from __future__ import annotations

import asyncio
import socket

import pytest


def resolving(monkeypatch: pytest.MonkeyPatch, *rounds: str) -> list[str]:
    """Make every name resolve to the next of ``rounds`` each time it is asked for; returns the names asked for."""
    asked: list[str] = []
    answers = iter(rounds)

    def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def refusing(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Have every connection of an event loop refused; returns the addresses that were tried."""
    connected: list[tuple[str, int]] = []

    async def connect(_loop: object, _sock: object, address: tuple[str, int]) -> None:
        connected.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(asyncio.selector_events.BaseSelectorEventLoop, "sock_connect", connect)
    return connected
