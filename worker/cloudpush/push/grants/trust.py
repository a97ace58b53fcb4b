"""What a user pastes into their AWS account so that it trusts CloudPush, for one connection only. Pure.

Three things make up the trust: an identity provider in IAM (our issuer, with our audience), a role, and the role's trust
policy, which accepts `sub` = the connection's id and nothing else. Without `sub` every user of this CloudPush could have the
role's keys. With a bucket, the role also gets the least that pushing there needs.

Bucket and prefix are a user's text and end up in four languages: IAM's own (see :mod:`policies`), JSON, YAML and Terraform's.
Every text is written as a quoted string with everything escaped that is not plain, so that none can end its string.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from cloudpush.errors import Code, InputError, SettingsError
from cloudpush.push.grants.model import Grant, Provider
from cloudpush.push.grants.policies import below, document

_ROLE = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):iam::(?P<account>[0-9]{12}):role(?P<path>/(?:[!-.0-~]{1,100}/)*)(?P<name>[A-Za-z0-9+=,.@_-]{1,64})"
)
#: What an audience may be made of: nothing that means something in a policy.
_AUDIENCE = re.compile(r"[A-Za-z0-9_.:/@+=,-]{1,255}")
_ISSUER = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(?:/[A-Za-z0-9._~/-]*)?")
#: A role's own limits of a session, in seconds.
_LEAST_MAXIMUM, _MOST_MAXIMUM = 3_600, 43_200
_PLAIN_KEY = re.compile(r"[A-Za-z][A-Za-z0-9]*")
#: YAML reads these as something else than a text.
_YAML_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


@dataclass(frozen=True, slots=True)
class Shape:
    """One way to paste it. ``file``: a name to save it under."""

    title: str
    file: str
    text: str


@dataclass(frozen=True)
class Trust:
    """Whom a role is to trust, and for what. Raises InputError, SettingsError for what no policy can say."""

    issuer: str  # CLOUDPUSH_WEB_URL
    audience: str
    subject: str  # the connection's id
    role_arn: str
    bucket: str = ""  # empty: the role's permissions are its owner's business
    prefix: str = ""
    session_seconds: int = 3_600

    @classmethod
    def of(cls, provider: Provider, grant: Grant, issuer: str, bucket: str = "", prefix: str = "") -> Trust:
        """For ``grant``. ``prefix`` with or without slashes at its ends."""
        return cls(
            issuer=issuer.rstrip("/"),
            audience=provider.audience,
            subject=str(grant.id),
            role_arn=grant.settings.get("role_arn", ""),
            bucket=bucket.strip(),
            prefix=prefix.strip().strip("/"),
            session_seconds=provider.session_seconds,
        )

    def __post_init__(self) -> None:
        if not _ROLE.fullmatch(self.role_arn):
            raise InputError(
                Code.BAD_INPUT,
                f"role_arn={self.role_arn[:200]!r} is no role of an AWS account: write arn:aws:iam::123456789012:role/NAME.",
                field="role_arn",
            )
        if not _AUDIENCE.fullmatch(self.audience):
            raise SettingsError(
                Code.SETTINGS_INVALID,
                f"audience={self.audience[:200]!r} cannot stand in a trust policy: write letters, digits and . _ : / @ + = , -",
                field="audience",
            )
        if not _ISSUER.fullmatch(self.issuer):
            raise SettingsError(
                Code.SETTINGS_INVALID,
                f"CLOUDPUSH_WEB_URL={self.issuer[:200]!r} is no issuer: write https://HOST",
                field="web_url",
            )
        if self.prefix and not self.bucket:
            raise InputError(Code.BAD_INPUT, "prefix has no bucket: name the bucket, too.", field="bucket")
        if "{{" in self.prefix:
            raise InputError(
                Code.BAD_INPUT,
                "prefix has {{, which CloudFormation takes for a reference to a secret and cannot be told otherwise.",
                field="prefix",
            )
        try:
            _ = self.permissions
        except InputError as e:
            # It speaks of a push's destination.
            raise InputError(e.code, e.message, field="bucket" if e.field == "bucket" else "prefix") from e

    # -- what it says --------------------------------------------------------------------------------

    @property
    def obstacle(self) -> str:
        """Why AWS cannot trust this issuer, in a sentence; empty where nothing is in the way."""
        parts = urlsplit(self.issuer)
        if parts.scheme != "https":
            return f"AWS trusts https issuers only, and this CloudPush is at {self.issuer}."
        if parts.port is not None:
            return f"AWS takes no issuer with a port, and this CloudPush is at {self.issuer}."
        if "." not in (parts.hostname or "") or (parts.hostname or "").endswith((".localhost", ".local", ".internal")):
            return f"AWS must reach the issuer from the internet, and {self.issuer} is a name of a private network."
        return ""

    @property
    def name(self) -> str:
        """The issuer as IAM calls it: without scheme."""
        return self.issuer.partition("://")[2]

    @property
    def provider_arn(self) -> str:
        """The identity provider in the role's account."""
        role = self._role
        return f"arn:{role['partition']}:iam::{role['account']}:oidc-provider/{self.name}"

    @property
    def document(self) -> dict[str, Any]:
        """The role's trust policy."""
        accepts = {
            "Effect": "Allow",
            "Principal": {"Federated": self.provider_arn},
            "Action": "sts:AssumeRoleWithWebIdentity",
            "Condition": {"StringEquals": {f"{self.name}:aud": self.audience, f"{self.name}:sub": self.subject}},
        }
        return document([accepts])

    @cached_property
    def permissions(self) -> dict[str, Any] | None:
        """The least that pushing needs; None where no bucket is named. Raises InputError."""
        if not self.bucket:
            return None
        return document(below(self.bucket, self.prefix, partition=self._role["partition"], listing=True))

    # -- how it is pasted ------------------------------------------------------------------------------

    def shapes(self) -> Sequence[Shape]:
        """CloudFormation, Terraform, and the policies alone."""
        return (
            Shape("CloudFormation", "cloudpush.yaml", self.cloudformation()),
            Shape("Terraform", "cloudpush.tf", self.terraform()),
            Shape("Trust policy (JSON)", "trust.json", self.json()),
            *(
                [Shape("Permissions policy (JSON)", "permissions.json", _pretty(self.permissions))]
                if self.permissions
                else []
            ),
        )

    def json(self) -> str:
        """The trust policy for IAM's console or command line; the identity provider is to be added there by hand."""
        return _pretty(self.document)

    def cloudformation(self) -> str:
        """A template of the provider and the role. One account has one provider for us: the second connection needs none."""
        role: dict[str, Any] = {
            "RoleName": self._role["name"],
            "Path": self._role["path"],
            "MaxSessionDuration": self._maximum,
            "AssumeRolePolicyDocument": self.document,
        }
        if self.permissions:
            role["Policies"] = [{"PolicyName": "cloudpush", "PolicyDocument": self.permissions}]
        template = {
            "AWSTemplateFormatVersion": "2010-09-09",
            "Description": f"Lets CloudPush at {self.issuer} push for the connection {self.subject}",
            "Parameters": {
                "MakeIdentityProvider": {
                    "Type": "String",
                    "AllowedValues": ["true", "false"],
                    "Default": "true",
                    "Description": "false if this account has an identity provider for CloudPush already",
                }
            },
            "Conditions": {"ProviderIsMissing": {"Fn::Equals": [{"Ref": "MakeIdentityProvider"}, "true"]}},
            "Resources": {
                "IdentityProvider": {
                    "Type": "AWS::IAM::OIDCProvider",
                    "Condition": "ProviderIsMissing",
                    "Properties": {"Url": self.issuer, "ClientIdList": [self.audience]},
                },
                "Role": {"Type": "AWS::IAM::Role", "DependsOn": "IdentityProvider", "Properties": role},
            },
            "Outputs": {"RoleArn": {"Value": {"Fn::GetAtt": ["Role", "Arn"]}}},
        }
        return "\n".join(_yaml_lines(template)) + "\n"

    def terraform(self) -> str:
        """The same for Terraform's AWS provider 5.81 or newer."""
        lines = [
            'variable "make_identity_provider" {',
            "  type        = bool",
            "  default     = true",
            '  description = "false if this account has an identity provider for CloudPush already"',
            "}",
            "",
            'resource "aws_iam_openid_connect_provider" "cloudpush" {',
            "  count          = var.make_identity_provider ? 1 : 0",
            f"  url            = {_hcl_text(self.issuer)}",
            f"  client_id_list = [{_hcl_text(self.audience)}]",
            "}",
            "",
            'resource "aws_iam_role" "cloudpush" {',
            f"  name                 = {_hcl_text(self._role['name'])}",
            f"  path                 = {_hcl_text(self._role['path'])}",
            f"  max_session_duration = {self._maximum}",
            f"  assume_role_policy   = jsonencode({_hcl(self.document, 1)})",
            "  depends_on           = [aws_iam_openid_connect_provider.cloudpush]",
            "}",
        ]
        if self.permissions:
            lines += [
                "",
                'resource "aws_iam_role_policy" "cloudpush" {',
                '  name   = "cloudpush"',
                "  role   = aws_iam_role.cloudpush.id",
                f"  policy = jsonencode({_hcl(self.permissions, 1)})",
                "}",
            ]
        return "\n".join(lines) + "\n"

    @property
    def _role(self) -> Mapping[str, str]:
        match = _ROLE.fullmatch(self.role_arn)
        return match.groupdict() if match else {}

    @property
    def _maximum(self) -> int:
        return min(max(self.session_seconds, _LEAST_MAXIMUM), _MOST_MAXIMUM)


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"


def _escaped(text: str) -> str:
    r"""Printable ASCII as it is, all else as ``\U`` with eight digits: what YAML and HCL read alike."""
    special = {'"': '\\"', "\\": "\\\\"}
    return "".join(special.get(c, c) if " " <= c <= "~" else f"\\U{ord(c):08X}" for c in text)


def _yaml_text(text: str) -> str:
    return f'"{_escaped(text)}"'


def _hcl_text(text: str) -> str:
    # In a quoted template ${ and %{ begin an expression; as escapes the two characters never do.
    text = _escaped(text).replace("$", "\\u0024").replace("%", "\\u0025")
    return f'"{text}"'


def _yaml_key(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) and key.lower() not in _YAML_WORDS else _yaml_text(key)


def _yaml_lines(value: Mapping[str, Any], indent: str = "") -> list[str]:
    """A mapping of mappings, lists, texts and numbers as block YAML."""
    lines: list[str] = []
    for key, item in value.items():
        head = f"{indent}{_yaml_key(key)}:"
        lines += _yaml_item(head, item, indent)
    return lines


def _yaml_item(head: str, item: object, indent: str) -> list[str]:
    if isinstance(item, Mapping):
        return [head, *_yaml_lines(item, f"{indent}  ")]
    if isinstance(item, list):
        lines = [head]
        for one in item:
            if isinstance(one, Mapping):
                first, *rest = _yaml_lines(one, f"{indent}    ")
                lines += [f"{indent}  - {first.lstrip()}", *rest]
            else:
                lines.append(f"{indent}  - {_scalar(one)}")
        return lines
    return [f"{head} {_scalar(item)}"]


def _scalar(value: object) -> str:
    return str(value) if isinstance(value, int) else _yaml_text(str(value))


def _hcl(value: object, depth: int) -> str:
    """A value of Terraform's language."""
    inner, outer = "  " * (depth + 1), "  " * depth
    if isinstance(value, Mapping):
        lines = [f"{inner}{_hcl_text(key)} = {_hcl(item, depth + 1)}" for key, item in value.items()]
        return "\n".join(["{", *lines, f"{outer}}}"])
    if isinstance(value, list):
        lines = [f"{inner}{_hcl(item, depth + 1)}," for item in value]
        return "\n".join(["[", *lines, f"{outer}]"])
    return str(value) if isinstance(value, int) else _hcl_text(str(value))
