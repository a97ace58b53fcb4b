"""ListObjectsV2 as a quick way to learn about many keys: one answer tells of up to a thousand.

Pages are asked for by ``start-after``, which every server understands in its own order.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from urllib.parse import unquote, unquote_plus

from cloudpush.net import BadXml, parse_xml
from cloudpush.push.job import Seen

#: Objects of one page; S3's maximum.
PAGE_KEYS = 1_000
#: Bytes of one page that are read at most: a thousand longest keys, percent-encoded, and what goes with them.
PAGE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Page:
    """One answer.

    ``unsure``: keys whose encoding can be read in two ways, so that only a HEAD tells. ``sorted``: in one of the
    orders that servers have, see :class:`Survey`.
    """

    found: dict[str, Seen]
    unsure: frozenset[str]
    last: str
    sorted: bool
    truncated: bool


def page_parameters(prefix: str, start_after: str) -> dict[str, str]:
    """The query of a page. ``encoding-type=url`` lets keys with control characters survive XML."""
    return {
        "list-type": "2",
        "encoding-type": "url",
        "max-keys": str(PAGE_KEYS),
        "prefix": prefix,
        "start-after": start_after,
    }


def read_page(body: bytes) -> Page:
    """``body`` as a page. Raises BadXml."""
    reader = _Reader()
    parse_xml(body, reader.leaf, reader.end)
    if not reader.complete:
        raise BadXml("is no ListBucketResult")
    return reader.page()


def _ascending(values: Sequence[str] | Sequence[list[str]]) -> bool:
    return all(a < b for a, b in pairwise(values))  # type: ignore[operator]  # both are of one kind


@dataclass(slots=True)
class _Reader:
    complete: bool = False
    encoded: bool = False
    truncated: bool = False
    rows: list[tuple[str, Seen]] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)

    def leaf(self, path: tuple[str, ...], text: str) -> None:
        if path[0] != "ListBucketResult":
            return
        match path[1:]:
            case ("IsTruncated",):
                self.truncated = text.strip() == "true"
            case ("EncodingType",):
                self.encoded = text.strip() == "url"
            case ("Contents", name):
                self.fields[name] = text

    def end(self, name: str) -> None:
        if name == "Contents":
            size = self.fields.get("Size", "").strip()
            seen = Seen(
                exists=True,
                size=int(size) if size.isdecimal() else None,
                etag=self.fields.get("ETag", "").strip().strip('"'),
            )
            self.rows.append((self.fields.get("Key", ""), seen))
            self.fields = {}
        elif name == "ListBucketResult":
            self.complete = True

    def page(self) -> Page:
        # A plus means a space to S3 itself and a plus to some other servers.
        keys = [unquote(raw) if self.encoded else raw for raw, _ in self.rows]
        unsure: set[str] = set()
        found: dict[str, Seen] = {}
        for (raw, seen), key in zip(self.rows, keys, strict=True):
            if self.encoded and "+" in raw:
                unsure |= {key, unquote_plus(raw)}
            else:
                found[key] = seen
        return Page(
            found=found,
            unsure=frozenset(unsure),
            # The lower reading of a plus: what lies between the two is listed again rather than left out.
            last=(unquote_plus(self.rows[-1][0]) if self.encoded else keys[-1]) if keys else "",
            sorted=_ascending(keys) or _ascending([_directories(key) for key in keys]),
            truncated=self.truncated,
        )


class Survey:
    """What listings tell about the wanted keys, and which page to ask for next. No network.

    An object may be called absent only where the pages covered its place without a gap. Servers disagree on places:
    S3 sorts keys as strings, file-system-like servers sort directory by directory (``a/x`` before ``a-b``). So
    pages begin below all wanted keys and end above them in both orders, and follow one another without a jump.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        """``keys``: at least one, in any order."""
        self._wanted = sorted(set(keys))
        self._by_directory = sorted(self._wanted, key=_directories)
        self._after = self._first()
        self._covered = False
        self._useless = False
        self._unsure: set[str] = set()
        self._found: dict[str, Seen] = {}
        # Up to here pages are cheaper than HEADs even where most of what they list is not ours.
        self._budget = len(self._wanted) // 200 + 2
        common = os.path.commonprefix([self._wanted[0], self._wanted[-1]])  # noqa: RUF071 -- cut to whole segments below
        self.prefix = common[: common.rfind("/") + 1]

    def start_after(self) -> str | None:
        """Where the next page begins; None where another one would not help."""
        return None if self._covered or self._useless or self._budget <= 0 else self._after

    def take(self, page: Page) -> None:
        """Learn from the page that was asked for last."""
        self._budget -= 1
        self._unsure |= page.unsure
        self._found |= page.found
        if not page.sorted or (page.truncated and page.last in {"", self._after}):
            self._useless = True
        elif not page.truncated or self._beyond(page.last):
            self._covered = True
        self._after = page.last

    def answers(self) -> dict[str, Seen]:
        """What is known by now; a key that is missing here has to be asked for by itself."""
        known = {key: self._found[key] for key in self._wanted if key in self._found and key not in self._unsure}
        if self._covered:
            gone = Seen(exists=False)
            known |= {key: gone for key in self._wanted if key not in known and key not in self._unsure}
        return known

    def _first(self) -> str:
        """A string below all wanted keys in both orders, as close as is simple: what it names is left out."""
        lowest, first_in_tree = self._wanted[0], self._by_directory[0]
        after = _just_before(lowest)
        return after if after < lowest and _directories(after) < _directories(first_in_tree) else ""

    def _beyond(self, last: str) -> bool:
        return last >= self._wanted[-1] and _directories(last) >= _directories(self._by_directory[-1])


def _directories(key: str) -> list[str]:
    return key.split("/")


def _just_before(key: str) -> str:
    """A string below ``key`` with hardly any key between the two."""
    last = ord(key[-1])
    # Without a printable predecessor the shorter string has to do.
    return key[:-1] + chr(last - 1) + "~" if ord("1") <= last <= ord("z") else key[:-1]
