"""docs/systems.md, made from stages/core/systems.py and from the entries and recipes that make up a system.

python docs/regenerate.py
"""

from collections import defaultdict

from apportion.formats.recipes import load_recipe, recipe_names
from apportion.stages.core.kinds import kinds
from apportion.stages.core.systems import STATES, SYSTEMS, System
from entry_pages import file_of
from pages import ROOT, cell

PAGE = ROOT / "docs" / "systems.md"


def recipes_of() -> dict[str, list[str]]:
    """{system: recipes that run it}."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for recipe in map(load_recipe, recipe_names()):
        for system in recipe.system:
            found[system].append(recipe.name)
    return found


def row(system: System, recipes: list[str]) -> str:
    """A system in the table."""
    parts = [
        f"[`{entry.name}`]({plural}/{file_of(entry)})"
        for plural, kind in sorted(kinds().items())
        for entry in kind
        if system.name in entry.system
    ]
    paper = f" (arXiv:{system.paper})" if system.paper else ""
    runs = ", ".join(f"`apportion run {name}`" for name in sorted(recipes))
    return f"| {system.name}{paper} | {cell(system.about)} | {system.state} | {runs} | {', '.join(parts)} | {cell(system.missing)} |"


def page() -> str:
    """The whole page."""
    recipes = recipes_of()
    states = "\n".join(f"- **{state}**: {meaning}" for state, meaning in STATES.items())
    rows = [row(system, recipes[system.name]) for system in SYSTEMS.values()]
    count = {state: sum(each.state == state for each in SYSTEMS.values()) for state in STATES}
    counted = ", ".join(f"{number} {state}" for state, number in count.items())
    return (
        f"# Published systems\n\napportion means to hold {len(SYSTEMS)} published systems whole: sampling, scoring, credit and training. "
        f"Today they are {counted}.\n\n{states}\n\nThe commands, entries and deviations stand on the linked pages; what was measured "
        "beside GRPO is in [results](results.md).\n\n| system | what it does | state | run it | made of | what it lacks |\n"
        "|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def regenerate() -> None:
    """Write it."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    regenerate()
