"""What there is: every registered name with what it needs and where it comes from."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter
from typing import Annotated, Any, Literal

from ..core.registry import options_of

Kind = Literal["methods", "tasks", "scorers", "strategies", "memories", "engines", "objectives", "recipes"]


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


def catalogue(kind: Annotated[Kind, "What to list."]) -> Catalogue:
    """List methods, tasks, scorers, strategies, memories, engines, objectives or recipes."""
    return Catalogue(kind, _LISTS[kind]())


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={_quoted(each)}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _quoted(value: Any) -> Any:
    """A text of several lines as `--set` reads it, in one."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) and "\n" in value else value


def _options(function: Callable[..., Any]) -> dict[str, Any]:
    return {
        name: None if parameter.default is Parameter.empty else parameter.default
        for name, parameter in options_of(function).items()
    }


def _methods() -> list[dict[str, Any]]:
    from ..assign_credit.kind import METHODS

    return [
        {
            "name": method.name, "granularity": method.granularity, "methodology": method.methodology,
            "needs": list(method.needs), "scope": method.scope, "source": method.source, "evidence": method.evidence,
            "options": _options(method.function), "presets": sorted(method.presets), "summary": method.summary,
        }
        for method in METHODS
    ]  # fmt: skip


def _scorers() -> list[dict[str, Any]]:
    from ..score.kind import SCORERS

    return [
        {
            "name": each.name, "granularity": each.granularity, "needs": list(each.needs), "source": each.source,
            "options": _options(each.function), "summary": each.summary,
        }
        for each in SCORERS
    ]  # fmt: skip


def _strategies() -> list[dict[str, Any]]:
    from ..sample.kind import STRATEGIES

    return [
        {
            "name": each.name, "needs": list(each.needs), "source": each.source,
            "options": _options(each.function), "summary": each.summary,
        }
        for each in STRATEGIES
    ]  # fmt: skip


def _memories() -> list[dict[str, Any]]:
    from ..remember.kind import MEMORIES

    return [
        {
            "name": each.name, "needs": list(each.needs), "source": each.source,
            "options": _options(each.function), "summary": each.summary,
        }
        for each in MEMORIES
    ]  # fmt: skip


def _objectives() -> list[dict[str, Any]]:
    from ..train.kind import OBJECTIVES

    return [
        {
            "name": each.name, "needs": list(each.needs), "source": each.source,
            "options": _options(each.function), "summary": each.summary,
        }
        for each in OBJECTIVES
    ]  # fmt: skip


def _engines() -> list[dict[str, Any]]:
    from ..models.kind import ENGINES

    return [{"name": each.name, "needs": list(each.needs), "summary": each.summary} for each in ENGINES]


def _tasks() -> list[dict[str, Any]]:
    from ..tasks import TASKS

    return [
        {"name": f"{each.name}/{member}" if member else each.name, "summary": each.summary}
        for each in TASKS
        for member in (each.members() if each.members else ("",))
    ]


def _recipes() -> list[dict[str, Any]]:
    from ...formats.recipes import load_recipe, recipe_names

    recipes = [load_recipe(name) for name in recipe_names()]
    return [{"name": each.name, "vars": dict(each.vars), "summary": each.about} for each in recipes]


_LISTS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "methods": _methods,
    "tasks": _tasks,
    "scorers": _scorers,
    "strategies": _strategies,
    "memories": _memories,
    "engines": _engines,
    "objectives": _objectives,
    "recipes": _recipes,
}
