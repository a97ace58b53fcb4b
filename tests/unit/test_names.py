"""Names of people: what can be one, and every way in that asks."""

from __future__ import annotations

from uuid import uuid4

import pytest

from cloudpush.errors import Code, InputError
from cloudpush.push.access.model import ALL_SCOPES, Principal, Role, Via
from cloudpush.push.access.names import NAME_LENGTH, checked

ADMIN = Principal("ada", frozenset({Role.ADMIN}), ALL_SCOPES, "ada", Via.TOKEN, uuid4())


@pytest.mark.parametrize(
    "name", ["ada", "ada@example.org", "ada\u00e9", "小林", "pipeline 7", "x" * NAME_LENGTH, "notaryx"]
)
def test_a_name_is_taken_as_it_is(name: str) -> None:
    assert checked(name, "owner") == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "1 to 200"),
        ("x" * (NAME_LENGTH + 1), "1 to 200"),
        (" ada", "blanks"),
        ("ada\n", "printable"),
        ("ad\u200ba", "printable"),
        ("ada\u202e", "printable"),
        ("\ud800", "printable"),
        ("ada\u3164", "printable"),
        ("ada\ufe0f", "printable"),
        ("\u2800", "printable"),
        ("adae\u0301", "NFC"),
        ("\u212b", "NFC"),
        ("notary", "part of CloudPush"),
        ("Sweeper", "part of CloudPush"),
        ("OPERATOR", "part of CloudPush"),
        ("\uff4eotary", "part of CloudPush"),
    ],
)
def test_what_looks_like_another_name_is_none(name: str, why: str) -> None:
    """Invisible characters, a second spelling, and how the record calls its own parts."""
    with pytest.raises(InputError) as caught:
        checked(name, "owner")

    assert (caught.value.code, caught.value.field, why in caught.value.message) == (Code.BAD_INPUT, "owner", True)


def test_an_administrator_acts_for_nobody_by_such_a_name() -> None:
    assert ADMIN.owner_to_act_for("bob") == "bob"
    with pytest.raises(InputError):
        ADMIN.owner_to_act_for("notary")
