"""Settings are read once; a wrong one names its key, its value and the fix."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from cloudpush.audit.database import database_url, make_engine
from cloudpush.errors import Code, SettingsError
from cloudpush.settings import ProfileSettings, Settings, read_settings


def refusal(env: dict[str, str]) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        read_settings(env)
    return caught.value


def told(error: BaseException) -> str:
    """Everything that a log could show of an error."""
    return "".join(traceback.format_exception(error)) + repr(error)


def profiles(path: Path, text: str | bytes) -> Settings:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_settings({"CLOUDPUSH_PROFILES_FILE": str(path)})


def test_without_anything_there_are_defaults() -> None:
    """Foreign variables are nobody's business."""
    assert read_settings({"PATH": "/bin", "HOME": "/root"}) == Settings()


def test_variables_are_read_by_their_names() -> None:
    """Text becomes what the field is."""
    env = {
        "CLOUDPUSH_TRANSFERS": "8",
        "CLOUDPUSH_LEASE_SECONDS": "2.5",
        "CLOUDPUSH_SOURCE_ROOTS": "/data:/scratch: :",
        "CLOUDPUSH_ALLOWED_ENDPOINTS": "minio.lab, 10.0.0.7:9000,",
        "CLOUDPUSH_RUNTIME_DIR": "",
        "CLOUDPUSH_LOG_LEVEL": "debug",
    }

    found = read_settings(env)

    assert found == Settings(
        transfers=8,
        lease_seconds=2.5,
        source_roots=(Path("/data"), Path("/scratch")),
        allowed_endpoints=("minio.lab", "10.0.0.7:9000"),
        runtime_dir=None,
        log_level="debug",
    )


def test_the_environment_is_stronger_than_the_file_and_overrides_are_strongest(tmp_path: Path) -> None:
    """In this order."""
    file = tmp_path / "cloudpush.env"
    file.write_text("CLOUDPUSH_TRANSFERS=1\nCLOUDPUSH_CONCURRENCY=1\nCLOUDPUSH_PART_FILES=1\n")
    env = {"CLOUDPUSH_ENV_FILE": str(file), "CLOUDPUSH_CONCURRENCY": "2", "CLOUDPUSH_PART_FILES": "2"}

    found = read_settings(env, part_files=3)

    assert (found.transfers, found.concurrency, found.part_files) == (1, 2, 3)


def test_values_in_the_file_are_taken_as_they_are(tmp_path: Path) -> None:
    """Nothing is filled in from elsewhere."""
    file = tmp_path / "cloudpush.env"
    file.write_text("# a comment\nCLOUDPUSH_RCLONE='/opt/${HOME}/rclone'\n")

    assert read_settings({"CLOUDPUSH_ENV_FILE": str(file), "HOME": "/root"}).rclone == "/opt/${HOME}/rclone"


def test_the_file_in_the_data_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is where `cloudpush up` leaves one."""
    (tmp_path / "cloudpush.env").write_text("CLOUDPUSH_TRANSFERS=5\n")
    monkeypatch.setenv("CLOUDPUSH_DATA_DIR", str(tmp_path))

    assert read_settings({}).transfers == 5


def test_a_key_that_is_none_is_refused_with_the_nearest() -> None:
    """A typo must not silently mean the default."""
    error = refusal({"CLOUDPUSH_TRANSFER": "8"})

    assert (error.code, error.field, error.message) == (
        Code.SETTINGS_INVALID,
        "CLOUDPUSH_TRANSFER",
        "CLOUDPUSH_TRANSFER is not a setting: did you mean CLOUDPUSH_TRANSFERS?",
    )


def test_a_key_that_is_like_none_points_to_the_list() -> None:
    """Where every setting is explained."""
    assert refusal({"CLOUDPUSH_XYZZY": "1"}).message == (
        "CLOUDPUSH_XYZZY is not a setting: see config/cloudpush.env.example"
    )


def test_a_key_in_the_file_is_checked_too(tmp_path: Path) -> None:
    """Wherever it came from."""
    file = tmp_path / "cloudpush.env"
    file.write_text("CLOUDPUSH_VAULTURL=x\n")

    assert "CLOUDPUSH_VAULT_URL" in refusal({"CLOUDPUSH_ENV_FILE": str(file)}).message


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("CLOUDPUSH_TRANSFERS", "0", "greater than or equal to 1"),
        ("CLOUDPUSH_TRANSFERS", "many", "valid integer"),
        ("CLOUDPUSH_TRANSFERS", "", "valid integer"),
        ("CLOUDPUSH_LEASE_SECONDS", "1", "greater than or equal to 2"),
        ("CLOUDPUSH_LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_a_value_that_does_not_fit_is_named(key: str, value: str, words: str) -> None:
    """Key, value and what would fit."""
    error = refusal({key: value})

    assert (error.field, error.message.startswith(f"{key}={value!r} is wrong"), words in error.message) == (
        key,
        True,
        True,
    ), error.message


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    """Otherwise everything would silently run on defaults."""
    missing = str(tmp_path / "nothing.env")

    error = refusal({"CLOUDPUSH_ENV_FILE": missing})

    assert (error.field, missing in error.message, "cloudpush up" in error.message) == (
        "CLOUDPUSH_ENV_FILE",
        True,
        True,
    )


# -- passwords in URLs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:canary-pw@db.lab:port/cloudpush",
        "mysql://app:canary-pw@db.lab/cloudpush",
        "postgresql//app:canary-pw@db.lab/cloudpush",
        "postgresql://app:canary-pw@db.lab:5432x/cloudpush",
    ],
)
def test_a_database_url_that_is_wrong_is_not_shown(url: str) -> None:
    """It holds a password."""
    with pytest.raises(SettingsError) as caught:
        database_url(url)

    assert (caught.value.field, "canary" in told(caught.value)) == ("CLOUDPUSH_DATABASE_URL", False)


def test_an_engine_does_not_show_its_password() -> None:
    """Not in its repr, where logs would find it."""
    engine = make_engine("postgresql://app:canary-pw@db.lab/cloudpush")

    assert ("canary" in repr(engine), "canary" in str(engine.url)) == (False, False)


def test_any_spelling_of_postgres_leads_to_our_driver() -> None:
    """People write the scheme in several ways."""
    names = {database_url(f"{s}://h/d").drivername for s in ("postgresql", "postgres", "postgresql+psycopg2")}

    assert names == {"postgresql+psycopg"}


# -- profiles -----------------------------------------------------------------------------------------


def test_profiles_are_tables_of_a_file(tmp_path: Path) -> None:
    """Each vouches for an endpoint."""
    settings = profiles(
        tmp_path / "p.toml",
        '[lab]\ndialect = "minio"\nendpoint = "https://minio.lab"\n\n[ceph]\npath_style = false\nregion = "eu"\n',
    )

    assert settings.profiles() == {
        "lab": ProfileSettings(dialect="minio", endpoint="https://minio.lab"),
        "ceph": ProfileSettings(path_style=False, region="eu"),
    }


def test_without_a_file_there_are_none() -> None:
    """The built-in ones are elsewhere."""
    assert Settings().profiles() == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[lab", "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
        ('[lab]\nendpont = "x"\n', "lab.endpont: Extra inputs"),
        ('[lab]\npath_style = "sometimes"\n', "lab.path_style: Input should be a valid boolean"),
        ('lab = "https://minio.lab"\n', "lab: Input should be a valid dictionary"),
    ],
)
def test_a_profiles_file_that_is_wrong_says_where(tmp_path: Path, text: str | bytes, words: str) -> None:
    """File, table and key."""
    path = tmp_path / "p.toml"
    with pytest.raises(SettingsError) as caught:
        profiles(path, text).profiles()

    assert (str(path) in caught.value.message, words in caught.value.message) == (True, True), caught.value.message


def test_a_profiles_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """And why it cannot be read."""
    path = str(tmp_path / "none.toml")
    with pytest.raises(SettingsError) as caught:
        read_settings({"CLOUDPUSH_PROFILES_FILE": path}).profiles()

    assert caught.value.message == f"CLOUDPUSH_PROFILES_FILE={path!r} cannot be read: No such file or directory"


def test_every_setting_is_explained_in_the_example() -> None:
    """The list that error messages point to is complete, and explains nothing that does not exist."""
    from cloudpush.resources import resource

    text = (resource("config") / "cloudpush.env.example").read_text(encoding="utf-8")
    explained = {
        line.lstrip("# ").partition("=")[0] for line in text.splitlines() if "CLOUDPUSH_" in line.partition("=")[0]
    }
    keys = {"CLOUDPUSH_" + name.upper() for name in Settings.model_fields}

    assert (keys - explained, {e for e in explained if e.startswith("CLOUDPUSH_") and " " not in e} - keys) == (
        set(),
        set(),
    )
