"""What a finished step of a run has to say to a tracker: numbers by name, and some of its rollouts."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...formats.parquet import RolloutFile
from ...formats.rollouts import Rollouts
from ...formats.schema import credit_name
from ..eval.report import Report
from ..inspect.statistics import FileTally, signals_of
from .plan import Planned

MOST_ROLLOUTS = 16  # of a step
READ = ("sample", "score", "assign-credit")  # commands whose output is summed up
UPDATES = "metrics.jsonl"


def figures_of(step: Planned, result: Any) -> dict[str, float]:
    """The numbers of a step: of an evaluation its measures, of rollouts the statistics that `inspect --stats` shows."""
    if isinstance(result, Report):
        found = {f"eval/pass@{k}": estimate.value for k, estimate in result.pass_at.items()}
        found |= {"eval/mean_reward": result.mean_reward.value, "eval/mean_tokens": result.mean_tokens}
        return found | {"eval/truncated": result.truncated}
    name = step.command.name
    if name not in READ or step.out is None or not Path(step.out).exists():
        return {}
    tally = FileTally()
    for batch in RolloutFile(Path(step.out)).batches():
        tally.add(batch)
    found = tally.result()
    sizes = found.group_sizes
    numbers: dict[str, float | None] = {
        "rollouts": found.rollouts, "tokens": found.tokens, "mean_reward": found.mean_reward, "dead_groups": found.dead_groups,
        "singletons": sizes.get(1, 0) / max(sum(sizes.values()), 1),
    }  # fmt: skip
    for flag, count in found.flags.items():
        numbers[f"flag_{flag}"] = count / found.rollouts
    credit = next((each for each in found.signals if name == "assign-credit" and each.column == _credit_of(step)), None)
    if credit is not None:
        numbers |= {
            "std": credit.std, "median_magnitude": credit.magnitudes[len(credit.magnitudes) // 2], "zero": credit.zero,
            "correlation_with_length": credit.correlation_length,
        }  # fmt: skip
    return {f"{name}/{key}": float(value) for key, value in numbers.items() if value is not None}


def updates_of(step: Planned) -> Iterator[dict[str, float]]:
    """The metrics of each update of a training, in order."""
    path = Path(step.out or "") / UPDATES
    if step.command.name != "train" or not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        yield {f"train/{name}": float(value) for name, value in entry.items() if isinstance(value, int | float)}


def rollouts_of(step: Planned, *, redact: bool) -> list[dict[str, Any]]:
    """The first rollouts of a step that assigned credit, with the sum of each step's credit. redact: without their texts."""
    if step.command.name != "assign-credit" or step.out is None:
        return []
    column = _credit_of(step)
    rows: list[dict[str, Any]] = []
    for batch in RolloutFile(Path(step.out)).batches():
        if column not in signals_of(batch.table.schema):
            return []
        for row in range(min(len(batch), MOST_ROLLOUTS - len(rows))):
            rows.append(_row(batch, row, column, redact=redact))
        if len(rows) == MOST_ROLLOUTS:
            break
    return rows


def _row(batch: Rollouts, row: int, column: str, *, redact: bool) -> dict[str, Any]:
    def value(path: str) -> Any:
        return batch.arrow(path)[row].as_py() if path in batch else None

    credit = np.asarray(value(column) or (), np.float64)
    spans = zip(value("step.start") or (0,), value("step.end") or (len(credit),), strict=True)
    found = {
        "group": value("group_id"), "rollout": value("rollout_id"), "reward": value("reward"), "tokens": len(batch.token_ids[row]),
        "credit": float(credit.sum()), "credit_of_steps": [float(credit[start:end].sum()) for start, end in spans],
    }  # fmt: skip
    return found if redact else {**found, "prompt": value("prompt"), "response": value("text")}


def _credit_of(step: Planned) -> str:
    given: Mapping[str, Any] = step.options
    return f"token.{credit_name(str(given.get('as') or 'advantage'))}"
