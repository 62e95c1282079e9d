"""`sample` behind its signature: open what is named, go on from what was kept, sample, write."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from ... import __version__
from ...formats.errors import UsageError
from ...formats.parquet import STREAM, RolloutFile, check_output, partial_name, write_rollouts
from ...formats.provenance import Provenance, Record, digest_of_file
from ...formats.rollouts import Rollouts
from ..core.driver import Written
from ..core.options import as_json
from ..core.plugins import plugin_digests
from ..models import open_engine
from ..models.engine import Engine, Sampling
from ..models.policy import ModelSource
from ..tasks import Problem, Task, open_task
from ._failures import Failures
from ._resume import Stopping, begun
from ._rows import derived_seed
from ._source import groups_of, problems_of
from ._source import opened as opened_rollouts
from .kind import STRATEGIES, SamplingContext, Strategy, check_turns, files_in

SAMPLING = ("max_tokens", "temperature", "top_p", "top_k")


def run(*, out: Path, resume: bool, force: bool, **given: Any) -> Written:
    """See `sample`. Raises UsageError, DataError, ApportionError (all failed, or the engine is lost) and Stopped."""
    _check(out, resume=resume, force=force)
    chosen = STRATEGIES[given["strategy"]]
    options = STRATEGIES.settle(chosen.name, given["settings"])
    source = opened_rollouts(given["rollouts"], chosen)
    task, problems = _problems(given, source)
    check_turns(chosen, task)
    weights = ModelSource(given["model"], given["device"], given["dtype"])
    engine = _engine(given, chosen, weights)
    policy = weights.identity if engine is None else engine.identity
    parameters = _parameters(given, options, source, task, problems, engine)
    record = Record(
        stage="sample",
        version=__version__,
        parameters=parameters,
        inputs={"policy": policy, **plugin_digests("sample", parameters)}
        | ({"rollouts": source.digest()} if source is not None else {})
        | {name: digest_of_file(path) for name, path in files_in(options)},
    )
    kept = begun(out, record, resume=resume, force=force) if out != STREAM else None
    done = 0 if kept is None else _groups_done(kept, source)
    if kept is not None and engine is not None and not engine.row_seeds:
        print(
            f"engine {engine.name!r} has no seeds of rows: what is sampled now is not what would have been",
            file=sys.stderr,
        )
    tally = {} if kept is None else _tally_of(kept)
    context = SamplingContext(
        task=task, problems=problems[done:], tokenizer=weights.tokenizer, source=weights, opened=engine,
        sampling=Sampling(**{name: given[name] for name in SAMPLING}), n=given["n"], seed=given["seed"],
        round=given["round"], purpose=given["purpose"], policy=policy, rollouts=source, finished=problems[:done],
        kept=kept, failures=Failures() if kept is None else Failures.of(kept, source), tally=tally,
    )  # fmt: skip
    provenance = _provenance(replace(record, counts=tally), source, engine)  # read when all batches are written
    return _written(context, chosen, options, provenance, out, force=force, resume=resume)


def _check(out: Path, *, resume: bool, force: bool) -> None:
    if out != STREAM:
        check_output(out, force=force)
    elif resume:
        raise UsageError("--resume goes on with a file; name one with -o")


def _problems(given: Mapping[str, Any], source: RolloutFile | None) -> tuple[Task, Sequence[Problem]]:
    """Those of the file that is continued, or else the task's own."""
    if source is not None:
        return problems_of(source, given["task"], given["task_settings"])
    task = open_task(given["task"], given["task_settings"])
    seed = derived_seed("problems", given["seed"], given["round"])
    return task, list(task.problems(given["split"], given["prompts"], seed))


def _engine(given: Mapping[str, Any], chosen: Strategy, weights: ModelSource) -> Engine | None:
    """None for a strategy that generates nothing."""
    if not chosen.engine:
        return None
    seed = derived_seed("engine", given["seed"], given["round"]) & 0x7FFFFFFF
    return open_engine(given["engine"], weights, seed=seed, options=given["engine_settings"])


def _parameters(
    given: Mapping[str, Any], options: Mapping[str, Any], source: RolloutFile | None, task: Task,
    problems: Sequence[Problem], engine: Engine | None,
) -> dict[str, Any]:  # fmt: skip
    """What the history says of the run. A run with other parameters does not go on with it."""
    names = ("model", "task", "prompts", "n", "seed", "round", "split", "strategy", "settings", "task_settings",
             "engine", "engine_settings", *SAMPLING, "purpose", "device", "dtype")  # fmt: skip
    resolved: dict[str, Any] = {
        "settings": as_json(options),
        "task_settings": dict(task.options),
        "engine": given["engine"] if engine is None else engine.name,
        "engine_settings": dict(given["engine_settings"] or {}),
    }
    if source is not None:
        resolved |= {"task": task.spec, "prompts": len(problems), "from": "rollouts"}
    return {name: given[name] for name in names} | resolved


def _provenance(record: Record, source: RolloutFile | None, engine: Engine | None) -> Provenance:
    exact = engine is None or engine.tokens_exact
    if source is None:
        return Provenance(history=(record,), facts={"tokens_exact": exact})
    found = source.provenance.with_record(record)
    return found if exact else replace(found, facts=dict(found.facts) | {"tokens_exact": False})


def _groups_done(kept: RolloutFile, source: RolloutFile | None) -> int:
    """How many problems the kept part has the groups of."""
    return groups_of(kept if source is None else source, kept)


def _apart(batches: Iterator[Rollouts], engine: Engine | None) -> Iterator[Rollouts]:
    """The batches; to each the engine comes as to the first one, so that a run that goes on with one is no other."""
    for batch in batches:
        if engine is not None:
            engine.forget()
        yield batch


def _tally_of(kept: RolloutFile) -> dict[str, int]:
    """What the strategy counted of the kept part."""
    counts = kept.provenance.history[-1].counts
    return {name: count for name, count in counts.items() if name not in ("rollouts", "groups", "tokens")}


def _written(
    context: SamplingContext, chosen: Strategy, options: Mapping[str, Any], provenance: Provenance, out: Path, *,
    force: bool, resume: bool,
) -> Written:  # fmt: skip
    """What was kept, and the batches that the strategy makes, as a file; as far as it comes, where it is stopped."""
    kept = () if context.kept is None else context.kept.batches()
    with Stopping() as stopping:
        batches = _apart(chosen.function(context, **options), context.opened)
        made = context.failures.checked(stopping.until(batches, out, kept=context.kept is not None))
        counts = write_rollouts(
            out, chain(kept, made), provenance, force=force, is_partial=lambda: stopping.early, replace_partial=resume
        )
    if stopping.early:
        raise stopping.stopped(out, counts["groups"])
    if out != STREAM:
        partial_name(out).unlink(missing_ok=True)
    usage = None if context.opened is None else context.opened.usage
    return context.failures.written(str(out), counts, usage)
