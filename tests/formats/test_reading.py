"""`apportion.open`: what a notebook asks of a rollout file."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import apportion
import numpy as np
import pyarrow as pa
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.formats.parquet import write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.ragged import Ragged
from apportion.formats.reading import RolloutSet
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of


def named(batch: Rollouts, *groups: str) -> Rollouts:
    """The batch with these groups, and names of rollouts by them."""
    names = [f"{group}/{row}" for row, group in enumerate(groups)]
    return batch.with_columns({"group_id": list(groups), "rollout_id": names})


@pytest.fixture
def data(tmp_path: Path) -> RolloutSet:
    """Two groups of two; tokens 5 7 | 5 | 6 4 | 6; credit on all but the second; the token 4 is the environment's."""
    batch = rollouts_of([1.0, 0.0, 0.5, float("nan")], groups=[0, 0, 1, 1], tokens=[[5, 7], [5], [6, 4], [6]])
    credit = Ragged(
        np.array([0.5, 0.25, -1.0, 0.0, 2.0]), np.array([0, 2, 2, 4, 5]), np.array([True, False, True, True])
    )
    mask = [[True, True], [True], [True, False], [True]]
    columns: dict[str, Any] = {
        "token.advantage": credit,
        "token.mask": mask,
        "text": ["one", "two", "three <b>", "four"],
        "prompt": [[{"role": "user", "content": "What?"}]] * 4,
        "flags": [["truncated"], [], [], []],
    }
    columns["reward"] = pa.array([1.0, 0.0, 0.5, None], pa.float64())
    path = tmp_path / "data.parquet"
    write_rollouts(path, [named(batch, "a", "a", "b", "b").with_columns(columns)], Provenance())
    return apportion.open(path)


def test_columns_come_as_arrays_lists_and_texts(data: RolloutSet) -> None:
    assert len(data) == 4
    np.testing.assert_array_equal(data["reward"], [1.0, 0.0, 0.5, np.nan])
    credit = data["token.advantage"]
    assert isinstance(credit, Ragged)
    assert [credit[row].tolist() for row in range(4)] == [[0.5, 0.25], [], [-1.0, 0.0], [2.0]]
    assert data["text"] == ["one", "two", "three <b>", "four"]


def test_it_is_groups_of_rollouts(data: RolloutSet) -> None:
    first, second = list(data)
    assert (first.id, len(first), second.prompt) == ("a", 2, "What?")
    one, two = first
    assert (one.id, one.text, one.reward, one.flags) == (one["rollout_id"], "one", 1.0, ["truncated"])
    assert one["token.advantage"].tolist() == [0.5, 0.25]
    assert two["token.advantage"] is None
    assert second.rollouts[1].reward is None
    assert one.get("step.reward", "none") == "none"


def test_a_group_and_a_rollout_are_found_by_name(data: RolloutSet) -> None:
    assert [each.text for each in data.group("b")] == ["three <b>", "four"]
    name = data["rollout_id"][2]
    assert data.rollout(name).text == "three <b>"
    with pytest.raises(UsageError, match=r"data\.parquet: no group 'c'"):
        data.group("c")
    with pytest.raises(UsageError, match=r"data\.parquet: no rollout 'c'"):
        data.rollout("c")


def test_conditions_are_those_of_where(data: RolloutSet) -> None:
    some = data.where("reward >= 0.5").where("'truncated' not in flags")
    assert (len(some), some["text"]) == (1, ["three <b>"])
    assert [len(group) for group in some] == [1]
    assert data.where("reward > group_mean(reward)")["text"] == ["one"]
    with pytest.raises(UsageError, match="did you mean 'reward'"):
        data.where("rewrd > 0")
    with pytest.raises(UsageError, match="no rollouts of which this is true: reward > 5"):
        data.where("reward > 5").read()


def test_a_row_for_each_token(data: RolloutSet) -> None:
    table = data.to_arrow("token", ["token.id", "token.advantage"])
    assert table.column_names == ["rollout_id", "group_id", "place", "id", "advantage"]
    assert table.column("place").to_pylist() == [0, 1, 0, 0, 1, 0]
    assert table.column("id").to_pylist() == [5, 7, 5, 6, 4, 6]
    assert table.column("advantage").to_pylist() == [0.5, 0.25, None, -1.0, 0.0, 2.0]
    assert table.column("group_id").to_pylist() == ["a", "a", "a", "b", "b", "b"]


def test_pandas_and_polars_get_the_same(data: RolloutSet) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("polars")
    frame = data.to_pandas("token")
    sums: Any = frame.groupby("rollout_id", sort=False)["advantage"].sum()
    assert list(sums) == [0.75, 0.0, -1.0, 2.0]
    assert data.to_polars(columns=["reward"]).get_column("reward").to_list() == [1.0, 0.0, 0.5, None]


def test_torch_gets_padded_tensors_with_a_mask(data: RolloutSet) -> None:
    pytest.importorskip("torch")
    found = data.to_torch(["reward", "token.advantage"])
    credit = found["token.advantage"]
    assert credit[[0, 2, 3]].tolist() == [[0.5, 0.25], [-1.0, 0.0], [2.0, 0.0]]
    assert credit[1].isnan().all()  # not assigned is not 0
    assert found["token.mask"].tolist() == [[True, True], [True, False], [True, False], [True, False]]
    assert found["reward"].shape == (4,)
    with pytest.raises(UsageError, match="column 'text' has no numbers"):
        data.to_torch(["text"])


def test_a_package_that_is_missing_is_named(data: RolloutSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="this needs the package pandas; run: pip install pandas"):
        data.to_pandas()


def test_rulers_and_columns_that_are_not_there(data: RolloutSet) -> None:
    with pytest.raises(UsageError, match="did you mean 'token'"):
        data.to_arrow("tokens")
    with pytest.raises(UsageError, match="has no steps"):
        data.to_arrow("step")
    with pytest.raises(UsageError, match="did you mean 'reward'"):
        data["rewrd"]


def test_a_notebook_sees_escaped_text(data: RolloutSet, tmp_path: Path) -> None:
    batch = rollouts_of([1.0])
    prompt = {"prompt": [[{"role": "user", "content": "<script>alert(1)</script>"}]]}
    write_rollouts(tmp_path / "hostile.parquet", [batch.with_columns(prompt)], Provenance())
    shown = apportion.open(tmp_path / "hostile.parquet")._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;alert(1)" in shown
    assert "4 in 1 file(s)" in repr(data)


def test_a_directory_is_one_data_set(data: RolloutSet, tmp_path: Path) -> None:
    other = named(rollouts_of([0.25]), "c")
    write_rollouts(tmp_path / "more.parquet", [other], Provenance())
    both = apportion.open(tmp_path)
    assert len(both) == 5
    assert both["reward"].tolist()[-1] == 0.25
    assert [group.id for group in both] == ["a", "b", "c"]


def test_what_is_no_rollout_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        apportion.open(tmp_path / "gone.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DataError, match="not a whole Parquet file"):
        apportion.open(tmp_path / "text.parquet")


def test_importing_the_package_loads_nothing_else() -> None:
    script = "import sys, apportion; print([name for name in ('numpy', 'pyarrow', 'torch') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_columns_of_the_rollout_stand_on_each_of_its_tokens(data: RolloutSet) -> None:
    table = data.to_arrow("token", ["token.advantage", "reward"])
    assert table.column("reward").to_pylist() == [1.0, 1.0, 0.0, 0.5, 0.5, None]
    with pytest.raises(UsageError, match=r"column 'step\.reward' is not of the token ruler"):
        data.to_arrow("token", ["step.reward"])


def test_a_condition_adds_no_columns(data: RolloutSet) -> None:
    some = data.where("length > 1 and 'truncated' not in flags")
    assert some.to_arrow(columns=["reward"]).column_names == ["rollout_id", "group_id", "reward"]
    assert some.read(["token.advantage"]).paths == ["rollout_id", "group_id", "token.advantage"]


def test_an_empty_response_has_an_empty_array(tmp_path: Path) -> None:
    write_rollouts(tmp_path / "empty.parquet", [rollouts_of([1.0], tokens=[[]])], Provenance())
    (group,) = apportion.open(tmp_path / "empty.parquet")
    assert isinstance(group.rollouts[0]["token.id"], np.ndarray)
