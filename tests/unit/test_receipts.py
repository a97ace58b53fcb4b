"""A receipt holds as it was issued, and no other bytes do."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudpush.credentials.ed25519 import kid_of, verify
from cloudpush.errors import Code, InputError
from cloudpush.push.trust.base64url import to_base64url
from cloudpush.push.trust.canonical import canonical
from cloudpush.push.trust.checking import Proved, check_receipt
from cloudpush.push.trust.receipts import DOMAIN, Summary, document, make_statement, to_sign
from receipt_builders import NOON, PUSH, Notary, a_file, a_receipt, signed, some_facts

NOTARY = Notary()
SMALL = a_receipt(NOTARY)


def check(receipt: bytes, keys: dict[str, bytes] | None = None, **options: Any) -> Proved:
    return check_receipt(io.BytesIO(receipt), NOTARY.trusted if keys is None else keys, verify, **options)


def refusal(receipt: bytes, keys: dict[str, bytes] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        check(receipt, keys)
    assert caught.value.code is Code.RECEIPT_INVALID
    return caught.value.message


def refused(receipt: bytes) -> bool:
    try:
        check(receipt)
    except InputError as e:
        return e.code is Code.RECEIPT_INVALID
    return False


# -- what holds --------------------------------------------------------------------------------


def test_a_receipt_says_what_was_pushed_and_that_its_files_were_checked() -> None:
    heard: list[str] = []

    proved = check(SMALL, on_file=lambda file: heard.append(file["path"]))

    assert (proved.with_files, proved.kid, heard) == (True, NOTARY.keys()[-1].kid, ["f1", "f2"])
    assert proved.statement["push"]["id"] == PUSH
    assert proved.statement["files"]["states"] == {"verified": 2}
    assert proved.statement["verdict"]["finished_at"] == "2026-03-01T12:00:00.000000Z"


def test_a_receipt_is_one_json_document_line_by_line() -> None:
    document_ = json.loads(SMALL)

    assert list(document_) == ["cloudpush_receipt", "statement", "signature", "files"]
    assert len(SMALL.splitlines()) == 7


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 1000])
def test_any_number_of_files_is_listed(count: int) -> None:
    files = [a_file(n) for n in range(1, count + 1)]
    state: dict[str, Any] = {} if files else {"state": "failed", "strength": None}

    receipt = a_receipt(NOTARY, files, **state)

    assert json.loads(receipt)["files"] == files
    assert check(receipt).statement["files"]["count"] == count


def test_a_receipt_whose_files_were_archived_holds_and_says_so() -> None:
    receipt = a_receipt(NOTARY, with_files=False)

    assert json.loads(receipt)["files"] is None
    assert check(receipt).with_files is False


def test_a_receipt_by_an_earlier_version_of_the_key_holds() -> None:
    notary = Notary()
    receipt = a_receipt(notary)
    notary.rotate()

    assert check(receipt, notary.trusted).with_files


# -- what does not -----------------------------------------------------------------------------


def test_every_change_of_a_single_byte_is_refused() -> None:
    """Each position: other values, left out, doubled, swapped with the next; and every shorter text."""
    wrong = []
    for at, byte in enumerate(SMALL):
        others = {byte ^ 1, byte ^ 0x20, byte ^ 0x80, 0, 0x20, 0x0A, 0x30} - {byte}
        changed = [SMALL[:at] + bytes([other]) + SMALL[at + 1 :] for other in others]
        changed += [SMALL[:at] + SMALL[at + 1 :], SMALL[:at]]
        changed += [SMALL[:at] + bytes([other]) + SMALL[at:] for other in (byte, 0x20, 0x0A, 0x30)]
        swapped = SMALL[:at] + SMALL[at + 1 : at + 2] + SMALL[at : at + 1] + SMALL[at + 2 :]
        wrong += [text for text in [*changed, swapped] if text != SMALL and not refused(text)]

    assert wrong == []


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_changes_of_a_longer_receipt_are_refused(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(LONG)))
    until = data.draw(st.integers(at, min(at + 300, len(LONG))))
    between = data.draw(st.one_of(st.binary(max_size=8), st.sampled_from([LONG[at:until] * 2, b"\n", b",\n", b"{}"])))
    changed = LONG[:at] + between + LONG[until:]

    assert changed == LONG or refused(changed)


LONG = a_receipt(NOTARY, [a_file(n, path=f'a b/{n} \u2028 ü \U0001f600 "\\\n') for n in range(1, 60)])


@settings(max_examples=60, deadline=None)
@given(
    junk=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ),
    name=st.sampled_from([*a_file(1)]),
)
def test_a_file_with_anything_in_a_field_is_refused_and_never_a_defect(junk: Any, name: str) -> None:
    file = a_file(1)
    if file[name] == junk:
        return
    lines = [json.dumps(file | {name: junk}, ensure_ascii=False, separators=(",", ":")), canonical(a_file(2)).decode()]
    told = Summary()
    for n in (1, 2):
        told.add(canonical(a_file(n)), "verified", 10)

    text = signed(NOTARY, some_facts(), told.told(), [line.encode("utf-8", "surrogatepass") for line in lines])

    assert refused(text)


def test_reasons_are_said() -> None:
    lines = SMALL.split(b"\n")
    reasons = {
        "version 1": SMALL.replace(b'"cloudpush_receipt":1', b'"cloudpush_receipt":2'),
        "one of them was changed": SMALL.replace(b"results", b"resultS", 1),
        "their root is another": SMALL.replace(b'"path":"f2"', b'"path":"f3"'),
        "cut off": SMALL[:-3],
        "follows after its end": SMALL + b"\n",
        "no file in canonical JSON": SMALL.replace(b'"size":10', b'"size":10.0', 1),
        "out of order": b"\n".join([*lines[:5], lines[4], *lines[5:]]),
        "lists 1 files": b"\n".join([*lines[:4], lines[5], *lines[6:]]),
        "not written as it should be": SMALL.replace(b"Ed25519", b"ed25519"),
        "does not begin": b"{}\n",
    }

    assert {why: why in refusal(text) for why, text in reasons.items()} == dict.fromkeys(reasons, True)


def test_a_key_that_the_reader_does_not_trust_is_named() -> None:
    """Be it another installation's."""
    other = Notary()

    assert NOTARY.keys()[-1].kid in refusal(SMALL, other.trusted)


def test_another_key_under_the_name_of_the_right_one_is_refused() -> None:
    other, [kid] = Notary(), NOTARY.trusted

    assert "another key" in refusal(SMALL, {kid: other.keys()[-1].raw})


def test_a_name_of_a_key_that_is_swapped_is_refused() -> None:
    """Both are trusted, and the statement names its own."""
    other = Notary()
    [ours], [theirs] = NOTARY.trusted, other.trusted
    swapped = SMALL.replace(b'"kid":"%s","value"' % ours.encode(), b'"kid":"%s","value"' % theirs.encode())

    assert "another key" in refusal(swapped, NOTARY.trusted | other.trusted)


def test_a_statement_that_names_another_key_than_signed_it_is_refused() -> None:
    statement = make_statement(some_facts(), {}, issuer="", kid=kid_of(bytes(32)), at=NOON, software={})
    text = b"".join(document(statement, NOTARY.keys()[-1].kid, NOTARY.sign([to_sign(statement)]).signatures[0], ()))

    assert "names another key" in refusal(text)


@pytest.mark.parametrize("domain", [b"", b"cloudpush-checkpoint-1\n", b"cloudpush-receipt-2\n"])
def test_a_signature_of_something_else_is_no_receipt_s(domain: bytes) -> None:
    """The same key signs checkpoints."""
    kid = NOTARY.keys()[-1].kid
    statement = make_statement(some_facts(), {}, issuer="", kid=kid, at=NOON, software={})
    text = b"".join(document(statement, kid, NOTARY.sign([domain + statement]).signatures[0], ()))

    assert (domain == DOMAIN, "one of them was changed" in refusal(text)) == (False, True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'{"a":1,"a":1}', "no canonical JSON"),
        (b'{"version":1.0}', "no canonical JSON"),
        (b'{"version": 1}', "no canonical JSON"),
        (b"[" * 9000, "no canonical JSON"),
        (b"[]", "not of version 1"),
        (b'{"version":2}', "not of version 1"),
        (b'{"version":1}', "other fields"),
    ],
)
def test_a_signed_statement_that_is_none_is_refused(text: bytes, why: str) -> None:
    """Duplicate keys too, which readers would read differently."""
    kid, value = NOTARY.keys()[-1].kid, NOTARY.sign([to_sign(text)]).signatures[0]

    assert why in refusal(b"".join(document(text, kid, value, ())))


@pytest.mark.parametrize(
    ("files", "push", "why"),
    [
        ([a_file(1, state="failed", strength=None)], {}, "states a success"),
        ([a_file(1, state="planned", strength=None)], {}, "states a success"),
        ([a_file(1), a_file(2, strength="size")], {}, "another strength"),
        ([a_file(1), a_file(2, strength="none", state="unverified")], {"state": "unverified"}, "another strength"),
        ([a_file(1)], {"state": "running"}, "no verdict"),
    ],
)
def test_a_statement_that_claims_more_than_its_files_is_refused(
    files: list[dict[str, Any]], push: dict[str, Any], why: str
) -> None:
    assert why in refusal(a_receipt(NOTARY, files, **push))


def test_sums_that_are_not_those_of_the_files_are_refused() -> None:
    lines, told = [canonical(a_file(n)) for n in (1, 2)], Summary()
    for line in lines:
        told.add(line, "verified", 11)

    assert "the sums" in refusal(signed(NOTARY, some_facts(), told.told(), lines))


def test_a_signature_written_in_another_way_is_refused() -> None:
    """Base64url has unused bits at its end: 15 other last characters stand for the same bytes."""
    value = to_base64url(b"\0" * 64)
    other = value[:-1] + "B"
    text = SMALL.replace(json.loads(SMALL)["signature"]["value"].encode(), other.encode())

    assert "not written as it should be" in refusal(text)


@pytest.mark.parametrize(
    "change",
    [
        (b'"seq":1', b'"seq": 1'),
        (b'"seq":1,', b'"seq":1,"seq":1,'),
        (b'"size":10', b'"size":1e1'),
        (b'"f1"', b'"\\u00661"'),
    ],
)
def test_a_file_that_was_signed_in_another_way_of_writing_is_refused(change: tuple[bytes, bytes]) -> None:
    """Readers might read it differently, duplicate keys for one."""
    line, told = canonical(a_file(1)).replace(*change), Summary()
    told.add(line, "verified", 10)

    assert "no file in canonical JSON" in refusal(signed(NOTARY, some_facts(), told.told(), [line]))
