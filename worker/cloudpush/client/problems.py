"""What the API answers when it refuses: ``application/problem+json`` becomes the error that CloudPush itself raises."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cloudpush.errors import (
    AccessError,
    BrokerError,
    CloudPushError,
    Code,
    CredentialError,
    EngineError,
    InputError,
    ServerError,
    SourceError,
    StackError,
    StoreError,
    VaultError,
)

#: What a code's name begins with → its class; all others are of the request, or ours.
_PREFIXES: tuple[tuple[str, type[CloudPushError]], ...] = (
    ("SOURCE_", SourceError),
    ("NAME_NOT_A_KEY", SourceError),
    ("CREDENTIAL_", CredentialError),
    ("VAULT_", VaultError),
    ("DATABASE_", StoreError),
    ("BROKER_", BrokerError),
    ("ENGINE_", EngineError),
    ("DISK_FULL", EngineError),
    ("STACK", StackError),
    ("SERVER_", ServerError),
    ("UNAUTHENTICATED", AccessError),
    ("FORBIDDEN", AccessError),
    ("RATE_LIMITED", AccessError),
    ("LOGIN_", AccessError),
    ("SUBMISSION_REFUSED", AccessError),
)
#: What an answer without a problem means: from a reverse proxy, most likely.
_BY_STATUS = {
    401: Code.UNAUTHENTICATED,
    403: Code.FORBIDDEN,
    404: Code.NOT_FOUND,
    413: Code.TOO_MANY_BYTES,
    429: Code.RATE_LIMITED,
    502: Code.SERVER_UNREACHABLE,
    503: Code.SERVER_UNREACHABLE,
    504: Code.SERVER_UNREACHABLE,
}
#: Characters of foreign text that are repeated.
_QUOTED = 300


def error_of(status: int, body: bytes) -> CloudPushError:
    """The error that an answer tells of, with ``status``. One of another server than CloudPush is told by its status."""
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        problem = None
    if isinstance(problem, dict) and isinstance(problem.get("code"), str):
        return error_of_problem(problem, status)
    code = _BY_STATUS.get(status, Code.INTERNAL)
    return _made(code, f"The server answered {status}, without CloudPush's reason for it.", status)


def error_of_problem(problem: Mapping[str, Any], status: int | None = None) -> CloudPushError:
    """The error that a problem object tells of. A code of a newer server than this client is INTERNAL, its name kept."""
    status = status if status is not None else int(problem.get("status") or 0) or None
    name, message = str(problem.get("code", "")), str(problem.get("detail") or problem.get("title") or "")[:2000]
    request = str(problem.get("request_id") or "")[:_QUOTED]
    try:
        code = Code(name)
    except ValueError:
        code, message = Code.INTERNAL, f"{name[:100]}: {message}"
    # The request's id helps to find a defect, and says nothing where the user is to act.
    detail = f"request {request}" if request and code is Code.INTERNAL else ""
    return _made(code, message, status, detail=detail, field=str(problem.get("field") or ""))


def _made(code: Code, message: str, status: int | None, *, detail: str = "", field: str = "") -> CloudPushError:
    ours = InputError if status is None or status < 500 else CloudPushError
    kind = next((kind for prefix, kind in _PREFIXES if code.startswith(prefix)), ours)
    error = kind(code, message, detail=detail, field=field)
    error.status = status
    return error
