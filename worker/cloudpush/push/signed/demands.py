"""What a ticket must be for one request, or for a push that goes on with it. Each refusal says what to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cloudpush.errors import Code, InputError
from cloudpush.push.job import Destination, Request
from cloudpush.push.signed.desk import SignedCard
from cloudpush.push.signed.gathering import Gathered
from cloudpush.push.signed.model import Kind, Provider, Ticket
from cloudpush.push.signed.pathbook import FileBook
from cloudpush.push.signed.renewal import same_object

#: Headers that, signed with these values, keep an object from being replaced.
_KEEPING = {"if-none-match": "*", "x-goog-if-generation-match": "0"}


def check_keeps(ticket: Ticket) -> None:
    """Raise InputError where nobody could keep ``ticket`` from replacing what is there (overwrite=never)."""
    if ticket.verify is not None or ticket.url.provider is Provider.AZURE:
        return  # it can be looked at first; Azure takes If-None-Match with any SAS
    for name, value in _KEEPING.items():
        if name in ticket.url.signed_headers and ticket.headers.get(name) == value:
            return
    raise InputError(
        Code.BAD_INPUT,
        "overwrite=never cannot be kept: nothing in the row shows, or refuses, an object that is there already; give "
        "head_url or get_url, or sign if-none-match: * (GCS: x-goog-if-generation-match: 0)",
        field="overwrite",
    )


def check_patterns(request: Request, ticket: Ticket) -> None:
    """Raise InputError where patterns choose among files that are named."""
    if ticket.kind is not Kind.TREE and (request.include or request.exclude):
        raise InputError(
            Code.BAD_INPUT,
            "include and exclude go with a SAS of a directory only: a manifest names its files",
            field="include",
        )


def check_source(source: Path, ticket: Ticket) -> None:
    """Raise InputError where a ticket without a path is handed over for a directory."""
    if not ticket.path and ticket.kind is not Kind.TREE and not source.is_file():
        raise InputError(
            Code.BAD_INPUT,
            f"source {str(source)!r} is a directory, and one URL is for one file: name the file, or write a manifest",
            field="source",
        )


@dataclass(frozen=True, slots=True)
class SamePush:
    """That a fresh ticket may be one of this push's. Raises InputError."""

    destination: Destination
    endpoint: str
    tree: bool

    def __call__(self, ticket: Ticket) -> None:
        """Judge ``ticket``."""
        if (ticket.kind is Kind.TREE) is not self.tree:
            needed = "one SAS for its directory" if self.tree else "a URL for each file"
            raise InputError(
                Code.BAD_MANIFEST, f"the push was made with {needed}; hand over the same again", field="url"
            )
        same_object(ticket.key, self.destination, self.endpoint, ticket)


@dataclass(frozen=True, slots=True)
class ByPath:
    """The number that the plan gave to a file; None where it is not open. Raises InputError for another object."""

    book: FileBook
    destination: Destination
    endpoint: str

    def __call__(self, path: str, ticket: Ticket) -> int | None:
        """Judge ``ticket``, which is for the file at ``path``."""
        found = self.book.find(path)
        if found is None:
            return None
        seq, key = found
        same_object(key, self.destination, self.endpoint, ticket)
        return seq


def check_complete(card: SignedCard, gathered: Gathered, *, by_path: bool) -> None:
    """Raise InputError where the push could not go on. ``by_path``: its plan says which files there are."""
    if not gathered.count:
        raise InputError(
            Code.BAD_MANIFEST,
            "No row is about a file of the push that is not there yet; see `cloudpush needs`.",
            field="manifest",
        )
    if not by_path and gathered.manifest_sha256 != card.manifest_sha256:
        raise InputError(
            Code.BAD_MANIFEST,
            "The push is not planned yet: hand over fresh URLs for all of its files, with the same paths and keys in the "
            "same order, and no others.",
            field="manifest",
        )
