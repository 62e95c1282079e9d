"""The pages of docs/methods/ and README's table of methods, made from the registered methods' own docstrings.

python docs/regenerate.py
"""

import inspect
import re
from pathlib import Path

from apportion.stages.assign_credit._method import METHODS, Method
from apportion.stages.driver import PRODUCED_BY
from apportion.stages.registry import options_of

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "methods"
README = ROOT / "README.md"
BEGIN, END = "<!-- methods: python docs/regenerate.py -->", "<!-- end of methods -->"
EVIDENCE = {
    "code": "the authors' or a library's released code was read",
    "paper": "the paper's formulas were read; no code",
    "second-hand": "read in notes, threads or other people's code, not in the source itself",
    "guess": "parts of it are our own reading where the source is silent",
}
COST = {
    "group": "One pass over the file, whole groups at a time; memory for one row group.",
    "batch": "The file is read at once: its statistics are over all rollouts. Memory for the whole file.",
}
MADE_BY = {
    **PRODUCED_BY,
    "step.state": "run `apportion score IN --with states -o OUT` first, or an environment brings it",
    "step.start": "run `apportion score IN --with steps -o OUT` first",
    "purpose": "`apportion sample` with a strategy that probes; `apportion list strategies`",
}
_SECTION = re.compile(r"^(Args|Returns|Raises|Departures|Bias|Cost):[ ]*", re.MULTILINE)


def own_methods() -> list[Method]:
    """The methods of this repository, without those of installed plugins."""
    return [method for method in METHODS if method.function.__module__.startswith("apportion.stages.")]


def sections(method: Method) -> dict[str, str]:
    """The docstring in parts: "" is all before the first heading; Example is what follows `>>>`."""
    text = inspect.getdoc(method.function) or ""
    text, arrow, example = text.partition(">>> ")
    parts = _SECTION.split(text)
    found = {"": parts[0].strip(), **{name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}}
    return {**found, "Example": arrow + example.strip()} if example else found


def explained(method: Method) -> dict[str, str]:
    """What `Args:` says of each parameter, on one line each."""
    found: dict[str, str] = {}
    name = ""
    for line in sections(method).get("Args", "").splitlines():
        entry = re.match(r"^ {0,4}(\w+): (.*)", line)
        if entry:
            name = entry[1]
            found[name] = entry[2]
        elif name:
            found[name] += f" {line.strip()}"
    return found


def formula_and_prose(text: str) -> str:
    """Indented blocks as code blocks, the summary line left out."""
    blocks = re.split(r"\n\s*\n", text.partition("\n")[2].strip("\n"))
    out = []
    for block in blocks:
        if block.startswith("    "):
            out.append("```text\n" + inspect.cleandoc("\n" + block) + "\n```")
        elif block.strip():
            out.append(block.strip())
    return "\n\n".join(out)


def flat(text: str) -> str:
    return " ".join(text.split())


def sentence(text: str) -> str:
    """On one line, with a capital and a full stop."""
    text = flat(text)
    return f"{text[:1].upper()}{text[1:].removesuffix('.')}." if text else ""


def cell(text: str) -> str:
    return flat(text).replace("|", "\\|")


def numbered(text: str) -> str:
    """`1. … 2. …` as a list; anything else as a paragraph."""
    text = flat(text)
    parts = re.split(r"(?:^|(?<= ))\d+\. ", text)
    return sentence(text) if len(parts) == 1 else "\n".join(f"- {sentence(part)}" for part in parts if part.strip())


def title_of(method: Method) -> tuple[str, str]:
    """("GiGPO", what the module's first line says of it)."""
    line = (inspect.getmodule(method.function).__doc__ or "").strip().partition("\n")[0]  # type: ignore[union-attr]
    name, colon, rest = line.partition(": ")
    return (name, rest[:1].upper() + rest[1:]) if colon else (method.name, line)


def page(method: Method) -> str:
    """The whole page."""
    parts, says = sections(method), explained(method)
    title, gist = title_of(method)
    rows = []
    for name, parameter in options_of(method.function).items():
        kind = str(parameter.annotation)
        if kind.startswith("typing.Literal["):
            kind = " \\| ".join(f"`{value}`" for value in re.findall(r"'([^']*)'", kind))
        else:
            kind = getattr(parameter.annotation, "__name__", kind).replace("|", "\\|")
        rows.append(f"| `{name}` | {kind} | `{parameter.default}` | {cell(says.get(name, ''))} |")
    needs: dict[str, list[str]] = {}
    for path in method.needs:
        # The places of a ruler are made together: node.start with node.id, step.end with step.start.
        ruler = {"node.start": "node.id", "node.end": "node.id", "step.end": "step.start"}.get(path, path)
        needs.setdefault(MADE_BY.get(ruler, ""), []).append(f"`{path}`")
    lines = [
        f"# {title}",
        gist,
        f"`apportion assign-credit IN --method {method.name} -o OUT`",
        formula_and_prose(parts[""]),
        "## What it needs",
        "\n".join(f"- {', '.join(paths)}{': ' if note else ''}{note}" for note, paths in needs.items()),
        sentence(says.get("credit", "")),
        "## Options",
        "\n".join(["| `--set` | values | default | meaning |", "|---|---|---|---|", *rows]) if rows else "None.",
    ]
    if method.presets:
        presets = [
            f"- `--preset {name}`: {', '.join(f'`{key}={value}`' for key, value in options.items())}"
            for name, options in sorted(method.presets.items())
        ]
        lines += ["## Presets", "\n".join(presets)]
    lines += ["## What it gives", flat(parts.get("Returns", ""))]
    if "Raises" in parts:
        lines += [f"Refused: {flat(parts['Raises'])}"]
    if "Bias" in parts:
        lines += ["## Bias", sentence(parts["Bias"])]
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
                f"| source | {cell(method.source)} |",
                f"| evidence | {method.evidence}: {EVIDENCE[method.evidence]} |",
                f"| cost | {cell(parts.get('Cost', COST[method.scope]))} |",
                f"| code | [`stages/assign_credit/{method.name}.py`](../../stages/assign_credit/{method.name}.py) |",
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
        for path in method.needs
    ]
    return ", ".join(dict.fromkeys(short))


def table(link: str) -> str:
    """One row a method. `link`: where the pages lie, seen from the file the table is for."""
    rows = [
        f"| [`{method.name}`]({link}{method.name}.md) | {cell(title_of(method)[1]).removesuffix('.')} "
        f"| {method.granularity} | {cell(needed(method))} | {cell(method.source)} |"
        for method in own_methods()
    ]
    return "\n".join(["| name | what it does | granularity | needs | source |", "|---|---|---|---|---|", *rows])


def index() -> str:
    """docs/methods/README.md."""
    levels = "\n".join(f"- {name}: {meaning}" for name, meaning in EVIDENCE.items())
    return (
        "# Credit methods\n\nMade from the code by `python docs/regenerate.py`. `apportion list methods` says the same of what is\n"
        f"installed, plugins included.\n\n{table('')}\n\nHow well the source of a method is known:\n\n{levels}\n"
    )


def with_table(readme: str) -> str:
    """README.md with its table between the two comments made again."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"README.md: needed are the lines {BEGIN} and {END}")
    return f"{before}{begin}\n\n{table('docs/methods/')}\n\n{end}{after}"


def expected() -> dict[Path, str]:
    """Every page and its text."""
    pages = {PAGES / f"{method.name}.md": page(method) for method in own_methods()}
    return {**pages, PAGES / "README.md": index(), README: with_table(README.read_text(encoding="utf-8"))}


def regenerate() -> None:
    """Write them, and remove the pages of methods that are gone."""
    PAGES.mkdir(exist_ok=True)
    pages = expected()
    for path in PAGES.glob("*.md"):
        if path not in pages:
            path.unlink()
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    regenerate()
