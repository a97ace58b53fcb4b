"""Connections that go where they were checked to go: what every part of the outside world that speaks HTTP shares."""
