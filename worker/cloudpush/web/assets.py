"""Stylesheet, scripts and icon: read once, served under the digest of all of them, so that browsers may keep them for ever."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Assets:
    """Files by name, and the digest that their addresses carry."""

    files: Mapping[str, bytes]
    digest: str

    @classmethod
    def read(cls, directory: Path) -> Assets:
        """Every file of ours in ``directory``."""
        files = {p.name: p.read_bytes() for p in sorted(directory.iterdir()) if p.suffix in KINDS}
        whole = hashlib.sha256()
        for name, data in files.items():
            whole.update(f"{name}\0{len(data)}\0".encode())
            whole.update(data)
        return cls(files, whole.hexdigest()[:16])

    def path(self, name: str) -> str:
        """Where ``name`` is served. Modules import their neighbours by ``./name``, and so find those of the same digest."""
        if name not in self.files:
            raise KeyError(name)
        return f"/static/{self.digest}/{name}"

    def routes(self) -> list[Route]:
        """The way to the files, and to the icon where browsers look for one unasked."""
        return [Route("/static/{digest}/{name}", self._serve), Route("/favicon.ico", self._icon)]

    async def _serve(self, request: Request) -> Response:
        name = request.path_params["name"]
        data = self.files.get(name)
        if data is None:
            raise HTTPException(404)
        # Another digest: a page of before an update asks. It gets what there is, and keeps it for no time.
        keep = FOREVER if request.path_params["digest"] == self.digest else "no-cache"
        return Response(
            data, headers={"content-type": f"{KINDS[Path(name).suffix]}; charset=utf-8", "cache-control": keep}
        )

    async def _icon(self, _request: Request) -> Response:
        headers = {"content-type": KINDS[".svg"], "cache-control": "public, max-age=86400"}
        return Response(self.files["icon.svg"], headers=headers)
