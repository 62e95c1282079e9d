"""A first file of a new entry: a method, scorer, strategy, objective or task of one's own, and a test of it."""

import keyword
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from ...formats.errors import UsageError
from ..core.kinds import kinds
from ..core.options import Output

What = Literal["method", "scorer", "strategy", "objective", "task"]
PLURALS = {
    "method": "methods", "scorer": "scorers", "strategy": "strategies", "objective": "objectives", "task": "tasks",
}  # fmt: skip


@dataclass(frozen=True)
class Started:
    """The two files, and the command that uses the entry."""

    plugin: str
    test: str
    usage: str

    def render(self) -> None:
        """What to do with them."""
        print(f"{self.plugin}, {self.test}: they run as they are; change them", file=sys.stderr)
        print(f"pytest {self.test}")
        print(self.usage)


def new(
    what: Annotated[What, "method, scorer, strategy, objective or task."],
    name: Annotated[str, "Its name: a word in Python's syntax, such as my_method."],
    *,
    directory: Annotated[Path, "Folder to write to.", Output(("--dir",), is_filled=True)] = Path("."),
    force: Annotated[bool, "Overwrite files of these names."] = False,
) -> Started:
    """Write a plugin to start from: NAME.py, which works as it is, and test_NAME.py, which passes.

    Both use `apportion.plugin` alone. `apportion --plugin NAME.py …` loads the file before any command; an entry point of
    a package does the same without the option.
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise UsageError(f"new {what}: the name must be a word in Python's syntax, such as my_{what}, got {name!r}")
    kind = kinds()[PLURALS[what]]
    if name in kind:
        raise UsageError(f"new {what}: {name!r} is there already (`apportion list {name}`); choose another name")
    paths = directory / f"{name}.py", directory / f"test_{name}.py"
    for path in paths:
        if path.exists() and not force:
            raise UsageError(f"{path}: exists; --force overwrites it")
    directory.mkdir(parents=True, exist_ok=True)
    for path, template in zip(paths, (what, f"test_{what}"), strict=True):
        text = files(__package__ or "").joinpath("templates", f"{template}.py.txt").read_text(encoding="utf-8")
        path.write_text(text.replace("NAME", name), encoding="utf-8")
    usage = kind.usage.format(name=name).replace("apportion ", f"apportion --plugin {paths[0]} ", 1)
    return Started(str(paths[0]), str(paths[1]), usage)
