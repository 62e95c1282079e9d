"""Which rollouts to show: chosen while the file streams by, so that no more of it is read and kept than has to be."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from ...formats.errors import UsageError, unknown
from ...formats.parquet import RolloutFile
from ...formats.predicates import Predicate
from ...formats.rollouts import Rollouts

NAMED_IN_A_FAULT = 1000  # names among which a near match is looked for

# Is there room for a group of so many rollouts and tokens, when so many groups, rollouts and tokens are chosen?
Room = Callable[[tuple[int, int, int], tuple[int, int]], bool]


def first_groups(limit: int) -> Room:
    """Room for so many groups."""
    return lambda chosen, group: chosen[0] < limit


def is_dead(group: Rollouts) -> bool:
    """Whether the group's rewards are all equal, so that nothing in it was decided. Never of a group of one, or without rewards."""
    if "reward" not in group or len(group) < 2:
        return False
    reward = group.numbers("reward").astype(np.float64)
    return bool((reward == reward[0]).all())


def row_of(group: Rollouts, rollout: str) -> int:
    """The row of a rollout in its group, by its name or its number from 0. UsageError where there is none."""
    names = group.strings("rollout_id")
    if rollout in names:
        return names.index(rollout)
    if rollout.isdigit() and int(rollout) < len(names):
        return int(rollout)
    raise unknown(f"rollout of group {group.strings('group_id')[0]!r}:", rollout, names[:NAMED_IN_A_FAULT])


class Choice:
    """The groups to show: one by name or number, that of one rollout (and nothing else of it), or as many as there is room for.

    A rollout of a named group is left to the caller. live: groups whose rewards are all equal are passed over, unless
    there are no others; then the first of them is shown.
    where: only groups with a rollout of which it is true; numbers count among these. A name comes before a number.
    UsageError for a predicate that does not fit the file.
    """

    def __init__(
        self, file: RolloutFile, *, group: str | None, rollout: str | None, where: str | None, room: Room,
        live: bool = False,
    ) -> None:  # fmt: skip
        self._predicate = None if where is None else Predicate(where)
        if self._predicate is not None:
            self._predicate.check(file.schema)
        self._what, self._wanted = ("group", group) if group is not None or rollout is None else ("rollout", rollout)
        self._number: int | None = None
        if self._wanted is not None and self._wanted.isdigit() and not self._is_name(file):
            self._number = int(self._wanted)
        self._room, self._live = room, live
        self._dead: list[Rollouts] = []  # the first group that was passed over
        self._rows = self._passed = 0  # rows read; rollouts or groups that were looked at
        self._names: list[str] = []
        self._size = (0, 0, 0)  # of what is chosen: groups, rollouts, tokens
        self._found: list[Rollouts] = []
        self.done = False

    def add(self, batch: Rollouts) -> None:
        """The file's next whole groups."""
        row, self._rows = self._rows, self._rows + len(batch)
        if self.done:
            return
        if self._predicate is not None:
            kept = batch.groups.spread(batch.groups.any(self._predicate(batch, row)))
            if not kept.all():
                batch = batch.take(np.flatnonzero(kept))
        if len(batch) and self._wanted is not None:
            self._look(batch)
        elif len(batch):
            self._fill(batch)

    def found(self) -> list[Rollouts]:
        """What was chosen of all that was added, in groups. UsageError where it is nothing."""
        if self._found or self._dead:
            return self._found or self._dead
        if self._predicate is not None and not self._passed:
            raise UsageError(f"--where {self._predicate.text}: true of no rollout in the file")
        if self._wanted is None:
            return []
        if self._passed > NAMED_IN_A_FAULT:
            raise UsageError(f"no {self._what} {self._wanted!r}; by number, 0 to {self._passed - 1}")
        raise unknown(self._what, self._wanted, self._names)

    def _is_name(self, file: RolloutFile) -> bool:
        column = f"{self._what}_id"
        return any(self._wanted in part.strings(column) for part in file.row_groups([column]))

    def _look(self, batch: Rollouts) -> None:
        """For the one group or rollout that is wanted."""
        ends = batch.groups.offsets
        if self._what == "rollout":
            names, ends = batch.strings("rollout_id"), np.arange(len(batch) + 1)
        else:
            names = batch.arrow("group_id").take(batch.groups.starts).to_pylist()
        place = -1
        if self._number is not None:
            place = self._number - self._passed if self._number < self._passed + len(names) else -1
        elif self._wanted in names:
            place = names.index(self._wanted)
        self._passed += len(names)
        self._names += names[: NAMED_IN_A_FAULT - len(self._names)]
        if place >= 0:
            self._found, self.done = [batch.slice(int(ends[place]), int(ends[place + 1]))], True

    def _fill(self, batch: Rollouts) -> None:
        """As many of the groups as there is room for."""
        self._passed += len(batch.groups)
        for start, end in pairwise(batch.groups.offsets.tolist()):
            if self._live and is_dead(batch.slice(start, end)):
                self._dead = self._dead or [batch.slice(start, end)]
                continue
            tokens = int(batch.tokens.offsets[end] - batch.tokens.offsets[start])
            if not self._room(self._size, (end - start, tokens)):
                self.done = True
                return
            self._size = (self._size[0] + 1, self._size[1] + end - start, self._size[2] + tokens)
            self._found.append(batch.slice(start, end))
        self.done = not self._room(self._size, (0, 0))
