"""What a run in a folder changes of what is there: the variables of the last run in it, and those of this one."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...formats.files import whole_file
from ..core.harmless import on_one_line
from .plan import Planned
from .retention import Retention
from .targets import VARIABLES

MOST = 5  # that are named


def remember_variables(folder: Path, variables: Mapping[str, Any]) -> None:
    """Write down what the folder's outputs are going to be made with."""
    with whole_file(folder / VARIABLES, force=True) as temporary:
        temporary.write_text(json.dumps(dict(_flat(variables)), indent=1, default=str) + "\n")


def changes_line(
    folder: Path, variables: Mapping[str, Any], plan: Sequence[Planned], retention: Retention
) -> str | None:
    """Which variables differ from the last run's here, and which of its outputs are replaced; None where none
    differ or no step runs."""
    try:
        before = json.loads((folder / VARIABLES).read_text())
        now = json.loads(json.dumps(dict(_flat(variables)), default=str))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(before, dict):
        return None
    nothing = object()
    names = [name for name in {**before, **now} if before.get(name, nothing) != now.get(name, nothing)]
    if not names:
        return None
    changed = [f"{name} {_shown(before, name)} -> {_shown(now, name)}" for name in names[:MOST]]
    if len(names) > MOST:
        changed.append(f"{len(names) - MOST} more")
    again = [step for number, step in enumerate(plan) if number in retention.to_run]
    if not again:
        return None
    replaced = sum(any(Path(out).exists() for out in step.outputs.values()) for step in again)
    commands = ", ".join(dict.fromkeys(step.command.name for step in again))
    what = f"{len(again)} of {len(plan)} steps run ({commands}), {replaced} replace what is there"
    return on_one_line(f"{folder}: other variables than last time ({', '.join(changed)}): {what}")


def _shown(variables: Mapping[str, Any], name: str) -> str:
    return f"{variables[name]!s:.60}" if name in variables else "(none)"


def _flat(variables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in variables.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
