"""What users must tell when they connect: answers to a provider's questions, and a name for the connection."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from cloudpush.errors import Code, InputError
from cloudpush.push.grants.model import Provider

#: Characters of one answer.
ANSWER = 1024
NAME = 200
#: Names tried before giving up: "lab", "lab (2)" …
_NUMBERED = 50
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*")


def checked_answers(provider: Provider, answers: Mapping[str, str]) -> dict[str, str]:
    """The answers that are there, trimmed. Raises InputError for one that is missing, does not fit or was not asked."""
    asked = {question.name for question in provider.questions}
    for name in answers:
        if name not in asked:
            raise InputError(Code.BAD_INPUT, f"{provider.title} asks nothing named {name[:64]!r}.", field=name[:64])
    found: dict[str, str] = {}
    for question in provider.questions:
        answer = answers.get(question.name, "").strip()
        example = f", such as {question.example!r}" if question.example else ""
        if not answer:
            if question.required:
                raise InputError(
                    Code.BAD_INPUT, f"{question.title} is missing: write one{example}.", field=question.name
                )
            continue
        if len(answer) > ANSWER or not re.fullmatch(question.pattern, answer):
            raise InputError(
                Code.BAD_INPUT,
                f"{question.title} {answer[:64]!r} does not look like one: write one{example}.",
                field=question.name,
            )
        found[question.name] = answer
    return found


def checked_name(name: str) -> str:
    """``name``, trimmed; empty where a name is to be made up. Raises InputError."""
    name = name.strip()
    if len(name) > NAME or not _PRINTABLE.fullmatch(name):
        raise InputError(
            Code.BAD_INPUT, f"name must have at most {NAME} characters, all of them printable.", field="name"
        )
    return name


def names(provider: Provider, wanted: str, account: str) -> Iterator[str]:
    """Names to try, best first: the one that was wanted or one from provider and account; then with numbers."""
    first = wanted or (f"{provider.title} ({account})" if account else provider.title)
    yield first[:NAME]
    for number in range(2, _NUMBERED):
        yield f"{first[: NAME - 5]} ({number})"
