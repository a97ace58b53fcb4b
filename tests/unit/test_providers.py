"""The operator's list of providers: merged, checked, and explained where it is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudpush.credentials.discovery import AGAIN_SECONDS, FRESH_SECONDS, Metadata
from cloudpush.credentials.providers import ProviderBook, read_providers
from cloudpush.credentials.urls import is_loopback
from cloudpush.errors import CloudPushError, Code, InputError, SettingsError
from cloudpush.push.grants.model import Flow, Provider, Question, Rotation, Use
from cloudpush.settings import Settings
from doubles.oauth_server import OAuthServer, Trouble

BOX = """
[box]
title = "Box"
flow = "code"
use = "bearer"
profile = "gcs"
client_id = "id"
authorization_endpoint = "https://box.example/authorize"
token_endpoint = "https://box.example/token"
scopes = ["files", "offline_access"]
"""

Read = Callable[[str], ProviderBook]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads a file of the operator's."""

    def read(text: str) -> ProviderBook:
        path = tmp_path / "providers.toml"
        path.write_text(text)
        return read_providers(Settings(providers_file=path))

    return read


def test_what_ships_is_read_and_is_offered_where_nobody_need_register() -> None:
    """Each in its place; no client id ships."""
    book = read_providers(Settings())

    assert [(p.name, p.flow, p.use, p.offered) for p in book.all()] == [
        ("google", Flow.CODE, Use.BEARER, False),
        ("azure", Flow.CODE, Use.USER_DELEGATION_SAS, False),
        ("aws", Flow.WEB_IDENTITY, Use.WEB_IDENTITY, True),
        ("cognito", Flow.CODE, Use.WEB_IDENTITY, False),
    ]


def test_an_empty_file_changes_nothing(read: Read) -> None:
    """As a deployment that offers nothing yet has it."""
    assert read("").all() == read_providers(Settings()).all()


def test_a_field_of_the_operators_replaces_the_shipped_one_and_the_rest_stays(read: Read) -> None:
    """Table by table, field by field."""
    shipped = read_providers(Settings()).get("google")
    google = read('[google]\nclient_id = "mine"\nparameters = { prompt = "consent" }\n').get("google")

    assert (google.client_id, google.parameters, google.offered) == ("mine", {"prompt": "consent"}, True)
    assert (google.scopes, google.explains, google.questions) == (shipped.scopes, shipped.explains, shipped.questions)


def test_a_ca_file_is_the_same_wherever_it_is_read(read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine has another working directory than the worker."""
    (tmp_path / "ca.pem").write_text("…")
    monkeypatch.chdir(tmp_path)

    assert read('[azure]\nca_file = "ca.pem"').get("azure").ca_file == str(tmp_path / "ca.pem")
    assert read("").get("azure").ca_file == ""


def test_who_asks_for_less_inherits_less(read: Read) -> None:
    """Words about scopes that are no longer asked for go with them, and so does the need of one."""
    google = read('[google]\nscopes = ["openid", "https://www.googleapis.com/auth/devstorage.full_control"]').get(
        "google"
    )

    assert (list(google.explains), google.needs) == (
        ["openid"],
        ("https://www.googleapis.com/auth/devstorage.full_control",),
    )


def test_a_provider_is_added_by_data_alone(read: Read) -> None:
    """After those that ship; what is needed follows from what is asked for."""
    book = read(BOX + '[[box.questions]]\nname = "drive"\ntitle = "Drive"\npattern = "[a-z]+"\n')

    assert [p.name for p in book.all()][-1] == "box"
    assert book.get("box") == Provider(
        name="box",
        title="Box",
        flow=Flow.CODE,
        use=Use.BEARER,
        profile="gcs",
        client_id="id",
        authorization_endpoint="https://box.example/authorize",
        token_endpoint="https://box.example/token",
        scopes=("files", "offline_access"),
        needs=("files",),
        rotation=Rotation.NEVER,
        questions=(Question("drive", "Drive", "[a-z]+"),),
    )


def test_an_unknown_provider_is_told_with_the_nearest(read: Read) -> None:
    """Or with all of them."""
    said = []
    for name in ("gogle", "zzz"):
        with pytest.raises(InputError) as caught:
            read("").get(name)
        assert caught.value.code is Code.UNKNOWN_PROVIDER
        said.append(caught.value.message)

    assert ("did you mean google?" in said[0], "choose one of google, azure, aws, cognito." in said[1]) == (True, True)


WRONG = {
    'rotaton = "never"': "has no field rotaton in [box]: did you mean rotation?",
    'client_secret = "s3cr3t"': "has no field client_secret in [box]: a client secret goes into Vault",
    'rotation = "nevr"': "at rotation='nevr': input should be 'never', 'keeps_old' or 'single_use'",
    'revocation_endpoint = "http://box.example/revoke"': "at revocation_endpoint='http://box.example/revoke': must begin with https",
    'revocation_endpoint = "ftp://box.example/"': "must begin with https",
    'revocation_endpoint = "https://u:p@box.example/"': "is not a URL",
    'revocation_endpoint = "http://127.0.0.1.evil.example/"': "must begin with https",
    'revocation_endpoint = "https://box.example:x/"': "is not a URL",
    'jwks_uri = "https://box.example/#a"': "is not a URL",
    'endpoint = "https://{account}.box.example"': "endpoint has {account}, which no question asks for",
    'endpoint = "http://box.example"': "at endpoint='http://box.example': must begin with https",
    'needs = ["other"]': "needs names 'other', which is not among the scopes",
    'explains = { other = "x" }': "explains names 'other', which is not among the scopes",
    'parameters = { state = "x" }': "at parameters=a dict: may not set state",
    "session_seconds = 0": "at session_seconds=0:",
    'ca_file = "/nowhere/ca.pem"': "at ca_file='/nowhere/ca.pem': is not a file",
    'use = "user_delegation_sas"': "needs endpoint",
    'use = "web_identity"\nsts_endpoint = "https://sts.example"': "needs audience",
    'use = "web_identity"': "needs sts_endpoint",
    'flow = "web_identity"': "flow web_identity goes with use web_identity only",
    'identity_token = "theirs"': "needs the scope openid",
    'discovery = "https://box.example/.well-known"': "needs issuer beside discovery",
    'authorization_endpoint = ""': "needs authorization_endpoint and token_endpoint, or discovery",
    'scopes = ["a b"]': "has 'a b', which is no scope",
    'scopes = ["a", "a"]': "names a scope twice",
    "scopes = []": "needs scopes",
    "title = 3": "at title=3: input should be a valid string",
    'questions = [{ name = "a", title = "A", pattern = "(" }]': "at questions.0.pattern='(': is not a regular expression",
    'questions = [{ name = "a", title = "A", patern = "x" }]': "has no field questions.0.patern in [box]: did you mean pattern?",
    'questions = [{ name = "a", title = "A", pattern = "x", example = "y" }]': "does not match its own pattern",
    'questions = [{ name = "A", title = "A", pattern = "x" }]': "at questions.0.name='A'",
}


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_is_named_by_file_table_key_and_value(read: Read, tmp_path: Path, line: str) -> None:
    """With the fix; nothing of it is a secret, and what could be one is not shown."""
    key = line.partition(" ")[0]
    kept = "\n".join(
        x for x in BOX.splitlines() if not any(x.startswith(f"{y.partition(' ')[0]} =") for y in line.splitlines())
    )

    with pytest.raises(SettingsError) as caught:
        read(f"{kept}\n{line}")

    assert (caught.value.field, str(tmp_path / "providers.toml") in caught.value.message) == (
        "CLOUDPUSH_PROVIDERS_FILE",
        True,
    ), key
    assert WRONG[line] in caught.value.message
    assert "[box]" in caught.value.message
    assert "s3cr3t" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x", "is not TOML"),
        ("x = 1", "outside a table"),
        ("[Box]", "has the table [Box]"),
        ("[sign-in]", "has the table [sign-in]"),
        ('["a/b"]', "has the table [a/b]"),
        ("[box]", "lacks title in [box]"),
    ],
)
def test_a_file_that_is_no_list_of_providers_is_refused(read: Read, text: str, words: str) -> None:
    """A name becomes part of paths in Vault."""
    with pytest.raises(SettingsError, match=r"providers\.toml") as caught:
        read(text)
    assert words in caught.value.message


def test_a_file_that_is_not_there_is_told() -> None:
    """Not taken for an empty one."""
    with pytest.raises(SettingsError, match="cannot be read"):
        read_providers(Settings(providers_file=Path("/nowhere/providers.toml")))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "[::1]"])
def test_plain_http_is_for_this_machine(read: Read, host: str) -> None:
    """For the demo and for tests."""
    assert read(f'{BOX}\nrevocation_endpoint = "http://{host}:1/"').get("box").revocation_endpoint


def test_names_that_others_could_take_are_not_this_machine() -> None:
    """What an /etc/hosts or a DNS server says is not asked."""
    hosts = ("localhost.example", "127.0.0.1.nip.io", "0.0.0.0", "2130706433", "10.0.0.1", "")
    assert [is_loopback(host) for host in hosts] == [False] * 6


def test_metadata_fill_what_the_table_leaves_out() -> None:
    """And nothing else: the table comes first. Asked for once."""
    with OAuthServer() as server:
        bare = server.provider(
            authorization_endpoint="",
            token_endpoint="",
            revocation_endpoint="https://else.example/revoke",
            issuer=server.url,
            discovery=f"{server.url}/.well-known/openid-configuration",
        )
        book = ProviderBook([bare])
        found = [book.resolve(book.get("box")) for _ in range(3)]

        assert len(server.requests) == 1
        assert {
            (p.authorization_endpoint, p.token_endpoint, p.revocation_endpoint, p.jwks_uri, p.sends_issuer)
            for p in found
        } == {
            (
                f"{server.url}/authorize",
                f"{server.url}/token",
                "https://else.example/revoke",
                f"{server.url}/jwks",
                True,
            )
        }


def with_metadata(server: OAuthServer, **changes: Any) -> Provider:
    where = f"{server.url}/.well-known/openid-configuration"
    return server.provider(token_endpoint="", **({"issuer": server.url, "discovery": where} | changes))


@pytest.mark.parametrize(
    ("trouble", "code", "words"),
    [
        (Trouble(200, b"<html>"), Code.PROVIDER_UNAVAILABLE, "something else"),
        (Trouble(200, b"[]"), Code.PROVIDER_UNAVAILABLE, "something else"),
        (Trouble(404), Code.PROVIDER_UNAVAILABLE, "answers 404"),
        (Trouble(302, headers={"Location": "https://evil.example/"}), Code.PROVIDER_UNAVAILABLE, "answers 302"),
        (Trouble(200, drip=True), Code.PROVIDER_UNAVAILABLE, "without end"),
        (Trouble(drop=True), Code.NETWORK, "gave no answer"),
        (Trouble(200, b'{"issuer": "https://evil.example"}'), Code.PROVIDER_UNAVAILABLE, "'https://evil.example'"),
        (
            Trouble(200, b'{"issuer": "URL", "token_endpoint": "http://evil.example/"}'),
            Code.PROVIDER_UNAVAILABLE,
            "names a token_endpoint that must begin with https",
        ),
        (
            Trouble(200, b'{"issuer": "URL", "token_endpoint": ["x"]}'),
            Code.PROVIDER_UNAVAILABLE,
            "names a token_endpoint",
        ),
    ],
)
def test_metadata_that_are_none_or_somebody_elses_are_refused(trouble: Trouble, code: Code, words: str) -> None:
    """Whoever answered there could have tokens sent to him."""
    with OAuthServer() as server:
        trouble.path = "/.well-known/openid-configuration"
        trouble.body = trouble.body.replace(b"URL", server.url.encode())
        server.troubles = [trouble]

        with pytest.raises(CloudPushError) as caught:
            Metadata().complete(with_metadata(server))

    assert (caught.value.code, words in caught.value.message) == (code, True), caught.value.message


def test_metadata_that_were_known_hold_while_they_cannot_be_asked_for_anew() -> None:
    """An outage of the provider's pages is no outage of its token endpoint."""
    now = 0.0
    with OAuthServer() as server:
        metadata, provider = Metadata(lambda: now), with_metadata(server)
        first = metadata.complete(provider)
        now = FRESH_SECONDS + 1
        server.troubles = [Trouble(500, path="/.well-known/openid-configuration")]
        during = [metadata.complete(provider) for _ in range(2)]
        asked = len(server.requests)
        now += AGAIN_SECONDS + 1
        metadata.complete(provider)

        assert (during, asked, len(server.requests)) == ([first, first], 2, 3)
