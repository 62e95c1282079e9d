"""What a sound rollout file holds that is seldom meant: `validate` warns of it, and no stage refuses it."""

from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from .flags import ALONE
from .invariants import Broken, is_credit, without
from .rollouts import Rollouts


def suspicions(
    rollouts: Rollouts, broken: Collection[int], group_of_episode: dict[str, str] | None = None
) -> Iterator[Broken]:
    """What a batch holds that is seldom meant. Groups with a row in `broken` are passed over.

    group_of_episode: of earlier batches of the data set; this batch's are added.
    """
    unusable = np.zeros(len(rollouts), bool)
    unusable[list(broken)] = True
    sound, rows = without(rollouts, rollouts.groups.spread(rollouts.groups.any(unusable)))
    if not len(sound):
        return
    for found in (
        *_singletons(sound),
        *_zero_credit(sound),
        *_episodes(sound, {} if group_of_episode is None else group_of_episode),
    ):
        yield replace(found, row=int(rows[found.row]))


def _singletons(rollouts: Rollouts) -> Iterator[Broken]:
    trained = rollouts.for_training & ~np.any([rollouts.flagged(flag) for flag in ALONE], axis=0)
    groups, episodes = rollouts.groups, rollouts.episodes
    heads = np.zeros(len(rollouts), bool)  # the first trained row of each episode
    heads[np.unique(np.where(trained, episodes, -1), return_index=True)[1]] = True
    heads &= trained
    for row in np.flatnonzero(heads & groups.spread(groups.sum(heads) == 1)).tolist():
        name = rollouts.arrow("group_id")[row].as_py()
        message = f"rollout alone in group {name!r}, without a sibling to be compared with"
        yield Broken("singleton", row, "group_id", message)


def _zero_credit(rollouts: Rollouts) -> Iterator[Broken]:
    if "reward" not in rollouts or not {"token.mask", "token.id"} <= set(rollouts.paths):
        return
    reward, groups = rollouts.numbers("reward").astype(np.float64), rollouts.groups
    own = rollouts.tokens.any(rollouts.mask) & ~np.isnan(reward)
    for path in filter(is_credit, rollouts.paths):
        if not pa.types.is_floating(rollouts.arrow(path).type.value_type):
            continue
        credit = rollouts.ragged(path)
        counts = own if credit.present is None else own & credit.present
        least, most = (
            reduce(np.where(counts, reward, empty), empty=empty)
            for reduce, empty in ((groups.min, np.inf), (groups.max, -np.inf))
        )
        given = groups.any(credit.segments.any(credit.values != 0))
        for group in np.flatnonzero((most > least) & ~given).tolist():
            row = int(groups.starts[group])
            name = rollouts.arrow("group_id")[row].as_py()
            yield Broken("zero_credit", row, path, f"all credit of group {name!r} is 0, but its rewards are {least[group]:g} to {most[group]:g}")  # fmt: skip


def _episodes(rollouts: Rollouts, group_of_episode: dict[str, str]) -> Iterator[Broken]:
    """Episodes that are in two groups."""
    if "episode_id" not in rollouts:
        return
    names, groups = rollouts.strings("episode_id"), rollouts.strings("group_id")
    for row, (name, group) in enumerate(zip(names, groups, strict=True)):
        if name is not None and (other := group_of_episode.setdefault(name, group)) != group:
            message = f"episode {name!r} is in group {other!r}, too; it counts once in each"
            yield Broken("split_episode", row, "episode_id", message)
