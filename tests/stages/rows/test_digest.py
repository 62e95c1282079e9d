"""`apportion digest` on files: storage leaves no trace, values do, and a seed gives the same file twice."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apportion.formats.parquet import RolloutFile
from apportion.formats.rollouts import Rollouts
from typer.testing import Result

Cli = Callable[..., Result]


@pytest.fixture
def digest_of(cli: Cli) -> Callable[..., str]:
    def found(*arguments: object) -> str:
        result = cli("digest", *arguments)
        assert (result.exit_code, result.stderr) == (0, "")
        return result.stdout.split()[0]

    return found


@pytest.fixture
def credit(chain: Path) -> Path:
    return chain / "credit.parquet"


@pytest.mark.parametrize(
    "storage",
    [
        {"row_group_size": 5, "compression": "gzip", "use_dictionary": False},
        {"row_group_size": 1, "compression": "none", "data_page_version": "2.0"},
        {"use_dictionary": True, "data_page_size": 64, "write_statistics": False, "version": "1.0"},
        {"store_schema": False},
    ],
    ids=str,
)
def test_how_a_file_is_stored_does_not_count(
    storage: dict, credit: Path, tmp_path: Path, digest_of: Callable[..., str]
) -> None:
    table = pq.read_table(credit).replace_schema_metadata({"other": "tool"})
    again = tmp_path / "again.parquet"
    pq.write_table(table.select(table.column_names[::-1]), again, **storage)
    assert digest_of(again) == digest_of(credit)


def changed(credit: Path, target: Path, path: str, change: Callable[[Rollouts], object]) -> Path:
    rollouts = RolloutFile(credit).read()
    pq.write_table(rollouts.with_columns({path: change(rollouts)}).table, target)
    return target


def test_one_token_counts(credit: Path, tmp_path: Path, digest_of: Callable[..., str], cli: Cli) -> None:
    def one_more(rollouts: Rollouts) -> object:
        array = rollouts.arrow("token.id")
        lists = array.to_pylist()
        lists[7][2] += 1
        return pa.array(lists, array.type)

    other = changed(credit, tmp_path / "other.parquet", "token.id", one_more)
    assert digest_of(other) != digest_of(credit)
    one, two = json.loads(cli("digest", credit, other, "--json").stdout)
    assert [path for path in one["columns"] if one["columns"][path] != two["columns"][path]] == ["token.id"]
    assert one["rollouts"] == two["rollouts"] == 48
    assert digest_of(other, "--columns", "token.advantage", "-c", "reward") == digest_of(
        credit, "-c", "reward", "-c", "token.advantage"
    )
    assert digest_of(other, "--columns", "token") != digest_of(credit, "--columns", "token")


def test_null_is_not_zero(credit: Path, tmp_path: Path, digest_of: Callable[..., str]) -> None:
    zero = changed(credit, tmp_path / "zero.parquet", "weight", lambda old: pa.array([0.0] * len(old)))
    null = changed(credit, tmp_path / "null.parquet", "weight", lambda old: pa.nulls(len(old), pa.float64()))
    assert len({digest_of(zero), digest_of(null), digest_of(credit)}) == 3


def test_a_directory_is_one_file_in_parts(credit: Path, tmp_path: Path, digest_of: Callable[..., str]) -> None:
    table = pq.read_table(credit)
    (tmp_path / "parts").mkdir()
    for number, start in enumerate((0, 8, 32)):
        pq.write_table(table.slice(start, (8, 24, 16)[number]), tmp_path / "parts" / f"{number}.parquet")
    assert digest_of(tmp_path / "parts") == digest_of(credit)
    pq.write_table(table.slice(0, 4).drop_columns(["reward"]), tmp_path / "parts" / "3.parquet")


def test_files_of_a_directory_with_other_columns(chain: Path, tmp_path: Path, cli: Cli) -> None:
    for name in ("credit", "scored"):
        shutil.copy(chain / f"{name}.parquet", tmp_path / f"{name}.parquet")
    result = cli("digest", tmp_path)
    assert result.exit_code == 3
    assert "scored.parquet: other columns than" in result.stderr
    assert "(token.advantage, token.advantage_grpo)" in result.stderr
    assert cli("digest", tmp_path, "-c", "reward").exit_code == 0
    result = cli("digest", tmp_path, "-c", "token.advantage")
    assert (result.exit_code, result.stderr.count("\n")) == (3, 1)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nope.parquet",), 2, "nope.parquet: no such file"),
        (("{credit}", "-c", "rewrd"), 2, "unknown column 'rewrd'; did you mean 'reward'?"),
        (("{text}",), 3, "text.parquet: not a whole Parquet file"),
        ((), 2, "missing argument 'paths"),
    ],
)
def test_faults(arguments: tuple[str, ...], code: int, message: str, credit: Path, tmp_path: Path, cli: Cli) -> None:
    text = tmp_path / "text.parquet"
    text.write_text("text")
    result = cli("digest", *(each.format(credit=credit, text=text) for each in arguments))
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_seed_gives_the_same_file_twice(cli: Cli, tmp_path: Path, digest_of: Callable[..., str]) -> None:
    def made(name: str, seed: int) -> str:
        folder = tmp_path / name
        for line in (
            f"sample --prompts 4 -n 4 --seed {seed} --max-tokens 24 --device cpu -o {folder}/rollouts.parquet",
            f"tree-build {folder}/rollouts.parquet -o {folder}/tree.parquet",
            f"score {folder}/tree.parquet -o {folder}/scored.parquet",
            f"assign-credit {folder}/scored.parquet --method tempo -o {folder}/credit.parquet",
        ):
            assert cli(*line.split()).exit_code == 0
        return digest_of(folder / "credit.parquet")

    assert made("one", 5) == made("two", 5) != made("three", 6)


def test_wide_and_narrow_numbers_agree(credit: Path, tmp_path: Path, digest_of: Callable[..., str]) -> None:
    rollouts = RolloutFile(credit).read()
    ids = rollouts.arrow("token.id").cast(pa.large_list(pa.int64()))
    advantage = rollouts.arrow("token.advantage").cast(pa.list_(pa.float64()))
    struct = rollouts.table.column("token").combine_chunks()
    leaves = dict(zip([field.name for field in struct.type], struct.flatten(), strict=True))
    leaves |= {"id": ids, "advantage": advantage}
    place = rollouts.table.column_names.index("token")
    wide = rollouts.table.set_column(place, "token", pa.StructArray.from_arrays(list(leaves.values()), list(leaves)))
    wide = wide.set_column(wide.column_names.index("group_id"), "group_id", wide.column("group_id").dictionary_encode())
    pq.write_table(wide, tmp_path / "wide.parquet")
    assert digest_of(tmp_path / "wide.parquet") == digest_of(credit)
    assert np.array_equal(Rollouts(wide).token_ids.values, rollouts.token_ids.values)
