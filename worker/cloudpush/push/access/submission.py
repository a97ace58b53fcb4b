"""Submissions that come as messages: by pipelines that share the broker, each with a token for exactly this request.

Whoever can write to the broker can put any message there. So a message counts for nothing; what counts is the token in it:
signed by the API for one principal and one request, for minutes. What that principal may is looked up anew when the message is
executed, and a message that comes twice is the same push, since its idempotency key is part of what was signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

from cloudpush.errors import AccessError, Code, InputError
from cloudpush.push.access.identity import Access
from cloudpush.push.access.model import Principal, Right
from cloudpush.push.access.ports import Submitter
from cloudpush.push.intake import MAX_KEY, Accepted, Intake
from cloudpush.push.job import Request
from cloudpush.push.states import Overwrite, Package, Strength
from cloudpush.push.trust.base64url import to_base64url
from cloudpush.push.trust.canonical import canonical

#: A token lives no longer: the message should be on its way by then.
MOST_SECONDS = 300
AUDIENCE = "cloudpush.submit"

_TEXTS = ("source", "destination", "credential", "profile", "owner")
_LISTS = ("include", "exclude")
_WORDS = ("min_strength", "overwrite", "package")
_FIELDS = frozenset({*_TEXTS, *_LISTS, *_WORDS, "labels"})


class Verifier(Protocol):
    """Checks submission tokens."""

    def submitter(self, token: str, request_digest: str) -> Submitter:
        """For whom it was signed, for this request. Raises AccessError SUBMISSION_REFUSED; VaultError."""


class Submissions:
    """Executes messages. Thread-safe."""

    def __init__(self, verifier: Verifier, access: Access, intake: Intake) -> None:
        self._verifier = verifier
        self._access = access
        self._intake = intake

    def execute(self, request: object, token: object, idempotency_key: object) -> Accepted:
        """Store the push that the message asks for, or find it. Repeatable.

        Raises AccessError, InputError, SourceError, CredentialError: nothing was stored; StoreError, VaultError: try again.
        """
        if not isinstance(request, Mapping) or not isinstance(token, str) or not isinstance(idempotency_key, str):
            raise refused("it is not of the form {request: {…}, token: …, idempotency_key: …}")
        by = self._verifier.submitter(token, request_digest(request, idempotency_key))
        principal = self._access.principal_of_message(by)
        return self._intake.submit(read_request(request, principal, idempotency_key))


def request_digest(request: Mapping[str, Any], idempotency_key: str) -> str:
    """What a token is bound to: base64url of the SHA-256 of both as canonical JSON. Raises AccessError SUBMISSION_REFUSED."""
    if not idempotency_key or len(idempotency_key) > MAX_KEY:
        raise refused(f"its idempotency_key must have 1 to {MAX_KEY} characters")
    try:
        text = canonical({"request": request, "idempotency_key": idempotency_key})
    except (TypeError, ValueError, RecursionError):
        raise refused("its request has no canonical JSON") from None
    return to_base64url(hashlib.sha256(text).digest())


def read_request(asked: Mapping[str, Any], principal: Principal, idempotency_key: str) -> Request:
    """The request of a message: as POST /v1/pushes takes it, without signed URLs. Raises AccessError, InputError."""
    principal.need(Right.SUBMIT)
    if unknown := sorted(set(asked) - _FIELDS):
        raise InputError(Code.BAD_INPUT, f"{unknown[0][:100]!r} is not known in a message.", field="request")
    for name in ("source", "destination", "credential"):
        if not asked.get(name):
            raise InputError(Code.BAD_INPUT, f"{name} is missing.", field=name)
    texts = {name: _typed(asked, name, str, "") for name in (*_TEXTS, *_WORDS)}
    lists = {name: tuple(_typed(asked, name, list, [])) for name in _LISTS}
    labels = _typed(asked, "labels", dict, {})
    for name, values in (*lists.items(), ("labels", (*labels, *labels.values()))):
        if not all(isinstance(value, str) for value in values):
            raise InputError(Code.BAD_INPUT, f"{name} holds something else than text.", field=name)
    try:
        strength = Strength.of(texts["min_strength"]) if texts["min_strength"] else None
        overwrite = Overwrite(texts["overwrite"] or Overwrite.IF_DIFFERENT)
        package = Package(texts["package"]) if texts["package"] else None
    except (KeyError, ValueError):
        raise InputError(
            Code.BAD_INPUT, "min_strength, overwrite or package is no word of ours.", field="request"
        ) from None
    return Request(
        owner=principal.owner_to_act_for(texts["owner"]),
        actor=principal.actor,
        source=texts["source"],
        destination=texts["destination"],
        credential=texts["credential"],
        profile=texts["profile"],
        min_strength=strength,
        overwrite=overwrite,
        include=lists["include"],
        exclude=lists["exclude"],
        labels=labels,
        idempotency_key=idempotency_key,
        package=package,
    )


def _typed(asked: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = asked.get(name, default)
    if not isinstance(value, kind):
        raise InputError(Code.BAD_INPUT, f"{name} should be of type {kind.__name__}.", field=name)
    return value


def refused(why: str) -> AccessError:
    """The answer to a message that counts for nothing."""
    return AccessError(Code.SUBMISSION_REFUSED, f"This submission is refused: {why}.")
