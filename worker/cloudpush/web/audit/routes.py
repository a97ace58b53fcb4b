"""Where the auditors' pages are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import BaseRoute

from cloudpush.web.audit import exports, history, integrity, ledger, push
from cloudpush.web.audit.guard import asking, exporting, reading

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices


def routes(_services: WebServices) -> list[BaseRoute]:
    """All of them."""
    return [
        reading("/audit", history.index),
        reading("/audit/summary", history.summary),
        reading("/audit/pushes/{push_id}", push.show),
        reading("/audit/pushes/{push_id}/receipt", push.receipt),
        asking("/audit/pushes/{push_id}/verify", push.verify),
        reading("/audit/ledger", ledger.index),
        reading("/audit/ledger/events", ledger.events),
        reading("/audit/ledger/{credential_id}", ledger.show),
        reading("/audit/integrity", integrity.show),
        reading("/audit/integrity/keys.pem", integrity.keys),
        exporting("/audit/export/{table}", exports.export),
    ]
