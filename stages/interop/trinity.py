"""Credit per token in Trinity-RFT: a class that its configuration names by its path.

    algorithm:
      algorithm_type: multi_step_grpo
      advantage_fn: apportion.stages.interop.trinity.Credit
      advantage_fn_args: {method: turn_return, baseline: others}

Written for Trinity-RFT 0.6; the tests run it with that release's registry, operators and experiences.
"""

from collections import defaultdict
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Literal

import numpy as np

from ...formats.errors import DataError, UsageError
from ...formats.segments import Array
from ._rows import SPANS, credit_for
from ._seam import credit_rows, shares

ON_STEPS = {"step.reward": "step_reward", "step.state": "env_state_hash"}
"""Columns of a step, by the key of `Experience.info` that holds them."""


class Credit:
    """An advantage function that gives each token of experiences the credit of a method.

    Groups are the runs of a task (eid.tid), episodes the steps of a run (eid.rid), in the order of eid.step. An episode counts
    once in its group and has the reward of its last experience, as in Trinity's own step_wise_grpo; with a reward that is
    missing or not a number it takes no part.
    """

    def __init__(
        self,
        method: str,
        preset: str | None = None,
        steps: Literal["mask", "experience"] | None = "mask",
        **options: Any,
    ):
        """
        Args:
            method: a credit method that needs no probes; see `apportion list methods`.
            preset: conventions of a library.
            steps: for methods that need steps, "mask" makes one of each run of the model's tokens, "experience" of each
                experience. info["step_reward"] and info["env_state_hash"] are those of its only step, or lists, one for each.
            options: of the method.

        Raises:
            UsageError: an unknown method, preset or option, and a method that needs a column experiences do not have.
        """
        if steps not in ("mask", "experience", None):
            raise UsageError(f"steps must be 'mask', 'experience' or null, got {steps!r}")
        has = ("reward", "token.logprob", *((*SPANS, *ON_STEPS) if steps else ()))
        self.credit = credit_for("an experience of Trinity", method, preset, options, has=has)
        self.steps = steps
        # Trinity's pipeline takes no others.
        import_module("trinity.buffer.operators").ExperienceOperator.register(type(self))

    @classmethod
    def default_args(cls) -> dict[str, Any]:
        return {"method": "grpo"}

    @classmethod
    def compute_in_trainer(cls) -> bool:
        return False

    def close(self) -> None:
        """Nothing is held."""

    def __call__(self, exps: Any, **_: Any) -> tuple[Any, dict[str, float]]:
        if not isinstance(exps, list):
            raise UsageError(
                "this algorithm_type computes advantages in the trainer, without experiences; choose one that does not, such as "
                "grpo or multi_step_grpo"
            )
        return self.process(exps)

    def process(self, exps: list[Any]) -> tuple[list[Any], dict[str, float]]:
        """The experiences with `advantages` and `returns` [response tokens], and figures for the log."""
        if not exps:
            return [], {}
        part, reward = _episodes(exps)
        ids = [exp.tokens[exp.prompt_length :] for exp in exps]
        own = [exp.action_mask.bool() for exp in exps]
        needs = self.credit.needs
        signals: dict[str, Any] = {}
        spans = [_spans(row.numpy(), self.steps) for row in own] if "step.start" in needs else None
        if spans is not None:
            signals |= {path: _on_steps(exps, spans, path) for path in ON_STEPS if path in needs}
        if "token.logprob" in needs:
            signals["token.logprob"] = [exp.logprobs for exp in exps]
        found, info = credit_rows(
            self.credit,
            ids,
            own,
            reward=reward,
            group=[exp.eid.tid for exp in exps],
            episode=[exp.eid.rid for exp in exps],
            part=part,
            steps=spans,
            skip=np.isnan(reward),
            signals=signals,
        )
        for exp, credit in zip(exps, found, strict=True):
            exp.advantages = credit
            exp.returns = exp.advantages.clone()
        return exps, shares(info)


def _episodes(exps: Sequence[Any]) -> tuple[Array, Array]:
    """([B] place of each experience in its run, [B] reward of the run's last, NaN where it has none)."""
    runs = defaultdict[str, list[int]](list)
    for row in sorted(range(len(exps)), key=lambda row: exps[row].eid.step):
        runs[exps[row].eid.rid].append(row)
    part, reward = np.zeros(len(exps), np.int64), np.zeros(len(exps))
    for rows in runs.values():
        last = exps[rows[-1]].reward
        part[rows], reward[rows] = np.arange(len(rows)), np.nan if last is None else float(last)
    return part, reward


def _spans(own: Array, steps: str | None) -> Array:
    """[S, 2] start and end of the steps of an experience, in tokens of its response."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], own.astype(np.int8), [0]))))
    return (edges if steps == "mask" else edges[[0, -1]] if len(edges) else edges).reshape(-1, 2)


def _on_steps(exps: Sequence[Any], spans: Sequence[Array], path: str) -> list[list[Any]]:
    """What `info` says of each step of each experience."""
    key = ON_STEPS[path]
    if not any(key in exp.info for exp in exps):
        raise DataError(f"{path!r}: no experience has info[{key!r}], which the workflow should set")
    found: list[list[Any]] = []
    for exp, steps in zip(exps, spans, strict=True):
        value = exp.info.get(key, 0.0 if path == "step.reward" else None)
        values = value if isinstance(value, list) else [value] if len(steps) else []
        found.append([str(each) for each in values] if path == "step.state" and value is not None else values)
    return found
