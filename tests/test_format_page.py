"""docs/format.md says what the code does, and its snippets run on a file of the real chain."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from apportion.formats.parquet import RolloutFile
from apportion.formats.rollouts import Rollouts
from apportion.formats.rules import RULES
from apportion.formats.schema import FIELDS, FORMAT_VERSION

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "format.md"
TEXT = PAGE.read_text(encoding="utf-8")


def snippets(language: str) -> dict[str, str]:
    """Every snippet by the question that stands above it."""
    return dict(re.findall(rf"\n([^\n]+)\n\n```{language}\n(.*?)```", TEXT, flags=re.DOTALL))


SQL, POLARS = snippets("sql"), snippets("python")


def test_the_tables_are_those_of_the_code() -> None:
    spec = importlib.util.spec_from_file_location("regenerate", ROOT / "docs" / "regenerate.py")
    assert spec is not None
    assert spec.loader is not None
    regenerate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(regenerate)
    assert regenerate.regenerated(TEXT) == TEXT, "the tables are out of date; run: python docs/regenerate.py"
    assert all(f"| `{path}` |" in TEXT for path in FIELDS)
    assert regenerate.regenerated(TEXT.replace("`token.mask`", "")) != TEXT.replace("`token.mask`", "")


def test_every_rule_is_on_the_page() -> None:
    assert all(f"| `{name}` | {rule.severity} | {rule.meaning} |" in TEXT for name, rule in RULES.items())


def test_the_flags_that_stages_set_are_on_the_page() -> None:
    flags = re.findall(r"^\| `(\w+)` \|", TEXT.partition("## Flags")[2].partition("## ")[0], re.M)
    found = {
        flag for path in (ROOT / "stages").rglob("*.py") for flag in re.findall(r'with_flag\("(\w+)"', path.read_text())
    }
    assert found <= set(flags)
    assert set(flags) == {flag.strip(" …") for flag in re.split(r", | …", FIELDS["flags"].meaning) if flag.strip(" …")}


def test_the_version_is_the_codes() -> None:
    assert f"the format's version, an integer; now {FORMAT_VERSION} |" in TEXT


# ---------------------------------------------------------------------------------------------------- the snippets


@pytest.fixture
def rollouts(chain: Path, monkeypatch: pytest.MonkeyPatch) -> Rollouts:
    """The file the snippets read, in the working directory."""
    monkeypatch.chdir(chain)
    return RolloutFile(Path("credit.parquet")).read()


def sql(number: int) -> list[tuple[Any, ...]]:
    return duckdb.connect().execute(list(SQL.values())[number]).fetchall()


def polars(number: int) -> pl.DataFrame:
    names: dict[str, Any] = {}
    exec(list(POLARS.values())[number], names)
    return names["result"]


def test_there_are_five_of_each() -> None:
    assert (len(SQL), len(POLARS)) == (5, 5)


@pytest.mark.parametrize("question", SQL)
def test_a_query_gives_rows(question: str, rollouts: Rollouts) -> None:
    assert duckdb.connect().execute(SQL[question]).fetchall()


@pytest.mark.parametrize("number", range(len(POLARS)), ids=list(POLARS))
def test_a_frame_has_rows_without_nulls(number: int, rollouts: Rollouts) -> None:
    found = polars(number)
    assert found.height
    assert sum(found.null_count().row(0)) == 0


def test_sql_dead_groups(rollouts: Rollouts) -> None:
    dead = rollouts.flagged("dead_group")[rollouts.groups.starts]
    assert 0 < dead.mean() < 1
    assert sql(0) == [(pytest.approx(dead.mean()),)]


def test_sql_mean_reward_of_problems(rollouts: Rollouts) -> None:
    means = sorted(rollouts.groups.mean(rollouts.numbers("reward")))
    assert [row[2] for row in sql(1)] == pytest.approx(means[:10])


def test_sql_one_row_a_token(rollouts: Rollouts) -> None:
    rows = sql(2)
    assert len(rows) == rollouts.num_tokens
    assert [row[2] for row in rows] == rollouts.token_ids.values.tolist()
    assert [row[1] for row in rows] == rollouts.tokens.positions.tolist()


def test_sql_longest_truncated(rollouts: Rollouts) -> None:
    rows = sql(3)
    assert [row[1] for row in rows] == [32] * len(rows)
    assert {row[0] for row in rows} <= {
        name for name, cut in zip(rollouts.strings("rollout_id"), rollouts.flagged("truncated"), strict=True) if cut
    }


def test_sql_nodes(rollouts: Rollouts) -> None:
    visits = {(row[0], row[1]): row[2] for row in sql(4)}
    ids, seen = rollouts.ragged("node.id"), rollouts.ragged("node.visits").values
    groups = [rollouts.strings("group_id")[row] for row in ids.segments.ids]
    assert visits == dict(zip(zip(groups, ids.values.tolist(), strict=True), seen.tolist(), strict=True))


def test_polars_mass_of_credit(rollouts: Rollouts) -> None:
    found = polars(0)
    assert found["tenth"].to_list() == list(range(10))
    assert found["mass"].sum() == pytest.approx(abs(rollouts.ragged("token.advantage").values).sum(), rel=1e-4)


def test_polars_two_methods(rollouts: Rollouts) -> None:
    correlation, differ = polars(1).row(0)
    assert 0 < correlation < 1
    assert 0 <= differ < 1


def test_polars_length_and_reward(rollouts: Rollouts) -> None:
    assert -1 <= polars(4).item() <= 1
