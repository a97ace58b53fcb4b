"""A worker with everything around it in memory, and real files to push."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from builders import BUCKET, CREDENTIAL, OWNER, a_push
from cloudpush.credentials.kinds import AccessKey, parse
from cloudpush.errors import CloudPushError
from cloudpush.push.couriers import Courier, KeyCourier
from cloudpush.push.job import Destination, PlannedFile, Progress, Push, Secret
from cloudpush.push.leases import LeaseKeeper
from cloudpush.push.lifecycle import CloudPush
from cloudpush.push.planning import Limits
from cloudpush.push.ports import Control, Engine, Session
from cloudpush.push.preflight import Preflight
from cloudpush.push.retry import Policy
from cloudpush.push.states import State
from fakes import FakeAnnouncer, FakeClock, FakeStore
from fakes_inspector import FakeInspector
from fakes_vault import FakeVault

SECRET = "canary/secret+value"


class Carrier(Engine, Session):
    """An engine that carries files into a FakeInspector's bucket; engine and session in one.

    ``failing`` is raised by every send. ``refused``: path → error of that file alone. ``damaged`` paths arrive with
    other bytes, ``dropped`` ones do not arrive. ``during`` runs before each file is sent.
    """

    def __init__(self, bucket: FakeInspector) -> None:
        self.failing: Exception | None = None
        self.unwilling: CloudPushError | None = None
        self.refused: dict[str, CloudPushError] = {}
        self.damaged: set[str] = set()
        self.dropped: set[str] = set()
        self.during: Callable[[str], None] = lambda path: None
        self.sent: list[str] = []
        self.piece: int | None = None
        self.abandoned: list[str] = []
        self.tidying: CloudPushError | None = None
        self.keeping: CloudPushError | None = None  # what every deletion fails with
        self.removed: list[str] = []
        self.groups: list[str] = []
        self.opened = 0
        self.secrets: list[Mapping[str, str]] = []
        self._bucket = bucket
        self._lock = threading.Lock()

    @contextmanager
    def open(self, destination: Destination, secret: Secret, group: str) -> Iterator[Session]:
        if self.unwilling is not None:
            raise self.unwilling
        self.groups.append(group)
        self.secrets.append(secret.reveal())
        self.opened += 1
        try:
            yield self
        finally:
            self.opened -= 1

    def piece_size(self, size: int) -> int | None:
        return self.piece

    def send(self, root: Path, files: Sequence[PlannedFile], control: Control) -> Mapping[int, CloudPushError]:
        failures: dict[int, CloudPushError] = {}
        for f in files:
            self.during(f.path)
            control.check()
            if self.failing is not None:
                raise self.failing
            if f.path in self.refused:
                failures[f.seq] = self.refused[f.path]
                continue
            with self._lock:
                self.sent.append(f.path)
                if f.path not in self.dropped:
                    data = (root / f.path).read_bytes()
                    self._bucket.put(f.key, data[::-1] + b"!" if f.path in self.damaged else data)
        return failures

    def abandon(self, keys: Sequence[str], control: Control) -> int:
        if self.tidying is not None:
            raise self.tidying
        self.abandoned += keys
        for key in keys:
            self._bucket.uploads.pop(key, None)
        return len(keys)

    def remove(self, keys: Sequence[str], control: Control) -> Mapping[str, CloudPushError]:
        control.check()
        if self.keeping is not None:
            return dict.fromkeys(keys, self.keeping)
        for key in keys:
            self._bucket.objects.pop(key, None)
            self.removed.append(key)
        return {}

    def renew(self, secret: Secret) -> None:
        self.secrets.append(secret.reveal())

    def progress(self) -> Progress:
        return Progress(len(self.sent), len(self.sent))


class World:
    """A source directory, a bucket, a vault with one credential, and the worker between them.

    Leases are extended when the test says ``leases.beat()``: nothing here runs by the clock.
    """

    def __init__(
        self, source: Path, limits: Limits | None = None, policy: Policy | None = None, *, preflight: bool = False
    ) -> None:
        self.source = source
        self.clock = FakeClock()
        self.store = FakeStore(self.clock)
        self.announcer = FakeAnnouncer()
        self.vault = FakeVault()
        self.bucket = FakeInspector(BUCKET)
        self.carrier = Carrier(self.bucket)
        self.leases = LeaseKeeper(self.store, self.announcer, worker="worker-1", seconds=30, heartbeat=1)
        by_key = KeyCourier(
            vault=self.vault, engine=self.carrier, inspector=self.bucket, clock=self.clock, roots=(source,)
        )
        self.couriers: dict[str, Courier] = {"access_key": by_key}
        self.cloudpush = CloudPush(
            store=self.store,
            announcer=self.announcer,
            couriers=self.couriers,
            leases=self.leases,
            clock=self.clock,
            policy=policy or Policy(strikes=3, base=2, cap=300),
            limits=limits or Limits(),
            preflight=Preflight(self.bucket, {"access_key": by_key.visit}) if preflight else None,
        )
        self.vault.seal(CREDENTIAL, OWNER, an_access_key())

    def write(self, *names: str, data: bytes = b"") -> None:
        """Files with their own name, or ``data``, in them."""
        for name in names:
            path = self.source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data or name.encode())

    def submit(self, **changes: Any) -> Push:
        """Store a push of the source."""
        push = a_push(**{"source": self.source} | changes)
        self.store.add(push)
        return push

    def run(self, push_id: UUID) -> State | None:
        """What the worker does with the message of a push."""
        return self.cloudpush.run(push_id)

    def run_parts(self, push_id: UUID) -> list[State | None]:
        """What workers do with the messages of its parts."""
        return [self.cloudpush.run_part(push_id, n) for p, n in self.announcer.announced if p == push_id]


def an_access_key() -> AccessKey:
    """A credential that a test can look for."""
    secret = parse("access_key", {"access_key_id": "AKCANARY", "secret_access_key": SECRET})
    assert isinstance(secret, AccessKey)
    return secret
