"""The pages of docs/methods/, made from the registered methods' own docstrings.

python docs/regenerate.py
"""

import inspect
import re
from pathlib import Path

from apportion.stages.assign_credit.kind import METHODS, Method
from apportion.stages.commands.docstrings import meanings_of, split_docstring
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

PAGES = ROOT / "docs" / "methods"
COST = {
    "group": "One pass over the file, whole groups at a time; memory for one row group.",
    "batch": "The file is read at once: its statistics are over all rollouts. Memory for the whole file.",
}


def title_of(method: Method) -> tuple[str, str]:
    """("GiGPO", what the module's first line says of it)."""
    line = (inspect.getmodule(method.function).__doc__ or "").strip().partition("\n")[0]  # type: ignore[union-attr]
    name, colon, rest = line.partition(": ")
    return (name, rest[:1].upper() + rest[1:]) if colon else (method.name, line)


def page(method: Method) -> str:
    """The whole page."""
    parts, says = split_docstring(method), meanings_of(method)
    title, gist = title_of(method)
    needs: dict[str, list[str]] = {}
    for path in method.needs_for({}):
        # The places of a ruler are made together: node.start with node.id, step.end with step.start.
        ruler = {"node.start": "node.id", "node.end": "node.id", "step.end": "step.start"}.get(path, path)
        needs.setdefault(made_by(ruler), []).append(f"`{path}`")
    lines = [
        f"# {title}",
        gist,
        f"`apportion assign-credit IN --method {method.name} -o OUT`",
        formula_and_prose(parts[""]),
        "## What it needs",
        "\n".join(
            [f"- {', '.join(paths)}{': ' if note else ''}{note}" for note, paths in needs.items()]
            + needs_with_settings(method)
        ),
        "\n".join(f"- `{name}`: {flat(says[name])}" for name in method.inputs if name in says and name != "credit")
        or sentence(says.get("credit", "")),
        "## Options",
        options_table(method),
    ]
    if method.presets:
        presets = [
            f"- `--preset {name}`: {', '.join(f'`{key}={value}`' for key, value in options.items())}"
            for name, options in sorted(method.presets.items())
        ]
        lines += ["## Presets", "\n".join(presets)]
    lines += ["## What it gives", flat(parts.get("Returns", ""))]
    if "Raises" in parts:
        lines += ["## When it fails", errors(parts["Raises"])]
    if "Bias" in parts:
        lines += ["## Bias", *map(sentence, re.split(r"\n\s*\n", parts["Bias"]))]
    lines += ["## Where it departs from its source", numbered(parts.get("Departures", "none."))]
    if "Example" in parts:
        lines += ["## Example", f"```python\n{parts['Example']}\n```"]
    lines += [
        "## About",
        "\n".join(
            [
                "| | |",
                "|---|---|",
                f"| granularity | {method.granularity} |",
                f"| methodology | {method.methodology} |",
                *([f"| part of | {', '.join(method.system)} |"] if method.system else []),
                f"| source | {cell(method.source)} |",
                f"| evidence | {method.evidence}: {EVIDENCE[method.evidence]} |",
                f"| cost | {cell(parts.get('Cost', COST[method.scope]))} |",
                f"| code | [`{code_of(method)}`](../../{code_of(method)}) |",
            ]
        ),
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def needed(method: Method) -> str:
    """The needs in words, rulers together: reward, tree, steps."""
    words = {"node": "tree", "step": "steps"}
    short = [
        words[path.partition(".")[0]]
        if path in ("node.id", "node.start", "node.end", "step.start", "step.end")
        else path
        for path in method.needs_for({})
    ]
    return ", ".join(dict.fromkeys(short))


def table() -> str:
    """One row a method."""
    rows = [
        f"| [`{method.name}`]({method.name}.md) | {cell(title_of(method)[1]).removesuffix('.')} "
        f"| {method.granularity} | {cell(needed(method))} | {cell(method.source)} |"
        for method in of_this_repository(METHODS)
    ]
    return "\n".join(["| name | what it does | granularity | needs | source |", "|---|---|---|---|---|", *rows])


def index() -> str:
    """docs/methods/README.md."""
    levels = "\n".join(f"- {name}: {meaning}" for name, meaning in EVIDENCE.items())
    return (
        "# Credit methods\n\nMade from the code by `python docs/regenerate.py`. `apportion list methods` says the same of what is\n"
        f"installed, plugins included.\n\n{table()}\n\nHow well the source of a method is known:\n\n{levels}\n"
    )


def expected() -> dict[Path, str]:
    """Every page and its text."""
    pages = {PAGES / f"{method.name}.md": page(method) for method in of_this_repository(METHODS)}
    return {**pages, PAGES / "README.md": index()}


def regenerate() -> None:
    """Write them."""
    write(expected(), [PAGES])


if __name__ == "__main__":
    regenerate()
