"""Pushes with signed URLs: through our own uploader, proved by the answers to the uploads themselves."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import boto3
import psutil
from botocore.config import Config

from benchmarks.stand import (
    BUCKET,
    GIB,
    KIB,
    MIB,
    OWNER,
    REGION,
    USER,
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
from cloudpush.manifest import rows
from cloudpush.push.job import Request
from cloudpush.push.states import Strength

#: What the issue allows the worker.
MEMORY = 150 * MIB
ROWS = 1_000_000


def client(b: Bench) -> Any:
    """A witness that signs as users do."""
    return boto3.client(
        "s3",
        endpoint_url=b.cloud.endpoint,
        aws_access_key_id=USER.access_key,
        aws_secret_access_key=USER.secret_key,
        region_name=REGION,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )


def put_url(witness: Any, key: str) -> str:
    """A PUT URL that lives for an hour."""
    url: str = witness.generate_presigned_url("put_object", {"Bucket": BUCKET, "Key": key}, ExpiresIn=3600)
    return url


def manifest_of(b: Bench, source: Path, prefix: str) -> Path:
    """A JSON Lines manifest of every file below ``source``; kept out of the measured time, as its user's work."""
    witness = client(b)
    path = b.base / "manifest.jsonl"
    with path.open("w") as f:
        for file in sorted(p for p in source.rglob("*") if p.is_file()):
            relative = str(file.relative_to(source))
            f.write(json.dumps({"path": relative, "url": put_url(witness, f"{prefix}/{relative}")}) + "\n")
    return path


def submit(b: Bench, source: Path, manifest: Path) -> UUID:
    """Read the manifest, check, seal, store and announce."""
    request = Request(OWNER, OWNER, str(source), "", "", min_strength=Strength.CHECKSUM)
    with manifest.open("rb") as stream:
        return b.services.signed.submit(request, rows(stream, "jsonl")).push_id


def push(b: Bench, source: Path, manifest: Path) -> float:
    """Seconds from the manifest's first byte to the verdict."""
    began = time.perf_counter()
    b.wait(submit(b, source, manifest))
    return time.perf_counter() - began


@contextmanager
def watched(b: Bench) -> Iterator[list[int]]:
    """The workers' resident memory meanwhile."""
    samples: list[int] = []
    stop = threading.Event()
    watcher = threading.Thread(target=lambda: sample(b, samples, stop))
    watcher.start()
    try:
        yield samples
    finally:
        stop.set()
        watcher.join()


def many_by_manifest(b: Bench) -> Row:
    """5,000 files of 10 KiB."""
    source = b.base / "data" / "many"
    write_files(source, 5_000, 10 * KIB)
    ours, s5 = Series("cloudpush"), Series("s5cmd cp")
    with watched(b) as samples:
        for number in range(b.rounds + 1):
            manifest = manifest_of(b, source, fresh("signed"))
            values = (push(b, source, manifest), b.s5cmd("cp", f"{source}/", f"s3://{BUCKET}/{fresh('s5')}/"))
            if number:  # the first round warms up
                ours.values.append(values[0])
                s5.values.append(values[1])
    ratio, peak = ours.over(s5), max(samples)
    return Row(
        "5,000 × 10 KiB by manifest of PUT URLs, manifest → verdict, proved by checksum",
        f"{ours}; worker RSS peak {peak / MIB:.0f} MiB",
        f"s5cmd cp, unverified: {s5}",
        f"{ratio:.2f} ×",
        "≤ 1.2 ×; ≤ 150 MiB",
        ratio <= 1.2 and peak <= MEMORY,
    )


def big_by_url(b: Bench) -> Row:
    """One file of 1 GiB in one PUT."""
    source = b.base / "data" / "big"
    write_big(source / "one.bin", GIB)
    witness = client(b)
    ours, curl = Series("cloudpush"), Series("curl -T")
    with watched(b) as samples:
        for number in range(b.rounds + 1):
            manifest = manifest_of(b, source, fresh("signed-big"))
            other = put_url(witness, f"{fresh('curl')}/one.bin")
            values = (
                push(b, source, manifest),
                timed(["curl", "-sS", "--fail", "-T", str(source / "one.bin"), other], {"PATH": os.environ["PATH"]}),
            )
            empty_bucket(b)
            if number:
                ours.values.append(values[0])
                curl.values.append(values[1])
    ratio, peak = ours.over(curl), max(samples)
    return Row(
        "one 1 GiB PUT by URL, manifest → verdict, proved by checksum",
        f"{ours}; worker RSS peak {peak / MIB:.0f} MiB",
        f"curl -T: {curl}",
        f"{ratio:.2f} ×",
        "≤ 1.05 ×; ≤ 150 MiB",
        ratio <= 1.05 and peak <= MEMORY,
    )


def long_manifest(b: Bench) -> Row:
    """A manifest of a million rows, accepted by the command line; cancelled before it is executed."""
    path = b.base / "million.jsonl"
    base = (
        f"{b.cloud.endpoint}/{BUCKET}/%s?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={USER.access_key}%%2F"
        f"{time.strftime('%Y%m%d', time.gmtime())}%%2F{REGION}%%2Fs3%%2Faws4_request&X-Amz-Date="
        f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=%s"
    )
    with path.open("w") as f:
        for number in range(ROWS):
            name = f"d{number // 1000:04d}/f{number:07d}.bin"
            f.write(json.dumps({"path": name, "url": base % (f"million/{name}", secrets.token_hex(32))}) + "\n")
    source = b.base / "data" / "small"
    write_big(source / "one.bin", 10 * KIB)
    env = os.environ | {"CLOUDPUSH_ENV_FILE": str(b.base / "stack" / "cloudpush.env")}
    command = [sys.executable, "-m", "cloudpush", "push", str(source), "--manifest", str(path), "--json"]
    workers = b.workers()
    for worker in workers:
        worker.suspend()
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--owner", OWNER], env=env, stdout=subprocess.PIPE, text=True)
    memory: list[int] = []
    try:
        while process.poll() is None:
            memory.append(psutil.Process(process.pid).memory_info().rss)
            time.sleep(0.1)
        seconds = time.perf_counter() - began
        if process.returncode != 0 or process.stdout is None:
            raise SystemExit(f"the manifest was not accepted: exit code {process.returncode}")
        push_id = UUID(json.loads(process.stdout.read())["push"])
        b.services.intake.cancel(push_id, None, OWNER)
    finally:
        for worker in workers:
            worker.resume()
    path.unlink()
    quarter = len(memory) // 4
    second, last = max(memory[quarter : 2 * quarter]), max(memory[3 * quarter :])
    return Row(
        "a manifest of 1,000,000 rows: read, checked, sealed, stored",
        f"{seconds:.0f} s, {ROWS / seconds:.0f} rows/s; RSS peak {max(memory) / MIB:.0f} MiB",
        f"peak of its 2nd quarter {second / MIB:.0f} MiB, of its last {last / MIB:.0f} MiB",
        f"last/2nd quarter {last / second:.2f}",
        "flat",
        last <= 1.1 * second,
    )


MEASURES: dict[str, Callable[[Bench], Row]] = {
    "signed-small": many_by_manifest,
    "signed-big": big_by_url,
    "signed-manifest": long_manifest,
}
