"""`run` behind its signature."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...formats.errors import ApportionError, GateError, PartialError, UsageError
from ...formats.gates import Figures
from ...formats.recipes import Recipe, load_recipe, with_settings
from ..core.options import typed_values
from ..eval.gated import FAIL_IF, fault_of, gates_of
from .changes import changes_line, remember_variables
from .columns import check_columns
from .journal import Journal
from .lock import only_run
from .logging import Say, logged
from .members import Member, members_of
from .plan import Planned, plan_of
from .retention import Keep, Retention
from .steps import StepRan, step_figures, step_line
from .sweep import Sweep, run_sweep
from .targets import JOURNAL, LOCK
from .trackers import TrackerName


@dataclass(frozen=True)
class Ran:
    """What `run` did, or with --dry-run would do: steps in all, run, skipped; the last step's result. quiet: trainings, of
    this run and those before it, that found nothing to learn and left the policy as it was. error: of the step that failed, the last of by_step."""

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
    by_step: Sequence["StepRan"] = ()
    error: str | None = None

    def fault(self) -> PartialError | None:
        """What the command ends with, where steps finished with some rows failed."""
        return PartialError("; ".join(self.partly)) if self.partly and self.error is None else None

    def to_json(self) -> dict[str, Any]:
        held = {name: value for name, value in vars(self).items() if name not in ("lines", "result", "by_step")}
        result = self.result.to_json() if hasattr(self.result, "to_json") else None
        return {**held, "plan": list(self.lines), "by_step": [asdict(each) for each in self.by_step], "result": result}

    def render(self) -> None:
        for line in self.lines:
            print(line)
        if self.result is not None and hasattr(self.result, "render"):
            self.result.render()
        if self.error is None and (self.ran or (self.skipped and not self.lines)):
            quiet = f"{self.quiet} trainings found nothing to learn, " if self.quiet else ""
            print(
                f"{self.recipe}: {self.ran} steps run, {self.skipped} up to date, {quiet}{self.seconds:.0f} s, "
                f"in {self.folder}",
                file=sys.stderr,
            )


def run_recipe(
    name: str, settings: Mapping[str, Any], folder: Path | None, *, dry_run: bool, shell: bool, keep: Keep = "all",
    log: TrackerName | None = None, redact: bool = False,
) -> "Ran | Sweep":  # fmt: skip
    """See `run`. The plan is checked as a whole before the first step starts."""
    if redact and log is None:
        raise UsageError("--redact leaves texts out of what --log sends; give --log, too")
    recipe = load_recipe(name)
    folder = folder or Path("runs") / recipe.name
    members = members_of(recipe, settings)
    plans = [_checked_plan(recipe, member.settings, folder / member.name) for member in members]

    def run_one(member: Member, plan: Sequence[Planned]) -> Ran:
        variables = with_settings(recipe, member.settings)
        return _run_member(
            recipe.name,
            variables,
            plan,
            folder / member.name,
            dry_run=dry_run,
            shell=shell,
            keep=keep,
            log=log,
            redact=redact,
        )

    if len(members) == 1 and not members[0].values:
        return run_one(members[0], plans[0])
    return run_sweep(
        recipe.name, folder, members, [partial(run_one, *each) for each in zip(members, plans, strict=True)]
    )


def _checked_plan(recipe: Recipe, settings: Mapping[str, Any], folder: Path) -> list[Planned]:
    plan = plan_of(recipe, with_settings(recipe, settings), folder, settings)
    check_columns(plan)
    return plan


def _run_member(
    name: str, variables: Mapping[str, Any], plan: Sequence[Planned], folder: Path, *, dry_run: bool, shell: bool, keep: Keep,
    log: TrackerName | None, redact: bool,
) -> Ran:  # fmt: skip
    if shell:
        return Ran(name, str(folder), len(plan), 0, 0, 0.0, [step.shell() for step in plan])
    if dry_run:
        shown = [step.shell() for step in plan]
        journal = Journal(folder)
        retention = _retention(name, plan, journal, keep)
        _tell_changes(folder, variables, plan, retention)
        words = ["to run    " if number in retention.to_run else "up to date" for number in range(len(plan))]
        lines = [f"{word}  {line}" for word, line in zip(words, shown, strict=True)]
        by_step = [
            StepRan.of(step, "to run" if number in retention.to_run else "up to date", journal.figures(key) if number not in retention.to_run else {})
            for number, (key, step) in enumerate(zip(retention.keys, plan, strict=True))
        ]  # fmt: skip
        return Ran(name, str(folder), len(plan), 0, len(plan) - len(retention.to_run), 0.0, lines, by_step=by_step)
    _check_free(plan, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ApportionError(f"{folder}: cannot be made ({error.strerror}); choose another --dir") from error
    with only_run(folder), logged(log, name, folder, variables, redact=redact) as say:
        return _run_plan(name, variables, plan, folder, keep, say)


def _tell_changes(folder: Path, variables: Mapping[str, Any], plan: Sequence[Planned], retention: Retention) -> None:
    if (line := changes_line(folder, variables, plan, retention)) is not None:
        print(line, file=sys.stderr)


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


def _run_plan(
    name: str, variables: Mapping[str, Any], plan: Sequence[Planned], folder: Path, keep: Keep, say: Say
) -> Ran:
    journal = Journal(folder)
    retention = _retention(name, plan, journal, keep)
    _tell_changes(folder, variables, plan, retention)
    remember_variables(folder, variables)
    started, ran, quiet, result = time.monotonic(), 0, 0, None
    partly: list[str] = []
    by_step: list[StepRan] = []

    def so_far(error: str | None = None) -> Ran:
        skipped = sum(each.status == "up to date" for each in by_step)
        return Ran(
            name,
            str(folder),
            len(plan),
            ran,
            skipped,
            time.monotonic() - started,
            (),
            result,
            partly,
            quiet,
            by_step,
            error,
        )

    def failed(step: Planned, error: ApportionError, figures: Figures) -> ApportionError:
        by_step.append(StepRan.of(step, "failed", figures))
        error.result = so_far(str(error))
        return error

    if retention.again:
        print(f"{name}: {retention.again} deleted checkpoints are read again, and made anew", file=sys.stderr)
    for number, (key, step) in enumerate(zip(retention.keys, plan, strict=True)):
        last = number == len(plan) - 1
        if number not in retention.to_run and not (last and _reports(step)):
            quiet += journal.was_quiet(key)
            retention.prune(number)
            figures = journal.figures(key)
            try:
                _check_gates(step, figures)
            except ApportionError as error:
                result = None
                raise failed(step, error, figures)  # noqa: B904
            by_step.append(StepRan.of(step, "up to date", figures))
            continue
        begun = time.monotonic()
        try:
            result = _call(step)
        except ApportionError as error:
            result = None
            raise failed(step, error, {}) from error.__cause__
        figures = step_figures(result)
        fault = getattr(result, "fault", lambda: None)()
        quiet += (nothing := bool(getattr(result, "quiet", False)))
        is_gate = isinstance(fault, GateError) and bool(
            step.options.get(FAIL_IF)
        )  # its own; looked at again from its figures
        if fault is None or isinstance(fault, PartialError) or is_gate:
            journal.add(key, step, quiet=nothing, figures=figures)
        seconds = time.monotonic() - begun
        print(step_line(f"[{number + 1}/{len(plan)}]", step, figures, seconds), file=sys.stderr, flush=True)
        if fault is not None and not isinstance(fault, PartialError):
            fault.args = (f"{step.where}: {fault}",)
            raise failed(step, fault, figures)
        by_step.append(StepRan.of(step, "ran", figures, seconds))
        say(number + 1, step, result)
        retention.prune(number)
        ran += 1
        if fault is not None:
            partly.append(f"{step.where}: {fault}")
    return so_far()


def _check_gates(step: Planned, figures: Figures) -> None:
    """GateError where one does not hold of a step that is up to date."""
    try:
        fault = fault_of(gates_of(step.options.get(FAIL_IF)), lambda: figures)
    except ApportionError as error:
        error.args = (f"{step.where}: {error}",)
        raise
    if fault is not None:
        fault.args = (f"{step.where}: {fault}",)
        raise fault


def _reports(step: Planned) -> bool:
    """The last step of a recipe often only prints what was found: cheap, and wanted again."""
    return step.command.repeats


def _call(step: Planned) -> Any:
    options = step.command.options()
    types = {key: (option.hint, option.default) for key, option in options.items()}
    values = typed_values(
        types, {key: value for key, value in step.options.items() if value is not None}, step.command.name
    )
    if "force" in options:
        values["force"] = True
    if "resume" in options:
        values["resume"] = True  # with force: only where the same command left something
    try:
        return step.command.function(
            *(values[key] for key, option in options.items() if option.positional),
            **{option.name: values[key] for key, option in options.items() if not option.positional},
        )
    except ApportionError as error:
        # `run` has no --resume, and needs none.
        told = str(error).replace("--resume goes on", "the same run goes on")
        error.args = (f"{step.where}: {told}",)
        raise
