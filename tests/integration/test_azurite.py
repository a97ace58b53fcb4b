"""Azurite as a part of the stack, and what it really checks of a shared access signature."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
import requests

import servers
from cloudpush.errors import StackError
from cloudpush.stack import binaries
from cloudpush.stack.azurite import Azurite
from cloudpush.stack.certificate import LIFE, certificate
from signers import LONG_AGO, AzureSigner

BODY = b"123456789"
MD5 = base64.b64encode(hashlib.md5(BODY).digest()).decode()


@pytest.fixture(scope="module")
def container(azurite: Azurite) -> str:
    azurite.make_container("of-azurite")
    return "of-azurite"


def put(url: str, body: bytes = BODY, **headers: str) -> tuple[int, str]:
    """Status and code."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = requests.put(url, data=body, headers={"x-ms-blob-type": "BlockBlob", **named}, timeout=10)
    return answer.status_code, answer.headers.get("x-ms-error-code", "")


def test_it_keeps_its_place_and_its_data_when_it_is_started_again(tmp_path: Path) -> None:
    server = Azurite(tmp_path, containers=["made"])
    with servers.running(server):
        where = server.where
        url = server.signed_url("made", "a b/ü+.txt", permissions="rcw")
        assert put(url) == (201, "")
    assert not server.alive
    with servers.running(server):
        assert server.where == where
        assert requests.get(url, timeout=10).content == BODY
        server.make_container("made")  # is there: nothing happens


def test_its_certificate_is_its_own_and_stays(tmp_path: Path) -> None:
    """With OAuth it speaks TLS: clients trust it by one file, and still do after a restart; the key is private."""
    server = Azurite(tmp_path, containers=["made"], oauth=True)
    with servers.running(server):
        before = server.ca_file.read_bytes()
        url = server.signed_url("made", "x.txt", permissions="rcw")
        headers = {"x-ms-blob-type": "BlockBlob"}
        assert url.startswith("https://127.0.0.1:")
        assert requests.put(url, data=BODY, headers=headers, verify=str(server.ca_file), timeout=10).status_code == 201
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(url, timeout=10)
    with servers.running(server):
        assert server.ca_file.read_bytes() == before
        assert requests.get(url, verify=str(server.ca_file), timeout=10).content == BODY
    assert (tmp_path / "certificate-key.pem").stat().st_mode & 0o777 == 0o600


def test_a_certificate_that_is_about_to_end_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public, _ = certificate(tmp_path, "azurite")
    before = public.read_bytes()
    certificate(tmp_path, "azurite")
    assert public.read_bytes() == before
    monkeypatch.setattr("cloudpush.stack.certificate.LEAST", LIFE)
    certificate(tmp_path, "azurite")
    assert public.read_bytes() != before
    public.write_bytes(b"damaged")
    certificate(tmp_path, "azurite")
    assert public.read_bytes().startswith(b"-----BEGIN CERTIFICATE-----")


def test_what_is_not_installed_is_named_with_the_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    with pytest.raises(StackError, match="make demo"):
        binaries.azurite()


def test_a_container_that_is_refused_is_an_error_at_once(azurite: Azurite) -> None:
    with pytest.raises(StackError, match="'Not_A_Name'"):
        azurite.make_container("Not_A_Name")


def test_it_takes_what_microsofts_own_library_signs(azurite: Azurite, container: str) -> None:
    """For a blob, for a container, for the account; no further than the permissions go."""
    signer = AzureSigner(f"http://{azurite.address}", azurite.account, container)
    key = "a b+c~d=é(1)'!*/x.csv"
    assert put(signer.put("x", key)["url"]) == (201, "")
    assert put(signer.put("x", key, "c")["url"]) == (403, "AuthorizationPermissionMismatch")
    assert requests.head(signer.put("x", key)["url"], timeout=10).status_code == 403
    assert requests.get(signer.put("x", key, "rcw")["url"], timeout=10).content == BODY
    assert put(signer.put_by_account("x", "of/account")["url"]) == (201, "")
    assert put(signer.tree()["tree_sas_url"].replace("?", "/of/tree?")) == (201, "")
    assert put(signer.put("x", "one")["url"].replace("/one?", "/other?")) == (403, "AuthorizationFailure")


def test_it_refuses_what_expired_and_what_was_damaged(azurite: Azurite, container: str) -> None:
    """It tells neither an expired SAS from a wrong one, nor the damage by Azure's own code."""
    now = AzureSigner(f"http://{azurite.address}", azurite.account, container)
    old = AzureSigner(f"http://{azurite.address}", azurite.account, container, ago=LONG_AGO)
    assert put(old.put("x", "late")["url"]) == (403, "AuthorizationFailure")
    assert put(now.put("x", "damaged")["url"], b"other", content_md5=MD5) == (400, "InvalidOperation")
    assert put(now.put("x", "damaged")["url"].replace(container, "nowhere")) == (403, "AuthorizationFailure")
