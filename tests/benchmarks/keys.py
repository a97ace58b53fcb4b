"""Pushes with an access key: through rclone, verified by HEAD."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from benchmarks.stand import (
    BUCKET,
    GIB,
    KIB,
    MEMORY_USER,
    MIB,
    REGION,
    S5CMD,
    Bench,
    Row,
    Series,
    empty_bucket,
    fresh,
    sample,
    timed,
    write_big,
    write_files,
)
from cloudpush.stack import binaries


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
