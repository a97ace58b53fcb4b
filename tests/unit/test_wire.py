"""Providers that answer for ever: each byte comes in time, the whole never does."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from cloudpush.credentials import discovery, urls, wire
from cloudpush.credentials.discovery import Metadata
from cloudpush.credentials.wire import Careful, asked
from cloudpush.errors import CloudPushError, Code
from cloudpush.push.grants.model import Provider
from cloudpush.web.oidc import SignInProvider
from doubles.oauth_server import OAuthServer
from fakes_consent import a_provider

PAUSE, PATIENCE = 0.05, 200
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"


@contextmanager
def dripping(first: bytes, drops: Sequence[bytes], last: bytes) -> Iterator[tuple[str, threading.Event]]:
    """A server that sends ``first``, then ``drops`` for ten seconds, and then, to who is still there, a good end."""
    asked_, over = threading.Event(), threading.Event()

    def serve() -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(first)
                asked_.set()
                for n in range(PATIENCE):
                    connection.sendall(drops[n % len(drops)])
                    over.wait(PAUSE)
                connection.sendall(last)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/", asked_
        finally:
            over.set()


def empties() -> tuple[bytes, list[bytes]]:
    """The beginning of a compressed body, and pieces of it that unpack to nothing."""
    packer = zlib.compressobj(wbits=31)
    begin = packer.flush(zlib.Z_SYNC_FLUSH)
    return begin, [packer.flush(zlib.Z_FULL_FLUSH) or b"\x00\x00\x00\xff\xff"]


def ask(url: str) -> bytes:
    with Careful() as session:
        session.arm(a_provider())
        return asked(url, lambda: session.get(url, timeout=(5, 5)).content)


@pytest.mark.parametrize("where", ["head", "body", "packed body"])
def test_an_answer_that_comes_drop_by_drop_is_not_waited_for(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of somebody else's, or the refreshes of all other providers, would wait for it."""
    monkeypatch.setattr(wire, "WHOLE_SECONDS", 0.5)
    monkeypatch.setattr(wire, "BODY_SECONDS", 3600.0)  # it is looked at between two pieces only
    begin, pieces = empties()
    drips = {
        "head": (HEAD, [b"X-A: 1\r\n", *[b"X"] * 5, b": 1\r\n"], b"\r\n{}"),
        "body": (HEAD + b"Content-Length: 202\r\n\r\n", [b" "], b"{}"),
        "packed body": (HEAD + b"Content-Encoding: gzip\r\n\r\n" + begin, pieces, b""),
    }
    with dripping(*drips[where]) as (url, _), pytest.raises(CloudPushError) as caught:
        ask(url)
    assert caught.value.code in {Code.NETWORK, Code.PROVIDER_UNAVAILABLE}


def test_nobody_waits_for_another_providers_metadata() -> None:
    """One of the list is slow, or was taken over and likes to be."""
    with OAuthServer() as good, dripping(HEAD, [b"X"], b": 1\r\n\r\n{}") as (slow, is_asked):
        metadata = Metadata()
        bad = a_provider("bad", discovery=f"{slow}discovery", token_endpoint="")
        waiting = threading.Thread(target=lambda: _quietly(metadata, bad), daemon=True)
        waiting.start()
        assert is_asked.wait(30)
        other = good.provider(discovery=f"{good.url}/.well-known/openid-configuration", token_endpoint="")
        with suppress(CloudPushError):
            metadata.complete(other)
        assert good.requests
        assert waiting.is_alive()


def _quietly(metadata: Metadata, provider: Provider) -> None:
    with suppress(CloudPushError):
        metadata.complete(provider)


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"])
def test_the_environment_decides_neither_whom_to_trust_nor_the_way(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:1" if "PROXY" in variable else "/nowhere")
    with OAuthServer() as server:
        ask(f"{server.url}/jwks")
        assert [path for path, _, _ in server.requests] == ["/jwks"]


def test_certificates_are_checked() -> None:
    with Careful() as session:
        session.arm(a_provider())
        settings = session.merge_environment_settings("https://x.example", {}, None, None, None)
    assert settings["verify"] is True
    assert ssl.create_default_context().verify_mode is ssl.CERT_REQUIRED


def test_a_sign_in_provider_cannot_keep_everybody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its metadata are asked for under a lock: whoever signs in waits for that."""
    monkeypatch.setattr(wire, "WHOLE_SECONDS", 0.5)
    monkeypatch.setattr(wire, "BODY_SECONDS", 3600.0)
    good = HEAD + b"Content-Length: 300\r\n\r\n"
    with dripping(good, [b" "], b"{" + b" " * 98 + b"}") as (url, _):
        provider = SignInProvider(issuer=url, client_id="us", secret=str, redirect_uri="", claim="email")
        with pytest.raises(CloudPushError) as caught:
            provider.metadata()
    assert caught.value.code is Code.PROVIDER_UNAVAILABLE


@pytest.mark.parametrize(
    "place", ["a.example;sandbox", "a.example,b.example", "a'none'", "*", "a.example:443;x", "a@b", "[::1]x"]
)
def test_a_host_of_a_providers_metadata_says_nothing_to_a_browser_but_its_name(place: str) -> None:
    """It is listed in ``form-action``, where ``;`` begins another directive."""
    with pytest.raises(ValueError):
        urls.check(f"https://{place}/authorize")


@pytest.mark.parametrize("place", ["a.example", "a-b_c.example:8443", "[2001:db8::1]:443", "A.EXAMPLE"])
def test_hosts_as_they_are_written_are_taken(place: str) -> None:
    assert urls.check(f"https://{place}/x?y=1;2")


#: What listens on this machine: Vault, for one.
INSIDE = "http://127.0.0.1:8200/v1/sys/seal"


@pytest.mark.parametrize("field", ["token_endpoint", "jwks_uri", "revocation_endpoint", "authorization_endpoint"])
def test_metadata_from_elsewhere_send_nothing_to_this_machine(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain http is for providers that run here, as the demo's."""
    far = a_provider(discovery="https://lab.example.org/metadata", **{field: ""})
    told = json.dumps({"issuer": far.issuer, field: INSIDE}).encode()
    monkeypatch.setattr(discovery, "asked", lambda *_: (200, told))
    with pytest.raises(CloudPushError) as caught:
        Metadata().complete(far)
    assert caught.value.code is Code.PROVIDER_UNAVAILABLE
    here = replace(far, discovery="http://127.0.0.1:1/metadata")
    assert getattr(Metadata().complete(here), field) == INSIDE


def test_a_sign_in_providers_metadata_send_nothing_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = "https://login.example.org"
    provider = SignInProvider(issuer=issuer, client_id="us", secret=str, redirect_uri="", claim="email")
    told = {"issuer": issuer, "authorization_endpoint": f"{issuer}/auth", "token_endpoint": INSIDE}
    monkeypatch.setattr(SignInProvider, "_read", lambda *_: told)
    with pytest.raises(CloudPushError) as caught:
        provider.owner(code="code", nonce="n", verifier="v")
    assert caught.value.code is Code.PROVIDER_UNAVAILABLE
    assert "token_endpoint" in caught.value.message
