"""Rollouts as a file, and what `assign-credit` makes of them, beside which every adapter is held."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from typer.testing import Result


@dataclass(frozen=True)
class Row:
    """A row as a trainer's test writes it down: 1 in `own` is a token of the policy's. Without a reward it failed.

    paid, states: of each turn, which is a run of the policy's tokens.
    """

    group: str
    ids: list[int]
    own: list[int]
    reward: float | None
    episode: str = ""
    part: int = 0
    paid: tuple[float, ...] = ()
    states: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()

    @property
    def turns(self) -> list[tuple[int, int]]:
        edges = np.flatnonzero(np.diff([0, *self.own, 0]))
        return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


Assigned = Callable[..., list[np.ndarray]]


@pytest.fixture
def assigned(cli: Callable[..., Result], tmp_path: Path) -> Assigned:
    """assigned(rows, method, option=…) → the credit that `assign-credit` gives each row's tokens; 0 where a row failed."""

    def assign(rows: list[Row], method: str, **options: Any) -> list[np.ndarray]:
        order = sorted(range(len(rows)), key=lambda row: rows[row].group)
        sorted_rows = [rows[row] for row in order]
        held: dict[str, Any] = {
            "rollout_id": [f"r{row}" for row in order],
            "group_id": [row.group for row in sorted_rows],
            "reward": pa.array([row.reward for row in sorted_rows], pa.float64()),
            "flags": pa.array([[] if row.reward is not None else ["error"] for row in sorted_rows], pa.list_(pa.string())),
        }
        if any(row.episode for row in rows):
            held["episode_id"] = [row.episode for row in sorted_rows]
            held["part"] = pa.array([row.part for row in sorted_rows], pa.int32())
        columns: dict[str, Any] = {
            "token.id": Ragged.from_lists([row.ids for row in sorted_rows], np.int32),
            "token.mask": Ragged.from_lists([[bool(own) for own in row.own] for row in sorted_rows], bool),
            "step.start": [[start for start, _ in row.turns] for row in sorted_rows],
            "step.end": [[end for _, end in row.turns] for row in sorted_rows],
        }
        if any(row.paid for row in rows):
            columns["step.reward"] = Ragged.from_lists([list(row.paid) for row in sorted_rows], np.float64)
        if any(row.states for row in rows):
            columns["step.state"] = pa.array([list(row.states) for row in sorted_rows], pa.list_(pa.string()))
        if any(row.logprobs for row in rows):
            columns["token.logprob"] = Ragged.from_lists([list(row.logprobs) for row in sorted_rows], np.float32)
        file, tree, credit = (tmp_path / f"{name}.parquet" for name in ("rows", "tree", "credit"))
        write_rollouts(file, [Rollouts(pa.table(held)).with_columns(columns)], Provenance())
        if not any(row.part for row in rows):
            assert cli("tree-build", file, "-o", tree, "--force").exit_code == 0
            file = tree
        settings = [
            word
            for name, value in options.items()
            for word in (("--preset", value) if name == "preset" else ("--set", f"{name}={value}"))
        ]
        result = cli("assign-credit", file, "--method", method, *settings, "-o", credit, "--force")
        assert result.exit_code == 0, result.output
        lists = RolloutFile(credit).read().arrow("token.advantage").to_pylist()
        found: list[np.ndarray] = [np.empty(0)] * len(rows)
        for row, values in zip(order, lists, strict=True):
            found[row] = np.zeros(len(rows[row].ids)) if values is None else np.array(values)
        return found

    return assign
