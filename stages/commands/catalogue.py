"""What there is: every registered name with what it needs and where it comes from, one entry whole, and what a file can take."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any

from ...formats.errors import UsageError, unknown
from ..core.kinds import Entry, Kind, kinds
from ..core.options import Names, bare, in_words, parameter_hints
from ..core.ranges import range_of

RECIPES = "recipes"
READERS = ("methods", "scorers", "memories", "objectives")  # kinds whose needs are columns of a file


@dataclass(frozen=True)
class Catalogue:
    """Entries, each a mapping with `name`, `summary`, and what applies to the kind."""

    kind: str
    entries: list[dict[str, Any]]

    def to_json(self) -> list[dict[str, Any]]:
        return self.entries

    def render(self) -> None:
        from rich.padding import Padding
        from rich.text import Text

        from ..core.console import WordsConsole

        console = WordsConsole()
        width = max((len(entry["name"]) for entry in self.entries), default=0)
        for entry in self.entries:
            console.print(Text.assemble((f"{entry['name']:<{width}}", "bold"), "  ", entry["summary"]), soft_wrap=True)
            facts = [
                f"{key} {_cell(value)}" for key, value in entry.items() if key not in ("name", "summary") and value
            ]
            if facts:
                console.print(Padding(Text(" · ".join(facts), "dim"), (0, 0, 0, width + 2)))


@dataclass(frozen=True)
class Fit:
    """What of a kind a file can take: each entry with `ready`, and `lacks`, {missing column: what to run}."""

    file: str
    kind: str
    entries: list[dict[str, Any]]

    def to_json(self) -> list[dict[str, Any]]:
        return self.entries

    def render(self) -> None:
        ready = [entry["name"] for entry in self.entries if entry["ready"]]
        print(f"{self.kind} that {self.file} can take now: {', '.join(ready) or 'none'}")
        by_need: dict[tuple[tuple[str, str], ...], list[str]] = {}
        for entry in self.entries:
            if not entry["ready"]:
                by_need.setdefault(tuple(entry["lacks"].items()), []).append(entry["name"])
        for lacks, names in by_need.items():
            columns: dict[str, list[str]] = {}
            for column, what in lacks:
                columns.setdefault(what, []).append(column)
            print(f"\n{', '.join(names)}")
            for what, missing in columns.items():
                print(f"  no {', '.join(missing)}: {what}")


@dataclass(frozen=True)
class Listed:
    """The entries of one name, whole: usually one, one a kind where several kinds have the name."""

    entries: list[dict[str, Any]]

    def to_json(self) -> list[dict[str, Any]]:
        return self.entries

    def render(self) -> None:
        print("\n\n".join(map(_page, self.entries)))


def catalogue(
    kind: Annotated[str, "What to list: a kind such as methods, or the name of one entry, which is shown whole."],
    *,
    file: Annotated[
        Path | None,
        "Rollout file: which of them it can take now, and what to run for the columns that the others lack.",
        Names(("--for",)),
    ] = None,
) -> Catalogue | Fit | Listed:
    """List methods, tasks, scorers, strategies, memories, engines, objectives or recipes, or show one entry whole."""
    known = (*kinds(), RECIPES)
    if kind in known:
        if file is not None:
            return Fit(str(file), kind, _for(kind, file))
        return Catalogue(kind, _recipes() if kind == RECIPES else list(_facts(kind)))
    if file is not None:
        raise unknown("kind", kind, READERS)
    found = [_whole(each, each[kind]) for each in kinds().values() if kind in each]
    found += [recipe | {"kind": "recipe"} for recipe in _recipes() if recipe["name"] == kind]
    if not found:
        names = [entry.name for each in kinds().values() for entry in each]
        raise unknown("kind or entry", kind, [*known, *names] if len(kind) > 1 else known)
    return Listed(found)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={_quote(each)}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _quote(value: Any) -> Any:
    """A text of several lines as `--set` reads it, in one."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) and "\n" in value else value


def _facts(plural: str) -> Iterator[dict[str, Any]]:
    for entry in kinds()[plural]:
        facts, names = entry.facts(), getattr(entry, "names", None)
        for member in (names() if names else []) or [""]:
            yield {**facts, "name": f"{entry.name}/{member}" if member else entry.name}


def _recipes() -> list[dict[str, Any]]:
    from ...formats.recipes import load_recipe, recipe_names

    recipes = [load_recipe(name) for name in recipe_names()]
    return [
        {
            "name": each.name,
            **({"system": list(each.system)} if each.system else {}),
            "vars": dict(each.vars),
            "summary": each.about,
        }
        for each in recipes
    ]


def _for(plural: str, path: Path) -> list[dict[str, Any]]:
    """The kind's entries with `ready`, and `lacks`: for each column that is missing, what to run."""
    from ...formats.invariants import missing_paths
    from ...formats.parquet import RolloutFile, files_of
    from ..core.remedies import remedy

    if plural not in READERS:
        raise UsageError(f"--for goes with {', '.join(READERS)}; what {plural} need is no column of a file")
    schema = RolloutFile(files_of(path)[0]).schema
    listed: list[dict[str, Any]] = []
    for entry in kinds()[plural]:
        lacks = {needed: remedy(needed) for needed in missing_paths(schema, entry.needs_for({}))}
        listed.append({"name": entry.name, "ready": not lacks, "lacks": lacks, "summary": entry.summary})
    return sorted(listed, key=lambda each: not each["ready"])


# One entry whole


def _whole(kind: Kind[Any], entry: Entry) -> dict[str, Any]:
    """All that is known of an entry, JSON-able."""
    from .docstrings import meanings_of, split_docstring

    says, hints, parts = meanings_of(entry), parameter_hints(entry.function), split_docstring(entry)
    options = {
        name: {
            "type": in_words(bare(hints[name])),
            **({"range": str(allowed)} if (allowed := range_of(hints[name])) else {}),
            **({"required": True} if option.default is Parameter.empty else {"default": option.default}),
            "meaning": says.get(name, ""),
        }
        for name, option in entry.options.items()
    }
    return {
        **entry.facts(),
        "kind": kind.noun,
        "usage": entry.usage_of(kind).format(name=entry.name),
        "setting": kind.setting,
        "options": options,
        "presets": {name: dict(preset) for name, preset in entry.presets.items()},
        "text": parts[""],
        **{name.lower(): text for name, text in parts.items() if name not in ("", "Args")},
    }


def _page(entry: dict[str, Any]) -> str:
    """An entry as text for a terminal."""
    lines = [f"{entry['name']}  {entry['kind']}", "", entry.get("text") or entry["summary"]]
    if "usage" in entry:
        lines += ["", f"  {entry['usage']}"]
    options = entry.get("options", {})
    if options:
        lines += ["", f"Options ({entry['setting']} name=value):"]
        width = max(map(len, options))
        for name, each in options.items():
            default = "required" if each.get("required") else f"default {_quote(each['default'])}"
            kept = [each["type"], each.get("range", ""), default]
            lines.append(f"  {name:<{width}}  {', '.join(filter(None, kept))}")
            lines += [f"  {'':<{width}}  {each['meaning']}"] if each["meaning"] else []
    for name, values in entry.get("presets", {}).items():
        lines.append(f"  --preset {name}: {_cell(values)}")
    shown = ("needs", "makes", "family", "granularity", "methodology", "scope", "source", "evidence", "system", "vars")
    facts = [(name, entry[name]) for name in shown if entry.get(name)]
    facts[1:1] = [(f"needs with {setting}", paths) for setting, paths in entry.get("needs_with", {}).items()]
    lines += ["", *(f"{name}: {_cell(value)}" for name, value in facts)] if facts else []
    for name in ("returns", "raises", "departures", "bias", "cost", "example"):
        if entry.get(name):
            lines += ["", f"{name.capitalize()}:", *(f"  {line}".rstrip() for line in entry[name].splitlines())]
    return "\n".join(lines)
