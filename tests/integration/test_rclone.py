"""The real engine where it is easiest to get wrong: names, pieces, crashes, cancellation, secrets, leftovers."""

from __future__ import annotations

import hashlib
import http.server
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import psutil
import pytest

from cloudpush.errors import Cancelled, Code, DestinationError, EngineError
from cloudpush.push.fingerprint import fingerprint
from cloudpush.push.job import Destination, PlannedFile, Profile
from cloudpush.push.ports import Control
from cloudpush.settings import Settings
from cloudpush.stack import binaries
from cloudpush.transfer import remotes
from cloudpush.transfer.rcd import PREFIX
from cloudpush.transfer.rclone import Rclone
from cloudpush.transfer.session import RcloneSession
from fakes_inspector import GoOn, PlainSecret
from servers import Cloud

MIB = 1024 * 1024

#: What file systems allow and rclone, S3 or the remote control treat as special somewhere. No backslash: see below.
NAMES = [
    "sp ace",
    " lead",
    "trail ",
    "dot.",
    "...",
    ".dot",
    "..x",
    "\u00e9",
    "e\u0301",  # the same letter, another normal form
    "日本",
    "🎉",
    "\uff05",
    "\uff0e",
    "\uff0e\uff0e",
    "dir1/\uff0e/x",
    "dir2/\uff0e\uff0e/x",
    "\uff0f",
    "a\uff0fb",
    "\u201b",
    "\u201b\uff0e",
    "\u201b\uff0f",
    "\u201b\u201b",
    "␀",
    "␊",
    "␡",
    "\u201b␊",
    "{}",
    "{a,b}",
    "{{.}}",
    "*",
    "#",
    "#comment",
    ";x",
    '"q"',
    "'q'",
    "-dash",
    "--flag",
    "- rule",
    "+ rule",
    "!",
    "[x]",
    "a:b",
    ":local",
    "tab\tx",
    "line\nfeed",
    "\n",
    "carriage\r",
    "\r",
    "\x01\x02\x1f\x7f",
    "%41",
    "?q=1&r",
    "a+b=c",
    "~^`|<>$",
    "\ufeffbom",
    "\u2028",
    "\u0085",
    "\u202eltr",
    "\ufffd",
    "x.rclonelink",
    "é" * 127,
    "/".join(["d" * 200] * 4 + ["e" * 204]),
]


class Flag(Control):
    """A control that objects once it is told to."""

    def __init__(self) -> None:
        self.stop = False

    def check(self) -> None:
        if self.stop:
            raise Cancelled


@dataclass
class World:
    """An engine of its own, a bucket and a source."""

    engine: Rclone
    cloud: Cloud
    bucket: str
    root: Path

    @property
    def destination(self) -> Destination:
        profile = Profile("weed", "seaweedfs", self.cloud.endpoint, trusted=True)
        return Destination("s3", self.bucket, "p", profile)

    @property
    def secret(self) -> PlainSecret:
        return PlainSecret(self.cloud.admin.access_key, self.cloud.admin.secret_key)

    @contextmanager
    def session(
        self, secret: PlainSecret | None = None, destination: Destination | None = None
    ) -> Iterator[RcloneSession]:
        opened = self.engine.open(destination or self.destination, secret or self.secret, f"g-{os.urandom(4).hex()}")
        with opened as session:
            yield session

    def file(self, path: str, data: bytes = b"x", seq: int = 1) -> PlannedFile:
        where = self.root / path
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(data)
        return PlannedFile(seq, path, f"p/{path}", len(data), where.stat().st_mtime_ns)

    def big(self, path: str, size: int, seq: int = 1) -> PlannedFile:
        """A file of ``size`` bytes that are all zero and take no space."""
        with (self.root / path).open("wb") as file:
            file.truncate(size)
        return PlannedFile(seq, path, f"p/{path}", size, (self.root / path).stat().st_mtime_ns)

    def slow_down(self, rate: str) -> None:
        """Bytes per second for everything that rclone sends."""
        self.engine._rcd.child().rc.call("core/bwlimit", rate=rate)


@pytest.fixture
def world(seaweedfs: Cloud, tmp_path: Path, server_dir: Path) -> Iterator[World]:
    """An engine of this test's own."""
    run = server_dir / f"engine-{os.urandom(3).hex()}"
    root = tmp_path / "source"
    root.mkdir()
    engine = Rclone(Settings(rclone=str(binaries.rclone()), runtime_dir=run, transfers=8))
    engine.start()
    yield World(engine, seaweedfs, seaweedfs.make_bucket("rclone"), root)
    engine.stop()
    assert list(run.iterdir()) == []


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for ``condition``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["one", "each", "list"])
def test_names_arrive_byte_for_byte(world: World, way: str) -> None:
    """Whatever a file system allows in a name arrives as it is, whichever way it is sent."""
    files = [world.file(name, name.encode(), seq) for seq, name in enumerate(NAMES)]
    files += [world.file(f"plain-{n}", b"plain", 1000 + n) for n in range(100 if way == "list" else 0)]
    step = 1 if way == "one" else len(files) if way == "list" else 40

    with world.session() as session:
        failures = [session.send(world.root, files[n : n + step], GoOn()) for n in range(0, len(files), step)]

    assert [f for f in failures if f] == []
    assert {k: world.cloud.read(world.bucket, k) for k in world.cloud.keys(world.bucket)} == {
        f.key: (world.root / f.path).read_bytes() for f in files
    }


def test_a_prefix_arrives_byte_for_byte(world: World) -> None:
    """The part of the key before the path is subject to the same care."""
    prefix = " \u201b\uff12\uff0e\uff0f\x07/\uff0e/{}"
    files = [world.file(f"f{n}", b"x", n) for n in range(101)]
    files = [PlannedFile(f.seq, f.path, f"{prefix}/{f.path}", f.size, f.mtime_ns) for f in files]

    with world.session() as session:
        session.send(world.root, files, GoOn())
        session.send(world.root, [PlannedFile(1, "f1", f"{prefix}/one", 1, files[1].mtime_ns)], GoOn())

    assert set(world.cloud.keys(world.bucket)) == {f.key for f in files} | {f"{prefix}/one"}


def test_a_source_root_with_an_odd_name_is_found(world: World) -> None:
    """The directory that is pushed may have any name too."""
    world.root = world.root / "a:b \u201b\uff0e\n{x}" / "\uff0e"
    file = world.file("f")

    with world.session() as session:
        failures = session.send(world.root, [file], GoOn())

    assert (failures, set(world.cloud.keys(world.bucket))) == ({}, {"p/f"})


@contextmanager
def a_server(answers: Mapping[str, tuple[int, str]] | None = None) -> Iterator[tuple[Destination, list[str]]]:
    """A destination whose server takes everything but the keys in ``answers``, and the keys that it was sent."""
    seen: list[str] = []

    class Listener(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            key = unquote(self.path.partition("?")[0]).removeprefix("/bucket/")
            seen.append(key)
            status, code = (answers or {}).get(key, (200, ""))
            body = f"<Error><Code>{code}</Code><Message>{code} it is</Message></Error>".encode() if code else b""
            self.send_response(status)
            self.send_header("ETag", f'"{hashlib.md5(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        profile = Profile("other", "other", f"http://127.0.0.1:{server.server_port}", trusted=True)
        try:
            yield Destination("s3", "bucket", "p", profile), seen
        finally:
            server.shutdown()


def test_a_backslash_is_sent_as_it_is(world: World) -> None:
    """A backslash reaches the server's door unchanged; SeaweedFS itself makes it a slash, so another listens here."""
    with a_server() as (destination, seen), world.session(destination=destination) as session:
        failures = session.send(world.root, [world.file("back\\slash")], GoOn())

    assert (failures, seen) == ({}, ["p/back\\slash"])


def test_a_symlink_sends_what_it_leads_to(world: World) -> None:
    """Planning has allowed the link, so its target's content is sent under the link's name."""
    world.file("target", b"content")
    (world.root / "link").symlink_to("target")

    with world.session() as session:
        session.send(world.root, [PlannedFile(1, "link", "p/link", 7, 0)], GoOn())

    assert world.cloud.read(world.bucket, "p/link") == b"content"


# -- pieces ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [remotes.CUTOFF - 1, remotes.CUTOFF, remotes.CUTOFF + 1, remotes.CUTOFF + remotes.PIECE]
)
def test_pieces_are_as_foretold(world: World, size: int) -> None:
    """The ETag that is computed from ``piece_size`` is the server's, on both sides of the cutoff."""
    file = world.big("big", size)

    with world.session() as session:
        session.send(world.root, [file], GoOn())
        expected = fingerprint(world.root / file.path, file, session.piece_size(size), GoOn().check).md5_etag

    seen = world.cloud.client.head_object(Bucket=world.bucket, Key=file.key)
    assert seen["ETag"].strip('"') == expected


# -- what goes wrong ---------------------------------------------------------------------------


@contextmanager
def sending(world: World, session: RcloneSession, file: PlannedFile, control: Control) -> Iterator[Future[object]]:
    """``file`` on its way, slowly, with some of it already sent."""
    world.slow_down("12M")
    with ThreadPoolExecutor(1) as thread:
        going: Future[object] = thread.submit(session.send, world.root, [file], control)
        until(lambda: session.progress().bytes > 4 * MIB and len(world.cloud.uploads(world.bucket)) == 1)
        yield going


def test_a_cancelled_upload_stops_at_once_and_leaves_nothing(world: World) -> None:
    """Cancelled in mid-file, it ends within two seconds, without an object and without pieces."""
    control = Flag()

    with world.session() as session, sending(world, session, world.big("big", 200 * MIB), control) as going:
        control.stop = True
        asked = time.monotonic()
        with pytest.raises(Cancelled):
            going.result(10)
        took = time.monotonic() - asked

    assert took < 2
    assert (world.cloud.keys(world.bucket), world.cloud.uploads(world.bucket)) == ({}, [])


def test_a_killed_engine_is_told_and_started_again(world: World) -> None:
    """SIGKILL in mid-upload: a retryable error now, a working engine next, and the pieces can be cleared away."""
    big = world.big("big", 200 * MIB)
    with world.session() as session, sending(world, session, big, GoOn()) as going:
        os.kill(world.engine.pid, signal.SIGKILL)
        with pytest.raises(EngineError) as raised:
            going.result(10)
    assert (raised.value.code, raised.value.code.retryable) == (Code.ENGINE_CRASHED, True)

    with world.session() as session:
        failures = session.send(world.root, [world.file("small")], GoOn())
        abandoned = session.abandon([big.key, "p/small"], GoOn())

    assert (failures, abandoned) == ({}, 1)
    assert (set(world.cloud.keys(world.bucket)), world.cloud.uploads(world.bucket)) == ({"p/small"}, [])


def test_abandoning_spares_longer_keys(world: World) -> None:
    """An unfinished upload to a key that merely begins the same is left alone, until that key is named as well."""
    keys = ["p/a", "p/ab"]
    for key in keys:
        world.cloud.client.create_multipart_upload(Bucket=world.bucket, Key=key)

    with world.session() as session:
        first = session.abandon(["p/a", "p/none"], GoOn()), sorted(world.cloud.uploads(world.bucket))
        second = session.abandon(keys, GoOn()), world.cloud.uploads(world.bucket)

    assert (first, second) == ((0, keys), (2, []))


def test_an_engine_that_dies_idle_is_not_noticed_by_the_next_session(world: World) -> None:
    """A new session waits for the engine to come back."""
    first = world.engine.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(first))

    with world.session() as session:
        failures = session.send(world.root, [world.file("f")], GoOn())

    assert (failures, world.engine.pid != first) == ({}, True)


def test_a_list_with_one_bad_file_tells_which(world: World) -> None:
    """Where the list fails, each file is tried for itself; the error names the right one."""
    files = [world.file(f"f{n}", b"x", n) for n in range(120)]
    refused = {"p/f7": (403, "AccessDenied")}

    with a_server(refused) as (destination, seen), world.session(destination=destination) as session:
        failures = session.send(world.root, files, GoOn())

    assert {seq: e.code for seq, e in failures.items()} == {7: Code.ACCESS_DENIED}
    assert set(seen) == {f.key for f in files}


def test_what_fails_for_every_file_ends_a_list(world: World) -> None:
    """When the first file is turned away for a passing reason, the other 999 are not tried."""
    files = [world.file(f"f{n}", b"x", n) for n in range(1000)]
    busy = {f.key: (503, "SlowDown") for f in files}

    with (
        a_server(busy) as (destination, seen),
        world.session(destination=destination) as session,
        pytest.raises(DestinationError) as raised,
    ):
        session.send(world.root, files, GoOn())

    assert (raised.value.code, len(set(seen))) == (Code.THROTTLED, 1)


def test_a_listed_file_that_became_a_directory_is_told(world: World) -> None:
    """What rclone passes over in silence is found, and told apart from what vanished."""
    files = [world.file(f"f{n}", b"x", n) for n in range(120)]
    (world.root / "f7").unlink()
    (world.root / "f7").mkdir()
    (world.root / "f8").unlink()

    with world.session() as session:
        failures = session.send(world.root, files, GoOn())

    assert {seq: e.code for seq, e in failures.items()} == {7: Code.SOURCE_CHANGED, 8: Code.SOURCE_MISSING}


def test_a_refused_list_ends_early(world: World) -> None:
    """A credential that may not write is told for each file of a few, and ends many as a whole."""
    reader = PlainSecret(world.cloud.reader.access_key, world.cloud.reader.secret_key)
    files = [world.file(f"f{n}", b"x", n) for n in range(3)]

    with world.session(reader) as session:
        failures = session.send(world.root, files, GoOn())

    assert {seq: e.code for seq, e in failures.items()} == dict.fromkeys(range(3), Code.ACCESS_DENIED)


def test_an_endpoint_that_refuses_ends_a_long_list_early(world: World) -> None:
    """A thousand files are not each tried against a port where nobody listens."""
    profile = Profile("dead", "seaweedfs", "http://127.0.0.1:1", trusted=True)
    files = [world.file(f"f{n}", b"x", n) for n in range(300)]

    with (
        world.session(destination=Destination("s3", "bucket", "p", profile)) as session,
        pytest.raises(DestinationError) as raised,
    ):
        session.send(world.root, files, GoOn())

    assert raised.value.code is Code.ENDPOINT_REFUSED


# -- secrets and leftovers ----------------------------------------------------------------------


def test_the_secret_is_nowhere_to_be_seen(world: World) -> None:
    """In mid-upload, no process' arguments or environment, no file and no error text holds any part of the secret."""
    wrong = PlainSecret("AKCANARY000000000001", "canary-secret-key-000000000000000001", "canary-session-token-0000001")
    control = Flag()
    files = [world.file(f"f{n}", b"x", n) for n in range(150)]
    with world.session(wrong) as session, pytest.raises(DestinationError) as raised:
        session.send(world.root, files, GoOn())
    texts = [
        repr(session),
        str(raised.value),
        raised.value.detail,
        repr(vars(raised.value)),
        repr(raised.value.__context__),
    ]

    with world.session() as session, sending(world, session, world.big("big", 200 * MIB), control) as going:
        for process in psutil.process_iter():
            for what in ("cmdline", "environ"):
                try:
                    texts.append((Path("/proc") / str(process.pid) / what).read_text(errors="replace"))
                except OSError:
                    continue
        private = world.engine._rcd.directory
        texts += [p.read_text() for p in private.iterdir() if p.is_file()]
        modes = [private.stat().st_mode & 0o777, *(p.stat().st_mode & 0o077 for p in private.iterdir())]
        environment = Path(f"/proc/{world.engine.pid}/environ").read_bytes()
        control.stop = True
        with pytest.raises(Cancelled):
            going.result(10)

    hidden = [world.secret.secret_access_key, *wrong.reveal().values()]
    assert [s for s in hidden if s and any(s in text for text in texts)] == []
    assert (modes[0], set(modes[1:]), environment) == (0o700, {0}, b"")


def test_sessions_leave_nothing_in_the_engine(world: World) -> None:
    """Remotes, cached backends, statistics and connections of sessions that are over are gone."""
    rc = world.engine._rcd.child().rc
    files = [world.file(f"f{n}", b"x", n) for n in range(3)]

    def left() -> tuple[object, ...]:
        remotes_ = rc.call("config/listremotes")["remotes"]
        return remotes_, rc.call("fscache/entries"), rc.call("core/group-list").get("groups") or []

    def push() -> None:
        with world.session() as session:
            session.send(world.root, files[:1], GoOn())
            session.send(world.root, files, GoOn())

    push()
    before = left()
    engine = psutil.Process(world.engine.pid)
    descriptors = engine.num_fds()
    for _ in range(50):
        push()

    assert left() == before == (["cloudpush-source"], {"entries": 1}, [])
    assert engine.num_fds() < descriptors + 10


def test_the_engine_outlives_the_thread_that_started_it(world: World) -> None:
    """The death signal is that of a thread; the one that forks lives as long as the worker."""
    world.engine.stop()
    starter = threading.Thread(target=world.engine.start)
    starter.start()
    starter.join()
    pid = world.engine.pid

    with world.session() as session:
        session.send(world.root, [world.file("f")], GoOn())

    assert world.engine.pid == pid


def test_the_engine_dies_with_the_worker_and_its_directory_with_the_next_start(server_dir: Path) -> None:
    """SIGKILL of the worker ends rclone; the directory that it left is removed by the next worker."""
    run = server_dir / f"orphan-{os.urandom(3).hex()}"
    settings = f"Settings(rclone={str(binaries.rclone())!r}, runtime_dir={str(run)!r})"
    program = f"""
        import os, signal
        from cloudpush.settings import Settings
        from cloudpush.transfer.rclone import Rclone
        engine = Rclone({settings})
        engine.start()
        print(engine.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    worker = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False, timeout=60
    )
    pid = int(worker.stdout.split()[-1])
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    orphans = list(run.glob(f"{PREFIX}*"))

    engine = Rclone(Settings(rclone=str(binaries.rclone()), runtime_dir=run))
    engine.start()
    found = list(run.glob(f"{PREFIX}*"))
    engine.stop()

    assert (len(orphans), len(found), orphans == found) == (1, 1, False)


def test_a_directory_in_use_is_left_alone(world: World) -> None:
    """A second engine on the same runtime directory does not take the first one's socket away."""
    second = Rclone(Settings(rclone=str(binaries.rclone()), runtime_dir=world.engine._rcd.directory.parent))
    second.start()
    second.stop()

    assert {p.name for p in world.engine._rcd.directory.iterdir()} == {"lock", "rcd-1.sock"}
