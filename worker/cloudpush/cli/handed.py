"""Signed URLs on their way from their owner to a push."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import UUID

from cloudpush.cli.context import warn
from cloudpush.cli.handover import opened, url_or_row
from cloudpush.errors import Code, InputError

if TYPE_CHECKING:
    from cloudpush.push.intake import Accepted, Preview
    from cloudpush.push.job import Request
    from cloudpush.push.signed.intake import Resigned, SignedIntake


class Format(StrEnum):
    """What a manifest is written in."""

    AUTO = "auto"
    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"


@dataclass(frozen=True, slots=True)
class OneUrl:
    """What was handed over for one file, or for a whole tree."""

    text: str = field(repr=False)

    def submit(self, intake: SignedIntake, request: Request, hook: str) -> Accepted:
        """Store the push and announce it."""
        return intake.submit_one(request, self.text, hook)

    def preview(self, intake: SignedIntake, request: Request, hook: str) -> Preview:
        """What the push would do; stores nothing."""
        return intake.preview_one(request, self.text, hook)

    def resign(self, intake: SignedIntake, push_id: UUID, owner: str, actor: str) -> Resigned:
        """Let a push go on with this."""
        return intake.resign_one(push_id, owner, actor, self.text)

    def rows(self) -> Iterator[Mapping[str, object]]:
        """The one row that it is. Raises InputError, which does not quote it."""
        from cloudpush.push.signed.columns import parse_json  # noqa: PLC0415 -- for few pushes
        from cloudpush.push.signed.hosts import Styles  # noqa: PLC0415 -- likewise
        from cloudpush.push.signed.urls import opens_tree  # noqa: PLC0415 -- likewise

        if self.text.startswith("{"):
            row = parse_json("url", self.text)
            yield row if isinstance(row, dict) else {}
        else:
            tree = False
            # Where URLs may lead is the server's to judge: here any host will do.
            with suppress(InputError, ValueError):
                host = urlsplit(self.text).netloc
                tree = opens_tree(self.text, field="url", styles=Styles.of((host,)))
            yield {"tree_sas_url" if tree else "url": self.text}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was handed over for many files. Its rows can be read once."""

    numbered: Iterable[tuple[int, Mapping[str, object]]] = field(repr=False)

    def submit(self, intake: SignedIntake, request: Request, hook: str) -> Accepted:
        """Store the push and announce it."""
        return intake.submit(request, self.numbered, hook)

    def preview(self, intake: SignedIntake, request: Request, hook: str) -> Preview:
        """What the push would do; stores nothing."""
        return intake.preview(request, self.numbered, hook)

    def resign(self, intake: SignedIntake, push_id: UUID, owner: str, actor: str) -> Resigned:
        """Let a push go on with this."""
        return intake.resign(push_id, owner, actor, self.numbered)

    def rows(self) -> Iterator[Mapping[str, object]]:
        """Its rows, without the lines that they began on."""
        return (row for _, row in self.numbered)


Handed = OneUrl | Manifest


@contextmanager
def handed_over(signed_url: str, manifest: str, manifest_format: Format) -> Iterator[Handed | None]:
    """What ``--signed-url`` or ``--manifest`` names, open for reading; None where neither was given.

    Raises InputError: both, a URL in place of a file name (not repeated), a file that cannot be read.
    """
    if signed_url and manifest:
        raise InputError(Code.BAD_INPUT, "--signed-url and --manifest exclude each other.", field="manifest")
    if manifest_format is not Format.AUTO and not manifest:
        raise InputError(Code.BAD_INPUT, "--manifest-format goes with --manifest only.", field="manifest_format")
    if signed_url:
        with opened(signed_url, sys.stdin.buffer, warn, field="signed_url") as stream:
            text = url_or_row(stream)
        yield OneUrl(text)
    elif manifest:
        from cloudpush import manifest as formats  # noqa: PLC0415 -- for few pushes

        with opened(manifest, sys.stdin.buffer, warn, field="manifest") as stream:
            yield Manifest(formats.rows(stream, manifest_format))
    else:
        yield None
