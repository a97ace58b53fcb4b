from __future__ import annotations

import traceback

import pytest

from cloudpush.credentials.kinds import KINDS, AccessKey, Prompt, ResignHook, dump, load, parse, prompts
from cloudpush.errors import Code, CredentialError, InputError
from cloudpush.push.job import Secret

ID, SECRET, TOKEN = "AKCANARYID", "canary/secret+", "canarytoken=="
FULL = {
    "access_key_id": ID,
    "secret_access_key": SECRET,
    "session_token": TOKEN,
    "endpoint": "https://s3.example.org:9000",
    "region": "eu-central-1",
}


def told(error: BaseException) -> str:
    """Everything that a log could show of an error."""
    return "".join(traceback.format_exception(error)) + repr(error)


def refused(fields: dict[str, str]) -> InputError:
    with pytest.raises(InputError) as caught:
        parse("access_key", fields)
    assert "canary" not in told(caught.value).lower()
    return caught.value


def test_access_key_reveals_what_it_was_given() -> None:
    """All five fields come back as they were."""
    secret = parse("access_key", FULL)

    assert (isinstance(secret, Secret), secret.kind, secret.endpoint, secret.reveal()) == (
        True,
        "access_key",
        FULL["endpoint"],
        FULL,
    )


def test_optional_fields_are_empty_when_not_given() -> None:
    """A key pair alone is enough."""
    secret = parse("access_key", {"access_key_id": ID, "secret_access_key": SECRET})

    assert secret.reveal() == {
        "access_key_id": ID,
        "secret_access_key": SECRET,
        "session_token": "",
        "endpoint": "",
        "region": "",
    }


def test_nothing_of_a_key_is_shown() -> None:
    """repr, str, format and pydantic's own dumps are masked."""
    secret = parse("access_key", FULL)
    assert isinstance(secret, AccessKey)

    shown = f"{secret!r} {secret} {secret.model_dump()} {secret.model_dump_json()} {[secret]}"

    assert "canary" not in shown.lower()


def test_blanks_around_a_pasted_value_are_dropped() -> None:
    """A line break that came along with a copy is not part of the key; an endpoint takes its normal form."""
    pasted = {
        "access_key_id": f" {ID}\n",
        "secret_access_key": f"{SECRET}\r\n",
        "endpoint": " HTTPS://S3.Example.org/ ",
    }

    assert parse("access_key", pasted).reveal() == {
        "access_key_id": ID,
        "secret_access_key": SECRET,
        "session_token": "",
        "endpoint": "https://s3.example.org",
        "region": "",
    }


@pytest.mark.parametrize(
    ("change", "field", "word"),
    [
        ({"access_key_id": ""}, "access_key_id", "is empty"),
        ({"secret_access_key": " "}, "secret_access_key", "is empty"),
        ({"secret_access_key": "canary secret"}, "secret_access_key", "blanks"),
        ({"secret_access_key": "canary\x00"}, "secret_access_key", "blanks"),
        ({"secret_access_key": "canary" * 200}, "secret_access_key", "expected 1 to 1024"),
        ({"session_token": "canarü"}, "session_token", "beyond ASCII"),
        ({"endpoint": "canary"}, "endpoint", "https://HOST"),
        ({"endpoint": "ftp://canary.org"}, "endpoint", "https://HOST"),
        ({"endpoint": "https://user:canary@s3.example.org"}, "endpoint", "without user name"),
        ({"endpoint": "https://s3.example.org/canary"}, "endpoint", "bucket or path"),
        ({"endpoint": "https://s3.example.org:canary"}, "endpoint", "https://HOST"),
        ({"region": "canary region"}, "region", "lower-case letters"),
    ],
    ids=str,
)
def test_wrong_value_is_refused_by_field_and_fix_without_being_quoted(
    change: dict[str, str], field: str, word: str
) -> None:
    """The error names the field and the fix; the value is nowhere in it."""
    error = refused(FULL | change)

    assert (error.code, error.field, word in error.message) == (Code.BAD_INPUT, field, True)


def test_missing_field_is_named() -> None:
    """Half a key pair is refused."""
    assert refused({"access_key_id": ID}).message == "secret_access_key is missing; give it beside the others."


def test_value_of_another_type_is_refused() -> None:
    """What is no text never gets as far as a signature."""
    error = refused({"access_key_id": ID, "secret_access_key": ["canary"]})  # type: ignore[dict-item]  # that is the point

    assert error.message == "secret_access_key is not a text."


def test_unknown_field_is_refused_without_its_name() -> None:
    """A secret pasted where a name belongs is not echoed; a near miss is put right."""
    near = refused(FULL | {"secret_acess_key": "canary"})

    known = "access_key has the fields access_key_id, secret_access_key, session_token, endpoint, region."
    assert (refused(FULL | {"canary/secret+": ""}).message, near.message) == (
        f"A field is not known: {known}",
        f"A field is not known: did you mean secret_access_key? {known}",
    )


def test_unknown_kind_is_refused_with_the_kinds_that_there_are() -> None:
    """Only what is registered can be sealed."""
    with pytest.raises(InputError, match="kind='password' is not a kind of credential; use one of: access_key"):
        parse("password", FULL)


def test_every_kind_says_its_own_name() -> None:
    """The registry and the classes agree."""
    assert {model.KIND: model for model in KINDS.values()} == KINDS


def test_dumped_credential_is_loaded_again() -> None:
    """What is sealed holds every field that is set and nothing else."""
    secret = parse("access_key", {"access_key_id": ID, "secret_access_key": SECRET, "region": "auto"})

    assert (dump(secret), load("access_key", dump(secret))) == (
        b'{"access_key_id":"AKCANARYID","secret_access_key":"canary/secret+","region":"auto"}',
        secret,
    )


@pytest.mark.parametrize(
    "plaintext",
    [b"", b"canary", b"[]", b'"canary"', b"null", b'{"access_key_id":"canary"}', b'{"canary":1}', b"\xff"],
)
def test_plaintext_that_is_no_credential_is_corrupt_and_not_quoted(plaintext: bytes) -> None:
    """A plaintext that does not fit is told without a byte of it."""
    with pytest.raises(CredentialError) as caught:
        load("access_key", plaintext)

    assert (caught.value.code, "canary" in told(caught.value)) == (Code.CREDENTIAL_CORRUPT, False)


def test_prompts_hide_what_opens_something() -> None:
    """A person is asked for the secret fields; only the id is shown while it is typed."""
    assert prompts("access_key") == [
        Prompt("access_key_id", required=True, hidden=False),
        Prompt("secret_access_key", required=True, hidden=True),
        Prompt("session_token", required=False, hidden=True),
    ]


# -- callbacks for fresh URLs -----------------------------------------------------------------------

HOOK = {"url": "https://Pipeline.Example.org:8443/fresh?token=canary", "secret": "canary-0123456789"}


def test_callback_reveals_what_it_was_given_and_is_judged_by_its_origin() -> None:
    """The URL is kept as it was written; its endpoint is what the guard checks and what a record shows."""
    hook = parse("resign_hook", HOOK)

    assert (isinstance(hook, Secret), hook.kind, hook.endpoint, hook.reveal(), load("resign_hook", dump(hook))) == (
        True,
        "resign_hook",
        "https://pipeline.example.org:8443",
        HOOK,
        hook,
    )


def test_nothing_of_a_callback_is_shown_but_its_origin() -> None:
    """Its path and query may be secrets as much as its secret is."""
    hook = parse("resign_hook", HOOK)
    assert isinstance(hook, ResignHook)

    shown = f"{hook!r} {hook} {hook.model_dump()} {hook.model_dump_json()} {[hook]}"

    assert ("canary" in shown.lower(), "fresh" in shown, repr(hook)) == (
        False,
        False,
        "<ResignHook ****, endpoint='https://pipeline.example.org:8443'>",
    )


@pytest.mark.parametrize(
    ("change", "field", "word"),
    [
        ({"url": "canary"}, "url", "https://HOST"),
        ({"url": "https://"}, "url", "https://HOST"),
        ({"url": "ftp://canary.example.org/"}, "url", "https://HOST"),
        ({"url": "https://user:canary@h.example.org/"}, "url", "without user name"),
        ({"url": "https://h.example.org/canary#x"}, "url", "or fragment"),
        ({"url": "https://h.example.org\\@canary/"}, "url", "https://HOST"),
        ({"url": "https://h.example.org:canary/"}, "url", "https://HOST"),
        ({"url": "https://0x7f.1/canary"}, "url", "https://HOST"),
        ({"url": "https://[canary/"}, "url", "https://HOST"),
        ({"url": "https://h.example.org/canary path"}, "url", "blanks"),
        ({"url": "https://h.example.org/" + "canary" * 700}, "url", "expected 1 to 4096"),
        ({"secret": "canary"}, "secret", "expected 16 to 1024"),
        ({"secret": ""}, "secret", "is empty"),
    ],
    ids=str,
)
def test_wrong_callback_is_refused_by_field_and_fix_without_being_quoted(
    change: dict[str, str], field: str, word: str
) -> None:
    """As with keys: the field and the fix, never the value."""
    with pytest.raises(InputError) as caught:
        parse("resign_hook", HOOK | change)

    assert (caught.value.field, word in caught.value.message, "canary" in told(caught.value).lower()) == (
        field,
        True,
        False,
    )


def test_both_fields_of_a_callback_are_hidden_while_they_are_typed() -> None:
    """Its URL opens something too."""
    assert prompts("resign_hook") == [
        Prompt("url", required=True, hidden=True),
        Prompt("secret", required=True, hidden=True),
    ]
