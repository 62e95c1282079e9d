"""Evaluate a policy: accuracy and pass@k with confidence intervals, learning curves, and what a refiner adds."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ...formats.errors import DataError, Stopped
from ..core.options import OUT, Chooses, Names, Output, check_numbers
from ..core.ranges import AtLeast, Between, Finite
from .gated import FailIf, gates_of

if TYPE_CHECKING:
    from ._refinement import Refinement
    from .curves import Curve
    from .report import Report


@check_numbers
def policy(
    *,
    model: Annotated[str, "builtin:tiny, a Hugging Face directory, or a Hub id."] = "builtin:tiny",
    task: Annotated[
        str,
        "A name from `apportion list tasks`, hf:DATASET, or a .jsonl/.json/.csv/.parquet/.txt file.",
        Chooses("tasks", "task_set"),
    ] = "arithmetic",
    prompts: Annotated[
        int | None, "Number of distinct problems; the default is 256, or all if a file has fewer.", AtLeast(1)
    ] = None,
    n: Annotated[int, "Rollouts per problem.", Names(("-n", "--n")), AtLeast(1)] = 4,
    k: Annotated[list[int] | None, "pass@k to report, 1 to n; repeatable; the default is 1 and n."] = None,
    seed: Annotated[int, "Seed for problems and samples."] = 0,
    split: Annotated[
        Literal["train", "test", "all"], "Split of the task; train and test never overlap, all is both."
    ] = "test",
    task_settings: Annotated[
        Mapping[str, Any] | None, "Option of the task, name=value; repeatable.", Names(("--task-set",))
    ] = None,
    verifier: Annotated[str | None, "Function of yours that verifies in place of the task: FILE.py:NAME."] = None,
    max_tokens: Annotated[int, "Token budget of a response.", AtLeast(1)] = 256,
    temperature: Annotated[float, "Sampling temperature; 0 is greedy.", Between(0, 1000)] = 1.0,
    top_p: Annotated[float, "Nucleus mass to keep; 1 keeps everything.", Between(0, 1)] = 1.0,
    threshold: Annotated[float, "A rollout counts as right if its reward is at least this.", Finite] = 1.0,
    at: Annotated[float, "Position on a learning curve's axis, e.g. rollouts trained on so far.", Finite] = 0.0,
    series: Annotated[str, "Name of the series on a learning curve."] = "",
    engine: Annotated[str, "Engine; see `apportion list engines`.", Chooses("engines", "engine_set")] = "auto",
    device: Annotated[str, "auto, cpu, cuda, cuda:1 …"] = "auto",
    dtype: Annotated[str, "auto (bfloat16 on CUDA, float32 on CPU), float32, bfloat16."] = "auto",
    keep: Annotated[Path | None, "Also write the evaluation's rollouts to this file.", Output()] = None,
    out: Annotated[Path | None, "Write the report to this JSON file.", OUT] = None,
    force: Annotated[bool, "Overwrite the output."] = False,
    fail_if: FailIf = None,
) -> "Report":
    """Evaluate a policy on held-out problems: pass@1 and pass@k with 95 % intervals over problems."""
    from dataclasses import replace
    from tempfile import TemporaryDirectory

    from ...formats.files import check_output
    from ...formats.parquet import RolloutFile
    from ..core.options import plain_value
    from ..models.engine import Sampling
    from ..sample.run import Run
    from ..score import score
    from ..score.reward_functions import RewardFunction
    from .report import report_figures, report_on

    gates = gates_of(fail_if)
    for gate in gates:
        gate.check(report_figures(_ks(k, n)))
    for target in (out, keep):
        if target is not None:
            check_output(target, force=force)
    if verifier is not None:
        RewardFunction.named(verifier).check_verifies()
    with TemporaryDirectory() as folder:
        raw, scored = Path(folder, "raw.parquet"), keep or Path(folder, "scored.parquet")
        try:
            Run(
                model=model, task=task, prompts=prompts, usual_prompts=256, n=n, seed=seed, split=split,
                task_settings=task_settings,
                sampling=Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p), purpose="eval",
                engine=engine, device=device, dtype=dtype, verified_by="" if verifier else "eval policy",
            ).write(raw)  # fmt: skip
        except Stopped as stopped:
            raise Stopped("stopped, nothing kept; a new evaluation starts over", stopped.exit_code) from stopped
        score(raw, scorer=verifier or "verify", out=scored, force=force)
        rollouts = RolloutFile(scored).read(
            ["group_id", "problem_id", "rollout_id", "reward", "flags", "policy", "token.id"]
        )
    about = {
        "model": model, "policy": rollouts.strings("policy")[0], "task": task, "task_settings": {name: plain_value(value) for name, value in (task_settings or {}).items()}, "split": split,
        **({"verifier": verifier} if verifier is not None else {}), "seed": seed, "n": n, "temperature": temperature, "top_p": top_p, "max_tokens": max_tokens,
    }  # fmt: skip
    report = report_on(rollouts, _ks(k, n), threshold, at=at, series=series, about=about)
    if out is not None:
        report.write(out, force=force)
        report = replace(report, out=str(out))
    return replace(report, gates=gates)


@check_numbers
def rollouts(
    rollouts: Annotated[Path, "Scored rollout file, or - for standard input."],
    *,
    k: Annotated[
        list[int] | None, "pass@k to report; repeatable; the default is 1 and the smallest group's size."
    ] = None,
    threshold: Annotated[float, "A rollout counts as right if its reward is at least this.", Finite] = 1.0,
    at: Annotated[float, "Position on a learning curve's axis.", Finite] = 0.0,
    series: Annotated[str, "Name of the series on a learning curve."] = "",
    out: Annotated[Path | None, "Write the report to this JSON file.", OUT] = None,
    force: Annotated[bool, "Overwrite the output."] = False,
    fail_if: FailIf = None,
) -> "Report":
    """Compute accuracy and pass@k of a scored rollout file, with 95 % intervals over its groups."""
    from dataclasses import replace

    from ...formats.files import check_output
    from ...formats.parquet import RolloutFile
    from ..core.driver import require
    from ..structure.episodes import join_parts
    from .report import report_figures, report_on

    gates = gates_of(fail_if)
    if out is not None:
        check_output(out, force=force)
    file = RolloutFile(rollouts)
    require(file, ("reward",), "eval rollouts")
    found = {field.name for field in file.schema}
    columns = [
        "group_id",
        "rollout_id",
        "reward",
        "token.id",
        *(c for c in ("flags", "problem_id", "episode_id", "part") if c in found),
    ]
    batch = file.read(columns)
    if (episodes := join_parts(batch)) is not None:  # the parts of an episode count as one rollout
        batch = episodes.rollouts
    ks = _ks(k, int(batch.groups.sizes.min()))
    for gate in gates:
        gate.check(report_figures(ks))
    report = report_on(batch, ks, threshold, at=at, series=series, about={"rollouts": str(rollouts)})
    if out is not None:
        report.write(out, force=force)
    return replace(report, gates=gates)


def curve(
    reports: Annotated[list[Path], "Reports written by `eval policy`, or the folder of a sweep."],
    *,
    axis: Annotated[str, "What the positions (--at) of the reports count."] = "rollouts",
    out: Annotated[Path | None, "Write the picture to this SVG file.", OUT] = None,
    force: Annotated[bool, "Overwrite the output."] = False,
    fail_if: FailIf = None,
) -> "Curve":
    """Draw learning curves from reports, and report how much each series gained.

    The folder of a sweep (`apportion run R --set lr=[1e-4,3e-4]`) gives a curve for each of its members; those that differ in
    the variable seed alone are runs of one curve.
    """
    from dataclasses import replace

    from ...formats.files import check_output
    from .curves import curve_of, write_svg
    from .members import labelled_reports

    gates = gates_of(fail_if)
    if out is not None:
        check_output(out, force=force)
    drawn = curve_of(labelled_reports(reports), axis)
    if out is not None:
        write_svg(drawn, out, force=force)
        drawn = replace(drawn, out=str(out))
    return replace(drawn, gates=gates)


@check_numbers
def refinement(
    rollouts: Annotated[Path, "Scored file of the strategy refine, or - for standard input."],
    *,
    threshold: Annotated[float, "A rollout counts as right if its reward is at least this.", Finite] = 1.0,
    out: Annotated[Path | None, "Write the report to this JSON file.", OUT] = None,
    force: Annotated[bool, "Overwrite the output."] = False,
    fail_if: FailIf = None,
) -> "Refinement":
    """Report what the refiner of `sample --strategy refine` changed, and how well it chose what to accept."""
    from dataclasses import replace

    from ...formats.files import check_output
    from ...formats.invariants import missing_paths
    from ...formats.parquet import RolloutFile
    from ..core.driver import require
    from ..core.remedies import missing_column
    from ._refinement import VERDICT, refinement_of

    gates = gates_of(fail_if)
    if out is not None:
        check_output(out, force=force)
    file = RolloutFile(rollouts)
    if missing_paths(file.schema, (VERDICT, "cut_step", "parent_id", "fork", "flags")):
        raise DataError(f"{file.path}: {missing_column(VERDICT, 'eval refinement')}, and score its output")
    require(file, ("reward",), "eval refinement")
    batch = file.read(["rollout_id", "group_id", "parent_id", "fork", "flags", "reward", VERDICT, "cut_step"])
    try:
        report = refinement_of(batch, threshold, {"rollouts": str(rollouts)})
    except DataError as error:
        raise DataError(f"{file.path}: {error}") from error
    if out is not None:
        report.write(out, force=force)
        report = replace(report, out=str(out))
    return replace(report, gates=gates)


def _ks(asked: list[int] | None, most: int) -> list[int]:
    return sorted(set(asked)) if asked else sorted({1, most})
