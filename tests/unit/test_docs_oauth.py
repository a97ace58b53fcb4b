"""docs/oauth.md says what the product takes: its tables are read, its commands exist, its pictures are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cloudpush.credentials.providers import read_providers
from cloudpush.settings import PREFIX, Settings
from documented import unknown

ROOT = Path(__file__).parents[2]
PAGES = {name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("oauth.md", "credentials.md")}
TEXT = PAGES["oauth.md"]
TABLES = re.findall(r"^```toml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("table", TABLES, ids=[t.partition("]")[0].strip("[") for t in TABLES])
def test_providers_are_read_as_they_are_printed(table: str, tmp_path: Path) -> None:
    """By the same reader that an operator's file meets; all of them could be offered."""
    file = tmp_path / "providers.toml"
    file.write_text(table.replace("…", "ours"), encoding="utf-8")
    name = table.partition("]")[0].strip("[")

    assert read_providers(Settings(providers_file=file)).get(name).offered


def test_commands_exist_with_their_options() -> None:
    written = re.findall(r"(?<![\w/.=-])cloudpush ([a-z][^`\n|;&()#]*)", TEXT)
    assert (unknown(map(shlex.split, written)), len(written) > 8) == ([], True)


def test_settings_exist() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}

    assert set(re.findall(rf"\b{PREFIX}[A-Z_]*[A-Z]", TEXT)) - known == set()


@pytest.mark.parametrize("page", ["docs/oauth.md", "README.md"])
def test_pictures_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    names = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)

    assert [n for n in names if not ((ROOT / page).parent / n).is_file()] == []
    assert names


def test_links_lead_somewhere() -> None:
    """Within the page, and to the headings of its neighbours."""
    headings = {
        p.name: {
            re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-")
            for h in re.findall(r"^#+ (.*)$", p.read_text(), re.MULTILINE)
        }
        for p in (ROOT / "docs").glob("*.md")
    }
    links = re.findall(r"\]\(([\w.-]*)#([\w-]+)\)", TEXT)

    assert [(file, anchor) for file, anchor in links if anchor not in headings[file or "oauth.md"]] == []
    assert len(links) > 10
