"""`run` behind its signature."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...formats.errors import ApportionError, PartialError, UsageError
from ...formats.recipes import load_recipe, with_settings
from ..core.options import typed_values
from .columns import check_columns
from .journal import Journal
from .lock import only_run
from .logging import Say, logged
from .plan import Planned, plan_of
from .retention import Keep, Retention
from .targets import JOURNAL, LOCK
from .trackers import TrackerName


@dataclass(frozen=True)
class Ran:
    """What `run` did, or with --dry-run would do: steps in all, run, skipped; the last step's result. quiet: trainings, of
    this run and those before it, that found nothing to learn and left the policy as it was."""

    recipe: str
    folder: str
    steps: int
    ran: int
    skipped: int
    seconds: float
    lines: Sequence[str] = ()
    result: Any = None
    partly: Sequence[str] = ()
    quiet: int = 0

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
            quiet = f"{self.quiet} trainings found nothing to learn, " if self.quiet else ""
            print(
                f"{self.recipe}: {self.ran} steps run, {self.skipped} up to date, {quiet}{self.seconds:.0f} s, "
                f"in {self.folder}",
                file=sys.stderr,
            )


def run_recipe(
    name: str, settings: Mapping[str, Any], folder: Path | None, *, dry_run: bool, shell: bool, keep: Keep = "all",
    log: TrackerName | None = None, redact: bool = False,
) -> Ran:  # fmt: skip
    """See `run`. The plan is checked as a whole before the first step starts."""
    if redact and log is None:
        raise UsageError("--redact leaves texts out of what --log sends; give --log, too")
    recipe = load_recipe(name)
    variables = with_settings(recipe, settings)
    folder = folder or Path("runs") / recipe.name
    plan = plan_of(recipe, variables, folder, settings)
    check_columns(plan)
    if shell:
        return Ran(recipe.name, str(folder), len(plan), 0, 0, 0.0, [step.shell() for step in plan])
    if dry_run:
        shown = [step.shell() for step in plan]
        retention = _retention(recipe.name, plan, Journal(folder), keep)
        words = ["to run    " if number in retention.to_run else "up to date" for number in range(len(plan))]
        lines = [f"{word}  {line}" for word, line in zip(words, shown, strict=True)]
        return Ran(recipe.name, str(folder), len(plan), 0, len(plan) - len(retention.to_run), 0.0, lines)
    _check_free(plan, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ApportionError(f"{folder}: cannot be made ({error.strerror}); choose another --dir") from error
    with only_run(folder), logged(log, recipe.name, folder, variables, redact=redact) as say:
        return _run_plan(recipe.name, plan, folder, keep, say)


def _check_free(plan: Sequence[Planned], folder: Path) -> None:
    """UsageError for an output that exists and that no run made: in a folder where none ran yet, or outside of it."""
    is_new = not any((folder / name).exists() for name in (JOURNAL, LOCK))
    home, journal = Path(os.path.realpath(folder)), Journal(folder, tell=False)
    for step in plan:
        for out in step.outputs.values():
            is_own = not is_new and home in Path(os.path.realpath(out)).parents
            if os.path.exists(out) and not is_own and not journal.has_written(out):
                raise UsageError(
                    f"{step.where}: {out}: exists already, and no run made it; move it away, or choose another --dir"
                )


def _retention(name: str, plan: Sequence[Planned], journal: Journal, keep: Keep) -> Retention:
    """What is to run and what of it stays; says what disk it needs."""
    retention = Retention(plan, journal, keep)
    if (disk := retention.disk(journal.folder)) is not None:
        print(f"{name}: {disk}", file=sys.stderr)
    return retention


def _run_plan(name: str, plan: Sequence[Planned], folder: Path, keep: Keep, say: Say) -> Ran:
    journal = Journal(folder)
    retention = _retention(name, plan, journal, keep)
    started, ran, quiet, result = time.monotonic(), 0, 0, None
    partly: list[str] = []
    if retention.again:
        print(f"{name}: {retention.again} deleted checkpoints are read again, and made anew", file=sys.stderr)
    for number, (key, step) in enumerate(zip(retention.keys, plan, strict=True)):
        last = number == len(plan) - 1
        if number not in retention.to_run and not (last and _reports(step)):
            quiet += journal.was_quiet(key)
            retention.prune(number)
            continue
        result = _call(step, f"[{number + 1}/{len(plan)}]")
        quiet += (nothing := bool(getattr(result, "quiet", False)))
        journal.add(key, step, quiet=nothing)
        say(number + 1, step, result)
        retention.prune(number)
        ran += 1
        if (fault := getattr(result, "fault", lambda: None)()) is not None:
            partly.append(f"{step.where}: {fault}")
    seconds = time.monotonic() - started
    return Ran(name, str(folder), len(plan), ran, len(plan) - ran, seconds, (), result, partly, quiet)


def _reports(step: Planned) -> bool:
    """The last step of a recipe often only prints what was found: cheap, and wanted again."""
    return step.command.repeats


def _call(step: Planned, label: str) -> Any:
    options = step.command.options()
    types = {key: (option.hint, option.default) for key, option in options.items()}
    values = typed_values(
        types, {key: value for key, value in step.options.items() if value is not None}, step.command.name
    )
    if "force" in options:
        values["force"] = True
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
