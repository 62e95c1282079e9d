"""An evaluation report: `eval policy` and `eval rollouts` write it, `eval curve` reads it."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...formats.errors import DataError, UsageError
from ...formats.files import whole_file
from ...formats.rollouts import Rollouts
from .accuracy import Estimate, bootstrap, pass_at_k
from .gated import Gated

REPORT_VERSION = 1
_INTERVAL = ("value", "low", "high")


def report_figures(ks: Sequence[int]) -> list[str]:
    """The figures that a report has, known before it is made."""
    numbers = ["mean_tokens", "truncated", "problems", "rollouts", "threshold", "at", "version"]
    return numbers + [f"{name}.{end}" for name in ("mean_reward", *(f"pass_at.{k}" for k in ks)) for end in _INTERVAL]


@dataclass(frozen=True, kw_only=True)
class Report(Gated):
    """An evaluation. pass_at: {k: estimate}; right means a reward ≥ `threshold`. per_problem: {id: [n, c]}."""

    pass_at: Mapping[int, Estimate]
    mean_reward: Estimate
    mean_tokens: float
    truncated: float
    problems: int
    rollouts: int
    threshold: float
    per_problem: Mapping[str, tuple[int, int]]
    at: float = 0.0
    series: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    version: int = REPORT_VERSION
    out: str = ""

    def to_json(self) -> dict[str, Any]:
        content = asdict(replace(self, gates=()))
        content["pass_at"] = {str(k): asdict(estimate) for k, estimate in self.pass_at.items()}
        del content["out"], content["gates"]
        return content

    @classmethod
    def read(cls, path: Path) -> "Report":
        """The report in a file. UsageError if the file is missing, DataError if it is not a report."""
        try:
            content = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise UsageError(f"{path}: no such file") from error
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: not a report of `apportion eval` ({error})") from error
        try:
            if content["version"] > REPORT_VERSION:
                raise DataError(
                    f"{path}: report version must be at most {REPORT_VERSION}, got {content['version']}; update apportion"
                )
            return cls(
                **{
                    **content,
                    "pass_at": {int(k): Estimate(**estimate) for k, estimate in content["pass_at"].items()},
                    "mean_reward": Estimate(**content["mean_reward"]),
                    "per_problem": {name: (int(n), int(c)) for name, (n, c) in content["per_problem"].items()},
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path}: not a report of `apportion eval` ({error!r})") from error

    def figures(self) -> dict[str, float | None]:
        """Those of the measures; what the report is about is none."""
        known = set(report_figures(list(self.pass_at)))
        return {name: value for name, value in super().figures().items() if name in known}

    def write(self, path: Path, *, force: bool) -> None:
        with whole_file(path, force=force) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=1, sort_keys=True) + "\n")

    def render(self) -> None:
        """Print the result on standard output, and a line of detail on standard error."""
        name = self.series or self.about.get("model") or "rollouts"
        shown = "  ".join(f"pass@{k} {estimate}" for k, estimate in sorted(self.pass_at.items()))
        print(f"{name}: {shown}  ({self.problems} problems, {self.rollouts} rollouts, 95 % intervals over problems)")
        print(
            f"mean reward {self.mean_reward}, {self.mean_tokens:.1f} tokens a response, {self.truncated:.1%} truncated",
            file=sys.stderr,
        )


def report_on(
    rollouts: Rollouts, ks: list[int], threshold: float, *, at: float, series: str, about: Mapping[str, Any]
) -> Report:
    """The report on scored rollouts, one problem per group. UsageError if a group has fewer rollouts than k."""
    reward = rollouts.numbers("reward").astype(np.float64)
    if not np.isfinite(reward).all():
        row = int(np.flatnonzero(~np.isfinite(reward))[0])
        raise DataError(f"row {row}, column 'reward': must be a finite number, got {reward[row]}; score the file again")
    right = reward >= threshold
    groups = rollouts.groups
    correct = groups.sum(right.astype(np.int64))
    for k in ks:
        if k < 1 or (groups.sizes < k).any():
            raise UsageError(
                f"--k must be between 1 and {int(groups.sizes.min())}, the number of rollouts per problem, got {k}"
            )
    names = rollouts.arrow("problem_id" if "problem_id" in rollouts else "group_id").to_pylist()
    heads = [names[start] for start in groups.starts.tolist()]
    if len(set(heads)) < len(heads):  # a problem sampled in several groups: each group counts on its own
        heads = rollouts.arrow("group_id").take(pa.array(groups.starts)).to_pylist()
    return Report(
        pass_at={k: bootstrap(pass_at_k(groups.sizes, correct, k)) for k in ks},
        mean_reward=bootstrap(groups.mean(reward)),
        mean_tokens=float(rollouts.tokens.sizes.mean()),
        truncated=float(rollouts.flagged("truncated").mean()),
        problems=len(groups),
        rollouts=len(rollouts),
        threshold=threshold,
        per_problem=dict(zip(heads, zip(groups.sizes.tolist(), correct.tolist(), strict=True), strict=True)),
        at=at,
        series=series,
        about=about,
    )
