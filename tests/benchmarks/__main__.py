"""The benchmarks: every side in one run, in turn, so that a noisy machine is noisy for all.

``PYTHONPATH=tests python -m benchmarks [NAME …] [--rounds 5] [--json FILE]``

Each measure prints its median with minimum and maximum, and the ratio to its rival: the median of the ratios of the
rounds, because the two sides of one round ran within seconds of each other.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import psutil
import sqlalchemy as sa

from cloudpush.audit.tables import push
from cloudpush.credentials.kinds import parse
from cloudpush.push.custody import Caller
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


# -- the measures ------------------------------------------------------------------------------


def many_small(b: Bench) -> Row:
    """5,000 files of 10 KiB."""
    source = b.base / "data" / "many"
    write_files(source, 5_000, 10 * KIB)
    ours, s5, rclone = Series("cloudpush"), Series("s5cmd cp"), Series("rclone copy + check")
    for number in range(b.rounds + 1):
        values = (
            b.push(source, f"s3://{BUCKET}/{fresh('ours')}"),
            b.s5cmd("cp", f"{source}/", f"s3://{BUCKET}/{fresh('s5')}/"),
            copy_and_check(b, source),
        )
        if number:  # the first round warms up
            for series, value in zip((ours, s5, rclone), values, strict=True):
                series.values.append(value)
    a, c = ours.over(s5), ours.over(rclone)
    return Row(
        "verified push of 5,000 × 10 KiB, submit → verdict",
        str(ours),
        f"s5cmd cp, unverified: {s5}; rclone copy + check: {rclone}",
        f"{a:.2f} × s5cmd; {c:.2f} × rclone",
        "≤ 1.3 × s5cmd; ≤ 0.75 × rclone",
        a <= 1.3 and c <= 0.75,
    )


def copy_and_check(b: Bench, source: Path) -> float:
    """rclone's own way to a verified copy, with its defaults."""
    target = f"dst:{BUCKET}/{fresh('rc')}"
    return b.rclone("copy", str(source), target) + b.rclone("check", str(source), target)


def one_big(b: Bench) -> Row:
    """One file of 1 GiB."""
    source = b.base / "data" / "big" / "one.bin"
    write_big(source, GIB)
    chunking = ["--s3-chunk-size", "16Mi", "--s3-upload-concurrency", "4", "--s3-upload-cutoff", "64Mi"]
    ours, bare = Series("cloudpush"), Series("rclone copyto")
    for number in range(b.rounds + 1):
        values = (
            b.push(source, f"s3://{BUCKET}/{fresh('big')}"),
            b.rclone("copyto", *chunking, str(source), f"dst:{BUCKET}/{fresh('bare')}/one.bin"),
        )
        empty_bucket(b)
        if number:
            ours.values.append(values[0])
            bare.values.append(values[1])
    ratio = ours.over(bare)
    return Row(
        "verified push of one 1 GiB file",
        str(ours),
        f"bare rclone copyto, same chunking: {bare}",
        f"{ratio:.2f} ×",
        "≤ 1.05 ×",
        ratio <= 1.05,
    )


def one_small(b: Bench) -> Row:
    """One file of 10 KiB, the worker idle."""
    source = b.base / "data" / "small" / "one.bin"
    write_big(source, 10 * KIB)
    ours, bare = Series("cloudpush", "ms"), Series("rclone copyto", "ms")
    for number in range(220):
        seconds = b.push(source, f"s3://{BUCKET}/{fresh('one')}")
        if number >= 20:
            ours.values.append(seconds * 1000)
        if number % 10 == 9:
            bare.values.append(b.rclone("copyto", str(source), f"dst:{BUCKET}/{fresh('bare')}/one.bin") * 1000)
    cuts = statistics.quantiles(ours.values, n=100)
    p50, p95 = cuts[49], cuts[94]
    return Row(
        "one 10 KiB file, submit → verdict, idle worker",
        f"p50 {p50:.1f} ms, p95 {p95:.1f} ms (n = {len(ours.values)})",
        f"a spawned rclone copyto: {bare}",
        f"{p50 / statistics.median(bare.values):.2f} ×",
        "p50 ≤ 25 ms, p95 ≤ 60 ms",
        p50 <= 25 and p95 <= 60,
    )


def sustained(b: Bench) -> Row:
    """Many pushes of one small file."""
    source = b.base / "data" / "small" / "one.bin"
    write_big(source, 10 * KIB)
    ours, noop = Series("cloudpush", "/s"), Series("no-op task", "/s")
    count = 600
    for number in range(b.rounds + 1):
        began = time.perf_counter()
        ids = [b.submit(source, f"s3://{BUCKET}/{fresh('many')}") for _ in range(count)]
        b.wait_all(ids)
        rate = count / (time.perf_counter() - began)
        other = noop_rate(b)
        if number:
            ours.values.append(rate)
            noop.values.append(other)
    rate = statistics.median(ours.values)
    return Row(
        f"sustained 10 KiB pushes ({count} a round), sealed credential, verified, audited",
        str(ours),
        f"no-op Celery tasks: {noop}",
        "",
        "≥ 60/s",
        rate >= 60,
    )


def noop_rate(b: Bench) -> float:
    """Pushes that do not exist: a task that finds nothing to claim, through the same worker."""
    count = 2_000
    began = time.perf_counter()
    for _ in range(count):
        b.services.announcer.push(uuid4())
    while b.services.announcer.length():
        time.sleep(0.002)
    return count / (time.perf_counter() - began)


def memory(b: Bench) -> Row:
    """200,000 files that are nearly empty, to rclone's own S3 server in memory."""
    source = b.base / "data" / "crowd"
    write_files(source, 200_000, 16, per_directory=1_000)
    with memory_server(b):
        samples: list[int] = []
        stop = threading.Event()
        watcher = threading.Thread(target=lambda: sample(b, samples, stop))
        watcher.start()
        began = time.perf_counter()
        b.wait(b.submit(source, "memory://crowd/all", "memory"), 3600)
        seconds = time.perf_counter() - began
        stop.set()
        watcher.join()
    shutil.rmtree(source)
    quarter = len(samples) // 4
    second, last = max(samples[quarter : 2 * quarter]), max(samples[3 * quarter :])
    peak = max(samples)
    return Row(
        "200,000 × 16 B planned and pushed to `rclone serve s3 :memory:`",
        f"worker RSS peak {peak / MIB:.0f} MiB",
        f"peak of its 2nd quarter {second / MIB:.0f} MiB, of its last {last / MIB:.0f} MiB; {seconds:.0f} s, {200_000 / seconds:.0f} files/s",
        f"last/2nd quarter {last / second:.2f}",
        "≤ 300 MiB, flat",
        peak <= 300 * MIB and last <= 1.1 * second,
    )


def sample(b: Bench, samples: list[int], stop: threading.Event) -> None:
    """The workers' resident memory, ten times a second."""
    workers = b.workers()
    while not stop.wait(0.1):
        samples.append(max(p.memory_info().rss for p in workers))


@contextmanager
def memory_server(b: Bench) -> Iterator[None]:
    """`rclone serve s3` over its memory backend, at the address that the stack was told to allow."""
    address = os.environ["BENCH_MEMORY_ADDRESS"]
    server = subprocess.Popen(
        [
            str(binaries.rclone()),
            "serve",
            "s3",
            ":memory:",
            "--addr",
            address,
            "--auth-key",
            f"{MEMORY_USER.access_key},{MEMORY_USER.secret_key}",
            "--config",
            "",
            "--force-path-style",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(1)
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(b.base),
            "AWS_ACCESS_KEY_ID": MEMORY_USER.access_key,
            "AWS_SECRET_ACCESS_KEY": MEMORY_USER.secret_key,
            "AWS_REGION": REGION,
        }
        timed([str(S5CMD), "--endpoint-url", f"http://{address}", "mb", "s3://crowd"], env)
        yield
    finally:
        server.kill()
        server.wait()


MEASURES: dict[str, Callable[[Bench], Row]] = {
    # In this order on purpose: a database that has served thousands of small pushes must be quick for a large one.
    "one-small": one_small,
    "sustained": sustained,
    "many-small": many_small,
    "one-big": one_big,
    "memory": memory,
}


# -- what they need --------------------------------------------------------------------------------


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


def table(rows: list[Row]) -> str:
    """As Markdown."""
    lines = ["| measure | CloudPush | beside it | ratio | goal | met |", "| --- | --- | --- | --- | --- | --- |"]
    lines += [
        f"| {r.measure} | {r.ours} | {r.beside} | {r.ratio} | {r.goal} | {'yes' if r.met else '**no**'} |" for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the measures that were named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*MEASURES, []])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    rows: list[Row] = []
    with running(args.rounds) as b:
        for name in args.names or MEASURES:
            sys.stderr.write(f"measuring {name} …\n")
            rows.append(MEASURES[name](b))
            sys.stderr.write(f"  {rows[-1].ours}  {rows[-1].ratio}\n")
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}, "
        f"{args.rounds} rounds; median (minimum–maximum)\n\n{table(rows)}"
    )
    if args.json:
        args.json.write_text(json.dumps([r.__dict__ for r in rows], indent=1))


if __name__ == "__main__":
    main()
