"""The demo's conversation: what is about to happen in a line, the command, what it says, how it ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.rule import Rule

from cloudpush.errors import Code, StackError
from cloudpush.settings import PREFIX
from cloudpush.stack.private import write_private

#: Of the users' clouds; each has one of this name.
BUCKET = "user-bucket"

out = Console(highlight=False, soft_wrap=True)


def chapter(title: str) -> None:
    """A heading."""
    out.print(Rule(title, align="left"))


def say(words: str) -> None:
    """Words of the demo's own."""
    out.print(words, markup=False)


def quote(words: str) -> None:
    """Something that was read or sent, for the eye only."""
    out.print(f"[dim]{escape(words)}[/]")


@dataclass(frozen=True)
class Run:
    """Runs the command line as somebody would, and shows both sides of the conversation.

    ``ours``: the settings that their shell has exported. No secret is in it: it names the file that their token is in.
    """

    base: Path
    who: str = ""
    ours: dict[str, str] = field(default_factory=dict)

    @property
    def reports(self) -> Path:
        """A directory with a few small files."""
        return self.base / "data" / "reports"

    @property
    def url(self) -> str:
        """Where the API is."""
        return self.ours[PREFIX + "URL"]

    @property
    def token_file(self) -> Path:
        """Where their token is."""
        return Path(self.ours[PREFIX + "TOKEN_FILE"])

    def with_settings(self, settings: dict[str, str]) -> Run:
        """The same, with these exported and nothing else."""
        return Run(self.base, self.who, settings)

    def somebody_else(self, who: str) -> Run:
        """Another person's shell: the same server, and a token of their own."""
        return Run(self.base, who, self.ours | {PREFIX + "TOKEN_FILE": str(self.base / f"{who}.token")})

    def keep_token(self, token: str) -> None:
        """Write their token where nobody else reads it."""
        write_private(self.token_file, token)

    def __call__(
        self, *words: str, says: str = "", stdin: str = "", expect: int = 0, shown: Sequence[str] | None = None
    ) -> None:
        """Run ``cloudpush words``, shown; raises StackError when it ends otherwise than expected."""
        if says:
            say(says)
        self.show(*(shown or words))
        began = time.monotonic()
        self._run(words, stdin=stdin, expect=expect, quiet=False)
        out.print(f"[dim]  exit code {expect}, {time.monotonic() - began:.1f} s[/]\n")

    def show(self, *words: str) -> None:
        """The command as it would be typed, without what leads to the demo's own directory."""
        text = " ".join(words).replace(f"{self.base}/", "")
        out.print(f"[bold cyan]{self.who}$ cloudpush {escape(text)}[/]")

    def quietly(self, *words: str, expect: int | None = 0) -> str:
        """What ``cloudpush words`` prints. Raises StackError when it ends otherwise than expected."""
        return self._run(words, expect=expect, quiet=True)

    def script(self, file: Path) -> None:
        """Run a Python program with this shell's settings. Raises StackError when it fails."""
        out.print(f"[bold cyan]{self.who}$ python {escape(file.name)}[/]")
        began = time.monotonic()
        ended = subprocess.run([sys.executable, str(file)], env=self.env(), check=False)
        if ended.returncode:
            raise StackError(Code.STACK, f"{file} ended with {ended.returncode}; see {self.base}/stack/logs")
        out.print(f"[dim]  exit code 0, {time.monotonic() - began:.1f} s[/]\n")

    def env(self) -> dict[str, str]:
        """Nothing of the caller's own CloudPush: neither settings nor a saved login are used where an URL is given."""
        theirs = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
        return theirs | self.ours | {"COLUMNS": str(min(out.width, 160))}

    def _run(self, words: Sequence[str], *, stdin: str = "", expect: int | None, quiet: bool) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "cloudpush", *words],
            input=stdin,
            text=True,
            env=self.env(),
            stdout=subprocess.PIPE if quiet else None,
            stderr=subprocess.DEVNULL if quiet else None,
            check=False,
        )
        if expect is not None and ended.returncode != expect:
            raise StackError(
                Code.STACK,
                f"`cloudpush {' '.join(words[:2])}` ended with {ended.returncode}, expected {expect}; see {self.base}/stack/logs",
            )
        return ended.stdout or ""
