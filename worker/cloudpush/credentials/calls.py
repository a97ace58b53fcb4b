"""Requests to a cloud with what a consent gave, and the addresses that they go to."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from requests_oauthlib import OAuth2Session

from cloudpush.credentials.wire import CONNECT_SECONDS, READ_SECONDS, Careful, asked
from cloudpush.errors import Code, InputError, SettingsError
from cloudpush.push.grants.model import Provider
from cloudpush.push.guard import NoOriginError, Origin, parse_origin

_BLANK = re.compile(r"\{([a-z_]+)\}")
#: An answer that becomes part of an address: one label of a host name, or one segment of a path.
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class _Bearer(Careful, OAuth2Session):  # type: ignore[misc]
    """Sends an access token with each request."""


def post(
    provider: Provider, url: str, *, data: Mapping[str, str] | bytes, headers: Mapping[str, str], access_token: str = ""
) -> Reply:
    """The answer to one POST, with ``access_token`` in its header. Raises CloudPushError where the way there fails."""
    # At level debug they write tokens.
    for name in ("oauthlib", "requests_oauthlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    token = {"access_token": access_token, "token_type": "Bearer"}
    with _Bearer(token=token) if access_token else Careful() as session:  # type: ignore[call-arg]
        session.arm(provider)

        def ask() -> Reply:
            answer = session.post(url, data=data, headers=dict(headers), timeout=(CONNECT_SECONDS, READ_SECONDS))
            return Reply(answer.status_code, answer.headers, answer.content)

        return asked(url, ask)


def fill(template: str, provider: Provider, answers: Mapping[str, str], field_: str) -> str:
    """``template``, a URL of the operator's, with the user's answers in it. Raises InputError, SettingsError.

    What a user answered becomes one label of a host name or one segment of a path, whatever the question let through.
    """

    def answer(blank: re.Match[str]) -> str:
        name = blank[1]
        value = answers.get(name, "")
        if not _LABEL.fullmatch(value):
            raise InputError(
                Code.BAD_INPUT,
                f"{name}={value[:64]!r} cannot be part of an address; connect again and give lower-case letters, digits, dashes.",
                field=name,
            )
        return value

    url = _BLANK.sub(answer, template).rstrip("/")
    origin_of(url, provider, field_)
    return url


def origin_of(url: str, provider: Provider, field_: str) -> Origin:
    """Where ``url`` leads. Raises SettingsError, which names the provider's field, for what is no URL to send secrets to."""
    parts = urlsplit(url)
    if "?" in url or "#" in url or "\\" in url:
        raise unfit(provider, field_, url, "has a query, fragment or backslash")
    try:
        return parse_origin(f"{parts.scheme}://{parts.netloc}")
    except NoOriginError as e:
        raise unfit(provider, field_, url, str(e)) from None


def unfit(provider: Provider, field_: str, value: str, why: str) -> SettingsError:
    """A field of the operator's table that cannot be used."""
    return SettingsError(
        Code.SETTINGS_INVALID,
        f"providers: {provider.name}.{field_} = {value[:200]!r} {why}; correct it in the file of CLOUDPUSH_PROVIDERS_FILE.",
        field=f"{provider.name}.{field_}",
    )
