"""Keys of a role for an identity token: AssumeRoleWithWebIdentity, narrowed to one bucket and prefix.

One plain POST without a signature: the identity token is the proof. What comes back may do what the role may *and* the policy
that we send along allows, so whoever gets hold of it reaches no further than the push that it was made for.

Source: botocore's model of STS 2011-06-15; provider-facts §3.3, §4.1, §4.3.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from cloudpush.credentials.calls import Reply, fill, origin_of, post, unfit
from cloudpush.credentials.kinds import AccessKey, parse
from cloudpush.credentials.urls import is_loopback
from cloudpush.errors import CloudPushError, Code, CredentialError, DestinationError, InputError
from cloudpush.logs import redact
from cloudpush.net import BadXml, parse_xml
from cloudpush.push.grants.model import Grant, Provider
from cloudpush.push.grants.policies import below, compact, keys_through_s3, partition_of
from cloudpush.push.guard import listed
from cloudpush.push.job import Destination, Secret
from cloudpush.push.preflight import PROBE

#: STS takes no less and no more.
LEAST_SECONDS, MOST_SECONDS = 900, 43_200
#: The dialect that is Amazon's own: its policies know variables, and its buckets may be encrypted with the account's keys.
AWS = "aws"
OURS = "ours"

_AMAZON_ROLE = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/")


class IdentityOverError(DestinationError):
    """The identity token that the consent gave has run out."""


@dataclass(frozen=True, slots=True)
class Role:
    """A role that trusts an identity provider, and the STS that lends its keys."""

    arn: str
    sts: str
    region: str
    endpoint: str  # of the storage; empty: the profile's

    @property
    def pins_subjects(self) -> bool:
        """Whether its account is one of Amazon's, whose trust policies can demand a `sub`."""
        return _AMAZON_ROLE.match(self.arn) is not None

    @classmethod
    def of(cls, provider: Provider, grant: Grant, allowed: Collection[str]) -> Role:
        """The role that ``grant`` is about. Raises InputError, SettingsError."""
        arn = grant.settings.get("role_arn", "")
        if not 20 <= len(arn) <= 2_048 or not arn.isascii() or not arn.isprintable() or " " in arn:
            raise InputError(
                Code.BAD_INPUT, f"role_arn={arn[:200]!r} is no role's ARN; connect again and copy it.", field="role_arn"
            )
        if not provider.sts_endpoint:
            raise unfit(provider, "sts_endpoint", "", "is missing: write https://sts.{region}.amazonaws.com")
        sts = fill(provider.sts_endpoint, provider, grant.settings, "sts_endpoint")
        region = grant.settings.get("region", "")
        if region.startswith("cn-") and sts.endswith(".amazonaws.com"):
            sts += ".cn"
        origin = origin_of(sts, provider, "sts_endpoint")
        safe = origin.scheme == "https" or is_loopback(origin.host) or listed(origin.host, origin.port, allowed)
        if not safe:
            raise unfit(provider, "sts_endpoint", sts, "is not https, and identity tokens go to it")
        endpoint = fill(provider.endpoint, provider, grant.settings, "endpoint") if provider.endpoint else ""
        if endpoint and origin_of(endpoint, provider, "endpoint").url != endpoint:
            raise unfit(provider, "endpoint", endpoint, "is more than https://HOST[:PORT]")
        return cls(arn, sts, region, endpoint)


@dataclass(frozen=True, slots=True)
class Keys:
    """What STS lent, and until when."""

    secret: Secret
    expires_at: datetime


def session_policy(destination: Destination, role_arn: str, *, listing: bool, probe: bool = False) -> str:
    """What a push to ``destination`` may do, as STS takes it. ``listing``: it looks there before it sends.

    ``probe``: it is a preflight, which deletes its probe. Raises InputError where the prefix cannot be put into a policy.
    """
    try:
        return _policy(destination, role_arn, listing=listing, probe=f"{PROBE}*" if probe else "")
    except InputError:
        if not probe:
            raise
        # What is short enough for a push is not to fail for the probe's sake, which then stays.
        return _policy(destination, role_arn, listing=listing)


def _policy(destination: Destination, role_arn: str, *, listing: bool, probe: str = "") -> str:
    amazon = destination.profile.dialect == AWS
    statements = below(
        destination.bucket,
        destination.prefix,
        partition=partition_of(role_arn),
        variables=amazon,
        listing=listing,
        probe=probe,
    )
    return compact([*statements, keys_through_s3()] if amazon else statements)


def assume(provider: Provider, role: Role, identity: str, *, name: str, policy: str) -> Keys:
    """Keys of ``role`` for the identity token ``identity``, narrowed by ``policy``. One request.

    ``name`` is what the account's own log (CloudTrail) calls the session: 2 to 64 of ``[A-Za-z0-9+=,.@_-]``. They live for
    ``session_seconds``; where that is less than STS lends for, as long as STS likes. Raises DestinationError, CredentialError.
    """
    fields = {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": role.arn,
        "RoleSessionName": name,
        "WebIdentityToken": identity,
        "Policy": policy,
    }
    if provider.session_seconds >= LEAST_SECONDS:
        fields["DurationSeconds"] = str(min(provider.session_seconds, MOST_SECONDS))
    reply = post(provider, f"{role.sts}/", data=fields, headers={"Accept": "application/xml"})
    if reply.status != 200:
        raise _refusal(reply, provider, role, identity)
    return _read_keys(reply.body, role)


def _read_keys(body: bytes, role: Role) -> Keys:
    found: dict[str, str] = {}

    def leaf(path: tuple[str, ...], text: str) -> None:
        if len(path) >= 2 and path[-2] == "Credentials":
            found[path[-1]] = text.strip()

    keys: Keys | None = None
    try:
        parse_xml(body, leaf)
        expires_at = datetime.fromisoformat(found["Expiration"])
        fields = {
            "access_key_id": found["AccessKeyId"],
            "secret_access_key": found["SecretAccessKey"],
            "session_token": found["SessionToken"],
            "region": role.region,
            "endpoint": role.endpoint,
        }
        if expires_at.tzinfo is not None and all((fields["session_token"], fields["access_key_id"])):
            keys = Keys(parse(AccessKey.KIND, fields), expires_at)
    except (BadXml, KeyError, ValueError, InputError):
        keys = None  # the errors may quote what was read
    if keys is None:
        raise DestinationError(
            Code.PROVIDER_REFUSED, f"STS at {role.sts} answers with something else than a session's keys."
        )
    return keys


def _trust(provider: Provider) -> str:
    """What the role's owner is to look at."""
    if provider.identity_token == OURS:
        return "its trust policy must name CloudPush as identity provider, with `aud` and `sub` as the page of the connection shows"
    return "its trust policy must name the identity provider that this connection signs in at"


#: Code of STS → our code and words; {role}, {trust} and {sts} are filled in. SeaweedFS says InvalidParameterValue of a token.
_ANSWERS: dict[str, tuple[Code, str]] = {
    "AccessDenied": (
        Code.ACCESS_DENIED,
        "The role {role} does not accept this connection: either there is none, or {trust}.",
    ),
    "InvalidIdentityToken": (
        Code.ACCESS_DENIED,
        "The account of {role} does not know our identity provider, or not this audience: add it in IAM, and {trust}.",
    ),
    "InvalidParameterValue": (
        Code.ACCESS_DENIED,
        "STS does not take our identity token for {role}: the identity provider's audience or keys differ; {trust}.",
    ),
    "IDPCommunicationError": (
        Code.PROVIDER_UNAVAILABLE,
        "STS cannot reach the identity provider just now to check our token.",
    ),
    "MalformedPolicyDocument": (
        Code.BAD_INPUT,
        "destination: STS does not take a policy for its prefix; push to a plainer prefix.",
    ),
    "PackedPolicyTooLarge": (
        Code.BAD_INPUT,
        "destination: its prefix is too long for a policy that narrows the session to it; push to a shorter prefix.",
    ),
    "RegionDisabledException": (
        Code.BAD_INPUT,
        "region: STS is not activated there in the account of {role}; activate it in IAM, or connect again with another region.",
    ),
    "ValidationError": (
        Code.PROVIDER_REFUSED,
        "STS does not take the request for {role}; is it that it lends for less than session_seconds? See the role's maximum duration.",
    ),
    "Throttling": (Code.THROTTLED, "STS asks us to slow down."),
    "ThrottlingException": (Code.THROTTLED, "STS asks us to slow down."),
    "RequestLimitExceeded": (Code.THROTTLED, "STS asks us to slow down."),
    "ServiceUnavailable": (Code.PROVIDER_UNAVAILABLE, "STS is not available just now."),
    "InternalFailure": (Code.PROVIDER_UNAVAILABLE, "STS is not available just now."),
}
#: STS' words, with the code InvalidIdentityToken, when it could not fetch our keys.
_UNREACHED = "retrieve verification key"
_FIELDS = {
    "MalformedPolicyDocument": "destination",
    "PackedPolicyTooLarge": "destination",
    "RegionDisabledException": "region",
}


def _refusal(reply: Reply, provider: Provider, role: Role, identity: str) -> CloudPushError:
    """What the answer means for the push, and for whoever must act."""
    code, words = _read_error(reply.body)
    detail = redact(f"{reply.status} {code} ({words})", identity, limit=500)  # "…Token: x" would be taken for one
    ours = provider.identity_token == OURS
    if code == "ExpiredTokenException":
        if ours:  # made for five minutes a moment ago
            return DestinationError(
                Code.CLOCK_SKEW, "STS takes the identity token that we have just made for expired.", detail=detail
            )
        return IdentityOverError(
            Code.PROVIDER_UNAVAILABLE,
            "The identity token of this connection has run out; its next refresh brings another.",
            detail=detail,
        )
    if code == "IDPRejectedClaim" and not ours:
        return CredentialError(
            Code.CONSENT_NEEDED,
            "The identity provider says that the token of this connection is not valid any more: reconnect.",
            detail=detail,
        )
    if code == "InvalidIdentityToken" and _UNREACHED in words and ours:
        return DestinationError(
            Code.PROVIDER_UNAVAILABLE,
            "STS cannot fetch our public keys: CLOUDPUSH_WEB_URL must be reachable from the internet by https.",
            detail=detail,
        )
    told = _ANSWERS.get("AccessDenied" if code == "IDPRejectedClaim" else code)
    if told is None:
        told = _by_status(reply.status, code)
    message = told[1].format(role=role.arn, trust=_trust(provider), sts=role.sts)
    return DestinationError(told[0], message, detail=detail, field=_FIELDS.get(code, ""))


def _by_status(status: int, code: str) -> tuple[Code, str]:
    if status == 429:
        return Code.THROTTLED, "STS asks us to slow down."
    if status in {408, 500, 502, 503, 504}:
        return Code.PROVIDER_UNAVAILABLE, "STS is not available just now."
    if status in {401, 403}:
        return _ANSWERS["AccessDenied"]
    said = "".join(c for c in code[:64] if c.isalnum()) or "without a code"
    return Code.PROVIDER_REFUSED, f"STS at {{sts}} answers {status} {said} instead of the keys of {{role}}."


def _read_error(body: bytes) -> tuple[str, str]:
    """Code and words; empty where it has none."""
    found: dict[str, str] = {}

    def leaf(path: tuple[str, ...], text: str) -> None:
        if len(path) >= 2 and path[-2] == "Error":
            found.setdefault(path[-1], " ".join(text.split()))

    try:
        parse_xml(body, leaf)
    except BadXml:
        return "", ""
    return found.get("Code", ""), found.get("Message", "")
