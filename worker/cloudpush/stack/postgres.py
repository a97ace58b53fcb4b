"""PostgreSQL on a Unix socket: one cluster, one database, two roles besides the superuser.

Who may connect is decided by the kernel: the socket lies in a private directory, and peer authentication lets
only the account that runs the stack in, as any of the roles. There is no password anywhere.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from cloudpush.errors import Code, StackError
from cloudpush.stack import binaries
from cloudpush.stack.private import private_dir, write_private
from cloudpush.stack.process import Child, Identity
from cloudpush.stack.service import Service

SUPERUSER = "postgres"
OWNER = "cloudpush_owner"
APP = "cloudpush_app"
DATABASE = "cloudpush"
MAJOR = "18"
#: Only names the socket file: there is no TCP.
PORT = 5432
INITDB_SECONDS = 120.0

_OPTIONS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "128MB",
    "max_connections": "100",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",  # its own log file is ours
    "cluster_name": "cloudpush",
}


class Postgres(Service):
    """A cluster in ``directory``, its socket in ``sockets``. As root it runs as ``nobody``."""

    name = "postgres"
    ready_seconds = 60.0  # a crash recovery may come first
    stop_signal = signal.SIGINT  # "fast": ends sessions, writes a checkpoint
    stop_seconds = 60.0

    def __init__(self, directory: Path, sockets: Path, log: Path, *, durable: bool = True) -> None:
        """``durable=False`` leaves fsync out: only for data that may be lost."""
        super().__init__()
        self.directory = directory
        self.sockets = sockets
        self.data = directory / "data"
        self._log = log
        self._durable = durable
        self._complete = False

    @property
    def where(self) -> str:
        """The socket."""
        return str(self.sockets / f".s.PGSQL.{PORT}")

    def url(self, role: str = APP, database: str = DATABASE) -> str:
        """A libpq and SQLAlchemy URL over the socket."""
        return f"postgresql://{role}@/{database}?host={quote(str(self.sockets), safe='/')}&port={PORT}"

    def launch(self) -> Child:
        """Make the cluster on the first start; clear what a dead postmaster left. Raises StackError."""
        account = _account()
        identity = _identity()
        private_dir(self.directory)
        private_dir(self.sockets)
        self._write_access(account)
        if not self.data.exists():
            self._initdb(identity)
        self._check_version()
        if identity:
            _give(self.data, identity)
        self._clear_stale_locks()
        self._complete = False
        options = {
            **_OPTIONS,
            "unix_socket_directories": str(self.sockets),
            "hba_file": str(self.directory / "hba.conf"),
            "ident_file": str(self.directory / "ident.conf"),
        }
        if not self._durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        return Child(
            [
                binaries.postgres(),
                "-D",
                self.data,
                "-p",
                str(PORT),
                *(x for kv in options.items() for x in _option(kv)),
            ],
            self._log,
            identity=identity,
            death_signal=signal.SIGQUIT,  # "immediate": the postmaster takes its children along
        )

    def probe(self) -> bool:
        """Whether it takes connections; makes roles and database where they are missing."""
        try:
            with self.connect() as connection:
                if not self._complete:
                    _complete(connection)
                    self._complete = True
                self.version = connection.info.parameter_status("server_version") or ""
        except psycopg.OperationalError:
            return False
        except psycopg.Error as e:
            raise StackError(Code.STACK, f"{self.name} cannot be set up: {str(e).strip()}") from e
        return True

    def connect(self, role: str = SUPERUSER, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        """A connection that commits each statement. Raises psycopg.OperationalError."""
        return psycopg.connect(self.url(role, database), connect_timeout=2, autocommit=True)

    def create_database(self, name: str, template: str = "template0") -> str:
        """A fresh database that the owner role owns, copied from ``template``; its URL for the app role."""
        with self.connect() as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}").format(
                    sql.Identifier(name), sql.Identifier(OWNER), sql.Identifier(template)
                )
            )
        return self.url(APP, name)

    def drop_database(self, name: str) -> None:
        """Drop a database, ending the sessions in it."""
        with self.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _initdb(self, identity: Identity | None) -> None:
        """Make the cluster aside and rename it: one that was interrupted is never taken for a whole one."""
        new = self.directory / "data.new"
        if new.exists():
            shutil.rmtree(new)
        private_dir(new)
        if identity:
            os.chown(new, identity.uid, identity.gid)
        child = Child(
            [
                *(binaries.postgres("initdb"), "--pgdata", new, f"--username={SUPERUSER}", "--auth=peer"),
                *("--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
                *("--data-checksums", *(() if self._durable else ("--no-sync",))),
            ],
            self._log,
            identity=identity,
        )
        try:
            if not child.wait(INITDB_SECONDS) or child.status != 0:
                raise StackError(Code.STACK, f"{self.name} cannot make its cluster: initdb {child.ending()}")
        finally:
            if child.alive:
                child.kill()
        new.rename(self.data)
        _sync_directory(self.directory)

    def _check_version(self) -> None:
        try:
            found = (self.data / "PG_VERSION").read_text(encoding="ascii").strip()
        except OSError as e:
            raise StackError(Code.STACK, f"{self.data} is not a whole PostgreSQL cluster: {e.strerror}") from e
        if found != MAJOR:
            raise StackError(
                Code.STACK,
                f"{self.data} was written by PostgreSQL {found} and this is {MAJOR}: dump it with the old version's "
                "pg_dumpall, start with an empty data directory and restore.",
            )

    def _write_access(self, account: str) -> None:
        """Regenerated at each start: the account may have another name on another machine."""
        quoted = account.replace('"', '""')
        write_private(self.directory / "hba.conf", "local all all peer map=stack\n")
        write_private(
            self.directory / "ident.conf",
            "".join(f'stack "{quoted}" {role}\n' for role in (SUPERUSER, OWNER, APP)),
        )

    def _clear_stale_locks(self) -> None:
        """Remove the lock files of a postmaster that is gone; wait for one that is still going.

        Postgres looks whether the process id in its lock file is alive. After a power loss, and always in a
        fresh container, that id may be some other process, and Postgres would refuse for ever.
        """
        lock = self.data / "postmaster.pid"
        sockets = self.sockets / f".s.PGSQL.{PORT}"
        old = self._postmaster(lock)
        if old is not None:
            try:
                old.send_signal(signal.SIGQUIT)
                old.wait(self.stop_seconds)
            except psutil.TimeoutExpired:
                old.kill()
                old.wait(self.stop_seconds)
            except psutil.NoSuchProcess:
                pass
        for path in (lock, sockets, sockets.with_name(sockets.name + ".lock")):
            path.unlink(missing_ok=True)

    def _postmaster(self, lock: Path) -> psutil.Process | None:
        """The process in the lock file if it really is a Postgres that works in our data directory."""
        try:
            process = psutil.Process(int(lock.read_text(encoding="ascii").split("\n", 1)[0]))
            ours = process.name() == "postgres" and Path(process.cwd()) == self.data.resolve()
        except (OSError, ValueError, psutil.Error):
            return None
        return process if ours else None


def _option(pair: tuple[str, str]) -> tuple[str, str]:
    return "-c", f"{pair[0]}={pair[1]}"


def _complete(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Roles and database, where they are missing. The roles have no rights here: the migrations grant them."""
    for role in (OWNER, APP):
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone():
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
    if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone():
        connection.execute(
            sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), sql.Identifier(OWNER))
        )


def _account() -> str:
    """The name of the account that runs us: Postgres knows its peers, and itself, by name. Raises StackError."""
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError as e:
        raise StackError(
            Code.STACK,
            f"User id {uid} has no entry in /etc/passwd, and PostgreSQL needs one: add it, or run as a user that has one.",
        ) from e


def _identity() -> Identity | None:
    """Whom Postgres becomes, since it refuses to be root. Raises StackError."""
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError as e:
        raise StackError(
            Code.STACK,
            "PostgreSQL refuses to run as root and there is no user nobody: add one, or run as another user.",
        ) from e
    return Identity(nobody.pw_uid, nobody.pw_gid)


def _give(directory: Path, identity: Identity) -> None:
    """Make ``identity`` the owner of a cluster that another account has made."""
    if directory.stat().st_uid == identity.uid:
        return
    for path, _, names in os.walk(directory):
        for name in names:
            os.chown(Path(path) / name, identity.uid, identity.gid, follow_symlinks=False)
        # The directory last: its owner says that everything below is done.
    for path, _, _ in os.walk(directory, topdown=False):
        os.chown(path, identity.uid, identity.gid)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
