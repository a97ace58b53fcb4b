"""Kill something at a random moment while pushes run; then everything must be right all the same.

What "right" means, after each round: every push has the verdict that it deserves, every object of a succeeded push
is there exactly once with the bytes of its source, nothing is left ``running``, and the audit verifies. Of pushes
with signed URLs nothing stays behind: no URL, no unfinished upload, and no part that had arrived was sent again. Every push
that is over has one receipt that holds, packages are whole, checkpoints and what Vault remembers agree; and in the end
webhooks were told each verdict.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from uuid import uuid4

import psutil

from chaos.aftermath import RECEIPT_SECONDS, TOLD_SECONDS, Aftermath
from chaos.judge import Judge
from chaos.stand import BUCKET, KIB, MIB, OWNER, REGION, USER, Digests, Expected, client, write
from chaos.urls import UrlPushes
from cloudpush.credentials.kinds import parse
from cloudpush.errors import CloudPushError
from cloudpush.push.credential import Caller
from cloudpush.push.job import Request
from cloudpush.push.states import Package, State
from cloudpush.settings import read_settings
from cloudpush.stack.ports import HOST
from cloudpush.stack.seaweedfs import SeaweedFS
from cloudpush.wiring import Services, build

TARGETS = ("worker", "rclone", "valkey", "postgres", "openbao")
#: What a longer run kills, too: the sweeper is the notary.
MORE_TARGETS = (*TARGETS, "sweeper")
VERDICT_SECONDS = 150.0
#: Until what was killed serves again. Postgres recovers, OpenBao unseals itself.
BACK_SECONDS = 60.0

#: Short enough that a dead worker is replaced within a round, long enough that a busy machine keeps its leases.
FAST = {
    "CLOUDPUSH_LEASE_SECONDS": "4",
    "CLOUDPUSH_HEARTBEAT_SECONDS": "0.5",
    "CLOUDPUSH_RETRY_BASE_SECONDS": "0.3",
    "CLOUDPUSH_RETRY_CAP_SECONDS": "3",
    "CLOUDPUSH_SWEEP_SECONDS": "0.3",
    "CLOUDPUSH_PART_FILES": "60",
    "CLOUDPUSH_MAX_ATTEMPTS": "30",
    "CLOUDPUSH_CHECKPOINT_SECONDS": "10",
    "CLOUDPUSH_LOG_LEVEL": "info",
}


class With(StrEnum):
    """What the pushes of a round are made with."""

    KEYS = "keys"
    URLS = "urls"
    BOTH = "both"


@dataclass
class Outcome:
    """One round."""

    number: int
    target: str
    after: float  # seconds from the last submission to the kill
    open: int  # pushes without a verdict at that moment
    took: float  # seconds until every verdict was there
    told: str  # what else there is to say
    problems: list[str]


class Arena:
    """A running stack, a user's cloud and datasets. ``closing`` ends what is started here."""

    def __init__(self, base: Path, cloud: SeaweedFS, services: Services, seed: int, closing: ExitStack) -> None:
        self.base = base
        self.services = services
        self.chance = random.Random(seed)
        self.s3 = client(cloud.endpoint)
        self.judge = Judge(services, self.s3)
        data = base / "data"
        self.many = write(data / "many", {f"d{i % 7}/f{i:03d} é.bin": 3 * KIB + i for i in range(200)})
        self.big = write(data / "big", {"big.bin": 150 * MIB})
        self.aftermath = Aftermath(services.settings, services, self.s3, base, closing)
        self.urls = UrlPushes(data / "urls", cloud.address, services, self.s3, self.chance, closing)

    def round(self, number: int, target: str, pushes: With) -> Outcome:
        """Submit, kill, wait, check."""
        began = time.monotonic()
        with_keys = self._submit() if pushes is not With.URLS else []
        with_urls = self.urls.submit() if pushes is not With.KEYS else []
        expected = [*with_keys, *with_urls]
        pause = self.chance.uniform(0.02, 2.0)
        time.sleep(pause)
        self.urls.about_to_kill(with_urls)
        under_way = sum(not self._over(one) for one in expected)
        killed, problems = self._kill(target)
        problems += self._wait(expected)
        took = time.monotonic() - began
        problems += self._wait_for_return(target, killed)
        problems += [problem for one in with_keys for problem in self.judge.push(one)]
        problems += [problem for one in with_urls for problem in self.urls.check(one)]
        _until(lambda: all(map(self.aftermath.issued, expected)), RECEIPT_SECONDS)
        problems += [problem for one in expected if self._over(one) for problem in self.aftermath.check(one)]
        self._empty()
        return Outcome(number, target, pause, under_way, took, self.urls.told if with_urls else "", problems)

    def verify_audit(self) -> list[str]:
        """Every chain, digest and checkpoint of the whole history."""
        return self.aftermath.audit()

    def settle(self) -> list[str]:
        """Once all rounds are over: whether webhooks were told everything."""
        settled = _until(self.aftermath.settled, TOLD_SECONDS)
        return [*([] if settled else ["webhooks are owed verdicts still"]), *self.aftermath.messages()]

    # -- submitting ------------------------------------------------------------------------

    def _submit(self) -> list[Expected]:
        done = (State.SUCCEEDED,)
        pushes = [
            self._one("many", "good", done, self.many),
            self._one("big", "good", done, self.big),
            self._one("many", "wrong", (State.FAILED,), {}),
            self._one("many", "good", done, self.many),
            self._one("many", "good", done, {}, Package.BAGIT),
            self._one("many", "good", done, {}, Package.RO_CRATE),
            self._one("many", "wrong", (State.FAILED,), {}, Package.BAGIT),
        ]
        cancelled = self._one("big", "good", (State.CANCELLED, State.SUCCEEDED), {})
        with suppress(CloudPushError):
            self.services.intake.cancel(cancelled.push_id, OWNER, OWNER)
        return [*pushes, cancelled]

    def _one(
        self, source: str, credential: str, states: tuple[State, ...], files: Digests, package: Package | None = None
    ) -> Expected:
        prefix = uuid4().hex[:12]
        where = f"s3://{BUCKET}/{prefix}"
        request = Request(OWNER, OWNER, str(self.base / "data" / source), where, credential, package=package)
        return Expected(self.services.intake.submit(request).push_id, prefix, states, files)

    # -- killing -----------------------------------------------------------------------------

    def _kill(self, target: str) -> tuple[int | None, list[str]]:
        """The process that was killed, and what went wrong with that."""
        pid = self._pid(target)
        if pid is None:
            return None, [f"no {target} to kill"]
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return pid, []

    def _pid(self, target: str) -> int | None:
        state = json.loads((self.base / "stack" / "state.json").read_text())
        holder = psutil.Process(state["pid"])
        for child in holder.children(recursive=True):
            with suppress(psutil.Error):
                if _is(child, target):
                    return child.pid
        return None

    # -- waiting -------------------------------------------------------------------------------

    def _wait(self, expected: list[Expected]) -> list[str]:
        waiting = list(expected)

        def over() -> bool:
            waiting[:] = [one for one in waiting if not self._over(one)]
            for one in waiting:
                with suppress(CloudPushError):
                    self.urls.attend_to(one)
            return not waiting

        _until(over, VERDICT_SECONDS)
        return [f"push {one.push_id} has no verdict after {VERDICT_SECONDS:.0f} s" for one in waiting]

    def _over(self, one: Expected) -> bool:
        with suppress(CloudPushError):
            return State(self.services.history.push(one.push_id)["state"]).final
        return False

    def _wait_for_return(self, target: str, killed: int | None) -> list[str]:
        """The next round is to meet a whole stack; pushes may be over before what was killed is back."""

        def back() -> bool:
            state = json.loads((self.base / "stack" / "state.json").read_text())
            serving = all(service["phase"] == "running" for service in state["services"].values())
            return serving and self._pid("rclone") is not None and self._pid(target) != killed

        return [] if _until(back, BACK_SECONDS) else [f"{target} is not back after {BACK_SECONDS:.0f} s"]

    # -- tidying up --------------------------------------------------------------------------------

    def _empty(self) -> None:
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
            keys = [{"Key": item["Key"]} for item in page.get("Contents", [])]
            if keys:
                self.s3.delete_objects(Bucket=BUCKET, Delete={"Objects": keys})


def _until(true: Callable[[], bool], seconds: float) -> bool:
    """Look until it is true, no longer than ``seconds``; whether it is."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _is(process: psutil.Process, target: str) -> bool:
    words = process.cmdline()
    name = Path(words[0]).name if words else ""
    match target:
        case "worker" | "sweeper":
            return target in words and "cloudpush" in " ".join(words)
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
            # The host with all its ports: what signed URLs lead to, and their owner's callback, are on it, too.
            [*command, "up", "--detach", *stack, "--source-root", str(base / "data"), "--allow-endpoint", HOST],
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
        with ExitStack() as closing:
            closing.callback(services.close)
            yield Arena(base, cloud, services, seed, closing)
    finally:
        subprocess.run([*command, "down", *stack], check=False, env=env)
        cloud.stop()
