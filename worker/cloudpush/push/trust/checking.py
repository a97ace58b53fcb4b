"""Checks a receipt, line by line and in constant memory: nothing but the file and the keys is needed.

What is accepted has the bytes that ``receipts`` writes and no others, so every byte that was changed, added or taken away
is noticed: in the statement by the signature, in a file by the root, anywhere else by the format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from cloudpush.errors import Code, InputError
from cloudpush.push.states import FileState, State, Strength
from cloudpush.push.trust.base64url import from_base64url
from cloudpush.push.trust.canonical import MOST, read_canonical
from cloudpush.push.trust.receipts import FILE_KEYS, FILES, FIRST, LAST, NO_FILES, VERSION, Summary, to_sign

#: Bytes of a line: a request with its patterns and labels is at most 8 MiB, escapes make it longer.
MOST_LINE = 64 * 1024 * 1024
SIGNATURE_BYTES = 64

_SIGNATURE = re.compile(
    rb'"signature":\{"alg":"Ed25519","kid":"([A-Za-z0-9_-]{43})","value":"([A-Za-z0-9_-]{86})"\},\n'
)
_STATEMENT, _END = b'"statement":', b",\n"
_SECTIONS = {
    "version": int,
    "issuer": str,
    "issued_at": str,
    "kid": str,
    "push": dict,
    "credential": dict,
    "verdict": dict,
    "files": dict,
    "chain": dict,
    "software": dict,
}
_STRENGTHS = {s.word: s for s in Strength}
_STATES = frozenset(map(str, FileState))
_DONE = frozenset(str(s) for s in FileState if s.done)
_COUNTED = frozenset({"verified", "skipped", "unverified"})
_OPTIONAL = ("error_code", "etag", "expected", "sha256", "state", "strength", "uploaded_at", "version_id")
_WRITE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Proved:
    """A receipt that holds: what it states, which key signed it, and whether its files were there to be checked."""

    statement: Mapping[str, Any]
    kid: str
    with_files: bool


def _refuse(word: str) -> object:
    raise ValueError(f"{word} is no value of a file's")


_READ = json.JSONDecoder(parse_float=_refuse, parse_constant=_refuse).decode


def check_receipt(
    source: BinaryIO,
    keys: Mapping[str, bytes],
    verify: Callable[[bytes, bytes, bytes], bool],
    on_file: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> Proved:
    """What the receipt in ``source`` proves.

    ``keys``: those that the reader trusts, by their thumbprint. ``verify``: (key, signature, text) → whether it holds.
    ``on_file`` is told of each file as it is read: what it hears holds only if this returns.
    Raises InputError RECEIPT_INVALID, and says why.
    """
    first = _line(source)
    if first != FIRST:
        raise invalid("it does not begin as a receipt of version 1 does")
    text = _statement_text(source)
    kid = _signed(source, text, keys, verify)
    statement = _statement(text, kid)
    opening = _line(source)
    if opening == NO_FILES:
        _nothing_more(source)
        return Proved(statement, kid, with_files=False)
    if opening != FILES:
        raise invalid("its list of files does not begin where it should")
    _check_files(source, statement, on_file)
    _nothing_more(source)
    return Proved(statement, kid, with_files=True)


def invalid(why: str) -> InputError:
    """The refusal of a receipt."""
    return InputError(Code.RECEIPT_INVALID, f"the receipt is not valid: {why}.", field="receipt")


def _line(source: BinaryIO) -> bytes:
    line = source.readline(MOST_LINE)
    if not line.endswith(b"\n"):
        raise invalid("it is cut off" if len(line) < MOST_LINE else "a line of it is too long")
    return line


def _nothing_more(source: BinaryIO) -> None:
    if source.read(1):
        raise invalid("something follows after its end")


def _statement_text(source: BinaryIO) -> bytes:
    line = _line(source)
    if not (line.startswith(_STATEMENT) and line.endswith(_END)):
        raise invalid("its statement is not where it should be")
    return line[len(_STATEMENT) : -len(_END)]


def _signed(
    source: BinaryIO, text: bytes, keys: Mapping[str, bytes], verify: Callable[[bytes, bytes, bytes], bool]
) -> str:
    """The name of the key that signed ``text``."""
    found = _SIGNATURE.fullmatch(_line(source))
    if found is None:
        raise invalid("its signature is not written as it should be")
    kid, value = (group.decode() for group in found.groups())
    if kid not in keys:
        raise invalid(f"it is signed with the key {kid}, which is not among those that you trust")
    try:
        signature = from_base64url(value, SIGNATURE_BYTES)
    except ValueError as e:
        raise invalid("its signature is not written as it should be") from e
    if not verify(keys[kid], signature, to_sign(text)):
        raise invalid("its signature is not that of its statement: one of them was changed, or another key signed it")
    return kid


def _statement(text: bytes, kid: str) -> Mapping[str, Any]:
    """What is stated. Whoever has the key signs nothing else; but a reader is to understand what it reads."""
    try:
        found = read_canonical(text)
    except ValueError as e:
        raise invalid("its statement is no canonical JSON") from e
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise invalid(f"its statement is not of version {VERSION}")
    if {name: type(value) for name, value in found.items()} != _SECTIONS:
        raise invalid("its statement has other fields than a receipt has")
    if found["kid"] != kid:
        raise invalid("its statement names another key than the one that signed it")
    if found["verdict"].get("state") not in {s for s in State if s.final}:
        raise invalid("its statement has no verdict")
    return found


def _check_files(source: BinaryIO, statement: Mapping[str, Any], on_file: Callable[[Mapping[str, Any]], None]) -> None:
    summary, after = Summary(), 0
    weakest: Strength | None = None
    line = _line(source)
    while line != LAST:
        following = _line(source)
        last = following == LAST
        if not line.endswith(b"}\n" if last else b"},\n"):
            raise invalid(f"the line after file {after} is not written as it should be")
        text = line[: -1 if last else -2]
        found = _file(text, after)
        summary.add(text, found["state"], found["size"])
        on_file(found)
        after, line = found["seq"], following
        if found["strength"] is not None and found["state"] in _COUNTED:
            seen = _STRENGTHS[found["strength"]]
            weakest = seen if weakest is None else min(weakest, seen)
    told, stated = summary.told(), statement["files"]
    if told["count"] != stated.get("count"):
        raise invalid(f"it lists {told['count']:,} files, and its statement says {stated.get('count')}")
    if told["root"] != stated.get("root"):
        raise invalid("its files are not those that were signed: their root is another one")
    if told != stated:
        raise invalid("the sums of its files are not those that its statement has")
    _check_verdict(statement["verdict"], summary, weakest)


def _check_verdict(verdict: Mapping[str, Any], summary: Summary, weakest: Strength | None) -> None:
    """It claims no more than its files show."""
    if verdict["state"] == State.SUCCEEDED and any(n for state, n in summary.states.items() if state not in _DONE):
        raise invalid("it states a success, and not all of its files are verified")
    if (None if weakest is None else weakest.word) != verdict.get("strength"):
        raise invalid("it states another strength than that of its weakest file")


def _file(text: bytes, after: int) -> dict[str, Any]:
    """One file's object, canonical and complete."""
    try:
        found = _READ(text.decode())
        same = isinstance(found, dict) and tuple(found) == FILE_KEYS and _WRITE(found).encode() == text
    except (ValueError, RecursionError):
        same = False
    if not same:
        raise invalid(f"the line after file {after} is no file in canonical JSON")
    seq, size, strength = found["seq"], found["size"], found["strength"]
    if type(seq) is not int or not after < seq <= MOST:
        raise invalid(f"the file after {after} is out of order")
    if type(size) is not int or not 0 <= size <= MOST:
        raise invalid(f"file {seq} has no size")
    if not all(isinstance(found[name], str) for name in ("path", "key", "mtime_ns")):
        raise invalid(f"file {seq} has no name or no time")
    if not all(found[name] is None or isinstance(found[name], str) for name in _OPTIONAL):
        raise invalid(f"file {seq} has a field of another type")
    if found["state"] not in _STATES or (strength is not None and strength not in _STRENGTHS):
        raise invalid(f"file {seq} has a state or strength that there is not")
    return dict(found)
