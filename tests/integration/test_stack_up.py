"""`cloudpush up` and `cloudpush down` with real servers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import hvac
import psutil
import psycopg
import pytest
import redis

import servers
from cloudpush.errors import StackError
from cloudpush.settings import ENV_FILE, Settings, read_settings
from cloudpush.stack import binaries
from cloudpush.stack import openbao as openbao_module
from cloudpush.stack.datadir import DataDir
from cloudpush.stack.openbao import SETUP, OpenBao
from cloudpush.stack.ports import free_ports
from cloudpush.stack.up import run_down
from stack_process import PATIENCE_SECONDS, Up, command, gone

pytestmark = pytest.mark.stack

SERVICES = ("postgres", "valkey", "openbao", "worker", "sweeper")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory that was set up once; each test starts its own stack on it."""
    with servers.scratch() as base:
        first = Up(base / "data").ready()
        assert first.end() == 0, first.said
        yield base / "data"


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    """A ready stack that all tests share that do not end it."""
    with servers.scratch() as base:
        one = Up(base / "data")
        try:
            yield one.ready()
        finally:
            one.end()


def settings_of(data: Path) -> Settings:
    """As every client reads them."""
    return read_settings({ENV_FILE: str(data / "cloudpush.env")})


def again(up: Up, name: str, before: dict[str, Any]) -> bool:
    """Whether a service serves in another life than ``before``."""
    now = up.service(name)
    return bool(now["phase"] == "running" and now["restarts"] > before["restarts"])


def login(data: Path, role: str) -> hvac.Client:
    """A client of one of OpenBao's roles."""
    settings = settings_of(data)
    client = hvac.Client(url=settings.vault_url)
    secret = {what: (settings.vault_auth_dir / f"{role}-{what}").read_text() for what in ("role-id", "secret-id")}
    client.auth.approle.login(secret["role-id"], secret["secret-id"])
    return client


def run(words: list[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """One command, to its end."""
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment, timeout=PATIENCE_SECONDS)


def sealed(client: hvac.Client, name: str, method: str, body: dict[str, Any] | None = None) -> Any:
    """Read or write one sealed credential."""
    return client.adapter.request(method, f"/v1/cloudpush/data/credentials/{name}", json=body)


def test_a_restart_finds_rows_and_sealed_credentials(data: Path) -> None:
    """Also with OpenBao on another port, as when its own was taken in the meantime."""
    first = Up(data).ready()
    port = first.state()["ports"]["openbao"][0]
    with psycopg.connect(settings_of(data).database_admin_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 'row' AS word")
    sealed(login(data, "intake"), "kept", "POST", {"data": {"wrapped": "x"}})
    assert first.end() == 0, first.said

    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        second = Up(data).ready()
        try:
            assert f"openbao: taken: port {port}" in second.said
            with psycopg.connect(settings_of(data).database_admin_url) as connection:
                row = connection.execute("SELECT word FROM kept").fetchone()
            secret = sealed(login(data, "worker"), "kept", "GET")["data"]["data"]
        finally:
            second.end()
    assert (row, secret) == (("row",), {"wrapped": "x"})


def test_everything_in_the_data_directory_is_private(up: Up) -> None:
    """0700 and 0600 over the whole tree, while it runs."""
    wrong = {}
    for path in (up.data, *up.data.rglob("*")):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            continue
        wanted = 0o600 if stat.S_ISREG(mode) else 0o700
        if stat.S_IMODE(mode) != wanted:
            wrong[str(path)] = oct(mode)
    assert wrong == {}


def test_a_second_up_says_who_holds_the_data(up: Up) -> None:
    """And leaves the first alone."""
    second = Up(up.data, output=up.data.with_name("second.out"))
    assert second.process.wait(PATIENCE_SECONDS) == 1
    assert f"in use by another `cloudpush up` (process {up.process.pid}, since" in second.said
    assert f"cloudpush down --data-dir {up.data}" in second.said
    assert up.process.poll() is None


@pytest.mark.parametrize("name", SERVICES)
def test_a_killed_service_is_named_and_serves_again_at_the_same_place(up: Up, name: str) -> None:
    """Clients just connect again."""
    before = up.service(name)
    os.kill(before["pid"], signal.SIGKILL)
    up.until(lambda: again(up, name, before))
    after = up.service(name)
    assert f"{name} ended with signal 9 (SIGKILL)" in up.said
    assert (after["where"], after["pid"] != before["pid"]) == (before["where"], True)
    settings = settings_of(up.data)
    with psycopg.connect(settings.database_url) as connection, redis.Redis.from_url(settings.redis_url) as broker:
        assert (connection.execute("SELECT current_user").fetchone(), broker.ping()) == (("cloudpush_app",), True)
    assert login(up.data, "worker").is_authenticated()


def test_postgres_backends_of_a_killed_postmaster_do_not_keep_the_next_one_out(up: Up) -> None:
    """A session that is busy notices late that its postmaster is gone."""
    with psycopg.connect(settings_of(up.data).database_url, autocommit=True) as busy:
        busy.execute("SET client_connection_check_interval = 0")
        before = up.service("postgres")
        os.kill(before["pid"], signal.SIGKILL)
        up.until(lambda: again(up, "postgres", before))
    assert up.service("postgres")["restarts"] == before["restarts"] + 1


def test_nothing_outlives_a_supervisor_that_was_killed(data: Path) -> None:
    """SIGKILL cannot be handled: the kernel ends the children. The next start finds its way."""
    one = Up(data).ready()
    pids = one.pids()
    one.end(signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not gone(pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (len(pids) > len(SERVICES), gone(pids)) == (True, True)
    assert Up(data).ready().end() == 0


def test_a_postmaster_that_is_still_going_is_ended_before_the_next_starts() -> None:
    """As after a supervisor that was killed; this one even hangs."""
    with servers.scratch() as base, servers.running(servers.make_postgres(base)) as old:
        assert old.child is not None
        old.child.send(signal.SIGSTOP)
        new = servers.make_postgres(base)
        new.stop_seconds = 0.2
        with servers.running(new) as server, server.connect() as connection:
            found = connection.execute("SELECT 1").fetchone()
        assert (found, old.alive) == ((1,), False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_in_order(data: Path, number: int) -> None:
    """Whoever needs a service stops before it."""
    one = Up(data).ready()
    pids = one.pids()
    assert one.end(number) == 0, one.said
    stopped = [line.split()[1] for line in one.said.splitlines() if line.endswith(" stopped")]
    assert (stopped, gone(pids)) == (["sweeper", "worker", "openbao", "valkey", "postgres"], True)


def test_a_program_that_cannot_live_is_given_up_by_name_and_nothing_is_left(data: Path) -> None:
    """Its own last words are in the message."""
    one = Up(data, program="raise SystemExit('no worker today')")
    status = one.process.wait(PATIENCE_SECONDS)
    assert (status, gone([one.process.pid])) == (1, True)
    # Both stand-ins live as briefly: which of them is the first to have died five times is chance.
    named = r"(worker|sweeper) crashed 5 times within a minute, giving up: it ended with status 1"
    assert re.search(named, one.said.replace("\n", " "))
    assert "no worker today" in one.said
    assert not DataDir(data).in_use()


def test_orphans_of_a_dead_program_are_ended(data: Path) -> None:
    """What a worker started and left behind, as a pool of processes would be."""
    program = """
import os, pathlib, sys, time
if os.fork():
    while True: time.sleep(60)
os.setsid()
while True: time.sleep(60)
"""
    one = Up(data, program=program).ready()
    worker = psutil.Process(one.service("worker")["pid"])
    (orphan,) = worker.children()
    worker.kill()
    one.until(lambda: gone([orphan.pid]))
    assert one.end() == 0


def test_down_stops_what_up_detached_and_up_returns_when_it_is_ready(data: Path) -> None:
    """The two commands as a user types them."""
    started = run(command("up", "--detach", "--data-dir", data))
    try:
        state = json.loads((data / "state.json").read_text())
        pids = [state["pid"], *(p.pid for p in psutil.Process(state["pid"]).children(recursive=True))]
    finally:
        stopped = run(command("down", "--data-dir", data))
    assert started.returncode == 0, started.stdout + started.stderr
    assert f"export CLOUDPUSH_ENV_FILE={data}/cloudpush.env" in started.stdout
    assert (stopped.returncode, stopped.stdout.split(" and ")[0]) == (0, f"Stopped process {state['pid']}")
    assert gone(pids)
    assert run_down(data) is None


def test_a_detached_start_that_fails_says_why(data: Path) -> None:
    """Not only in a log file."""
    environment = {**os.environ, "CLOUDPUSH_TRANSFERRS": "1"}
    started = run(command("up", "--detach", "--data-dir", data), environment)
    assert started.returncode == 1
    assert "CLOUDPUSH_TRANSFERRS is not a setting: did you mean CLOUDPUSH_TRANSFERS?" in started.stderr


def test_half_a_first_start_is_done_again() -> None:
    """Power loss during initdb, and during OpenBao's first start."""
    with servers.scratch() as base:
        data = base / "data"
        for path in ("postgres/data.new", "openbao/raft/raft"):
            (data / path).mkdir(parents=True)
        (data / "lock").touch()
        (data / "postgres/data.new/PG_VERSION").write_text("18\n")
        (data / "openbao/raft/vault.db").write_bytes(b"half")
        one = Up(data).ready()
        authenticated = login(data, "worker").is_authenticated()
        assert (one.end(), authenticated) == (0, True)


def test_a_lock_file_with_the_id_of_another_living_process_does_not_keep_postgres_from_starting(data: Path) -> None:
    """Always so in a container that starts afresh: ids are small and soon somebody else's."""
    lock = data / "postgres" / "data" / "postmaster.pid"
    owner = lock.parent.stat().st_uid
    with subprocess.Popen(["/bin/sleep", "600"], user=owner) as other:
        lock.write_text(f"{other.pid}\n{lock.parent}\n1\n5432\n\n\n\nready\n")
        lock.chmod(0o600)
        os.chown(lock, owner, -1)
        ended = Up(data).ready().end()
        spared = other.poll() is None
        other.kill()
    assert (ended, spared) == (0, True)


def test_a_data_directory_with_a_long_and_odd_name_works() -> None:
    """Sockets move to a private directory, which is gone afterwards."""
    with servers.scratch() as base:
        data = base / ("a b, 'c' \"d\" $e " + "ü" * 50) / "data"
        data.parent.mkdir()
        one = Up(data).ready()
        sockets = Path(one.state()["run_dir"])
        with psycopg.connect(settings_of(data).database_url) as connection:
            found = connection.execute("SELECT current_user").fetchone()
        authenticated = login(data, "keeper").is_authenticated()
        assert (one.end(), found, authenticated) == (0, ("cloudpush_app",), True)
        assert (sockets.parent != data, sockets.exists()) == (True, False)


def test_new_policies_of_an_upgrade_are_installed(data: Path, tmp_path: Path) -> None:
    """By a role that can do just that; there is no root token."""
    with servers.scratch() as base:
        policies = base / "policies"
        policies.mkdir()
        for role in ("worker", "intake", "keeper", "web", "notary"):
            (policies / f"{role}.hcl").write_text('path "auth/token/lookup-self" { capabilities = ["read"] }')
        server = servers.make_openbao(base)
        server._policies = policies
        with servers.running(server):
            pass
        with servers.running(servers.make_openbao(base)) as server:
            secret = {w: (server.auth_dir / f"intake-{w}").read_text() for w in ("role-id", "secret-id")}
            client = hvac.Client(url=server.url)
            client.auth.approle.login(secret["role-id"], secret["secret-id"])
            assert client.secrets.transit.generate_data_key("cloudpush", "plaintext")["data"]["ciphertext"]


def test_the_setup_role_cannot_read_a_credential_nor_widen_itself(openbao: Any) -> None:
    """What an attacker gets who finds only its secret: nothing."""
    client = hvac.Client(url=openbao.url)
    secret = {w: (openbao.directory / SETUP / f"{SETUP}-{w}").read_text() for w in ("role-id", "secret-id")}
    client.auth.approle.login(secret["role-id"], secret["secret-id"])
    for method, path in (
        ("GET", "cloudpush/data/credentials/x"),
        ("POST", "transit/decrypt/cloudpush"),
        ("POST", f"sys/policies/acl/{SETUP}"),
        ("POST", "auth/approle/role/worker/secret-id"),
        ("GET", "sys/mounts"),
    ):
        with pytest.raises(hvac.exceptions.Forbidden):
            client.adapter.request(method, f"/v1/{path}", json={} if method == "POST" else None)


def test_a_stranger_on_its_port_is_not_taken_for_openbao_nor_shown_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """The port was free when we looked; the stranger even says that it is healthy."""
    asked: list[str] = []

    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET  # noqa: N815 - the library's name

    with servers.scratch() as base, HTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        monkeypatch.setattr(openbao_module, "is_free", lambda _port: True)
        server = OpenBao(base / "openbao", base / "log", ports=(stranger.server_port, free_ports(1)[0]))
        server.start()
        try:
            with pytest.raises(StackError, match=r"openbao ended with status 1(.|\n)*address already in use"):
                server.ready()
        finally:
            server.stop()
            stranger.shutdown()
    assert asked == []


def test_only_the_account_that_runs_it_can_connect_to_postgres(up: Up) -> None:
    """Peer authentication maps one name, and there is no TCP."""
    process = psutil.Process(up.service("postgres")["pid"])
    rules = (up.data / "postgres" / "hba.conf").read_text()
    assert (rules, process.net_connections("inet")) == ("local all all peer map=stack\n", [])
    with pytest.raises(psycopg.OperationalError, match=r"Peer authentication failed"):
        psycopg.connect(settings_of(up.data).database_url.replace("cloudpush_app", "nobody"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to give something up")
def test_as_root_postgres_runs_as_nobody_with_one_right(up: Up) -> None:
    """The right to pass directories that are closed to others, which a data directory of root's needs."""
    process = Path(f"/proc/{up.service('postgres')['pid']}/status").read_text()
    facts = dict(line.split(":\t", 1) for line in process.splitlines() if ":\t" in line)
    dac_override = "0000000000000002"
    assert {k: facts[k] for k in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == dict.fromkeys(
        ("CapInh", "CapPrm", "CapEff", "CapAmb"), dac_override
    )
    assert 0 not in {int(x) for x in facts["Uid"].split() + facts["Gid"].split()}


@pytest.mark.skipif(os.geteuid() != 0, reason="others cannot pass such a directory at all")
def test_as_root_postgres_may_be_installed_where_only_root_may_enter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual environment in /root, for one."""
    installed = binaries.postgres().parent.parent
    with servers.scratch() as base:
        copy = base / installed.parent.name / installed.name
        shutil.copytree(installed, copy, symlinks=True)
        shutil.copytree(installed.parent.with_suffix(".libs"), base / (installed.parent.name + ".libs"))
        mode = stat.S_IMODE(base.stat().st_mode)
        monkeypatch.setattr(binaries, "postgres", lambda program="postgres": copy / "bin" / program)
        with servers.running(servers.make_postgres(base)) as server, server.connect() as connection:
            found = connection.execute("SHOW data_directory").fetchone()
    assert (mode, found) == (0o700, (f"{base}/postgres/data",))


def test_no_secret_is_in_an_argument_or_an_environment(up: Up) -> None:
    """Of any process of the stack; nor in a log file."""
    kept = [*(up.data / "openbao").rglob("*-secret-id"), up.data / "openbao" / "seal.key"]
    needles = {path.read_bytes() for path in kept}
    assert len(needles) == 7
    places = [Path(f"/proc/{pid}/{what}") for pid in up.pids() for what in ("cmdline", "environ")]
    found = [str(p) for p in (*places, *(up.data / "logs").iterdir()) for n in needles if n in p.read_bytes()]
    assert found == []


def test_down_of_somebody_elses_stack_is_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says whose process it is instead of waiting for it."""

    def refuse(_pid: int, _number: int) -> None:
        raise PermissionError

    held = DataDir(data)
    held.claim()
    monkeypatch.setattr(os, "kill", refuse)
    with pytest.raises(StackError, match=f"Process {os.getpid()} that uses .* is not yours to stop"):
        run_down(data)
    held.release()
