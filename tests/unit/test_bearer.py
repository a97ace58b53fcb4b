"""Bearer JWTs: what is taken, and what attackers send."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

from cloudpush.credentials.bearer import AGAIN_SECONDS, UNSAID, BearerTokens
from cloudpush.errors import AccessError, CloudPushError, Code, SettingsError
from cloudpush.push.access.identity import Access
from cloudpush.push.access.model import Role, Scope, Via

NOW = 1_770_000_000
RSA = RSAKey.generate_key(2048, {"kid": "rsa", "use": "sig"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"})
OTHER = RSAKey.generate_key(2048, {"kid": "rsa"})


class Issuer:
    """An identity provider, as far as its keys go."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [key.as_dict(private=False) for key in (RSA, EC, ED)]
        self.asked = 0
        self.up = True
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                metadata = {"issuer": issuer.url, "jwks_uri": f"{issuer.url}/keys"}
                issuer.asked += self.path == "/keys"
                body = json.dumps({"keys": issuer.keys} if self.path == "/keys" else metadata).encode()
                self.send_response(200 if issuer.up else 503)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    yield made
    made.server.shutdown()
    made.server.server_close()


def tokens(issuer: Issuer, **settings: Any) -> BearerTokens:
    values: dict[str, Any] = {
        "issuer": issuer.url,
        "audience": "cloudpush",
        "owner_claim": "email",
        "now": lambda: float(NOW),
    }
    return BearerTokens(**(values | settings))


def claims(issuer: Issuer, **changes: Any) -> dict[str, Any]:
    said = {
        "iss": issuer.url,
        "aud": "cloudpush",
        "sub": "1",
        "email": "ada@lab.example",
        "iat": NOW - 10,
        "exp": NOW + 300,
    }
    return {name: value for name, value in (said | changes).items() if value is not None}


def signed(key: Any, said: dict[str, Any], algorithm: str = "RS256", **header: Any) -> str:
    names = {"alg": algorithm, "kid": key.kid, "typ": "JWT"} | header
    return jwt.encode({n: v for n, v in names.items() if v is not None}, said, key, algorithms=[algorithm])


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def refused(by: BearerTokens, token: str) -> str:
    with pytest.raises(AccessError) as caught:
        by.identify(token)
    assert caught.value.code is Code.UNAUTHENTICATED
    return str(caught.value)


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (EC, "ES256"), (ED, "EdDSA")])
def test_a_token_of_each_algorithm_names_its_owner(issuer: Issuer, key: Any, algorithm: str) -> None:
    found = tokens(issuer).identify(signed(key, claims(issuer), algorithm))
    assert (found.owner, found.roles, found.scopes) == ("ada@lab.example", None, UNSAID)


def test_a_token_without_a_key_id_is_tried_with_every_key_of_its_kind(issuer: Issuer) -> None:
    assert tokens(issuer).identify(signed(RSA, claims(issuer), kid=None)).owner == "ada@lab.example"


def test_roles_come_from_the_claim_that_the_operator_names(issuer: Issuer) -> None:
    by = tokens(issuer, roles_claim="realm.roles")
    assert by.identify(signed(RSA, claims(issuer, realm={"roles": ["auditor", "cook"]}))).roles == frozenset(
        {Role.AUDITOR}
    )
    assert by.identify(signed(RSA, claims(issuer))).roles == frozenset()


def test_scopes_of_ours_narrow_a_token_and_others_do_not(issuer: Issuer) -> None:
    by = tokens(issuer)
    assert by.identify(signed(RSA, claims(issuer, scope="openid read"))).scopes == {Scope.READ}
    assert by.identify(signed(RSA, claims(issuer, scope="openid email"))).scopes == UNSAID


def test_a_token_that_is_signed_by_nobody_is_refused(issuer: Issuer) -> None:
    by, body = tokens(issuer), part(claims(issuer))
    for algorithm in ("none", "None", "", None, ["RS256"]):
        assert "algorithm" in refused(by, f"{part({'alg': algorithm, 'typ': 'JWT'})}.{body}.")
    assert "signature" in refused(by, f"{part({'alg': 'RS256', 'kid': 'rsa'})}.{body}.")


def test_a_public_key_is_no_password(issuer: Issuer) -> None:
    by = tokens(issuer)
    pem = RSA.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for secret in (pem, json.dumps(RSA.as_dict(private=False)).encode()):
        text = f"{part({'alg': 'HS256', 'kid': 'rsa', 'typ': 'JWT'})}.{part(claims(issuer))}"
        mac = hmac.new(secret, text.encode(), hashlib.sha256).digest()
        assert "algorithm" in refused(by, f"{text}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}")


def test_a_key_that_the_token_brings_along_is_not_looked_at(issuer: Issuer) -> None:
    brought: dict[str, Any] = {"jwk": OTHER.as_dict(private=False), "jku": f"{issuer.url}/mine"}
    assert "signature" in refused(tokens(issuer), signed(OTHER, claims(issuer), **brought))


def test_a_token_under_another_keys_name_is_refused(issuer: Issuer) -> None:
    by = tokens(issuer)
    assert "signature" in refused(by, signed(OTHER, claims(issuer)))
    assert "signature" in refused(by, signed(RSA, claims(issuer), kid="ec"))
    body = signed(EC, claims(issuer), "ES256").split(".")
    assert "signature" in refused(by, f"{part({'alg': 'RS256', 'kid': 'ec'})}.{body[1]}.{body[2]}")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"iss": "https://evil.example"}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"aud": "another-client"}, "application"),
        ({"aud": ["another", "cloudpush-not"]}, "application"),
        ({"aud": None}, "application"),
        ({"exp": NOW - 61}, "expired"),
        ({"exp": None}, "when"),
        ({"exp": "never"}, "when"),
        ({"exp": True}, "when"),
        ({"exp": 1e300}, "expired"),
        ({"exp": 10**400}, "expired"),
        ({"iat": 10**400}, "not valid yet"),
        ({"nbf": 10**400}, "not valid yet"),
        ({"iat": float("nan")}, "not valid yet"),
        ({"iat": None}, "when"),
        ({"iat": NOW + 61}, "not valid yet"),
        ({"nbf": NOW + 61}, "not valid yet"),
        ({"nbf": "x"}, "when"),
        ({"email": None}, "who you are"),
        ({"email": ["ada"]}, "who you are"),
        ({"email": ""}, "who you are"),
        ({"email": "x" * 201}, "1 to 200 printable"),
        ({"email": "ada\n"}, "printable"),
        ({"email": "ada\u202e"}, "printable"),
        ({"email": "adae\u0301"}, "NFC"),
        ({"email": "Notary"}, "part of CloudPush"),
        ({"email": " ada"}, "blanks"),
        ({"email_verified": False}, "verified"),
    ],
)
def test_a_token_whose_claims_are_not_for_us_is_refused(issuer: Issuer, changes: dict[str, Any], why: str) -> None:
    assert why in refused(tokens(issuer), signed(RSA, claims(issuer, **changes)))


@pytest.mark.parametrize("header", [{"typ": "logout+jwt"}, {"typ": "dpop+jwt"}, {"typ": 7}])
def test_a_token_of_another_kind_is_refused(issuer: Issuer, header: dict[str, Any]) -> None:
    text = signed(RSA, claims(issuer)).split(".")
    made = f"{part({'alg': 'RS256', 'kid': 'rsa'} | header)}.{text[1]}.{text[2]}"
    assert "no bearer token" in refused(tokens(issuer), made)


def test_an_access_token_of_rfc_9068_is_taken(issuer: Issuer) -> None:
    assert tokens(issuer).identify(signed(RSA, claims(issuer), typ="at+jwt")).owner == "ada@lab.example"


@pytest.mark.parametrize(
    "text", ["a.b.c", "..", "é.b.c", f"{'W10'}.b.c", "e30.e30.", "[" * 200 + "..", part([1]) + ".a.b"]
)
def test_what_is_no_token_is_refused(issuer: Issuer, text: str) -> None:
    refused(tokens(issuer), text)


def test_a_huge_token_is_not_looked_at(issuer: Issuer) -> None:
    with pytest.raises(AccessError):
        Access(None, tokens(issuer)).identify(signed(RSA, claims(issuer, groups=["x" * 20_000])))  # type: ignore[arg-type]
    assert issuer.asked == 0


def test_keys_are_asked_for_anew_once_a_minute_where_a_token_names_another(issuer: Issuer) -> None:
    time = Time()
    by = tokens(issuer, clock=time)
    new = RSAKey.generate_key(2048, {"kid": "new"})
    by.identify(signed(RSA, claims(issuer)))
    issuer.keys.append(new.as_dict(private=False))
    for _ in range(3):
        assert "signature" in refused(by, signed(new, claims(issuer)))
    assert issuer.asked == 1
    time.now += AGAIN_SECONDS
    assert by.identify(signed(new, claims(issuer))).owner == "ada@lab.example"
    for _ in range(3):
        refused(by, signed(new, claims(issuer), kid="unheard-of"))
    assert issuer.asked == 2


def test_an_issuer_that_is_away_is_no_reason_to_let_anybody_in_or_out(issuer: Issuer) -> None:
    time = Time()
    by = tokens(issuer, clock=time)
    issuer.up = False
    with pytest.raises(CloudPushError) as caught:
        by.identify(signed(RSA, claims(issuer)))
    assert caught.value.code is Code.PROVIDER_UNAVAILABLE
    time.now += 5
    issuer.up = True
    by.identify(signed(RSA, claims(issuer)))
    issuer.up = False
    time.now += 3600
    assert by.identify(signed(RSA, claims(issuer))).owner == "ada@lab.example"
    assert "signature" in refused(by, signed(OTHER, claims(issuer)))


def test_short_keys_and_keys_for_encryption_sign_nothing(issuer: Issuer) -> None:
    short = RSAKey.generate_key(1024, {"kid": "short"}, auto_kid=False)
    sealing = RSAKey.generate_key(2048, {"kid": "sealing", "use": "enc"})
    issuer.keys = [short.as_dict(private=False), sealing.as_dict(private=False), {"kty": "XYZ"}, {"kty": "RSA"}]
    by = tokens(issuer)
    for key in (short, RSAKey.import_key(sealing.as_dict(private=True) | {"use": "sig"})):
        assert "signature" in refused(by, signed(key, claims(issuer)))


def test_a_jwt_has_the_roles_that_were_granted_here_unless_it_says_its_own(issuer: Issuer) -> None:
    class Book:
        def roles_of(self, principal: str) -> frozenset[Role]:
            return frozenset({Role.AUDITOR})

    text = signed(RSA, claims(issuer, roles=["pipeline"]))
    found = Access(Book(), tokens(issuer)).identify(text)  # type: ignore[arg-type]
    assert (found.roles, found.via, found.token_id) == (frozenset({Role.AUDITOR}), Via.JWT, None)
    assert Access(Book(), tokens(issuer, roles_claim="roles")).identify(text).roles == {Role.PIPELINE}  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"issuer": "http://login.example"}, {"issuer": "login"}, {"audience": ""}])
def test_settings_that_would_let_others_in_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        BearerTokens(**({"issuer": "https://login.example", "audience": "x", "owner_claim": "email"} | wrong))
