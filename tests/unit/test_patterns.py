from __future__ import annotations

import pytest

from cloudpush.errors import Code, InputError
from cloudpush.push.patterns import compile_patterns


def matches(pattern: str, path: str) -> bool:
    directory = path.endswith("/")
    (compiled,) = compile_patterns([pattern], "include")
    return compiled.matches(path.removesuffix("/").split("/"), directory=directory)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.csv", ["a.csv", "d/e/a.csv", ".csv", "a\nb.csv", "d.csv/"], ["a.CSV", "a.csv.gz", "a.csv/x"]),
        ("a?c", ["abc", "x/a-c"], ["ac", "abbc"]),
        ("[a-c]x", ["ax", "d/cx"], ["dx", "-x"]),
        ("[!a-c]x", ["dx"], ["ax"]),
        ("[x", ["[x"], ["x"]),
        ("raw/*.csv", ["raw/a.csv"], ["raw/d/a.csv", "x/raw/a.csv", "raw/"]),
        ("/notes", ["notes", "notes/"], ["d/notes"]),
        ("cache/", ["cache/", "d/cache/"], ["cache", "d/cache"]),
        ("**/log", ["log", "a/log", "a/b/log"], ["a/logs", "log/a"]),
        ("runs/**/log", ["runs/log", "runs/1/log", "runs/1/2/log"], ["log", "runs/1/log/x", "xruns/log"]),
        ("runs/**", ["runs/", "runs/1", "runs/1/2"], ["x/runs/1"]),
        ("a/**/b/**/c", ["a/b/c", "a/x/b/y/z/c", "a/b/b/c/c"], ["a/c", "a/b", "b/c"]),
        ("**", ["a", "a/b", "a/"], []),
        ("a*/b", ["a/b", "ax/b"], ["a/x/b", "ax/y/b"]),
    ],
)
def test_what_patterns_match(pattern: str, yes: list[str], no: list[str]) -> None:
    """No wildcard but ** crosses a slash; without a slash a pattern goes for names at every depth."""
    assert ([p for p in yes if not matches(pattern, p)], [p for p in no if matches(pattern, p)]) == ([], [])


@pytest.mark.parametrize("pattern", ["", "/", "a//b", "//a", "../a", "a/./b", "a\0", "x" * 1001])
def test_what_is_no_pattern(pattern: str) -> None:
    """A pattern that could never mean anything is refused, with its field."""
    with pytest.raises(InputError) as caught:
        compile_patterns(["*.csv", pattern], "exclude")

    assert (caught.value.code, caught.value.field) == (Code.BAD_INPUT, "exclude")


def test_hostile_patterns_are_cheap() -> None:
    """Stars over stars do not make matching exponential: this would not end otherwise."""
    assert not matches("/".join(["**", "a*a*a*a*a*a*a*a*b"] * 10), "/".join(["a" * 100] * 40))
