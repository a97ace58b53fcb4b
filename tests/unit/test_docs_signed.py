"""The code in docs/signed-urls.md runs, and what it signs is what CloudPush takes. Signing needs no network."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import botocore.client
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from builders import a_push
from cloudpush import manifest
from cloudpush.errors import DestinationError
from cloudpush.net import Pool
from cloudpush.push.signed.hosts import Styles
from cloudpush.push.signed.model import Kind, Need, Provider, Ticket
from cloudpush.push.signed.rows import COLUMNS, Rules, read_row, ticket_from_url
from cloudpush.transfer.hook import HttpHook
from fakes_inspector import GoOn

PAGE = (Path(__file__).parents[2] / "docs" / "signed-urls.md").read_text(encoding="utf-8")
RULES = Rules(Styles())


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


class Reader:
    """Somebody who runs the page from top to bottom; ``names`` after each block, in order."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "page"}
        self.after: list[dict[str, Any]] = []
        for block in blocks("python"):
            exec(compile(block, "docs/signed-urls.md", "exec"), self.names)  # our own page
            self.after.append(dict(self.names))

    def found(self, name: str) -> list[Any]:
        """Each value that ``name`` had, in order."""
        values = [names.get(name) for names in self.after]
        return [v for i, v in enumerate(values) if v is not None and v is not (values[i - 1] if i else None)]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Their accounts exist nowhere; the one request that needs a bucket is answered here."""
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    directory = tmp_path_factory.mktemp("reader")
    account = directory / "account.json"
    account.write_text(
        json.dumps(
            {
                "type": "service_account",
                "project_id": "lab",
                "client_email": "signer@lab.iam.gserviceaccount.com",
                "private_key": pem.decode(),
                "private_key_id": "1",
                "token_uri": "https://oauth2.googleapis.com/token",
            }
        )
    )

    def answer(_client: object, operation: str, _params: Mapping[str, object]) -> dict[str, str]:
        assert operation == "CreateMultipartUpload"
        return {"UploadId": "upload-1"}

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
        patch.setenv("AZURE_STORAGE_KEY", base64.b64encode(b"key").decode())
        patch.setenv("RESIGN_SECRET", "0123456789abcdef")
        patch.setattr(botocore.client.BaseClient, "_make_api_call", answer)
        yield Reader()


def ticket(row: Mapping[str, object]) -> Ticket:
    return read_row(row, Rules(Styles(), now=datetime.now(UTC)))


def told(made: Ticket) -> tuple[str, Kind, Provider, str, str, str]:
    return made.path, made.kind, made.url.provider, made.url.bucket, made.key, made.verify_method


def test_manifest_for_s3_is_taken(reader: Reader) -> None:
    """PUT with HEAD for each file, on the region's own host."""
    with Path("manifest.csv").open("rb") as stream:
        made = [ticket(row) for _, row in manifest.rows(stream)]

    assert [told(t) for t in made] == [
        ("a.csv", Kind.PUT, Provider.S3, "lab-data", "run-42/a.csv", "HEAD"),
        ("plots/b.png", Kind.PUT, Provider.S3, "lab-data", "run-42/plots/b.png", "HEAD"),
    ]
    assert {t.url.origin.host for t in made} == {"lab-data.s3.eu-central-1.amazonaws.com"}


def test_multipart_manifest_is_taken(reader: Reader) -> None:
    """48 part URLs for 3 GiB, and both ends."""
    with Path("manifest.jsonl").open("rb") as stream:
        (made,) = [ticket(row) for _, row in manifest.rows(stream)]

    assert (*told(made), len(made.parts), bool(made.abort), made.part_size) == (
        *("big.tar", Kind.MULTIPART, Provider.S3, "lab-data", "run-42/big.tar", ""),
        *(48, True, 64 * 1024 * 1024),
    )


def test_rows_that_the_page_makes_are_taken(reader: Reader) -> None:
    """Multipart, form, signed digest, resumable: in the order of the page."""
    made = [ticket(row) for row in reader.found("row") if isinstance(row, dict)]

    assert [(t.kind, t.url.provider, t.key) for t in made] == [
        (Kind.MULTIPART, Provider.S3, "run-42/big.tar"),
        (Kind.FORM, Provider.S3, "run-42/a.csv"),
        (Kind.PUT, Provider.S3, "run-42/a.csv"),
        (Kind.PUT, Provider.GCS, "run-42/plots/b.png"),
        (Kind.RESUMABLE, Provider.GCS, "run-42/big.tar"),
    ]
    assert "content-md5" in made[2].url.signed_headers


def test_manifest_for_google_is_taken(reader: Reader) -> None:
    """With GET URLs to verify by."""
    with Path("gcs.jsonl").open("rb") as stream:
        made = [ticket(row) for _, row in manifest.rows(stream)]

    assert [told(t) for t in made] == [
        ("a.csv", Kind.PUT, Provider.GCS, "lab-data", "run-42/a.csv", "GET"),
        ("plots/b.png", Kind.PUT, Provider.GCS, "lab-data", "run-42/plots/b.png", "GET"),
    ]


def test_sas_of_azure_is_taken(reader: Reader) -> None:
    """A blob's as the URL of a file, a container's as that of a tree."""
    rules = Rules(Styles(), now=datetime.now(UTC), single=True)
    blob, tree = (ticket_from_url(reader.names[name], rules) for name in ("url", "tree"))

    assert (told(blob), told(tree)) == (
        ("", Kind.PUT, Provider.AZURE, "runs", "run-42/a.csv", ""),
        ("", Kind.TREE, Provider.AZURE, "runs", "run-42", ""),
    )


def test_columns_of_the_page_are_the_readers(reader: Reader) -> None:
    """None is missing, none is invented."""
    table = PAGE.partition("| column | in rows of kind | meaning |")[2].partition("\n\n")[0]
    named = {name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])}

    assert named == COLUMNS


def test_callback_of_the_page_answers_our_question(reader: Reader, capfd: pytest.CaptureFixture[str]) -> None:
    """It believes our signature, refuses another one, and leaves out keys that it does not know."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), reader.names["Resign"])
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    address = f"127.0.0.1:{server.server_port}"
    pool = Pool("hook", aiohttp.ClientTimeout(total=60))
    hook = HttpHook(pool, (address,), pause=0.001)
    fields = {"url": f"http://{address}/resign", "secret": "0123456789abcdef"}
    needs = [Need(1, "a.csv", "run-42/a.csv", Kind.PUT), Need(2, "b.csv", "elsewhere/b.csv", Kind.PUT)]
    try:
        rows = hook.ask(fields, a_push(), needs, GoOn())
        with pytest.raises(DestinationError, match="answers 401"):
            hook.ask(fields | {"secret": "fedcba9876543210"}, a_push(), needs, GoOn())
    finally:
        pool.close()
        server.shutdown()
        server.server_close()

    assert [told(ticket(row)) for row in rows if isinstance(row, dict)] == [
        ("a.csv", Kind.PUT, Provider.S3, "lab-data", "run-42/a.csv", "")
    ]
