"""A user's own portal: signs URLs for its bucket, writes manifests, and answers when it is asked for fresh ones."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cloudpush.stack.seaweedfs import S3Identity
from signers import Row, S3Signer

HOST = "127.0.0.1"


class Portal:
    """Knows a key of the bucket; CloudPush gets nothing but URLs. ``asked``: what each question named."""

    def __init__(self, endpoint: str, identity: S3Identity, bucket: str, secret: str = "portal-secret-0001") -> None:
        self._endpoint = endpoint
        self._identity = identity
        self.bucket = bucket
        self.secret = secret
        self.seconds = 600
        self.asked: list[list[str]] = []
        self.signatures: frozenset[str] = frozenset()  # of all URLs that were ever signed
        self.unsigned = 0  # questions whose signature was wrong
        portal = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, answer = portal.answer(dict(self.headers), body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *words: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def callback(self) -> str:
        """Where it answers; the path is as secret as a URL's query."""
        return f"http://{HOST}:{self._server.server_port}/renew?token={self.secret}"

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()

    def signer(self, seconds: int = 0) -> S3Signer:
        """What signs."""
        return S3Signer(self._endpoint, self._identity, self.bucket, seconds=seconds or self.seconds)

    def rows(self, paths: Sequence[str], prefix: str = "run", *, seconds: int = 0) -> list[Row]:
        """A PUT URL for each path."""
        return self._sign({path: f"{prefix}/{path}" for path in paths}, seconds)

    def answer(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Fresh URLs for the keys that were asked about, if CloudPush really asks."""
        said = {name.lower(): value for name, value in headers.items()}
        signed = f"{said['cloudpush-timestamp']}.{said['cloudpush-id']}.".encode() + body
        expected = hmac.new(self.secret.encode(), signed, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(said["cloudpush-signature"], f"v1={expected}"):
            self.unsigned += 1
            return 403, b"{}"
        files: list[dict[str, Any]] = json.loads(body)["files"]
        self.asked.append([f["path"] for f in files])
        return 200, json.dumps({"files": self._sign({f["path"]: f["key"] for f in files})}).encode()

    def _sign(self, keys: Mapping[str, str], seconds: int = 0) -> list[Row]:
        signer = self.signer(seconds)
        rows = [signer.put(path, key) for path, key in keys.items()]
        self.signatures |= {row["url"].partition("X-Amz-Signature=")[2] for row in rows}
        return rows


def manifest(rows: Sequence[Row], path: Path) -> Path:
    """``rows`` as JSON Lines, for nobody else to read."""
    path.touch(mode=0o600)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
