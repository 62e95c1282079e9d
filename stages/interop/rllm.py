"""Credit per token in rLLM's UnifiedTrainer, through the hook that groups its trajectories.

    from rllm.trainer.unified_trainer import UnifiedTrainer
    from apportion.stages.interop.rllm import credit_hook

    trainer = UnifiedTrainer(…, traj_grouping_hook=credit_hook("tempo"))     # and rllm.algorithm.use_precomputed_advantage=true

Read in the source of rllm-org/rllm, not run: rllm/trainer/unified_trainer.py at 04f924d, rllm/trainer/algorithms/advantage.py at
18c8622 and transform.py at 106b344, rllm/trainer/tinker/transform.py at 0515808 (0.3.0.pre, 2026).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ...formats.errors import DataError
from ..assign_credit import TokenCredit
from ._rows import SPANS, Rows, credit_for

Hook = Callable[..., list[Any]]


def credit_hook(method: str, *, preset: str | None = None, grouping: Hook | None = None, **options: Any) -> Hook:
    """A `traj_grouping_hook` that also gives every response token of every step its credit.

    A trajectory is a rollout, and its group is rLLM's. Each step is a step of the method, with its reward. Steps whose
    prompts go on from what was before are one line of tokens; a trajectory whose context was rewritten, or that has
    sub-agents, is an episode in parts. A trajectory without a reward takes no part and gets 0.

    Args:
        method: a credit method that needs no probes; see `apportion list methods`.
        preset: conventions of a library.
        grouping: the hook that makes the groups; None takes rLLM's own.
        options: of the method.

    Raises:
        UsageError: an unknown method, preset or option, or a method that needs what rLLM's steps do not have.
    """
    has = ("reward", *SPANS, "step.reward", "token.logprob")
    credit = credit_for("rLLM", method, preset, options, has=has)

    def hook(episodes: Any, transform_config: Any, compact_filtering_config: Any = None) -> list[Any]:
        group_them = grouping or _default_grouping()
        groups = group_them(episodes, transform_config, compact_filtering_config)
        _set_credit(groups, credit)
        return groups

    return hook


def _default_grouping() -> Hook:
    from rllm.trainer.algorithms.transform import _default_traj_grouping_hook  # type: ignore[import-not-found]

    return _default_traj_grouping_hook


def _set_credit(groups: Sequence[Any], credit: TokenCredit) -> None:
    rows = Rows(credit)
    places: list[tuple[Any, int, int]] = []  # of each step: its row, and where it begins there
    for number, group in enumerate(groups):
        for one, trajectory in enumerate(group.trajectories):
            for line in _lines(trajectory.steps):
                places += _add(rows, line, reward=trajectory.reward, group=number, episode=f"{number}/{one}")
    found = rows.found()
    for step, row, start in places:
        values = found[row][start : start + len(step.response_ids)]
        assert len(values) == len(step.response_ids)  # rLLM makes zeros of any other length, and only logs it
        step.advantage = values


def _add(rows: Rows, line: Sequence[tuple[Any, list[int]]], **known: Any) -> list[tuple[Any, int, int]]:
    ids, own = list[int](), list[bool]()
    logprobs, earned = list[float](), list[float]()
    spans, places = list[tuple[int, int]](), list[tuple[Any, int, int]]()
    for step, between in line:
        ids += between
        own += [False] * len(between)
        logprobs += [0.0] * len(between)
        places.append((step, len(rows.ids), len(ids)))
        if "token.logprob" in rows.credit.needs and len(step.logprobs) != len(step.response_ids):
            raise DataError(
                f"trajectory {known['episode']}: a step has {len(step.logprobs)} log-probabilities for {len(step.response_ids)} tokens"
            )
        if step.response_ids:
            spans.append((len(ids), len(ids) + len(step.response_ids)))
            earned.append(step.reward or 0.0)
        ids += step.response_ids
        own += [True] * len(step.response_ids)
        logprobs += step.logprobs
    rows.add(ids, own, spans=spans, signals={"token.logprob": logprobs, "step.reward": earned}, **known)
    return places


def _lines(steps: Sequence[Any]) -> Iterator[list[tuple[Any, list[int]]]]:
    """Steps whose prompts each go on from the tokens before, and what came between a step and the one before it.

    Lineages (sub-agents) are apart, as in rLLM's own merge of steps.
    """
    lineages: dict[Any, list[Any]] = {}
    for step in steps:
        lineages.setdefault((step.metadata or {}).get("lineage_id"), []).append(step)
    for lineage in lineages.values():
        line: list[tuple[Any, list[int]]] = []
        before: list[int] = []
        for step in lineage:
            prompt, between = _flat(step.prompt_ids), list[int]()
            if line and prompt[: len(before)] == before:
                between = prompt[len(before) :]
            elif line:
                yield line
                line = []
            line.append((step, between))
            before = [*prompt, *step.response_ids]
        if line:
            yield line


def _flat(prompt: Sequence[Any]) -> list[int]:
    """Token ids, of which some may stand in Tinker's chunks."""
    if set(map(type, prompt)) <= {int}:
        return list(prompt)
    ids: list[int] = []
    for each in prompt:
        if hasattr(each, "tokens"):
            ids += each.tokens
        elif hasattr(each, "__index__"):
            ids.append(int(each))
        else:
            raise DataError(f"a prompt has a {type(each).__name__} among its token ids; expected text only")
    return ids
