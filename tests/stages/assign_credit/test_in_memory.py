"""Methods on padded tensors, as a trainer calls them."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from apportion.formats.digests import digest_of_tokens
from apportion.formats.errors import DataError, UsageError
from apportion.formats.ragged import Ragged
from apportion.stages.assign_credit import TokenCredit, credit_tokens
from apportion.stages.assign_credit._examples import credit_of, rollouts_of
from apportion.stages.assign_credit._step_examples import stepped
from apportion.stages.assign_credit.kind import METHODS, Credit
from apportion.stages.structure.prefix_tree import add_prefix_tree

tempo = METHODS["tempo"].assign

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
IDS = [[5, 7, 9, 2, 0], [5, 7, 8, 2, 0], [5, 6, 4, 0, 0], [5, 7, 9, 3, 2]]
REWARDS = [1.0, 0.0, 1.0, 0.0]


def padded(device: str = "cpu") -> dict[str, Any]:
    ids = torch.tensor(IDS, device=device)
    return {"reward": torch.tensor(REWARDS, device=device), "group": [0] * 4, "token_ids": ids, "mask": ids > 0}


@pytest.mark.parametrize("device", DEVICES)
def test_the_credit_is_that_of_the_file_and_comes_back_where_it_came_from(device: str) -> None:
    found = credit_tokens("tempo", **padded(device))
    assert (found.device.type, found.dtype, found.shape) == (device, torch.float32, (4, 5))
    expected = tempo(credit_of(REWARDS, tokens=[[token for token in row if token] for row in IDS]))
    np.testing.assert_allclose(found.cpu().numpy()[np.array(IDS) > 0], expected, rtol=1e-6)
    assert not found.cpu().numpy()[np.array(IDS) == 0].any()


@pytest.mark.parametrize("device", DEVICES)
def test_the_order_of_rows_means_nothing(device: str) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 4, (12, 6))
    mask = np.arange(6) < rng.integers(0, 7, 12)[:, None]
    group, reward = rng.integers(0, 3, 12), rng.random(12)
    order = rng.permutation(12)

    def credit(rows: Any) -> Any:
        shown = {"reward": reward[rows], "token_ids": ids[rows], "mask": mask[rows]}
        given: dict[str, Any] = {name: torch.tensor(value, device=device) for name, value in shown.items()}
        return credit_tokens(
            "spo_tree", group=torch.tensor(group[rows]), **given,
            signals={"token.logprob": torch.full((12, 6), -1.0, dtype=torch.bfloat16)},
        )  # fmt: skip

    np.testing.assert_allclose(credit(order).cpu(), credit(np.arange(12)).cpu()[order], atol=1e-6)


def test_masked_tokens_are_part_of_the_response_and_padding_is_not() -> None:
    ids = np.array([[5, 90, 7, 0], [5, 90, 8, 90]])
    mask = np.array([[1, 0, 1, 0], [1, 0, 1, 0]])
    found = credit_tokens("tempo", reward=[1.0, 0.0], group=["a", "a"], token_ids=ids, mask=mask, lengths=[3, 4])
    batch = rollouts_of(
        [1.0, 0.0], tokens=[[5, 90, 7], [5, 90, 8, 90]], mask=[[True, False, True], [True, False, True, False]]
    )
    expected = tempo(Credit(add_prefix_tree(batch)))
    np.testing.assert_allclose(
        np.concatenate((found[0, :3], found[1])),
        np.where(mask.ravel().astype(bool)[[0, 1, 2, 4, 5, 6, 7]], expected, 0),
        rtol=1e-6,
    )
    assert isinstance(found, np.ndarray)


@pytest.mark.parametrize("method", ["tempo", "grpo"])
def test_rows_padded_on_the_left_are_refused(method: str) -> None:
    """Their common beginnings are padding, and a tree of them is wrong."""
    shown = padded()
    ids = torch.stack([row.roll(int((row == 0).sum())) for row in shown["token_ids"]])
    left = {**shown, "token_ids": ids, "mask": ids > 0}
    with pytest.raises(
        DataError, match="row 0 begins with tokens that mask excludes: expected responses padded on the"
    ):
        credit_tokens(method, **left)
    with pytest.raises(DataError, match="row 0: mask is true beyond the row's length; expected padding on the right"):
        credit_tokens(method, **left, lengths=(ids > 0).sum(1))


def test_an_environment_may_begin_where_lengths_say_so() -> None:
    ids, mask = np.array([[90, 5, 7], [90, 5, 0]]), np.array([[0, 1, 1], [0, 1, 0]])
    found = credit_tokens("rloo", reward=[1.0, 0.0], group=[0, 0], token_ids=ids, mask=mask, lengths=[3, 2])
    assert found.tolist() == [[0.0, 1.0, 1.0], [0.0, -1.0, 0.0]]


@pytest.mark.parametrize("name", ["grpo", "rloo", "passk", "maxrl", "reinforce_plus_plus"])
def test_presets_and_options_reach_the_method(name: str) -> None:
    preset = next(iter(METHODS[name].presets))
    assert credit_tokens(name, **padded(), preset=preset).shape == (4, 5)
    with pytest.raises(UsageError, match=r"credit method .*: unknown option"):
        credit_tokens(name, **padded(), nonsense=1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mask": torch.ones(4, 4)}, DataError, "expected two of"),
        ({"group": [0]}, DataError, "group: 1 values for 4 rollouts"),
        ({"reward": [1.0]}, DataError, r"signal 'reward' of shape \(1,\)"),
        ({"signals": {"token.logprob": torch.ones(4)}}, DataError, r"signal 'token.logprob' of shape \(4,\)"),
        ({"method": "gae"}, DataError, "needs 'token.value', which is not among the signals"),
        ({"method": "gigpo"}, UsageError, "gigpo needs steps; give steps="),
        ({"method": "tempoo"}, UsageError, "did you mean 'tempo'"),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_is_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        credit_tokens(**{"method": "grpo", **padded(), **change})


# Ragged, padded on the left, steps, rows left out


def stepped_batch() -> tuple[Any, dict[str, Any]]:
    """The same four rollouts in two groups with steps: as a file has them, and as a trainer would."""
    sizes = [[2, 1, 1], [1, 2], [3], [1, 1, 1, 1]]
    tokens = [list(range(10 * row, 10 * row + sum(lengths))) for row, lengths in enumerate(sizes)]
    ends = [np.cumsum(row).tolist() for row in sizes]
    spans = [list(zip([0, *row[:-1]], row, strict=True)) for row in ends]
    states = [["a", "b", "c"], ["a", "b"], ["a"], ["a", "b", "b", "c"]]
    judged = [[0.5, -0.5, 1.0], [0.0, 1.0], [0.25], [1.0, 0.0, 0.5, -1.0]]
    values = [[0.5, 0.25, 0.5], [0.5, 0.0], [0.5], [0.5, 0.75, 0.25, 0.5]]
    rewards, groups = [1.0, 0.0, 0.5, 1.0], [0, 0, 1, 1]
    credit = stepped(rewards, sizes, groups=groups, states=states, reward=judged, value=values)
    rollouts = credit.rollouts.with_columns(
        {
            "token.id": Ragged.from_lists(tokens, np.int32),
            "step.kind": pa.array(
                [["answer" if at == len(row) - 1 else "step" for at in range(len(row))] for row in sizes]
            ),
        }
    )
    signals = {
        "step.reward": judged, "step.value": values, "step.state": states,
        "step.kind": rollouts.arrow("step.kind").to_pylist(),
    }  # fmt: skip
    given = {
        "reward": rewards, "group": groups, "token_ids": tokens, "mask": [[True] * len(row) for row in tokens],
        "steps": spans, "signals": signals,
    }  # fmt: skip
    return Credit(add_prefix_tree(rollouts)), given


STEP_METHODS = [method.name for method in METHODS if "step.start" in method.needs and "purpose" not in method.needs]


def test_six_methods_of_steps_work_in_memory() -> None:
    assert sorted(STEP_METHODS) == ["gigpo", "groundedprm", "mapo", "potential_difference", "slate", "turn_return"]


def test_spans_as_many_as_tokens_are_no_step_index() -> None:
    found = credit_tokens(
        "turn_return", reward=[1.0, 0.0], group=[0, 0], token_ids=[[5], [6, 7]], mask=[[True], [True, True]],
        steps=[[(0, 1)], [(0, 1), (1, 2)]],
    )  # fmt: skip
    assert found == [[0.5], [-0.5, 0.0]]  # the second turn has no other to compare with


@pytest.mark.parametrize("method", STEP_METHODS)
@pytest.mark.parametrize("form", ["lists", "index", "left", "right"])
def test_methods_of_steps_give_what_they_give_on_a_file(method: str, form: str) -> None:
    credit, given = stepped_batch()
    expected = METHODS[method].assign(credit)
    lengths = [len(row) for row in given["token_ids"]]
    longest = max(lengths)

    def padded_rows(rows: list[list[Any]], fill: Any) -> np.ndarray:
        before = [longest - len(row) if form == "left" else 0 for row in rows]
        return np.array(
            [[fill] * at + row + [fill] * (longest - len(row) - at) for at, row in zip(before, rows, strict=True)]
        )

    if form == "index":
        given["steps"] = [
            [at for at, (start, end) in enumerate(row) for _ in range(start, end)] for row in given["steps"]
        ]
    elif form in ("left", "right"):
        given["attention_mask"] = padded_rows(given["mask"], False)
        given["token_ids"] = padded_rows(given["token_ids"], 7)
        given["mask"] = given["attention_mask"]
    found = credit_tokens(method, **given)
    inside = given.get("attention_mask")
    flat = np.concatenate(found) if inside is None else found[inside]
    np.testing.assert_allclose(flat, expected, atol=1e-6)
    if inside is not None:
        assert not found[~inside].any()


def test_each_run_of_the_policys_tokens_is_a_turn() -> None:
    ids = np.array([[1, 2, 90, 3, 0], [1, 90, 91, 4, 5]])
    mask = np.array([[1, 1, 0, 1, 0], [1, 0, 0, 1, 1]])
    found = credit_tokens("turn_return", reward=[1.0, 0.0], group=[0, 0], token_ids=ids, mask=mask, steps="mask")
    assert found.tolist() == [[0.5, 0.5, 0.0, 0.5, 0.0], [-0.5, 0.0, 0.0, -0.5, -0.5]]


def test_rewards_of_tokens_are_the_rollouts_and_the_steps() -> None:
    ids = np.array([[1, 2, 3], [4, 5, 0]])
    paid = np.array([[0.25, 0.0, 0.5], [0.0, 0.5, 0.0]])
    given: dict[str, Any] = {"group": [0, 0], "token_ids": ids, "mask": ids > 0, "reward": paid}
    np.testing.assert_allclose(credit_tokens("rloo", **given)[:, 0], [0.25, -0.25])
    found = credit_tokens("turn_return", **given, steps=[[(0, 1), (1, 3)], [(0, 2)]], rewards="steps", siblings="none")
    np.testing.assert_allclose(found, [[0.75, 0.5, 0.5], [0.5, 0.5, 0.0]])


@pytest.mark.parametrize("method", ["tempo", "grpo", "reinforce_plus_plus", "treerl"])
def test_rows_that_are_skipped_move_nobodys_baseline(method: str) -> None:
    shown = padded()
    whole: dict[str, Any] = {name: torch.cat([value, value[:1]]) for name, value in shown.items() if name != "group"}
    whole["reward"][-1] = float("nan")
    found = credit_tokens(method, group=[0] * 5, **whole, skip=[False] * 4 + [True])
    np.testing.assert_array_equal(found[:4], credit_tokens(method, **shown))
    assert not found[4].any()


def test_padding_on_the_left_gives_the_tree_of_the_responses() -> None:
    shown = padded()
    expected = credit_tokens("tempo", **shown)
    rolled = {name: torch.stack([row.roll(n) for row, n in zip(value, (1, 1, 2, 0), strict=True)])
              for name, value in (("token_ids", shown["token_ids"]), ("mask", shown["mask"]), ("credit", expected))}  # fmt: skip
    found = credit_tokens(
        "tempo", reward=shown["reward"], group=shown["group"], token_ids=rolled["token_ids"], mask=rolled["mask"],
        attention_mask=rolled["mask"],
    )  # fmt: skip
    torch.testing.assert_close(found, rolled["credit"])


def test_the_report_says_what_the_batch_was_like() -> None:
    ids = [[1, 2], [1, 3, 4], [5], [6, 7], [8]]
    credit, info = credit_tokens(
        "grpo", reward=[1.0, 0.0, 1.0, 1.0, 0.5], group=["a", "a", "b", "b", "c"], token_ids=ids,
        mask=[[True] * len(row) for row in ids], skip=[False, False, False, False, False], return_info=True,
    )  # fmt: skip
    assert [len(row) for row in credit] == [2, 3, 1, 2, 1]
    assert (info.rollouts, info.skipped, info.groups, info.dead_groups, info.singletons) == (5, 0, 3, 1, 1)
    assert (info.tokens, info.credited) == (9, 5)
    assert info.seconds >= 0


def test_lists_of_tensors_come_back_as_lists_of_tensors() -> None:
    rows = [torch.tensor([5, 7, 9]), torch.tensor([5, 8])]
    found = credit_tokens("rloo", reward=[1.0, 0.0], group=[0, 0], token_ids=rows, mask=[row > 0 for row in rows])
    assert [each.tolist() for each in found] == [[1.0, 1.0, 1.0], [-1.0, -1.0]]
    assert all(isinstance(each, torch.Tensor) for each in found)


def test_everything_skipped_is_credit_of_nothing() -> None:
    found, info = credit_tokens("grpo", **padded(), skip=[True] * 4, return_info=True)
    assert not found.any()
    assert (info.rollouts, info.skipped, info.groups) == (0, 4, 0)


def test_a_wrong_option_fails_before_the_loop() -> None:
    with pytest.raises(UsageError, match="rho must be between 0 and 1, got 3"):
        TokenCredit("hepo", rho=3)
    with pytest.raises(UsageError, match="vineppo needs probes"):
        TokenCredit("vineppo")
    with pytest.raises(UsageError, match=r"remax needs probes \(greedy rollouts; or baseline=column\)"):
        TokenCredit("remax")
    assert TokenCredit("remax", baseline="column").needs == ("reward", "reward_baseline")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"steps": [[(0, 2)], [(0, 9)], [(0, 3)], [(0, 4)]]}, DataError, r"steps, row 1: \(0, 9\) must lie in its 3"),
        ({"steps": [[(0, 2), (1, 3)], [], [], []]}, DataError, r"steps, row 0: \(1, 3\) must lie"),
        ({"steps": [[(0, 2)]]}, DataError, "steps: 1 lists for 4 rollouts"),
        ({"steps": "turns"}, UsageError, "steps must be spans"),
        ({"steps": None}, UsageError, "signal 'step.reward' stands on steps"),
        ({"signals": {"step.state": [["a"]] * 4}}, DataError, r"signal 'step.state', row 0: 1 values for 3 steps"),
        ({"signals": {}}, DataError, "gigpo needs 'step.state', which is not among the signals"),
        ({"mask": [[True]] * 4}, DataError, "mask of shape .* a list for each row"),
        ({"lengths": [4, 3, 3, 4]}, DataError, "leave attention_mask and lengths out"),
        ({"skip": [True]}, DataError, "skip: 1 values for 4 rollouts"),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_in_ragged_lists_is_named(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    _, given = stepped_batch()
    with pytest.raises(error, match=message):
        credit_tokens("gigpo", **{**given, **change})


def test_the_digests_of_a_batch_are_those_of_the_rows_without_padding() -> None:
    ids = np.array([[0, 5, 7], [5, 8, 9]])
    inside = np.array([[False, True, True], [True, True, True]])
    _, info = TokenCredit("rloo").with_info(
        reward=[1.0, 0.0], group=["a", "a"], token_ids=ids, mask=inside, attention_mask=inside, prompt_ids=[[1, 2], [3]]
    )
    assert info.digests == (digest_of_tokens([1, 2], [5, 7]), digest_of_tokens([3], [5, 8, 9]))
    _, info = TokenCredit("rloo").with_info(reward=[1.0], group=["a"], token_ids=[[5, 7]], mask=[[True, True]])
    assert info.digests == (digest_of_tokens([], [5, 7]),)
    with pytest.raises(DataError, match="prompt_ids: 1 prompts for 2 rollouts"):
        credit_tokens(
            "rloo",
            reward=[1.0, 0.0],
            group=[0, 0],
            token_ids=[[1], [2, 3]],
            mask=[[True], [True] * 2],
            prompt_ids=[[1]],
        )
