"""What others wrote, on its way to a terminal or a file of text: nothing in it does anything there."""

import re
from typing import Any, TextIO

# Control characters, of which a terminal obeys some, those that turn the direction of what follows, and halves of
# characters, which no encoding has.
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA = re.compile(r"[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def harmless(text: str) -> str:
    """The text with a picture, one character wide, for each that would do something.

    >>> harmless("\\x1b[31mred\\u202e")
    '␛[31mred�'
    """
    return UNSAFE.sub(lambda found: _picture(ord(found[0])), text)


def on_one_line(text: str) -> str:
    """The same with every line end and run of spaces as one space.

    >>> on_one_line("a \\n\\tb\\x07")
    'a b␇'
    """
    return harmless(" ".join(text.split()))


def harmless_json(text: str) -> str:
    """JSON of the same content, with an escape for each such character; outside of texts JSON has none.

    >>> print(harmless_json('"\\u202e\\x7f"'))
    "\\u202e\\u007f"
    """
    return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def harmless_cell(text: str) -> str:
    """The text of a cell that a spreadsheet takes for text: with ' before what it would compute. Numbers stay.

    >>> [harmless_cell(text) for text in ("=1+1", "-1.5e3", "@SUM(A1)", "- a list", "a-b")]
    ["'=1+1", '-1.5e3', "'@SUM(A1)", "'- a list", 'a-b']
    """
    return harmless(f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text)


class HarmlessStream:
    """A stream of text that writes what is harmless; else it is the stream behind it.

    styled: that stream, for a console that adds its own colours to words that it has made harmless.
    """

    def __init__(self, styled: TextIO):
        self.styled = styled

    def write(self, text: str) -> int:
        self.styled.write(harmless(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.styled, name)


def _picture(code: int) -> str:
    return chr(0x2400 + code) if code < 0x20 else "␡" if code == 0x7F else "\ufffd"
