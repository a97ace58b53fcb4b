"""A consent's token becomes a signature for one container, at a real Azurite over TLS.

What Azurite cannot show: signatures for a directory (``sr=d``: it answers 403; test_mint_azure compares what is signed with
Microsoft's own library), the roles that a user lacks, a tenant's refusal, and the token's own signature, which it ignores.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

import servers
from builders import OWNER, a_push
from cloudpush.credentials.minting import Mint
from cloudpush.errors import CloudPushError, Code
from cloudpush.push.grants.model import Sas, Use
from cloudpush.push.job import Destination, Profile, Push
from cloudpush.stack.azurite import Azurite
from cloudpush.wiring import SystemClock
from entra import GRAPH, a_token
from fakes_mint import FakeAccess, FakeIdentity, Grants, OneProvider, a_provider, an_active_grant, some_tokens


@pytest.fixture(scope="module")
def account() -> Iterator[Azurite]:
    """A storage account that takes access tokens."""
    with servers.scratch() as base:
        server = Azurite(base / "azurite", containers=["mine", "other"], oauth=True)
        with servers.running(server):
            yield server


class World:
    """A mint before one account."""

    def __init__(self, account: Azurite, *claims: dict[str, Any], **changes: Any) -> None:
        """``claims``: of the tokens, one generation each."""
        self.provider = a_provider(
            Use.USER_DELEGATION_SAS,
            **({"endpoint": account.endpoint, "ca_file": str(account.ca_file), "profile": "azure"} | changes),
        )
        self.grant = an_active_grant(settings={"account": account.account.name})
        self.grants = Grants(self.grant)
        first, *rest = [some_tokens("x", expires_at=None) for _ in claims or ({},)]
        issued = [replace(t, access_token=a_token(**c)) for t, c in zip([first, *rest], claims or ({},), strict=True)]
        self.access = FakeAccess(self.grants, issued[0], *issued[1:])
        self.mint = Mint(
            access=self.access,
            store=self.grants,  # type: ignore[arg-type]
            providers=OneProvider(self.provider),
            identity=FakeIdentity(),
            clock=SystemClock(),
        )

    def push(self, container: str = "mine", prefix: str = "runs/7") -> Push:
        """A push to one of the containers."""
        profile = Profile("azure", "azure", trusted=True)
        destination = Destination("az", container, prefix, profile)
        return a_push(destination=destination, credential_id=self.grant.id, owner=OWNER)

    def sas(self, container: str = "mine") -> Sas:
        """What a push to it would be opened with."""
        made = self.mint.mint(self.push(container)).secret
        assert isinstance(made, Sas)
        return made


def ask(account: Azurite, method: str, sas: Sas, key: str, *, container: str = "", **more: Any) -> int:
    """The status of a request for ``key``, in another container on demand."""
    where = sas.container_url if not container else f"{sas.endpoint}/{container}"
    headers = {"x-ms-blob-type": "BlockBlob"} if method == "PUT" else {}
    answer = requests.request(
        method, f"{where}/{key}?{sas.query}", headers=headers, verify=str(account.ca_file), timeout=10, **more
    )
    return answer.status_code


def test_it_writes_and_looks_in_its_own_container_only(account: Azurite) -> None:
    """Put Blob, blocks, HEAD; refused: another container, a listing, a deletion."""
    sas = World(account).sas()
    assert ask(account, "PUT", sas, "runs/7/a.csv", data=b"data") == 201
    assert ask(account, "HEAD", sas, "runs/7/a.csv") == 200
    block = {"comp": "block", "blockid": base64.b64encode(b"block-1").decode()}
    assert ask(account, "PUT", sas, "runs/7/big", data=b"data", params=block) == 201
    assert ask(account, "PUT", sas, "runs/7/a.csv", container="other", data=b"data") == 403
    assert ask(account, "GET", sas, "runs/7/a.csv", container="other") == 403
    assert ask(account, "GET", sas, "", params={"restype": "container", "comp": "list"}) == 403
    assert ask(account, "DELETE", sas, "runs/7/a.csv") == 403


def test_two_containers_share_a_key_and_nothing_else(account: Azurite) -> None:
    world = World(account)
    mine, other = world.sas(), world.sas("other")
    assert world.access.asked == [0]  # one key request
    assert ask(account, "PUT", other, "b.csv", data=b"data") == 201
    assert ask(account, "PUT", mine, "b.csv", container="other", data=b"data") == 403


def test_it_ends_when_its_session_ends(account: Azurite) -> None:
    world = World(account, session_seconds=2)
    first = world.mint.mint(world.push())
    assert first.expires_at is not None
    assert first.renew_at is not None
    assert first.renew_at < first.expires_at <= SystemClock().now() + timedelta(seconds=2)
    sas = first.secret
    assert isinstance(sas, Sas)
    assert ask(account, "PUT", sas, "late.csv", data=b"data") == 201
    ends_at = time.monotonic() + 30
    while ask(account, "HEAD", sas, "late.csv") == 200:
        assert time.monotonic() < ends_at
        time.sleep(0.05)
    assert ask(account, "HEAD", world.sas(), "late.csv") == 200


def test_a_token_that_is_refused_is_exchanged_once_and_then_its_user_must_help(account: Azurite) -> None:
    """The first generation is for something else; the second is good. A third of the wrong kind needs a person."""
    wrong = {"aud": GRAPH}
    world = World(account, wrong, {})
    assert ask(account, "PUT", world.sas(), "again.csv", data=b"data") == 201
    assert world.access.asked == [0, 1]

    world = World(account, wrong, wrong)
    with pytest.raises(CloudPushError) as caught:
        world.mint.check(world.grant)
    assert caught.value.code is Code.CONSENT_NEEDED
    assert "reconnect" in caught.value.message
    assert world.access.current.access_token not in f"{caught.value!r}{caught.value.detail}"


def test_a_check_asks_for_a_key(account: Azurite) -> None:
    world = World(account)
    world.mint.check(world.grant)
    assert world.access.asked == [0]


def test_tokens_go_to_nobody_whose_certificate_is_not_trusted(account: Azurite, tmp_path: Path) -> None:
    refused = World(account, ca_file="")
    with pytest.raises(CloudPushError) as caught:
        refused.sas()
    assert caught.value.code is Code.TLS_FAILED
    missing = World(account, ca_file=str(tmp_path / "no-such-file"))
    with pytest.raises(CloudPushError) as caught:
        missing.sas()
    assert caught.value.code is Code.NETWORK


def test_tokens_go_nowhere_in_the_clear(account: Azurite) -> None:
    clear = World(account, endpoint=account.endpoint.replace("https", "http"))
    with pytest.raises(CloudPushError) as caught:
        clear.sas()
    assert caught.value.code is Code.SETTINGS_INVALID
    assert clear.access.asked == []


def test_an_answer_of_a_user_is_a_part_of_a_host_name_and_no_more(account: Azurite) -> None:
    world = World(account, endpoint="https://{account}.blob.core.windows.net")
    world.grants.change(settings={"account": "evil.example/x"})
    with pytest.raises(CloudPushError) as caught:
        world.sas()
    assert (caught.value.code, caught.value.field) == (Code.BAD_INPUT, "account")
