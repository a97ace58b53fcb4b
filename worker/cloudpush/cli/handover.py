"""How a secret gets from its owner to us: prompt, standard input, file or environment; never argv.

Whoever may list processes reads their arguments. Whatever goes wrong here is told without quoting
what was read. A signed URL is such a secret, and a manifest is full of them.
"""

from __future__ import annotations

import configparser
import json
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from cloudpush.errors import Code, InputError

#: Far more than any key needs; a whole dataset given by mistake is refused.
LIMIT = 64 * 1024

#: Bytes of what is handed over for one file: a row may hold the URLs of 10,000 parts.
ROW_LIMIT = 16 * 1024 * 1024
#: What no path looks like, and each signed URL, or row with one, does.
_URL = re.compile(
    r"(?i)^\s*(?:https?:|\{\s*\")|[?&](?:x-amz-|x-goog-|sig=|signature=|awsaccesskeyid=|googleaccessid=|upload_?id=)"
)

#: Field → the variables that AWS's own tools read, strongest first.
VARIABLES: dict[str, tuple[str, ...]] = {
    "access_key_id": ("AWS_ACCESS_KEY_ID",),
    "secret_access_key": ("AWS_SECRET_ACCESS_KEY",),
    "session_token": ("AWS_SESSION_TOKEN",),
    "endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
}
#: Objects that AWS's command line wraps its answers in.
_WRAPPERS = ("Credentials", "AccessKey")
#: What those answers carry beside the key; of no use here.
_BESIDE = frozenset({"version", "user_name", "status", "create_date"})
_ALIASES = {"endpoint_url": "endpoint", "expiration": "expires"}


def from_prompt(kind: str, ask: Callable[[str, bool, bool], str]) -> dict[str, str]:
    """Ask for each field: ``ask(label, hidden, required)``."""
    from cloudpush.credentials.kinds import prompts  # noqa: PLC0415 -- a push needs no kinds

    answers = {
        p.field: ask(p.field.replace("_", " ") + ("" if p.required else " (none: enter)"), p.hidden, p.required)
        for p in prompts(kind)
    }
    return {field: answer for field, answer in answers.items() if answer}


def from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The fields that AWS's variables hold. Raises InputError where none is set."""
    found = {
        field: next((environ[name] for name in names if environ.get(name)), "") for field, names in VARIABLES.items()
    }
    if not found["access_key_id"] and not found["secret_access_key"]:
        raise InputError(Code.BAD_INPUT, "--from-env: AWS_ACCESS_KEY_ID is not set.", field="from_env")
    return {field: value for field, value in found.items() if value}


def from_stream(stream: TextIO, aws_profile: str = "") -> dict[str, str]:
    """Read a stream to its end; see :func:`parse`."""
    text = stream.read(LIMIT + 1)
    if len(text) > LIMIT:
        raise InputError(Code.BAD_INPUT, f"The input is longer than {LIMIT} characters: it is no key.", field="stdin")
    return parse(text, aws_profile)


def from_file(path: Path, aws_profile: str, warn: Callable[[str], None]) -> dict[str, str]:
    """Read a file; see :func:`parse`. Warns where others than its owner may read it. Raises InputError."""
    try:
        with path.open(encoding="utf-8") as f:
            _warn_if_open(path, "replace the key", warn)
            return from_stream(f, aws_profile)
    except OSError as e:
        raise InputError(
            Code.BAD_INPUT, f"from_file={str(path)!r} cannot be read: {e.strerror}.", field="from_file"
        ) from e
    except UnicodeDecodeError:
        raise InputError(Code.BAD_INPUT, f"from_file={str(path)!r} is not UTF-8 text.", field="from_file") from None


def _warn_if_open(path: Path, remedy: str, warn: Callable[[str], None]) -> None:
    mode = path.stat().st_mode
    if stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
        warn(f"{path} can be read by others than its owner; chmod 600 it, and consider to {remedy}.")


def refuse_urls(*arguments: str) -> None:
    """Raises InputError, which does not repeat it, where an argument is a signed URL and not what it should be."""
    if any(_URL.search(argument) for argument in arguments):
        raise InputError(
            Code.BAD_INPUT,
            "A signed URL never belongs on the command line, where others can read it: if that was one, sign another. "
            "Hand it over on standard input (--signed-url -) or in a file (--signed-url FILE, --manifest FILE).",
            field="arguments",
        )


def refuse_words(extra: Sequence[str]) -> None:
    """Refuse arguments that a command does not take, without repeating what may be a secret. Raises InputError."""
    if extra:
        raise InputError(
            Code.BAD_INPUT,
            f"{len(extra)} word{'s' if len(extra) > 1 else ''} too many on the command line; see --help.",
            field="arguments",
        )


@contextmanager
def opened(name: str, stdin: BinaryIO, warn: Callable[[str], None], *, field: str) -> Iterator[BinaryIO]:
    """The file that an option names, or standard input for ``-``. Warns where others than its owner may read it.

    Raises InputError: the name is itself a URL (not repeated), the file cannot be read.
    """
    refuse_urls(name)
    if name == "-":
        yield stdin
        return
    path = Path(name)
    try:
        stream = path.open("rb")
    except OSError as e:
        raise InputError(Code.BAD_INPUT, f"{field}={name!r} cannot be read: {e.strerror}.", field=field) from e
    with stream:
        _warn_if_open(path, "sign the URLs again", warn)
        yield stream


def url_or_row(stream: BinaryIO) -> str:
    """What was handed over for one file: a URL, or a row as a JSON object. Raises InputError, quoting nothing."""
    raw = stream.read(ROW_LIMIT + 1)
    if len(raw) > ROW_LIMIT:
        raise InputError(
            Code.BAD_INPUT,
            f"The input is longer than {ROW_LIMIT} bytes: it is no signed URL. A manifest is read by --manifest.",
            field="signed_url",
        )
    try:
        text = raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise InputError(Code.BAD_INPUT, "The input is not UTF-8 text.", field="signed_url") from None
    if not text:
        raise InputError(
            Code.BAD_INPUT, "The input is empty: expected a signed URL, or a row as a JSON object.", field="signed_url"
        )
    return text


def parse(text: str, aws_profile: str = "") -> dict[str, str]:
    """Fields from JSON, from an AWS credentials file (``[profile]`` sections) or from ``name=value`` lines.

    Names may be ours, AWS's variables or the CamelCase of AWS's answers. An ``Expiration`` comes back as ``expires``.
    Raises InputError, which quotes nothing of ``text``.
    """
    text = text.lstrip("\ufeff").strip()
    if not text:
        raise InputError(Code.BAD_INPUT, "The input is empty: expected JSON or name=value lines.", field="fields")
    if text.startswith("{"):
        return _from_json(text)
    if re.search(r"^\s*\[[^\]\n]+\]\s*$", text, re.MULTILINE):
        return _from_ini(text, aws_profile or "default")
    if aws_profile:
        raise InputError(Code.BAD_INPUT, "--aws-profile needs a file with [profile] sections.", field="aws_profile")
    return _from_lines(text)


def _from_json(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except ValueError:  # its message and its `doc` quote the text
        found = None
    if isinstance(found, dict) and len(found) == 1:
        found = next((found[w] for w in _WRAPPERS if w in found), found)
    if not isinstance(found, dict):
        raise InputError(Code.BAD_INPUT, "The input starts like JSON but is not one object.", field="fields")
    fields = {_field(name): value for name, value in found.items()}
    fields = {name: value for name, value in fields.items() if name not in _BESIDE and value is not None}
    if not all(isinstance(value, str) for value in fields.values()):
        raise InputError(Code.BAD_INPUT, "Each JSON value must be a string.", field="fields")
    return fields


def _from_ini(text: str, profile: str) -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=False)  # raw: a % in a secret is a %
    try:
        parser.read_string(text)
    except configparser.Error:  # its message quotes the lines
        raise InputError(Code.BAD_INPUT, "The AWS credentials file has a line that is no name = value.") from None
    section = next((s for s in (profile, f"profile {profile}") if parser.has_section(s)), None)
    if section is None:
        raise InputError(
            Code.BAD_INPUT, f"aws_profile={profile!r} is not a section of the credentials file.", field="aws_profile"
        )
    found = {_field(name): value for name, value in parser.items(section)}
    return {name: value for name, value in found.items() if name in VARIABLES}


def _from_lines(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip().removeprefix("export ").strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not name:
            raise InputError(Code.BAD_INPUT, f"Line {number} of the input is not name=value.", field="fields")
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        fields[_field(name)] = value
    return fields


def _field(name: str) -> str:
    """Our name of a field: ``AccessKeyId`` and ``AWS_ACCESS_KEY_ID`` are ``access_key_id``."""
    for field, variables in VARIABLES.items():
        if name.upper() in variables:
            return field
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return _ALIASES.get(snake, snake)
