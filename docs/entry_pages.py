"""The pages of docs/strategies/, docs/scorers/ and docs/memories/, and README's tables of them, made from the registered functions' docstrings.

python docs/regenerate.py
"""

from pathlib import Path
from typing import Any

from apportion.stages.core.docstrings import split_docstring
from apportion.stages.core.kinds import Kind, kinds
from apportion.stages.sample.kind import CONTINUES
from pages import (
    README,
    ROOT,
    cell,
    code_of,
    flat,
    formula_and_prose,
    made_by,
    numbered,
    of_this_repository,
    options_table,
    sentence,
    with_table,
    write,
)

KINDS = {kind.plural: kind for kind in kinds().values() if kind.plural in ("strategies", "scorers", "memories")}
NEEDS = {CONTINUES: "`--from FILE`: it continues rollouts", "task.demonstrate": "a task that writes worked solutions"}


def pages_of(kind: Kind[Any]) -> Path:
    """The folder of their pages."""
    return ROOT / "docs" / kind.plural


def page(kind: Kind[Any], entry: Any) -> str:
    """The whole page."""
    parts = split_docstring(entry)
    command = entry.usage_of(kind).format(name=entry.name)
    needs = [
        f"- {NEEDS.get(path) or f'`{path}`' + (f': {made}' if (made := made_by(path)) else '')}" for path in entry.needs
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
        *([f"Part of: {', '.join(entry.system)}."] if entry.system else []),
        f"Source: {entry.source}. Code: [`{code_of(entry)}`](../../{code_of(entry)}).",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def table(kind: Kind[Any], link: str) -> str:
    """One row an entry. link: where the pages lie, seen from the file the table is for."""
    rows = [
        f"| [`{entry.name}`]({link}{entry.name}.md) | {cell(entry.summary).removesuffix('.')} | {cell(entry.source)} |"
        for entry in of_this_repository(kind)
    ]
    return "\n".join(["| name | what it does | source |", "|---|---|---|", *rows])


def expected() -> dict[Path, str]:
    """Every page and its text."""
    pages = {
        pages_of(kind) / f"{entry.name}.md": page(kind, entry)
        for kind in KINDS.values()
        for entry in of_this_repository(kind)
    }
    readme = README.read_text(encoding="utf-8")
    for kind in KINDS.values():
        readme = with_table(readme, kind.plural, table(kind, f"docs/{kind.plural}/"))
    return {**pages, README: readme}


def regenerate() -> None:
    """Write them."""
    write(expected(), [pages_of(kind) for kind in KINDS.values()])


if __name__ == "__main__":
    regenerate()
