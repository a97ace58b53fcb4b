"""The three servers of the embedded stack, by name."""

from __future__ import annotations

from cloudpush.stack.openbao import OpenBao
from cloudpush.stack.postgres import Postgres
from cloudpush.stack.valkey import Valkey

__all__ = ["OpenBao", "Postgres", "Valkey"]
