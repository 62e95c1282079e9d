"""Rollouts and their credit as trajectories in the interchange format ATIF."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from .... import __version__
from ....formats.rollouts import Rollouts
from ..kind import Batches, exporter
from ._pieces import Piece, Texts, pieces_of

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
    value = {
        path: batch.arrow(path)[row].as_py() for path in batch.paths if "." not in path or path.startswith("rewards.")
    }
    pieces = pieces_of(batch, row)
    said = texts.of(batch, row, pieces)
    steps = [
        {"source": SOURCES.get(each["role"], "user"), "message": each["content"]} for each in value.get("prompt") or ()
    ]
    for piece, text in zip(pieces, said, strict=True):
        if piece.is_own:
            steps.append(_step(batch, row, piece, text, column, value.get("prompt_ids")))
        elif steps and "observation" not in steps[-1] and steps[-1]["source"] == "agent":
            steps[-1]["observation"] = {"results": [{"content": text}]}
        else:
            steps.append({"source": "user", "message": text})
    extra = {name: value.get(name) for name in ("rollout_id", "group_id", "episode_id", "part", "lineage", "reward")}
    rewards = {
        path.partition(".")[2]: each for path, each in value.items() if path.startswith("rewards.") and each is not None
    }
    return {
        "schema_version": "ATIF-v1.8",
        "session_id": str(value.get("episode_id") or value["rollout_id"]),
        "trajectory_id": str(value["rollout_id"]),
        "agent": {"name": agent, "version": f"apportion {__version__}"},
        "steps": [{"step_id": number, **step} for number, step in enumerate(steps or [{"source": "user", "message": ""}], start=1)],
        "extra": {name: each for name, each in {**extra, "rewards": rewards or None}.items() if each is not None},
    }  # fmt: skip


def _step(
    batch: Rollouts, row: int, piece: Piece, text: str, column: str, prompt_ids: list[int] | None
) -> dict[str, Any]:
    """A step of the agent: the model read all before it, and wrote its tokens."""
    ids = batch.token_ids[row].tolist()
    place = slice(piece.start, piece.end)
    own = batch.mask[batch.tokens.offsets[row] :][place]
    first = piece.start + int(own.argmax())  # what was read within the piece belongs to the prompt
    metrics: dict[str, Any] = {
        "prompt_token_ids": [*(prompt_ids or []), *ids[:first]],
        "completion_token_ids": ids[first : piece.end],
    }
    if "token.logprob" in batch and (logprobs := batch.arrow("token.logprob")[row].as_py()) is not None:
        metrics["logprobs"] = logprobs[first : piece.end]
    found: dict[str, Any] = {"source": "agent", "message": text, "metrics": metrics}
    credit = batch.arrow(column)[row].as_py()
    if credit is not None:
        values = np.asarray(credit[piece.start : piece.end])[own]
        found["extra"] = {"credit": {"sum": float(values.sum()), "mean": float(values.mean()) if len(values) else 0.0}}
    return found
