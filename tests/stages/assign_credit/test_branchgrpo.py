from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.formats.ragged import Ragged
from apportion.stages.assign_credit._examples import credit_of, rollouts_of
from apportion.stages.assign_credit.kind import METHODS, Credit

branchgrpo = METHODS["branchgrpo"].assign

# methods A, BranchGRPO: root -> n1, n2; n1 -> leaves 1.0, 0.2; n2 -> leaves 0.5, 0.4.
TOKENS = [[1, 5], [1, 6], [2, 5], [2, 6]]
REWARDS = [1.0, 0.2, 0.5, 0.4]
LEFT = [None, (0, 1), None, (2, 1)]  # n1 and n2 were drawn once each, and so were the leaves
LOGPROBS = [[-0.5, -0.2], [-0.5, -0.9], [-1.5, -0.4], [-1.5, -0.4]]
FIRST = [0.707107, 0.707107, -0.707107, -0.707107]
SECOND = [1.395651, -0.954919, -0.073455, -0.367277]
Tokens = Sequence[Sequence[int]]
Prefix = tuple[int, ...]


def with_logprobs(credit: Credit, logprobs: Sequence[Sequence[float]]) -> Credit:
    return Credit(credit.rollouts.with_columns({"token.logprob": Ragged.from_lists(logprobs, np.float32)}))


def by_token(rewards: Sequence[float], tokens: Tokens, **kwargs: Any) -> Credit:
    """A tree with a node for each token, chains and all, as one built by step has it."""
    ids: dict[Prefix, int] = {}
    paths = [[ids.setdefault(tuple(row[: end + 1]), len(ids)) for end in range(len(row))] for row in tokens]
    starts = [list(range(len(row))) for row in tokens]
    ends = [[start + 1 for start in row] for row in starts]
    rollouts = rollouts_of(rewards, tokens=tokens, **kwargs)
    columns = {"node.id": paths, "node.start": starts, "node.end": ends}
    return Credit(rollouts.with_columns({path: Ragged.from_lists(lists, np.int32) for path, lists in columns.items()}))


def chains(rewards: Sequence[float] = tuple(REWARDS)) -> Credit:
    """The worked tree with two more steps after each leaf."""
    return by_token(rewards, [[*row, 7, 8] for row in TOKENS], left=LEFT)


def tree(rewards: Sequence[float] = tuple(REWARDS), tokens: Tokens = TOKENS) -> Credit:
    """The worked tree, and what else begins at the prompt."""
    return credit_of(rewards, tokens=tokens, left=[*LEFT, *[None] * (len(tokens) - len(LEFT))])


def test_worked_example() -> None:
    found = branchgrpo(tree()).reshape(4, 2)
    np.testing.assert_allclose(found[:, 0], FIRST, atol=1e-6)
    np.testing.assert_allclose(found[:, 1], SECOND, atol=1e-6)


def test_a_node_counts_once_for_each_time_it_was_drawn() -> None:
    # Four from the prompt: .6, .6, .45, .45 have mean .525 and std √.0075.
    found = branchgrpo(credit_of(REWARDS, tokens=TOKENS)).reshape(4, 2)
    np.testing.assert_allclose(found[:, 0], np.array([1, 1, -1, -1]) * 0.075 / np.sqrt(0.0075), atol=1e-6)
    np.testing.assert_allclose(found[:, 1], SECOND, atol=1e-6)
    # n1 and another one with the same tokens, which leads to 1.0 and 0.2 as well, beside n2: .6, .6, .45.
    tokens, left = [*TOKENS, [1, 7], [1, 8]], [*LEFT, None, (4, 1)]
    found = branchgrpo(credit_of([*REWARDS, 1.0, 0.2], tokens=tokens, left=left)).reshape(6, 2)
    np.testing.assert_allclose(found[[0, 2], 0], [0.05 / np.sqrt(0.0075), -0.1 / np.sqrt(0.0075)], atol=1e-6)


def test_equal_children_weigh_more_than_one() -> None:
    # n1 is drawn on to 1.0 twice and to 0.2 once: .733333; n2 .45; and 0.5.
    tokens, left = [[1, 5], [1, 5], [1, 6], [2, 5], [2, 6], [3]], [None, (0, 1), (0, 1), None, (3, 1), None]
    credit = credit_of([1.0, 1.0, 0.2, 0.5, 0.4, 0.5], tokens=tokens, left=left)
    flat = with_logprobs(credit, [[-0.5] * len(row) for row in tokens])
    fused = np.array([2.2 / 3, 0.45, 0.5])
    expected = (fused - fused.mean()) / fused.std(ddof=1)
    for fusion in ("uniform", "weighted"):
        np.testing.assert_allclose(branchgrpo(flat, fusion=fusion)[[0, 6, 10]], expected, atol=1e-6)


def test_worked_example_weighted_by_probability() -> None:
    credit = with_logprobs(tree(), LOGPROBS)
    found = branchgrpo(credit, fusion="weighted").reshape(4, 2)
    np.testing.assert_allclose(found[:, 0], FIRST, atol=1e-6)
    np.testing.assert_allclose(found[:, 1], SECOND, atol=1e-6)
    # A third node at depth 1 shows the fused rewards: .734550, .45 and .5 have mean .561517 and std .151924.
    credit = with_logprobs(tree([*REWARDS, 0.5], [*TOKENS, [3]]), [*LOGPROBS, [-1.0]])
    found = branchgrpo(credit, fusion="weighted")
    np.testing.assert_allclose(found[[0, 4, 8]], [1.13895, -0.73403, -0.40492], atol=2e-5)
    np.testing.assert_allclose(found[1:8:2], SECOND, atol=1e-6)
    # Without weights .6, .45 and .5: mean .516667, std .076376.
    np.testing.assert_allclose(branchgrpo(credit)[[0, 4, 8]], [1.091089, -0.872872, -0.218218], atol=1e-5)
    np.testing.assert_allclose(branchgrpo(credit, fusion="weighted", alpha=0.0), branchgrpo(credit))


def test_the_weight_is_the_mean_over_the_tokens_of_a_node() -> None:
    short = with_logprobs(tree([*REWARDS, 0.5], [*TOKENS, [3]]), [*LOGPROBS, [-1.0]])
    tokens = [[1, 5, 5, 5], *TOKENS[1:], [3]]
    long = with_logprobs(tree([*REWARDS, 0.5], tokens), [[-0.5, -0.1, -0.2, -0.3], *LOGPROBS[1:], [-1.0]])
    found = branchgrpo(long, fusion="weighted")
    np.testing.assert_allclose(found[[0, 1, 4, 5, 6, 7, 8, 9, 10]], branchgrpo(short, fusion="weighted"), atol=1e-6)


def test_worked_example_of_width_pruning() -> None:
    whole = branchgrpo(chains()).reshape(4, 4)
    np.testing.assert_allclose(whole[:, 1:], np.repeat(np.array(SECOND)[:, None], 3, axis=1), atol=1e-6)
    extremes = branchgrpo(chains(), width="extremes").reshape(4, 4)
    np.testing.assert_allclose(extremes[:, :2], whole[:, :2])
    np.testing.assert_allclose(extremes[:2], whole[:2])
    assert not extremes[2:, 2:].any()
    branch = branchgrpo(chains(), width="branch").reshape(4, 4)
    np.testing.assert_allclose(branch[:, :3], whole[:, :3])  # of equal advantages the earlier step
    assert not branch[:, 3].any()


def test_at_least_one_of_a_branch_and_two_of_a_tree_are_kept() -> None:
    assert np.count_nonzero(branchgrpo(chains(), width="branch", ratio=0.0).reshape(4, 4)[:, 2:]) == 4
    kept = branchgrpo(chains(), width="extremes", ratio=0.0).reshape(4, 4)[:, 2:]
    np.testing.assert_allclose(kept, [[SECOND[0], 0], [0, SECOND[1]], [0, 0], [0, 0]], atol=1e-6)
    np.testing.assert_allclose(branchgrpo(chains(), width="extremes", ratio=1.0), branchgrpo(chains()))
    np.testing.assert_allclose(branchgrpo(chains(), width="branch", ratio=1.0), branchgrpo(chains()))


def test_nothing_follows_the_last_split_of_a_compressed_tree() -> None:
    credit = tree(tokens=[[*row, 7, 8] for row in TOKENS])
    np.testing.assert_allclose(branchgrpo(credit, width="branch"), branchgrpo(chains()))


def test_depths_are_pruned_before_widths() -> None:
    found = branchgrpo(chains(), prune_depths=(1, 3)).reshape(4, 4)
    assert not found[:, [0, 2]].any()
    np.testing.assert_allclose(found[:, 1], SECOND, atol=1e-6)
    np.testing.assert_allclose(found[:, 3], SECOND, atol=1e-6)
    both = branchgrpo(chains(), prune_depths=(3,), width="branch").reshape(4, 4)
    np.testing.assert_allclose(both[:, [1, 3]], found[:, [1, 3]])  # one node of each branch is left, and it is kept


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ({"slide_step": 29}, 4),
        ({"slide_step": 30}, 3),
        ({"slide_step": 89}, 2),
        ({"slide_step": 900}, 1),  # the last split is that of the nodes at depth 1
        ({"slide_step": 900, "slide_stop": 2}, 2),
        ({"slide_step": 900, "slide_stop": 9}, 4),
        ({"slide_step": 4, "slide_every": 2}, 2),
    ],
)
def test_pruned_depths_slide_up_to_the_last_split(options: dict[str, int], gone: int) -> None:
    found = branchgrpo(chains(), prune_depths=(4,), **options).reshape(4, 4)  # type: ignore[arg-type]
    assert [depth for depth in range(1, 5) if not found[:, depth - 1].any()] == [gone]


def test_a_finished_leaf_takes_part_at_its_own_depth_only() -> None:
    found = branchgrpo(credit_of([1.0, 0.2, 0.5], tokens=[[1, 5], [1, 6], [2]], left=[None, (0, 1), None]))
    # depth 1: .6 and .5; depth 2: 1.0 and .2
    np.testing.assert_allclose(found, [0.707107, 0.707107, 0.707107, -0.707107, -0.707107], atol=1e-6)


def test_values_are_clipped_after_the_choice() -> None:
    rewards, tokens = [1.0] + [0.0] * 40, [[token] for token in range(41)]
    assert branchgrpo(credit_of(rewards, tokens=tokens))[0] == 5.0
    assert branchgrpo(credit_of(rewards, tokens=tokens), clip=None)[0] == pytest.approx(6.247, abs=1e-3)  # 40 / √41


def test_a_small_spread_gives_0() -> None:
    credit = credit_of([0.5, 0.500001], tokens=[[1], [2]])
    assert not branchgrpo(credit).any()
    assert branchgrpo(credit, threshold=0.0).all()


def test_split_adds_up_to_each_edge_once() -> None:
    found = branchgrpo(tree(), shared="split").reshape(4, 2)
    np.testing.assert_allclose(found[:, 0], np.array(FIRST) / 2, atol=1e-6)
    np.testing.assert_allclose(found[:, 1], SECOND, atol=1e-6)


@pytest.mark.parametrize("fusion", ["uniform", "weighted"])
def test_equal_rewards_groups_of_one_and_empty_responses_give_exactly_0(fusion: Any) -> None:
    for rewards, tokens in [([0.7] * 4, TOKENS), ([0.7], [[1, 2]]), ([0.3, 0.9], [[], [5]]), ([0.3, 0.9], [[], []])]:
        credit = credit_of(rewards, tokens=tokens)
        logprobs: list[list[float]] = [[-0.3 * token for token in row] for row in tokens]
        assert not branchgrpo(with_logprobs(credit, logprobs), fusion=fusion).any()


def test_environment_tokens_change_no_other_credit() -> None:
    # What an environment wrote in a node of its own is no depth.
    tokens = [[row[0], 9, row[1], 7, 8] for row in TOKENS]
    left = [each and (each[0], 2) for each in LEFT]
    credit = by_token(REWARDS, tokens, mask=[[True, False, True, True, True]] * 4, left=left)
    chosen: list[dict[str, Any]] = [{}, {"prune_depths": (3,)}, {"width": "branch"}, {"width": "extremes"}]
    for options in chosen:
        found = branchgrpo(credit, **options).reshape(4, 5)
        assert not found[:, 1].any()
        np.testing.assert_allclose(found[:, [0, 2, 3, 4]], branchgrpo(chains(), **options).reshape(4, 4))


def test_groups_do_not_mix() -> None:
    both = branchgrpo(credit_of([*REWARDS, *REWARDS[:2]], tokens=[*TOKENS, *TOKENS[:2]], groups=[0] * 4 + [1] * 2))
    np.testing.assert_allclose(both[:8], branchgrpo(credit_of(REWARDS, tokens=TOKENS)))
    np.testing.assert_allclose(both[8:], [0.0, 0.707107, 0.0, -0.707107], atol=1e-6)


def test_what_is_missing_or_out_of_range_is_named() -> None:
    credit = credit_of(REWARDS, tokens=TOKENS)
    with pytest.raises(DataError, match=r"'token\.logprob'.*fusion=uniform"):
        branchgrpo(credit, fusion="weighted")
    with pytest.raises(UsageError, match=r"branchgrpo: ratio must be between 0 and 1, got 1\.5"):
        METHODS.settle("branchgrpo", {"ratio": 1.5})
    with pytest.raises(UsageError, match="slide_every must be at least 1, got 0"):
        METHODS.settle("branchgrpo", {"slide_every": 0})
    absent = Ragged(np.array([0], np.int32), np.array([0, 1, 1]), np.array([True, False]))
    columns = {f"node.{leaf}": absent for leaf in ("id", "start", "end")}
    with pytest.raises(DataError, match="tree-build"):
        branchgrpo(Credit(credit_of([1.0, 0.0], tokens=[[1], [2]]).rollouts.with_columns(columns)))


def test_depths_may_be_given_as_a_list() -> None:
    assert METHODS.settle("branchgrpo", {"prune_depths": [3, 4]})["prune_depths"] == (3, 4)


def oracle(
    rewards: list[float],
    responses: list[list[int]],
    forks: list[int],
    logprobs: list[list[float]],
    options: dict[str, Any],
) -> list[float]:
    """The definition, slowly, on a tree with a node for each token."""
    members: dict[Prefix, list[int]] = {}
    for row, response in enumerate(responses):
        for length in range(len(response) + 1):
            members.setdefault(tuple(response[:length]), []).append(row)

    def ended(node: Prefix) -> list[int]:
        return [row for row in members[node] if len(responses[row]) == len(node)]

    def children(node: Prefix) -> list[Prefix]:
        return [each for each in members if len(each) == len(node) + 1 and each[:-1] == node]

    def draws(node: Prefix) -> int:
        return max(1, sum(forks[row] < len(node) for row in members[node]))

    def fused(node: Prefix) -> float:
        if options.get("fusion") != "weighted":
            return float(np.mean([rewards[row] for row in members[node]]))
        parts = [(0.0, rewards[row]) for row in ended(node)]
        for child in children(node):
            score = float(np.mean([np.float32(logprobs[row][len(node)]) for row in members[child]]))
            parts += [(score, fused(child))] * draws(child)
        weights = np.exp([score for score, _ in parts])
        return float(weights @ [value for _, value in parts] / weights.sum())

    advantage: dict[Prefix, float] = {(): 0.0}
    for depth in range(1, max(map(len, members)) + 1):
        level = [node for node in members if len(node) == depth]
        values = [fused(node) for node in level for _ in range(draws(node))]
        spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
        for node in level:
            advantage[node] = float((fused(node) - np.mean(values)) / (spread + 1e-8)) if spread >= 1e-6 else 0.0

    def one_leaf(node: Prefix) -> bool:
        return len({tuple(responses[row]) for row in members[node]}) == 1

    left = {node for node in members if len(node) not in options.get("prune_depths", ())}
    after = [node for node in left if node and one_leaf(node) and len(node) > 1 and one_leaf(node[:-1])]
    after.sort(key=lambda node: (-round(advantage[node], 9), len(node)))
    branches = {tuple(responses[members[node][0]]) for node in after}
    if options.get("width") == "branch":
        for branch in branches:
            chain = [node for node in after if tuple(responses[members[node][0]]) == branch]
            left -= set(chain[max(1, len(chain) // 2) :])
    elif options.get("width") == "extremes":
        keep = max(2, len(after) // 2)
        if keep < len(after):
            left -= set(after[keep // 2 : len(after) - (keep - keep // 2)])
    return [
        advantage[tuple(response[: end + 1])] if tuple(response[: end + 1]) in left else 0.0
        for response in responses
        for end in range(len(response))
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fusion": "weighted"},
        {"prune_depths": (2, 5)},
        {"width": "branch"},
        {"width": "extremes"},
        {"prune_depths": (4,), "width": "extremes", "fusion": "weighted"},
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_the_definition_on_random_groups(seed: int, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(seed)
    responses: list[list[int]] = [rng.integers(0, 3, rng.integers(1, 8)).tolist() for _ in range(9)]
    responses[0], responses[1] = [0, 1], [1]
    if options.get("width") == "extremes":  # nodes of equal advantage and depth may be pruned in either order
        rng.shuffle(responses)
        responses = [list(each) for each in dict.fromkeys(map(tuple, responses))]
    rewards, logprobs = rng.random(len(responses)).tolist(), [(-rng.random(len(row))).tolist() for row in responses]
    # Some left one before them where the two part, or earlier.
    forks = [0] * len(responses)
    for row in range(1, len(responses)):
        shared = [sum(all(a == b for a, b in pairs[:at]) for at in range(1, len(pairs) + 1))
                  for pairs in (list(zip(responses[row], each, strict=False)) for each in responses[:row])]  # fmt: skip
        forks[row] = int(rng.integers(0, max(shared) + 1))
    left = [(0, fork) if fork else None for fork in forks]
    credit = with_logprobs(by_token(rewards, responses, left=left), logprobs)
    found = branchgrpo(credit, clip=None, **options)
    np.testing.assert_allclose(found, oracle(rewards, responses, forks, logprobs, options), atol=1e-5)
