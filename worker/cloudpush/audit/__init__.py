"""Postgres: the truth about pushes, and the append-only record of them."""
