"""The code in docs/client.md runs, and the commands that it names exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudpush import client
from documented import unknown
from doubles import api as double
from doubles.api import Api, Say

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "client.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
PUSH = "019a9c5e-0000-7000-8000-000000000001"
ACCEPTED = {"push": PUSH, "created": True, "announced": True, "warnings": []}
ROW = {"id": PUSH, "owner": "ada", "state": "succeeded", "strength": "checksum", "files_verified": 3}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Api]:
    with double.running() as made:
        monkeypatch.setenv("CLOUDPUSH_URL", made.url)
        monkeypatch.setenv("CLOUDPUSH_TOKEN", "cpt_token")
        monkeypatch.chdir(tmp_path)
        made.on("POST /v1/pushes", Say(201, ACCEPTED))
        made.on("POST /v1/pushes/batch", lambda asked: Say(200, {"results": [ACCEPTED for _ in asked.body["pushes"]]}))
        made.on(f"GET /v1/pushes/{PUSH}", Say(200, ROW))
        made.on(f"GET /v1/pushes/{PUSH}/receipt", Say(200, {"receipt": 1}))
        yield made


def test_code_runs(api: Api, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The third needs a server out there: it is read, not run."""
    first, second, third = BLOCKS

    exec(first, {})
    names: dict[str, Any] = {}
    exec(second, names)
    compile(third, "docs/client.md", "exec")

    assert (capsys.readouterr().out, (tmp_path / "run-42.receipt.json").exists()) == ("checksum 3\n", True)
    assert [str(handle.id) for handle in names["handles"]] == [PUSH, PUSH]


def test_names_exist() -> None:
    """Methods of handles, and classes of errors."""
    methods = set(re.findall(r"`(?:handle)?\.(\w+)\(", TEXT))
    assert {name for name in methods if not hasattr(client.Handle, name)} == set()
    assert {"wait", "progress", "retry", "receipt"} <= methods


#: Pages that name commands; operations.md has a test of its own (test_deploy).
PAGES = [
    "access",
    "api",
    "audit",
    "auditors",
    "client",
    "configuration",
    "credentials",
    "history",
    "oauth",
    "packages",
    "preflight",
    "receipts",
    "security",
    "signed-urls",
    "webhooks",
    "workflows",
    "../README",
]


@pytest.mark.parametrize("page", [*(f"{name}.md" for name in PAGES), "workflows/Snakefile", "workflows/push.nf"])
def test_commands_exist_with_their_options(page: str) -> None:
    text = (DOCS / page).read_text()
    written = re.findall(r"(?<![\w/.=-])cloudpush (?!import)((?:--local )?[a-z][^`\n|;&()#{]*)", text)
    commands = (shlex.split(re.sub(r"""["'\\]""", " ", line)) for line in written)
    assert (unknown(commands), len(written) > 0) == ([], True)
