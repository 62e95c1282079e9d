"""Random batches that have whatever a credit method may read: steps, trees, states, probes, values, several rewards."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pytest
from apportion.formats.errors import DataError
from apportion.formats.invariants import lacking
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.formats.schema import FIELDS, ruler_of
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.assign_credit.kind import Credit, Method
from apportion.stages.structure.prefix_tree import add_prefix_tree

COLUMNS = (
    "token.logprob", "token.entropy", "token.value", "step.state", "step.reward", "step.value",
    "rewards.right", "rewards.format", "reward_baseline",
)  # fmt: skip
IN_REWARDS = re.compile(r"reward|value|potential")
MISSING = re.compile(r"column '([a-z_]+(?:\.[a-z_]+)?)'")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Drawn:
    """A rollout in the policy's own tokens. key: what all its numbers are drawn from. cuts: where its steps start."""

    key: int
    group: int
    tokens: tuple[int, ...]
    cuts: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """What is drawn from a seed, and how it is shown to a method.

    holes: an environment wrote tokens in between; the same ones after the same prefix, so that trees keep their shape.
    constant: every reward of every rollout and probe. factor: all that is in reward units is multiplied by it.
    """

    seed: int
    rollouts: tuple[Drawn, ...]
    binary: bool = False
    holes: bool = False
    constant: float | None = None
    factor: float = 1.0
    dtype: Any = np.float64
    columns: tuple[str, ...] = COLUMNS

    def shuffled(self) -> "Batch":
        """Groups in another order, and rollouts in another order inside of them."""
        rng = np.random.default_rng([self.seed, 1])
        groups = sorted({each.group for each in self.rollouts})
        order = [each for group in rng.permutation(groups) for each in self._of(int(group))]
        key = {each.key: number for each, number in zip(order, rng.random(len(order)).tolist(), strict=True)}
        place = {int(group): at for at, group in enumerate(dict.fromkeys(each.group for each in order))}
        return replace(self, rollouts=tuple(sorted(order, key=lambda each: (place[each.group], key[each.key]))))

    def parts(self) -> "list[Batch]":
        """Each group by itself."""
        return [replace(self, rollouts=tuple(self._of(g))) for g in dict.fromkeys(each.group for each in self.rollouts)]

    def _of(self, group: int) -> list[Drawn]:
        return [each for each in self.rollouts if each.group == group]

    def _rng(self, each: Drawn, what: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, each.key, crc32(what.encode())])

    def _reward(self, each: Drawn, what: str = "reward") -> float:
        number = self._rng(each, what).random() if self.constant is None else self.constant
        return float(self.dtype(round(number) if self.binary and self.constant is None else number)) * self.factor

    def _holes(self, each: Drawn, length: int) -> int:
        """How many tokens an environment wrote after the first `length` of the policy's."""
        return crc32(repr((self.seed, each.group, each.tokens[:length])).encode()) % 3 if self.holes else 0

    def places(self, each: Drawn) -> list[int]:
        """Where each policy token of the rollout stands in its response; last the end of the response."""
        found, at = [], 0
        for length in range(len(each.tokens) + 1):
            at += self._holes(each, length)
            found.append(at)
            at += 1
        return found

    def response(self, each: Drawn) -> tuple[list[int], list[bool]]:
        places = self.places(each)
        tokens, mask = [90] * places[-1], [False] * places[-1]
        for place, token in zip(places[:-1], each.tokens, strict=True):
            tokens[place], mask[place] = token, True
        return tokens, mask

    def credit(self) -> Credit:
        """As a method sees it."""
        shown = [self.response(each) for each in self.rollouts]
        batch = rollouts_of(
            [self._reward(each) for each in self.rollouts],
            tokens=[tokens for tokens, _ in shown],
            mask=[mask for _, mask in shown],
            groups=[each.group for each in self.rollouts],
        )
        at = batch.table.schema.get_field_index("reward")
        reward = np.array([self._reward(each) for each in self.rollouts], self.dtype)
        batch = Rollouts(batch.table.set_column(at, "reward", pa.array(reward)))
        batch = batch.with_columns(
            {
                "rollout_id": [f"r{each.key}" for each in self.rollouts],
                "purpose": ["train"] * len(self.rollouts),
                "step.start": Ragged.from_lists([self._starts(each) for each in self.rollouts], np.int32),
                "step.end": Ragged.from_lists([self._ends(each) for each in self.rollouts], np.int32),
            }
        )
        batch = add_prefix_tree(batch)
        for path in self.columns:
            if path not in batch:
                batch = batch.with_columns({path: self._column(path)})
        return Credit(batch, self._probes())

    def _starts(self, each: Drawn) -> list[int]:
        return [self.places(each)[cut] for cut in each.cuts]

    def _ends(self, each: Drawn) -> list[int]:
        places = self.places(each)
        return [places[cut - 1] + 1 for cut in (*each.cuts, len(each.tokens))[1:]]

    def _column(self, path: str) -> Any:
        """Numbers (or names, or truth values) for a column, on its ruler."""
        kind = FIELDS[path].type if path in FIELDS else pa.string() if path == "step.state" else pa.float64()
        ruler = ruler_of(path)
        numbers: list[Array] = []
        for each in self.rollouts:
            size = {"rollout": 1, "token": len(each.tokens)}.get(ruler, len(each.cuts))
            drawn = self._rng(each, path).random(size)
            if path == "token.logprob":
                drawn = np.log(drawn)
            elif ruler == "rollout" and IN_REWARDS.search(path):
                drawn = np.array([self._reward(each, path)])
            elif IN_REWARDS.search(path):
                drawn = drawn * self.factor
            if ruler == "token":
                whole = self._rng(each, "junk").random(self.places(each)[-1]) - 7
                whole[self.places(each)[:-1]] = drawn
                drawn = whole
            numbers.append(drawn)
        if pa.types.is_string(kind):
            lists: Sequence[Any] = [[f"s{int(3 * number)}" for number in row] for row in numbers]
            return pa.array(lists, pa.list_(kind)) if ruler != "rollout" else pa.array([row[0] for row in lists], kind)
        if pa.types.is_boolean(kind):
            numbers = [row > 0.5 for row in numbers]
        elif pa.types.is_integer(kind):
            numbers = [(3 * row).astype(np.int64) for row in numbers]
        if ruler == "rollout":
            return np.concatenate(numbers)
        return Ragged.from_lists(numbers, numbers[0].dtype)

    def _probes(self) -> Rollouts:
        """One continuation from every policy token of every rollout, and a greedy rollout for each group."""
        rows: list[dict[str, Any]] = []
        for each in self.rollouts:
            tokens, places = self.response(each)[0], self.places(each)
            for length in range(len(each.tokens)):
                state = Drawn(crc32(repr((each.group, each.tokens[:length])).encode()), each.group, (), ())
                rows.append(
                    {"parent_id": f"r{each.key}", "fork": places[length], "group_id": f"g{each.group}",
                     "tokens": [*tokens[: places[length]], 80], "temperature": 1.0,
                     "reward": self._reward(replace(state, key=state.key + each.key), "probe")}
                )  # fmt: skip
        for group in dict.fromkeys(each.group for each in self.rollouts):
            greedy = Drawn(group, group, (), ())
            rows.append(
                {"parent_id": None, "fork": 0, "group_id": f"g{group}", "tokens": [80], "temperature": 0.0,
                 "reward": self._reward(greedy, "greedy")}
            )  # fmt: skip
        ids = Ragged.from_lists([row["tokens"] for row in rows], np.int32)
        columns = {
            name: [row[name] for row in rows] for name in ("group_id", "parent_id", "fork", "temperature", "reward")
        }
        columns["rollout_id"] = [f"p{place}" for place in range(len(rows))]
        columns["purpose"] = ["probe"] * len(rows)
        bare = pa.table({"rollout_id": columns.pop("rollout_id"), "group_id": columns.pop("group_id")})
        last = ids.segments.positions + 1 == ids.segments.spread(ids.segments.sizes)
        return Rollouts(bare).with_columns({**columns, "token.id": ids, "token.mask": ids.with_values(last)})

    def credited(self, method: Method, options: dict[str, Any]) -> tuple[Credit, Array]:
        """The batch, and the method's credit of every token [T]. Columns it asks for are added."""
        needed = lacking(self.columns, method.needs)
        batch = replace(self, columns=(*self.columns, *needed))
        for _ in range(8):
            credit = batch.credit()
            try:
                values = method.assign(credit, **options)
                break
            except DataError as error:
                found = MISSING.search(str(error))
                if found is None or found[1] in credit.rollouts:
                    raise
                batch = replace(batch, columns=(*batch.columns, found[1]))
        else:
            raise AssertionError(f"{method.name} asks for ever more columns: {batch.columns}")
        if method.granularity == "rollout" and len(values) == len(credit.rollouts):
            values = np.where(credit.mask, credit.tokens.spread(values), 0.0)
        assert values.shape == credit.mask.shape
        assert values.dtype == np.float64
        return credit, values

    def by_rollout(self, method: Method, options: dict[str, Any]) -> dict[int, list[float]]:
        """Credit of the policy's own tokens, by the rollout's key."""
        credit, values = self.credited(method, options)
        rows = {}
        for row, each in enumerate(self.rollouts):
            here = slice(int(credit.tokens.offsets[row]), int(credit.tokens.offsets[row + 1]))
            rows[each.key] = values[here][credit.mask[here]].tolist()
        return rows


def drawn(seed: int, sizes: Sequence[int] | None = None) -> Batch:
    """Groups of the given sizes, by default a few and one of one; short responses of few tokens, so that they share prefixes."""
    rng = np.random.default_rng(seed)
    chosen = list(sizes) if sizes is not None else [int(size) for size in rng.permutation([1, *rng.integers(2, 6, 3)])]
    rollouts: list[Drawn] = []
    for group, size in enumerate(chosen):
        for _ in range(size):
            length = int(rng.integers(0, 8))
            cuts = sorted({0, *(int(cut) for cut in rng.integers(0, length, 2))}) if length else []
            rollouts.append(Drawn(len(rollouts), group, tuple(rng.integers(1, 4, length).tolist()), tuple(cuts)))
    return Batch(seed, tuple(rollouts), binary=bool(seed % 2))


@pytest.fixture(scope="session")
def draw() -> Callable[..., Batch]:
    """The function `drawn`."""
    return drawn
