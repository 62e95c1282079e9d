"""The file as others read it: what DuckDB, Polars and `datasets` compute from it is what the stages wrote."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import duckdb
import numpy as np
import polars
import pytest
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from typer.testing import Result

# TEMPO's worked example, then a group with an environment's token and an empty response.
REWARDS = [1.0, 0.0, 1.0, 0.0, 0.5, 0.25]
TOKENS = [[5, 7, 9, 2], [5, 7, 8, 2], [5, 6, 4], [5, 7, 9, 3, 2], [3, 1, 4], []]
MASK = [*[[True] * len(row) for row in TOKENS[:4]], [True, False, True], []]
GROUPS = [0, 0, 0, 0, 1, 1]

MEANS = {"g0": 0.5, "g1": 0.375}
# (rollout, token, advantage) of the first rollout, from the method's worked example.
FIRST = [("r0", 5, 0.866024), ("r0", 7, 0.577349), ("r0", 9, 1.154699), ("r0", 2, 1.732048)]


@pytest.fixture
def path(tmp_path: Path, cli: Callable[..., Result]) -> Path:
    """Rollouts that went through `tree-build` and `assign-credit --method tempo`."""
    scored, tree, credit = (tmp_path / f"{name}.parquet" for name in ("scored", "tree", "credit"))
    write_rollouts(scored, [rollouts_of(REWARDS, tokens=TOKENS, mask=MASK, groups=GROUPS)], Provenance())
    assert cli("tree-build", scored, "-o", tree).exit_code == 0
    assert cli("assign-credit", tree, "--method", "tempo", "-o", credit).exit_code == 0
    return credit


@pytest.fixture
def rollouts(path: Path) -> Rollouts:
    return RolloutFile(path).read()


def own_tokens(rollouts: Rollouts) -> list[tuple[str, int, float]]:
    """(rollout_id, token id, advantage) of each token the policy wrote, by our own reader."""
    rows = np.flatnonzero(rollouts.mask)
    names, of = rollouts.strings("rollout_id"), rollouts.tokens.ids[rows]
    ids, advantage = rollouts.token_ids.values[rows], rollouts.ragged("token.advantage").values[rows]
    return [(names[row], int(token), float(value)) for row, token, value in zip(of, ids, advantage, strict=True)]


def check_tokens(found: list[tuple[str, int, float]], rollouts: Rollouts) -> None:
    assert found == own_tokens(rollouts)
    assert len(found) == 18
    assert [(name, token) for name, token, _ in found[:4]] == [(name, token) for name, token, _ in FIRST]
    np.testing.assert_allclose([value for *_, value in found[:4]], [value for *_, value in FIRST], atol=1e-5)


def test_duckdb_means_rewards_by_group(path: Path) -> None:
    with duckdb.connect() as database:
        found = database.execute(f"SELECT group_id, avg(reward) FROM '{path}' GROUP BY group_id").fetchall()
    assert dict(found) == MEANS


def test_duckdb_unnests_tokens_with_their_mask(path: Path, rollouts: Rollouts) -> None:
    query = f"""
        SELECT rollout_id, id, advantage FROM (
            SELECT file_row_number AS row, rollout_id, unnest(token.id) AS id, unnest(token.mask) AS mask,
                   unnest(token.advantage) AS advantage, generate_subscripts(token.id, 1) AS place
            FROM read_parquet('{path}', file_row_number = true)
        ) WHERE mask ORDER BY row, place
    """
    with duckdb.connect() as database:
        check_tokens(database.execute(query).fetchall(), rollouts)


def test_duckdb_joins_nodes_over_the_rollouts_of_a_group(path: Path) -> None:
    query = f"""
        SELECT node, count(*), avg(reward)
        FROM (SELECT group_id, reward, unnest(node.id) AS node FROM '{path}') WHERE group_id = 'g0'
        GROUP BY node ORDER BY node
    """
    with duckdb.connect() as database:
        found = database.execute(query).fetchall()
    assert found[0] == (0, 4, 0.5)  # [5]: all four pass through
    assert sorted(count for _, count, _ in found) == [1, 1, 1, 1, 2, 3, 4]


def test_polars_means_rewards_by_group(path: Path) -> None:
    found = polars.scan_parquet(path).group_by("group_id").agg(polars.col("reward").mean()).collect()
    assert dict(found.iter_rows()) == MEANS


def test_polars_explodes_tokens_with_their_mask(path: Path, rollouts: Rollouts) -> None:
    leaves = ["id", "mask", "advantage"]
    found = (
        polars.scan_parquet(path)
        .select("rollout_id", *(polars.col("token").struct.field(leaf) for leaf in leaves))
        .filter(polars.col("id").list.len() > 0)
        .explode(leaves)
        .filter("mask")
        .select("rollout_id", "id", "advantage")
        .collect()
    )
    check_tokens(list(found.iter_rows()), rollouts)


def dataset(path: Path, folder: Path) -> Any:
    return datasets.Dataset.from_parquet(str(path), cache_dir=str(folder / "cache"))


def test_datasets_means_rewards_by_group(path: Path, tmp_path: Path) -> None:
    rows = dataset(path, tmp_path)
    rewards: dict[str, list[float]] = {}
    for row in rows:
        rewards.setdefault(row["group_id"], []).append(row["reward"])
    assert {group: sum(values) / len(values) for group, values in rewards.items()} == MEANS


def test_datasets_has_tokens_with_their_mask(path: Path, tmp_path: Path, rollouts: Rollouts) -> None:
    rows = dataset(path, tmp_path)
    found = [
        (row["rollout_id"], token, advantage)
        for row in rows
        for token, own, advantage in zip(*(row["token"][leaf] for leaf in ("id", "mask", "advantage")), strict=True)
        if own
    ]
    check_tokens(found, rollouts)


def test_what_datasets_writes_back_is_a_rollout_file(path: Path, tmp_path: Path, cli: Callable[..., Result]) -> None:
    rows = dataset(path, tmp_path)
    kept = rows.filter(lambda row: row["group_id"] == "g0", load_from_cache_file=False)
    kept.to_parquet(str(tmp_path / "kept.parquet"))
    told = cli("validate", tmp_path / "kept.parquet", "--ignore", "unsealed").stdout
    assert told == f"{tmp_path / 'kept.parquet'}: ok, 4 rollouts\n"
