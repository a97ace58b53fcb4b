"""Kinds of credentials: typed, validated, and masked wherever they are shown.

A kind is a class here and a line in :data:`KINDS`. Its fields are what is sealed. Pydantic's own
errors quote the input that they refuse, so none of them leaves this module.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, SecretStr, ValidationError

from cloudpush.errors import Code, CredentialError, InputError
from cloudpush.push.grants.model import NOTIFY_HOOK
from cloudpush.push.guard import parse_endpoint
from cloudpush.push.job import Secret
from cloudpush.push.signed.model import RESIGN_HOOK

#: A region becomes part of a host name and of every signature.
_REGION = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def _opaque(least: int, most: int, hint: str) -> Callable[[SecretStr], SecretStr]:
    """A validator of printable ASCII without blanks: what a header or a signature can carry."""

    def check(value: SecretStr) -> SecretStr:
        text = value.get_secret_value().strip()
        if not text and least == 0:
            return SecretStr("")
        if not text:
            raise ValueError(f"is empty; {hint}")
        if not all("!" <= c <= "~" for c in text):
            raise ValueError(f"has blanks, line breaks or characters beyond ASCII; {hint}")
        if not least <= len(text) <= most:
            raise ValueError(f"has {len(text)} characters, expected {max(least, 1)} to {most}; {hint}")
        return SecretStr(text)

    return check


def _endpoint(value: str) -> str:
    if not value.strip():
        return ""
    try:
        return parse_endpoint(value.strip()).url
    except InputError:
        # its message quotes the value, which may be a secret in the wrong field
        raise ValueError("is not an endpoint; write https://HOST[:PORT], without user name, bucket or path") from None


def _region(value: str) -> str:
    text = value.strip()
    if text and not _REGION.fullmatch(text):
        raise ValueError("is not a region; write lower-case letters, digits and dashes, such as eu-central-1 or auto")
    return text


def _callback(value: SecretStr) -> SecretStr:
    """A URL to call; its path and query may be secrets themselves. Who may be called is judged by its origin."""
    text = value.get_secret_value()
    try:
        _origin(text)
    except (ValueError, InputError):  # both may quote the value
        raise ValueError(
            "is not a URL to call; write https://HOST[:PORT]/PATH, without user name or fragment"
        ) from None
    return value


def _origin(url: str) -> str:
    """Scheme, host and port of ``url``. Raises ValueError, InputError."""
    parts = urlsplit(url)
    if "#" in url or "\\" in url:
        raise ValueError
    return parse_endpoint(f"{parts.scheme}://{parts.netloc}").url


class AccessKey(BaseModel):
    """An S3-style key pair, with the session token of a temporary one.

    ``endpoint`` is where this key is valid, as ``https://HOST[:PORT]``; empty means the endpoint of the
    destination's profile. ``region`` is what requests are signed for; empty means the profile's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    KIND: ClassVar[str] = "access_key"

    access_key_id: Annotated[SecretStr, AfterValidator(_opaque(1, 256, "copy the access key id again"))]
    secret_access_key: Annotated[SecretStr, AfterValidator(_opaque(1, 1024, "copy the secret access key again"))]
    session_token: Annotated[SecretStr, AfterValidator(_opaque(0, 16_384, "copy the session token again"))] = SecretStr(
        ""
    )
    endpoint: Annotated[str, AfterValidator(_endpoint)] = ""
    region: Annotated[str, AfterValidator(_region)] = ""

    @property
    def kind(self) -> str:
        """``access_key``."""
        return self.KIND

    def reveal(self) -> Mapping[str, str]:
        """Every field by name; optional ones that were not given are empty strings."""
        return {
            "access_key_id": self.access_key_id.get_secret_value(),
            "secret_access_key": self.secret_access_key.get_secret_value(),
            "session_token": self.session_token.get_secret_value(),
            "endpoint": self.endpoint,
            "region": self.region,
        }

    def __repr__(self) -> str:
        temporary = ", temporary" if self.session_token.get_secret_value() else ""
        return f"<AccessKey ****{temporary}, endpoint={self.endpoint!r}, region={self.region!r}>"

    __str__ = __repr__


class _Hook(BaseModel):
    """A webhook, and the secret that requests to it are signed with.

    ``url`` is https://HOST[:PORT]/PATH[?QUERY]; nothing but its origin is shown or stored as metadata.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    KIND: ClassVar[str]

    url: Annotated[
        SecretStr,
        AfterValidator(_opaque(1, 4096, "write https://HOST[:PORT]/PATH")),
        AfterValidator(_callback),
    ]
    secret: Annotated[SecretStr, AfterValidator(_opaque(16, 1024, "make one with `openssl rand -hex 32`"))]

    @property
    def kind(self) -> str:
        """Its kind of credential."""
        return self.KIND

    @property
    def endpoint(self) -> str:
        """The origin of ``url``: what is judged before anybody may have it called."""
        return _origin(self.url.get_secret_value())

    def reveal(self) -> Mapping[str, str]:
        """``url`` and ``secret``."""
        return {"url": self.url.get_secret_value(), "secret": self.secret.get_secret_value()}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} ****, endpoint={self.endpoint!r}>"

    __str__ = __repr__


class ResignHook(_Hook):
    """Whom to ask for fresh signed URLs."""

    KIND: ClassVar[str] = RESIGN_HOOK


class NotifyHook(_Hook):
    """Whom to tell that one of its owner's grants must be reconnected: every live one of the owner's is told."""

    KIND: ClassVar[str] = NOTIFY_HOOK


Kind = AccessKey | ResignHook | NotifyHook

#: Name → model, for :func:`parse` and :func:`load`. A later kind is a class above and a line here.
KINDS: dict[str, type[Kind]] = {k.KIND: k for k in (AccessKey, ResignHook, NotifyHook)}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A field to ask a person for. ``hidden``: what is typed is not shown."""

    field: str
    required: bool
    hidden: bool


def prompts(kind: str) -> list[Prompt]:
    """The secret fields of ``kind`` in the order of asking. Raises InputError for an unknown kind."""
    return [
        Prompt(name, field.is_required(), hidden=not name.endswith("_id"))
        for name, field in _model(kind).model_fields.items()
        if field.annotation is SecretStr
    ]


def _model(kind: str) -> type[Kind]:
    model = KINDS.get(kind)
    if model is None:
        raise InputError(
            Code.BAD_INPUT, f"kind={kind!r} is not a kind of credential; use one of: {', '.join(KINDS)}.", field="kind"
        )
    return model


def parse(kind: str, fields: Mapping[str, str]) -> Secret:
    """The credential that a user gave, checked.

    Raises InputError that names the field and the fix and quotes no value: not even the name of an
    unknown field, since a secret pasted into the wrong place becomes one.
    """
    model = _model(kind)
    known = list(model.model_fields)
    for name in fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise InputError(
                Code.BAD_INPUT, f"A field is not known: {hint}{kind} has the fields {', '.join(known)}.", field="fields"
            )
    try:
        return model.model_validate(dict(fields))
    except ValidationError as e:
        field, why = _reason(e)
    # Outside the handler, so that the foreign error, which holds the input, is not chained.
    raise InputError(Code.BAD_INPUT, f"{field} {why}.", field=field)


def _reason(error: ValidationError) -> tuple[str, str]:
    first = error.errors(include_input=False, include_context=False, include_url=False)[0]
    field = str(first["loc"][0])
    match first["type"]:
        case "missing":
            return field, "is missing; give it beside the others"
        case "value_error":
            return field, first["msg"].removeprefix("Value error, ")
        case _:
            return field, "is not a text"


def dump(secret: Secret) -> bytes:
    """What is sealed: the fields that are set, as JSON."""
    return json.dumps({k: v for k, v in secret.reveal().items() if v}, separators=(",", ":")).encode()


def load(kind: str, plaintext: bytes) -> Secret:
    """The inverse of :func:`dump`. Raises CredentialError (corrupt), without the text."""
    try:
        return parse(kind, json.loads(plaintext))
    except (ValueError, TypeError, AttributeError, InputError):
        pass  # what these errors quote is the plaintext
    raise CredentialError(Code.CREDENTIAL_CORRUPT, f"The unsealed credential is not a valid {kind}.")
