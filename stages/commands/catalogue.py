"""What there is: every registered name with what it needs and where it comes from."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ..core.kinds import kinds

Listed = Literal["methods", "tasks", "scorers", "strategies", "memories", "engines", "objectives", "recipes"]


@dataclass(frozen=True)
class Catalogue:
    """Entries of one kind, each a mapping with `name`, `summary`, and what applies to the kind."""

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


def catalogue(kind: Annotated[Listed, "What to list."]) -> Catalogue:
    """List methods, tasks, scorers, strategies, memories, engines, objectives or recipes."""
    return Catalogue(kind, _recipes() if kind == "recipes" else list(_facts(kind)))


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={_quoted(each)}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _quoted(value: Any) -> Any:
    """A text of several lines as `--set` reads it, in one."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) and "\n" in value else value


def _facts(plural: str) -> Iterator[dict[str, Any]]:
    for entry in kinds()[plural]:
        facts, members = entry.facts(), getattr(entry, "members", None)
        for member in members() if members else ("",):
            yield {**facts, "name": f"{entry.name}/{member}" if member else entry.name}


def _recipes() -> list[dict[str, Any]]:
    from ...formats.recipes import load_recipe, recipe_names

    recipes = [load_recipe(name) for name in recipe_names()]
    return [{"name": each.name, "vars": dict(each.vars), "summary": each.about} for each in recipes]
