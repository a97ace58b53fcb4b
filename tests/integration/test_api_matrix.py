"""Who may what over the API: every operation × every role × whose row it is, written out.

A cell is the status. Of an operation on a row there are three: one's own, somebody else's, one that is not there. Of an
operation that makes or lists things there are two: for oneself, on behalf of somebody else (for lists: theirs).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from starlette.testclient import TestClient

from api_site import SECRET, ApiSite, api_site
from cloudpush.push.access.model import Role
from cloudpush.push.job import Request
from cloudpush.stack.services import OpenBao, Valkey
from cloudpush.web.api import auth
from cloudpush.web.api.limits import Rate
from servers import Database

ROLES: dict[str, Role | None] = {
    "none": None,
    "pipeline": Role.PIPELINE,
    "user": Role.USER,
    "auditor": Role.AUDITOR,
    "admin": Role.ADMIN,
}

PUBLIC = "200", "200", "200", "200", "200"
READ = "401 401 401", "200 404 404", "200 404 404", "200 200 404", "200 200 404"
LIST = "401", "200", "200", "200", "200"

#: operationId → a column for each role: none, pipeline, user, auditor, admin.
TABLE: dict[str, tuple[str, ...]] = {
    "describeApi": PUBLIC,
    "explainProblem": PUBLIC,
    "listKeys": PUBLIC,
    "beginLogin": PUBLIC,
    "finishLogin": ("400", "400", "400", "400", "400"),  # nobody confirmed it yet
    # pushes
    "submitPush": ("401 401", "201 403", "201 403", "403 403", "201 201"),
    "submitBatch": ("401", "200", "200", "403", "200"),
    "listPushes": LIST,
    "getPush": READ,
    "listParts": READ,
    "listFiles": READ,
    "listEvents": READ,
    "listNeeds": READ,
    "followPush": READ,
    "getReceipt": ("401 401 401", "404 404 404", "404 404 404", "404 404 404", "404 404 404"),  # not signed yet
    "cancelPush": ("401 401 401", "202 404 404", "202 404 404", "403 403 403", "202 202 404"),
    "retryPush": ("401 401 401", "201 404 404", "201 404 404", "403 403 403", "201 201 404"),
    "resignPush": ("401 401 401", "422 404 404", "422 404 404", "403 403 403", "422 422 404"),  # it has no signed URLs
    # credentials
    "listCredentials": LIST,
    "addCredential": ("401 401", "403 403", "201 403", "403 403", "201 201"),
    "getCredential": READ,
    "purgeCredential": ("401 401 401", "403 403 403", "202 404 404", "403 403 403", "202 202 404"),
    "listDestinations": LIST,
    # preflights
    "askPreflight": ("401 401", "202 403", "202 403", "403 403", "202 202"),
    "listPreflights": LIST,
    "getPreflight": READ,
    # the record
    "exportTable": ("401", "403", "403", "200", "200"),
    "getIntegrity": ("401", "403", "403", "200", "200"),
    "listCheckpoints": ("401", "403", "403", "200", "200"),
    "verifyPush": ("401", "403", "403", "200", "200"),
    # access
    "whoAmI": LIST,
    "listTokens": ("401", "403", "200", "403", "200"),
    "createToken": ("401 401", "403 403", "201 403", "403 403", "201 201"),
    "revokeToken": ("401 401 401", "403 403 403", "204 404 404", "403 403 403", "204 204 404"),
    "listRoles": ("401", "403", "403", "200", "200"),
    "grantRole": ("401", "403", "403", "403", "204"),
    "revokeRole": ("401", "403", "403", "403", "204"),
    "createSubmissionToken": ("401 401", "201 403", "201 403", "403 403", "201 201"),
}


#: Operations that leave a row in another state: each has one of its own.
CHANGING = {"retryPush", "purgeCredential", "revokeToken"}


@dataclass
class Stage:
    """The API, and somebody of each role with things of their own."""

    site: ApiSite
    clients: dict[str, TestClient]
    operations: dict[str, tuple[str, str]]
    kept: dict[tuple[str, str], UUID] = field(default_factory=dict)

    def row(self, kind: str, owner: str) -> UUID:
        """A row of ``owner``'s that is only looked at."""
        if (kind, owner) not in self.kept:
            self.kept[kind, owner] = getattr(self, kind)(owner)
        return self.kept[kind, owner]

    def credential(self, owner: str) -> UUID:
        return self.site.credential(owner)

    def push(self, owner: str) -> UUID:
        """One that is over: its stream ends, and it can be tried again."""
        request = Request(owner, owner, str(self.site.source), "s3://lab/run", str(self.row("credential", owner)))
        push_id = self.site.services.intake.submit(request).push_id
        self.site.services.intake.cancel(push_id, None, owner)
        return push_id

    def preflight(self, owner: str) -> UUID:
        return self.site.services.preflights.ask(owner, owner, "s3://lab/run", str(self.row("credential", owner))).id

    def token(self, owner: str) -> UUID:
        return self.site.services.access.identify(self.site.token(owner)).token_id or uuid4()

    def bodies(self, name: str, owner: str) -> Any:
        """What an operation is sent, for ``owner``."""
        push = self.site.body(self.row("credential", owner), owner=owner)
        made: dict[str, Callable[[], Any]] = {
            "submitPush": lambda: push,
            "submitBatch": lambda: {"pushes": [push]},
            "addCredential": lambda: {"name": f"n-{uuid4()}", "secret": SECRET, "owner": owner},
            "askPreflight": lambda: {
                "destination": "s3://lab/run",
                "credential": str(self.row("credential", owner)),
                "owner": owner,
            },
            "createToken": lambda: {"name": "t", "scopes": ["read"], "owner": owner},
            "createSubmissionToken": lambda: {"request": push, "idempotency_key": str(uuid4())},
            "grantRole": lambda: {"principal": "somebody", "role": "auditor"},
            "revokeRole": lambda: {"principal": "somebody", "role": "auditor"},
            "resignPush": lambda: {"urls": [{"path": "a.txt", "url": "https://x.s3.amazonaws.com/run/a.txt"}]},
            "verifyPush": lambda: {"push": str(self.row("push", owner))},
            "beginLogin": dict,
            "finishLogin": lambda: {
                "device_code": self.clients["none"].post("/v1/login/device", json={}).json()["device_code"]
            },
        }
        return made[name]() if name in made else None

    def ask(self, role: str, name: str, owner: str, row: UUID | None) -> Any:
        method, path = self.operations[name]
        path = path.replace("{code}", "BAD_INPUT").replace("{table}", "pushes")
        for kind in ("push_id", "credential_id", "preflight_id", "token_id"):
            path = path.replace(f"{{{kind}}}", str(row))
        body = self.bodies(name, owner)
        return self.clients[role].request(method, f"/v1{path}", json=body)


@pytest.fixture(scope="module")
def stage(
    database: Database, valkey: Valkey, openbao: OpenBao, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    base = tmp_path_factory.mktemp("matrix")
    vault = {"vault_url": openbao.url, "vault_auth_dir": openbao.auth_dir}
    with api_site(database, valkey.url(), base, **vault) as site, pytest.MonkeyPatch.context() as patch:
        # Nobody asks nearly a hundred times here, within seconds and from one address.
        patch.setattr(auth, "FAILURES", Rate("failures", 1e6, 1_000_000))
        clients = {name: site.client(name if name != "none" else "", role) for name, role in ROLES.items()}
        paths = clients["none"].get("/v1/openapi.json").json()["paths"]
        found = {o["operationId"]: (m.upper(), p) for p, item in paths.items() for m, o in item.items()}
        yield Stage(site, clients, found)


def test_every_operation_is_in_the_table(stage: Stage) -> None:
    assert stage.operations.keys() == TABLE.keys()


@pytest.mark.parametrize("name", TABLE)
def test_the_table_holds(stage: Stage, name: str) -> None:
    if name not in stage.operations:
        pytest.fail("there is no such operation")
    found = []
    for role, expected in zip(ROLES, TABLE[name], strict=True):
        owners = [role if role != "none" else "somebody", "other"][: len(expected.split())]
        kind = next(
            (k for k in ("push", "credential", "preflight", "token") if f"{{{k}_id}}" in stage.operations[name][1]), ""
        )
        rows: list[UUID | None] = [None] * len(owners)
        if kind:
            rows = [getattr(stage, kind)(o) if name in CHANGING else stage.row(kind, o) for o in owners]
        if kind:
            owners, rows = [*owners, "other"], [*rows, uuid4()]
        answers = [stage.ask(role, name, owner, row) for owner, row in zip(owners, rows, strict=True)]
        found.append(" ".join(str(a.status_code) for a in answers))
        if kind and answers[1].status_code in (403, 404):
            # Nobody can tell another's row from none.
            told = [
                {k: v for k, v in json.loads(a.text.replace(str(row), "ROW")).items() if k != "request_id"}
                for a, row in zip(answers[1:], rows[1:], strict=True)
            ]
            if name != "getReceipt" or role in ("none", "pipeline", "user"):
                assert told[0] == told[1]
    assert tuple(found) == TABLE[name]


def test_lists_hold_ones_own_and_those_who_may_see_all_see_all(stage: Stage) -> None:
    theirs = stage.push("other")
    stage.push("user")
    for role, sees in (("pipeline", False), ("user", False), ("auditor", True), ("admin", True)):
        items = stage.clients[role].get("/v1/pushes", params={"limit": 1000}).json()["items"]
        assert (str(theirs) in {item["id"] for item in items}) is sees
        named = stage.clients[role].get("/v1/pushes", params={"owner": "other"}).json()["items"]
        assert bool(named) is sees


def test_a_batch_for_somebody_else_is_refused_item_by_item(stage: Stage) -> None:
    body = {"pushes": [stage.site.body(stage.credential("other"), owner="other")]}
    results = {
        role: stage.clients[role].post("/v1/pushes/batch", json=body).json()["results"][0]
        for role in ("pipeline", "user", "admin")
    }
    assert results["pipeline"]["problem"]["code"] == results["user"]["problem"]["code"] == "FORBIDDEN"
    assert results["admin"]["created"] is True
