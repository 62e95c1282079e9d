from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.formats.ragged import Ragged
from apportion.stages.assign_credit._examples import credit_of, rollouts_of
from apportion.stages.assign_credit.kind import METHODS, Credit

treerl = METHODS["treerl"].assign

# methods A, TreeRL: root -> a (leaves 1, 0), b (leaf 0), c (leaves 1, 1).
TOKENS = [[1, 5], [1, 6], [2], [3, 5], [3, 6]]
REWARDS = [1.0, 0.0, 0.0, 1.0, 1.0]


def test_worked_example() -> None:
    found = treerl(credit_of(REWARDS, tokens=TOKENS))
    expected = [-0.176777, 1.125, -0.176777, -1.375, -1.5, 0.707107, 0.5, 0.707107, 0.5]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_worked_example_of_the_released_code() -> None:
    found = treerl(credit_of(REWARDS, tokens=TOKENS), weigh="value")
    expected = [-0.176777, 1.088388, -0.176777, -1.411612, -1.5, 0.707107, 0.646447, 0.707107, 0.646447]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def by_token(rewards: list[float], tokens: list[list[int]]) -> Credit:
    """A tree with a node for each token, chains and all."""
    ids: dict[tuple[int, ...], int] = {}
    columns = {
        "node.id": [[ids.setdefault(tuple(row[: end + 1]), len(ids)) for end in range(len(row))] for row in tokens],
        "node.start": [list(range(len(row))) for row in tokens],
        "node.end": [list(range(1, len(row) + 1)) for row in tokens],
    }
    rulers = {path: Ragged.from_lists(lists, np.int32) for path, lists in columns.items()}
    return Credit(rollouts_of(rewards, tokens=tokens).with_columns(rulers))


# The same with a node d between c and its leaves, which changes nothing: both rollouts pass through it.
CHAIN = by_token(REWARDS, [[1, 5], [1, 6], [2], [3, 4, 5], [3, 4, 6]])


def test_worked_example_of_filling() -> None:
    plain = [-0.176777, 1.088388, -0.176777, -1.411612, -1.5, *[0.707107, 0.353553, 0.646447] * 2]
    np.testing.assert_allclose(treerl(CHAIN, weigh="value"), plain, atol=1e-6)
    filled = [-0.176777, 1.088388, -0.176777, -1.411612, -1.5, *[0.707107, 0.707107, 0.646447] * 2]
    np.testing.assert_allclose(treerl(CHAIN, weigh="value", fill_zeros=True), filled, atol=1e-6)
    released = METHODS["treerl"]
    found = released.assign(CHAIN, **METHODS.settle(released.name, {}, "treerl"))
    np.testing.assert_allclose(found, filled, atol=1e-6)


def test_a_difference_of_zero_is_filled_not_a_total_of_zero() -> None:
    tokens, rewards = [[5, 1], [5, 2, 3], [5, 2, 4], [6]], [1.0, 0.5, 0.5, 0.0]
    credit = credit_of(rewards, tokens=tokens)
    # mean 0.5: r = 2/3, 0, 0, -2/3; V(5) = 2/9, V(5 2) = 0, and so are its leaves.
    plain = treerl(credit)
    assert plain[3] == pytest.approx((2 * 0 - 2 / 9) / np.sqrt(2))
    assert plain[4] == plain[7] == 0
    filled = treerl(credit, fill_zeros=True)
    np.testing.assert_allclose(filled[[4, 7]], [-2 / 9] * 2)  # one leaf: nothing damps the difference of 5 2
    np.testing.assert_array_equal(np.delete(filled, [4, 7]), np.delete(plain, [4, 7]))
    # r = .5625, .1875, -.75: V(1) = .375 is twice that of its second leaf, whose difference is not 0 but whose total is.
    total = credit_of([0.875, 0.625, 0.0], tokens=[[1, 2], [1, 3], [4]])
    assert treerl(total, fill_zeros=True)[3] == treerl(total)[3] == 0
    first = credit_of([1.0, 0.0], tokens=[[5, 7], [5, 8]])
    assert treerl(first, fill_zeros=True).tolist() == [0.0, 2.0, 0.0, -2.0]  # the first of a path is never filled


def test_an_unfinished_rollout_counts_as_asked() -> None:
    rollouts = credit_of([1.0, 0.0], tokens=[[5], [6]]).rollouts.with_flag("truncated", np.array([True, False]))
    assert treerl(Credit(rollouts), unfinished=-1.0).tolist() == [-2.0, -2.0]
    # In the released code the root is worth what its leaves are: -1 / √2.
    found = treerl(Credit(rollouts), weigh="value", unfinished=-1.0)
    np.testing.assert_allclose(found, [-2 + 1 / np.sqrt(2)] * 2)


def test_what_values_are_divided_by() -> None:
    credit = credit_of(REWARDS, tokens=TOKENS)
    # V(a) = -.125 and V(c) = .5 over 2 leaves.
    np.testing.assert_allclose(treerl(credit, damp="none")[[0, 1, 4, 5, 6]], [-0.25, 1.125, -1.5, 1.0, 0.5])
    np.testing.assert_allclose(treerl(credit, damp="count")[[0, 1, 4, 5, 6]], [-0.125, 1.125, -1.5, 0.5, 0.5])
    found = treerl(credit, weigh="value", damp="count")  # W(a) = -.0625, W(c) = .25
    np.testing.assert_allclose(found[[0, 1, 4, 5, 6]], [-0.125, 1.0625, -1.5, 0.5, 0.75])


@pytest.mark.parametrize("weigh", ["difference", "value"])
def test_the_two_terms_add_up(weigh: Any) -> None:
    credit = credit_of(REWARDS, tokens=TOKENS)
    each = [treerl(credit, weigh=weigh, terms=terms) for terms in ("global", "local")]
    np.testing.assert_allclose(sum(each), treerl(credit, weigh=weigh))
    np.testing.assert_allclose(each[0][[0, 1, 4, 5]], [-0.125 / np.sqrt(2), 0.5, -0.75, 0.5 / np.sqrt(2)])


def test_worked_norms() -> None:
    # Values of the root, a, b, c and the leaves: 0, -.125, -.75, .5, then .5, -.75, .5, .5; leaves below: 5, 2, 1, 2, 1 …
    # By step their sum is 0 - .25 - .75 + 1 + .5 - .75 + .5 + .5 = .75 over 14, b's leaf being b itself.
    credit, root = credit_of(REWARDS, tokens=TOKENS), np.sqrt(2)
    for norm, mean in (("step", 0.75 / 14), ("token", 0.75 / 9)):  # one token a node, and none of the root
        found = treerl(credit, weigh="value", norm=norm)  # type: ignore[arg-type]
        prompt, a, c = -mean / np.sqrt(5), (-0.125 - mean) / root, (0.5 - mean) / root
        leaves = [2 * (value - mean) - above for value, above in ((0.5, a), (-0.75, a), (0.5, c), (0.5, c))]
        b = 2 * (-0.75 - mean) - prompt
        expected = [2 * a - prompt, leaves[0], 2 * a - prompt, leaves[1], b, 2 * c - prompt, leaves[2]]
        np.testing.assert_allclose(found[:7], expected)
    with pytest.raises(UsageError, match=r"treerl: norm=step takes the same from all values.*weigh=value"):
        treerl(credit, norm="step")


@pytest.mark.parametrize(
    "options", [{"weigh": "difference"}, {"weigh": "value"}, {"weigh": "value", "norm": "token", "damp": "none"}]
)
def test_equal_rewards_give_exactly_zero(options: dict[str, Any]) -> None:
    assert not treerl(credit_of([0.7] * 5, tokens=TOKENS), fill_zeros=True, **options).any()


def test_a_group_of_one() -> None:
    credit = credit_of([0.5], tokens=[[1, 2]])
    assert not treerl(credit).any()
    assert treerl(credit, singleton="raw").tolist() == [1.0, 1.0]
    with pytest.raises(DataError, match="alone"):
        treerl(credit, singleton="error")


def test_environment_tokens_and_empty_responses() -> None:
    tokens = [[1, 9, 5], [1, 9, 6], [2], [3, 9, 5], [3, 9, 6]]
    mask = [[True] if len(row) == 1 else [True, False, True] for row in tokens]
    found = treerl(credit_of(REWARDS, tokens=tokens, mask=mask))
    assert not found[[1, 4, 8, 11]].any()
    np.testing.assert_allclose(np.delete(found, [1, 4, 8, 11]), treerl(credit_of(REWARDS, tokens=TOKENS)))
    np.testing.assert_allclose(treerl(credit_of([1.0, 0.0], tokens=[[], [5]])), [-2.0])


def oracle(rewards: list[float], responses: list[list[int]], released: bool) -> list[float]:
    """The definition, slowly: leaves below every prefix, one node where they change."""
    count = len(rewards)
    relative = [(reward - (sum(rewards) - reward) / (count - 1)) for reward in rewards]

    def members(prefix: list[int]) -> list[int]:
        return [row for row in range(count) if responses[row][: len(prefix)] == prefix]

    def value(prefix: list[int]) -> float:
        return float(np.mean([relative[row] for row in members(prefix)])) if prefix else 0.0

    out: list[float] = []
    for response in responses:
        parent, here = [], 0.0
        for length in range(1, len(response) + 1):
            prefix = response[:length]
            if length == 1 or members(prefix) != members(response[: length - 1]):
                parent = response[: length - 1]
                leaves = len(members(prefix))
                above = len(members(parent))
                if released:
                    here = 2 * value(prefix) / np.sqrt(leaves) - value(parent) / np.sqrt(above)
                else:
                    here = (2 * value(prefix) - value(parent)) / np.sqrt(leaves)
            out.append(here)
    return out


DAMPED = {"sqrt": np.sqrt, "count": float, "none": lambda leaves: 1.0}


def released_code(
    rewards: list[float], tokens: list[list[int]], unfinished: list[bool], options: dict[str, Any]
) -> Any:
    """Its steps, on a tree with a node for each token: sums below every node, divided in place, then paths are read."""
    count = len(rewards)
    leaf = [r - (sum(rewards) - r) / (count - 1) for r in rewards]
    leaf = [-1.0 if cut else value for value, cut in zip(leaf, unfinished, strict=True)]
    below: dict[tuple[int, ...], list[int]] = {(): list(range(count))}
    for row, response in enumerate(tokens):
        for length in range(1, len(response) + 1):
            below.setdefault(tuple(response[:length]), []).append(row)
    total = {node: sum(leaf[row] for row in rows) for node, rows in below.items()}
    if options["norm"] != "none":
        size = {node: bool(node) if options["norm"] == "token" else 1 for node in below}
        mean = sum(total[node] * size[node] for node in below) / sum(len(below[node]) * size[node] for node in below)
        total = {node: value - mean * len(below[node]) for node, value in total.items()}
    total = {node: value / DAMPED[options["damp"]](len(below[node])) for node, value in total.items()}
    value = {node: total[node] / len(below[node]) for node in below}
    out: list[float] = []
    for response in tokens:
        path = [tuple(response[:length]) for length in range(1, len(response) + 1)]
        change = [value[node] - value[node[:-1]] for node in path]
        for at in range(1, len(path)):
            if options["fill_zeros"] and abs(change[at]) < 1e-8:
                change[at] = change[at - 1]
        both = [value[node] + each for node, each in zip(path, change, strict=True)]
        only = [value[node] for node in path]
        out += {"both": both, "global": only, "local": change}[options["terms"]]
    return out


@pytest.mark.parametrize("seed", range(40))
def test_agrees_with_the_released_steps_on_random_trees(seed: int) -> None:
    rng = np.random.default_rng(seed)
    options = {
        "norm": str(rng.choice(["none", "step", "token"])),
        "damp": str(rng.choice(["sqrt", "count", "none"])),
        "terms": str(rng.choice(["both", "global", "local"])),
        "fill_zeros": bool(rng.random() < 0.7),
    }
    tokens = [rng.integers(0, 2, rng.integers(1, 7)).tolist() for _ in range(6)]
    rewards, cut = rng.integers(0, 2, 6).astype(float).tolist(), rng.random(6) < 0.3
    rewards[:2] = [0.0, 1.0]
    credit = Credit(by_token(rewards, tokens).rollouts.with_flag("truncated", cut))
    found = treerl(credit, weigh="value", unfinished=-1.0, **options)
    np.testing.assert_allclose(found, released_code(rewards, tokens, cut.tolist(), options), atol=1e-12)


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_agrees_with_the_definition_on_random_groups(seed: int, released: bool) -> None:
    rng = np.random.default_rng(seed)
    responses = [rng.integers(0, 3, rng.integers(0, 7)).tolist() for _ in range(9)]
    rewards = rng.random(9).tolist()
    found = treerl(credit_of(rewards, tokens=responses), weigh="value" if released else "difference")
    np.testing.assert_allclose(found, oracle(rewards, responses, released), atol=1e-12)
