"""Grants: what a user's consent gave, how it is kept alive, shared, used and taken back."""
