"""What a provider answered, judged: whose answer it is, and whether it is enough. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from cloudpush.errors import Code
from cloudpush.push.grants import proofs
from cloudpush.push.grants.model import Attempt, Provider, Tokens
from cloudpush.push.grants.refusals import Refused, refusal
from cloudpush.push.grants.scopes import Judgement, explained, lasting

#: Characters of an authorization code, at most.
CODE_CHARS = 4096
#: How Entra ID writes an issuer that is one for each tenant.
TENANT = "{tenantid}"


def check_way(attempt: Attempt, provider: Provider, came_to: str) -> None:
    """Against mix-up, also where a provider sends no ``iss`` (RFC 9700 §4.4.2.2). Raises Refused."""
    if came_to != attempt.provider:
        raise Refused(
            Code.CONSENT_FAILED,
            f"The answer came by another way than that from {provider.title}, where you were sent: it is not trusted.",
        )


def code_of(provider: Provider, params: Mapping[str, str]) -> str:
    """The authorization code of an answer that is this provider's (RFC 9207). Raises Refused."""
    issuer = params.get("iss", "")
    if (issuer or provider.sends_issuer) and not is_issuer(provider.issuer, issuer):
        raise Refused(
            Code.CONSENT_FAILED,
            f"The answer does not say that it comes from {provider.title}, where you were sent: it is not trusted.",
        )
    if "error" in params:
        raise refusal(provider.title, params)
    code = params.get("code", "")
    if not 0 < len(code) <= CODE_CHARS or not code.isascii() or not code.isprintable():
        raise Refused(Code.CONSENT_FAILED, f"{provider.title} sent you back without an answer.")
    return code


def is_issuer(expected: str, given: str, tenant: str = "") -> bool:
    """Whether ``given`` is the issuer ``expected``. ``tenant``: what stands for TENANT in it, where that is known."""
    if TENANT not in expected:
        return bool(expected) and proofs.same(expected, given)
    before, _, after = expected.partition(TENANT)
    middle = tenant or given.removeprefix(before).removesuffix(after)
    return _is_uuid(middle) and proofs.same(f"{before}{middle}{after}", given)


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def check_enough(provider: Provider, attempt: Attempt, tokens: Tokens, judged: Judgement) -> None:
    """Raises Refused where a push could not succeed with what was granted."""
    if judged.lacking:
        lacking = "; ".join(explained(provider, judged.lacking))
        raise Refused(
            Code.SCOPE_TOO_NARROW,
            f"{provider.title} did not give a permission that a push cannot do without: {lacking}.",
        )
    if lasting(provider, attempt.asked) and not tokens.refresh_token:
        raise Refused(
            Code.CONSENT_FAILED,
            f"{provider.title} gave no lasting permission: within the hour a push would have stopped, with nobody there to "
            "consent again. Remove CloudPush from your account there, and connect again.",
        )


def differences(provider: Provider, judged: Judgement) -> str:
    """More or less than was asked is told, also where it is enough."""
    less = f" Not granted: {'; '.join(explained(provider, judged.less))}." if judged.less else ""
    more = f" Granted beyond what was asked: {'; '.join(explained(provider, judged.more))}." if judged.more else ""
    return less + more
