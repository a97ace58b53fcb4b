"""Settings: read once into a frozen object; a wrong one names its key, its value and the fix.

Sources, strongest first: environment variables ``CLOUDPUSH_*``; the file that
``CLOUDPUSH_ENV_FILE`` names; ``cloudpush.env`` in the platform's user data directory (where
``cloudpush up`` leaves one). ``config/cloudpush.env.example`` explains every key.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cloudpush.errors import Code, SettingsError

PREFIX = "CLOUDPUSH_"
ENV_FILE = PREFIX + "ENV_FILE"
#: Read by the embedded stack and by this module, not settings of the product.
OUTSIDE = {ENV_FILE, *(PREFIX + name for name in ("DATA_DIR", "URL", "TOKEN", "TOKEN_FILE", "LOCAL"))}

MIB = 1024 * 1024
GIB = 1024 * MIB


def default_data_dir() -> Path:
    """The directory that ``cloudpush up`` uses unless told otherwise."""
    return Path(os.environ.get(PREFIX + "DATA_DIR") or platformdirs.user_data_path("cloudpush"))


class ProfileSettings(BaseModel):
    """One table of the profiles file: an endpoint that the operator vouches for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dialect: str = "other"
    endpoint: str = ""
    region: str = ""
    path_style: bool = True


def _split(value: object, separator: str) -> object:
    return tuple(p.strip() for p in value.split(separator) if p.strip()) if isinstance(value, str) else value


class Settings(BaseModel):
    """Everything that can be set. Field ``x`` is the variable ``CLOUDPUSH_X``."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    # Postgres, Redis
    database_url: str = "postgresql:///cloudpush"
    database_admin_url: str = ""  # owner of the tables; for `db upgrade`, `audit drop` and `audit pseudonymise` only
    redis_url: str = "redis://127.0.0.1:6379/0"
    # Vault or OpenBao
    vault_url: str = "http://127.0.0.1:8200"
    vault_namespace: str = ""
    vault_ca_file: Path | None = None
    vault_auth_dir: Path = Path("/etc/cloudpush/vault")  # ROLE-role-id, ROLE-secret-id
    vault_approle_mount: str = "approle"
    vault_kv_mount: str = "cloudpush"
    vault_transit_mount: str = "transit"
    vault_transit_key: str = "cloudpush"
    vault_issuer_key: str = "cloudpush-issuer"  # of Transit, RSA: signs our identity tokens
    vault_audit_key: str = "cloudpush-audit"  # of Transit, Ed25519: signs checkpoints and receipts
    vault_submission_key: str = "cloudpush-submission"  # of Transit, Ed25519: signs submission tokens
    # consent and the web pages
    providers_file: Path | None = None
    web_url: str = ""  # where browsers reach the pages: https://HOST[:PORT]; also our issuer
    web_host: str = "127.0.0.1"
    web_port: Annotated[int, Field(ge=1, le=65535)] = 8765
    web_oidc_issuer: str = ""  # who signs people in
    web_oidc_client_id: str = ""
    web_oidc_owner_claim: str = "email"  # the claim that names the owner
    web_link_user: str = ""  # whom one-time links sign in; the embedded stack's own user
    web_idle_minutes: Annotated[float, Field(gt=0)] = 60.0
    web_session_hours: Annotated[float, Field(gt=0)] = 12.0
    web_proxies: tuple[IPv4Network | IPv6Network, ...] = ()  # whose X-Forwarded-For is believed
    web_processes: Annotated[int, Field(ge=1, le=64)] = 1
    # the API
    api_oidc_issuer: str = ""  # whose bearer JWTs are taken; empty: none
    api_oidc_audience: str = ""  # what their `aud` must name
    api_oidc_owner_claim: str = "email"  # the claim that names the owner
    api_oidc_roles_claim: str = ""  # the claim that lists roles; empty: roles are granted by `cloudpush role`
    api_rate: Annotated[float, Field(gt=0)] = 50.0  # requests a second of one principal, in the long run
    api_burst: Annotated[int, Field(ge=1)] = 500  # and at once
    api_token_days: Annotated[int, Field(ge=1, le=3650)] = 365  # no token lives longer
    celery_submit: bool = False  # take pushes from the broker, with a signed submission token
    # before data moves, and after
    preflight: Literal["new", "never"] = "new"  # of pushes: try destination × credential pairs that are new
    preflight_days: Annotated[float, Field(gt=0)] = 30.0  # for so long a pair that passed is known
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 60.0  # events are sealed at least this often
    inspect_hours: Annotated[float, Field(gt=0)] = (
        24.0  # the whole record is verified this often; pages show how it went
    )
    keep_months: Annotated[int, Field(ge=0)] = 0  # older ones are listed as due to be archived and dropped; 0: none is
    # what may be read, and where to
    source_roots: tuple[Path, ...] = ()
    allowed_endpoints: tuple[str, ...] = ()  # host or host:port
    profiles_file: Path | None = None
    # the engine
    rclone: str = "rclone"
    runtime_dir: Path | None = None  # private directory for the engine's socket
    transfers: Annotated[int, Field(ge=1, le=256)] = 32
    # the worker
    concurrency: Annotated[int, Field(ge=1, le=64)] = 4
    part_files: Annotated[int, Field(ge=1, le=100_000)] = 5_000
    part_bytes: Annotated[int, Field(ge=MIB)] = 8 * GIB
    lease_seconds: Annotated[float, Field(ge=2)] = 30.0
    heartbeat_seconds: Annotated[float, Field(gt=0)] = 2.0
    max_attempts: Annotated[int, Field(ge=1)] = 12
    outage_patience_hours: Annotated[float, Field(gt=0)] = 168.0
    retry_base_seconds: Annotated[float, Field(gt=0)] = 2.0
    retry_cap_seconds: Annotated[float, Field(gt=0)] = 300.0
    # the sweeper
    sweep_seconds: Annotated[float, Field(gt=0)] = 1.0
    # logs
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"

    @field_validator("source_roots", mode="before")
    @classmethod
    def _roots(cls, value: object) -> object:
        return _split(value, os.pathsep)

    @field_validator("allowed_endpoints", "web_proxies", mode="before")
    @classmethod
    def _endpoints(cls, value: object) -> object:
        return _split(value, ",")

    @field_validator("vault_ca_file", "profiles_file", "providers_file", "runtime_dir", mode="before")
    @classmethod
    def _absent(cls, value: object) -> object:
        return None if value == "" else value

    def profiles(self) -> dict[str, ProfileSettings]:
        """The operator's destination profiles by name. Raises SettingsError."""
        if self.profiles_file is None:
            return {}
        key = PREFIX + "PROFILES_FILE"
        try:
            tables = tomllib.loads(self.profiles_file.read_text(encoding="utf-8"))
        except OSError as e:
            raise _wrong(key, str(self.profiles_file), f"cannot be read: {e.strerror}") from e
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
            raise _wrong(key, str(self.profiles_file), f"is not TOML: {e}") from e
        profiles: dict[str, ProfileSettings] = {}
        for name, table in tables.items():
            try:
                profiles[name] = ProfileSettings.model_validate(table)
            except ValidationError as e:
                first = e.errors(include_input=False)[0]
                where = ".".join([name, *(str(x) for x in first["loc"])])
                raise _wrong(key, str(self.profiles_file), f"is wrong at {where}: {first['msg']}") from e
        return profiles


def _wrong(key: str, value: str, why: str) -> SettingsError:
    return SettingsError(Code.SETTINGS_INVALID, f"{key}={value!r} {why}", field=key)


def read_settings(env: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Settings from the environment and the file it names; ``overrides`` are strongest.

    Raises SettingsError for an unknown key, a value that does not fit or a file that is not there.
    """
    env = os.environ if env is None else env
    values = {**_from_file(env), **{k: v for k, v in env.items() if k.startswith(PREFIX) and k not in OUTSIDE}}
    known = {PREFIX + name.upper(): name for name in Settings.model_fields}
    for key in values:
        if key not in known:
            names = [k.removeprefix(PREFIX) for k in known]
            near = difflib.get_close_matches(key.removeprefix(PREFIX), names, n=1)
            hint = f"did you mean {PREFIX}{near[0]}?" if near else "see config/cloudpush.env.example"
            raise SettingsError(Code.SETTINGS_INVALID, f"{key} is not a setting: {hint}", field=key)
    try:
        return Settings.model_validate({known[k]: v for k, v in values.items()} | overrides)
    except ValidationError as e:
        first = e.errors(include_input=False)[0]
        key = PREFIX + str(first["loc"][0]).upper()
        raise _wrong(key, _shown(key, values.get(key, "")), f"is wrong: {first['msg']}") from e


def _from_file(env: Mapping[str, str]) -> dict[str, str]:
    named = env.get(ENV_FILE)
    path = Path(named) if named else default_data_dir() / "cloudpush.env"
    if not path.is_file():
        if named:
            raise _wrong(ENV_FILE, named, "is not a file; unset it or start `cloudpush up`")
        return {}
    return {k: v for k, v in dotenv_values(path, interpolate=False).items() if v is not None}


def _shown(key: str, value: str) -> str:
    """URLs may carry passwords: show what identifies them, not what opens them."""
    return value.rpartition("@")[2] if key.endswith("_URL") else value
