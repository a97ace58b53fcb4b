"""The demo's chapter on consent: a provider to consent at, a storage that trusts it, and a visitor who clicks through.

The storage is the demo's S3 server: its STS lends the keys of a role to whoever brings an identity token of the provider (AWS'
``AssumeRoleWithWebIdentity``). So what a push is opened with comes from the consent and from nothing else.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from cloudpush.cli.demo_run import BUCKET, Run, chapter, quote, say
from cloudpush.cli.demo_visitor import Page, Visitor
from cloudpush.cli.exits import Exit
from cloudpush.errors import Code, StackError
from cloudpush.stack.oauth_mock import OAuthClient, OAuthMock
from cloudpush.stack.seaweedfs import role_arn, web_identity

PROVIDER = "demo"
TITLE = "Demo Cloud"
USER = "alice@example.org"
ROLE = "CloudPush"
ROLE_ARN = role_arn(ROLE)
CALLBACK = f"/consent/callback/{PROVIDER}"
_LINK = re.compile(r"http://127\.0\.0\.1:\d+/sign-in/link\?token=[\w-]+")


def connect_push_revoke(run: Run, client: OAuthClient) -> None:
    """The chapter: an account is connected, a push goes by it, and it is taken back."""
    chapter("10. A consent in the browser (OAuth): connect, push, revoke")
    says = "The operator has registered CloudPush with a provider; the client's secret goes into Vault:"
    run("provider", "set-secret", PROVIDER, stdin=client.secret, says=says)
    link = find_link(run.quietly("web-link"))
    say(
        "A user opens a one-time link, reads what is asked for, and consents. Here a small visitor does, by the pages' forms:"
    )
    for page in click_through(link, "my-cloud"):
        quote(f"  {page.url.partition('?')[0]}  {page.heading}")
    run("grant", "list")
    [grant] = json.loads(run.quietly("grant", "list", "--json"))["grants"]
    run(
        *("push", str(run.reports), f"s3://{BUCKET}/consented", "--credential", "my-cloud", "--wait"),
        says="Nobody handed over a key: the storage lends one for this prefix, because of the consent.",
    )
    run(
        *("grant", "revoke", "my-cloud", "--yes", "--wait"),
        says="The user takes it back. The provider is told where it listens, Vault is purged.",
    )
    run(
        *("push", str(run.reports), f"s3://{BUCKET}/late", "--credential", grant["id"]),
        expect=Exit.BAD_INPUT,
        says="From now on nothing goes by it; what ran would have stopped within seconds.",
    )
    run("grant", "ledger", grant["id"], says="The consent ledger: everything that was asked, granted and done with it.")


def iam_document(issuer: str, client_id: str) -> dict[str, Any]:
    """SeaweedFS' settings for STS: whose identity tokens are accepted, and the role that they open."""
    return web_identity(issuer, f"{issuer}/jwks", client_id, {ROLE: ""})


def write_provider(path: Path, mock: OAuthMock, client: OAuthClient, storage: str) -> None:
    """The table that an operator writes, for ``CLOUDPUSH_PROVIDERS_FILE``. The client's secret is not in it."""
    words = "# Written by `cloudpush demo`, as an operator would for a provider of their own.\n"
    path.write_text(words + table(PROVIDER, TITLE, mock, client, storage), encoding="utf-8")


def table(name: str, title: str, mock: OAuthMock, client: OAuthClient, storage: str) -> str:
    """A provider whose identity tokens the storage accepts, as TOML. ``storage``: the S3 server's URL, STS at the same."""
    return f"""[{name}]
title = "{title}"
flow = "code"
use = "web_identity"
identity_token = "theirs"
profile = "seaweedfs"
client_id = "{client.id}"
issuer = "{mock.issuer}"
discovery = "{mock.issuer}/.well-known/openid-configuration"
scopes = ["openid", "email"]
needs = ["openid"]
token_auth = "client_secret_basic"
rotation = "never"
endpoint = "{storage}"
sts_endpoint = "{storage}"

[{name}.explains]
openid = "Tell the storage who you are, so that it lends CloudPush the role below"
email = "Show CloudPush your e-mail address, so that you recognise the connection"

[[{name}.questions]]
name = "role_arn"
title = "Role ARN"
pattern = "arn:aws:iam::role/[A-Za-z]+"
hint = "The role in your account that trusts the provider. In this demo: {ROLE_ARN}"
example = "{ROLE_ARN}"
"""


def find_link(words: str) -> str:
    """The one-time link in what a command said. Raises StackError."""
    found = _LINK.search(words)
    if found is None:
        raise StackError(Code.STACK, "The command printed no one-time link.")
    return found[0]


def click_through(link: str, name: str) -> list[Page]:
    """Sign in by ``link``, connect under ``name``, consent as USER. Every page on the way; raises StackError.

    The forms are the ones that people see; nothing is sent that is not in them.
    """
    visitor = Visitor()
    pages = [visitor.go(link)]
    pages.append(visitor.press(pages[-1], "Sign in"))
    pages.append(visitor.go(_link_of(pages[-1], "Connect an account")))
    pages.append(visitor.go(_link_of(pages[-1], f"Connect {TITLE}")))
    pages.append(visitor.press(pages[-1], "Con", {"name": name, "answer.role_arn": ROLE_ARN}))
    pages.append(visitor.press(pages[-1], USER))  # the provider's page: a button for each of its users
    if pages[-1].status != 200 or name not in pages[-1].text:
        raise StackError(Code.STACK, f"Nothing was connected; the page says: {pages[-1].text[:400]}")
    return pages


def _link_of(page: Page, words: str) -> str:
    for said, url in page.links.items():
        if words in said:
            return url
    raise StackError(Code.STACK, f"The page {page.heading!r} has no link {words!r}.")
