"""Credit per token in tinker-cookbook: around the function that makes its training data.

    from tinker_cookbook.rl import train
    from apportion.stages.interop.tinker import with_credit

    train.assemble_training_data = with_credit(train.assemble_training_data, "tempo")

Written for tinker-cookbook 0.6, with whose own trajectories and datums it is tested. It needs no tinker itself.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from math import isnan
from typing import Any, NamedTuple

import numpy as np

from ...formats.errors import DataError
from ...formats.segments import Array
from ..assign_credit import CreditInfo, TokenCredit
from ._rows import SPANS, credit_for
from ._seam import credit_rows

HAS = ("reward", "token.logprob", "step.reward", *SPANS)
Assemble = Callable[..., tuple[list[Any], list[dict[str, int]]]]


def with_credit(
    assemble: Assemble,
    method: str,
    *,
    preset: str | None = None,
    seen: Callable[[CreditInfo], None] | None = None,
    **options: Any,
) -> Assemble:
    """`assemble_training_data`, with the credit of a method as the advantages of its datums.

    Groups and rewards are those of its trajectory groups. A transition is a step, and is paid its reward; the last is paid the
    group's final reward, too. A trajectory that became several datums is one episode; one that became none counts in its group
    with its reward. Trajectories whose reward is not a number take no part. Tokens that the cookbook masks out get 0.

    Args:
        assemble: assemble_training_data of tinker_cookbook.rl.data_processing.
        method: a credit method that needs no probes; see `apportion list methods`.
        preset: conventions of a library.
        seen: called with what each call met: dead groups, groups of one, tokens with credit.
        options: of the method.

    Returns:
        The function, called like the one given. The advantages that it is called with are not used.

    Raises:
        UsageError: an unknown method, preset or option, and a method that needs a column trajectories do not have.
    """
    credit = credit_for("a trajectory of tinker-cookbook", method, preset, options, has=HAS)

    @wraps(assemble)
    def assembled(trajectory_groups_P: Any, *args: Any, **kwargs: Any) -> tuple[list[Any], list[dict[str, int]]]:
        data, places = assemble(trajectory_groups_P, *args, **kwargs)
        data, info = overwrite(credit, data, places, trajectory_groups_P)
        if seen is not None:
            seen(info)
        return data, places

    return assembled


class Row(NamedTuple):
    """A datum, or a trajectory without one. place: its group and trajectory. reward: of the trajectory. number: of the datum.
    start: where its response begins among the targets. spans: steps, in tokens of the response; paid: what each was paid."""

    place: tuple[int, int]
    reward: float
    number: int = -1
    datum: Any = None
    start: int = 0
    spans: Sequence[tuple[int, int]] = ()
    paid: Sequence[float] = ()

    def inputs(self, name: str) -> Array:
        """[T] what the datum has of the tokens of its response."""
        return np.empty(0) if self.datum is None else self.datum.loss_fn_inputs[name].to_numpy()[self.start :]


SIGNALS: dict[str, Callable[[Sequence[Row]], list[Any]]] = {
    "token.logprob": lambda rows: [row.inputs("logprobs") for row in rows],
    "step.reward": lambda rows: [row.paid for row in rows],
}


def overwrite(
    credit: TokenCredit, data: Sequence[Any], places: Sequence[Mapping[str, int]], groups: Sequence[Any]
) -> tuple[list[Any], CreditInfo]:
    """The datums with the method's credit as their advantages, and what the batch was like.

    places: group_idx and traj_idx of each datum, in the trajectory groups. DataError where these datums were not made of them.
    """
    numbers = defaultdict[tuple[int, int], list[int]](list)
    for number, place in enumerate(places):
        numbers[place["group_idx"], place["traj_idx"]].append(number)
    rows = [
        row
        for g, group in enumerate(groups)
        for t, (trajectory, reward) in enumerate(zip(group.trajectories_G, group.get_total_rewards(), strict=True))
        for row in _rows(trajectory, (g, t), float(reward), numbers[g, t], data)
    ]
    found, info = credit_rows(
        credit,
        [row.inputs("target_tokens") for row in rows],
        [row.inputs("mask") > 0 for row in rows],
        reward=[row.reward for row in rows],
        group=[row.place[0] for row in rows],
        episode=[f"{group}/{trajectory}" for group, trajectory in (row.place for row in rows)],
        steps=[row.spans for row in rows] if "step.start" in credit.needs else None,
        skip=[isnan(row.reward) for row in rows],
        signals={path: signal(rows) for path, signal in SIGNALS.items() if path in credit.needs},
    )
    out = list(data)
    for row, values in zip(rows, found, strict=True):
        if row.datum is not None:
            advantages = np.zeros(len(row.datum.loss_fn_inputs["advantages"].to_numpy()), np.float32)
            advantages[row.start :] = values
            out[row.number] = replace(row.datum, loss_fn_inputs={**row.datum.loss_fn_inputs, "advantages": advantages})
    return out, info


def _rows(
    trajectory: Any, place: tuple[int, int], reward: float, numbers: Sequence[int], data: Sequence[Any]
) -> Iterator[Row]:
    """A row for each datum of a trajectory. A datum's targets are its tokens from the second on."""
    turns = deque(
        (turn.ob.length, turn.ob.length + len(turn.ac.tokens), float(turn.reward))
        for turn in trajectory.transitions
        if turn.ac.tokens
    )
    rest = reward - sum(paid for _, _, paid in turns)  # of the whole group, and of transitions without tokens
    if not numbers and not turns:
        yield Row(place, reward)
    for number in numbers:
        size, here = len(data[number].loss_fn_inputs["target_tokens"].to_numpy()) + 1, list[tuple[int, int, float]]()
        while turns and turns[0][1] <= size and turns[0][0] >= (here[-1][1] if here else 0):
            here.append(turns.popleft())
        start = max(here[0][0] - 1, 0) if here else size - 1
        spans = [(max(begin - start - 1, 0), end - start - 1) for begin, end, _ in here]
        paid = [each for _, _, each in here]
        if here and not turns:
            paid[-1] += rest
        yield Row(place, reward, number, data[number], start, spans, paid)
    if turns:
        raise DataError(
            f"group {place[0]}, trajectory {place[1]}: {len(turns)} turns are in none of its datums; give the data, the places "
            "and the groups of one call of assemble_training_data"
        )
