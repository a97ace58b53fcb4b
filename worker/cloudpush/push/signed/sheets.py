"""Sheets: the tickets of neighbouring files as bytes, cut into blocks that Vault stores.

::

    tickets  →  compact JSON, defaults left out  →  zlib  →  blocks of at most BLOCK_BYTES

What was read from a URL is kept beside it, so a worker that opens a sheet parses no URL again. These bytes are
secrets until they are sealed: no error here quotes one.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cloudpush.errors import Code, CredentialError, DestinationError, InputError
from cloudpush.push.guard import Origin
from cloudpush.push.signed.links import is_plain
from cloudpush.push.signed.model import MIB, Kind, Provider, SignedUrl, Ticket

#: Vault's storage takes entries of 1 MiB, and a sealed block grows by a third in base64.
BLOCK_BYTES = 512 * 1024
#: Tickets on one sheet. About 30 KiB sealed, and what a worker opens at a time.
SHEET_TICKETS = 500
#: Text of the tickets on one sheet, beyond which it is closed earlier: a worker holds a sheet in memory.
SHEET_BYTES = 8 * MIB
#: A sheet's plaintext at most: one ticket may have ten thousand part URLs. Also the bound of decompression.
PLAIN_BYTES = 64 * MIB

_FORMAT = 1
#: zlib's fastest: URLs of one bucket differ in a path and a signature, which no level finds smaller.
_LEVEL = 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def weight(ticket: Ticket) -> int:
    """About how many bytes ``ticket`` adds to a sheet's plaintext: for closing a sheet before it grows too large."""
    texts = (ticket.path, ticket.url.text, ticket.url.key, ticket.abort, *ticket.parts, *ticket.fields.values())
    return sum(map(len, texts)) + sum(map(len, ticket.headers.values())) + 2 * len(ticket.parts) + 200


def encode(rows: Sequence[tuple[int, Ticket]]) -> list[bytes]:
    """The blocks of a sheet: (sequence number, ticket) of its files, in order.

    Raises InputError BAD_MANIFEST for tickets of more than PLAIN_BYTES.
    """
    data = {"v": _FORMAT, "rows": [_ticket_out(seq, ticket) for seq, ticket in rows]}
    try:
        plain = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        plain = None  # this error holds the text
    if plain is None:
        raise InputError(Code.BAD_MANIFEST, "A row holds characters that are no Unicode (half a surrogate pair).")
    if len(plain) > PLAIN_BYTES:
        raise InputError(
            Code.BAD_MANIFEST,
            f"The URLs of {len(rows)} files are {len(plain) // MIB} MiB of text; at most {PLAIN_BYTES // MIB} are possible.",
        )
    packed = zlib.compress(plain, _LEVEL)
    return [packed[at : at + BLOCK_BYTES] for at in range(0, len(packed), BLOCK_BYTES)]


def decode(blocks: Sequence[bytes]) -> list[tuple[int, Ticket]]:
    """The inverse of :func:`encode`. Raises CredentialError CREDENTIAL_CORRUPT, without the text."""
    try:
        data = json.loads(_unpacked(b"".join(blocks)))
        if data["v"] == _FORMAT:
            shared = _Shared()
            return [_ticket_in(row, shared) for row in data["rows"]]
    except (zlib.error, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        pass  # what these errors quote, or hold, are URLs
    raise _corrupt()


def encode_session(uri: str) -> bytes:
    """The single block that keeps the URI of a resumable upload.

    Raises DestinationError ENDPOINT_FORBIDDEN for what a server gave us that is no URL as they are sent: a host in
    other letters would be another one by the time it is looked up.
    """
    if not is_plain(uri):
        raise DestinationError(
            Code.ENDPOINT_FORBIDDEN, "The provider began a resumable upload under an address that is no URL in ASCII."
        )
    return json.dumps({"v": _FORMAT, "session": uri}, ensure_ascii=False, separators=(",", ":")).encode()


def decode_session(block: bytes) -> str:
    """The inverse of :func:`encode_session`. Raises CredentialError CREDENTIAL_CORRUPT, without the text."""
    try:
        data = json.loads(block)
        if data["v"] == _FORMAT and isinstance(data["session"], str) and is_plain(data["session"]):
            return str(data["session"])
    except (ValueError, TypeError, KeyError, RecursionError):
        pass  # likewise
    raise _corrupt()


def _unpacked(packed: bytes) -> bytes:
    """Raises zlib.error, also for what is cut short, goes on, or grows beyond PLAIN_BYTES."""
    unpacker = zlib.decompressobj()
    plain = unpacker.decompress(packed, PLAIN_BYTES)
    if not unpacker.eof or unpacker.unused_data:
        raise zlib.error
    return plain


def _corrupt() -> CredentialError:
    return CredentialError(Code.CREDENTIAL_CORRUPT, "An unsealed sheet does not hold signed URLs.")


# -- out: every name that is missing means the field's default --------------------------------------


def _ticket_out(seq: int, ticket: Ticket) -> dict[str, Any]:
    row: dict[str, Any] = {"n": seq, "p": ticket.path, "k": ticket.kind, "u": _url_out(ticket.url)}
    if ticket.verify is not None:
        row["v"] = _url_out(ticket.verify)
    if ticket.expires_at is not None:
        row["e"] = _time_out(ticket.expires_at)
    optional = (
        ("m", ticket.verify_method),
        ("h", dict(ticket.headers)),
        ("c", dict(ticket.checksums)),
        ("f", dict(ticket.fields)),
        ("t", ticket.parts),
        ("a", ticket.abort),
        ("z", ticket.part_size),
    )
    row.update({name: value for name, value in optional if value})
    return row


def _url_out(url: SignedUrl) -> dict[str, Any]:
    origin = url.origin
    row: dict[str, Any] = {
        "t": url.text,
        "p": url.provider,
        "f": url.flavour,
        "v": url.version,
        "o": [origin.scheme, origin.host, origin.port],
        "k": url.key,
    }
    if url.starts_at is not None:
        row["s"] = _time_out(url.starts_at)
    if url.expires_at is not None:
        row["e"] = _time_out(url.expires_at)
    if url.part is not None:
        row["n"] = url.part
    optional = (
        ("b", url.bucket),
        ("h", sorted(url.signed_headers)),
        ("r", url.permissions),
        ("c", url.scope),
        ("u", url.upload),
        ("g", url.session),
        ("y", url.temporary),
        ("w", url.vouched),
    )
    row.update({name: value for name, value in optional if value})
    return row


def _time_out(moment: datetime) -> int:
    """Microseconds since 1970: exact, where a float is not."""
    return (moment - _EPOCH) // _MICROSECOND


# -- in ---------------------------------------------------------------------------------------------


class _Shared:
    """What the URLs of one sheet have in common is built once."""

    def __init__(self) -> None:
        self.origins: dict[tuple[Any, ...], Origin] = {}
        self.headers: dict[tuple[Any, ...], frozenset[str]] = {}

    def origin(self, parts: list[Any]) -> Origin:
        key = tuple(parts)
        if key not in self.origins:
            self.origins[key] = Origin(*key)
        return self.origins[key]

    def header_names(self, names: list[Any]) -> frozenset[str]:
        key = tuple(names)
        if key not in self.headers:
            self.headers[key] = frozenset(key)
        return self.headers[key]


def _ticket_in(row: dict[str, Any], shared: _Shared) -> tuple[int, Ticket]:
    get = row.get
    verify = get("v")
    return row["n"], Ticket(
        path=row["p"],
        kind=Kind(row["k"]),
        url=_url_in(row["u"], shared),
        verify=None if verify is None else _url_in(verify, shared),
        verify_method=get("m", ""),
        headers=get("h") or {},
        checksums=get("c") or {},
        fields=get("f") or {},
        parts=tuple(get("t", ())),
        abort=get("a", ""),
        part_size=get("z", 0),
        expires_at=_time_in(get("e")),
    )


def _url_in(row: dict[str, Any], shared: _Shared) -> SignedUrl:
    get = row.get
    return SignedUrl(
        text=row["t"],
        provider=Provider(row["p"]),
        flavour=row["f"],
        version=row["v"],
        origin=shared.origin(row["o"]),
        bucket=get("b", ""),
        key=row["k"],
        starts_at=_time_in(get("s")),
        expires_at=_time_in(get("e")),
        signed_headers=shared.header_names(get("h", [])),
        permissions=get("r", ""),
        scope=get("c", ""),
        part=get("n"),
        upload=get("u", ""),
        session=get("g", False),
        temporary=get("y", False),
        vouched=get("w", False),
    )


def _time_in(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)
