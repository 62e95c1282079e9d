import numpy as np
import pytest
from apportion.formats.errors import DataError
from apportion.formats.ragged import Ragged
from apportion.formats.segments import Segments
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.assign_credit.kind import METHODS, Credit
from apportion.stages.structure.statistics import whiten_batch

gae = METHODS["gae"].assign


def valued(rewards: list[float], values: list[list[float]], mask: list[list[bool]] | None = None) -> Credit:
    batch = rollouts_of(rewards, tokens=[list(range(len(row))) for row in values], mask=mask)
    return Credit(batch.with_columns({"token.value": Ragged.from_lists(values, np.float64)}))


def with_steps(credit: Credit, starts: list[list[int]], ends: list[list[int]], rewards: list[list[float]]) -> Credit:
    columns = {
        "step.start": Ragged.from_lists(starts, np.int32),
        "step.end": Ragged.from_lists(ends, np.int32),
        "step.reward": Ragged.from_lists(rewards, np.float64),
    }
    return Credit(credit.rollouts.with_columns(columns))


def test_worked_example() -> None:
    # methods A, GAE: r = 0, 0, 1; V = 0.5, 0.6, 0.4; gamma 1, lambda 0.95.
    np.testing.assert_allclose(gae(valued([1.0], [[0.5, 0.6, 0.4]])), [0.4515, 0.37, 0.6], rtol=1e-6)


def test_worked_example_whitened() -> None:
    value = gae(valued([1.0], [[0.5, 0.6, 0.4]]), whiten="batch")
    np.testing.assert_allclose(value, [-0.191513, -0.890393, 1.081906], atol=1e-6)


def test_worked_example_with_an_environment_token() -> None:
    # methods D, section 32: mask 1, 1, 0, 1; what stands on the masked token is ignored, GAE carries over it.
    credit = valued([1.0], [[0.2, 0.3, 9.0, 0.4]], mask=[[True, True, False, True]])
    np.testing.assert_allclose(gae(credit), [0.7365, 0.67, 0, 0.6], rtol=1e-6)


def test_worked_example_with_rewards_on_every_token() -> None:
    # methods D, section 32: rewards -0.005, -0.010, 2.025; V 0.5, 0.6, 0.7.
    credit = with_steps(valued([0.0], [[0.5, 0.6, 0.7]]), [[0, 1, 2]], [[1, 2, 3]], [[-0.005, -0.01, 2.025]])
    np.testing.assert_allclose(gae(credit, rewards="steps"), [1.376312, 1.348750, 1.325000], atol=1e-6)
    whitened_by_verl = gae(credit, rewards="steps", whiten="batch")
    np.testing.assert_allclose(whitened_by_verl, [1.023817, -0.049487, -0.974330], atol=1e-5)
    whitened_inside = gae(credit, rewards="steps", whiten="batch", eps=1e-6)
    np.testing.assert_allclose(whitened_inside, [1.023050, -0.049450, -0.973600], atol=1e-5)


def test_both_adds_the_outcome() -> None:
    credit = with_steps(valued([1.0], [[0.0, 0.0, 0.0]]), [[0, 2]], [[2, 3]], [[0.25, 0.5]])
    np.testing.assert_allclose(gae(credit, rewards="both", lam=0), [0, 0.25, 1.5])
    np.testing.assert_allclose(gae(credit, rewards="outcome", lam=0), [0, 0, 1])


def test_the_reward_of_an_environments_step_goes_to_the_token_before_it() -> None:
    credit = valued([1.0], [[0.0] * 4], mask=[[True, True, False, True]])
    credit = with_steps(credit, [[0, 2, 3]], [[2, 3, 4]], [[0.25, 0.5, 0.0]])
    np.testing.assert_allclose(gae(credit, rewards="steps", lam=0), [0, 0.75, 0, 0])


def test_lambda_one_is_the_return_minus_the_value_and_lambda_zero_the_change() -> None:
    credit = valued([2.0], [[0.5, 0.25, 1.0]])
    np.testing.assert_allclose(gae(credit, lam=1), [1.5, 1.75, 1.0])
    np.testing.assert_allclose(gae(credit, lam=0), [-0.25, 0.75, 1.0])


def test_a_group_of_one_and_empty_responses_are_nothing_special() -> None:
    np.testing.assert_allclose(gae(valued([1.0], [[0.25]])), [0.75])
    np.testing.assert_allclose(gae(valued([1.0, 5.0, 0.0], [[0.25], [], [0.5]])), [0.75, -0.5])
    assert gae(valued([1.0], [[]]), whiten="batch").shape == (0,)


def test_equal_advantages_whiten_to_zero() -> None:
    assert not gae(valued([0.7, 0.7], [[0.0], [0.0]]), whiten="batch").any()


def test_verls_preset() -> None:
    options = METHODS.settle("gae", {}, "verl")
    assert (options["lam"], options["whiten"], options["eps"]) == (1.0, "batch", 1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"value": "token.critic"}, "no column 'token.critic'"),
        ({"rewards": "steps"}, "no column 'step.start', which gae needs; .* or --set rewards=outcome"),
    ],
)
def test_a_missing_column_is_named(options: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        gae(valued([1.0], [[0.5]]), **options)  # type: ignore[arg-type]


def oracle(credit: Credit, gamma: float, lam: float) -> list[float]:
    """The definition, token by token from the end, masked tokens carried over (as verl does)."""
    values = credit.rollouts.ragged("token.value")
    out: list[float] = []
    for row, reward in enumerate(credit.reward.tolist()):
        value, mask = (
            values[row].astype(np.float64),
            credit.mask[credit.tokens.starts[row] : credit.tokens.offsets[row + 1]],
        )
        credits, after, advantage = [0.0] * len(value), 0.0, 0.0
        due = reward
        for place in reversed(range(len(value))):
            if not mask[place]:
                continue
            advantage = due + gamma * after - value[place] + gamma * lam * advantage
            credits[place], after, due = advantage, value[place], 0.0
        out += credits
    return out


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.99, 0.9), (1.0, 1.0), (0.5, 0.0)])
def test_agrees_with_the_definition_on_random_rollouts(seed: int, gamma: float, lam: float) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 70, 12)
    mask = [(rng.random(size) < 0.7).tolist() for size in sizes]
    credit = valued(rng.random(12).tolist(), [rng.random(size).tolist() for size in sizes], mask)
    np.testing.assert_allclose(gae(credit, gamma=gamma, lam=lam), oracle(credit, gamma, lam), rtol=1e-10, atol=1e-12)


def test_environment_tokens_change_no_other_credit() -> None:
    plain = gae(valued([1.0], [[0.2, 0.3, 0.4]]))
    holed = gae(valued([1.0], [[7.0, 0.2, 0.3, 7.0, 0.4, 7.0]], mask=[[False, True, True, False, True, False]]))
    np.testing.assert_allclose(holed[[1, 2, 4]], plain)
    assert not holed[[0, 3, 5]].any()


@pytest.mark.parametrize("discount", [1.0, 0.999, 0.95, 0.0])
def test_sums_over_a_long_response_are_exact(discount: float) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(20_011)
    expected, after = np.zeros(len(values), np.longdouble), np.longdouble(0)
    for place in reversed(range(len(values))):
        after = values[place] + np.longdouble(discount) * after
        expected[place] = after
    found = Segments(np.array([0, len(values)])).discounted(values, discount)
    np.testing.assert_allclose(found, expected.astype(float), rtol=0, atol=2e-11)


def test_whitening_leaves_out_what_is_not_chosen() -> None:
    found = whiten_batch(np.array([1.0, 100.0, 3.0]), np.array([True, False, True]))
    np.testing.assert_allclose(found, [-np.sqrt(0.5), 0, np.sqrt(0.5)], rtol=1e-6)


def test_a_step_reward_that_is_no_number_is_refused_and_not_whitened_to_0() -> None:
    credit = with_steps(valued([1.0, 0.0], [[0.5], [0.5]]), [[0], [0]], [[1], [1]], [[1.0], [float("nan")]])
    with pytest.raises(DataError, match=r"row 1, column 'step\.reward': expected finite numbers"):
        gae(credit, rewards="steps", whiten="batch")
