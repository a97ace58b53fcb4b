"""The doors that a pipeline comes through, with one handle for all: plain HTTP, the Python client, the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen
from uuid import UUID

from typer.testing import CliRunner

from cloudpush.cli.main import app
from cloudpush.client import Client
from cloudpush.errors import CloudPushError

#: Until the verdict of a push of some bytes.
PATIENCE_SECONDS = 60


class Refused(Exception):
    """With a stable code, whichever door said it."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Door(Protocol):
    """What pipelines do. Every method raises Refused."""

    def submit(
        self, source: Path, destination: str, credential: str, *, key: str = "", label: str = ""
    ) -> dict[str, Any]:
        """``push``, ``created``."""

    def show(self, push: str) -> dict[str, Any]:
        """The push, with the times and ids of JSON."""

    def list(self, label: str) -> list[str]:
        """Ids."""

    def cancel(self, push: str) -> str:
        """The state after it."""

    def retry(self, push: str) -> dict[str, Any]:
        """As submit."""

    def wait(self, push: str) -> dict[str, Any]:
        """The push with its verdict."""


@dataclass(frozen=True)
class Rest:
    """Plain HTTP, as curl does it."""

    url: str
    token: str

    def submit(
        self, source: Path, destination: str, credential: str, *, key: str = "", label: str = ""
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"source": str(source), "destination": destination, "credential": credential}
        if label:
            body["labels"] = {"door": label}
        return _facts(self._ask("POST", "/pushes", body, {"Idempotency-Key": key} if key else {}))

    def show(self, push: str) -> dict[str, Any]:
        return dict(self._ask("GET", f"/pushes/{push}"))

    def list(self, label: str) -> list[str]:
        query = urlencode({"label": f"door={label}", "limit": 1000})
        return [p["id"] for p in self._ask("GET", f"/pushes?{query}")["items"]]

    def cancel(self, push: str) -> str:
        return str(self._ask("POST", f"/pushes/{push}/cancel")["state"])

    def retry(self, push: str) -> dict[str, Any]:
        return _facts(self._ask("POST", f"/pushes/{push}/retry"))

    def wait(self, push: str) -> dict[str, Any]:
        last = ""
        with urlopen(self._request("GET", f"/pushes/{push}/progress", None, {}), timeout=PATIENCE_SECONDS) as stream:
            for line in stream:
                name, _, value = line.decode().strip().partition(": ")
                if name == "event":
                    last = value
                elif name == "data" and last == "state":
                    found = json.loads(value)
        return dict(found)

    def _request(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Request:
        sent = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json", **headers}
        data = None if body is None else json.dumps(body).encode()
        return Request(f"{self.url}/v1{path}", data, sent, method=method)

    def _ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        try:
            with urlopen(self._request(method, path, body, headers or {}), timeout=PATIENCE_SECONDS) as answer:
                return json.load(answer)
        except HTTPError as e:
            kind, status, problem = e.headers["content-type"], e.code, json.load(e)
        assert (kind, problem["status"]) == ("application/problem+json", status)
        raise Refused(problem["code"])


@dataclass(frozen=True)
class Library:
    """The Python client."""

    client: Client

    def submit(
        self, source: Path, destination: str, credential: str, *, key: str = "", label: str = ""
    ) -> dict[str, Any]:
        with _refusals():
            labels = {"door": label} if label else {}
            made = self.client.push(source, destination, credential, idempotency_key=key, labels=labels)
            return {"push": str(made.id), "created": made.created}

    def show(self, push: str) -> dict[str, Any]:
        with _refusals():
            return dict(self.client.get(push).show().raw)

    def list(self, label: str) -> list[str]:
        return [str(p.id) for p in self.client.list(label=f"door={label}")]

    def cancel(self, push: str) -> str:
        with _refusals():
            return self.client.handle(push).cancel()

    def retry(self, push: str) -> dict[str, Any]:
        with _refusals():
            made = self.client.get(push).retry()
            return {"push": str(made.id), "created": made.created}

    def wait(self, push: str) -> dict[str, Any]:
        with _refusals():
            return dict(self.client.get(push).wait(PATIENCE_SECONDS).raw)


@dataclass(frozen=True)
class Shell:
    """The command line, which knows a URL."""

    environment: Mapping[str, str]

    def submit(
        self, source: Path, destination: str, credential: str, *, key: str = "", label: str = ""
    ) -> dict[str, Any]:
        more = [*(("--idempotency-key", key) if key else ()), *(("--label", f"door={label}") if label else ())]
        return _facts(self._run("push", source, destination, "-c", credential, *more))

    def show(self, push: str) -> dict[str, Any]:
        return {k: v for k, v in self._run("show", push).items() if k not in ("events", "files")}

    def list(self, label: str) -> list[str]:
        return [p["id"] for p in self._run("history", "--label", f"door={label}", "--limit", "1000")]

    def cancel(self, push: str) -> str:
        return str(self._run("cancel", push)["state"])

    def retry(self, push: str) -> dict[str, Any]:
        return _facts(self._run("retry", push))

    def wait(self, push: str) -> dict[str, Any]:
        return dict(self._run("wait", push, "--timeout", PATIENCE_SECONDS))

    def _run(self, *words: object) -> Any:
        result = CliRunner().invoke(app, [*map(str, words), "--json"], env=dict(self.environment))
        if isinstance(result.exception, CloudPushError):
            raise Refused(result.exception.code)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return json.loads(result.stdout)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except CloudPushError as e:
        raise Refused(e.code) from None


def _facts(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {"push": str(UUID(answer["push"])), "created": answer["created"]}
