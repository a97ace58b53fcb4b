"""Logs are events with fields, one JSON object a line; ids are bound once, at the door.

Two nets keep secrets out: nobody logs one on purpose, and :func:`redact` runs over every string
that a foreign system gave us before it is stored, logged or shown.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

import structlog

MASK = "[redacted]"

_PATTERNS: tuple[re.Pattern[str], ...] = (
    # name=value and "name": "value" of everything that opens something
    re.compile(
        r"(?i)(\b(?:[a-z0-9_.-]*(?:secret|password|passwd|token|signature|credential|api_?key|access_?key)[a-z0-9_.-]*"
        r"|sig|sas_url|authorization)\b[\"']?\s*[=:]\s*[\"']?)(?!\s)([^\s\"'&,;<>]+)"
    ),
    re.compile(r"(?i)(\b(?:bearer|basic)\s+)([a-z0-9._~+/=-]{8,})"),
    re.compile(r"(<(?:AWSAccessKeyId|SignatureProvided|StringToSign|CanonicalRequest|Token-0)>)([^<]*)"),
    re.compile(r"(?i)(://[^/\s:@]*:)([^@\s/]+)(?=@)"),
    re.compile(r"()(\b(?:hvs|hvb|s)\.[A-Za-z0-9_-]{20,}|vault:v\d+:[A-Za-z0-9+/=]+)"),
    re.compile(r"()(\b(?:AKIA|ASIA)[A-Z0-9]{12,})"),
    re.compile(r"()(\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*)"),
)


def redact(text: str, *secrets: str, limit: int = 2_000) -> str:
    """``text`` without what looks like a secret, nor any of the ``secrets`` known here; bounded."""
    for secret in sorted((s for s in secrets if len(s) >= 4), key=len, reverse=True):
        text = text.replace(secret, MASK)
    for pattern in _PATTERNS:
        text = pattern.sub(lambda m: m.group(1) + MASK, text)
    return text if len(text) <= limit else text[:limit] + "…"


def setup_logs(level: str = "info", form: str = "json") -> None:
    """Send structlog's and the standard library's records to stderr, in one form. Call once, at the door."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: Any = structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _render_error, last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.raiseExceptions = False  # a full disk must not end the work that is being logged


def _render_error(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Exceptions as redacted text: a traceback of a foreign library may quote what it was given."""
    if event.get("exc_info"):
        event = structlog.processors.format_exc_info(_logger, _name, event)
    if "exception" in event:
        event["exception"] = redact(str(event["exception"]), limit=20_000)
    return event


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger that binds fields."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
