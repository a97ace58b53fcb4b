from __future__ import annotations

import io
import traceback
from pathlib import Path

import pytest

from cloudpush.cli import handover
from cloudpush.errors import InputError

PAIR = {"access_key_id": "AKCANARYID", "secret_access_key": "canary%(x)s=/+"}


@pytest.mark.parametrize(
    "text",
    [
        "access_key_id=AKCANARYID\nsecret_access_key=canary%(x)s=/+\n",
        "# note\n\nexport AWS_ACCESS_KEY_ID='AKCANARYID'\r\nexport AWS_SECRET_ACCESS_KEY=\"canary%(x)s=/+\"",
        '{"access_key_id": "AKCANARYID", "secret_access_key": "canary%(x)s=/+"}',
        '\ufeff{"AccessKey": {"UserName": "u", "AccessKeyId": "AKCANARYID", "SecretAccessKey": "canary%(x)s=/+"}}',
        "[default]\naws_access_key_id = AKCANARYID\naws_secret_access_key = canary%(x)s=/+\noutput = json\n",
    ],
    ids=["lines", "exports", "json", "aws-json", "ini"],
)
def test_key_pair_is_read_from_every_form(text: str) -> None:
    """Our names, AWS's variables, AWS's JSON and its credentials file mean the same."""
    assert handover.parse(text) == PAIR


def test_temporary_credentials_bring_their_expiry() -> None:
    """The answer of an STS call carries token and expiry along."""
    text = (
        '{"Credentials": {"AccessKeyId": "A", "SecretAccessKey": "S", "SessionToken": "T", '
        '"Expiration": "2027-01-01T00:00:00+00:00"}}'
    )

    assert handover.parse(text) == {
        "access_key_id": "A",
        "secret_access_key": "S",
        "session_token": "T",
        "expires": "2027-01-01T00:00:00+00:00",
    }


def test_section_of_a_credentials_file_is_chosen_by_profile() -> None:
    """Another profile's key is not taken; endpoint and region come along."""
    text = (
        "[default]\naws_access_key_id=A\naws_secret_access_key=B\n"
        "[profile lab]\naws_access_key_id=C\naws_secret_access_key=D\nregion=auto\nendpoint_url=https://s3.example.org\n"
    )

    assert handover.parse(text, "lab") == {
        "access_key_id": "C",
        "secret_access_key": "D",
        "region": "auto",
        "endpoint": "https://s3.example.org",
    }


@pytest.mark.parametrize(
    ("text", "profile", "message"),
    [
        ("", "", "The input is empty"),
        ("canary", "", "Line 1 of the input is not name=value"),
        ("a=b\n=canary", "", "Line 2 of the input is not name=value"),
        ('{"secret_access_key": "canary"', "", "starts like JSON but is not one object"),
        ('{"secret_access_key": {"canary": 1}}', "", "Each JSON value must be a string"),
        ("[default]\ncanary", "", "has a line that is no name = value"),
        ("[default]\na=canary", "lab", "aws_profile='lab' is not a section"),
        ("a=canary", "lab", "--aws-profile needs a file with [profile] sections"),
    ],
)
def test_text_that_cannot_be_read_is_refused_without_being_quoted(text: str, profile: str, message: str) -> None:
    """The error says where it went wrong; not one word of the input is in it."""
    with pytest.raises(InputError) as caught:
        handover.parse(text, profile)

    told = "".join(traceback.format_exception(caught.value))
    assert (message in caught.value.message, "canary" in told.replace(f"aws_profile={profile!r}", "")) == (True, False)


def test_stream_that_is_no_key_is_not_swallowed_whole() -> None:
    """A dataset given by mistake ends at the limit."""
    with pytest.raises(InputError, match="longer than 65536 characters"):
        handover.from_stream(io.StringIO("x" * (handover.LIMIT + 1)))


@pytest.mark.parametrize(("mode", "warnings"), [(0o600, 0), (0o640, 1), (0o604, 1)])
def test_file_that_others_can_read_is_warned_of(tmp_path: Path, mode: int, warnings: int) -> None:
    """The key is taken all the same; its owner learns that it lay open."""
    path = tmp_path / "key"
    path.write_text("access_key_id=AKCANARYID\nsecret_access_key=canary%(x)s=/+")
    path.chmod(mode)
    heard: list[str] = []

    found = handover.from_file(path, "", heard.append)

    assert (found, len(heard)) == (PAIR, warnings)


@pytest.mark.parametrize("content", [None, b"\xff\xfecanary"], ids=["missing", "binary"])
def test_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    """A missing or binary file is an input error with the path and the reason."""
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(InputError) as caught:
        handover.from_file(path, "", print)

    assert (caught.value.field, str(path) in caught.value.message) == ("from_file", True)


def test_environment_is_read_as_aws_tools_read_it() -> None:
    """The service's own endpoint variable wins over the general one; empty ones do not count."""
    environ = {
        "AWS_ACCESS_KEY_ID": "A",
        "AWS_SECRET_ACCESS_KEY": "S",
        "AWS_SESSION_TOKEN": "",
        "AWS_ENDPOINT_URL": "https://general.example.org",
        "AWS_ENDPOINT_URL_S3": "https://s3.example.org",
        "AWS_DEFAULT_REGION": "auto",
    }

    assert handover.from_environment(environ) == {
        "access_key_id": "A",
        "secret_access_key": "S",
        "endpoint": "https://s3.example.org",
        "region": "auto",
    }


def test_environment_without_a_key_is_refused() -> None:
    """Nothing is asked for behind the caller's back."""
    with pytest.raises(InputError, match="AWS_ACCESS_KEY_ID is not set"):
        handover.from_environment({"AWS_REGION": "auto"})


def test_prompt_asks_for_what_is_secret_and_leaves_out_what_is_not_given() -> None:
    """Enter at an optional field means none."""
    asked: list[tuple[str, bool, bool]] = []
    answers = {"access key id": "A", "secret access key": "S"}

    def ask(label: str, hidden: bool, required: bool) -> str:
        asked.append((label, hidden, required))
        return answers.get(label, "")

    assert (handover.from_prompt("access_key", ask), asked) == (
        {"access_key_id": "A", "secret_access_key": "S"},
        [
            ("access key id", False, True),
            ("secret access key", True, True),
            ("session token (none: enter)", True, False),
        ],
    )
