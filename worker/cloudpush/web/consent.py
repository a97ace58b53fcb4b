"""The way to a provider and back, as pages.

::

    GET  /connect/{provider}                what will be asked, in plain words; the questions; a name
    POST /connect/{provider}                → 303 to the provider, or (a role that trusts us) → 303 to its trust page
    POST /connections/{id}/reconnect        → 303 to the provider
    GET  /consent/callback/{provider}       the provider's answer, used up → 303 to
    GET  /consent/outcome/{attempt}         how it ended: may be reloaded, bookmarked, come back to; changes nothing
    GET  /connections/{id}/trust            what an AWS account has to be told so that it trusts us, to copy

The answer carries the code in its URL, so no page is ever shown under that URL: the browser is sent on at once, and what
it would tell a next page in ``Referer``, or keep in its history, opens nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute

from cloudpush.errors import CloudPushError, Code, InputError
from cloudpush.push.grants.consenting import STRANGER, THEIRS, UNNAMED, Consenting, Outcome
from cloudpush.push.grants.model import Flow, Provider
from cloudpush.push.grants.scopes import lasting
from cloudpush.push.grants.trust import Trust
from cloudpush.web import words
from cloudpush.web.origins import Origins
from cloudpush.web.pages import HOME, Visit, get, post

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices

#: A form's field that answers the provider's question of that name.
ANSWER = "answer."
#: Where an answer leads that belongs to nothing which this browser began.
NOWHERE = "/consent/nowhere"
#: The same for an error that does not say which of them it answers.
REFUSED = "/consent/refused"


def routes(services: WebServices) -> list[BaseRoute]:
    """All pages of this module."""
    pages = Consent(services)
    return [
        get("/connect/{provider}", pages.ask),
        post("/connect/{provider}", pages.begin),
        post("/connections/{grant_id}/reconnect", pages.reconnect),
        get("/connections/{grant_id}/trust", pages.trust),
        # Public: whose session ended on the way is told so, and not asked to sign in under a URL with a code in it.
        get("/consent/callback/{provider}", pages.complete, public=True),
        get("/consent/outcome/{attempt_id}", pages.outcome),
        get(NOWHERE, pages.nowhere, public=True),
        get(REFUSED, pages.nowhere, public=True),
    ]


class Consent:
    """The pages, over the one story that ``push.grants.consenting`` tells."""

    def __init__(self, services: WebServices) -> None:
        self._consenting: Consenting = services.consenting
        self._providers = services.providers
        self._origins = Origins(services.providers)

    # -- setting out -------------------------------------------------------------------------

    def ask(self, visit: Visit) -> Response:
        """What the provider will ask, and why; nothing has happened yet."""
        return self._form(visit, self._provider(visit))

    def begin(self, visit: Visit) -> Response:
        """Off to the provider; what was typed wrong is told beside its field."""
        provider = self._provider(visit)
        answers = {q.name: visit.field(f"{ANSWER}{q.name}") for q in provider.questions}
        try:
            if provider.flow is Flow.WEB_IDENTITY:
                grant = self._consenting.register(visit.owner, provider.name, visit.field("name"), answers)
                return visit.see(f"/connections/{grant.id}/trust")
            beginning = self._consenting.begin(visit.token, visit.owner, provider.name, visit.field("name"), answers)
        except InputError as e:
            if e.code is not Code.BAD_INPUT:
                raise
            return self._form(visit, provider, wrong=e)
        return visit.leave(beginning.url)

    def reconnect(self, visit: Visit) -> Response:
        """Off to the provider once more, for a connection that is there."""
        grant = visit.services.grants.show(visit.caller, visit.id("grant_id"))
        return visit.leave(self._consenting.begin(visit.token, visit.owner, grant.provider, reconnect=grant.id).url)

    def _form(self, visit: Visit, provider: Provider, *, wrong: InputError | None = None) -> Response:
        if not provider.offered:
            return visit.message(
                f"{provider.title} is not set up here",
                "The operator of this CloudPush has not registered it with this provider yet.",
                tone="wait",
                links=[("/connect", "Choose another provider")],
            )
        questions = [
            Asked(q.name, q.title, q.hint, q.example, q.required, visit.field(f"{ANSWER}{q.name}"))
            for q in provider.questions
        ]
        return visit.render(
            "consent.html",
            status=400 if wrong else 200,
            form_action=self._origins.of([provider.name]) if provider.flow is Flow.CODE else (),
            provider=provider,
            web_identity=provider.flow is Flow.WEB_IDENTITY,
            passes_on=provider.identity_token == THEIRS,
            lasting=lasting(provider, provider.scopes),
            scopes=[Scope(provider.explains.get(s, s), s, s in provider.needs) for s in provider.scopes],
            questions=questions,
            name=visit.field("name"),
            wrong=wrong,
        )

    # -- coming back ------------------------------------------------------------------------

    def complete(self, visit: Visit) -> Response:
        """The provider's answer. Whatever comes of it is told at an address without a code."""
        if not visit.owner:
            return visit.see(NOWHERE)
        outcome = self._consenting.complete(visit.token, visit.request.path_params["provider"], _single(visit))
        if outcome.attempt is not None:
            return visit.see(f"/consent/outcome/{outcome.attempt.id}")
        return visit.see(REFUSED if outcome is UNNAMED else NOWHERE)

    def outcome(self, visit: Visit) -> Response:
        """How it ended."""
        outcome = self._consenting.outcome(visit.token, visit.id("attempt_id"))
        return self.nowhere(visit) if outcome is STRANGER else self._ended(visit, outcome)

    def nowhere(self, visit: Visit) -> Response:
        """The answer belongs to nothing that this browser began, or its session ended on the way."""
        if not visit.owner:
            return visit.message(
                "You are not signed in any more",
                "Your session here ended while you were at the provider, so that its answer is not accepted. "
                "Nothing was connected.",
                tone="wait",
                links=[("/sign-in", "Sign in and begin again")],
            )
        told = UNNAMED if visit.path == REFUSED else STRANGER
        return visit.message(
            "Nothing was connected",
            [told.message, told.fix],
            tone="wait",
            links=[("/connect", "Connect an account"), (HOME, "Your connections")],
        )

    def _ended(self, visit: Visit, outcome: Outcome) -> Response:
        attempt = outcome.attempt
        assert attempt is not None  # noqa: S101 -- only a stranger's has none
        provider = self._title(attempt.provider)
        if outcome.granted:
            links = [(f"/connections/{outcome.grant_id}", "See the connection"), ("/pushes", "Your pushes")]
            title = f"{attempt.name} is connected again" if attempt.grant_id else f"{provider} is connected"
            return visit.message(title, outcome.message, links=links)
        if not outcome.code:
            here = (visit.path, "Look again")
            return visit.message("Not finished yet", [outcome.message, outcome.fix], tone="wait", links=[here])
        back = (f"/connections/{attempt.grant_id}", "Back to the connection")
        anew = (f"/connect/{attempt.provider}", "Begin again")
        title = f"{attempt.name} is not connected again" if attempt.grant_id else f"{provider} is not connected"
        return visit.message(
            title,
            [outcome.message, outcome.fix],
            tone="bad",
            links=[back] if attempt.grant_id else [anew, (HOME, "Your connections")],
        )

    # -- a role that trusts us ------------------------------------------------------------------

    def trust(self, visit: Visit) -> Response:
        """What to tell an AWS account: issuer, audience, subject, and templates that say it."""
        grant = visit.services.grants.show(visit.caller, visit.id("grant_id"))
        provider = self._providers.get(grant.provider)
        if provider.flow is not Flow.WEB_IDENTITY:
            raise HTTPException(404)
        url, bucket, prefix = visit.services.settings.web_url, visit.query("bucket"), visit.query("prefix")
        wrong: InputError | None = None
        try:
            trust = Trust.of(provider, grant, url, bucket, prefix)
        except InputError as e:
            if e.field not in ("bucket", "prefix"):
                raise
            trust, wrong = Trust.of(provider, grant, url), e
        return visit.render(
            "trust.html",
            status=400 if wrong else 200,
            grant=grant,
            provider=provider,
            trust=trust,
            shapes=trust.shapes(),
            bucket=bucket,
            prefix=prefix,
            wrong=wrong,
            check=words.error(grant.check_code, grant.check_message),
        )

    # -- pieces ----------------------------------------------------------------------------------

    def _provider(self, visit: Visit) -> Provider:
        return self._providers.get(visit.request.path_params["provider"])

    def _title(self, name: str) -> str:
        try:
            return self._providers.get(name).title
        except CloudPushError:
            return name  # the operator took it away meanwhile


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with what was typed."""

    name: str
    title: str
    hint: str
    example: str
    required: bool
    value: str


@dataclass(frozen=True, slots=True)
class Scope:
    """A permission in plain words, as the provider writes it, and whether a push cannot do without."""

    words: str
    name: str
    needed: bool


def _single(visit: Visit) -> dict[str, str]:
    """The query's parameters; none at all where one comes twice (RFC 6749 §3.1), for who knows which counts."""
    pairs = visit.request.query_params.multi_items()
    counted = Counter(name for name, _ in pairs)
    return dict(pairs) if all(n == 1 for n in counted.values()) else {}
