"""Interventions: what a critic's answer says, and how it changes a wrong attempt."""

import ast
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

BLANK_LINE = "\n\n"

_TAG = re.compile(r"<intervention>(.*?)</intervention>", re.DOTALL)
_DIGITS = re.compile(r"[0-9]+")


@dataclass(frozen=True)
class Intervention:
    """content: the new step. location: the block that it replaces, from 1."""

    content: str
    location: int


def intervention_of(text: str) -> Intervention | None:
    """The last <intervention> of a critic's answer; None unless it is a dictionary with a text and a location from 1.

    >>> intervention_of('<intervention>{"content": "new", "location": "Substep 3"}</intervention>')
    Intervention(content='new', location=3)
    >>> intervention_of("<intervention>at 3</intervention>") is None
    True
    """
    found = _TAG.findall(text)
    if not found:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for "\(" and the like
            given = ast.literal_eval(found[-1].strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    if not isinstance(given, dict):
        return None
    content, location = given.get("content"), given.get("location")
    if isinstance(location, str):
        digits = _DIGITS.search(location)
        location = int(digits[0]) if digits and len(digits[0]) < 10 else None
    if (
        not isinstance(content, str)
        or not content.strip()
        or not isinstance(location, int)
        or isinstance(location, bool)
    ):
        return None
    try:
        content.encode()
    except UnicodeEncodeError:  # half of a character
        return None
    return Intervention(content, location) if location >= 1 else None


def guide(attempt: str, intervention: Intervention, separator: str = BLANK_LINE) -> tuple[str, int]:
    """The attempt up to the replaced block, then the new one; and how many characters of it are the attempt's own.

    >>> [guide("A|B|C", Intervention("X", place), "|") for place in (1, 2, 9)]
    [('X', 0), ('A|X', 2), ('A|B|C|X', 5)]
    """
    blocks = attempt.split(separator)
    content = intervention.content.replace("\n", separator)
    text = separator.join([*blocks[: intervention.location - 1], content])
    whole = intervention.location > len(blocks)
    return text, len(attempt) if whole else len(text) - len(content)


def leaks(content: str, answer: str) -> bool:
    """Whether the final answer occurs in the content.

    >>> leaks("so x = 42", "42"), leaks("so x is even", "42"), leaks("anything", "")
    (True, False, False)
    """
    return bool(answer.strip()) and answer.strip() in content


def select_verified(right: Sequence[int], k: int, needed: int = 1) -> dict[int, float]:
    """{index: share} of the targets with at least `needed` right tries out of k.

    >>> select_verified([0, 3, 0, 32], 32)
    {1: 0.09375, 3: 1.0}
    """
    return {index: count / k for index, count in enumerate(right) if count >= needed}


def keep_answer_back(line: str, answer: str) -> str | None:
    """A line that does not reveal the final answer: the line itself, or what precedes an answer at its end; None if the
    answer also occurs elsewhere in it.

    >>> keep_answer_back("7+10=17", "5"), keep_answer_back("17-12=5", "5"), keep_answer_back("17-7=10", "7")
    ('7+10=17', '17-12=', None)
    """
    if not leaks(line, answer):
        return line
    head = re.sub(rf"(?<!\w){re.escape(answer.strip())}$", "", line.rstrip())
    return head if head.strip() and not leaks(head, answer) else None
