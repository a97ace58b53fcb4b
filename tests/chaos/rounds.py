"""Kill something at a random moment while pushes run; then everything must be right all the same.

What "right" means, after each round: every push has the verdict that it deserves, every object of a succeeded push
is there exactly once with the bytes of its source, nothing is left ``running``, and the audit verifies.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import boto3
import psutil
from botocore.config import Config

from cloudpush.audit import integrity
from cloudpush.credentials.kinds import parse
from cloudpush.errors import CloudPushError
from cloudpush.push.custody import Caller
from cloudpush.push.job import Request
from cloudpush.push.states import State
from cloudpush.settings import read_settings
from cloudpush.stack.seaweedfs import S3Identity, SeaweedFS
from cloudpush.wiring import Services, build

TARGETS = ("worker", "rclone", "valkey", "postgres", "openbao")
BUCKET = "chaos"
REGION = "us-east-1"
OWNER = "chaos"
USER = S3Identity("chaos", "CHAOSKEY000000000001", "chaossecret0000000000000000000000000001")
KIB, MIB = 1024, 1024**2

#: Short enough that a dead worker is replaced within a round, long enough that a busy machine keeps its leases.
FAST = {
    "CLOUDPUSH_LEASE_SECONDS": "4",
    "CLOUDPUSH_HEARTBEAT_SECONDS": "0.5",
    "CLOUDPUSH_RETRY_BASE_SECONDS": "0.3",
    "CLOUDPUSH_RETRY_CAP_SECONDS": "3",
    "CLOUDPUSH_SWEEP_SECONDS": "0.3",
    "CLOUDPUSH_PART_FILES": "60",
    "CLOUDPUSH_MAX_ATTEMPTS": "30",
    "CLOUDPUSH_LOG_LEVEL": "info",
}


@dataclass
class Expected:
    """A push that was submitted, and how it has to end."""

    push_id: UUID
    prefix: str
    states: tuple[State, ...]
    files: dict[str, bytes] = field(default_factory=dict)  # relative path → MD5


@dataclass
class Outcome:
    """One round."""

    number: int
    target: str
    after: float  # seconds from the first submission to the kill
    took: float  # seconds until every verdict was there
    problems: list[str]


class Arena:
    """A running stack, a user's cloud and datasets."""

    def __init__(self, base: Path, cloud: SeaweedFS, services: Services, seed: int) -> None:
        self.base = base
        self.cloud = cloud
        self.services = services
        self.chance = random.Random(seed)
        self.s3: Any = boto3.client(
            "s3",
            endpoint_url=cloud.endpoint,
            aws_access_key_id=USER.access_key,
            aws_secret_access_key=USER.secret_key,
            region_name=REGION,
            config=Config(proxies={}, s3={"addressing_style": "path"}),
        )
        self.many = self._write("many", {f"d{i % 7}/f{i:03d} é.bin": 3 * KIB + i for i in range(200)})
        self.big = self._write("big", {"big.bin": 150 * MIB})

    def _write(self, name: str, files: dict[str, int]) -> dict[str, bytes]:
        digests = {}
        for path, size in files.items():
            data = os.urandom(min(size, MIB)) * (size // min(size, MIB))
            where = self.base / "data" / name / path
            where.parent.mkdir(parents=True, exist_ok=True)
            where.write_bytes(data)
            digests[path] = hashlib.md5(data, usedforsecurity=False).digest()
        return digests

    def round(self, number: int, target: str) -> Outcome:
        """Submit, kill, wait, check."""
        began = time.monotonic()
        expected = self._submit()
        pause = self.chance.uniform(0.02, 2.0)
        time.sleep(pause)
        problems = self._kill(target)
        problems += self._wait(expected, 150)
        took = time.monotonic() - began
        for one in expected:
            problems += self._check(one)
        self._empty()
        return Outcome(number, target, pause, took, problems)

    def verify_audit(self) -> list[str]:
        """Every chain and digest of the whole history."""
        report = integrity.verify(self.services.database)
        return [f"audit: {f.stream}: {f.what}" for f in report.faults]

    # -- submitting ------------------------------------------------------------------------

    def _submit(self) -> list[Expected]:
        done = (State.SUCCEEDED,)
        pushes = [
            self._one("many", "good", done, self.many),
            self._one("big", "good", done, self.big),
            self._one("many", "wrong", (State.FAILED,), {}),
            self._one("many", "good", done, self.many),
        ]
        cancelled = self._one("big", "good", (State.CANCELLED, State.SUCCEEDED), {})
        with suppress(CloudPushError):
            self.services.intake.cancel(cancelled.push_id, OWNER, OWNER)
        return [*pushes, cancelled]

    def _one(self, source: str, credential: str, states: tuple[State, ...], files: dict[str, bytes]) -> Expected:
        prefix = uuid4().hex[:12]
        request = Request(OWNER, OWNER, str(self.base / "data" / source), f"s3://{BUCKET}/{prefix}", credential)
        return Expected(self.services.intake.submit(request).push_id, prefix, states, files)

    # -- killing -----------------------------------------------------------------------------

    def _kill(self, target: str) -> list[str]:
        pid = self._pid(target)
        if pid is None:
            return [f"no {target} to kill"]
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return []

    def _pid(self, target: str) -> int | None:
        state = json.loads((self.base / "stack" / "state.json").read_text())
        holder = psutil.Process(state["pid"])
        for child in holder.children(recursive=True):
            with suppress(psutil.Error):
                if _is(child, target):
                    return child.pid
        return None

    # -- checking ------------------------------------------------------------------------------

    def _wait(self, expected: list[Expected], seconds: float) -> list[str]:
        deadline = time.monotonic() + seconds
        waiting = {e.push_id: e for e in expected}
        while waiting and time.monotonic() < deadline:
            for push_id in list(waiting):
                with suppress(CloudPushError):
                    if State(self.services.history.push(push_id)["state"]).final:
                        del waiting[push_id]
            time.sleep(0.1)
        return [f"push {push_id} has no verdict after {seconds:.0f} s" for push_id in waiting]

    def _check(self, one: Expected) -> list[str]:
        row = self.services.history.push(one.push_id)
        if State(row["state"]) not in one.states:
            return [
                f"push {one.push_id} ended {row['state']} ({row['error_code']}: {row['error_message']}), expected {one.states}"
            ]
        problems = []
        if State(row["state"]) is State.SUCCEEDED and one.files:
            problems += self._check_objects(one)
            recorded = {f["path"]: f for f in self.services.history.files(one.push_id)}
            if set(recorded) != set(one.files):
                problems.append(f"push {one.push_id} records {len(recorded)} files, the source has {len(one.files)}")
            problems += [
                f"{f['path']}: recorded {f['state']} by {f['strength']}"
                for f in recorded.values()
                if f["state"] not in ("verified", "skipped") or f["strength"] != "checksum"
            ]
        return problems

    def _check_objects(self, one: Expected) -> list[str]:
        there = {}
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=one.prefix + "/"):
            for item in page.get("Contents", []):
                there[item["Key"][len(one.prefix) + 1 :]] = item["ETag"].strip('"')
        problems = [f"{path} is missing" for path in one.files.keys() - there.keys()]
        problems += [f"{path} should not be there" for path in there.keys() - one.files.keys()]
        for path in one.files.keys() & there.keys():
            if "-" in there[path]:
                body = self.s3.get_object(Bucket=BUCKET, Key=f"{one.prefix}/{path}")["Body"]
                digest = hashlib.md5(usedforsecurity=False)
                for block in body.iter_chunks(MIB):
                    digest.update(block)
                same = digest.digest() == one.files[path]
            else:
                same = there[path] == one.files[path].hex()
            if not same:
                problems.append(f"{path} has other bytes than its source")
        return problems

    def _empty(self) -> None:
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
            keys = [{"Key": item["Key"]} for item in page.get("Contents", [])]
            if keys:
                self.s3.delete_objects(Bucket=BUCKET, Delete={"Objects": keys})


def _is(process: psutil.Process, target: str) -> bool:
    words = process.cmdline()
    name = Path(words[0]).name if words else ""
    match target:
        case "worker":
            return "worker" in words and "cloudpush" in " ".join(words)
        case "rclone":
            return name == "rclone" and "rcd" in words
        case "valkey":
            return process.name().startswith("valkey")
        case "postgres":
            return name == "postgres" and "-D" in words
        case _:
            return name == "bao"


@contextmanager
def arena(base: Path, *, seed: int) -> Iterator[Arena]:
    """A stack of its own below ``base``; stopped afterwards."""
    (base / "data").mkdir(parents=True)
    cloud = SeaweedFS(base / "cloud", [USER], buckets=[BUCKET])
    stack = ["--data-dir", str(base / "stack")]
    command = [sys.executable, "-m", "cloudpush"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("CLOUDPUSH_")} | FAST
    try:
        cloud.start()
        cloud.ready()
        subprocess.run(
            [
                *command,
                "up",
                "--detach",
                *stack,
                "--source-root",
                str(base / "data"),
                "--allow-endpoint",
                cloud.address,
            ],
            check=True,
            env=env,
            stdout=subprocess.DEVNULL,
        )
        services = build(read_settings({"CLOUDPUSH_ENV_FILE": str(base / "stack" / "cloudpush.env")}))
        for name, secret in (("good", USER.secret_key), ("wrong", "wrong" + USER.secret_key)):
            key = parse(
                "access_key",
                {
                    "access_key_id": USER.access_key,
                    "secret_access_key": secret,
                    "endpoint": cloud.endpoint,
                    "region": REGION,
                },
            )
            services.custody.add(Caller(OWNER), key, name=name, profile="seaweedfs")
        yield Arena(base, cloud, services, seed)
        services.close()
    finally:
        subprocess.run([*command, "down", *stack], check=False, env=env)
        cloud.stop()
