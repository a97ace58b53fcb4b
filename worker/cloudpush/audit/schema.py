"""All tables together: what migrations and the drift check compare with the database."""

from __future__ import annotations

from cloudpush.audit import access_tables, retention_tables, search_tables, trust_tables
from cloudpush.audit.tables import metadata

__all__ = ["access_tables", "metadata", "retention_tables", "search_tables", "trust_tables"]
