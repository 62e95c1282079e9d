"""Sample rollouts of a policy on tasks."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ..core.options import ROLLOUTS_OUT, Chooses, Names, check_numbers
from ..core.ranges import AtLeast, Between

if TYPE_CHECKING:
    from ..core.driver import Written


@check_numbers
def sample(
    *,
    model: Annotated[str, "builtin:tiny, a Hugging Face directory, or a Hub id."] = "builtin:tiny",
    task: Annotated[
        str,
        "A name from `apportion list tasks`, hf:DATASET, or a .jsonl/.json/.csv/.parquet/.txt file.",
        Chooses("tasks", "task_set"),
    ] = "arithmetic",
    prompts: Annotated[
        int | None,
        "Number of distinct problems; the default is 64, or all if a file has fewer.",
        Between(1, 10_000_000),
    ] = None,
    n: Annotated[int, "Rollouts per problem.", Names(("-n", "--n")), Between(1, 1_000_000)] = 8,
    seed: Annotated[int, "Seed for problems and samples."] = 0,
    round: Annotated[int, "Iteration of a training loop; changes problems and samples under one seed.", AtLeast(0)] = 0,
    split: Annotated[
        Literal["train", "test", "all"], "Split of the task; train and test never overlap, all is both."
    ] = "train",
    strategy: Annotated[
        str, "Sampling strategy; see `apportion list strategies`.", Chooses("strategies")
    ] = "independent",
    settings: Annotated[
        Mapping[str, Any] | None, "Option of the strategy, name=value; repeatable.", Names(("--set",))
    ] = None,
    rollouts: Annotated[
        Path | None, "Rollout file to continue, for strategies that continue rollouts.", Names(("--from",))
    ] = None,
    task_settings: Annotated[
        Mapping[str, Any] | None, "Option of the task, name=value; repeatable.", Names(("--task-set",))
    ] = None,
    verifier: Annotated[
        str | None, "Function of yours that verifies in place of the task, for strategies that verify: FILE.py:NAME."
    ] = None,
    max_tokens: Annotated[int, "Token budget of a response.", AtLeast(1)] = 256,
    temperature: Annotated[float, "Sampling temperature; 0 is greedy.", Between(0, 1000)] = 1.0,
    top_p: Annotated[float, "Nucleus mass to keep; 1 keeps everything.", Between(0, 1)] = 1.0,
    top_k: Annotated[int, "How many of the most likely tokens to keep; 0 keeps all.", AtLeast(0)] = 0,
    purpose: Annotated[Literal["train", "probe", "eval"], "What the rollouts are for."] = "train",
    engine: Annotated[
        str,
        "Engine; see `apportion list engines`. auto: vllm with a GPU, else transformers.",
        Chooses("engines", "engine_set"),
    ] = "auto",
    engine_settings: Annotated[
        Mapping[str, Any] | None, "Option of the engine, name=value; repeatable.", Names(("--engine-set",))
    ] = None,
    device: Annotated[str, "auto, cpu, cuda, cuda:1 …"] = "auto",
    dtype: Annotated[str, "auto (bfloat16 on CUDA, float32 on CPU), float32, bfloat16."] = "auto",
    out: Annotated[Path, "Rollout file to write, or - for standard output.", ROLLOUTS_OUT],
    resume: Annotated[bool, "Continue a stopped run of the same command from what it kept."] = False,
    force: Annotated[bool, "Overwrite the output."] = False,
) -> "Written":
    """Sample rollouts of a policy on a task's problems.

    Records token ids, the exact log-probability of every sampled token under the sampling distribution, the policy's
    digest and every row's seed. With --from, the file decides task and problems, and its rows are written again.

    On SIGTERM or Ctrl-C, it finishes the current batch and keeps the complete groups in OUT.partial for --resume. If
    the engine fails, it keeps what was complete by then.
    """
    from ..models.engine import Sampling
    from .run import Run

    run = Run(
        model=model, task=task, prompts=prompts, n=n, seed=seed, round=round, split=split, strategy=strategy,
        settings=settings, rollouts=rollouts, task_settings=task_settings, verifier=verifier,
        sampling=Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k),
        purpose=purpose, engine=engine, engine_settings=engine_settings, device=device, dtype=dtype,
    )  # fmt: skip
    return run.write(out, resume=resume, force=force)
