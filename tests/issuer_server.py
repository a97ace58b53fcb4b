"""CloudPush's own issuer over real HTTP, with its key in a real vault: what a cloud fetches metadata and keys from."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

from cloudpush.stack.ports import HOST, free_ports
from cloudpush.web.issuer import Keys, issuer_routes


@contextmanager
def issuer(keys: Keys, port: int = 0) -> Iterator[str]:
    """The issuer's URL, served meanwhile."""
    port = port or free_ports(1)[0]
    url = f"http://{HOST}:{port}"
    app = Starlette(routes=issuer_routes(url, keys))
    server = uvicorn.Server(uvicorn.Config(app, host=HOST, port=port, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, name="issuer", daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.01)
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join(10)
