"""The pages of every kind of entry but methods (method_pages.py), a folder a kind, made from the functions' docstrings.

python docs/regenerate.py
"""

from pathlib import Path
from typing import Any

from apportion.stages.commands.docstrings import split_docstring
from apportion.stages.core.kinds import Kind, kinds
from apportion.stages.sample.kind import CONTINUES
from pages import (
    EVIDENCE,
    ROOT,
    cell,
    code_of,
    errors,
    flat,
    formula_and_prose,
    made_by,
    needs_with_settings,
    numbered,
    of_this_repository,
    options_table,
    sentence,
    write,
)

KINDS = {kind.plural: kind for kind in kinds().values() if kind.plural != "methods"}
TITLES = {"strategies": "Sampling strategies"}
ABOUT = {
    "strategies": "A strategy decides which prefixes are continued, how often, and what the policy reads.",
    "scorers": "A scorer adds what a rollout earned, or what a method has to know of it.",
    "memories": "A memory is what one iteration hands to the next beside the policy: a Parquet file that `apportion remember` "
    "writes anew, and that options of strategies and scorers name.",
    "importers": "An importer reads the rollouts that another system writes. `apportion import` tells the format from the file; "
    "`--dry-run` says what it found. [Rollouts from elsewhere](../import.md) is the introduction.",
    "exporters": "An exporter writes rollouts and their credit for another system.",
    "findings": "A finding is a measure of a rollout file above which training on it is likely to go wrong. `apportion doctor FILE` "
    "looks for all of them; `--set NAME.above=…` moves a threshold.",
    "objectives": "An objective is the loss that `apportion train` minimises.",
    "engines": "An engine continues token ids with the policy. `--engine auto` takes vllm where it is installed and a GPU is "
    "there, and transformers elsewhere.",
    "tasks": "A task gives problems and verifies answers. Train and test problems never overlap, and the same seed gives the "
    "same problems.",
}
NEEDS = {CONTINUES: "`--from FILE`: it continues rollouts", "task.demonstrate": "a task that writes worked solutions"}


def pages_of(kind: Kind[Any]) -> Path:
    """The folder of their pages."""
    return ROOT / "docs" / kind.plural


def page(kind: Kind[Any], entry: Any) -> str:
    """The whole page."""
    parts = split_docstring(entry)
    command = entry.usage_of(kind).format(name=entry.name)
    needs = [
        f"- {NEEDS.get(path) or f'`{path}`' + (f': {made}' if (made := made_by(path)) else '')}"
        for path in entry.needs_for({})
    ] + needs_with_settings(entry)
    lines = [
        f"# {entry.name}",
        sentence(entry.summary),
        f"`{command}`",
        formula_and_prose(parts[""]),
        *(["## What it needs", "\n".join(needs)] if needs else []),
        *columns_and_losses(entry),
        "## Options",
        options_table(entry, kind),
        *(["## What it gives", flat(parts["Returns"])] if "Returns" in parts else []),
        *(["## When it fails", errors(parts["Raises"])] if "Raises" in parts else []),
        *(["## Where it departs from its source", numbered(parts["Departures"])] if "Departures" in parts else []),
        "## About",
        *([f"Part of: {', '.join(entry.system)}."] if entry.system else []),
        *(
            [f"Source: {entry.source}{f' ({EVIDENCE[entry.evidence]})' if entry.evidence else ''}."]
            if entry.source
            else []
        ),
        f"Code: [`{code_of(entry)}`](../../{code_of(entry)}).",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def columns_and_losses(entry: Any) -> list[str]:
    """The columns that an importer fills, and what it cannot take over; empty for any other entry."""
    if not hasattr(entry, "loses"):
        return []
    exact = "the token ids that the policy sampled" if entry.exact else "token ids made of their texts"
    filled = ", ".join(f"`{path}`" for path in entry.fills)
    lost = [f"- {what}" for what in entry.loses]
    return ["## Columns", f"Rows have {exact}, and {filled}.", *(["Lost:", "\n".join(lost)] if lost else [])]


def table(entries: list[Any], *, sources: bool) -> str:
    """One row an entry. sources: with where they come from."""
    head = "| name | what it does | source |" if sources else "| name | what it is |"
    rows = [
        f"| [`{entry.name}`]({file_of(entry)}) | {cell(entry.summary).removesuffix('.')} |"
        + (f" {cell(entry.source)} |" if sources else "")
        for entry in entries
    ]
    return "\n".join([head, "|---" * (3 if sources else 2) + "|", *rows])


def index(kind: Kind[Any]) -> str:
    """The README.md of a kind's folder: its entries by family."""
    own = of_this_repository(kind)
    sources = any(entry.source for entry in own)
    by_family = {family: [each for each in entries if each in own] for family, entries in kind.families().items()}
    by_family = {family: entries for family, entries in by_family.items() if entries}
    plain = len(by_family) in (1, len(own))  # families that say nothing
    tables = (
        [table(own, sources=sources)]
        if plain
        else [
            f"## {family.capitalize() or 'Others'}\n\n{table(entries, sources=sources)}"
            for family, entries in by_family.items()
        ]
    )
    lines = [
        f"# {TITLES.get(kind.plural, kind.plural.capitalize())}",
        ABOUT.get(kind.plural, ""),
        f"`{kind.usage.format(name='NAME')}`",
        f"`apportion list {kind.plural}` says the same of what is installed, plugins included, and `apportion list NAME` shows "
        "one whole. To write one, see [plugins](../plugins.md).",
        *tables,
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def file_of(entry: Any) -> str:
    """The name of its page."""
    return f"{entry.name.replace('/', '-')}.md"


def expected() -> dict[Path, str]:
    """Every page and its text."""
    pages = {
        pages_of(kind) / file_of(entry): page(kind, entry)
        for kind in KINDS.values()
        for entry in of_this_repository(kind)
    }
    return pages | {pages_of(kind) / "README.md": index(kind) for kind in KINDS.values()}


def regenerate() -> None:
    """Write them."""
    write(expected(), [pages_of(kind) for kind in KINDS.values()])


if __name__ == "__main__":
    regenerate()
