"""Names in rclone's own encoding."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudpush.transfer.names import standard

QUOTE, STOP, SLASH = "\u201b", "\uff0e", "\uff0f"


def decoded(name: str) -> str:
    """A name as rclone decodes it (``MultiEncoder.Decode`` of the standard encoding), written down independently."""
    whole = {STOP: ".", STOP * 2: "..", QUOTE + STOP: STOP, (QUOTE + STOP) * 2: STOP * 2}
    if name in whole:
        return whole[name]
    out, quoted = "", False
    for c in name:
        symbol = 0x2400 <= ord(c) <= 0x2421
        if quoted:
            out += c if symbol or c in (QUOTE, SLASH) else QUOTE + c
            quoted = False
        elif c == QUOTE:
            quoted = True
        elif c == SLASH:
            out += "/"
        elif symbol and ord(c) != 0x2420:
            out += "\x7f" if ord(c) == 0x2421 else chr(ord(c) - 0x2400)
        else:
            out += c
    return out + (QUOTE if quoted else "")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("plain/name.txt", "plain/name.txt"),
        ("", ""),
        ("/", "/"),
        ("/a/../b/./c", f"/a/{STOP}{STOP}/b/{STOP}/c"),
        ("a.b/.c/..d/...", "a.b/.c/..d/..."),
        ("line\nfeed\x7f", "line\u240afeed\u2421"),
        ("\u240a", f"{QUOTE}\u240a"),
        (STOP, f"{QUOTE}{STOP}"),
        (f"x{STOP}", f"x{STOP}"),
        (f"a{SLASH}b", f"a{QUOTE}{SLASH}b"),
        (QUOTE, QUOTE * 2),
        ("日本/é", "日本/é"),
    ],
)
def test_reserved_characters_are_written_otherwise(path: str, expected: str) -> None:
    """Control characters, full-width look-alikes and dots as whole names are encoded; all else stays."""
    assert standard(path) == expected


@given(st.lists(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"])), min_size=1, max_size=4))
def test_rclone_decodes_what_was_meant(names: list[str]) -> None:
    """Whatever the names, decoding each gives it back."""
    assert [decoded(n) for n in standard("/".join(names)).split("/")] == names


@given(st.text(st.sampled_from([".", "/", QUOTE, STOP, SLASH, "\n", "\u240a", "\u2421", "\x7f", "a"])))
def test_look_alikes_in_any_order_survive(path: str) -> None:
    """The characters that the encoding itself uses are the ones most easily lost."""
    assert "/".join(decoded(n) for n in standard(path).split("/")) == path
