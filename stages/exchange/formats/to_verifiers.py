"""Rollouts and their credit as traces of verifiers, credit on the nodes."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ....formats.errors import DataError
from ....formats.flags import ERROR, TRUNCATED
from ....formats.rollouts import Rollouts
from ....formats.segments import Array
from ..kind import Batches, exporter
from ._pieces import Piece, Texts, pieces_of

STREAMS = {
    "logprobs": "token.logprob",
    "reference_logprobs": "token.reference_logprob",
    "trainer_logprobs": "token.trainer_logprob",
    "entropies": "token.entropy",
}


@exporter(
    "verifiers",
    needs_with=lambda column, **_: (column,),
    suffix=".jsonl",
    source="verifiers 0.4.0, v1/graph.py and v1/trace.py",
    evidence="code",
)
def write_traces(
    batches: Batches, out: Path, *, column: str = "token.advantage", agent: str = "agent", tokenizer: str = ""
) -> int:
    """One episode of verifiers a line, with a trace whose nodes hold the tokens and their credit.

    Each step is a sampled node, and what the policy read between steps a node before it. The parts of an episode are branches of
    one trace: nodes that begin two parts with the same tokens are written once, with the credit of the part that trains them.
    A row without credit gets no `advantages`, which is not a credit of 0. The reward is written as rewards whose weighted sum
    it is.

    Args:
        column: the credit that is written as `advantages`.
        agent: the name of the agent in the traces; a group's name that ends with it is written without it.
        tokenizer: decodes the messages' texts; without it a response's whole text stands in its first message.

    Returns:
        The number of episodes.

    Raises:
        DataError: two parts of an episode give a token that they share different credit.
    """
    texts, count = Texts(tokenizer), 0
    with out.open("w", encoding="utf-8") as stream:
        for batch in batches:
            episodes: dict[int, list[int]] = {}
            for row, episode in enumerate(batch.episodes.tolist()):
                episodes.setdefault(episode, []).append(row)
            for rows in episodes.values():
                stream.write(json.dumps(_episode(batch, rows, column, agent, texts)) + "\n")
            count += len(episodes)
    return count


def _episode(batch: Rollouts, rows: list[int], column: str, agent: str, texts: Texts) -> dict[str, Any]:
    """The record of an episode with these rows."""
    first = rows[0]
    iteration, group = _value(batch, "iteration", first), str(batch.arrow("group_id")[first].as_py())
    name = _value(batch, "episode_id", first) or batch.arrow("rollout_id")[first].as_py()
    group = group.removeprefix(f"{iteration}/") if iteration is not None else group
    flags = {flag for row in rows for flag in _value(batch, "flags", row) or ()}
    policy = {key: _value(batch, f"policy_{key}", first) for key in ("start", "end")}
    work = {"type": "eval" if _value(batch, "purpose", first) == "eval" else "train", "step": iteration}
    if None not in policy.values():
        work["policy"] = policy
    task = {"type": _value(batch, "task", first) or "Task", "data": {}}
    nodes: list[dict[str, Any]] = []
    for row in rows if len(rows) == 1 else sorted(rows, key=lambda row: _value(batch, "part", row) or 0):
        _add_branch(nodes, batch, row, column, texts, str(name))
    fault = next((_value(batch, "error", row) for row in rows if _value(batch, "error", row)), None)
    is_right = ERROR not in flags
    trace: dict[str, Any] = {
        "version": 1, "id": str(name), "task": task, "agent": {"config": {}, "name": agent}, "nodes": nodes, "ok": is_right,
        "is_completed": True, "rewards": _rewards(batch, first), "stop_condition": "max_tokens" if TRUNCATED in flags else None,
    }  # fmt: skip
    if not is_right:
        trace["errors"] = [{"type": "Error", "message": fault or "flagged error"}]
    run = {} if iteration is None else {"run": {"id": "apportion", "type": "train", "work": work}}
    return {
        "id": str(name), "task": task, "group": {"id": group.removesuffix(f"/{agent}")}, **run, "ok": is_right, "traces": [trace]
    }  # fmt: skip


def _value(batch: Rollouts, path: str, row: int) -> Any:
    return batch.arrow(path)[row].as_py() if path in batch else None


def _rewards(batch: Rollouts, row: int) -> dict[str, Any]:
    """Rewards whose weighted sum is the row's: its named ones as they are, if they add up to it."""
    total = _value(batch, "reward", row)
    named = {path.partition(".")[2]: _value(batch, path, row) for path in batch.paths if path.startswith("rewards.")}
    named = {name: value for name, value in named.items() if value is not None}
    if total is None:
        return {name: {"score": value, "weight": 0.0} for name, value in named.items()}
    if len(named) == 1 and (value := next(iter(named.values()))):
        return {name: {"score": value, "weight": total / value} for name in named}
    if named and np.isclose(sum(named.values()), total):
        return {name: {"score": value, "weight": 1.0} for name, value in named.items()}
    return {
        "reward": {"score": total, "weight": 1.0},
        **{name: {"score": value, "weight": 0.0} for name, value in named.items() if name != "reward"},
    }


def _add_branch(nodes: list[dict[str, Any]], batch: Rollouts, row: int, column: str, texts: Texts, name: str) -> None:
    """Put a row's messages under the nodes that have its beginning already."""
    parent: int | None = None
    for node in _messages(batch, row, column, texts):
        known = next(
            (
                number
                for number, each in enumerate(nodes)
                if each.get("parent") == parent and each["token_ids"] == node["token_ids"] and each["mask"] == node["mask"]
                and (node["token_ids"] or each["message"] == node["message"])
            ),
            None,
        )  # fmt: skip
        trains = node.pop("trains", False)
        if known is None:
            nodes.append(node if parent is None else {"parent": parent, **node})
            parent = len(nodes) - 1
            if not trains:
                nodes[parent].pop("advantages", None)
            continue
        old = nodes[known]
        if trains and "advantages" in node:
            if old.get("advantages", node["advantages"]) != node["advantages"]:
                raise DataError(
                    f"episode {name}: its parts give tokens that they share different credit; traces have one place for it"
                )
            old["advantages"] = node["advantages"]
        parent = known


def _messages(batch: Rollouts, row: int, column: str, texts: Texts) -> Iterator[dict[str, Any]]:
    """The nodes of a row from its prompt on: all the prompt's tokens stand in its last message."""
    prompt_ids = _value(batch, "prompt_ids", row) or []
    prompt = _value(batch, "prompt", row) or [{"role": "user", "content": ""}]
    for place, said in enumerate(prompt):
        own = prompt_ids if place == len(prompt) - 1 else []
        yield {"message": dict(said), "token_ids": own, "mask": [False] * len(own)}
    inside = slice(int(batch.tokens.offsets[row]), int(batch.tokens.offsets[row + 1]))
    ids, mask, trainable = batch.token_ids[row].tolist(), batch.mask[inside], batch.trainable[inside]
    streams = {key: _stream(batch, path, row) for key, path in {**STREAMS, "advantages": column}.items()}
    pieces = pieces_of(batch, row)
    for piece, text in zip(pieces, texts.of(batch, row, pieces), strict=True):
        yield _node(piece, text, ids, mask, trainable, streams)


def _node(
    piece: Piece, text: str, ids: list[int], mask: Array, trainable: Array, streams: Mapping[str, Array | None]
) -> dict[str, Any]:
    place = slice(piece.start, piece.end)
    own = mask[place]
    found: dict[str, Any] = {"token_ids": ids[place], "mask": own.tolist()}
    if not piece.is_own:
        return {"message": {"role": "tool", "content": text, "tool_call_id": "read"}, **found}
    written = {key: values[place][own].tolist() for key, values in streams.items() if values is not None}
    return {
        "sampled": True, "message": {"role": "assistant", "content": text}, **found, **written, "trains": bool(trainable[place].any())
    }  # fmt: skip


def _stream(batch: Rollouts, path: str, row: int) -> Array | None:
    if path not in batch:
        return None
    values = batch.arrow(path)[row]
    return np.asarray(values.as_py(), np.float64) if values.is_valid else None
