"""The API keeps to its own description, whatever it is sent: statuses, media types, bodies; and no request is a defect."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api_site import ApiSite, api_site
from cloudpush.push.access.model import Role
from cloudpush.push.job import Request
from cloudpush.stack.services import OpenBao, Valkey
from servers import Database

#: More than a few are for a night: with them comes every bound of every field, two thousand requests.
EXAMPLES = int(os.environ.get("OPENAPI_EXAMPLES", "5"))
CONFIG = SchemathesisConfig.from_dict({"phases": {"coverage": {"enabled": "OPENAPI_EXAMPLES" in os.environ}}})
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def site(
    database: Database, valkey: Valkey, openbao: OpenBao, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiSite]:
    base = tmp_path_factory.mktemp("contract")
    vault = {"vault_url": openbao.url, "vault_auth_dir": openbao.auth_dir}
    with api_site(database, valkey.url(), base, web_url=f"https://{asgi.HOST}", **vault) as made:
        yield made


@pytest.fixture(scope="module")
def described(site: ApiSite) -> Any:
    return schemathesis.openapi.from_asgi("/v1/openapi.json", site.app, config=CONFIG)


@pytest.fixture(scope="module")
def known(site: ApiSite) -> dict[str, str]:
    """Rows that are there, for parameters of paths. The push is over, so that its stream ends."""
    card = site.credential("root", name="lab")
    intake = site.services.intake
    push_id = intake.submit(Request("root", "root", str(site.source), "s3://lab/run", "lab")).push_id
    intake.cancel(push_id, None, "root")
    asked = site.services.preflights.ask("root", "root", "s3://lab/run", str(card))
    return {"push_id": str(push_id), "credential_id": str(card), "preflight_id": str(asked.id)}


@pytest.fixture(scope="module")
def turns() -> Iterator[bool]:
    return cycle((True, False))


schema = schemathesis.pytest.from_fixture("described")


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_as_described(
    case: schemathesis.Case[Any], site: ApiSite, known: dict[str, str], turns: Iterator[bool]
) -> None:
    if next(turns):
        case.path_parameters = {k: known.get(k, v) for k, v in (case.path_parameters or {}).items()}
    if "wait" in (case.query or {}):
        case.query["wait"] = 0  # nobody answers preflights here
    headers = {"authorization": f"Bearer {_token(site)}"}
    case.call_and_validate(headers=headers, checks=CHECKS)


def _token(site: ApiSite) -> str:
    if ("root", Role.ADMIN) not in site.tokens:
        site.tokens["root", Role.ADMIN] = site.token("root", Role.ADMIN)
    return site.tokens["root", Role.ADMIN]


def test_every_operation_is_described_for_people(site: ApiSite) -> None:
    document = site.client().get("/v1/openapi.json", headers={"host": asgi.HOST}).json()
    assert document["openapi"].startswith("3.1")
    operations = [(m, p, o) for p, item in document["paths"].items() for m, o in item.items()]
    assert len({o["operationId"] for _, _, o in operations}) == len(operations)
    for method, path, operation in operations:
        assert operation["summary"], (method, path)
        assert operation["tags"], (method, path)
        for status, response in operation["responses"].items():
            kinds = set(response.get("content", {}))
            assert int(status) < 400 or kinds == {"application/problem+json"}, (method, path, status)
