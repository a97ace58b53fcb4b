"""The embedded stack: real servers, started and stopped together."""
