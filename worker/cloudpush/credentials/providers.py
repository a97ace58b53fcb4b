"""The providers where users consent: the list that ships, with the operator's own file over it.

``config/providers.toml`` explains every field. A table of the operator's file adds a provider or replaces single fields of
one; a field is replaced as a whole. What is inherited about scopes goes with the scopes: an operator who asks for less
need not repeat it.

Nothing here is a user's: endpoints that tokens are sent to come from these two files, or from the metadata that they
name, and from nowhere else. So they may be private addresses, but never plain HTTP beyond this machine.
"""

from __future__ import annotations

import difflib
import re
import string
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cloudpush.credentials import urls
from cloudpush.credentials.clients import SIGN_IN, is_name
from cloudpush.credentials.discovery import Metadata
from cloudpush.errors import Code, InputError, SettingsError
from cloudpush.push.grants.model import Flow, Provider, Question, Rotation, Use
from cloudpush.resources import resource
from cloudpush.settings import PREFIX, Settings

FILE = "providers.toml"
KEY = PREFIX + "PROVIDERS_FILE"
#: Scopes that say who somebody is, or for how long; no push fails for want of them.
ABOUT_THE_USER = frozenset({"openid", "email", "profile", "offline_access"})
#: Parameters of an authorization request that are ours to set.
OURS = frozenset(
    {
        "client_id",
        "client_secret",
        "code_challenge",
        "code_challenge_method",
        "nonce",
        "redirect_uri",
        "request",
        "request_uri",
        "response_mode",
        "response_type",
        "scope",
        "state",
    }
)
#: Fields that hold a URL, and those of them with placeholders.
_URLS = (
    "issuer",
    "discovery",
    "authorization_endpoint",
    "token_endpoint",
    "revocation_endpoint",
    "jwks_uri",
)
_TEMPLATES = ("endpoint", "sts_endpoint")
_PRINTABLE = re.compile(r"[!-~]+")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Question(_Strict):
    """One ``[[NAME.questions]]``."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    title: Annotated[str, Field(min_length=1, max_length=100)]
    pattern: Annotated[str, Field(min_length=1, max_length=500)]
    hint: str = ""
    example: str = ""
    required: bool = True

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as e:
            raise ValueError(f"is not a regular expression: {e.msg}") from None
        return value

    @model_validator(mode="after")
    def _example_fits(self) -> _Question:
        if self.example and not re.fullmatch(self.pattern, self.example):
            raise ValueError(f"example {self.example!r} does not match its own pattern")
        return self


class _Table(_Strict):
    """One provider's table, merged. Field ``x`` is ``x`` of :class:`Provider`."""

    title: Annotated[str, Field(min_length=1, max_length=100)]
    flow: Literal["code", "web_identity"]
    use: Literal["bearer", "user_delegation_sas", "web_identity"]
    profile: Annotated[str, Field(min_length=1)]
    client_id: str = ""
    issuer: str = ""
    sends_issuer: bool = False
    discovery: str = ""
    authorization_endpoint: str = ""
    token_endpoint: str = ""
    revocation_endpoint: str = ""
    jwks_uri: str = ""
    scopes: tuple[str, ...] = ()
    needs: tuple[str, ...] | None = None
    explains: dict[str, str] = {}
    parameters: dict[str, str] = {}
    token_auth: Literal["none", "client_secret_post", "client_secret_basic"] = "none"
    rotation: Literal["never", "keeps_old", "single_use"] = "never"
    manage_url: str = ""
    questions: tuple[_Question, ...] = ()
    endpoint: str = ""
    sts_endpoint: str = ""
    audience: str = ""
    identity_token: Literal["ours", "theirs"] = "ours"
    ca_file: str = ""
    session_seconds: Annotated[int, Field(ge=1, le=7 * 24 * 3600)] = 3600

    @field_validator(*_URLS)
    @classmethod
    def _url(cls, value: str) -> str:
        return urls.check(value) if value else ""

    @field_validator("manage_url")
    @classmethod
    def _page(cls, value: str) -> str:
        """For browsers: it may have a fragment."""
        if value:
            urls.check(value.replace("#", "/"))
        return value

    @field_validator(*_TEMPLATES)
    @classmethod
    def _template(cls, value: str) -> str:
        if value:
            urls.check(re.sub(r"\{[a-z][a-z0-9_]*\}", "x", value))
        return value.rstrip("/")

    @field_validator("scopes", "needs")
    @classmethod
    def _scopes(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for scope in value or ():
            if not _PRINTABLE.fullmatch(scope) or '"' in scope or "\\" in scope:
                raise ValueError(f"has {scope!r}, which is no scope: list them one by one, without blanks")
        if value is not None and len(set(value)) < len(value):
            raise ValueError("names a scope twice")
        return value

    @field_validator("client_id", "audience")
    @classmethod
    def _word(cls, value: str) -> str:
        if value and not _PRINTABLE.fullmatch(value):
            raise ValueError("has blanks or characters beyond ASCII")
        return value

    @field_validator("parameters")
    @classmethod
    def _parameters(cls, value: dict[str, str]) -> dict[str, str]:
        ours = sorted(OURS & value.keys())
        if ours:
            raise ValueError(f"may not set {', '.join(ours)}: CloudPush sets that itself")
        return value

    @field_validator("ca_file")
    @classmethod
    def _is_file(cls, value: str) -> str:
        if value and not Path(value).is_file():
            raise ValueError("is not a file")
        return str(Path(value).absolute()) if value else ""  # the engine has another working directory

    @model_validator(mode="after")
    def _fits_together(self) -> _Table:
        for field, found in (("needs", self.needs or ()), ("explains", tuple(self.explains))):
            strange = [scope for scope in found if scope not in self.scopes]
            if strange:
                raise ValueError(f"{field} names {strange[0]!r}, which is not among the scopes")
        names = [question.name for question in self.questions]
        if len(set(names)) < len(names):
            raise ValueError("two questions have the same name")
        for field in _TEMPLATES:
            unknown = [name for name in _placeholders(getattr(self, field)) if name not in names]
            if unknown:
                raise ValueError(f"{field} has {{{unknown[0]}}}, which no question asks for")
        if self.flow == "code":
            self._check_code_flow()
        elif self.use != "web_identity":
            raise ValueError("flow web_identity goes with use web_identity only")
        self._check_use()
        return self

    def _check_code_flow(self) -> None:
        if self.client_id and not (self.discovery or (self.authorization_endpoint and self.token_endpoint)):
            raise ValueError("needs authorization_endpoint and token_endpoint, or discovery")
        if self.client_id and not self.scopes:
            raise ValueError("needs scopes: what is asked for")
        if self.discovery and not self.issuer:
            raise ValueError("needs issuer beside discovery: whose metadata it must be")
        if self.identity_token == "theirs" and "openid" not in self.scopes:
            raise ValueError("needs the scope openid, for identity_token is theirs")

    def _check_use(self) -> None:
        if self.use == "user_delegation_sas" and not self.endpoint:
            raise ValueError("needs endpoint: where the storage account is")
        if self.use == "web_identity":
            if not self.sts_endpoint:
                raise ValueError("needs sts_endpoint: who gives keys for an identity token")
            if self.identity_token == "ours" and not self.audience:
                raise ValueError("needs audience: whom our identity tokens are for")
            if self.identity_token == "theirs" and self.flow != "code":
                raise ValueError("identity_token theirs goes with flow code only")

    def provider(self, name: str) -> Provider:
        """As the story knows it."""
        needs = self.needs
        if needs is None:
            needs = tuple(scope for scope in self.scopes if scope not in ABOUT_THE_USER)
        fields = self.model_dump(exclude={"flow", "use", "rotation", "needs", "questions"})
        return Provider(
            name=name,
            flow=Flow(self.flow),
            use=Use(self.use),
            rotation=Rotation(self.rotation),
            needs=needs,
            questions=tuple(Question(**question.model_dump()) for question in self.questions),
            **fields,
        )


class ProviderBook:
    """The list, read once. Implements ``push.grants.ports.Providers``. Thread-safe."""

    def __init__(self, providers: Iterable[Provider]) -> None:
        self._providers = {provider.name: provider for provider in providers}
        self._metadata = Metadata()

    def get(self, name: str) -> Provider:
        """Raises InputError UNKNOWN_PROVIDER."""
        provider = self._providers.get(name)
        if provider is None:
            near = difflib.get_close_matches(name, self._providers, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(self._providers)}."
            raise InputError(
                Code.UNKNOWN_PROVIDER,
                f"provider={name[:100]!r} is not in the operator's list: {hint}",
                field="provider",
            )
        return provider

    def all(self) -> Sequence[Provider]:
        """In the order of the files, those that are not offered included."""
        return tuple(self._providers.values())

    def resolve(self, provider: Provider) -> Provider:
        """``provider`` with what its metadata tells, where the table is silent; the same where it names no metadata.

        The network is asked at most once in :data:`discovery.FRESH_SECONDS`. Raises as ``push.grants.ports`` says.
        """
        return self._metadata.complete(provider)


def read_providers(settings: Settings) -> ProviderBook:
    """The shipped list with the operator's file over it. Raises SettingsError: file, table, key, value and fix."""
    shipped_path = resource("config") / FILE
    shipped = _tables(shipped_path)
    tables = dict(shipped)
    own: Mapping[str, Any] = {}
    if settings.providers_file is not None:
        own = _tables(settings.providers_file)
        for name, table in own.items():
            tables[name] = _merged(shipped[name], table) if name in shipped else table
    return ProviderBook(
        _provider(name, table, (settings.providers_file or shipped_path) if name in own else shipped_path)
        for name, table in tables.items()
    )


def _placeholders(template: str) -> list[str]:
    return [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]


def _tables(path: Path) -> dict[str, dict[str, Any]]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise _wrong(path, f"cannot be read: {e.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise _wrong(path, f"is not TOML: {e}") from None
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise _wrong(path, f"has the key {name} outside a table: write it below [NAME] of a provider")
        if not is_name(name) or name == SIGN_IN:
            raise _wrong(
                path, f"has the table [{name}]: call it by lower-case letters, digits and dashes, and not {SIGN_IN}"
            )
    return tables


def _merged(shipped: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """``own`` over ``shipped``. What is inherited about scopes that are no longer asked for goes with them."""
    merged = {**shipped, **own}
    if "scopes" in own and isinstance(own["scopes"], list):
        scopes = own["scopes"]
        if "explains" not in own and "explains" in merged:
            merged["explains"] = {s: words for s, words in shipped["explains"].items() if s in scopes}
        if "needs" not in own and any(s not in scopes for s in merged.get("needs", ())):
            merged.pop("needs", None)
    return merged


def _provider(name: str, table: Mapping[str, Any], path: Path) -> Provider:
    try:
        return _Table.model_validate(table).provider(name)
    except ValidationError as e:
        # Without its cause, which quotes every value of the table.
        raise _explained(path, name, e) from None


def _explained(path: Path, name: str, error: ValidationError) -> SettingsError:
    # A misspelt field is missing under its right name, too: tell the former.
    first = min(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    where = [str(x) for x in first["loc"]]
    key, words = ".".join(where), str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return _wrong(path, f"has no field {key} in [{name}]: {_hint(where)}")
    if first["type"] == "missing":
        return _wrong(path, f"lacks {key} in [{name}]")
    if not where:
        return _wrong(path, f"is wrong in [{name}]: {words}")
    return _wrong(path, f"is wrong in [{name}] at {key}={_shown(first['input'])}: {words[:1].lower()}{words[1:]}")


def _hint(where: Sequence[str]) -> str:
    if "secret" in where[-1]:
        return "a client secret goes into Vault, `cloudpush provider set-secret NAME`"
    known = _Question.model_fields if where[0] == "questions" else _Table.model_fields
    near = difflib.get_close_matches(where[-1], known, n=1)
    return f"did you mean {near[0]}?" if near else f"the fields are {', '.join(known)}"


def _shown(value: object) -> str:
    """A wrong value, as far as it is short and a single one."""
    return repr(value)[:200] if isinstance(value, str | int | float | bool) else f"a {type(value).__name__}"


def _wrong(path: Path, why: str) -> SettingsError:
    return SettingsError(Code.SETTINGS_INVALID, f"{KEY}: {str(path)!r} {why}", field=KEY)
