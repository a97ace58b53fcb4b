"""Asking the destination what it has, and what that proves."""
