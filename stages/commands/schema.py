"""What columns a rollout file can have, and what keys a recipe: both printed from the code that checks them."""

import json
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ..core.kinds import STAGES, kinds
from ..core.options import Names

Form = Literal["table", "arrow", "markdown", "recipe"]


@dataclass(frozen=True)
class Shown:
    """The schema: as objects for --json, as text for people."""

    content: Any
    text: str

    def to_json(self) -> Any:
        return self.content

    def render(self) -> None:
        print(self.text)


def schema(
    *,
    form: Annotated[
        Form,
        "table; arrow, the types in Arrow's words; markdown, as in docs/format.md; recipe, a JSON Schema of recipes.",
        Names(("--as",)),
    ] = "table",
    arrow: Annotated[bool, "Short for --as arrow."] = False,
) -> Shown:
    """Print the columns of a rollout file with ruler, type, unit and meaning, or the JSON Schema of recipes.

    An editor that knows YAML completes and checks recipes with the latter:
    `apportion schema --as recipe > recipe.schema.json`.
    """
    form = "arrow" if arrow else form
    if form == "recipe":
        from .recipe_schema import recipe_schema

        content = recipe_schema()
        return Shown(content, json.dumps(content, indent=2, ensure_ascii=False))
    return Shown(_columns(), {"table": _table, "arrow": _arrow, "markdown": _markdown}[form]())


def _columns() -> list[dict[str, Any]]:
    from ...formats.schema import FIELDS, REQUIRED, RULERS, Field

    own = {
        each.path: (each, f"{kind.noun} {entry.name}")
        for kind in kinds().values()
        for entry in kind
        for each in entry.makes
        if isinstance(each, Field) and entry.function.__module__.startswith(STAGES)
    }
    known = {path: (field, "") for path, field in FIELDS.items()} | own
    return [
        {
            "column": path, "ruler": field.ruler, "type": _type(field.type), "arrow": _type(field.arrow),
            "unit": field.unit, "required": path in REQUIRED,
            "axis": path.rpartition(".")[2] in RULERS[field.ruler].axis,
            "meaning": f"{field.meaning} ({maker})" if maker else field.meaning,
        }
        for path, (field, maker) in known.items()
    ]  # fmt: skip


def _type(kind: Any) -> str:
    """Arrow's name of a type, without the names it gives to lists' elements."""
    return str(kind).replace("<item: ", "<").replace("<element: ", "<")


def _table() -> str:
    rows = [("ruler", "column", "type", "unit", "meaning")]
    rows += [
        (
            each["ruler"],
            each["column"],
            re.sub("struct<.*>(?=>)", "struct", each["type"]),
            each["unit"],
            each["meaning"],
        )
        for each in _columns()
    ]
    widths = [max(len(row[place]) for row in rows) for place in range(4)]
    return "\n".join(
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows
    )


def _arrow() -> str:
    from ...formats.canonical import full_schema

    lines: list[str] = []
    for field in full_schema():
        if not str(field.type).startswith("struct<"):
            lines.append(f"{field.name}: {_type(field.type)}")
            continue
        lines += [f"{field.name}: struct<", *(f"    {leaf.name}: {_type(leaf.type)}" for leaf in field.type), ">"]
    return "\n".join(lines)


def _markdown() -> str:
    from ...formats.rules import RULES
    from ...formats.schema import RULERS

    def table(*rows: tuple[str, ...]) -> list[str]:
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:], ""]

    lines = ["### Rulers", ""]
    lines += table(
        ("ruler", "length", "axis", "meaning"),
        *(
            (f"`{each.name}`", each.length, ", ".join(f"`{name}`" for name in each.axis), each.meaning)
            for each in RULERS.values()
        ),
    )
    for ruler in RULERS:
        lines += [f"### Columns on the {ruler} ruler", ""]
        lines += table(
            ("column", "type", "unit", "meaning"),
            *(
                (f"`{each['column']}`", f"`{each['type']}`", each["unit"], each["meaning"])
                for each in _columns()
                if each["ruler"] == ruler
            ),
        )
    lines += ["### Rules", ""]
    lines += table(
        ("rule", "when broken", "what holds"),
        *((f"`{rule.name}`", rule.severity, rule.meaning) for rule in RULES.values()),
    )
    return "\n".join(lines).rstrip()
