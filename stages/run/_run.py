"""`run` behind its signature."""

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from ...formats.errors import ApportionError, PartialError
from ...formats.recipes import load_recipe, with_settings
from ..options import typed_values
from .journal import Journal
from .plan import Planned, plan_of
from .retention import Keep, Retention


@dataclass(frozen=True)
class Ran:
    """What `run` did, or with --dry-run would do: steps in all, run, skipped; the last step's result."""

    recipe: str
    folder: str
    steps: int
    ran: int
    skipped: int
    seconds: float
    lines: Sequence[str] = ()
    result: Any = None
    partly: Sequence[str] = ()

    def fault(self) -> PartialError | None:
        """What the command ends with, where steps finished with some rows failed."""
        return PartialError("; ".join(self.partly)) if self.partly else None

    def to_json(self) -> dict[str, Any]:
        held = {name: value for name, value in vars(self).items() if name not in ("lines", "result")}
        result = self.result.to_json() if hasattr(self.result, "to_json") else None
        return {**held, "plan": list(self.lines), "result": result}

    def render(self) -> None:
        for line in self.lines:
            print(line)
        if self.result is not None and hasattr(self.result, "render"):
            self.result.render()
        if self.ran or (self.skipped and not self.lines):
            print(
                f"{self.recipe}: {self.ran} steps run, {self.skipped} up to date, {self.seconds:.0f} s, in {self.folder}",
                file=sys.stderr,
            )


def run_recipe(
    name: str, settings: Mapping[str, Any], folder: Path | None, *, dry_run: bool, shell: bool, keep: Keep = "all"
) -> Ran:
    """See `run`. The plan is checked as a whole before the first step starts."""
    recipe = load_recipe(name)
    variables = with_settings(recipe, settings)
    folder = folder or Path("runs") / recipe.name
    plan = plan_of(recipe, variables, folder)
    if shell:
        return Ran(recipe.name, str(folder), len(plan), 0, 0, 0.0, [step.shell() for step in plan])
    journal = Journal(folder)
    retention = Retention(plan, journal, keep)
    if (disk := retention.disk(folder)) is not None:
        print(f"{recipe.name}: {disk}", file=sys.stderr)
    if dry_run:
        words = ["to run    " if number in retention.to_run else "up to date" for number in range(len(plan))]
        lines = [f"{word}  {step.shell()}" for word, step in zip(words, plan, strict=True)]
        return Ran(recipe.name, str(folder), len(plan), 0, len(plan) - len(retention.to_run), 0.0, lines)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ApportionError(f"{folder}: cannot be made ({error.strerror}); choose another --dir") from error
    started, ran, result = time.monotonic(), 0, None
    partly: list[str] = []
    if retention.again:
        print(f"{recipe.name}: {retention.again} deleted checkpoints are read again, and made anew", file=sys.stderr)
    for number, (key, step) in enumerate(zip(retention.keys, plan, strict=True), 1):
        last = number == len(plan)
        if number - 1 not in retention.to_run and not (last and _reports(step)):
            retention.prune(number - 1)
            continue
        _remove_leftovers(step)
        result = _call(step, f"[{number}/{len(plan)}]", overwrite=True)
        journal.add(key, step)
        retention.prune(number - 1)
        ran += 1
        if (fault := getattr(result, "fault", lambda: None)()) is not None:
            partly.append(f"{step.where}: {fault}")
    return Ran(
        recipe.name, str(folder), len(plan), ran, len(plan) - ran, time.monotonic() - started, (), result, partly
    )


def _reports(step: Planned) -> bool:
    """The last step of a recipe often only prints what was found: cheap, and wanted again."""
    return step.command.name == "eval curve"


def _remove_leftovers(step: Planned) -> None:
    """What a run that was killed in this step left beside its outputs: see `formats.files` for the names."""
    for target in (Path(str(step.options[name])) for name in ("out", "keep") if step.options.get(name) is not None):
        for ending in ("tmp", "old", "probe"):
            for left in target.parent.glob(f".{escape(target.name)}.[0-9]*.{ending}"):
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink(missing_ok=True)


def _call(step: Planned, label: str, *, overwrite: bool) -> Any:
    options = step.command.options()
    types = {key: (option.type, option.default) for key, option in options.items()}
    values = typed_values(
        types, {key: value for key, value in step.options.items() if value is not None}, step.command.name
    )
    if "force" in options:
        values["force"] = overwrite
    if "resume" in options:
        values["resume"] = True  # with force: only where the same command left something
    started = time.monotonic()
    try:
        result = step.command.function(
            *(values[key] for key, option in options.items() if option.positional),
            **{option.name: values[key] for key, option in options.items() if not option.positional},
        )
    except ApportionError as error:
        # `run` has no --resume, and needs none.
        told = str(error).replace("--resume goes on", "the same run goes on")
        error.args = (f"{step.where}: {told}",)
        raise
    if sys.stderr.isatty() or step.command.name.startswith("eval policy"):
        shown = getattr(result, "pass_at", None)
        note = f"  pass@1 {shown[1].value:.3f}" if shown and 1 in shown else ""
        print(f"{label} {step.command.name} -> {step.out}{note}  {time.monotonic() - started:.1f} s", file=sys.stderr)
    return result
