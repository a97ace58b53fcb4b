"""`cloudpush up` and `cloudpush down`: the whole machine on one computer.

Nothing else in CloudPush knows about this: the other commands read `cloudpush.env`, as they would read settings
for servers of your own.
"""

from __future__ import annotations

import getpass
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from cloudpush.audit.migrate import upgrade
from cloudpush.credentials.providers import read_providers
from cloudpush.errors import CloudPushError, Code, SettingsError, StackError
from cloudpush.settings import ENV_FILE, OUTSIDE, PREFIX, Settings, default_data_dir, read_settings
from cloudpush.stack import binaries
from cloudpush.stack.datadir import DataDir
from cloudpush.stack.ports import HOST
from cloudpush.stack.postgres import OWNER
from cloudpush.stack.private import private_dir, write_private
from cloudpush.stack.process import POLL_SECONDS, open_log
from cloudpush.stack.program import Program
from cloudpush.stack.services import OpenBao, Postgres, Valkey
from cloudpush.stack.supervisor import Phase, Supervisor
from cloudpush.stack.view import LiveView, PlainView, view_for
from cloudpush.stack.website import Website
from cloudpush.wiring import sign_in_link
from cloudpush.wiring.command import found_operator

#: The sum of what all services may take to stop, and some more.
DOWN_SECONDS = 180.0

#: The program that serves the web pages.
WEB = "web"
#: How long the link that `up` prints can be used.
LINK_SECONDS = 3600.0

#: Settings that say where the servers are: the stack's to say. Any other comes in from the environment of `up`.
_OURS = tuple(PREFIX + name for name in ("DATABASE_", "REDIS_", "VAULT_", "RUNTIME_DIR"))


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What may be chosen. ``source_roots`` empty: the environment's setting, else the present directory."""

    data_dir: Path
    workers: int = 1
    source_roots: tuple[Path, ...] = ()
    allowed_endpoints: tuple[str, ...] = ()
    profiles_file: Path | None = None
    providers_file: Path | None = None

    def programs(self) -> dict[str, tuple[str, ...]]:
        """Our own processes by name, in the order of their start, as arguments of this Python."""
        names = ["worker"] if self.workers == 1 else [f"worker-{n}" for n in range(1, self.workers + 1)]
        return {
            **dict.fromkeys(names, ("-m", "cloudpush", "worker")),
            "sweeper": ("-m", "cloudpush", "sweeper"),
            WEB: ("-m", "cloudpush", "web"),
        }


def run_up(
    options: UpOptions,
    *,
    view: LiveView | PlainView | None = None,
    on_claimed: Callable[[DataDir], None] = lambda _data: None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Run the stack until SIGINT, SIGTERM or SIGHUP; call it from the main thread.

    ``on_claimed`` is called once the data directory is ours; ``on_ready`` gets the words that say how to use it, with a
    link to sign in; then the view, which may be a log file, is told them without that. Raises StackError where a part does not start or keeps crashing,
    SettingsError for a wrong setting, StoreError for a failed migration; everything is stopped by then.
    """
    if sys.platform != "linux":
        raise StackError(
            Code.STACK, f"The embedded stack runs on Linux only, not on {sys.platform}: use servers of your own."
        )
    os.umask(0o077)
    # The command line ends quietly when nobody reads its words; we have services to stop, and sockets that may break.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    data = DataDir(options.data_dir)
    data.claim()
    try:
        on_claimed(data)
        with view or view_for(Console()) as shown:
            _serve(options, data, shown, on_ready)
    finally:
        data.release()


def _serve(
    options: UpOptions, data: DataDir, view: LiveView | PlainView, on_ready: Callable[[str], None] | None
) -> None:
    before = data.state()
    run_dir = data.run_dir()
    postgres = Postgres(data.part("postgres"), run_dir, data.log("postgres"))
    valkey = Valkey(data.part("valkey"), run_dir / "valkey.sock", data.log("valkey"))
    openbao = OpenBao(data.part("openbao"), data.log("openbao"), ports=_ports(before))
    servers = [postgres, valkey, openbao]
    website = _website(options, data, before)
    programs = [
        website if name == WEB else Program(name, words, data.env_file, data.log(name))
        for name, words in options.programs().items()
    ]

    openbao.choose_ports()
    website.choose_port()
    settings = _write_env(options, data, run_dir, postgres, valkey, openbao, website, view)

    def remember() -> None:
        try:
            data.remember(_state(supervisor, data, run_dir, openbao, website))
        except OSError as e:  # a full disk must not stop what still works
            view.say(f"state.json cannot be written: {e.strerror}")

    supervisor = Supervisor([*servers, *programs], view, changed=remember)
    try:
        with supervisor:
            remember()
            supervisor.start(servers)
            if openbao.url != settings.vault_url:  # its port was taken between our look and its start
                settings = _write_env(options, data, run_dir, postgres, valkey, openbao, website, view)
            view.say(f"database at revision {upgrade(settings)}")
            found_operator(settings, settings.web_link_user)
            supervisor.start(programs)
            link = sign_in_link(settings, settings.web_link_user, LINK_SECONDS) if WEB in options.programs() else ""
            view.say(_how_to_use(data, website.url, "" if on_ready else link))
            if on_ready:
                on_ready(_how_to_use(data, website.url, link))
            supervisor.watch()
    finally:
        with suppress(OSError):
            data.remember({"ports": {"openbao": openbao.ports, WEB: website.port}})
        if run_dir.parent != data.root:
            data.forget_run_dir(run_dir)


def _write_env(
    options: UpOptions,
    data: DataDir,
    run_dir: Path,
    postgres: Postgres,
    valkey: Valkey,
    openbao: OpenBao,
    website: Website,
    view: LiveView | PlainView,
) -> Settings:
    """Write `cloudpush.env` and read it as every other process will. Raises SettingsError, StackError."""
    given = {k: v for k, v in os.environ.items() if k.startswith(PREFIX) and k not in OUTSIDE}
    for key in sorted(given):
        if key.startswith(_OURS):
            del given[key]
            view.say(
                f"{key} in your environment is not for the embedded stack; unset it, or commands in this shell use it"
            )
    roots = [str(_root(path)) for path in options.source_roots]
    values = {
        PREFIX + "SOURCE_ROOTS": str(Path.cwd()),
        PREFIX + "RCLONE": str(binaries.rclone()),
        PREFIX + "WEB_LINK_USER": getpass.getuser(),
        **given,
        PREFIX + "DATABASE_URL": postgres.url(),
        PREFIX + "DATABASE_ADMIN_URL": postgres.url(OWNER),
        PREFIX + "REDIS_URL": valkey.url(),
        PREFIX + "VAULT_URL": openbao.url,
        PREFIX + "VAULT_AUTH_DIR": str(openbao.auth_dir),
        PREFIX + "RUNTIME_DIR": str(private_dir(run_dir / "engine")),
        PREFIX + "WEB_URL": website.url,
        PREFIX + "WEB_HOST": HOST,
        PREFIX + "WEB_PORT": str(website.port),
    }
    if roots:
        values[PREFIX + "SOURCE_ROOTS"] = os.pathsep.join(roots)
    if options.allowed_endpoints:
        key = PREFIX + "ALLOWED_ENDPOINTS"
        values[key] = ",".join(x for x in (given.get(key, ""), *options.allowed_endpoints) if x)
    if options.profiles_file:
        values[PREFIX + "PROFILES_FILE"] = str(options.profiles_file.absolute())
    if options.providers_file:
        values[PREFIX + "PROVIDERS_FILE"] = str(options.providers_file.absolute())
    write_private(data.env_file, env_text(values))
    settings = read_settings({ENV_FILE: str(data.env_file)})
    # What is wrong in them is better told now than by a worker's log.
    settings.profiles()
    read_providers(settings)
    return settings


def env_text(values: Mapping[str, str]) -> str:
    """``values`` as a file that dotenv reads back unchanged."""
    head = "# Written by `cloudpush up` at each start: what you change here is lost. Give options to `up`, or set\n"
    head += "# CLOUDPUSH_* variables in its environment: they are copied in.\n"
    quoted = {k: v.replace("\\", "\\\\").replace("'", "\\'") for k, v in values.items()}
    return head + "".join(f"{key}='{value}'\n" for key, value in quoted.items())


def _root(path: Path) -> Path:
    """A source root as it can be written into a list. Raises SettingsError."""
    key = PREFIX + "SOURCE_ROOTS"
    whole = path.absolute()
    if not whole.is_dir():
        raise SettingsError(Code.SETTINGS_INVALID, f"--source-root {path} is not a directory", field=key)
    if os.pathsep in str(whole):
        raise SettingsError(
            Code.SETTINGS_INVALID, f"--source-root {path} contains {os.pathsep!r}, which separates roots", field=key
        )
    return whole


def _ports(state: Mapping[str, Any]) -> tuple[int, int]:
    """OpenBao's ports of the last time, so that its URL stays the same."""
    match state.get("ports"):
        case {"openbao": [int() as api, int() as cluster]}:
            return api, cluster
        case _:
            return OpenBao.PREFERRED


def _website(options: UpOptions, data: DataDir, before: Mapping[str, Any]) -> Website:
    """The web pages, at the port of the environment or of the last time."""
    match before.get("ports"):
        case {"web": int() as port}:
            pass
        case _:
            port = Website.PREFERRED
    given = os.environ.get(PREFIX + "WEB_PORT", "")
    return Website(
        WEB,
        options.programs().get(WEB, ()),
        data.env_file,
        data.log(WEB),
        port=int(given) if given.isdigit() else port,
        url=os.environ.get(PREFIX + "WEB_URL", ""),
    )


def _state(supervisor: Supervisor, data: DataDir, run_dir: Path, openbao: OpenBao, website: Website) -> dict[str, Any]:
    """What runs, for people and for the next start."""
    return {
        "pid": os.getpid(),
        "since": (holder.since if (holder := data.holder()) else ""),
        "run_dir": str(run_dir),
        "env_file": str(data.env_file),
        "ports": {"openbao": openbao.ports, WEB: website.port},
        "services": {
            w.service.name: {
                "phase": w.phase.value,
                "since": w.since.isoformat(timespec="seconds"),
                "pid": w.pid,
                "where": w.service.where if w.phase is Phase.RUNNING else "",
                "version": w.service.version,
                "restarts": w.restarts,
            }
            for w in supervisor.watched
        },
    }


def _how_to_use(data: DataDir, url: str, link: str = "") -> str:
    """``url``: of pages and API. ``link``: signs in there; it is good for whoever has it, so it goes to a terminal only."""
    usual = data.root == DataDir(default_data_dir()).root
    stop = "cloudpush down" if usual else f"cloudpush down --data-dir {data.root}"
    lines = [
        "",
        f"CloudPush is ready. Its data lie in {data.root}; settings are in {data.env_file.name} there (rewritten now).",
        f"Stop it with Ctrl-C here, or with `{stop}`. In another shell:",
        "",
        *([] if usual else [f"  export {ENV_FILE}={data.env_file}"]),
        "  cloudpush doctor",
        "  cloudpush credential add --kind access_key --name mine",
        "  cloudpush push ./results s3://BUCKET/PREFIX --credential mine --wait",
        "",
        f"The REST API is at {url}/v1. A token for it:",
        "",
        f"  cloudpush login {url}    # for yourself: confirmed in the browser, kept for this account",
        "  cloudpush token create NAME --days 30       # for a program: printed once",
        "",
        *(
            ["In a browser, once, within the hour (another link: `cloudpush web-link`):", "", f"  {link}", ""]
            if link
            else []
        ),
    ]
    return "\n".join(lines)


def run_detached(options: UpOptions) -> str:
    """Start the stack in a session of its own and return, once it is ready, the words that say how to use it.

    Raises StackError with the words of whatever kept it from becoming ready.
    """
    data = DataDir(options.data_dir)
    ours, theirs = os.pipe()
    child = os.fork()  # no threads exist yet in a command line that has just parsed its arguments
    if child == 0:
        os.close(ours)
        _become_background(options, theirs)
    os.close(theirs)
    try:
        with os.fdopen(ours, encoding="utf-8") as pipe:
            said = pipe.read()
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        raise
    if not said:
        raise StackError(Code.STACK, f"`cloudpush up` ended before it was ready; see {data.log('up')}")
    answer = json.loads(said)
    if "error" in answer:
        raise StackError(Code(answer["code"]), answer["error"])
    return str(answer["ready"])


def _become_background(options: UpOptions, pipe: int) -> NoReturn:
    """The child of :func:`run_detached`: never returns into its parent's code."""

    def tell(answer: Mapping[str, str]) -> None:
        with suppress(OSError):  # the parent was interrupted
            os.write(pipe, json.dumps(answer).encode())
            os.close(pipe)

    status = 1
    try:
        os.setsid()
        run_up(
            options,
            view=PlainView(Console(file=sys.stdout, force_terminal=False)),
            on_claimed=_redirect,
            on_ready=lambda words: tell({"ready": words}),
        )
        status = 0
    except CloudPushError as e:
        sys.stdout.write(f"{e}\n")
        tell({"error": e.message, "code": e.code})
    except BaseException as e:  # noqa: BLE001 - the last frame of this process; its log is all that is left
        sys.excepthook(type(e), e, e.__traceback__)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _redirect(data: DataDir) -> None:
    """From here on its log takes what it says; until here its parent's terminal did."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    with open_log(data.log("up")) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def run_down(data_dir: Path, *, seconds: float = DOWN_SECONDS) -> int | None:
    """Stop the stack that uses ``data_dir`` and wait for its end: its pid, or None where nothing ran.

    Raises StackError when it does not end in time or belongs to someone else.
    """
    data = DataDir(data_dir)
    deadline = time.monotonic() + seconds
    stopped: int | None = None
    while data.in_use():
        holder = data.holder()
        if stopped is None and holder is not None and holder.alive():
            try:
                os.kill(holder.pid, signal.SIGTERM)
            except PermissionError as e:
                raise StackError(Code.STACK, f"Process {holder.pid} that uses {data.root} is not yours to stop.") from e
            except ProcessLookupError:
                continue
            stopped = holder.pid
        if time.monotonic() >= deadline:
            who = f"process {holder.pid}" if holder else "an unknown process"
            raise StackError(Code.STACK, f"{data.root} is still in use by {who} after {seconds:g} s; see {data.logs}.")
        time.sleep(POLL_SECONDS)
    return stopped
