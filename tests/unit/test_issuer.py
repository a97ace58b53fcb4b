"""Identity tokens and the keys that they are checked with; a library that knows nothing of us checks them."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwt
from joserfc.errors import BadSignatureError
from joserfc.jwk import KeySet

from builders import NOON
from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.issuer import Issuer, PublicKeys
from cloudpush.errors import CloudPushError, Code, VaultError
from cloudpush.settings import Settings
from cloudpush.web.issuer import metadata
from fakes_mint import an_active_grant
from issuer_server import issuer

URL = "https://push.example.org"
GRANT = an_active_grant()


@dataclass
class FakeTransit:
    """A Transit key with versions, behind the door that the code knows: ``connection.run(lambda vault: …)``."""

    made: dict[int, datetime]
    keys: dict[int, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    away: bool = False
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        for version in self.made:
            self.keys.setdefault(version, rsa.generate_private_key(65537, 2048))

    def run(self, request: Callable[[Any], Any]) -> Any:
        if self.away:
            raise VaultError(Code.VAULT_UNREACHABLE, "The fake vault is away.")
        return request(self)

    @property
    def secrets(self) -> Any:
        return self

    @property
    def transit(self) -> Any:
        return self

    def read_key(self, name: str, mount_point: str) -> dict[str, Any]:
        self.asked.append(f"read {mount_point}/{name}")
        return {
            "latest_version": max(self.keys),
            "keys": {
                str(version): {
                    "creation_time": self.made[version].strftime("%Y-%m-%dT%H:%M:%S.123456789Z"),
                    "public_key": key.public_key()
                    .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
                    .decode(),
                }
                for version, key in self.keys.items()
            },
        }

    def sign_data(self, name: str, *, hash_input: str, key_version: int, **how: str) -> dict[str, str]:
        assert how == {"hash_algorithm": "sha2-256", "signature_algorithm": "pkcs1v15", "mount_point": "transit"}
        self.asked.append(f"sign {name} {key_version}")
        signature = self.keys[key_version].sign(base64.b64decode(hash_input), padding.PKCS1v15(), SHA256())
        return {"signature": f"vault:v{key_version}:{base64.b64encode(signature).decode()}"}


def a_transit(*ages: float, now: datetime = NOON) -> FakeTransit:
    """Versions of such ages, in minutes, oldest first."""
    return FakeTransit({number: now - timedelta(minutes=age) for number, age in enumerate(ages, 1)})


def an_issuer(transit: FakeTransit, url: str = URL) -> Issuer:
    return Issuer(cast("VaultConnection", transit), url, now=lambda: NOON)


class Seconds:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.at = 1_000.0

    def __call__(self) -> float:
        return self.at


def checked(token: str, keys: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a token whose signature is right."""
    found = jwt.decode(token, KeySet.import_key_set(cast("Any", keys)), algorithms=["RS256"])
    return found.header, found.claims


def test_a_token_says_who_about_whom_for_whom_and_until_when() -> None:
    """Checked by a library of its own, with the keys that we publish; times are whole numbers."""
    transit = a_transit(60)
    header, claims = checked(
        an_issuer(transit).issue(GRANT, "cloudpush", 300), PublicKeys(cast("VaultConnection", transit)).jwks()
    )
    assert header == {"alg": "RS256", "typ": "JWT", "kid": header["kid"]}
    assert UUID(claims.pop("jti")).version == 4
    at = int(NOON.timestamp())
    assert claims == {
        "iss": URL,
        "sub": str(GRANT.id),
        "aud": "cloudpush",
        "iat": at,
        "nbf": at - 5,
        "exp": at + 300,
    }
    assert all(type(claims[name]) is int for name in ("iat", "nbf", "exp"))


def test_every_token_is_another_one() -> None:
    issuer = an_issuer(a_transit(60))
    assert issuer.issue(GRANT, "cloudpush", 300) != issuer.issue(GRANT, "cloudpush", 300)


def test_a_changed_token_does_not_pass() -> None:
    transit = a_transit(60)
    head, _, signature = an_issuer(transit).issue(GRANT, "cloudpush", 300).split(".")
    other = an_issuer(transit).issue(an_active_grant(id=UUID(int=1)), "cloudpush", 300).split(".")[1]
    with pytest.raises(BadSignatureError):
        checked(f"{head}.{other}.{signature}", PublicKeys(cast("VaultConnection", transit)).jwks())


def test_a_key_is_named_by_its_thumbprint() -> None:
    """RFC 7638, by a library of its own."""
    transit = a_transit(60)
    [key] = PublicKeys(cast("VaultConnection", transit)).jwks()["keys"]
    assert key["kid"] == KeySet.import_key_set({"keys": [key]}).keys[0].thumbprint()
    assert "d" not in key


@pytest.mark.parametrize(
    ("ages", "signs"),
    [
        ((60,), 1),
        ((0,), 1),  # a fresh installation has no other
        ((60, 1), 1),  # verifiers may not know the second yet
        ((60, 16), 2),
        ((60, 16, 1), 2),
        ((1, 0), 1),
    ],
)
def test_a_key_signs_once_everybody_can_know_it(ages: tuple[float, ...], signs: int) -> None:
    transit = a_transit(*ages)
    an_issuer(transit).issue(GRANT, "cloudpush", 300)
    assert transit.asked[-1] == f"sign cloudpush-issuer {signs}"
    assert len(PublicKeys(cast("VaultConnection", transit)).jwks()["keys"]) == len(ages)


def test_keys_are_asked_for_once_a_minute() -> None:
    transit, clock = a_transit(60), Seconds()
    keys = PublicKeys(cast("VaultConnection", transit), clock=clock)
    for _ in range(3):
        keys.jwks()
    clock.at += 59
    keys.jwks()
    assert len(transit.asked) == 1
    clock.at += 2
    keys.jwks()
    assert len(transit.asked) == 2


def test_keys_are_told_while_the_vault_is_away_for_an_hour_at_most() -> None:
    """Without them no token could be checked, and they are no secret."""
    transit, clock = a_transit(60), Seconds()
    keys = PublicKeys(cast("VaultConnection", transit), clock=clock)
    known = keys.jwks()
    transit.away = True
    clock.at += 3_599
    assert keys.jwks() == known
    clock.at += 2
    with pytest.raises(VaultError):
        keys.jwks()


def test_many_threads_ask_once() -> None:
    transit = a_transit(60)
    keys = PublicKeys(cast("VaultConnection", transit), clock=Seconds())
    threads = [threading.Thread(target=keys.jwks) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(transit.asked) == 1


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        None,
    ],
)
def test_a_key_of_another_kind_is_the_operators_to_mend(key: Any) -> None:
    transit = FakeTransit({1: NOON} if key else {}, {1: key} if key else {})
    if key is None:
        transit.read_key = lambda *_args, **_more: {"keys": {"1": 1_700_000_000}}  # type: ignore[method-assign]
    with pytest.raises(VaultError, match="CLOUDPUSH_VAULT_ISSUER_KEY") as caught:
        PublicKeys(cast("VaultConnection", transit)).jwks()
    assert caught.value.code is Code.VAULT_DENIED


def test_without_an_address_nothing_is_signed() -> None:
    transit = a_transit(60)
    with pytest.raises(CloudPushError, match="CLOUDPUSH_WEB_URL") as caught:
        an_issuer(transit, "").issue(GRANT, "cloudpush", 300)
    assert caught.value.code is Code.SETTINGS_INVALID
    assert transit.asked == []


# -- to the outside ---------------------------------------------------------------------------------


class NoKeys:
    """A vault that is away."""

    def jwks(self) -> dict[str, Any]:
        raise VaultError(Code.VAULT_UNREACHABLE, "Vault at https://vault.internal:8200 cannot be reached.")


def test_strangers_learn_that_it_passes_and_nothing_else() -> None:
    with issuer(NoKeys()) as url:
        answer = requests.get(f"{url}/.well-known/jwks.json", timeout=5)
    assert (answer.status_code, answer.text, answer.headers["retry-after"]) == (503, "", "5")
    assert answer.headers["cache-control"] == "no-store"


def test_metadata_names_the_issuer_whatever_host_was_asked() -> None:
    with issuer(NoKeys()) as url:
        answer = requests.get(f"{url}/.well-known/openid-configuration", headers={"Host": "evil.example"}, timeout=5)
    about = answer.json()
    assert about["issuer"] == url
    assert about["jwks_uri"] == f"{url}/.well-known/jwks.json"
    assert about["id_token_signing_alg_values_supported"] == ["RS256"]
    assert metadata("https://push.example.org")["issuer"] == "https://push.example.org"
