"""Where receipts are handed out, and where they are checked: the API, the page, the command line."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner, Result

from builders import OWNER, verified
from cloudpush.audit.receipts import Receipts
from cloudpush.cli.main import app
from cloudpush.credentials.ed25519 import jwk_of, pem_of, verify
from cloudpush.errors import Code, VaultError
from cloudpush.push.access.model import ALL_SCOPES, Principal, Role, Via
from cloudpush.push.trust.checking import check_receipt
from cloudpush.push.trust.issuing import Issuing
from cloudpush.push.trust.receipts import MEDIA_TYPE
from cloudpush.stack.services import Valkey
from cloudpush.web.api.app import make_api
from cloudpush.web.api.auth import asker
from cloudpush.web.api.keys import AWAY_SECONDS, KEPT_SECONDS, Kept
from fakes import FakeClock
from receipt_builders import Notary, a_file, a_receipt
from servers import Database
from web_site import Site, site

NOTARY = Notary()


@pytest.fixture(scope="module")
def pages(database: Database, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(database, valkey.url(), tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.fixture(scope="module")
def push_id(pages: Site) -> UUID:
    """A push whose receipt was issued."""
    made = pages.record.finished()
    issuing = Issuing(Receipts(pages.record.app), NOTARY, verify, FakeClock(), issuer="", software={})
    assert issuing.once() == 1
    return made


def _client(pages: Site, name: str, *roles: Role, **services: Any) -> TestClient:
    """The API, asked by somebody."""
    api = make_api(replace(pages.services, **services))
    api.dependency_overrides[asker] = lambda: Principal(name, frozenset(roles), ALL_SCOPES, name, Via.TOKEN)
    return TestClient(api, raise_server_exceptions=False)


# -- the API and the page --------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "role"), [(OWNER, Role.USER), (OWNER, Role.PIPELINE), ("otto", Role.AUDITOR)])
def test_owner_and_auditor_get_the_receipt_as_it_was_signed(pages: Site, push_id: UUID, name: str, role: Role) -> None:
    answer = _client(pages, name, role).get(f"/pushes/{push_id}/receipt")

    assert (answer.status_code, answer.headers["content-type"]) == (200, MEDIA_TYPE)
    assert f"receipt-{push_id}.json" in answer.headers["content-disposition"]
    assert check_receipt(io.BytesIO(answer.content), NOTARY.trusted, verify).with_files


def test_whose_it_is_not_learns_no_more_than_of_a_push_that_there_is_not(pages: Site, push_id: UUID) -> None:
    client = _client(pages, "bob", Role.USER)

    answers = [client.get(f"/pushes/{id_}/receipt") for id_ in (push_id, uuid4())]

    assert [(a.status_code, a.json()["code"], a.json()["detail"]) for a in answers] == [
        (404, "UNKNOWN_PUSH", "There is no such push, or it is not yours.")
    ] * 2


def test_whoever_has_the_receipt_is_told_so(pages: Site, push_id: UUID) -> None:
    """By its ETag."""
    client = _client(pages, OWNER, Role.USER)
    tag = client.get(f"/pushes/{push_id}/receipt").headers["etag"]
    again = client.get(f"/pushes/{push_id}/receipt", headers={"if-none-match": tag})
    other = client.get(f"/pushes/{push_id}/receipt", headers={"if-none-match": tag.replace(tag[1], "x", 1)})

    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert (other.status_code, other.headers["etag"]) == (200, tag)


def test_a_receipt_that_is_owed_may_be_asked_for_again_soon(pages: Site, push_id: UUID) -> None:
    owed = pages.record.finished(verified([1, 2]))

    answer = _client(pages, OWNER, Role.USER).get(f"/pushes/{owed}/receipt")

    assert (answer.status_code, answer.json()["code"], "retry-after" in answer.headers) == (
        404,
        "RECEIPT_PENDING",
        True,
    )


def test_keys_are_everybody_s_and_vault_is_not_asked_for_each(pages: Site) -> None:
    class Counting(Notary):
        asked = 0

        def keys(self) -> Any:
            self.asked += 1
            return super().keys()

    notary = Counting()
    client = _client(pages, "nobody", audit_keys=notary)

    answers = [client.get("/keys") for _ in range(3)]

    assert answers[0].json() == {"keys": [jwk_of(raw) for raw in notary.trusted.values()]}
    assert (answers[2].status_code, notary.asked) == (200, 2)  # once by the API, once here


def test_keys_are_known_while_vault_is_away() -> None:
    now = [0.0]
    kept = Kept(lambda: now[0])

    first = kept.get(NOTARY)
    now[0] = KEPT_SECONDS

    assert kept.get(Away()) == first


def test_vault_is_not_asked_by_everybody_while_it_is_away() -> None:
    """Anybody may ask for the keys; each waited for Vault in its turn, until no thread was left for anything else."""
    now = [0.0]
    kept, away = Kept(lambda: now[0]), Away()
    for _ in range(3):
        with pytest.raises(VaultError):
            kept.get(away)
    assert away.asked == 1
    now[0] = AWAY_SECONDS

    assert kept.get(NOTARY)


class Away(Notary):
    asked = 0

    def keys(self) -> Any:
        self.asked += 1
        raise VaultError(Code.VAULT_SEALED, "Vault is sealed.")


def test_the_page_of_a_push_that_is_over_leads_to_its_receipt(pages: Site, push_id: UUID) -> None:
    owner, other = pages.browser(OWNER), pages.browser("bob")
    path = f"/pushes/{push_id}/receipt"

    assert f'href="{path}"' in owner.get(f"/pushes/{push_id}").text
    assert f"/pushes/{(running := pages.record.running().id)}/receipt" not in owner.get(f"/pushes/{running}").text
    answer = owner.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, MEDIA_TYPE)
    assert check_receipt(io.BytesIO(answer.content), NOTARY.trusted, verify).with_files
    assert other.get(path).status_code == 404
    assert pages.browser().get(path).status_code == 303


# -- the command line ------------------------------------------------------------------------------


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a receipt and a key, of somebody who has nothing of CloudPush's: no setting and no server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("receipt.json").write_bytes(a_receipt(NOTARY))
    Path("key.pem").write_text("".join(map(pem_of, NOTARY.trusted.values())))
    return tmp_path


def run(*words: str, **options: Any) -> Result:
    return CliRunner().invoke(app, ["receipt", *words], **options)


def test_verify_says_what_is_proved_in_words(desk: Path) -> None:
    done = run("verify", "receipt.json", "--key", "key.pem")

    assert done.exit_code == 0, done.output
    for words in ("VALID", "of mara, asked for by pipeline", "s3://results/runs/7/", "succeeded", "2 verified"):
        assert words in done.stdout


@pytest.mark.parametrize(
    "key",
    [
        json.dumps(jwk_of(next(iter(NOTARY.trusted.values())))),
        json.dumps({"keys": list(map(jwk_of, NOTARY.trusted.values()))}),
    ],
    ids=["jwk", "jwks"],
)
def test_verify_takes_jwk_and_jwks_and_stdin(desk: Path, key: str) -> None:
    Path("key.json").write_text(key)

    done = run("verify", "-", "--key", "key.json", "--json", input=Path("receipt.json").read_bytes())

    assert (done.exit_code, json.loads(done.stdout)["valid"]) == (0, True)


def test_verify_says_why_a_receipt_does_not_hold(desk: Path) -> None:
    Path("receipt.json").write_bytes(a_receipt(NOTARY).replace(b'"path":"f2"', b'"path":"f3"'))

    plain, as_json = (run("verify", "receipt.json", "--key", "key.pem", *more) for more in ([], ["--json"]))

    assert (plain.exit_code, "NOT VALID" in plain.stdout, "root" in plain.stdout) == (8, True, True)
    assert (as_json.exit_code, json.loads(as_json.stdout)["code"]) == (8, "RECEIPT_INVALID")


def test_verify_compares_local_files(desk: Path) -> None:
    """Those that differ, are missing or lead out of the directory are named; a name is no order to the terminal."""
    good = b"0123456789"
    digest = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"
    names = ["good", "other", "short", "gone", "../key.pem", "out", "\x1b[31mred"]
    Path("data").mkdir()
    for name, data in (("good", good), ("other", good[::-1]), ("short", b"0")):
        Path("data", name).write_bytes(data)
    Path("data/out").symlink_to("../key.pem")
    files = [a_file(n, path=name, sha256=digest) for n, name in enumerate(names, 1)]
    Path("receipt.json").write_bytes(a_receipt(NOTARY, files))

    done = run("verify", "receipt.json", "--key", "key.pem", "--files", "data")

    assert done.exit_code == 8
    assert "Of 7 files with a digest 1 are the same here." in done.stdout
    for words in (
        "other: has other bytes",
        "short: has 1 bytes, not 10",
        "gone: is not there",
        "../key.pem: leads out",
        "out: leads out",
        "\\x1b[31mred: is not there",
    ):
        assert words in done.stdout


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["none.json", "--key", "key.pem"], "none.json"),
        (["receipt.json", "--key", "none.pem"], "none.pem"),
        (["receipt.json", "--key", "receipt.json"], "public key"),
        (["receipt.json", "--key", "key.pem", "--files", "none"], "none"),
    ],
)
def test_what_cannot_be_read_is_another_matter(desk: Path, words: list[str], field: str) -> None:
    done = run("verify", *words)

    assert (getattr(done.exception, "code", None), field in str(done.exception)) == (Code.BAD_INPUT, True)
