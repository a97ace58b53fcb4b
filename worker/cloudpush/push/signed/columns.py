"""The values of a manifest's columns, checked one by one. None of the errors shows a value: it may be a secret."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence

from cloudpush.push.signed.model import MIB
from cloudpush.push.signed.refusals import bad_row
from cloudpush.push.signed.roles import MOST_PARTS

#: The longest path that Linux takes.
PATH_BYTES = 4096

#: Digests that a row may tell, with their length in bytes.
DIGESTS = {"sha256": 32, "md5": 16, "crc32c": 4, "crc64nvme": 8}

#: Parts of S3 and GCS, the last one aside.
SMALLEST_PART, LARGEST_PART = 5 * MIB, 5 * 1024 * MIB
_UNITS = {"": 1, "kib": 1024, "mib": MIB, "gib": 1024 * MIB}
_SIZE = re.compile(r"([0-9]{1,15}) ?(|KiB|MiB|GiB)", re.IGNORECASE)

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
#: An empty, ``.`` or ``..`` segment anywhere; a leading slash makes the first one empty.
_BAD_SEGMENT = re.compile(r"(?:^|/)(?:\.{0,2})(?:/|$)")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")


def text_of(column: str, value: object) -> str:
    """``value`` as text; empty where there is none."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise bad_row(column, "is not text", "write a string")
    return value


def path_of(value: object) -> str:
    """The column ``path``: relative to the source, with slashes; empty where there is none."""
    path = text_of("path", value)
    if not path:
        return ""
    if path[0] == "/":
        raise bad_row("path", "is absolute", "write it relative to the source")
    if _BAD_SEGMENT.search(path):
        raise bad_row("path", "has an empty, . or .. segment", "write it relative to the source, with single slashes")
    if _CONTROL.search(path):
        raise bad_row("path", "has a control character", "rename the file")
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= PATH_BYTES:
        raise bad_row("path", f"is not UTF-8 of at most {PATH_BYTES} bytes", "rename the file")
    return path


def object_of(column: str, value: object) -> Mapping[str, object]:
    """An object, or its JSON text (CSV); empty where there is none. A name may come once only."""
    found = _parsed(column, value, "an object") if isinstance(value, str) else value
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise bad_row(column, "is not an object", 'write {"name": "value"}')
    return found


def list_of(column: str, value: object) -> Sequence[str]:
    """A list of texts; in CSV its JSON text, or texts with spaces between. Empty where there is none."""
    if isinstance(value, str):
        text = value.strip()
        found: object = _parsed(column, text, "a list") if text.startswith("[") else text.split()
    else:
        found = value
    if found is None:
        return ()
    if not isinstance(found, list | tuple) or not all(isinstance(item, str) for item in found):
        raise bad_row(column, "is not a list of strings", 'write ["https://…", …]')
    if len(found) > MOST_PARTS:
        raise bad_row(column, f"has {len(found)} entries", f"a multipart upload has at most {MOST_PARTS} parts")
    return found


def digest_of(column: str, value: object) -> str:
    """A digest in hex or base64, as lower-case hex; empty where there is none."""
    text = text_of(column, value)
    if not text:
        return ""
    size = DIGESTS[column]
    raw: bytes | None = None
    try:
        if len(text) == 2 * size and "=" not in text:
            raw = bytes.fromhex(text) if text.isalnum() else None
        elif len(text) == -(-size // 3) * 4 and _BASE64.fullmatch(text):
            raw = b64decode(text, validate=True)
    except ValueError:
        raw = None
    if raw is None or len(raw) != size:
        raise bad_row(column, "is no such digest", f"write its {size} bytes in hex or base64")
    return raw.hex()


def part_size_of(value: object) -> int:
    """The column ``part_size`` in bytes: a number, or text such as 64MiB; 0 where there is none."""
    size: int | None = None
    if value is None or value == "":
        return 0
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        size = int(match[1]) * _UNITS[match[2].lower()]
    if size is None or not SMALLEST_PART <= size <= LARGEST_PART:
        raise bad_row("part_size", "is no size of a part", "write 5MiB to 5GiB, or a number of bytes")
    return size


def parse_json(column: str, text: str) -> object:
    """``text`` as JSON in which no object has a name twice. Raises InputError BAD_MANIFEST."""
    return _parsed(column, text, "JSON")


def _parsed(column: str, text: str, what: str) -> object:
    if not text.strip():
        return None
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):  # the error holds the text
        pass
    raise bad_row(column, f"is not {what} that JSON can be read from", "write valid JSON, with each name once")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found
