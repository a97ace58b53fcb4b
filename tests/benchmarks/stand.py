"""The running stack and the user's cloud that every measure has, and how figures are written."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import psutil
import sqlalchemy as sa

from cloudpush.audit.tables import push
from cloudpush.credentials.kinds import parse
from cloudpush.push.credential import Caller
from cloudpush.push.job import Request
from cloudpush.push.states import State
from cloudpush.settings import Settings, read_settings
from cloudpush.stack import binaries
from cloudpush.stack.ports import free_ports
from cloudpush.stack.seaweedfs import S3Identity, SeaweedFS
from cloudpush.wiring import Services, build

KIB, MIB, GIB = 1024, 1024**2, 1024**3
BUCKET = "bench"
REGION = "us-east-1"
OWNER = "bench"
USER = S3Identity("bench", "BENCHKEY000000000001", "benchsecret0000000000000000000000000001")
MEMORY_USER = S3Identity("memory", "MEMORYKEY00000000001", "memorysecret000000000000000000000000001")
S5CMD = Path(sys.executable).parent / "s5cmd"


@dataclass
class Series:
    """Seconds (or a rate) of one side, round by round."""

    name: str
    unit: str = "s"
    values: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{statistics.median(self.values):.3g} {self.unit} ({min(self.values):.3g}–{max(self.values):.3g})"

    def over(self, other: Series) -> float:
        """The median ratio, round by round."""
        return statistics.median(a / b for a, b in zip(self.values, other.values, strict=True))


@dataclass
class Row:
    """One line of the table."""

    measure: str
    ours: str
    beside: str
    ratio: str
    goal: str
    met: bool | None


@dataclass
class Bench:
    """The running stack, and the user's cloud."""

    base: Path
    settings: Settings
    services: Services
    cloud: SeaweedFS
    rounds: int

    def submit(self, source: Path, destination: str, credential: str = "bench") -> UUID:
        """Store and announce one push."""
        request = Request(OWNER, OWNER, str(source), destination, credential)
        return self.services.intake.submit(request).push_id

    def wait(self, push_id: UUID, seconds: float = 600) -> None:
        """Until the verdict, which must be a success; told by Redis, read from Postgres."""
        deadline = time.monotonic() + seconds
        with self.services.announcer.watch(push_id) as heard:
            while True:
                row = self.services.history.push(push_id)
                if State(row["state"]).final:
                    if row["state"] != State.SUCCEEDED:
                        raise SystemExit(
                            f"push {push_id} ended {row['state']}: {row['error_code']} {row['error_message']}"
                        )
                    return
                if time.monotonic() > deadline:
                    raise SystemExit(f"push {push_id} is still {row['state']}")
                while (message := heard(1.0)) is not None and "state" not in message:
                    pass

    def wait_all(self, ids: list[UUID]) -> None:
        """Until every one has its verdict, which must be a success; asked for all at once."""
        left = sa.select(sa.func.count()).where(push.c.id.in_(ids), push.c.state != State.SUCCEEDED)
        wrong = left.where(push.c.finished_at.is_not(None))
        with self.services.database.connect().execution_options(isolation_level="AUTOCOMMIT") as c:
            while c.execute(left).scalar_one():
                if c.execute(wrong).scalar_one():
                    raise SystemExit("a push failed")
                time.sleep(0.1)

    def push(self, source: Path, destination: str) -> float:
        """Seconds from submission to verdict."""
        began = time.perf_counter()
        self.wait(self.submit(source, destination))
        return time.perf_counter() - began

    def rclone_env(self) -> dict[str, str]:
        """rclone's remote `dst:` for the same bucket and key."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.base),
            "RCLONE_CONFIG": "",
            "RCLONE_CONFIG_DST_TYPE": "s3",
            "RCLONE_CONFIG_DST_PROVIDER": "SeaweedFS",
            "RCLONE_CONFIG_DST_ENDPOINT": self.cloud.endpoint,
            "RCLONE_CONFIG_DST_ACCESS_KEY_ID": USER.access_key,
            "RCLONE_CONFIG_DST_SECRET_ACCESS_KEY": USER.secret_key,
            "RCLONE_CONFIG_DST_REGION": REGION,
        }

    def rclone(self, *words: str) -> float:
        """Seconds of one rclone command."""
        return timed([str(binaries.rclone()), *words], self.rclone_env())

    def s5cmd(self, *words: str) -> float:
        """Seconds of one s5cmd command."""
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.base),
            "AWS_ACCESS_KEY_ID": USER.access_key,
            "AWS_SECRET_ACCESS_KEY": USER.secret_key,
            "AWS_REGION": REGION,
        }
        return timed([str(S5CMD), "--endpoint-url", self.cloud.endpoint, "--log", "error", *words], env)

    def workers(self) -> list[psutil.Process]:
        """The worker processes of this stack."""
        state = str(self.base / "stack")
        return [
            p
            for p in psutil.process_iter(["cmdline", "environ"])
            if "worker" in (p.info["cmdline"] or [])
            and (p.info["environ"] or {}).get("CLOUDPUSH_ENV_FILE", "").startswith(state)
        ]


def timed(command: list[str], env: dict[str, str]) -> float:
    """Seconds of a command that must succeed."""
    began = time.perf_counter()
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def fresh(prefix: str) -> str:
    """A prefix that nothing was written to."""
    return f"{prefix}-{uuid4().hex[:10]}"


def write_files(directory: Path, count: int, size: int, *, per_directory: int = 500) -> None:
    """``count`` files of random bytes; kept for the next call."""
    if directory.exists():
        return
    for number in range(count):
        where = directory / f"d{number // per_directory:04d}"
        if number % per_directory == 0:
            where.mkdir(parents=True)
        (where / f"f{number:06d}.bin").write_bytes(os.urandom(size))


def write_big(path: Path, size: int) -> None:
    """One file of random bytes; kept for the next call."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as f:
        for start in range(0, size, 8 * MIB):
            f.write(os.urandom(min(8 * MIB, size - start)))


def empty_bucket(b: Bench) -> None:
    """So that the server's volumes do not fill up."""
    b.s5cmd("rm", f"s3://{BUCKET}/*")


@contextmanager
def running(rounds: int) -> Iterator[Bench]:
    """The embedded stack in a directory of its own, and a local SeaweedFS as the user's cloud."""
    base = Path(tempfile.mkdtemp(prefix="cp-bench-"))
    data = base / "data"
    data.mkdir()
    os.environ["BENCH_MEMORY_ADDRESS"] = memory_address = f"127.0.0.1:{free_ports(1)[0]}"
    profiles = base / "profiles.toml"
    profiles.write_text(f'[memory]\ndialect = "other"\nendpoint = "http://{memory_address}"\nregion = "{REGION}"\n')
    cloud = SeaweedFS(base / "cloud", [USER], buckets=[BUCKET])
    stack = ["--data-dir", str(base / "stack")]
    cloudpush = [sys.executable, "-m", "cloudpush"]
    try:
        cloud.start()
        cloud.ready()
        env = os.environ | {"CLOUDPUSH_PROFILES_FILE": str(profiles), "CLOUDPUSH_LOG_LEVEL": "warning"}
        subprocess.run(
            [*cloudpush, "up", "--detach", *stack, "--source-root", str(data), "--allow-endpoint", cloud.address],
            check=True,
            env=env,
            stdout=subprocess.DEVNULL,
        )
        settings = read_settings({"CLOUDPUSH_ENV_FILE": str(base / "stack" / "cloudpush.env")})
        services = build(settings)
        caller = Caller(OWNER)
        for name, user, endpoint in (("bench", USER, cloud.endpoint), ("memory", MEMORY_USER, "")):
            secret = parse(
                "access_key",
                {
                    "access_key_id": user.access_key,
                    "secret_access_key": user.secret_key,
                    "endpoint": endpoint,
                    "region": REGION,
                },
            )
            services.custody.add(caller, secret, name=name, profile="memory" if name == "memory" else "seaweedfs")
        yield Bench(base, settings, services, cloud, rounds)
        services.close()
    finally:
        subprocess.run([*cloudpush, "down", *stack], check=False)
        cloud.stop()
        shutil.rmtree(base, ignore_errors=True)


def sample(b: Bench, samples: list[int], stop: threading.Event) -> None:
    """The workers' resident memory, ten times a second."""
    workers = b.workers()
    while not stop.wait(0.1):
        samples.append(max(p.memory_info().rss for p in workers))
