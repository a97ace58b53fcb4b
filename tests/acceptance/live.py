"""A whole CloudPush as a user has it: `cloudpush up --detach`, a cloud of their own, and a shell."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

import psutil
import psycopg

import servers
from acceptance.gate import Gate
from cloudpush.audit.history import Filter
from cloudpush.credentials.kinds import AccessKey
from cloudpush.push.credential import Caller
from cloudpush.settings import Settings, read_settings
from cloudpush.stack.seaweedfs import S3Identity, SeaweedFS
from cloudpush.wiring import Services, build

#: How long anything may take before a test gives up on it: the machine may be busy.
PATIENCE_SECONDS = 60.0
HOST = "127.0.0.1"

#: Short pauses; leases that a busy machine keeps, since the tests know every event. All that is logged is written, so that all of it can be searched.
FAST = {
    "CLOUDPUSH_LEASE_SECONDS": "20",
    "CLOUDPUSH_HEARTBEAT_SECONDS": "0.3",
    "CLOUDPUSH_RETRY_BASE_SECONDS": "0.1",
    "CLOUDPUSH_RETRY_CAP_SECONDS": "0.4",
    "CLOUDPUSH_SWEEP_SECONDS": "0.2",
    "CLOUDPUSH_LOG_LEVEL": "debug",
}

#: What every canary that we make up ourselves has in it: one thing to look for.
STEM = "Kq" + secrets.token_hex(8)

#: Sessions that SeaweedFS hands out live for seconds, so that a test can outlive one.
SESSION_SECONDS = 6
ROLE_ARN = "arn:aws:iam::role/Session"
IAM: dict[str, Any] = {
    "sts": {
        "tokenDuration": f"{SESSION_SECONDS}s",
        "maxSessionLength": "12h",
        "issuer": "seaweedfs-sts",
        "signingKey": "dGVzdC1zaWduaW5nLWtleS0zMi1jaGFyYWN0ZXJzLWxvbmc=",
    },
    "policy": {"defaultEffect": "Deny"},
    "roles": [
        {
            "roleName": "Session",
            "roleArn": ROLE_ARN,
            "trustPolicy": {
                "Version": "2012-10-17",
                "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": ["sts:AssumeRole"]}],
            },
            "attachedPolicies": ["Everything"],
        }
    ],
    "policies": [
        {
            "name": "Everything",
            "document": {
                "Version": "2012-10-17",
                "Statement": [
                    {"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*", "arn:aws:s3:::*/*"]},
                    {"Effect": "Allow", "Action": ["sts:ValidateSession"], "Resource": ["*"]},
                ],
            },
        }
    ],
}


class Exit(IntEnum):
    """The exit codes that scripts rely on, written down once more: the product's own could change unnoticed."""

    SUCCEEDED = 0
    BAD_INPUT = 2
    FAILED = 3
    UNVERIFIED = 4
    CANCELLED = 5
    UNAVAILABLE = 6
    TIMED_OUT = 7
    UNSOUND = 8


@dataclass(frozen=True)
class Run:
    """What one command left: its exit code and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as the one JSON document that it is."""
        assert self.out, f"exit code {self.code}, it said: {self.err}"
        return json.loads(self.out)

    @property
    def refusal(self) -> tuple[int, str]:
        """The exit code and the stable code that an error begins with."""
        return self.code, self.err.partition(" ")[0]


@dataclass
class Cli:
    """A shell with one program. Everything that it ever said is kept in ``runs``."""

    environment: dict[str, str]
    runs: list[Run] = field(default_factory=list)

    def __call__(self, *words: str | Path, stdin: str = "", **variables: str) -> Run:
        """Run `cloudpush WORDS` to its end; ``variables`` come on top of the environment."""
        done = subprocess.run(
            self.command(*words),
            input=stdin,
            capture_output=True,
            text=True,
            env=self.environment | variables,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        return self.keep(Run(done.returncode, done.stdout, done.stderr))

    def start(self, *words: str | Path, **variables: str) -> subprocess.Popen[str]:
        """Run `cloudpush WORDS` in the background; give its end to :meth:`end`."""
        return subprocess.Popen(
            self.command(*words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment | variables,
        )

    def end(self, process: subprocess.Popen[str]) -> Run:
        """Wait for the end of what was started."""
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        return self.keep(Run(process.returncode, out, err))

    def command(self, *words: str | Path) -> list[str]:
        """The words that the kernel sees."""
        return [sys.executable, "-m", "cloudpush", *map(str, words)]

    def keep(self, run: Run) -> Run:
        """Remember what was said."""
        self.runs.append(run)
        return run


@dataclass(frozen=True)
class Live:
    """The running stack, the cloud and the way to both."""

    base: Path
    data: Path  # the stack's data directory
    sources: Path  # the one source root
    settings: Settings
    cli: Cli
    services: Services  # to look at the record without starting a process
    cloud: servers.Cloud
    canary: S3Identity  # a key that no test but the canary's may put anywhere
    gate: Gate
    began: float  # seconds since the epoch

    # -- givens ---------------------------------------------------------------------------

    def source(self, name: str, files: Mapping[str, bytes]) -> Path:
        """A directory below the source root."""
        top = self.sources / f"{name}-{secrets.token_hex(4)}"
        for path, data in files.items():
            (top / path).parent.mkdir(parents=True, exist_ok=True)
            (top / path).write_bytes(data)
        return top

    def big_source(self, mebibytes: int = 96) -> Path:
        """A directory with one file that is sent in pieces."""
        block = os.urandom(1024**2)
        return self.source("big", {"big.bin": block * mebibytes})

    def credential(
        self,
        identity: S3Identity = servers.ADMIN,
        *,
        endpoint: str = "",
        secret: str = "",
        token: str = "",
        owner: str = "",
    ) -> str:
        """A sealed credential's id. Not through the command line, which costs a second each time."""
        key = AccessKey.model_validate(
            {
                "access_key_id": identity.access_key,
                "secret_access_key": secret or identity.secret_key,
                "session_token": token,
                "endpoint": endpoint or self.cloud.endpoint,
                "region": servers.REGION,
            }
        )
        owner = owner or self.owner
        name = f"{identity.name}-{secrets.token_hex(4)}"
        return str(self.services.custody.add(Caller(owner), key, name=name, profile="seaweedfs").id)

    @property
    def owner(self) -> str:
        """The account that runs all this."""
        return psutil.Process().username()

    @property
    def broker_socket(self) -> str:
        """Where Valkey listens."""
        return unquote(urlsplit(self.settings.redis_url).path)

    # -- looking --------------------------------------------------------------------------

    def row(self, push_id: str) -> dict[str, Any]:
        """Where a push stands."""
        return self.services.history.push(UUID(push_id))

    def events(self, push_id: str) -> list[dict[str, Any]]:
        """What happened to it."""
        return self.services.history.events(UUID(push_id))

    def files(self, push_id: str) -> dict[str, dict[str, Any]]:
        """Its files by path."""
        return {f["path"]: f for f in self.services.history.files(UUID(push_id))}

    def superuser(self) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection to the stack's database that may see everything."""
        url = self.settings.database_url.replace("cloudpush_app@", "postgres@")
        return psycopg.connect(url, autocommit=True)

    def wait_until_stuck(self, bucket: str) -> str:
        """Return the id of the newest push into ``bucket`` once its upload is stuck at the gate."""
        which = Filter(bucket=bucket)
        until(lambda: self.gate.held, "an upload is stuck", lambda: str(self.services.history.pushes(which, limit=1)))
        [row] = self.services.history.pushes(which, limit=1)
        return str(row["id"])

    # -- mischief -------------------------------------------------------------------------

    def process(self, name: str) -> psutil.Process:
        """A service of the stack; ``up`` is the supervisor itself."""
        state = json.loads((self.data / "state.json").read_text())
        return psutil.Process(state["pid"] if name == "up" else state["services"][name]["pid"])

    @contextmanager
    def outage(self, name: str) -> Iterator[None]:
        """The service is dead inside this context, and serves again soon after it."""
        supervisor, victim = self.process("up"), self.process(name)
        supervisor.suspend()
        try:
            below = victim.children(recursive=True)
            victim.kill()
            until(lambda: all(map(_is_dead, [victim, *below])), f"{name} is dead")
            yield
        finally:
            supervisor.resume()
        until(lambda: self._serves_again(name, victim.pid), f"{name} is back")
        self.services.database.dispose()  # connections from before it died are of no use

    @contextmanager
    def asleep(self, name: str) -> Iterator[None]:
        """The service does nothing inside this context."""
        process = self.process(name)
        process.suspend()
        try:
            yield
        finally:
            process.resume()

    def _serves_again(self, name: str, old: int) -> bool:
        service = json.loads((self.data / "state.json").read_text())["services"][name]
        return service["phase"] == "running" and service["pid"] not in (old, None)


def until(true: Callable[[], bool], what: str, instead: Callable[[], str] = lambda: "") -> None:
    """Poll until it is true; fail with ``what``, and what was seen ``instead``, where it never is."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, f"never came true: {what} {instead()}"
        time.sleep(0.02)


def closed_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        port: int = taken.getsockname()[1]
    return port


def _is_dead(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@contextmanager
def running() -> Iterator[Live]:
    """A stack and a cloud of their own, stopped and removed afterwards."""
    with ExitStack() as closing:
        base = closing.enter_context(servers.scratch())
        data, sources, home = base / "stack", base / "data", base / "home"
        for path in (sources, home):
            path.mkdir(mode=0o700)
        began = time.time()
        canary = S3Identity("canary", f"AK{STEM}{secrets.token_hex(4)}", marked())
        identities = [servers.ADMIN, servers.WRITER, servers.READER, canary]
        seaweedfs = closing.enter_context(servers.running(SeaweedFS(base / "cloud", identities, iam=IAM)))
        gate = Gate((HOST, int(seaweedfs.address.rpartition(":")[2])))
        closing.callback(gate.stop)
        environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(home)}
        env_file = {"CLOUDPUSH_ENV_FILE": str(data / "cloudpush.env")}
        closing.callback(_end, data, environment)
        subprocess.run(
            [
                *(sys.executable, "-m", "cloudpush", "up", "--detach", "--data-dir", str(data)),
                # The host with all its ports: the gate and closed ports are on it, too.
                *("--source-root", str(sources), "--allow-endpoint", HOST),
            ],
            env=environment | FAST,
            stdout=subprocess.DEVNULL,
            timeout=PATIENCE_SECONDS * 2,
            check=True,
        )
        settings = read_settings(env_file)
        services = build(settings)
        closing.callback(services.close)
        cloud = servers.Cloud(seaweedfs)
        yield Live(base, data, sources, settings, Cli(environment | env_file), services, cloud, canary, gate, began)


def marked() -> str:
    """A secret that is found by its stem, with signs in it that are written differently in URLs, JSON and XML."""
    return f"{STEM}/+&<{secrets.token_urlsafe(16)}"


def _end(data: Path, environment: dict[str, str]) -> None:
    down = [sys.executable, "-m", "cloudpush", "down", "--data-dir", str(data)]
    try:
        subprocess.run(down, env=environment, stdout=subprocess.DEVNULL, timeout=PATIENCE_SECONDS, check=True)
    except subprocess.SubprocessError:
        with suppress(OSError, ValueError):  # it never got so far, or is going
            os.kill(json.loads((data / "lock").read_text())["pid"], signal.SIGKILL)  # what it started dies with it
        raise
