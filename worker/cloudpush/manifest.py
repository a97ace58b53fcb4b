"""Manifests as users write them: CSV, JSON and JSON Lines, read row by row in constant memory."""
