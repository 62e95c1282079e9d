"""Budget: more rollouts for the prompts where they are worth most."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated

from ....formats.errors import UsageError
from ....formats.memories import is_memory
from ....formats.parquet import RolloutFile, files_of
from ....formats.rollouts import Rollouts
from ...core.driver import require
from ...core.ranges import AtLeast, Inside
from ...remember.kind import MEMORIES
from ...remember.problems import of_the_prompt
from .._source import rewards_of
from ..kind import SamplingContext, strategy
from ..rows import respond
from ._knapsack import Cost, Mode, Unknown, allocation, success_rate

Epoch = dict[str, list[float]]  # rewards by problem


@strategy(source="arXiv:2509.25849 (Knapsack RL)", evidence="code", system=("Knapsack RL",))
def budget(
    context: SamplingContext,
    *,
    history: Sequence[Path],
    min_n: Annotated[int, AtLeast(1)] = 2,
    max_n: int = 128,
    negative_n: Annotated[int, AtLeast(0)] = 2,
    positive_n: Annotated[int, AtLeast(0)] = 2,
    confidence: Annotated[float, Inside(0, 1)] = 0.9,
    cost: Cost = "probability",
    mode: Mode = "paper",
    unknown: Unknown = "exclude",
    rows_at_once: Annotated[int, AtLeast(1)] = 2048,
) -> Iterator[Rollouts]:
    """Independent rollouts, -n per prompt on average, allocated by each prompt's past probability of success p.

        V(N, p) = (1 - p^N - (1 - p)^N) · p · (1 - p)²

    A prompt with 0 < p < 1 gets min_n to max_n rollouts, so that Σ V over those prompts is largest. The result is
    exact: V gains less with every rollout, so taking the most valuable ones is optimal. Prompts with p = 0 get
    negative_n, prompts with p = 1 get positive_n, and prompts without a history get n. If the first kind needs less
    than what is left, those with p = 0 share the rest. The released code trains GRPO on these groups with credit
    clipped to ±5: `assign-credit --clip 5`.

    Args:
        history: scored rollout files or directories, one per epoch, the oldest first; or the latest memory of `remember
            --what problems`. Matched by `problem_id`. p is the mean success (reward above 0) of the last epoch, or of
            the latest 16 rollouts if it has fewer; with fewer than 8 there is no p. Only rollouts made from the prompt
            alone count: no probes, no hinted or retried ones and the like, and no failed ones.
        min_n: least number of rollouts of a prompt that is sometimes solved.
        max_n: greatest number of rollouts of such a prompt.
        negative_n: rollouts of a prompt that was never solved; with 0 it is left out, unless rollouts are left over.
        positive_n: rollouts of a prompt that was always solved; with 0 it is left out.
        confidence: probability with which a group must not be all equal; cost="probability" derives from it how many
            rollouts a prompt needs.
        cost: how many rollouts a prompt needs: until its group is not all equal with that confidence ("probability",
            ln(1 - confidence) / ln(max(p, 1 - p))), or on average ("expectation", 1 / (p (1 - p)) - 1).
        mode: "paper", or "released": in the released code the first min_n rollouts are worth nothing in the sum.
        unknown: whether prompts without a history share what is left over with those of p = 0 ("as_zero", the released
            code) or not ("exclude").
        rows_at_once: rollouts to generate before a part of the file is written; bounds the memory.

    Departures: when the released code allocates what is left, it treats prompts without a history as prompts that never
        succeed. Here they are kept apart, unless unknown="as_zero".
    """
    if max_n < min_n:
        raise UsageError(f"strategy budget: max_n must be at least min_n ({min_n}), got {max_n}")
    rates = _rates(history)
    everything = [*context.finished, *context.problems]
    divided = allocation(
        [rates.get(problem.problem_id) for problem in everything], context.n, least=min_n, most=max_n, failing=negative_n,
        solved=positive_n, confidence=confidence, cost=cost, mode=mode, unknown=unknown,
    )  # fmt: skip
    # A stopped run is counted in groups, and a prompt without rollouts has none.
    given = [place for place, count in enumerate(divided) if count][len(context.finished) :]
    counts = [divided[place] for place in given]
    rest = iter(counts)
    for problems in context.of([everything[place] for place in given]).portions(rows_at_once, counts):
        yield respond(context, problems, list(islice(rest, len(problems))))


def _rates(history: Sequence[Path]) -> dict[str, float | None]:
    """The estimated probability of success of each problem."""
    epochs: dict[str, list[list[float]]] = defaultdict(list)
    for path in history:
        for of_epoch in _read_memory(path) if is_memory(path) else [_read_epoch(path)]:
            for problem, rewards in of_epoch.items():
                epochs[problem].append(rewards)
    return {problem: success_rate(of_problem) for problem, of_problem in epochs.items()}


def _read_epoch(path: Path) -> Epoch:
    """The rewards in rollout files, from rollouts made from the prompt alone, like the memory of problems."""
    found: Epoch = defaultdict(list)
    for name in files_of(path):
        file = RolloutFile(name)
        require(file, ("problem_id", "reward"), "strategy 'budget'")
        there = [name for name in ("purpose", "flags") if name in file.schema.names]
        for batch in file.batches(["rollout_id", "group_id", "problem_id", "reward", "token.id", "token.mask", *there]):
            rows, names = of_the_prompt(batch), batch.strings("problem_id")
            for row, reward in zip(rows.tolist(), rewards_of(batch, rows).tolist(), strict=True):
                found[names[row]].append(reward)
    return found


def _read_memory(path: Path) -> list[Epoch]:
    """The rewards in a memory, by iteration."""
    table = MEMORIES["problems"].read(path)
    epochs: defaultdict[int, Epoch] = defaultdict(lambda: defaultdict(list))
    for problem, iteration, reward in zip(
        *(table[name].to_pylist() for name in ("problem_id", "iteration", "reward")), strict=True
    ):
        epochs[iteration][problem].append(reward)
    return [epochs[iteration] for iteration in sorted(epochs)]
