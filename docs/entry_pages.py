"""The pages of docs/strategies/, docs/scorers/ and docs/memories/, and README's tables of them, made from the registered functions' docstrings.

python docs/regenerate.py
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apportion.stages.registry import options_of
from apportion.stages.remember._memory import MEMORIES
from apportion.stages.sample._strategy import CONTINUES, STRATEGIES
from apportion.stages.score._scorer import SCORERS
from method_pages import MADE_BY, README, ROOT, cell, explained, flat, formula_and_prose, numbered, sections, sentence


@dataclass(frozen=True)
class Kind:
    """Entries of one registry. command: with {name} in it; room: the folder of their files."""

    plural: str
    registry: Iterable[Any]
    command: str
    room: str

    @property
    def pages(self) -> Path:
        return ROOT / "docs" / self.plural

    @property
    def markers(self) -> tuple[str, str]:
        return f"<!-- {self.plural}: python docs/regenerate.py -->", f"<!-- end of {self.plural} -->"

    def entries(self) -> list[Any]:
        """Those of this repository, without those of installed plugins."""
        return [entry for entry in self.registry if entry.function.__module__.startswith("apportion.stages.")]


KINDS = (
    Kind("strategies", STRATEGIES, "apportion sample --strategy {name} -o OUT", "stages/sample"),
    Kind("scorers", SCORERS, "apportion score IN --with {name} -o OUT", "stages/score"),
    Kind("memories", MEMORIES, "apportion remember IN --what {name} --earlier MEMORY -o OUT", "stages/remember"),
)
NEEDS = {CONTINUES: "`--from FILE`: it continues rollouts", "task.demonstrate": "a task that writes worked solutions"}


def options(entry: Any) -> str:
    """The table of its options."""
    says = explained(entry)
    rows = []
    for name, parameter in options_of(entry.function).items():
        kind = str(parameter.annotation)
        if kind.startswith("typing.Literal["):
            kind = " \\| ".join(f"`{value}`" for value in re.findall(r"'([^']*)'", kind))
        else:
            kind = parameter.annotation.__name__ if kind.startswith("<class") else re.sub(r"(\w+\.)+", "", kind)
            kind = kind.replace("|", "\\|")
        default = "needed" if parameter.default is parameter.empty else f"`{parameter.default}`"
        rows.append(f"| `{name}` | {kind} | {default} | {cell(says.get(name, ''))} |")
    return "\n".join(["| `--set` | values | default | meaning |", "|---|---|---|---|", *rows]) if rows else "None."


def page(kind: Kind, entry: Any) -> str:
    """The whole page."""
    parts = sections(entry)
    command = kind.command.format(name=entry.name)
    if CONTINUES in entry.needs:
        command = command.replace(" -o OUT", " --from IN -o OUT")
    needs = [
        f"- {NEEDS.get(path) or f'`{path}`' + (f': {MADE_BY[path]}' if path in MADE_BY else '')}"
        for path in entry.needs
    ]
    lines = [
        f"# {entry.name}",
        sentence(entry.summary),
        f"`{command}`",
        formula_and_prose(parts[""]),
        *(["## What it needs", "\n".join(needs)] if needs else []),
        "## Options",
        options(entry),
        *(["## What it gives", flat(parts["Returns"])] if "Returns" in parts else []),
        *([f"Refused: {flat(parts['Raises'])}"] if "Raises" in parts else []),
        *(["## Where it departs from its source", numbered(parts["Departures"])] if "Departures" in parts else []),
        "## About",
        f"Source: {entry.source}. Code: [`{kind.room}/{entry.name}.py`](../../{kind.room}/{entry.name}.py).",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def table(kind: Kind, link: str) -> str:
    """One row an entry. link: where the pages lie, seen from the file the table is for."""
    rows = [
        f"| [`{entry.name}`]({link}{entry.name}.md) | {cell(entry.summary).removesuffix('.')} | {cell(entry.source)} |"
        for entry in kind.entries()
    ]
    return "\n".join(["| name | what it does | source |", "|---|---|---|", *rows])


def with_tables(readme: str) -> str:
    """README.md with the tables between their comments made again."""
    for kind in KINDS:
        begin, end = kind.markers
        before, found, rest = readme.partition(begin)
        _, ended, after = rest.partition(end)
        if not found or not ended:
            raise SystemExit(f"README.md: needed are the lines {begin} and {end}")
        readme = f"{before}{begin}\n\n{table(kind, f'docs/{kind.plural}/')}\n\n{end}{after}"
    return readme


def expected() -> dict[Path, str]:
    """Every page and its text."""
    pages = {kind.pages / f"{entry.name}.md": page(kind, entry) for kind in KINDS for entry in kind.entries()}
    return {**pages, README: with_tables(README.read_text(encoding="utf-8"))}


def regenerate() -> None:
    """Write them, and remove the pages of what is gone."""
    pages = expected()
    for kind in KINDS:
        kind.pages.mkdir(exist_ok=True)
        for path in kind.pages.glob("*.md"):
            if path not in pages:
                path.unlink()
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    regenerate()
