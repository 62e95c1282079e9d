"""Small errors in a step of text: which kinds it allows, how far an edit is from it, and what gives an edit away."""

import re
from collections.abc import Sequence

import numpy as np

FENCE = "```"
SENTENCES = 4  # how many of a step's last sentences are edited at most
HEDGES = (
    "a mistake", "an error", "misinterpreted", "misread", "let's correct", "let me correct", "on second thought",
    "python",
)  # fmt: skip
ANNOUNCEMENTS = (*HEDGES, "mistakenly", "misleading", "incorrect", "wrong", "erroneous")

_FENCED = re.compile(rf"{FENCE}[^\n`]*\n(.*?){FENCE}", re.DOTALL)
_BOX = re.compile(r"\\boxed\{")


def edit_kinds(step: str) -> list[str]:
    """The kinds of error that a step allows.

    >>> edit_kinds("x = 3 + 4"), edit_kinds("He has 12 apples"), edit_kinds("therefore she leaves early")
    (['multi_value', 'substitution', 'delete_term', 'symbol', 'swap'], ['value'], ['words'])
    """
    numbers = len(re.findall(r"\d+", step))
    found = ["multi_value" if numbers > 1 else "value"] if numbers else []
    if "=" in step:
        found += ["substitution", "delete_term", "symbol", "swap"]
    return found or ["words"]


def last_sentences(step: str, count: int = SENTENCES) -> int:
    """The character at which the step's last sentences begin. A line is a sentence, and so is what ends with a full stop
    and a space.

    >>> last_sentences("One. Two. Three."), last_sentences("One. Two. Three.\\nFour. Five.")
    (0, 5)
    """
    begins = [0, *(match.end() for match in re.finditer(r"\n|\. ", step))]
    begins = [begin for begin, end in zip(begins, [*begins[1:], len(step)], strict=True) if step[begin:end].strip()]
    return begins[-count] if len(begins) > count else 0


def edit_of(text: str) -> str | None:
    """The content of the first fenced block in an editor's answer.

    >>> edit_of("```\\n2 + 3 = 6\\n``` or ```\\n7\\n```"), edit_of("```\\n2 + 3")
    ('2 + 3 = 6', None)
    """
    found = _FENCED.search(text)
    return (found[1].strip() or None) if found else None


def speaks_of_errors(text: str, phrases: Sequence[str] = ANNOUNCEMENTS) -> bool:
    """Whether one of the phrases occurs in the text, ignoring case.

    >>> speaks_of_errors("So, Mistakenly, 2 + 3 = 6"), speaks_of_errors("2 + 3 = 6")
    (True, False)
    """
    lowered = text.lower()
    return any(phrase in lowered for phrase in phrases)


def levenshtein(one: str, other: str) -> int:
    """The least number of characters to insert, delete or replace to turn one text into the other.

    >>> levenshtein("kitten", "sitting")
    3
    """
    row = np.arange(len(other) + 1)
    letters = np.array(list(other), dtype="<U1")
    places = np.arange(len(other) + 1)
    for number, letter in enumerate(one, 1):
        best = np.concatenate(([number], np.minimum(row[1:] + 1, row[:-1] + (letters != letter))))
        row = np.minimum.accumulate(best - places) + places  # insertions, one after the other
    return int(row[-1])


def edit_ratio(step: str, edit: str) -> float:
    """The Levenshtein distance of two texts as a share of the longer one's length.

    >>> round(edit_ratio("12 * 3 = 36, so he pays 36 dollars.", "12 * 3 = 38, so he pays 38 dollars."), 6)
    0.057143
    """
    return levenshtein(step, edit) / max(len(step), len(edit), 1)


def open_boxes(text: str) -> str:
    """The text with each \\boxed{…} replaced by its content; a box that does not end stays.

    >>> open_boxes(r"so \\boxed{\\frac{1}{2}}.")
    'so \\\\frac{1}{2}.'
    """
    begin = 0
    while found := _BOX.search(text, begin):
        depth, place = 1, found.end()
        while place < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            place += 1
        begin = found.start()
        if depth:
            begin = found.end()
            continue
        text = text[:begin] + text[found.end() : place - 1] + text[place:]
    return text
