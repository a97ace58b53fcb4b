"""What a provider says that it granted: a stranger's text, which is stored, shown in pages and written to terminals."""

from __future__ import annotations

import pytest

from cloudpush.push.grants.scopes import MOST, judge
from fakes_consent import WRITE, a_provider

LAB = a_provider()


@pytest.mark.parametrize(
    "hostile", ["\x1b[2J\x1b]0;owned\x07", "\x9b31m", "a\0b", "\ud800", "\u202egnp", "ü", 'a"b', "a\\b", "x" * 10_000]
)
def test_what_is_no_scope_is_neither_kept_nor_shown(hostile: str) -> None:
    judged = judge(LAB, LAB.scopes, f"openid {hostile} {WRITE} more")
    assert judged.granted == ("openid", WRITE, "more")
    assert judged.more == ("more",)
    assert not judged.lacking


@pytest.mark.parametrize("answer", ["\x1b[2J", "ü", "x" * 10_000])
def test_an_answer_without_any_scope_does_not_pass_for_the_one_that_leaves_it_out(answer: str) -> None:
    """Left out means *as asked* (RFC 6749 §5.1); this is something else."""
    assert judge(LAB, LAB.scopes, "").granted == LAB.scopes
    assert judge(LAB, LAB.scopes, answer).lacking == (WRITE,)


def test_scopes_without_end_are_cut_but_never_those_that_were_asked() -> None:
    judged = judge(LAB, LAB.scopes, " ".join([*(f"s{n}" for n in range(20_000)), *LAB.scopes]))
    assert not judged.lacking
    assert not judged.less
    assert len(judged.granted) == len(LAB.scopes) + MOST
