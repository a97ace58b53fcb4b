"""Names of people and pipelines: who owns, who acts, who may.

A name is compared as it is written. So that one name has one spelling, those with invisible characters or in another form than
Unicode's NFC are refused at every way in. (Letters of different scripts that look alike are different letters.)
"""

from __future__ import annotations

import re
import unicodedata

from cloudpush.errors import Code, InputError

#: Characters of a name.
NAME_LENGTH = 200
#: Who the record says did what nobody asked for: parts of CloudPush, and whoever operates it.
OPERATOR = "operator"
RESERVED = frozenset({OPERATOR, "sweeper", "notary", "worker", "cloudpush"})

#: What Unicode calls default-ignorable and Python printable, and a blank that is no space (Unicode 16, DerivedCoreProperties).
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def trouble_with(name: str) -> str:
    """Why it can be nobody's name, as the end of a sentence; empty: it can."""
    if not name or len(name) > NAME_LENGTH or not name.isprintable() or name != name.strip() or _INVISIBLE.search(name):
        return f"must have 1 to {NAME_LENGTH} printable characters, without blanks at the ends"
    if unicodedata.normalize("NFC", name) != name:
        return "must be written with composed characters (Unicode's form NFC), since it would look like another name"
    if unicodedata.normalize("NFKC", name).casefold() in RESERVED:
        return "is a name by which the record calls a part of CloudPush; choose another"
    return ""


def storable(name: str, field: str) -> str:
    """``name``, whoever's: one that was let in before there were these rules. Raises InputError for what no row can hold."""
    if not name.isprintable() or len(name) > NAME_LENGTH:
        raise InputError(Code.BAD_INPUT, f"{field} {name[:NAME_LENGTH]!r} is nobody's name.", field=field)
    return name


def checked(name: str, field: str) -> str:
    """``name``. Raises InputError with the ``field`` that it was given in."""
    if trouble := trouble_with(name):
        raise InputError(Code.BAD_INPUT, f"{field} {name[:NAME_LENGTH]!r} {trouble}.", field=field)
    return name
