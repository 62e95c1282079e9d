import numpy as np
import pytest
from apportion.stages.assign_credit._examples import credit_of
from apportion.stages.assign_credit.kind import METHODS

tempo = METHODS["tempo"].assign

grpo = METHODS["grpo"].assign

TOKENS = [[5, 7, 9, 2], [5, 7, 8, 2], [5, 6, 4], [5, 7, 9, 3, 2]]
REWARDS = [1.0, 0.0, 1.0, 0.0]  # mean 0.5, std1 0.5773502692 (methods A, TEMPO)


def test_worked_example_with_std() -> None:
    expected = [
        *[0.866024, 0.577349, 1.154699, 1.732048],
        *[-0.866024, -1.154699, -1.443373, -0.866024],
        *[0.866024, 1.732048, 0.866024],
        *[-0.866024, -1.154699, -0.577349, -1.732048, -0.866024],
    ]
    np.testing.assert_allclose(tempo(credit_of(REWARDS, tokens=TOKENS)), expected, atol=1e-5)


def test_worked_example_without_std() -> None:
    expected = [0.5, 1 / 3, 2 / 3, 1, -0.5, -2 / 3, -5 / 6, -0.5, 0.5, 1, 0.5, -0.5, -2 / 3, -1 / 3, -1, -0.5]
    np.testing.assert_allclose(tempo(credit_of(REWARDS, tokens=TOKENS), scale="none"), expected, rtol=1e-12, atol=1e-15)


def test_the_changes_of_a_rollout_sum_to_its_reward_minus_the_mean() -> None:
    credit = credit_of(REWARDS, tokens=TOKENS)
    change = tempo(credit, scale="none") - credit.tokens.spread(grpo(credit, scale="none"))
    np.testing.assert_allclose(credit.tokens.sum(change), [0.5, -0.5, 0.5, -0.5], rtol=1e-12)


def test_where_one_ends_and_the_other_goes_on_the_going_on_is_credited() -> None:
    # [1] R 0 and [1, 2] R 1: token 2 of the second has V 1 - 0.5.
    np.testing.assert_allclose(tempo(credit_of([0.0, 1.0], tokens=[[1], [1, 2]]), scale="none"), [-0.5, 0.5, 1.0])


def test_rollouts_that_share_nothing_reduce_to_grpo_after_the_first_token() -> None:
    credit = credit_of([1.0, 0.0], tokens=[[1, 2, 3], [4, 5, 6]])
    value = tempo(credit)
    np.testing.assert_allclose(value[1:3], np.repeat(grpo(credit)[0], 2))
    np.testing.assert_allclose(value[4:], np.repeat(grpo(credit)[1], 2))


def test_equal_responses_share_every_node_and_get_no_change() -> None:
    credit = credit_of([1.0, 0.0], tokens=[[1, 2], [1, 2]])
    np.testing.assert_allclose(tempo(credit), credit.tokens.spread(grpo(credit)))


def test_equal_rewards_give_exactly_zero() -> None:
    assert not tempo(credit_of([0.7] * 4, tokens=TOKENS)).any()


def test_an_empty_response_counts_in_the_mean_and_has_no_tokens() -> None:
    value = tempo(credit_of([1.0, 0.0], tokens=[[3], []]), scale="none")
    np.testing.assert_allclose(value, [0.5 + (1.0 - 0.5)])


def test_a_group_of_one_gets_zero() -> None:
    assert not tempo(credit_of([1.0], tokens=[[1, 2]])).any()


@pytest.mark.parametrize(("multi_turn", "last"), [("stop", -0.5), ("skip", -1.0)])
def test_the_comparison_stops_at_the_first_environment_token_unless_told_to_skip_it(
    multi_turn: str, last: float
) -> None:
    tokens, mask = [[1, 9, 2], [1, 9, 3]], [[True, False, True]] * 2
    value = tempo(credit_of([1.0, 0.0], tokens=tokens, mask=mask), scale="none", multi_turn=multi_turn)  # type: ignore[arg-type]
    np.testing.assert_allclose(value, [0.5, 0, -last, -0.5, 0, last])


def oracle(rewards: list[float], responses: list[list[int]]) -> list[float]:
    """The definition, slowly: V(prefix) over a dictionary of prefixes."""
    passing: dict[tuple[int, ...], list[float]] = {}
    for reward, response in zip(rewards, responses, strict=True):
        for length in range(len(response) + 1):
            passing.setdefault(tuple(response[:length]), []).append(reward)
    value = {prefix: float(np.mean(seen)) for prefix, seen in passing.items()}
    mean, std = float(np.mean(rewards)), float(np.std(rewards, ddof=1))
    return [
        (reward - mean + value[tuple(response[: t + 1])] - value[tuple(response[:t])]) / (std + 1e-6)
        for reward, response in zip(rewards, responses, strict=True)
        for t in range(len(response))
    ]


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_the_definition_on_random_groups(seed: int) -> None:
    rng = np.random.default_rng(seed)
    responses = [rng.integers(0, 3, rng.integers(0, 7)).tolist() for _ in range(8)]
    rewards = rng.integers(0, 2, 8).astype(float)
    rewards[:2] = [0.0, 1.0]
    np.testing.assert_allclose(
        tempo(credit_of(rewards.tolist(), tokens=responses)), oracle(rewards.tolist(), responses), atol=1e-9
    )
