"""Rollouts and their credit as trajectories in the interchange format ATIF."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .... import __version__
from ....formats.rollouts import Rollouts
from ....formats.segments import Array
from ..kind import Batches, exporter
from ._pieces import Piece, Texts, pieces_of

NAMED = ("rollout_id", "group_id", "episode_id", "part", "lineage", "reward")
SOURCES = {"assistant": "agent", "system": "system"}


@exporter(
    "atif",
    needs_with=lambda column, **_: (column,),
    suffix=".jsonl",
    source="Harbor 0.26.0, models/trajectories (ATIF 1.8)",
    evidence="code",
)
def write_trajectories(
    batches: Batches, out: Path, *, column: str = "token.advantage", agent: str = "agent", tokenizer: str = ""
) -> int:
    """One trajectory of ATIF 1.8 a line, one a row; cut the lines apart for tools that want a file each.

    Each step of the rollout is a step of the agent, with its token ids and log-probabilities as metrics, what was read after it as
    its observation, and the step's credit as `extra.credit`: the sum and the mean over its tokens. What belongs to no step
    of ATIF stands in the trajectory's `extra`: rollout, group, episode, part, reward.

    Args:
        column: the credit that is written.
        agent: the name of the agent.
        tokenizer: decodes the messages' texts; without it a response's whole text stands in its first message.

    Returns:
        The number of trajectories.
    """
    texts, count = Texts(tokenizer), 0
    with out.open("w", encoding="utf-8") as stream:
        for batch in batches:
            for row in range(len(batch)):
                stream.write(json.dumps(_trajectory(batch, row, column, agent, texts)) + "\n")
            count += len(batch)
    return count


def _trajectory(batch: Rollouts, row: int, column: str, agent: str, texts: Texts) -> dict[str, Any]:
    extra = {name: _value(batch, name, row) for name in NAMED}
    rewards = {path.partition(".")[2]: _value(batch, path, row) for path in batch.paths if path.startswith("rewards.")}
    rewards = {name: value for name, value in rewards.items() if value is not None}
    pieces = pieces_of(batch, row)
    written = Written(
        prompt_ids=_value(batch, "prompt_ids", row) or [],
        ids=batch.token_ids[row].tolist(),
        mask=batch.mask[batch.tokens.offsets[row] : batch.tokens.offsets[row + 1]],
        logprobs=_value(batch, "token.logprob", row),
        credit=_value(batch, column, row),
    )
    steps: list[dict[str, Any]] = [
        {"source": SOURCES.get(each["role"], "user"), "message": each["content"]}
        for each in _value(batch, "prompt", row) or ()
    ]
    for piece, text in zip(pieces, texts.of(batch, row, pieces), strict=True):
        if piece.is_own:
            steps.append(_step(written, piece, text))
        elif steps and "observation" not in steps[-1] and steps[-1]["source"] == "agent":
            steps[-1]["observation"] = {"results": [{"content": text}]}
        else:
            steps.append({"source": "user", "message": text})
    return {
        "schema_version": "ATIF-v1.8",
        "session_id": str(extra["episode_id"] or extra["rollout_id"]),
        "trajectory_id": str(extra["rollout_id"]),
        "agent": {"name": agent, "version": f"apportion {__version__}"},
        "steps": [{"step_id": number, **step} for number, step in enumerate(steps or [{"source": "user", "message": ""}], start=1)],
        "extra": {name: each for name, each in {**extra, "rewards": rewards or None}.items() if each is not None},
    }  # fmt: skip


@dataclass(frozen=True)
class Written:
    """What a row holds of its tokens. logprobs, credit: None where it has none."""

    prompt_ids: list[int]
    ids: list[int]
    mask: Array
    logprobs: list[float] | None
    credit: list[float] | None


def _value(batch: Rollouts, path: str, row: int) -> Any:
    return batch.arrow(path)[row].as_py() if path in batch else None


def _step(written: Written, piece: Piece, text: str) -> dict[str, Any]:
    """A step of the agent: the model read all before it, and wrote its tokens."""
    own = written.mask[piece.start : piece.end]
    first = piece.start + int(own.argmax())  # what was read within the piece belongs to the prompt
    metrics: dict[str, Any] = {
        "prompt_token_ids": [*written.prompt_ids, *written.ids[:first]],
        "completion_token_ids": written.ids[first : piece.end],
    }
    if written.logprobs is not None:
        metrics["logprobs"] = written.logprobs[first : piece.end]
    found: dict[str, Any] = {"source": "agent", "message": text, "metrics": metrics}
    if written.credit is not None:
        values = np.asarray(written.credit[piece.start : piece.end])[own]
        found["extra"] = {"credit": {"sum": float(values.sum()), "mean": float(values.mean()) if len(values) else 0.0}}
    return found
