"""Episodes that became several rows count once, and get the credit that they would have as one row."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from apportion.formats.errors import DataError
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit import TokenCredit, credit_tokens
from apportion.stages.assign_credit._apply import Assigning, Assignment, assign_to
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.assign_credit._step_examples import stepped
from apportion.stages.assign_credit.kind import METHODS
from apportion.stages.structure.episodes import join_parts

ROWS = 12


def whole(rng: np.random.Generator) -> Rollouts:
    """Episodes of one row each, in three groups, with steps and everything that a method without trees may read."""
    sizes = [rng.integers(1, 4, rng.integers(2, 6)).tolist() for _ in range(ROWS)]
    lengths = [sum(row) for row in sizes]
    rewards = rng.integers(0, 3, ROWS) / 2

    def on_steps(draw: Any) -> list[list[float]]:
        return [draw(len(row)).tolist() for row in sizes]

    batch = stepped(
        rewards.tolist(), sizes, groups=np.repeat(np.arange(3), 4).tolist(),
        mask=[(rng.random(length) < 0.8).tolist() for length in lengths],
        states=[[f"s{rng.integers(3)}" for _ in row] for row in sizes],
        reward=on_steps(rng.random), value=on_steps(rng.random),
    ).rollouts  # fmt: skip
    signals = {
        f"token.{name}": Ragged.from_lists([-rng.random(length) for length in lengths], np.float64)
        for name in ("logprob", "value", "entropy", "reference_logprob")
    }
    return batch.with_columns(
        {
            **signals, "rewards.a": rng.random(ROWS), "rewards.b": rng.random(ROWS), "reward_baseline": rng.random(ROWS),
            "flags": pa.array([["truncated"] if rng.random() < 0.3 else [] for _ in range(ROWS)], pa.list_(pa.string())),
        }
    )  # fmt: skip


def cut(batch: Rollouts, rng: np.random.Generator) -> Rollouts:
    """The same with every episode cut between two of its steps into one to three rows, which stand in any order."""
    rows: list[dict[str, Any]] = []
    for row in range(len(batch)):
        held = {path: batch.arrow(path)[row].as_py() for path in batch.paths}
        ends = held["step.end"]
        inner = sorted(rng.choice(np.arange(1, len(ends)), rng.integers(0, min(3, len(ends))), replace=False).tolist())
        for part, (first, last) in enumerate(zip([0, *inner], [*inner, len(ends)], strict=True)):
            start, stop = held["step.start"][first], ends[last - 1]
            piece = {"episode_id": held["rollout_id"], "part": part}
            for path, value in held.items():
                if path.startswith("token."):
                    piece[path] = value[start:stop]
                elif path.startswith("step."):
                    piece[path] = value[first:last]
                else:
                    piece[path] = value
            piece["rollout_id"] = f"{held['rollout_id']}/{part}"
            piece["step.start"] = [at - start for at in piece["step.start"]]
            piece["step.end"] = [at - start for at in piece["step.end"]]
            piece["flags"] = held["flags"] if last == len(ends) else []
            rows.append(piece)
    order = sorted(rng.permutation(len(rows)).tolist(), key=lambda at: rows[at]["group_id"])
    table = pa.table(
        {name: [rows[at][name] for at in order] for name in ("rollout_id", "group_id", "episode_id", "part")}
    )
    columns = {path: [rows[at][path] for at in order] for path in batch.paths if path not in ("rollout_id", "group_id")}
    numbers = {path: Ragged.from_lists(values, bool if path == "token.mask" else np.int32 if path == "token.id" else np.float64)
               for path, values in columns.items() if path.startswith("token.")}  # fmt: skip
    return Rollouts(table).with_columns(columns | numbers)


def credit_by_token(batch: Rollouts, method: str) -> dict[str, list[float]]:
    """The credit of each episode's tokens, in their order."""
    options = {"baseline": "column"} if method == "remax" else {}
    result = assign_to(batch, method, "advantage", METHODS.settle(method, options))
    values = result.ragged("token.advantage")
    part = result.numbers("part") if "part" in result else np.zeros(len(result))
    name = result.strings("episode_id" if "episode_id" in result else "rollout_id")
    found: dict[str, list[float]] = {}
    for row in np.argsort(part, kind="stable").tolist():
        found.setdefault(name[row], []).extend(values[row].tolist())
    return found


METHODS_OF_EPISODES = [method.name for method in METHODS if not method.compares_rows]


@pytest.mark.parametrize("method", METHODS_OF_EPISODES)
@pytest.mark.parametrize("seed", range(4))
def test_cutting_an_episode_into_rows_changes_no_tokens_credit(method: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch = whole(rng)
    if method == "adora":
        batch = batch.with_columns({"problem.success": np.full(ROWS, 0.5)})
    expected, found = credit_by_token(batch, method), credit_by_token(cut(batch, rng), method)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-6)


def test_methods_that_go_by_rows_say_so() -> None:
    beyond = [method.name for method in METHODS if method.compares_rows]
    assert beyond == [
        "branchgrpo", "groundedprm", "rose", "slate", "spo_chain", "spo_tree", "tempo", "treerl", "vineppo",
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    from apportion.stages.structure.prefix_tree import add_prefix_tree

    with pytest.raises(DataError, match="credit method tempo compares rollouts token by token"):
        credit_by_token(add_prefix_tree(cut(whole(rng), rng)), "tempo")


def test_worked_example() -> None:
    # interop §1.2: as four rows, leave-one-out gives a third; as two episodes (three parts, and one) 1 and -1.
    ids = [[1], [2], [3], [4]]
    mask = [[True]] * 4
    rows = credit_tokens("rloo", reward=[1.0, 1.0, 1.0, 0.0], group=[0] * 4, token_ids=ids, mask=mask)
    np.testing.assert_allclose(np.concatenate(rows), [1 / 3, 1 / 3, 1 / 3, -1], rtol=1e-6)
    credit = TokenCredit("rloo")
    found, info = credit.with_info(
        reward=[1.0, 1.0, 1.0, 0.0], group=[0] * 4, token_ids=ids, mask=mask, episode=["a", "a", "a", "b"]
    )
    assert np.concatenate(found).tolist() == [1.0, 1.0, 1.0, -1.0]
    assert (info.rollouts, info.episodes, info.groups, info.singletons) == (4, 2, 1, 0)


def test_parts_may_stand_in_any_order_and_rows_may_be_whole_episodes() -> None:
    found = credit_tokens(
        "turn_return", reward=[1.0, 0.0, 1.0], group=[0] * 3, token_ids=[[3, 4], [5], [1]], steps="mask",
        mask=[[True, True], [True], [True]], episode=["a", "b", "a"], part=[1, 0, 0],
    )  # fmt: skip
    assert found == [[0.0, 0.0], [-0.5], [0.5]]  # a: turns [1], [3, 4]; b: [5]. The second turn has no sibling.


def test_a_token_that_another_part_has_is_trained_once() -> None:
    batch = rollouts_of([1.0, 1.0, 0.0], tokens=[[1, 2], [1, 2, 3], [4]]).with_columns(
        {
            "episode_id": ["a", "a", None], "part": pa.array([0, 1, None], pa.int32()),
            "token.trainable": pa.array([None, [False, False, True], None], pa.list_(pa.bool_())),
        }
    )  # fmt: skip
    credit = assign_to(batch, "grpo", "advantage", METHODS.settle("grpo", {"scale": "none"})).ragged("token.advantage")
    assert [credit[row].tolist() for row in range(3)] == [[0.5, 0.5], [0.0, 0.0, 0.5], [-0.5]]


def test_flags_count_episodes() -> None:
    batch = rollouts_of([1.0, 1.0, 1.0, 1.0], groups=[0, 0, 1, 1]).with_columns({"episode_id": ["a", "a", "b", "c"]})
    result = assign_to(batch, "grpo", "advantage", METHODS.settle("grpo", {}))
    assert result.flagged("singleton").tolist() == [True, True, False, False]
    assert result.flagged("dead_group").tolist() == [False, False, True, True]


def test_a_methods_remark_is_of_episodes(capsys: pytest.CaptureFixture[str]) -> None:
    rows = stepped([1.0, 1.0, 0.0], [[1], [1, 1], [1, 1, 1]], reward=[[0.6], [0.6, 0.7], [0.6, 0.5, 0.6]]).rollouts
    options = METHODS.settle("turn_return", {"rewards": "both"})
    assign = Assigning([Assignment("turn_return", "advantage", options)])
    assign(rows.with_columns({"episode_id": ["a", "a", "b"], "part": [0, 1, 0]}))  # both of three turns
    assert capsys.readouterr().err == ""
    assign(rows)
    assert "differ in their number of turns" in capsys.readouterr().err


def test_files_without_parts_are_left_as_they_are() -> None:
    assert join_parts(rollouts_of([1.0, 0.0])) is None
    assert join_parts(rollouts_of([1.0, 0.0]).with_columns({"episode_id": ["a", None]})) is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"reward": np.array([1.0, 0.0])}, r"row 0, column 'reward': parts of its episode have rewards from 0 to 1"),
        ({"part": pa.array([1, 1], pa.int32())}, r"row 1, column 'part': another part of its episode has the same place, 1"),
        ({"part": pa.array([0, None], pa.int32())}, r"row 1, column 'part': missing"),
        ({"token.logprob": pa.array([[0.0], None], pa.list_(pa.float32()))}, r"row 1, column 'token.logprob': missing, and"),
    ],
    ids=["rewards", "places", "no place", "a signal"],
)  # fmt: skip
def test_parts_that_do_not_fit_are_named(columns: dict[str, Any], message: str) -> None:
    batch = rollouts_of([1.0, 1.0]).with_columns({"episode_id": ["a", "a"], **columns})
    with pytest.raises(DataError, match=message):
        assign_to(batch, "grpo", "advantage", METHODS.settle("grpo", {}))
