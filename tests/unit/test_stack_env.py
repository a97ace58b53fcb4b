"""`cloudpush.env`, as `up` writes it."""

from __future__ import annotations

import getpass
from io import StringIO
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cloudpush.errors import SettingsError
from cloudpush.settings import Settings
from cloudpush.stack import binaries
from cloudpush.stack.datadir import DataDir
from cloudpush.stack.services import OpenBao, Postgres, Valkey
from cloudpush.stack.up import UpOptions, _root, _write_env, env_text
from cloudpush.stack.view import PlainView
from cloudpush.stack.website import Website


class Said(PlainView):
    """A view that only listens."""

    def __init__(self) -> None:
        super().__init__(Console())
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        self.texts.append(text)


VALUES = st.text(st.sampled_from("'\"\\$#{}` =ab\n\tü"), max_size=12)


@given(st.dictionaries(st.from_regex(r"CLOUDPUSH_[A-Z]{1,8}", fullmatch=True), VALUES, max_size=4))
def test_what_is_written_is_read_back(values: dict[str, str]) -> None:
    """Quotes, backslashes, dollars and hashes in a path are nothing special."""
    assert dict(dotenv_values(stream=StringIO(env_text(values)), interpolate=False)) == values


def test_one_worker_is_called_worker_and_several_are_numbered(tmp_path: Path) -> None:
    """Names are what log files and messages are found by."""
    assert list(UpOptions(tmp_path).programs()) == ["worker", "sweeper", "web"]
    assert list(UpOptions(tmp_path, workers=2).programs()) == ["worker-1", "worker-2", "sweeper", "web"]


@pytest.mark.parametrize(("name", "words"), [("missing", "is not a directory"), ("a:b", "separates roots")])
def test_a_source_root_that_cannot_be_one_is_refused_by_name(tmp_path: Path, name: str, words: str) -> None:
    """The message quotes the option and the value."""
    (tmp_path / "a:b").mkdir()
    with pytest.raises(SettingsError, match=rf"--source-root .*{name} .*{words}"):
        _root(tmp_path / name)


def test_options_the_environment_and_the_stack_each_set_what_is_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options add to the environment; where the servers are is not for the environment to say."""
    roots = [tmp_path / "a", tmp_path / "b c"]
    for root in roots:
        root.mkdir()
    monkeypatch.setenv("CLOUDPUSH_TRANSFERS", "8")
    monkeypatch.setenv("CLOUDPUSH_ALLOWED_ENDPOINTS", "one:1")
    monkeypatch.setenv("CLOUDPUSH_VAULT_KV_MOUNT", "elsewhere")
    said = Said()
    options = UpOptions(tmp_path / "data", source_roots=tuple(roots), allowed_endpoints=("two:2",))
    data = DataDir(options.data_dir)
    data.claim()
    run = data.root / "run"
    bao = OpenBao(data.part("openbao"), data.log("openbao"))
    bao.choose_ports()
    settings = _write_env(
        options,
        data,
        run,
        Postgres(data.part("postgres"), run, data.log("postgres")),
        Valkey(data.part("valkey"), run / "valkey.sock", data.log("valkey")),
        bao,
        Website("web", (), data.env_file, data.log("web"), port=8799),
        said,
    )
    data.release()
    assert settings == Settings(
        database_url=f"postgresql://cloudpush_app@/cloudpush?host={run}&port=5432",
        database_admin_url=f"postgresql://cloudpush_owner@/cloudpush?host={run}&port=5432",
        redis_url=f"unix://{run}/valkey.sock?db=0",
        vault_url=bao.url,
        vault_auth_dir=data.root / "openbao" / "auth",
        runtime_dir=run / "engine",
        rclone=str(binaries.rclone()),
        source_roots=tuple(roots),
        allowed_endpoints=("one:1", "two:2"),
        transfers=8,
        web_url="http://127.0.0.1:8799",
        web_port=8799,
        web_link_user=getpass.getuser(),
    )
    assert said.texts == [
        "CLOUDPUSH_VAULT_KV_MOUNT in your environment is not for the embedded stack; unset it, or commands in this shell use it"
    ]
