"""docs/api.md names what there is."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloudpush.errors import MEANINGS
from cloudpush.web.api.app import make_api
from cloudpush.web.api.documents import status_table

TEXT = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def paths() -> dict[str, Any]:
    services = SimpleNamespace(settings=SimpleNamespace(web_url="https://push.example"))
    return cast("dict[str, Any]", make_api(cast("Any", services)).openapi()["paths"])


def test_every_operation_is_named_and_no_other(paths: dict[str, Any]) -> None:
    named = set(re.findall(r"^\| `([A-Z]+ /v1/\S+)` \|", TEXT, re.MULTILINE))
    assert named == {f"{method.upper()} /v1{path}" for path, item in paths.items() for method in item}


def test_every_code_stands_there_with_its_status_and_who_acts() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (\d+) \| (\w+) \| (yes|no) \|$", TEXT, re.MULTILINE)
    assert rows == [
        (code.value, str(status), MEANINGS[code].actor.value, "yes" if MEANINGS[code].retryable else "no")
        for code, status in status_table().items()
    ]
