"""The pages of docs/strategies/, docs/scorers/ and docs/memories/, and README's tables of them, made from the registered functions' docstrings.

python docs/regenerate.py
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apportion.stages.remember.kind import MEMORIES
from apportion.stages.sample.kind import CONTINUES, STRATEGIES
from apportion.stages.score.kind import SCORERS
from pages import (
    MADE_BY,
    README,
    ROOT,
    cell,
    flat,
    formula_and_prose,
    numbered,
    of_this_repository,
    options_table,
    sections,
    sentence,
    with_table,
    write,
)


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

    def entries(self) -> list[Any]:
        return of_this_repository(self.registry)


KINDS = (
    Kind("strategies", STRATEGIES, "apportion sample --strategy {name} -o OUT", "stages/sample"),
    Kind("scorers", SCORERS, "apportion score IN --with {name} -o OUT", "stages/score"),
    Kind("memories", MEMORIES, "apportion remember IN --what {name} --earlier MEMORY -o OUT", "stages/remember"),
)
NEEDS = {CONTINUES: "`--from FILE`: it continues rollouts", "task.demonstrate": "a task that writes worked solutions"}


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
        options_table(entry),
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


def expected() -> dict[Path, str]:
    """Every page and its text."""
    pages = {kind.pages / f"{entry.name}.md": page(kind, entry) for kind in KINDS for entry in kind.entries()}
    readme = README.read_text(encoding="utf-8")
    for kind in KINDS:
        readme = with_table(readme, kind.plural, table(kind, f"docs/{kind.plural}/"))
    return {**pages, README: readme}


def regenerate() -> None:
    """Write them."""
    write(expected(), [kind.pages for kind in KINDS])


if __name__ == "__main__":
    regenerate()
