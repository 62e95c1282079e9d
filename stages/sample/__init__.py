"""Tasks → rollouts."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ..options import OUT, Flag

if TYPE_CHECKING:
    from ..driver import Written


def sample(
    *,
    model: Annotated[str, "builtin:tiny, a Hugging Face directory, or a Hub id."] = "builtin:tiny",
    task: Annotated[str, "A name of `apportion list tasks`, hf:DATASET, or a .jsonl/.parquet file."] = "arithmetic",
    prompts: Annotated[int, "Distinct problems."] = 64,
    n: Annotated[int, "Rollouts per problem.", Flag(("-n", "--n"))] = 8,
    seed: Annotated[int, "Seed of problems and samples."] = 0,
    round: Annotated[int, "Iteration of a loop: other problems and samples under the same seed."] = 0,
    split: Annotated[Literal["train", "test"], "Split of the task; the two never overlap."] = "train",
    strategy: Annotated[str, "Sampling strategy; see `apportion list strategies`."] = "independent",
    settings: Annotated[
        Mapping[str, Any] | None, "Option of the strategy, name=value; repeatable.", Flag(("--set",))
    ] = None,
    rollouts: Annotated[
        Path | None, "Rollouts to continue from, for strategies that continue.", Flag(("--from",))
    ] = None,
    task_settings: Annotated[
        Mapping[str, Any] | None, "Option of the task, name=value; repeatable.", Flag(("--task-set",))
    ] = None,
    max_tokens: Annotated[int, "Response budget, tokens."] = 256,
    temperature: Annotated[float, "Sampling temperature; 0 is greedy."] = 1.0,
    top_p: Annotated[float, "Nucleus mass kept; 1 keeps all."] = 1.0,
    top_k: Annotated[int, "Most likely tokens kept; 0 keeps all."] = 0,
    purpose: Annotated[Literal["train", "probe", "eval"], "What the rollouts are for."] = "train",
    engine: Annotated[str, "Engine; see `apportion list engines`. auto: vllm with a GPU, else transformers."] = "auto",
    engine_settings: Annotated[
        Mapping[str, Any] | None, "Option of the engine, name=value; repeatable.", Flag(("--engine-set",))
    ] = None,
    device: Annotated[str, "auto, cpu, cuda, cuda:1 …"] = "auto",
    dtype: Annotated[str, "auto (bfloat16 on CUDA, float32 on CPU), float32, bfloat16."] = "auto",
    out: Annotated[Path, "Rollout file to write, or - for standard output.", OUT],
    resume: Annotated[bool, "Go on with what a run of the same command kept when it was stopped."] = False,
    force: Annotated[bool, "Overwrite the output."] = False,
) -> "Written":
    """Sample rollouts of a policy on a task's problems.

    Records token ids, the exact log-probability of every sampled token under the sampling distribution, the policy's
    digest and every row's seed. With --from, task and problems are those of the file, whose rows are written again.
    Stopped by SIGTERM or Ctrl-C, it finishes the batch in work and keeps what is whole in OUT.partial for --resume.
    """
    from dataclasses import replace
    from itertools import chain

    from ... import __version__
    from ...formats.errors import UsageError
    from ...formats.parquet import STREAM, RolloutFile, check_output, partial_name, write_rollouts
    from ...formats.provenance import Provenance, Record
    from ..models import open_engine
    from ..models.engine import Sampling
    from ..models.policy import ModelSource
    from ..options import at_least, typed_options
    from ..tasks import open_task
    from ._resume import Stopping, begun
    from ._rows import derived_seed
    from ._source import groups_of, problems_of
    from ._source import opened as opened_rollouts
    from ._strategy import STRATEGIES, SamplingContext, as_json, check_turns, files_in

    at_least(1, prompts=prompts, n=n, max_tokens=max_tokens)
    at_least(0, temperature=temperature, top_p=top_p, top_k=top_k, round=round)
    if top_p > 1:
        raise UsageError(f"--top-p {top_p}: needed is 1 or less")
    if out != STREAM:
        check_output(out, force=force)
    chosen = STRATEGIES[strategy]
    options = typed_options(chosen.function, settings or {}, f"strategy {strategy!r}")
    source = opened_rollouts(rollouts, chosen)
    if source is not None:
        opened, problems = problems_of(source, task, task_settings)
        task, prompts = opened.spec, len(problems)
    else:
        opened = open_task(task, task_settings)
        problems = list(opened.problems(split, prompts, derived_seed("problems", seed, round)))
    check_turns(chosen, opened)
    weights = ModelSource(model, device, dtype)
    made_by = None
    if chosen.engine:
        made_by = open_engine(
            engine, weights, seed=derived_seed("engine", seed, round) & 0x7FFFFFFF, options=engine_settings
        )
    policy = weights.identity if made_by is None else made_by.identity
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k)
    record = Record(
        stage="sample",
        version=__version__,
        parameters={
            "model": model, "task": task, "prompts": prompts, "n": n, "seed": seed, "round": round, "split": split,
            "strategy": strategy, "settings": as_json(options), "task_settings": dict(opened.options),
            "engine": made_by.name if made_by else engine, "engine_settings": dict(engine_settings or {}),
            "max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k, "purpose": purpose,
            "device": device, "dtype": dtype, **({"from": "rollouts"} if source is not None else {}),
        },
        inputs={"policy": policy}
        | ({"rollouts": source.digest()} if source is not None else {})
        | {name: RolloutFile(path).digest() for name, path in files_in(options)},
    )  # fmt: skip
    exact = made_by is None or made_by.tokens_exact
    if source is None:
        provenance = Provenance(history=(record,), facts={"tokens_exact": exact})
    else:
        provenance = source.provenance.with_record(record)
        if not exact:
            provenance = replace(provenance, facts=dict(provenance.facts) | {"tokens_exact": False})
    if resume and out == STREAM:
        raise UsageError("--resume goes on with a file; name one with -o")
    kept = begun(out, record, resume=resume, force=force) if out != STREAM else None
    done = 0
    if kept is not None:
        done = kept.provenance.history[-1].counts["groups"] if source is None else groups_of(source, kept)
    context = SamplingContext(
        task=opened, problems=problems[done:], tokenizer=weights.tokenizer, source=weights, opened=made_by,
        sampling=sampling, n=n, seed=seed, round=round, purpose=purpose, policy=policy, rollouts=source,
        finished=problems[:done], kept=kept,
    )  # fmt: skip
    with Stopping() as stopping:
        batches = stopping.until(chosen.function(context, **options), out)
        whole = chain(kept.batches(), batches) if kept is not None else context.failures.checked(batches)
        counts = write_rollouts(out, whole, provenance, force=force, is_partial=lambda: stopping.early)
    if stopping.early:
        raise stopping.stopped(out, counts["groups"])
    if out != STREAM:
        partial_name(out).unlink(missing_ok=True)
    return context.failures.written(str(out), counts)
