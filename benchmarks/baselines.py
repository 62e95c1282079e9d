"""Credit as it is usually written: what credit.py measures against.

From the formulas, in the shape the large trainers have: a Python dict of lists by group, a loop over padded columns, a
trie of dicts, a loop over steps.
"""

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from apportion.formats.segments import Array


def grpo_dict_loop(scores: torch.Tensor, uids: Array, mask: torch.Tensor) -> torch.Tensor:
    """[B] scores and uids, [B, L] mask -> [B, L]."""
    scores = scores.clone()
    by_uid, mean, std = defaultdict(list), {}, {}
    for row in range(len(scores)):
        by_uid[uids[row]].append(scores[row])
    for uid, members in by_uid.items():
        stacked = torch.stack(members)
        mean[uid], std[uid] = stacked.mean(), stacked.std()
    for row in range(len(scores)):
        scores[row] = (scores[row] - mean[uids[row]]) / (std[uids[row]] + 1e-6)
    return scores.unsqueeze(-1) * mask


def grpo_vectorised(scores: torch.Tensor, uids: Array, mask: torch.Tensor) -> torch.Tensor:
    """The same by scatter."""
    _, places = np.unique(uids, return_inverse=True)
    group = torch.from_numpy(places)
    count = torch.zeros(int(group.max()) + 1).index_add_(0, group, torch.ones_like(scores))
    mean = torch.zeros_like(count).index_add_(0, group, scores) / count
    centred = scores - mean[group]
    variance = torch.zeros_like(count).index_add_(0, group, centred * centred) / (count - 1)
    return (centred / (variance.sqrt()[group] + 1e-6)).unsqueeze(-1) * mask


def gae_columns(rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, lam: float) -> torch.Tensor:
    """[B, L] each -> [B, L], one column after another from the last."""
    following = torch.zeros(len(values))
    carried = torch.zeros(len(values))
    columns = []
    for place in reversed(range(values.shape[1])):
        here = mask[:, place]
        delta = rewards[:, place] + following - values[:, place]
        carried = (delta + lam * carried) * here + (1 - here) * carried
        following = values[:, place] * here + (1 - here) * following
        columns.append(carried)
    return torch.stack(columns[::-1], dim=1) * mask


def trie_visits(responses: list[list[int]], groups: list[tuple[int, int]]) -> int:
    """Nodes of all groups' tries, each with the number of responses that pass through it."""
    nodes = 0
    for low, high in groups:
        root: dict[Any, Any] = {}
        for response in responses[low:high]:
            node: dict[Any, Any] = root
            for token in response:
                child: dict[Any, Any] | None = node.get(token)
                if child is None:
                    child = node[token] = {"visits": 0}
                    nodes += 1
                child["visits"] += 1
                node = child
    return nodes


def gigpo_rows(
    rewards: Array, states: Array, trajectories: Array, uids: Array, mask: torch.Tensor, gamma: float
) -> torch.Tensor:
    """A row is a step: [S] rewards, states, trajectory and prompt ids, [S, L] mask -> [S, L].

    Returns in a loop over each trajectory's rows, then dicts of lists by prompt and by (prompt, state), row by row.
    """
    rows_of = defaultdict(list)
    for row in range(len(rewards)):
        rows_of[trajectories[row]].append(row)
    quality, score = torch.zeros(len(rewards)), torch.zeros(len(rewards))
    for rows in rows_of.values():
        ahead = 0.0
        for row in reversed(rows):
            ahead = float(rewards[row]) + gamma * ahead
            quality[row] = ahead
            score[row] = float(sum(rewards[each] for each in rows))
    episode = _normalised_rows(score, list(uids))
    step = _normalised_rows(quality, list(zip(uids, states, strict=True)))
    return (episode + step).unsqueeze(-1) * mask


def _normalised_rows(values: torch.Tensor, keys: list) -> torch.Tensor:
    by_key, mean, std = defaultdict(list), {}, {}
    for row in range(len(values)):
        by_key[keys[row]].append(values[row])
    for key, members in by_key.items():
        stacked = torch.stack(members)
        mean[key], std[key] = (stacked.mean(), stacked.std()) if len(members) > 1 else (stacked[0], torch.tensor(1.0))
    values = values.clone()
    for row in range(len(values)):
        values[row] = (values[row] - mean[keys[row]]) / (std[keys[row]] + 1e-6)
    return values
