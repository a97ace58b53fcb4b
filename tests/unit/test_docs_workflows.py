"""The recipes for workflow tools do what their page says. Their tools are not installed here: the recipes' own words run.

The Airflow operator runs on the few names of Airflow that it uses, the others' shell commands in a shell.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cloudpush.client import PushFailed
from doubles import api as double
from doubles.api import Api, Say, problem

DOCS = Path(__file__).parents[2] / "docs"
PUSH = "019a9c5e-0000-7000-8000-000000000001"
OTHER = PUSH[:-1] + "2"
ACCEPTED = Say(201, {"push": PUSH, "created": True, "announced": True, "warnings": []})
CONTEXT = {"ti": SimpleNamespace(dag_id="lab", run_id="r1", task_id="push", map_index=-1)}


def a_push(state: str, push: str = PUSH) -> Say:
    return Say(
        200, {"id": push, "owner": "ada", "state": state, "uri": "s3://lab/run", "files_total": 2, "bytes_total": 8}
    )


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    with double.running() as made:
        monkeypatch.setenv("CLOUDPUSH_URL", made.url)
        monkeypatch.setenv("CLOUDPUSH_TOKEN", "cpt_token")
        made.on("GET /v1/pushes", Say(200, {"items": [], "next": None}))
        made.on("POST /v1/pushes", ACCEPTED)
        yield made


class Deferred(Exception):
    """Airflow ends a task that defers by an exception, too."""


class BaseOperator:
    log = logging.getLogger("airflow.task")

    def __init__(self, *, task_id: str) -> None:
        self.task_id = task_id

    def defer(self, *, trigger: Any, method_name: str) -> None:
        raise Deferred(trigger, method_name)


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The operator's module, on what it uses of Airflow."""
    sdk, triggers = ModuleType("airflow.sdk"), ModuleType("airflow.triggers.base")
    sdk.BaseOperator = BaseOperator  # type: ignore[attr-defined]
    triggers.BaseTrigger = object  # type: ignore[attr-defined]
    triggers.TriggerEvent = lambda payload: SimpleNamespace(payload=payload)  # type: ignore[attr-defined]
    for module in (ModuleType("airflow"), sdk, ModuleType("airflow.triggers"), triggers):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    spec = importlib.util.spec_from_file_location("cloudpush_operator", DOCS / "workflows" / "cloudpush_operator.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def an_operator(recipe: Any, **options: Any) -> Any:
    return recipe.CloudPushOperator(
        task_id="push", source="/data/run", destination="s3://lab/run", credential="key", **options
    )


def test_the_operator_submits_and_waits_in_the_triggerer(recipe: Any, api: Api) -> None:
    """With a trigger that can be stored: it has the push's id and no secret; it fires at the verdict."""
    api.on(f"GET /v1/pushes/{PUSH}", a_push("running"), Say(503), a_push("succeeded"))

    with pytest.raises(Deferred) as deferred:
        an_operator(recipe, labels={"run": "1"}, poll_seconds=0.001).execute(CONTEXT)

    trigger, method = deferred.value.args
    path, stored = trigger.serialize()
    assert (method, path, stored) == (
        "finish",
        "cloudpush_operator.PushTrigger",
        {"push_id": PUSH, "poll_seconds": 0.001},
    )
    assert api.heard("POST /v1/pushes")[0].body["labels"] == {"run": "1", "airflow": "lab/r1/push/-1"}

    async def fired() -> Any:
        return [event.payload async for event in recipe.PushTrigger(**stored).run()]

    [event] = asyncio.run(fired())
    assert event == {"push": PUSH, "state": "succeeded"}
    done = an_operator(recipe).finish(CONTEXT, event)
    assert done == {"push": PUSH, "uri": "s3://lab/run", "files": 2, "bytes": 8}


@pytest.mark.parametrize("state", ["unverified", "failed", "cancelled"])
def test_the_task_fails_unless_the_push_succeeded(recipe: Any, api: Api, state: str) -> None:
    """Waiting in its worker, too."""
    api.on(f"GET /v1/pushes/{PUSH}", a_push(state))

    with pytest.raises(PushFailed, match=state):
        an_operator(recipe, deferrable=False).execute(CONTEXT)


def test_a_retry_takes_up_the_push_that_still_runs(recipe: Any, api: Api) -> None:
    """And submits none; one that is over is pushed again."""
    items = [a_push("failed").body, a_push("running", OTHER).body]
    api.on("GET /v1/pushes", Say(200, {"items": items, "next": None}))
    api.on(f"GET /v1/pushes/{OTHER}", a_push("succeeded", OTHER))

    done = an_operator(recipe, deferrable=False).execute(CONTEXT)

    assert (done["push"], api.heard("POST /v1/pushes")) == (OTHER, [])


def test_a_task_that_is_stopped_stops_its_push(recipe: Any, api: Api) -> None:
    api.on(f"POST /v1/pushes/{PUSH}/cancel", Say(202, {"state": "running"}))
    operator = an_operator(recipe)
    with pytest.raises(Deferred):
        operator.execute(CONTEXT)

    operator.on_kill()

    assert len(api.heard(f"POST /v1/pushes/{PUSH}/cancel")) == 1


def snakemake(out: str) -> str:
    """The command of ``rule push`` as Snakemake fills it in."""
    text = (DOCS / "workflows" / "Snakefile").read_text().partition("rule push:")[2].partition("shell:")[2]
    command = "".join(json.loads(line) for line in re.findall(r'"(?:[^"\\]|\\.)*"', text))
    given = {"input": "results/r1", "output": out, "params.destination": "s3://lab/r1", "params.credential": "key"}
    return re.sub(r"\{([\w.]+)(?::q)?\}", lambda m: (given | {"wildcards.run": "r1"})[m[1]], command)


def nextflow(out: str) -> str:
    """The script of ``CLOUDPUSH`` as Nextflow fills it in."""
    text = (DOCS / "workflows" / "push.nf").read_text().partition("script:")[2].split('"""')[1]
    given = {"results": "results/r1", "name": "r1", "params.bucket": "s3://lab", "params.credential": "key"}
    filled = re.sub(r"(?<!\\)\$\{([\w.]+)\}", lambda m: given[m[1]], text)
    return filled.replace("\\$", "$").replace("\\\\", "\\").replace("verdict.json", out)


@pytest.mark.parametrize("name", ["$(touch pwned)", "`id`", 'a"; id; "', "a b", "a\nb", "", "../x", "-x\n"])
def test_no_name_of_a_result_becomes_a_command(name: str) -> None:
    """Nextflow writes it into the script as it is."""
    guard = re.search(r"name ==~ /(.+)/", (DOCS / "workflows" / "push.nf").read_text())
    assert guard is not None
    assert re.fullmatch(guard[1], "run-1_b.2")
    assert re.fullmatch(guard[1], name) is None


def test_every_word_of_a_snakemake_command_is_quoted() -> None:
    commands = re.findall(r'shell:\n((?:\s+".*"\n)+)', (DOCS / "workflows" / "Snakefile").read_text())
    words = re.findall(r"\{[^}]+\}", "".join(commands))
    assert words
    assert [word for word in words if not word.endswith(":q}")] == []


@pytest.mark.parametrize(
    ("command", "state", "code"),
    [(snakemake, "succeeded", 0), (nextflow, "unverified", 4), (snakemake, "refused", 2)],
)
def test_the_shell_command_ends_with_the_verdict(api: Api, tmp_path: Path, command: Any, state: str, code: int) -> None:
    """And its output is the push's row."""
    api.on(f"GET /v1/pushes/{PUSH}", a_push(state))
    if state == "refused":
        api.on("POST /v1/pushes", problem(404, "UNKNOWN_CREDENTIAL", field="credential"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    assert shutil.which("cloudpush", path=path)

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command("out.json")],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )

    assert done.returncode == code, done.stderr
    [asked] = api.heard("POST /v1/pushes")
    assert (asked.body["source"], asked.body["destination"]) == (str(tmp_path / "results/r1"), "s3://lab/r1")
    if code != 2:
        assert json.loads((tmp_path / "out.json").read_text())["state"] == state
