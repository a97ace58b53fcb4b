"""The REST API, under /v1: what pipelines, command lines and programs talk to. docs/api.md tells it to users."""
