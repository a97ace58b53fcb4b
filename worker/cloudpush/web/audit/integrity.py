"""Whether the record is sound: what was last inspected, what is sealed, and with which keys."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response

from cloudpush.credentials.ed25519 import PublicKey, pem_of
from cloudpush.errors import CloudPushError
from cloudpush.logs import get_logger
from cloudpush.web.audit import asking, record
from cloudpush.web.pages import Visit

log = get_logger(__name__)

CHECKPOINTS = 20


def show(visit: Visit) -> Response:
    """The page."""
    keys, trouble = _keys(visit)
    asked = asking.ask(visit.path, (), {})
    found = record.integrity(visit.services, CHECKPOINTS)
    return visit.render("audit_integrity.html", i=found, asked=asked, keys=keys, keys_trouble=trouble)


def keys(visit: Visit) -> Response:
    """The public keys, newest first, as one PEM file."""
    text = "".join(pem_of(key.raw) for key in visit.services.audit_keys.keys()[::-1])
    return Response(
        text,
        media_type="application/x-pem-file",
        headers={"content-disposition": 'attachment; filename="cloudpush-audit.pem"'},
    )


def _keys(visit: Visit) -> tuple[Sequence[PublicKey], str]:
    """Newest first; and why there are none, where Vault is away: the rest of the page can do without."""
    try:
        found = visit.services.audit_keys.keys()
    except CloudPushError as e:
        log.warning("audit keys not available", code=e.code, error=e.message)
        return [], e.message
    return [PublicKey(key.kid, key.raw) for key in reversed(found)], ""
