"""Traces of verifiers and prime-rl."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np

from ....formats.errors import DataError
from ....formats.flags import ERROR, FILTERED, TRUNCATED
from ..kind import Sample, Source, Unmapped, importer
from ._messages import messages_of

STREAMS = {
    "logprobs": "token.logprob",
    "advantages": "token.advantage_verifiers",
    "reference_logprobs": "token.reference_logprob",
    "trainer_logprobs": "token.trainer_logprob",
    "entropies": "token.entropy",
}
DECIMALS = 4  # of the floats in a record


@importer(
    "verifiers",
    recognises=lambda source: source.has("traces") or source.has("nodes", "agent"),
    exact=True,
    fills=(
        "reward", "rewards.NAME", "prompt", "text", "episode_id", "part", "lineage", "iteration", "policy_start", "policy_end",
        "purpose", "flags", "error", "step.start", "step.end", "step.kind", *STREAMS.values(), "token.trainable",
    ),
    loses=("routed experts and sampling masks, which are not on disk", "digits of per-token numbers beyond the fourth decimal"),
    facts={"logprob_decimals": DECIMALS},
    source="verifiers 0.4.0, v1/graph.py and v1/trace.py",
    evidence="code",
)  # fmt: skip
def read_traces(source: Source) -> Iterator[Sample | Unmapped]:
    """Episodes of verifiers or prime-rl, one a line of traces.jsonl.

    Each path from a root of a trace's message graph to a leaf becomes a row, and a trace with several becomes an episode. Messages
    that several paths share belong to the first of them: `token.trainable` is false on them elsewhere. A compaction that nothing
    went on from is not trainable at all. Each sampled message is a step. A group is that of the episode, for each agent.

    A trace's reward is the sum of its rewards times their weights; `rewards.NAME` has them without. Credit that is in the
    file goes to `token.advantage_verifiers`, and stays missing where nothing assigned it. In folders of prime-rl, rows of `all`
    that `effective` left out are flagged filtered if that folder is there.
    """
    effective = _effective(source)
    for where, episode in source.lines():
        with source.record():
            if not isinstance(episode, Mapping):
                raise DataError(f"{where}: {type(episode).__name__}, expected an episode")
            traces = episode.get("traces") if "traces" in episode else [episode]
            if not traces:
                yield Unmapped("episodes without a trace")
                continue
            for trace in traces:
                yield from _read_trace(where, episode, trace, source, effective)


def _read_trace(
    where: str, episode: Mapping[str, Any], trace: Mapping[str, Any], source: Source, effective: set[str] | None
) -> Iterator[Sample | Unmapped]:
    nodes = trace.get("nodes") or []
    paths = [path for path in _paths(nodes, where) if any(nodes[node].get("sampled") for node in path)]
    if not paths:
        yield Unmapped("traces without a sampled message")
        return
    if not any(any(nodes[node].get("token_ids") or () for node in path) for path in paths):
        yield Unmapped("traces without token ids")
        return
    agent = (trace.get("agent") or {}).get("name")
    group = (episode.get("group") or {}).get("id")
    work = (episode.get("run") or {}).get("work") or {}
    policy = work.get("policy") or {}
    rewards = {name: each for name, each in (trace.get("rewards") or {}).items() if each is not None}
    parts = {name: float(each["score"]) * float(each.get("weight", 1.0)) for name, each in rewards.items()}
    several_agents = len(episode.get("traces") or ()) > 1
    common: dict[str, Any] = {
        "reward": sum(parts.values()) if parts else None,
        **{f"rewards.{name}": float(each["score"]) for name, each in rewards.items()},
        "iteration": work.get("step", source.number_in_name("step")),
        "policy_start": policy.get("start"),
        "policy_end": policy.get("end"),
        "purpose": "eval" if work.get("type") == "eval" else "train",
    }
    faults = [*(trace.get("errors") or ()), *(episode.get("errors") or ())]
    flags = [ERROR] if faults else []
    if effective is not None and trace.get("id") not in effective:
        flags.append(FILTERED)
    if trace.get("stop_condition") in ("max_tokens", "max_total_tokens", "length") or trace.get("is_timeout"):
        flags.append(TRUNCATED)
    common |= {"flags": flags, "error": str(faults[-1].get("message", faults[-1]))[:2000] if faults else None}
    if len(paths) > 1:
        common["episode_id"] = trace["id"]
    owned: set[int] = set()
    for part, path in enumerate(paths):
        columns = _columns(where, nodes, path, owned, _is_trainable(nodes, path))
        lineage = _lineage(nodes, path) or (agent if several_agents else None)
        columns |= common | ({"part": part} if len(paths) > 1 else {}) | ({"lineage": lineage} if lineage else {})
        ids, mask, start = columns.pop("ids"), columns.pop("mask"), columns.pop("first")
        yield Sample(
            where=where,
            rollout_id=f"{trace['id']}/{part}" if len(paths) > 1 else str(trace["id"]),
            group_id=None if group is None else f"{group}/{agent}" if agent else str(group),
            prompt_ids=ids[:start],
            ids=ids[start:],
            mask=mask[start:],
            columns=columns,
            record=episode,
        )


def _paths(nodes: list[Any], where: str) -> Iterator[list[int]]:
    """From a root to each leaf, in the order of the leaves."""
    parents = [node.get("parent") for node in nodes]
    for number, parent in enumerate(parents):
        if parent is not None and not (isinstance(parent, int) and 0 <= parent < number):
            raise DataError(f"{where}, node {number}: parent is {parent!r}, expected a node before it")
    inner = {parent for parent in parents if parent is not None}
    for leaf in (number for number in range(len(nodes)) if number not in inner):
        path, node = [leaf], parents[leaf]
        while node is not None:
            path.append(node)
            node = parents[node]
        yield path[::-1]


def _is_trainable(nodes: list[Any], path: list[int]) -> bool:
    """False for a compaction attempt that no other node names as what it went on from."""
    links = nodes[path[-1]].get("semantic_parents") or ()
    if not any(link.get("type") == "compaction_attempt" for link in links):
        return True
    resumed = {
        link.get("node")
        for node in nodes
        for link in node.get("semantic_parents") or ()
        if link.get("type") == "compaction"
    }
    return path[-1] in resumed


def _lineage(nodes: list[Any], path: list[int]) -> str | None:
    kinds = [link.get("type") for node in path for link in nodes[node].get("semantic_parents") or ()]
    return "compaction" if any(str(kind).startswith("compaction") for kind in kinds) else None


def _columns(where: str, nodes: list[Any], path: list[int], owned: set[int], trainable: bool) -> dict[str, Any]:
    """Tokens, steps and streams of a path; `first` is the place of the first sampled token."""
    ids = [nodes[node].get("token_ids") or () for node in path]
    masks = [nodes[node].get("mask") or () for node in path]
    for node, own_ids, own_mask in zip(path, ids, masks, strict=True):
        if len(own_mask) != len(own_ids):
            raise DataError(f"{where}, node {node}: mask has {len(own_mask)} values for {len(own_ids)} token ids")
    sizes = np.array([len(each) for each in ids])
    mask = np.fromiter(chain.from_iterable(masks), bool, int(sizes.sum()))
    first = int(mask.argmax()) if mask.any() else len(mask)
    starts = np.cumsum(sizes) - sizes
    sampled = np.array([bool(nodes[node].get("sampled")) for node in path])
    found: dict[str, Any] = {"ids": list(chain.from_iterable(ids)), "mask": mask, "first": first}
    for key, column in STREAMS.items():
        values = [nodes[node].get(key) for node in path]
        if key == "logprobs":  # empty where there are none; the other streams are missing then
            values = [each or None for each in values]
        if all(each is None for each in values):
            continue
        spread = np.zeros(len(mask), np.float32)
        for place, node in enumerate(path):
            inside = slice(starts[place], starts[place] + sizes[place])
            own, given = mask[inside], values[place]
            if given is None:
                continue
            if len(given) != own.sum():
                raise DataError(f"{where}, node {node}: {key} has {len(given)} values for {own.sum()} sampled tokens")
            spread[inside][own] = given
        found[column] = spread[first:]
    new = np.array([node not in owned for node in path]) & trainable
    if trainable:
        owned.update(path)
    if not new[sampled].all():
        trainable_here = (mask & np.repeat(new, sizes))[first:]
        found["token.trainable"] = trainable_here
        if "token.advantage_verifiers" in found:  # credit is with the path that the tokens belong to
            found["token.advantage_verifiers"] = np.where(trainable_here, found["token.advantage_verifiers"], 0)
    steps = np.flatnonzero(sampled & (sizes > 0) & (starts + sizes > first))
    own_starts = np.array(
        [starts[step] + _first_true(mask[starts[step] : starts[step] + sizes[step]]) for step in steps]
    )
    found["step.start"] = (own_starts - first).tolist()
    found["step.end"] = (starts[steps] + sizes[steps] - first).tolist()
    found["step.kind"] = ["turn"] * len(steps)
    read = next((place for place, is_own in enumerate(sampled) if is_own), len(path))
    said = messages_of(nodes[node].get("message") or {} for node in path)
    found["prompt"] = said[:read]
    found["text"] = "\n".join(each["content"] for each in said[read:])
    return found


def _first_true(values: Any) -> int:
    return int(values.argmax()) if values.any() else 0


def _effective(source: Source) -> set[str] | None:
    """The ids of the traces that prime-rl trained on, where this file has all and the folder beside it those."""
    if source.path.parent.name != "all":
        return None
    kept = source.path.parent.parent / "effective" / source.path.name
    if not kept.is_file():
        return None
    return {trace["id"] for _, episode in Source(kept).lines() for trace in episode.get("traces") or ()}
