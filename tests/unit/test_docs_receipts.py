"""docs/receipts.md and docs/webhooks.md: their programs run as they are printed, and their commands exist."""

from __future__ import annotations

import hashlib
import hmac
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from cloudpush.credentials.ed25519 import pem_of
from cloudpush.push.guard import parse_origin
from cloudpush.push.trust.receipts import FILE_KEYS, REQUEST, VERDICT
from cloudpush.transfer.webhook import Message
from documented import unknown
from receipt_builders import Notary, a_file, a_receipt

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "receipts.md").read_text(encoding="utf-8")
WEBHOOKS = (DOCS / "webhooks.md").read_text(encoding="utf-8")
[PROGRAM] = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
NOTARY = Notary()
PEM = "".join(map(pem_of, NOTARY.trusted.values())).encode()


@pytest.fixture(scope="module")
def verify() -> Any:
    """The document's function, as it stands there."""
    names: dict[str, Any] = {"__name__": "verify_receipt"}
    exec(compile(PROGRAM, "verify_receipt.py", "exec"), names)
    return names["verify"]


def test_the_program_is_short_and_needs_cryptography_only() -> None:
    imported = re.findall(r"^(?:import|from) ([^\n]*?)(?: import .*)?$", PROGRAM, re.MULTILINE)

    assert (len(PROGRAM.splitlines()) <= 60, imported) == (
        True,
        ["base64, hashlib, json, re, sys", "cryptography.hazmat.primitives.serialization"],
    )


def test_the_program_runs_by_itself(tmp_path: Path) -> None:
    for name, data in (("verify.py", PROGRAM.encode()), ("r.json", a_receipt(NOTARY)), ("k.pem", PEM)):
        (tmp_path / name).write_bytes(data)

    done = subprocess.run(
        [sys.executable, "-I", "verify.py", "r.json", "k.pem"], cwd=tmp_path, capture_output=True, check=False
    )

    assert (done.returncode, b"succeeded 2 files" in done.stdout) == (0, True)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 8, 33])
def test_the_program_accepts_what_we_issue(verify: Any, count: int) -> None:
    state: dict[str, Any] = {} if count else {"state": "failed", "strength": None}
    receipt = a_receipt(NOTARY, [a_file(n, path=f"ü {n}\n\u2028") for n in range(1, count + 1)], **state)

    assert verify(receipt, PEM)["files"]["count"] == count
    assert verify(a_receipt(NOTARY, with_files=False), PEM)


def test_the_program_refuses_every_change_of_a_byte(verify: Any) -> None:
    receipt = a_receipt(NOTARY)
    wrong = []
    for at, byte in enumerate(receipt):
        for text in (
            receipt[:at] + bytes([byte ^ 1]) + receipt[at + 1 :],
            receipt[:at] + receipt[at + 1 :],
            receipt[:at] + b" " + receipt[at:],
            receipt[:at],
        ):
            try:
                verify(text, PEM)
            except Exception:  # noqa: BLE001 -- that of a wrong signature is cryptography's
                continue
            wrong.append(text)

    assert wrong == []


def test_the_program_refuses_another_key(verify: Any) -> None:
    with pytest.raises(ValueError, match="trust"):
        verify(a_receipt(Notary()), PEM)


def test_every_field_is_described() -> None:
    for name in (*REQUEST, *VERDICT, *FILE_KEYS):
        shown = name if not name.startswith(("files_", "bytes_", "parts_")) else "counts of parts, files and bytes"
        assert shown in TEXT


def test_the_webhook_s_signature_is_verified_as_printed() -> None:
    [program] = re.findall(r"^```python\n(.*?)^```$", WEBHOOKS, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(program, "genuine.py", "exec"), names)
    message = Message(URL("https://a.example/h"), parse_origin("https://a.example"), b"shared", "id-1", b'{"a":1}')
    headers = message.headers(names["time"].time())

    assert names["genuine"](b"shared", headers, b'{"a":1}')
    assert not names["genuine"](b"shared", headers, b'{"a":2}')
    assert not names["genuine"](b"other", headers, b'{"a":1}')
    assert not names["genuine"](b"shared", {}, b'{"a":1}')
    assert not names["genuine"](b"shared", message.headers(names["time"].time() - 3600), b'{"a":1}')
    assert (hmac, hashlib) == (names["hmac"], names["hashlib"])
    assert len(program.splitlines()) <= 14


@pytest.mark.parametrize("text", [TEXT, WEBHOOKS], ids=["receipts.md", "webhooks.md"])
def test_commands_exist_with_their_options(text: str) -> None:
    written = re.findall(r"(?:\$|`)\s?cloudpush ([a-z][^`\n|;&()#]*)", text)
    assert (unknown(map(shlex.split, written)), len(written) >= 2) == ([], True)
