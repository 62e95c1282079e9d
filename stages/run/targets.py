"""Where the outputs of a run go: into its folder, each under a name of its own."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...formats.errors import UsageError
from ..core.options import texts_in

JOURNAL, LOCK, VARIABLES = "journal.jsonl", "run.lock", "variables.json"
RESERVED = (JOURNAL, LOCK, VARIABLES)  # names in a run's folder that no step writes to


class Targets:
    """The outputs of a plan, as they are placed one after the other."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._home = os.path.realpath(folder)
        self._taken: set[str] = set()
        self._holding: set[str] = set()  # folders with one of them somewhere inside

    def place(self, named: str, written: Any, given: Mapping[str, Any]) -> str:
        """The path of a step's output.

        Args:
            named: its name in the recipe, resolved.
            written: the same, as it stands in the recipe.
            given: the variables that the user set; where the name is made of one that is a path, it may lie there.

        UsageError for a place that is not the step's own; the message goes on from the name.
        """
        if "\0" in named:
            raise UsageError("has a null character in it, which no name has")
        target = self.folder / os.path.expanduser(named)
        place = os.path.realpath(target)
        above = _folders_above(place)
        if self._home in above:
            if os.path.relpath(place, self._home).split(os.sep)[0].casefold() in RESERVED:
                raise UsageError(f"is a name of the run's own ({', '.join(RESERVED)}); choose another one")
        elif not any(root in (place, *above) for root in self._roots(written, given)):
            raise UsageError("is outside of the run's folder")
        if place in self._taken:
            raise UsageError("is written twice; put the loop's variable into its name")
        if place in self._holding or not self._taken.isdisjoint(above):
            raise UsageError("lies in another step's output, or holds it; choose another name")
        self._taken.add(place)
        self._holding.update(above)
        return str(target)

    def name(self, out: str) -> str:
        """How later steps of the recipe name an output."""
        path = Path(out)
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else out

    def _roots(self, written: Any, given: Mapping[str, Any]) -> Iterator[str]:
        """The places that the user named in variables which the output's name is made of."""
        for name, value in given.items():
            if re.search(rf"\$\{{[^}}]*\b{re.escape(name)}\b", str(written)):
                yield from (
                    os.path.realpath(self.folder / os.path.expanduser(text)) for text in texts_in(value) if "/" in text
                )


def _folders_above(place: str) -> list[str]:
    """Those that an absolute path lies in, the innermost first."""
    above: list[str] = []
    while place != (place := os.path.dirname(place)):
        above.append(place)
    return above
