"""``cloudpush demo``: the whole machine on this computer, on real data, in about a minute.

Everything that is shown is the product's own command line, client and API, used as a user would use them. The only thing that
is made up is the users' clouds: a real S3 server (SeaweedFS), a real Azure Blob server (Azurite) and a small OpenID provider
(oidc-provider-mock) in the same directory.

``demo_stage`` starts and stops these, ``demo_run`` holds the conversation, the other ``demo_…`` modules are its chapters.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cloudpush.cli import demo_api, demo_consent, demo_keys, demo_record, demo_signed
from cloudpush.cli.demo_run import BUCKET, Run, chapter, out, say
from cloudpush.cli.demo_stage import clear, stage
from cloudpush.errors import Code, StackError


def add_to(root: typer.Typer) -> None:
    """Add the command."""
    root.command()(demo)


def demo(
    directory: Annotated[
        Path, typer.Option("--dir", help="Where everything lies; made, and removed at the end.")
    ] = Path(".demo"),
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running and the directory in place.")] = False,
) -> None:
    """Start everything here, push real data through the API into local clouds, show and verify the record, stop."""
    base = directory.resolve()
    if base.exists() and not (base / ".cloudpush-demo").exists() and any(base.iterdir()):
        raise StackError(Code.STACK, f"{str(base)!r} is not empty and not an earlier demo's; choose another --dir.")
    began = time.monotonic()
    clear(base)
    with stage(base, keep=keep) as (run, clouds):
        demo_api.get_a_token(run)
        demo_keys.hand_over_a_key(run, clouds.s3, clouds.user)
        demo_keys.push_a_library(run)
        demo_api.push_with_the_client(run)
        demo_api.push_a_batch(run)
        demo_keys.push_a_bag(run, clouds.s3, clouds.user)
        demo_keys.push_with_a_wrong_key(run, clouds.s3, clouds.user)
        demo_signed.push_with_signed_urls(run, clouds.s3, clouds.user)
        demo_signed.push_with_a_sas(run, clouds.azure)
        demo_consent.connect_push_revoke(run, clouds.client)
        if sys.stdin.isatty():
            _let_the_user_try(run)
        demo_record.read_as_an_auditor(run)
        demo_record.prove_it(run)
        _say_what_next(run, keep=keep)
    if not keep:
        shutil.rmtree(base, ignore_errors=True)
    out.print(
        f"[bold green]The demo is over[/] after {time.monotonic() - began:.0f} s; "
        + ("what it started runs on." if keep else "everything it started is stopped.")
    )


def _let_the_user_try(run: Run) -> None:
    """At a terminal, the user may do the same by hand, in a browser."""
    link = demo_consent.find_link(run.quietly("web-link"))
    chapter("Now you")
    out.print(
        f"  Open      [bold]{escape(link)}[/]\n"
        f"  connect   {demo_consent.TITLE}, role [bold]{demo_consent.ROLE_ARN}[/]; consent as anybody. Then, in another shell:\n\n"
        f"{escape(_exports(run))}\n"
        f"  {escape(sys.executable)} -m cloudpush push {escape(str(run.reports))} s3://{BUCKET}/by-hand --credential NAME\n\n"
        "  watch it under [bold]My pushes[/], read everything under [bold]Audit[/], and revoke the connection when you like."
    )
    out.input("Press Enter to go on and stop everything … ")


def _say_what_next(run: Run, *, keep: bool) -> None:
    chapter("What to try next")
    say(
        "  cloudpush up                      the same stack, kept in your data directory\n"
        "  cloudpush login URL               a token for this machine; `cloudpush token create` makes one for a program\n"
        "  cloudpush credential add --help   your own bucket's key\n"
        "  cloudpush push SRC s3://BUCKET/PREFIX --credential NAME --wait\n"
        "  kill -9 the worker while it pushes: nothing is lost\n"
        "  docs/client.md, docs/api.md, docs/receipts.md, docs/audit.md, docs/architecture.md, docs/security.md"
    )
    if keep:
        say(f"Still running. To use it in a shell:\n{_exports(run)}")


def _exports(run: Run) -> str:
    return "\n".join(f"  export {name}={value}" for name, value in sorted(run.ours.items()))
