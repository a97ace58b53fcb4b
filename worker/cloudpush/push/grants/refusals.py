"""Why a consent came to nothing, in words fit for whoever pressed *Connect*.

What a provider answers is a stranger's text: its error code is looked up, never shown unless it looks like one, and
what it says beside is cut short, stripped of control characters and quoted as its own words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from cloudpush.errors import CloudPushError, Code
from cloudpush.logs import redact

#: Characters of a provider's own words that are repeated.
WORDS = 200
_CODE = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
#: Control characters, and what turns the direction of a text around it.
_UNSHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]+")


class Refused(CloudPushError):
    """The consent is not accepted. ``message`` is shown to the user as it is."""


#: What the user can do now, where the code's own fix speaks of pushes.
_FIXES: dict[Code, str] = {
    Code.CONSENT_FAILED: "Begin again; nothing was connected.",
    Code.SCOPE_TOO_NARROW: "Begin again and leave every permission that is asked for ticked.",
    Code.PROVIDER_UNAVAILABLE: "Try again in a few minutes; nothing was connected.",
    Code.THROTTLED: "Try again in a few minutes; nothing was connected.",
    Code.NETWORK: "Try again in a few minutes; nothing was connected.",
    Code.CLIENT_REJECTED: "Tell the operator of CloudPush; nothing was connected.",
    Code.VAULT_UNREACHABLE: "Try again later; nothing was connected.",
    Code.VAULT_SEALED: "Try again later; nothing was connected.",
    Code.CONSENT_REVOKED: "Connect the account anew.",
}

#: The answers that RFC 6749, OpenID Connect and Google name → our code and words.
_ANSWERS: dict[str, tuple[Code, str]] = {
    "access_denied": (Code.CONSENT_FAILED, "You said no at {title}, or it said no for you."),
    "consent_required": (
        Code.CONSENT_FAILED,
        "{title} wants a consent that was not given; an administrator may have to.",
    ),
    "login_required": (Code.CONSENT_FAILED, "You were not signed in at {title}."),
    "interaction_required": (Code.CONSENT_FAILED, "{title} wanted to ask you something and could not."),
    "account_selection_required": (Code.CONSENT_FAILED, "{title} wanted you to choose an account."),
    "server_error": (Code.PROVIDER_UNAVAILABLE, "{title} had an error of its own."),
    "temporarily_unavailable": (Code.PROVIDER_UNAVAILABLE, "{title} is not available just now."),
    "invalid_scope": (
        Code.CLIENT_REJECTED,
        "{title} does not know, or does not allow us, a permission that we ask for.",
    ),
    "unauthorized_client": (Code.CLIENT_REJECTED, "CloudPush is not registered at {title} for what it asks."),
    "invalid_client": (Code.CLIENT_REJECTED, "CloudPush is not registered at {title}, or not as it says."),
    "invalid_request": (Code.CLIENT_REJECTED, "{title} did not understand what CloudPush asked."),
    "unsupported_response_type": (Code.CLIENT_REJECTED, "{title} does not offer the way in which CloudPush asks."),
    "invalid_target": (Code.CLIENT_REJECTED, "{title} does not know the storage that we ask for."),
    "admin_policy_enforced": (Code.CONSENT_FAILED, "An administrator of your organisation forbids this at {title}."),
    "org_internal": (Code.CONSENT_FAILED, "{title} lets only members of the operator's own organisation connect."),
}


def refusal(title: str, params: Mapping[str, str]) -> Refused:
    """What the ``error`` answer in ``params`` means. ``title``: the provider's."""
    answer = params["error"]
    code, words = _ANSWERS.get(answer, (Code.CONSENT_FAILED, ""))
    if not words:
        named = f" ({answer})" if _CODE.fullmatch(answer) else ""
        words = f"{{title}} answered with an error that CloudPush does not know{named}."
    said = shown(params.get("error_description", ""))
    return Refused(code, words.format(title=title) + (f" Its own words: “{said}”" if said else ""))


def shown(text: str) -> str:
    """A stranger's words on one line, short, without what controls a terminal or hides, and without secrets."""
    return redact(" ".join(_UNSHOWN.sub(" ", text[: 8 * WORDS]).split()), limit=WORDS)


def fix_of(code: str) -> str:
    """What the user can do about an outcome."""
    known = Code(code)
    return _FIXES.get(known, known.fix)
