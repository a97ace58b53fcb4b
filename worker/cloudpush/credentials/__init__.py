"""Secrets: sealed in Vault, described in Postgres."""
