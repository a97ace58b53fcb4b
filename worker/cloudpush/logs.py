"""Logs are events with fields, one JSON object a line; ids are bound once, at the door.

Two nets keep secrets out: nobody logs one on purpose, and :func:`redact` runs over every string
that a foreign system gave us before it is stored, logged or shown.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from collections.abc import Iterator
from html import escape
from typing import Any
from urllib.parse import quote, quote_plus

import structlog

MASK = "[redacted]"

_OPENS = (
    r"(?:secret|password|passwd|passphrase|token|signature|credential|api_?key|access_?key|account_?key|private_?key)"
)

# Every repetition that may begin at many places is bounded: a hostile answer must not cost us quadratic time.
_PATTERNS: tuple[re.Pattern[str], ...] = (
    # the whole of an authorization: a scheme and what follows it
    re.compile(r"(?i)(authorization[\"']?\s{0,8}[=:]\s{0,8}[\"']?)([^\r\n\"']+)"),
    re.compile(r"(?i)(\b(?:bearer|basic)\s{1,8})([a-z0-9._~+/=-]{8,})"),
    # name=value, name: value, "name": "value with spaces" of everything that opens something
    re.compile(
        r"(?i)((?:" + _OPENS + r"[a-z0-9_.:-]{0,64}|\b(?:sig|pwd|sas_url))\\?[\"']?\s{0,8}[=:]\s{0,8})"
        r"(\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|\\?[\"']?[^\s\"'&,;<>]+)"
    ),
    # <SecretAccessKey>value</SecretAccessKey>, and what a refused signature quotes back
    re.compile(
        r"(?i)(<(?:[a-z0-9_.:-]{0,64}" + _OPENS + r"[a-z0-9_.:-]{0,64}"
        r"|StringToSign(?:Bytes)?|CanonicalRequest(?:Bytes)?|Token-\d)>)([^<]+)"
    ),
    # scheme://user:password@host; a password may hold an unescaped @ or /
    re.compile(r"(?i)(://[^/\s:@]{0,128}:)([^\s\"'<>]{1,512})(?=@)"),
    re.compile(r"()(\b(?:hvs|hvb|hvr|s|b)\.[A-Za-z0-9_-]{20,}|vault:v\d+:[A-Za-z0-9+/=]+)"),
    re.compile(r"()(\b(?:AKIA|ASIA)[A-Z0-9]{12,})"),
    # our own API tokens
    re.compile(r"()(cpt_[A-Za-z0-9_-]{20,})"),
    re.compile(r"()((?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*)"),
)


def redact(text: str, *secrets: str, limit: int = 2_000) -> str:
    """``text`` without what looks like a secret, nor any of the ``secrets`` known here; bounded.

    Known ones (of four characters or more) are found as they are and as URLs, JSON and XML write them.
    """
    spellings = {spelt for secret in secrets if len(secret) >= 4 for spelt in _spellings(secret)}
    for spelt in sorted(spellings, key=len, reverse=True):
        text = text.replace(spelt, MASK)
    for pattern in _PATTERNS:
        text = pattern.sub(lambda m: m.group(1) + MASK, text)
    return text if len(text) <= limit else text[:limit] + "…"


def _spellings(secret: str) -> Iterator[str]:
    yield secret
    yield quote(secret, safe="", errors="replace")
    yield quote(secret, errors="replace")
    yield quote_plus(secret, errors="replace")
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield escape(secret)
    yield escape(secret, quote=False)


def traceback_of(error: BaseException) -> str:
    """``error`` and its causes as redacted text, without the local variables that other formatters show."""
    return redact("".join(traceback.format_exception(error)), limit=20_000)


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
            foreign_pre_chain=[*shared, _redact_foreign],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _render_error, last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.raiseExceptions = False  # a full disk must not end the work that is being logged
    # What no line of ours has need not be found out for each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 -- as the standard library's own documentation says: the stack is not searched


def _redact_foreign(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A library's own log line: it may quote a URL or a header."""
    return {**event, "event": redact(str(event["event"]), limit=20_000)}


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
