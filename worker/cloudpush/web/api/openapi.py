"""The API's own description, OpenAPI 3.1: made once, from the routes."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from cloudpush.errors import MEANINGS
from cloudpush.web.api.problems import STATUS, Problem

_METHODS = ("get", "post", "put", "delete", "patch")


def describe(api: FastAPI) -> None:
    """Finish ``api``'s description, and note from it which query parameters each operation has."""
    document = api.openapi()
    settings = api.state.services.settings
    document["servers"] = [{"url": f"{settings.web_url.rstrip('/')}/v1"}]
    document["info"]["license"] = {"name": "Apache-2.0", "identifier": "Apache-2.0"}
    components = document.setdefault("components", {})
    components.setdefault("schemas", {})["Problem"] = _problem_schema()
    components["securitySchemes"] = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "A token of `cloudpush login` or `cloudpush token create`, or a JWT of the operator's issuer.",
        }
    }
    document["security"] = [{"bearer": []}]
    queries: dict[tuple[str, str], tuple[str, ...]] = {}
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                found = item[method].get("parameters", ())
                queries[path, method.upper()] = tuple(p["name"] for p in found if p["in"] == "query")
    api.state.queries = queries


def _problem_schema() -> dict[str, Any]:
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    # Codes are added in time: a program that meets one it does not know goes by the status.
    lines = [
        f"- `{code}`{f' ({STATUS[code]})' if code in STATUS else ''}: {meaning.actor} must act. {meaning.fix}"
        for code, meaning in MEANINGS.items()
    ]
    schema["properties"]["code"] = {
        "type": "string",
        "description": "Stable: for programs to read. More may come.\n\n" + "\n".join(lines),
        "examples": ["BAD_INPUT"],
    }
    return schema
