"""The work of `sample`: open what is named, continue from what was kept, sample, and write."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from ... import __version__
from ...formats.errors import UsageError
from ...formats.parquet import STREAM, RolloutFile, check_output, partial_name, write_rollouts
from ...formats.provenance import Provenance, Record, digest_of_file
from ...formats.rollouts import Rollouts
from ..core.driver import Written
from ..core.options import as_json, plain_value
from ..core.plugins import plugin_digests
from ..core.results import check_each
from ..core.seeds import derived_seed
from ..models import open_engine
from ..models.engine import Engine, Sampling
from ..models.policy import ModelSource
from ..score.reward_functions import RewardFunction
from ..tasks import Problem, Task, open_task
from ..tasks.drawing import check_references, draw_problems
from ..tasks.played import is_played
from ._failures import Failures
from ._resume import Stopping, open_begun
from ._source import groups_of, open_source, problems_of
from .kind import STRATEGIES, SamplingContext, Strategy, check_turns, named_files


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of `sample`: its options except those on output, under the names that the history uses.

    usual_prompts: how many problems to take where prompts is None. verified_by: who is to verify the rollouts, besides the
    strategy; every problem then needs a reference answer.
    """

    model: str
    task: str
    prompts: int | None
    usual_prompts: int = 64
    n: int
    seed: int
    round: int = 0
    split: str
    strategy: str = "independent"
    settings: Mapping[str, Any] | None = None
    rollouts: Path | None = None
    task_settings: Mapping[str, Any] | None
    verifier: str | None = None
    sampling: Sampling
    purpose: str
    engine: str
    engine_settings: Mapping[str, Any] | None = None
    device: str
    dtype: str
    verified_by: str = ""

    def write(self, out: Path, *, resume: bool = False, force: bool = False) -> Written:
        """See `sample`. Raises UsageError, DataError, ApportionError (all failed, or the engine is lost) and Stopped."""
        if out != STREAM:
            check_output(out, force=force)
        elif resume:
            raise UsageError("--resume continues a file; name it with -o")
        chosen = STRATEGIES[self.strategy]
        options = STRATEGIES.settle(chosen.name, self.settings)
        source = open_source(self.rollouts, chosen)
        task, problems = self._problems(source)
        check_turns(chosen, task)
        if self.verifier is not None:
            self._check_verifier(self.verifier, task)
        elif who := self.verified_by or (f"strategy {chosen.name}" if chosen.verifies else ""):
            check_references(task, problems, who)
        elif is_played(task):
            check_references(task, problems, f"task {task.spec}")
        weights = ModelSource(self.model, self.device, self.dtype)
        engine = self._open_engine(weights) if chosen.engine else None
        policy = weights.identity if engine is None else engine.identity
        parameters = self._parameters(options, source, task, problems, engine)
        record = Record(
            stage="sample",
            version=__version__,
            parameters=parameters,
            inputs={"policy": policy, **plugin_digests("sample", parameters)}
            | ({"rollouts": source.digest()} if source is not None else {})
            | {name: digest_of_file(path) for name, path in named_files(options)},
        )
        kept = open_begun(out, record, resume=resume, force=force) if out != STREAM else None
        done = 0 if kept is None else groups_of(kept if source is None else source, kept)
        if kept is not None and engine is not None and not engine.row_seeds:
            print(
                f"engine {engine.name!r} takes no seed per row: the rest differs from that of an uninterrupted run",
                file=sys.stderr,
            )
        tally = {} if kept is None else _tally_of(kept)
        context = SamplingContext(
            strategy=chosen.name, task=task, problems=problems[done:], tokenizer=weights.tokenizer, source=weights,
            opened=engine, sampling=self.sampling, n=self.n, seed=self.seed, round=self.round, purpose=self.purpose,
            policy=policy, verifier=self.verifier, rollouts=source, finished=problems[:done], kept=kept,
            failures=Failures() if kept is None else Failures.of(kept, source), tally=tally,
        )  # fmt: skip
        provenance = _provenance(replace(record, counts=tally), source, engine)  # runs after all batches are written
        written = _write(context, chosen, options, provenance, out, force=force, resume=resume)
        remark = None if chosen.remark is None else chosen.remark(tally, **options)
        if remark is not None:
            print(f"{chosen.name}: {remark}", file=sys.stderr)
        return written

    def _problems(self, source: RolloutFile | None) -> tuple[Task, Sequence[Problem]]:
        """The problems of the file that is continued, or else the task's own."""
        if source is not None:
            return problems_of(source, self.task, self.task_settings)
        task = open_task(self.task, self.task_settings)
        seed = derived_seed("problems", self.seed, self.round)
        return task, draw_problems(task, self.split, self.prompts, seed, usual=self.usual_prompts)

    def _check_verifier(self, verifier: str, task: Task) -> None:
        """UsageError for a verifier that is no function of a file, or of another kind, and for a task that rewards itself."""
        RewardFunction.named(verifier).check_verifies()
        if is_played(task):
            raise UsageError(
                f"task {task.spec!r} gives rewards while it is played; leave --verifier out, and score afterwards"
            )

    def _open_engine(self, weights: ModelSource) -> Engine:
        seed = derived_seed("engine", self.seed, self.round) & 0x7FFFFFFF
        return open_engine(self.engine, weights, seed=seed, options=self.engine_settings)

    def _parameters(
        self, options: Mapping[str, Any], source: RolloutFile | None, task: Task, problems: Sequence[Problem],
        engine: Engine | None,
    ) -> dict[str, Any]:  # fmt: skip
        """What the history records of the run. A run with other parameters cannot continue it."""
        found: dict[str, Any] = {
            "model": self.model,
            "task": self.task,
            "prompts": len(problems),
            "n": self.n,
            "seed": self.seed,
            "round": self.round,
            "split": self.split,
            "strategy": self.strategy,
            "settings": as_json(options),
            "task_settings": dict(task.options),
            **({"verifier": self.verifier} if self.verifier is not None else {}),
            "engine": self.engine if engine is None else engine.name,
            "engine_settings": {name: plain_value(value) for name, value in (self.engine_settings or {}).items()},
            "max_tokens": self.sampling.max_tokens,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "top_k": self.sampling.top_k,
            "purpose": self.purpose,
            "device": self.device,
            "dtype": self.dtype,
        }
        if source is not None:
            found |= {"task": task.spec, "from": "rollouts"}
        return found


def _provenance(record: Record, source: RolloutFile | None, engine: Engine | None) -> Provenance:
    exact = engine is None or engine.tokens_exact
    if source is None:
        return Provenance(history=(record,), facts={"tokens_exact": exact})
    found = source.provenance.with_record(record)
    return found if exact else replace(found, facts=dict(found.facts) | {"tokens_exact": False})


def _forget_between(batches: Iterator[Rollouts], engine: Engine | None) -> Iterator[Rollouts]:
    """The batches; the engine starts each as if it were the first, so that a resumed run gives the same samples."""
    for batch in batches:
        if engine is not None:
            engine.forget()
        yield batch


def _tally_of(kept: RolloutFile) -> dict[str, int]:
    """What the strategy counted for the part that was kept."""
    counts = kept.provenance.history[-1].counts
    return {name: count for name, count in counts.items() if name not in ("rollouts", "groups", "tokens")}


def _write(
    context: SamplingContext, chosen: Strategy, options: Mapping[str, Any], provenance: Provenance, out: Path, *,
    force: bool, resume: bool,
) -> Written:  # fmt: skip
    """Write what was kept and the strategy's batches as a file; if stopped, as far as they came."""
    kept = () if context.kept is None else context.kept.batches()
    with Stopping() as stopping:
        given = check_each(
            chosen.function(context, **options), Rollouts, f"strategy {chosen.name}", "batches of Rollouts"
        )
        batches = _forget_between(given, context.opened)
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
