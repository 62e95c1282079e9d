"""The adapter with tinker-cookbook's own trajectories and datums. Skipped where it is not installed."""

import asyncio
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.stages.assign_credit import CreditInfo, TokenCredit
from apportion.stages.interop.tinker import overwrite, with_credit
from apportion.stages.models.policy import TINY

from .conftest import CreditOfFile, Row

pytestmark = pytest.mark.filterwarnings("ignore")  # of tinker and its cookbook

Part = list[tuple[list[int], list[int], float]]
"""Turns: what is read (the prompt, or an environment's answer), what the policy writes, and what it is paid."""
Told = tuple[list[Part], float]
"""A trajectory: its parts, each of which begins anew, and its share of what its group is paid at the end."""

GROUPS: list[list[Told]] = [
    [
        ([[([1, 2], [5, 7], 0.25), ([90, 91], [8], 0.25)]], 0.5),
        ([[([1, 2], [5, 7], 0.5), ([90], [6, 2], -0.5)]], 0.0),
        ([[([1, 2], [5, 3], 0.5)]], 0.0),
    ],
    [([[([3], [4, 4], 1.0)]], 0.0), ([[([3], [4], 0.0), ([94], [5], 0.0)]], 0.25)],
    [([[([1, 2, 3], [6], 1.0)]], 0.0)],
]
"""Groups of three, two and one."""
REWRITTEN: list[list[Told]] = [
    [
        ([[([1], [5, 7], 0.0)], [([1, 9], [8, 2], 0.5), ([90], [4], 0.25)]], 0.25),
        ([[([1], [6, 2], 0.0)]], 0.0),
    ],
    [([[([3], [4], 0.5)]], 0.0), ([[([3], [3, 3], 0.0)], [([7], [3, 4], 1.0)], [([3, 9, 9, 9], [3], 0.0)]], 0.0)],
]
"""Trajectories of two datums, one, one and three: of these, one is as long as that before it, and one begins beyond its end."""


def rows_of(groups: list[list[Told]]) -> list[Row]:
    """As a file would have them, a datum a row."""
    rows: list[Row] = []
    for g, group in enumerate(groups):
        for t, (parts, final) in enumerate(group):
            reward = sum(paid for part in parts for *_, paid in part) + final
            for number, part in enumerate(parts):
                ids, own = list[int](), list[int]()
                for at, (read, written, _) in enumerate(part):
                    between = read if at else []
                    ids += between + written
                    own += [0] * len(between) + [1] * len(written)
                paid = [each for *_, each in part]
                if number == len(parts) - 1:
                    paid[-1] += final
                rows.append(
                    Row(
                        f"{g}", ids, own, reward, f"{g}/{t}", number, tuple(paid), logprobs=tuple(-0.5 * o for o in own)
                    )
                )
    return rows


def groups_of(told: list[list[Told]]) -> list[Any]:
    """The cookbook's trajectory groups."""
    return [
        _types().TrajectoryGroup(
            trajectories_G=[_trajectory(parts) for parts, _ in group],
            final_rewards_G=[final for _, final in group],
            metrics_G=[{} for _ in group],
        )
        for group in told
    ]


def _types() -> Any:
    return import_module("tinker_cookbook.rl.types")


def _trajectory(parts: list[Part]) -> Any:
    tinker = import_module("tinker")
    transitions: list[Any] = []
    for part in parts:
        before = list[int]()
        for read, written, paid in part:
            before += read
            transitions.append(_transition(tinker.ModelInput.from_ints([*before]), written, paid))
            before += written
    return _types().Trajectory(transitions=transitions, final_ob=tinker.ModelInput.empty())


def _transition(observed: Any, written: list[int], paid: float, **metrics: float) -> Any:
    action = import_module("tinker_cookbook.completers").TokensWithLogprobs(
        tokens=written, maybe_logprobs=[-0.5] * len(written), sequence_id="s"
    )
    return _types().Transition(ob=observed, ac=action, reward=paid, episode_done=False, metrics=metrics)


@pytest.fixture
def processing() -> Any:
    """The cookbook's own functions."""
    pytest.importorskip("tinker_cookbook")
    return import_module("tinker_cookbook.rl.data_processing")


def assemble(processing: Any, groups: list[Any], *method: str, **options: Any) -> tuple[list[Any], list[Any]]:
    """The data as the cookbook's loop makes them, with a method's credit if one is named."""
    function = with_credit(processing.assemble_training_data, *method, **options) if method else None
    return (function or processing.assemble_training_data)(groups, processing.compute_advantages(groups))


def advantages(datum: Any) -> np.ndarray:
    return datum.loss_fn_inputs["advantages"].to_numpy()


def assert_same(data: list[Any], expected: list[list[float]]) -> None:
    for datum, theirs in zip(data, expected, strict=True):
        found = advantages(datum)
        assert found.dtype == np.float32 and len(found) == datum.model_input.length
        np.testing.assert_allclose(found[len(found) - len(theirs) :], theirs, atol=1e-6)
        assert not found[: len(found) - len(theirs)].any()
    assert any(any(row) for row in expected)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("tempoo", {}, "did you mean 'tempo'"),
        ("grpo", {"ddof": -1}, "ddof must be at least 0, got -1"),
        ("vineppo", {}, "needs probes"),
        ("gigpo", {}, r"gigpo needs 'step\.state', which a trajectory of tinker-cookbook does not have"),
        ("gae", {}, r"gae needs 'token\.value'"),
    ],
)
def test_what_cannot_work_fails_before_the_loop(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_credit(lambda: ([], []), method, **options)


@pytest.mark.peers
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("rloo", {}), ("tempo", {}), ("treerl", {}), ("spo_tree", {}), ("turn_return", {"scale": "std"}), ("mapo", {}),
        ("groundedprm", {}),
    ],
)  # fmt: skip
def test_datums_get_what_assign_credit_gives_on_the_same_rollouts(
    method: str, options: dict[str, Any], processing: Any, credit_of_file: CreditOfFile
) -> None:
    data, places = assemble(processing, groups_of(GROUPS), method, **options)
    assert len(data) == len(places) == 6
    assert_same(data, credit_of_file(method, [row.in_file for row in rows_of(GROUPS)], **options))


@pytest.mark.peers
@pytest.mark.parametrize("method", ["rloo", "turn_return", "mapo", "reinforce_plus_plus"])
def test_the_datums_of_a_trajectory_are_its_parts(method: str, processing: Any, credit_of_file: CreditOfFile) -> None:
    data, places = assemble(processing, groups_of(REWRITTEN), method)
    assert [place["traj_idx"] for place in places] == [0, 0, 1, 0, 1, 1, 1]
    assert_same(data, credit_of_file(method, [row.in_file for row in rows_of(REWRITTEN)]))
    with pytest.raises(DataError, match="an episode in several parts is no single line of tokens"):
        assemble(processing, groups_of(REWRITTEN), "tempo")


@pytest.mark.peers
@pytest.mark.parametrize("told", [GROUPS, REWRITTEN], ids=["whole", "rewritten"])
def test_dr_grpo_is_what_the_cookbook_computes(told: list[list[Told]], processing: Any) -> None:
    theirs, where = assemble(processing, groups_of(told))
    ours, places = assemble(processing, groups_of(told), "dr_grpo")
    assert places == where and any(advantages(datum).any() for datum in theirs)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(advantages(mine), advantages(other), atol=1e-6)
        assert mine.loss_fn_inputs.keys() == other.loss_fn_inputs.keys()
        for name in mine.loss_fn_inputs.keys() - {"advantages"}:
            assert mine.loss_fn_inputs[name].data == other.loss_fn_inputs[name].data
        assert mine.loss_fn_input_spans == other.loss_fn_input_spans is not None


@pytest.mark.peers
def test_what_has_no_tokens_counts_and_what_has_no_reward_does_not(processing: Any) -> None:
    (group,) = groups_of(
        [[([[([1], [5, 7], 1.0)]], 0.0), ([[([1], [5, 8], 0.5)]], 0.0), ([[([1], [9], 0.0)]], float("nan"))]]
    )
    empty = import_module("tinker").ModelInput.empty()
    over = _types().Trajectory(transitions=[_transition(empty, [], 0.0)], final_ob=empty)  # its prompt was too long
    group = replace(
        group, trajectories_G=[*group.trajectories_G, over], final_rewards_G=[*group.final_rewards_G, 0.0],
        metrics_G=[{}] * 4,
    )  # fmt: skip
    seen: list[CreditInfo] = []
    data, _ = assemble(processing, [group], "rloo", seen=seen.append)
    # Rewards 1, 0.5 and 0: each is held to the mean of the other two.
    assert [advantages(datum).tolist() for datum in data] == [[0.75, 0.75], [0.0, 0.0], [0.0]]
    assert (seen[0].episodes, seen[0].skipped, seen[0].tokens) == (3, 1, 4)


@pytest.mark.peers
def test_a_turn_that_the_cookbook_masks_out_is_none_of_the_policys(processing: Any) -> None:
    tinker = import_module("tinker")
    wrong = _transition(tinker.ModelInput.from_ints([1]), [5, 6], 0.0, parse_error_masked=1.0)
    again = _transition(tinker.ModelInput.from_ints([1, 5, 6, 90]), [7], 1.0)
    (group,) = groups_of([[([[([1], [5, 6], 0.0), ([90], [8], 0.0)]], 0.0)]])
    masked = _types().Trajectory(transitions=[wrong, again], final_ob=tinker.ModelInput.empty())
    group = replace(
        group, trajectories_G=[masked, *group.trajectories_G], final_rewards_G=[0.0, 0.0], metrics_G=[{}, {}]
    )
    data, _ = assemble(processing, [group], "turn_return", baseline="others", singleton="raw")
    # The turn behind it is the first of its trajectory: 1 is held to 0, and 0 to 1. No other has a second one.
    assert [advantages(datum).tolist() for datum in data] == [[0, 0, 0, 1.0], [-1.0, -1.0, 0, 0]]
    tree, _ = assemble(processing, [group], "tempo")
    assert [len(advantages(datum)) for datum in tree] == [4, 4] and not advantages(tree[0])[:3].any()
    assert advantages(tree[0])[3] > 0 > advantages(tree[1])[3]


@pytest.mark.peers
def test_data_of_other_trajectories_are_refused(processing: Any) -> None:
    data, places = assemble(processing, groups_of(REWRITTEN))
    with pytest.raises(DataError, match="group 1, trajectory 1: 1 turns are in none of its datums; give the data"):
        overwrite(TokenCredit("rloo"), data[:-1], places[:-1], groups_of(REWRITTEN))


@pytest.mark.peers
def test_the_cookbooks_loop_takes_it(processing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train = import_module("tinker_cookbook.rl.train")
    tokenizer = import_module("transformers").AutoTokenizer.from_pretrained(str(TINY))
    monkeypatch.setattr(train, "assemble_training_data", with_credit(train.assemble_training_data, "tempo"))
    told = groups_of(GROUPS)
    builders = [
        _types().EnvGroupBuilder.__new__(type("Builder", (_types().EnvGroupBuilder,), {"make_envs": None}))
        for _ in told
    ]
    data, _, _ = asyncio.run(train.prepare_minibatch(builders, told, tokenizer, None, 0.0, 0.0))
    expected, _ = assemble(processing, told, "tempo")
    for mine, other in zip(data, expected, strict=True):
        assert advantages(mine).any() or not advantages(other).any()
        np.testing.assert_array_equal(advantages(mine), advantages(other))
