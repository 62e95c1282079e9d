"""The pages of docs/commands/, made from the commands' signatures and docstrings.

python docs/regenerate.py
"""

import inspect
from inspect import Parameter
from pathlib import Path

from apportion.stages.core.table import Command, Option, commands
from pages import ROOT, cell, formula_and_prose, sentence, values_of, write

PAGES = ROOT / "docs" / "commands"
GROUPS = {
    "Make rollouts and train on them": ("sample", "tree-build", "score", "assign-credit", "remember", "train", "run"),
    "Exchange with other systems": ("import", "export"),
    "Measure": ("eval policy", "eval rollouts", "eval curve", "eval refinement"),
    "Look": ("inspect", "diff", "head", "show", "log", "validate", "doctor", "digest", "list", "schema"),
    "Change files": ("filter", "split", "merge", "upgrade"),
    "Extend": ("new",),
}


def file_of(command: Command) -> str:
    """The name of its page."""
    return f"{command.name.replace(' ', '-')}.md"


def usage(command: Command) -> str:
    """How it is called, with what it cannot do without."""
    options = command.options().values()
    words = [each.name.upper() for each in options if each.positional]
    words += [f"{flag_of(each)} {each.name.upper()}" for each in options if each.required and not each.positional]
    return " ".join(["apportion", command.name, *words])


def flag_of(option: Option) -> str:
    """The flag that is named first."""
    return option.flags[0]


def row(option: Option) -> str:
    """An option in its table."""
    values = "`name=value`" if "Mapping" in str(option.type) else values_of(option.type)
    values = "switch" if option.type is bool else values
    values += f", {option.range}" if option.range is not None else ""
    shown = option.default is not None and option.default is not False and option.default != ""
    default = "needed" if option.required else f"`{option.default}`" if shown else ""
    flags = ", ".join(f"`{flag}`" for flag in option.flags) or f"`{option.name.upper()}`"
    return f"| {flags} | {values} | {default} | {cell(option.help)} |"


def page(command: Command) -> str:
    """The whole page."""
    options = [each for each in command.options().values() if each.help or each.default is not Parameter.empty]
    rows = [row(each) for each in options]
    chooses = [
        f"- `{flag_of(option)}`: [{kind.plural}](../{kind.plural}/README.md)" for kind, option in command.choices()
    ]
    text = inspect.cleandoc(command.function.__doc__ or "")
    for section in ("Args:", "Returns:", "Raises:"):
        text = text.partition(f"\n\n{section}")[0]
    lines = [
        f"# apportion {command.name}",
        sentence(command.summary),
        f"```text\n{usage(command)}\n```",
        formula_and_prose(text),
        "## Options",
        "\n".join(["| option | values | default | meaning |", "|---|---|---|---|", *rows]),
        *(["## What can be chosen", "\n".join(chooses)] if chooses else []),
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def index() -> str:
    """docs/commands/README.md."""
    found = commands()
    parts = [
        f"## {title}\n\n| command | what it does |\n|---|---|\n"
        + "\n".join(
            f"| [`{name}`]({file_of(found[name])}) | {cell(found[name].summary).removesuffix('.')} |" for name in names
        )
        for title, names in GROUPS.items()
    ]
    return (
        "# Commands\n\nEvery command reads and writes files, or standard input and output where `-` stands for one. Options are "
        "the same on\nthe command line, in a recipe (with underscores) and in Python. Exit codes: 0 ok, 1 failed at run time, "
        "2 wrong usage\nor recipe, 3 bad data, 4 some rows failed, 5 a gate was not met. With `--json` a command prints its result as "
        "JSON; see\n[the shapes](../json.md).\n\n" + "\n\n".join(parts) + "\n"
    )


def expected() -> dict[Path, str]:
    """Every page and its text."""
    return {PAGES / file_of(each): page(each) for each in commands().values()} | {PAGES / "README.md": index()}


def regenerate() -> None:
    """Write them."""
    write(expected(), [PAGES])


if __name__ == "__main__":
    regenerate()
