"""Runs oidc-provider-mock with one thing mended: its identity tokens name the key that signed them.

Every real provider writes ``kid`` into a token's head, and who looks for the key in a set of several, such as AWS or SeaweedFS,
demands it. The mock leaves it out. A program of its own, run by path: only here is something of the mock's replaced.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def main() -> None:
    """Never returns; takes the mock's own options."""
    mock: Any = import_module("oidc_provider_mock._app")
    given = mock.OpenIDCode.get_jwt_config

    def with_key_id(self: Any, grant: Any, client: Any = None) -> dict[str, Any]:
        found: dict[str, Any] = given(self, grant, client)
        # From a set of keys, Authlib takes one and writes its id into the head.
        return found | {"key": {"keys": [found["key"]]}}

    mock.OpenIDCode.get_jwt_config = with_key_id
    import_module("oidc_provider_mock.__main__").run()


if __name__ == "__main__":
    main()
