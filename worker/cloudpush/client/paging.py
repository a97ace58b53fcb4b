"""Lists, page by page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cloudpush.client.transport import Query, Transport
from cloudpush.errors import Code, ServerError

#: Items of a page at most.
LARGEST = 1000


def pages(transport: Transport, path: str, query: Query, limit: int) -> Iterator[Any]:
    """Each item of a list; ``limit``: of one page. The next page is asked for when it is wanted."""
    cursor: str | None = None
    while True:
        asked = {**query, "limit": min(limit, LARGEST), "cursor": cursor}
        answer = transport.call("GET", path, query=asked).json
        if not isinstance(answer, dict) or not isinstance(answer.get("items"), list):
            raise ServerError(Code.SERVER_UNREACHABLE, "The server's answer is no list: is this CloudPush?")
        yield from answer["items"]
        cursor = answer.get("next")
        if not cursor:
            return
