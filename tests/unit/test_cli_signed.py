"""Signed URLs on the command line: how they get in, what never gets out, and how a paused push goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from cloudpush.cli import handover, local, wait
from cloudpush.cli.context import os_user
from cloudpush.cli.exits import exit_code_of
from cloudpush.cli.handed import OneUrl
from cloudpush.cli.main import app
from cloudpush.credentials.kinds import parse
from cloudpush.errors import CloudPushError, Code, InputError
from cloudpush.push.intake import Accepted, Preview
from cloudpush.push.job import PlannedFile, Request
from cloudpush.push.signed.intake import Resigned
from cloudpush.push.states import Overwrite, State, Strength

PUSH = UUID("019a9c5e-0000-7000-8000-000000000001")
URL = "https://lab.s3.eu-central-1.amazonaws.com/run/a.csv?X-Amz-Signature=canary"
ROW = {"path": "a.csv", "url": URL}
#: Built once: that takes as long as all of a test.
COMMAND = get_command(app)
SOON = "The URLs end at 12:00, and 31.4 GiB take longer at 10 MiB/s."


class Intake:
    """What the command line hands over; answers as a service does."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []
        self.warnings: tuple[str, ...] = ()
        self.announced = True

    def submit(self, request: Request, rows: Iterable[Any] = (), hook: str = "") -> Accepted:
        self.heard.append(("submit", request, list(rows), hook))
        return self._accepted()

    def submit_one(self, request: Request, text: str, hook: str = "") -> Accepted:
        self.heard.append(("submit_one", request, text, hook))
        return self._accepted()

    def preview(self, request: Request, rows: Iterable[Any] = (), hook: str = "") -> Preview:
        self.heard.append(("preview", request, list(rows), hook))
        return self._preview()

    def preview_one(self, request: Request, text: str, hook: str = "") -> Preview:
        self.heard.append(("preview_one", request, text, hook))
        return self._preview()

    def resign(self, push_id: UUID, owner: str, actor: str, rows: Iterable[Any]) -> Resigned:
        self.heard.append(("resign", push_id, owner, actor, list(rows)))
        return Resigned(3, 2, PUSH, State.RUNNING, missing=4)

    def resign_one(self, push_id: UUID, owner: str, actor: str, text: str) -> Resigned:
        self.heard.append(("resign_one", push_id, owner, actor, text))
        return Resigned(1, 0, PUSH, State.QUEUED)

    def _accepted(self) -> Accepted:
        return Accepted(PUSH, created=True, announced=self.announced, warnings=self.warnings)

    def _preview(self) -> Preview:
        first = (PlannedFile(1, "a.csv", "run/a.csv", 7, 0),)
        return Preview("s3://lab/run", 1, 7, refused=(), refusals=0, first=first, warnings=self.warnings)


class History:
    """Rows as Postgres shows them; the last state for ever."""

    def __init__(self) -> None:
        self.states = ["awaiting_consent"]
        self.changes: dict[str, Any] = {}
        self.open: list[dict[str, Any]] = [open_file(n) for n in (1, 2, 3)]

    def push(self, push_id: UUID) -> dict[str, Any]:
        assert push_id == PUSH
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return a_row(state) | self.changes

    def needs(self, database: object, push_id: UUID) -> Iterator[dict[str, Any]]:
        return iter(self.open)

    def events(self, push_id: UUID) -> list[dict[str, Any]]:
        return []


def a_row(state: str) -> dict[str, Any]:
    counts = {f"files_{word}": 0 for word in ("verified", "skipped", "unverified", "failed")}
    return counts | {
        "id": PUSH,
        "state": state,
        "owner": "ada",
        "source": "/data/run",
        "uri": "s3://lab/run",
        "credential_kind": "signed_urls",
        "credential_id": PUSH,
        "min_strength": "ingest",
        "strength": None,
        "overwrite": "if-different",
        "created_at": datetime(2026, 3, 1, 12, tzinfo=UTC),
        "started_at": None,
        "finished_at": None,
        "uploaded_at": None,
        "planned_at": datetime(2026, 3, 1, 12, tzinfo=UTC),
        "files_total": 5,
        "parts_paused": 1,
        "hook_id": None,
        "bytes_total": 2048,
        "bytes_verified": 0,
        "sent_bytes": 0,
        "speed": None,
        "labels": {},
        "error_code": "URL_EXPIRED" if state == "awaiting_consent" else None,
        "error_message": "3 signed URLs have expired." if state == "awaiting_consent" else None,
    }


def open_file(seq: int) -> dict[str, Any]:
    name = f"[red]{seq}[/].csv"
    arrived = [1, 2, 3, 7] if seq == 1 else []
    return {
        "seq": seq,
        "path": name,
        "key": f"run/{name}",
        "size": 7,
        "error_code": "URL_EXPIRED",
        "arrived": arrived,
    }


class Terminal:
    """The command line as a user meets it. Nothing that it writes ever holds a signature."""

    def __init__(self) -> None:
        self.signed, self.keyed, self.history = Intake(), Intake(), History()
        self.announcer = SimpleNamespace(watch=_silence)

    def run(self, *words: str | os.PathLike[str], stdin: str | bytes = "") -> Result:
        result = CliRunner().invoke(app, [str(word) for word in words], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit | CloudPushError):
            raise result.exception
        told = result.exception
        more = f"{told.message} {told.detail} {told.field}" if isinstance(told, CloudPushError) else ""
        assert "canary" not in f"{result.output} {result.stderr} {told!r} {more}"
        return result

    def refusal(self, *words: str | os.PathLike[str], stdin: str | bytes = "") -> CloudPushError:
        error = self.run(*words, stdin=stdin).exception
        assert isinstance(error, InputError)
        assert (exit_code_of(error), self.signed.heard, self.keyed.heard) == (2, [], [])
        return error


@contextmanager
def _silence(push_id: UUID) -> Iterator[Any]:
    yield lambda seconds: {"state": "ask again"}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    made = Terminal()

    @contextmanager
    def services() -> Iterator[Any]:
        yield SimpleNamespace(
            settings=SimpleNamespace(web_url=""),
            intake=made.keyed,
            signed=made.signed,
            history=made.history,
            announcer=made.announcer,
            database=None,
        )

    monkeypatch.setattr("typer.testing._get_command", lambda _app: COMMAND)
    monkeypatch.setenv("CLOUDPUSH_LOCAL", "1")  # whatever login whoever runs this has
    monkeypatch.setattr(local, "needs_of", made.history.needs)
    monkeypatch.setattr(local, "services", services)
    return made


def a_request(**changes: Any) -> Request:
    values: dict[str, Any] = {
        "owner": os_user(),
        "actor": os_user(),
        "source": "/data/run",
        "destination": "",
        "credential": "",
        "min_strength": Strength.INGEST,
    }
    return Request(**(values | changes))


def private(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(0o600)
    return path


# -- handing over --------------------------------------------------------------------------


@pytest.mark.parametrize("text", [URL, json.dumps(ROW)], ids=["url", "row"])
def test_one_url_comes_in_on_stdin_or_in_a_file(terminal: Terminal, tmp_path: Path, text: str) -> None:
    """As it is, but for the blanks around it; ingest is demanded, since no more can be for some kinds."""
    path = private(tmp_path / "url", f"\ufeff\n {text}\n")

    by_stdin = terminal.run("push", "/data/run", "--signed-url", "-", stdin=f"{text}\n")
    by_file = terminal.run("push", "/data/run", "--signed-url", path, "--resign-hook", "signer")

    assert terminal.signed.heard == [
        ("submit_one", a_request(), text, ""),
        ("submit_one", a_request(), text, "signer"),
    ]
    assert (by_stdin.stdout, by_stdin.stderr, by_file.stdout, by_file.stderr) == (f"{PUSH}\n", "", f"{PUSH}\n", "")


@pytest.mark.parametrize(
    ("words", "text", "line"),
    [
        ([], f"path,url\na.csv,{URL}\n", 2),
        (["--manifest-format", "csv"], f"path,url\na.csv,{URL}\n", 2),
        ([], json.dumps([ROW]), 1),
        ([], json.dumps(ROW), 1),
        (["--manifest-format", "jsonl"], json.dumps(ROW), 1),
    ],
    ids=["csv, told by itself", "csv", "json", "json lines, told by itself", "json lines"],
)
@pytest.mark.parametrize("by_stdin", [True, False])
def test_manifest_comes_in_row_by_row(
    terminal: Terminal, tmp_path: Path, words: list[str], text: str, line: int, *, by_stdin: bool
) -> None:
    """With the line of each."""
    name = "-" if by_stdin else str(private(tmp_path / "m", text))

    terminal.run("push", "/data/run", "--manifest", name, *words, stdin=text if by_stdin else "")

    assert terminal.signed.heard == [("submit", a_request(), [(line, ROW)], "")]


def test_options_of_a_push_hold_for_one_with_urls(terminal: Terminal) -> None:
    """Owner, proof, overwriting, patterns, labels, key."""
    terminal.run(
        *("push", "/data/run", "--signed-url", "-", "--owner", "ada", "--min-strength", "checksum"),
        *("--overwrite", "never", "--include", "*.csv", "--exclude", "b*", "--label", "run=42"),
        *("--idempotency-key", "k-1"),
        stdin=URL,
    )

    assert terminal.signed.heard == [
        (
            "submit_one",
            a_request(
                owner="ada",
                min_strength=Strength.CHECKSUM,
                overwrite=Overwrite.NEVER,
                include=("*.csv",),
                exclude=("b*",),
                labels={"run": "42"},
                idempotency_key="k-1",
            ),
            URL,
            "",
        )
    ]


def test_push_with_a_key_is_what_it_was(terminal: Terminal) -> None:
    """The destination's own strength is demanded, and stdin is nobody's business."""
    terminal.run("push", "/data/run", "s3://lab/run", "-c", "lab", stdin=URL)

    request = a_request(destination="s3://lab/run", credential="lab", min_strength=None)
    assert (terminal.keyed.heard, terminal.signed.heard) == ([("submit", request, [], "")], [])


def test_warnings_are_told_beside_the_answer(terminal: Terminal) -> None:
    """On stderr; stdout stays what a script reads."""
    terminal.signed.warnings = (SOON,)

    words = terminal.run("push", "/data/run", "--signed-url", "-", stdin=URL)
    document = terminal.run("push", "/data/run", "--signed-url", "-", "--json", stdin=URL)
    preview = terminal.run("push", "/data/run", "--signed-url", "-", "--dry-run", "--json", stdin=URL)

    assert (words.stdout, words.stderr) == (f"{PUSH}\n", f"Warning: {SOON}\n")
    assert json.loads(document.stdout) == {
        "push": str(PUSH),
        "created": True,
        "announced": True,
        "warnings": [SOON],
    }
    assert (json.loads(preview.stdout)["warnings"], preview.stderr) == ([SOON], f"Warning: {SOON}\n")


@pytest.mark.parametrize(("option", "deed"), [("--signed-url", "preview_one"), ("--manifest", "preview")])
def test_dry_run_stores_nothing(terminal: Terminal, option: str, deed: str) -> None:
    """It says what would be pushed, and asks intake for nothing else."""
    text = URL if option == "--signed-url" else f"path,url\na.csv,{URL}\n"

    result = terminal.run("push", "/data/run", option, "-", "--dry-run", stdin=text)

    assert "would push 1 files, 7 B, to s3://lab/run" in result.stdout
    assert [heard[0] for heard in terminal.signed.heard] == [deed]


@pytest.mark.parametrize("option", ["--signed-url", "--manifest"])
def test_file_that_others_can_read_is_warned_of(terminal: Terminal, tmp_path: Path, option: str) -> None:
    """It is taken all the same."""
    path = private(tmp_path / "open", f"path,url\na.csv,{URL}\n")
    path.chmod(0o644)

    result = terminal.run("push", "/data/run", option, path)

    assert (f"Warning: {path} can be read by others" in result.stderr, len(terminal.signed.heard)) == (True, 1)


# -- what never belongs on a command line --------------------------------------------------


SAS = "https://lab.blob.core.windows.net/runs?sv=2022-11-02&sr=c&sp=rcw&sig=canary"


@pytest.mark.parametrize(
    "words",
    [
        ["push", "/data/run", "--signed-url", "{}"],
        ["push", "/data/run", "--signed-url={}"],
        ["push", "/data/run", "--manifest", "{}"],
        ["push", "/data/run", "{}"],
        ["push", "/data/run", "{}", "--credential", "lab"],
        ["push", "/data/run", "s3://lab/run", "--credential", "{}"],
        ["push", "{}", "s3://lab/run", "--credential", "lab"],
        ["push", "/data/run", "s3://lab/run", "{}", "--credential", "lab"],
        ["push", "/data/run", "--signed-url", "-", "{}"],
        ["push", "/data/run", "--signed-url", "-", "--resign-hook", "{}"],
        ["resign", "{}"],
        ["resign", str(PUSH), "{}"],
        ["resign", str(PUSH), "--signed-url", "{}"],
        ["resign", str(PUSH), "--manifest", "{}"],
        ["needs", "{}"],
    ],
    ids=" ".join,
)
def test_url_as_an_argument_is_refused_and_not_repeated(terminal: Terminal, words: list[str]) -> None:
    """Wherever it stands; the refusal says what to do instead."""
    error = terminal.refusal(*(word.replace("{}", URL) for word in words), stdin=URL)

    assert "never belongs on the command line" in error.message


@pytest.mark.parametrize(
    "text",
    [
        *(URL, URL.upper(), URL.removeprefix("https://"), f" {URL}", SAS, SAS.removeprefix("https://")),
        *(json.dumps(ROW), f'{{ "url": "{URL}"}}', "http://lab.example.org/a.csv"),
        "lab.s3.amazonaws.com/a?AWSAccessKeyId=AK&Signature=canary&Expires=1",
        "storage.googleapis.com/lab/a?uploadType=resumable&upload_id=canary",
        "lab.s3.amazonaws.com/a?partNumber=1&uploadId=canary",
    ],
)
def test_signed_urls_are_told_from_names(text: str) -> None:
    """Whole, without their scheme, or inside a row."""
    with pytest.raises(InputError, match="never belongs on the command line") as caught:
        handover.refuse_urls("/data/run", text)

    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "-", "/data/run", "s3://lab/run?", "az://lab/what&sig", "{a}", "a=b?c&d", "what's this?.csv", "signature.txt"],
)
def test_names_are_no_urls(text: str) -> None:
    """However odd."""
    handover.refuse_urls(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["push", "/data/run", "--signed-url", "-", "--manifest", "-"], "exclude each other"),
        (["push", "/data/run", "s3://lab/run", "--signed-url", "-"], "DEST does not go with signed URLs"),
        (["push", "/data/run", "--signed-url", "-", "-c", "lab"], "--credential does not go with signed URLs"),
        (["push", "/data/run", "--manifest", "-", "--profile", "r2"], "--profile does not go with signed URLs"),
        (["push", "/data/run"], "DEST is missing"),
        (["push", "/data/run", "s3://lab/run"], "--credential is missing"),
        (["push", "/data/run", "s3://lab/run", "more", "-c", "lab"], "1 word too many"),
        (["push", "/data/run", "s3://lab/run", "-c", "lab", "--resign-hook", "h"], "--resign-hook goes with"),
        (["push", "/data/run", "s3://lab/run", "-c", "lab", "--manifest-format", "csv"], "--manifest-format goes with"),
        (["push", "/data/run", "--signed-url", "-", "--min-strength", "much"], "'much' is none of"),
        (["push", "/data/run", "--signed-url", "no-such-file"], "signed_url='no-such-file' cannot be read"),
        (["push", "/data/run", "--manifest", "no-such-file"], "manifest='no-such-file' cannot be read"),
        (["push", "/data/run", "--manifest", "/"], "manifest='/' cannot be read"),
        (["resign", str(PUSH)], "Give fresh URLs"),
        (["resign", "7", "--signed-url", "-"], "'7' is no push id"),
    ],
    ids=str,
)
def test_words_that_do_not_go_together_are_refused(terminal: Terminal, words: list[str], message: str) -> None:
    """Before anything is read or stored."""
    assert message in terminal.refusal(*words, stdin=URL).message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "The input is empty"),
        (b"\xef\xbb\xbf \n", "The input is empty"),
        (b"\xff\xfecanary", "not UTF-8"),
        (b"canary" * (handover.ROW_LIMIT // 6 + 1), "is no signed URL"),
    ],
    ids=["nothing", "blanks", "binary", "a dataset by mistake"],
)
def test_input_that_is_no_url_is_refused_without_being_quoted(terminal: Terminal, text: bytes, message: str) -> None:
    """Not one word of it."""
    assert message in terminal.refusal("push", "/data/run", "--signed-url", "-", stdin=text).message


# -- a paused push -------------------------------------------------------------------------


def test_fresh_urls_are_handed_over_for_a_push(terminal: Terminal) -> None:
    """By manifest or one by one, in one's own name or somebody else's."""
    many = terminal.run("resign", str(PUSH), "--manifest", "-", stdin=json.dumps([ROW]))
    one = terminal.run("resign", str(PUSH), "--signed-url", "-", "--owner", "ada", "--json", stdin=URL)

    assert terminal.signed.heard == [
        ("resign", PUSH, os_user(), os_user(), [(1, ROW)]),
        ("resign_one", PUSH, "ada", os_user(), URL),
    ]
    assert (many.stdout, many.stderr, json.loads(one.stdout)) == (
        f"{PUSH} goes on: rows with fresh URLs 3, rows not needed 2.\n",
        f"Warning: files that still need a fresh URL: 4; see cloudpush needs {PUSH}\n",
        {"push": str(PUSH), "state": "queued", "accepted": 1, "ignored": 0, "missing": None},
    )


def test_needs_are_told_to_a_signer(terminal: Terminal) -> None:
    """One document, however many files there are."""
    result = terminal.run("needs", str(PUSH), "--json")

    assert (result.exit_code, json.loads(result.stdout)) == (
        0,
        {
            "push": str(PUSH),
            "state": "awaiting_consent",
            "uri": "s3://lab/run",
            "code": "URL_EXPIRED",
            "planned": True,
            "files": [
                {
                    "seq": n,
                    "path": f"[red]{n}[/].csv",
                    "key": f"run/[red]{n}[/].csv",
                    "size": 7,
                    "arrived": arrived,
                    "code": "URL_EXPIRED",
                }
                for n, arrived in ((1, [1, 2, 3, 7]), (2, []), (3, []))
            ],
        },
    )


def test_needs_are_shown_to_a_person(terminal: Terminal) -> None:
    """Names with brackets are taken literally; a long list is cut and says so."""
    all_, some = terminal.run("needs", str(PUSH)), terminal.run("needs", str(PUSH), "--files", "2")

    assert (all_.stdout.count("[red]3[/].csv"), "1-3, 7" in all_.stdout, "and more" in all_.stdout) == (2, True, False)
    assert (some.stdout.count("[red]3[/].csv"), "and more" in some.stdout) == (0, True)


def test_push_that_is_over_needs_nothing(terminal: Terminal) -> None:
    """Whatever its files are."""
    terminal.history.states = ["cancelled"]

    assert (json.loads(terminal.run("needs", str(PUSH), "--json").stdout)["files"], terminal.signed.heard) == ([], [])
    assert "is cancelled: it needs nothing" in terminal.run("needs", str(PUSH)).stdout


def test_push_without_a_plan_needs_a_url_for_every_file(terminal: Terminal) -> None:
    """Which they are, its manifest said."""
    terminal.history.changes = {"planned_at": None}
    terminal.history.open = []

    assert "needs a URL for every file" in terminal.run("needs", str(PUSH)).stdout


@pytest.mark.parametrize(
    "words", [["wait", str(PUSH)], ["push", "/data/run", "--signed-url", "-", "--wait"]], ids=["wait", "push --wait"]
)
def test_waiting_can_end_with_the_pause(terminal: Terminal, words: list[str]) -> None:
    """With an exit code of its own; whoever waits may be the one to act."""
    result = terminal.run(*words, "--until-paused", stdin=URL)

    assert result.exit_code == 9
    assert result.stderr.splitlines() == [
        "awaiting_consent: 0 B of 2.0 KiB",
        f"paused: URL_EXPIRED 3 signed URLs have expired. user must act: {Code.URL_EXPIRED.fix}",
        f"{PUSH} waits: see cloudpush needs {PUSH}",
    ]


def test_waiting_goes_on_by_default(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says once why nothing moves, and leaves with the verdict."""
    monkeypatch.setattr(wait, "LINE_SECONDS", 0.0)
    terminal.history.states = ["running", "awaiting_consent", "awaiting_consent", "running", "succeeded"]

    result = terminal.run("wait", str(PUSH))

    assert (result.exit_code, result.stderr.count("paused: URL_EXPIRED")) == (0, 1)


def test_show_tells_how_long_the_urls_last_and_who_renewed_them(terminal: Terminal) -> None:
    """And whether parts wait."""
    terminal.history.changes = {
        "urls": {
            "credential_id": PUSH,
            "state": "active",
            "expires_at": datetime(2026, 3, 2, 9, 30, tzinfo=UTC),
            "origin": "https://lab.s3.amazonaws.com",
        },
        "renewals": [{"number": 1, "at": datetime(2026, 3, 1, 14, tzinfo=UTC), "actor": "[b]ada", "files": 3}],
    }

    lines = {" ".join(line.split()) for line in terminal.run("show", str(PUSH), "--files", "0").stdout.splitlines()}

    assert lines >= {
        "parts paused 1",
        "urls lead to https://lab.s3.amazonaws.com",
        "urls expire 2026-03-02 09:30:00 (active)",
        "fresh urls 1 2026-03-01 14:00:00 by [b]ada, for 3 files",
        "error code URL_EXPIRED",
    }


# -- the callback's credential -------------------------------------------------------------


HOOK = {"url": "https://pipeline.example.org/resign?token=canary", "secret": "canary-0123456789"}


@pytest.mark.parametrize(
    "text",
    [json.dumps(HOOK), "url=https://pipeline.example.org/resign?token=canary\nsecret=canary-0123456789\n"],
    ids=["json", "lines"],
)
def test_callback_is_handed_over_as_a_key_is(text: str) -> None:
    """A query with equals signs comes through whole."""
    assert dict(parse("resign_hook", handover.parse(text)).reveal()) == HOOK


def test_callback_is_asked_for_without_being_shown() -> None:
    """Its path may be as secret as its secret."""
    asked: list[tuple[str, bool, bool]] = []

    def ask(label: str, hidden: bool, required: bool) -> str:
        asked.append((label, hidden, required))
        return HOOK[label]

    assert (handover.from_prompt("resign_hook", ask), asked) == (HOOK, [("url", True, True), ("secret", True, True)])


def test_callback_is_not_looked_for_in_variables_of_aws(terminal: Terminal) -> None:
    """There is none."""
    error = terminal.refusal("credential", "add", "--name", "h", "--kind", "resign_hook", "--from-env")

    assert "which hold no resign_hook" in error.message


@pytest.mark.parametrize("host", ["account.blob.core.windows.net", "127.0.0.1:10000/account"])
def test_sas_of_a_directory_goes_over_the_api_as_one_whatever_its_host(host: str) -> None:
    """The server lists hosts of its own network; the command line does not know which."""
    query = "sv=2022-11-02&sp=cw&se=2026-11-29T02:26:36Z&sig=K"
    assert [[*row] for row in OneUrl(f"https://{host}/box?{query}&sr=c").rows()] == [["tree_sas_url"]]
    assert [[*row] for row in OneUrl(f"https://{host}/box/blob?{query}&sr=b").rows()] == [["url"]]
