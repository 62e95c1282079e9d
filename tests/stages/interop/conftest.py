"""What the adapters must agree with: `assign-credit` on a file of the same rollouts."""

from collections.abc import Callable, Sequence
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

CreditOfFile = Callable[..., list[list[float]]]
OPTIONAL = ("token.logprob", "token.trainable", "step.reward")


@pytest.fixture
def credit_of_file(cli: Callable[..., Result], tmp_path: Path) -> CreditOfFile:
    """credit_of_file(method, rows, …options) → the credit of each row's tokens, as the commands give it.

    A row has ids, own, reward and group, and where it matters episode, part, spans, and the columns of OPTIONAL.
    """

    def run(method: str, rows: Sequence[dict[str, Any]], **options: Any) -> list[list[float]]:
        order = sorted(range(len(rows)), key=lambda place: str(rows[place]["group"]))
        chosen = [rows[place] for place in order]
        table: dict[str, Any] = {
            "rollout_id": [f"r{place}" for place in order],
            "group_id": [f"g{row['group']}" for row in chosen],
            "reward": pa.array([row["reward"] for row in chosen], pa.float64()),
        }
        if any("episode" in row for row in chosen):
            table["episode_id"] = [str(row["episode"]) for row in chosen]
            table["part"] = pa.array([row["part"] for row in chosen], pa.int32())
        columns: dict[str, Any] = {
            "token.id": Ragged.from_lists([row["ids"] for row in chosen], np.int32),
            "token.mask": Ragged.from_lists([row["own"] for row in chosen], bool),
        }
        if any("spans" in row for row in chosen):
            columns["step.start"] = [[start for start, _ in row["spans"]] for row in chosen]
            columns["step.end"] = [[end for _, end in row["spans"]] for row in chosen]
        for path in OPTIONAL:
            if any(path in row for row in chosen):
                kind = bool if path == "token.trainable" else np.float64
                columns[path] = Ragged.from_lists([row[path] for row in chosen], kind)
        plain, tree, credit = (tmp_path / f"{name}.parquet" for name in ("plain", "tree", "credit"))
        write_rollouts(plain, [Rollouts(pa.table(table)).with_columns(columns)], Provenance(), force=True)
        made = cli("tree-build", plain, "-o", tree, "--force")
        assert made.exit_code == 0, made.output
        settings = [word for name, value in options.items() for word in ("--set", f"{name}={value}")]
        done = cli("assign-credit", tree, "--method", method, *settings, "-o", credit, "--force")
        assert done.exit_code == 0, done.output
        found = RolloutFile(credit).read().ragged("token.advantage")
        values = {place: found[row].tolist() for row, place in enumerate(order)}
        return [values[place] for place in range(len(rows))]

    return run
