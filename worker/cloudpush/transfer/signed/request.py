"""What is sent with a signed URL: one request, exactly as it goes over the wire."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from cloudpush.errors import Code, DestinationError
from cloudpush.push.signed.model import Kind, Ticket
from cloudpush.push.signed.urls import at_key

#: Bytes of an answer that are read at most.
ANSWER_BYTES = 64 * 1024


class Stream(Protocol):
    """A body that is not in memory. Each try of its request reads it anew, from the beginning."""

    @property
    def size(self) -> int:
        """Bytes; exactly as many are sent, or the request is broken off."""

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """The bytes. A chunk is asked for when the one before it is in the hands of the operating system."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Nothing is added to ``headers`` but Host and Content-Length.

    ``content``: how many bytes of ``body`` are the file's own, for progress; a stream of the source counts itself.
    ``fields``: of a form, which are in ``body``: ``sent`` has all that is not to be seen in what is said of the answer.
    ``accepts``: statuses, besides the 2xx, that are an answer and no error. ``expires_at``: when the URL does; None
    where it does not. ``limit``: bytes of the answer that are read.
    """

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | Stream = field(default=b"", repr=False)
    content: int = 0
    accepts: frozenset[int] = frozenset()
    expires_at: datetime | None = None
    limit: int = ANSWER_BYTES
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def sent(self) -> Mapping[str, str]:
        """Headers, and the fields of a form."""
        return {**self.headers, **self.fields}


def object_url(ticket: Ticket, key: str) -> str:
    """The signed URL of the object ``key``: the ticket's own, and for a TREE its container's with the key and its SAS.

    Raises DestinationError NAME_NOT_A_KEY for a file below a TREE whose name has a backslash.
    """
    if ticket.kind is not Kind.TREE:
        return ticket.url.text
    if "\\" in key:
        raise DestinationError(
            Code.NAME_NOT_A_KEY, f"{key!r} has a backslash, which Azure may take for a slash: rename the file."
        )
    return at_key(ticket.url, key)


def with_query(url: str, query: str) -> str:
    """``url`` with more parameters, already encoded. Only Azure's signatures allow that."""
    return f"{url}&{query}" if "?" in url else f"{url}?{query}"
