"""What the pages of methods and of other registered functions have in common: how a docstring becomes Markdown.

Used by method_pages.py and entry_pages.py.
"""

import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from apportion.stages.commands.docstrings import meanings_of
from apportion.stages.core.kinds import Kind
from apportion.stages.core.options import bare, options_of, parameter_hints
from apportion.stages.core.ranges import range_of
from apportion.stages.core.remedies import remedy

ROOT = Path(__file__).parent.parent


def of_this_repository(registry: Iterable[Any]) -> list[Any]:
    """The entries that no installed plugin brought."""
    return [entry for entry in registry if entry.function.__module__.startswith("apportion.stages.")]


# Docstrings


def formula_and_prose(text: str) -> str:
    """Indented blocks as code blocks, the summary line left out."""
    blocks = re.split(r"\n\s*\n", text.partition("\n")[2].strip("\n"))
    out = []
    for block in blocks:
        if block.startswith("    "):
            out.append("```text\n" + inspect.cleandoc("\n" + block) + "\n```")
        elif block.strip():
            out.append(plain(block.strip()))
    return "\n\n".join(out)


# Markdown


def plain(text: str) -> str:
    """What Markdown would read as a mark (a list, a heading, a quotation at a line's start; a tag) as the text it is.

    >>> print(plain("+ 1 of <b>\\n2. is `<c>`"))
    \\+ 1 of \\<b>
    2\\. is `<c>`
    """
    text = re.sub(r"^(\s*\d+)(?=[.)](?:\s|$))", r"\1\\", text, flags=re.MULTILINE)
    text = re.sub(r"^(\s*)(?=(?:[-+*]|#+)(?:\s|$)|>|[-=]+\s*$)", r"\1\\", text, flags=re.MULTILINE)
    spans = re.split(r"(`[^`]*`)", text)
    spans[::2] = [re.sub(r"<(?=[A-Za-z/!?])", r"\\<", between) for between in spans[::2]]
    return "".join(spans)


def flat(text: str) -> str:
    """On one line."""
    return plain(" ".join(text.split()))


def sentence(text: str) -> str:
    """On one line, with a capital and a full stop."""
    text = flat(text)
    return f"{text[:1].upper()}{text[1:].removesuffix('.')}." if text else ""


def cell(text: str) -> str:
    """On one line, in a table."""
    return flat(text).replace("|", "\\|")


def numbered(text: str) -> str:
    """`1. … 2. …` as a list; anything else as a paragraph. A number counts where it is the next and a sentence begins with it.

    >>> print(numbered("1. a is 0. 2. b is 1. 5"))
    - A is 0.
    - B is 1. 5.
    """
    items = [" ".join(text.split())]
    while after := re.match(rf"({'.*?[.:;?!)] ' if items[1:] else ''}){len(items)}\. (.*)", items[-1]):
        items[-1:] = [after[1], after[2]]
    return "\n".join(f"- {sentence(item)}" for item in items[1:]) if len(items) > 1 else sentence(text)


def values_of(hint: Any) -> str:
    """The values an annotation allows, as a table's cell.

    >>> values_of(Literal["1/N"] | float)
    '`1/N` \\\\| float'
    """
    if get_origin(hint) is Literal:
        return " \\| ".join(f"`{value}`" for value in get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return " \\| ".join(values_of(each) for each in get_args(hint))
    if hint is NoneType:
        return "None"
    return re.sub(r"(\w+\.)+", "", str(hint)) if get_args(hint) else hint.__name__


def _values(hint: Any) -> str:
    """The values and the range of an option."""
    allowed = range_of(hint)
    return values_of(bare(hint)) + (f", {allowed}" if allowed is not None else "")


def made_by(path: str) -> str:
    """What makes a column that an entry needs; "" where it comes from outside."""
    found = remedy(path)
    return "" if found.startswith("add it") else found


def code_of(entry: Any) -> str:
    """The entry's file, seen from the root of the repository."""
    return "/".join(entry.function.__module__.split(".")[1:]) + ".py"


def options_table(entry: Any, kind: Kind[Any] | None = None) -> str:
    """The table of its options."""
    flag = "--set" if kind is None else kind.setting
    says, hints = meanings_of(entry), parameter_hints(entry.function)
    rows = [
        f"| `{name}` | {_values(hints[name])} "
        f"| {'needed' if option.default is option.empty else f'`{_visible(option.default)}`'} | {cell(says.get(name, ''))} |"
        for name, option in options_of(entry.function).items()
    ]
    return "\n".join([f"| `{flag}` | values | default | meaning |", "|---|---|---|---|", *rows]) if rows else "None."


def _visible(default: Any) -> str:
    """A default in a table, where a line end would end the row."""
    return str(default).replace("\n", "\\n")


# Files


def write(pages: Mapping[Path, str], folders: Iterable[Path]) -> None:
    """Write them, and remove from the folders the pages of what is gone."""
    for folder in folders:
        folder.mkdir(exist_ok=True)
        for path in folder.glob("*.md"):
            if path not in pages:
                path.unlink()
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")


EVIDENCE = {
    "code": "read in the authors' code",
    "paper": "read in the paper",
    "second-hand": "read in notes, threads or other people's code, not in the source itself",
    "guess": "parts of it are our own reading where the source is silent",
}
CODES = {"UsageError": "Exit code 2", "DataError": "Exit code 3", "ApportionError": "Exit code 1"}


def errors(text: str) -> str:
    """What a docstring says under Raises, a line for each kind of error."""
    parts = re.split(r"\b(UsageError|DataError|ApportionError)\b:?\s*", flat(text))
    if parts[0].strip() or len(parts) < 3:
        return sentence(text)
    return "\n".join(
        f"- {CODES[name]}: {said.strip().rstrip(',.;').removesuffix(' and')}."
        for name, said in zip(parts[1::2], parts[2::2], strict=True)
    )


def needs_with_settings(entry: Any) -> list[str]:
    """A line for every setting with which the entry reads more columns."""
    return [
        f"- with `{setting}` also {', '.join(f'`{path}`' for path in paths)}"
        for setting, paths in entry.needs_by_setting().items()
    ]
