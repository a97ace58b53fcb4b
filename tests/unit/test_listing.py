from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloudpush.net import BadXml
from cloudpush.push.job import Seen
from cloudpush.verify.listing import Page, Survey, page_parameters, read_page

THERE = Seen(exists=True, size=1, etag="e")
GONE = Seen(exists=False)


def document(rows: Sequence[tuple[str, int, str]], *, truncated: bool = False, encoding: str = "url") -> bytes:
    contents = "".join(
        f"<Contents><Key>{key}</Key><ETag>&#34;{etag}&#34;</ETag><Size>{size}</Size></Contents>"
        for key, size, etag in rows
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<IsTruncated>{str(truncated).lower()}</IsTruncated>{contents}"
        f"{f'<EncodingType>{encoding}</EncodingType>' if encoding else ''}</ListBucketResult>"
    ).encode()


def test_a_page_as_s3_answers_it() -> None:
    """Keys are decoded, ETags lose their quotes; a plus may mean two things, so both are left open."""
    body = document([("a%0Ab", 3, "e1"), ("p%2Bq", 0, "e2"), ("s+t", 1, "e3"), ("%C3%A9", 9, "e4")], truncated=True)

    page = read_page(body)

    assert page == Page(
        found={
            "a\nb": Seen(exists=True, size=3, etag="e1"),
            "p+q": Seen(exists=True, size=0, etag="e2"),
            "é": Seen(exists=True, size=9, etag="e4"),
        },
        unsure=frozenset({"s+t", "s t"}),
        last="é",
        sorted=True,
        truncated=True,
    )


def test_a_page_without_encoding_is_taken_as_it_is() -> None:
    """A server that ignores encoding-type says so by leaving it out."""
    assert list(read_page(document([("a%41+b", 1, "e")], encoding="")).found) == ["a%41+b"]


@pytest.mark.parametrize("body", [b"", b"<html></html>", b"<Error><Code>x</Code></Error>", b"<ListBucketResult>"])
def test_what_is_no_page(body: bytes) -> None:
    """Anything but a complete listing is refused: half of one would make objects absent."""
    with pytest.raises(BadXml):
        read_page(body)


def by_string(key: str) -> Any:
    return key


def by_directory(key: str) -> Any:
    return key.split("/")


def surveyed(wanted: Sequence[str], stored: set[str], order: Callable[[str], Any], page_keys: int) -> dict[str, Seen]:
    """What a Survey knows after listing a server that holds ``stored`` in its own ``order``."""
    survey = Survey(wanted)
    while (after := survey.start_after()) is not None:
        rest = [k for k in sorted(stored, key=order) if k.startswith(survey.prefix) and order(k) > order(after)]
        rows = [(quote_plus(key, safe="/"), 1, "e") for key in rest[:page_keys]]
        survey.take(read_page(document(rows, truncated=len(rest) > page_keys)))
    return survey.answers()


KEYS = st.text("a!-./0 z", min_size=1, max_size=6)


@settings(deadline=None, max_examples=150)
@given(
    wanted=st.lists(KEYS, min_size=1, max_size=12),
    stored=st.sets(KEYS, max_size=25),
    order=st.sampled_from([by_string, by_directory]),
    page_keys=st.integers(min_value=1, max_value=6),
)
@example(["o/a-b", "o/a/x"], {"o/a-b", "o/a/x", "o/a.c"}, by_directory, 1)
@example(["o/a-b", "o/a/x"], {"o/a-b", "o/a/x", "o/a.c"}, by_string, 1)
@example(["!"], {" ", "!"}, by_string, 1)  # a page that ends in a plus, which is a space
def test_a_listing_never_lies(wanted: list[str], stored: set[str], order: Callable[[str], Any], page_keys: int) -> None:
    """Whatever is stored, in either order and any page size: what a survey says of a key is true."""
    answers = surveyed(wanted, stored, order, page_keys)

    assert answers == {key: THERE if key in stored else GONE for key in answers}


@pytest.mark.parametrize("order", [by_string, by_directory])
def test_listings_tell_of_all_keys_when_most_are_ours(order: Callable[[str], Any]) -> None:
    """A page in two hundred keys is enough where the prefix is ours."""
    wanted = [f"p/d{i % 7}/f{i:04d}" for i in range(1000)]
    stored = set(wanted[::2]) | {f"q/{i}" for i in range(2000)} | {f"p/a{i}" for i in range(2000)}

    assert surveyed(wanted, stored, order, 1000) == {key: THERE if key in stored else GONE for key in wanted}


def test_a_prefix_full_of_foreign_objects_is_given_up() -> None:
    """Pages have a budget: beyond it the remaining keys are left for HEADs, not called absent."""
    wanted = [f"p/{i:02d}/x" for i in range(40)]
    stored = {f"p/{i:02d}/a{j:04d}" for i in range(40) for j in range(100)}

    assert surveyed(wanted, stored, by_string, 1000) == {}


def test_an_unknown_order_makes_nothing_absent() -> None:
    """From a server that sorts by no rule of ours only presence is believed."""
    survey = Survey(["a", "b", "c"])

    survey.take(read_page(document([("c", 1, "e"), ("a", 1, "e")])))

    assert (survey.answers(), survey.start_after()) == ({"a": THERE, "c": THERE}, None)


def test_a_server_that_ignores_start_after_is_noticed() -> None:
    """The same page again would go on for ever."""
    survey = Survey([*[f"b{i}" for i in range(1000)], "a", "z"])
    page = read_page(document([("a", 1, "e")], truncated=True))

    survey.take(page)
    survey.take(page)

    assert (survey.answers(), survey.start_after()) == ({"a": THERE}, None)


def test_a_page_is_asked_for_by_prefix_and_start() -> None:
    """The prefix is the deepest directory that holds all keys; the start lies closely before the first."""
    survey = Survey(["p/run/b7", "p/run/c1", "p/run/c"])

    assert page_parameters(survey.prefix, survey.start_after() or "") == {
        "list-type": "2",
        "encoding-type": "url",
        "max-keys": "1000",
        "prefix": "p/run/",
        "start-after": "p/run/b6~",
    }
