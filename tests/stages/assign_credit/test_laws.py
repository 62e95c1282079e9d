"""What every credit method has to obey, on random batches; a method that is added is tested here unasked.

Where a method does not obey, a table says why.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from apportion.formats.segments import Array
from apportion.stages.assign_credit.kind import METHODS, Credit, Method
from hypothesis import given, settings
from hypothesis import strategies as st

Draw = Callable[..., Any]
SEEDS = st.integers(0, 10_000)
few = settings(max_examples=6, derandomize=True, deadline=None, database=None)

# passk: what it needs to run on groups of 2 to 5. tempo: by default it stops at the first token an environment wrote.
# gigpo: with a discount the same reward is worth less the later it comes. gdpo: two rewards that oppose each other in a
# group of two leave nothing but what eps did. adora: what is right is right in every unit.
OPTIONS: dict[str, dict[str, Any]] = {
    "passk": {"k": 2},
    "tempo": {"multi_turn": "skip"},
    "gigpo": {"gamma": 1.0},
    "gdpo": {"eps": 0.0},
    "adora": {"correct": 0.0},
}

MEASURED = "judges by values that were measured, not by siblings"
OF_STEPS = "judges by rewards of steps, which are not equal here"
EXCEPT: dict[str, dict[str, str]] = {
    "environment tokens": {},
    "finite": {},
    "order": {},
    "groups apart": {},
    "scaling": {"r3l": "the largest reward is a number"},
    "equal rewards": {
        "gae": MEASURED,
        "groundedprm": "a right answer counts for itself, and so does a checked step",
        "mapo": OF_STEPS,
        "potential_difference": MEASURED,
        "r3l": "a group that is all as good as can be gets 1",
        "slate": OF_STEPS,
    },
}
# Values are means over as many equal rewards of probes as there are, which may be off by an ulp.
NEARLY_0 = {"spo_chain", "vineppo"}
# Rewards times 4: the credit is "same" (in standard deviations, up to eps), or "times" 4 (in reward units).
SCALING = {
    "adora": "same",
    "branchgrpo": "same",
    "dr_grpo": "times",
    "gae": "times",
    "gdpo": "same",
    "gigpo": "same",
    "gpg": "times",
    "groundedprm": "same",
    "grpo": "same",
    "hepo": "same",
    "lite_ppo": "same",
    "mapo": "same",
    "maxrl": "same",
    "opo": "times",
    "passk": "same",
    "potential_difference": "times",
    "reinforce_plus_plus": "same",
    "reinforce_plus_plus_baseline": "same",
    "remax": "times",
    "rloo": "times",
    "rose": "times",
    "slate": "same",
    "spo_chain": "times",
    "spo_tree": "times",
    "tempo": "same",
    "treerl": "times",
    "turn_return": "times",
    "vineppo": "times",
}
# Options that make another method of it.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "adora": [{"mode": "amplify"}, {"all_right": "low", "all_wrong": "full"}],
    "branchgrpo": [{"fusion": "weighted"}, {"width": "extremes"}, {"prune_depths": (2,), "shared": "split"}],
    "gdpo": [{"batch": "token"}, {"batch": "none"}],
    "gpg": [{"live": "nonzero", "f_norm": 2.5}],
    "groundedprm": [{"pool": "mean", "outcome_weight": 0.5}],
    "grpo": [{"unit": "token"}, {"center": "none"}],
    "passk": [{"form": "gap"}],
    "reinforce_plus_plus": [{"ddof": 0, "floor": "clamp"}],
    "reinforce_plus_plus_baseline": [{"unit": "rollout"}],
    "remax": [{"baseline": "column"}],
    "spo_tree": [{"shared": "split"}],
    "treerl": [
        {"weigh": "value", "fill_zeros": True},
        {"weigh": "value", "norm": "step"},
        {"weigh": "value", "norm": "token", "damp": "count", "terms": "local"},
    ],
    "turn_return": [{"baseline": "others"}, {"baseline": "others", "siblings": "state"}],
}


def _variants() -> dict[str, Method]:
    found: dict[str, Method] = {}
    for method in sorted(METHODS, key=lambda method: method.name):
        found[method.name] = method
        for options in VARIANTS.get(method.name, []):
            title = ",".join(f"{name}={value}" for name, value in options.items())
            found[f"{method.name} {title}"] = replace(method, function=partial(method.function, **options))
    return found


ALL = _variants()


def methods(law: str, scope: str = "") -> Any:
    """Every method (of the scope, where one is given); those that the table excepts are skipped."""
    excepted = EXCEPT.get(law, {})
    return pytest.mark.parametrize(
        "method",
        [
            pytest.param(
                method,
                id=title,
                marks=[pytest.mark.skip(reason=excepted[method.name])] if method.name in excepted else [],
            )
            for title, method in ALL.items()
            if scope in ("", method.scope)
        ],
    )


def assert_same(
    found: dict[int, list[float]], expected: dict[int, list[float]], rtol: float = 1e-9, atol: float = 1e-9
) -> None:
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=rtol, atol=atol)


def options_of(method: Method) -> dict[str, Any]:
    return OPTIONS.get(method.name, {})


@methods("environment tokens")
@few
@given(seed=SEEDS)
def test_environment_tokens_change_no_credit(draw: Draw, method: Method, seed: int) -> None:
    batch = draw(seed)
    holed = replace(batch, holes=True).by_rollout(method, options_of(method))
    assert_same(holed, batch.by_rollout(method, options_of(method)))


@methods("finite")
@few
@given(seed=SEEDS)
def test_credit_is_finite_and_0_on_environment_tokens(draw: Draw, method: Method, seed: int) -> None:
    credit, values = replace(draw(seed), holes=True).credited(method, options_of(method))
    assert np.isfinite(values).all()
    assert not values[~credit.mask].any()


@methods("order")
@few
@given(seed=SEEDS)
def test_the_order_of_groups_and_rollouts_does_not_matter(draw: Draw, method: Method, seed: int) -> None:
    batch = replace(draw(seed), holes=True)
    assert_same(batch.shuffled().by_rollout(method, options_of(method)), batch.by_rollout(method, options_of(method)))


@methods("groups apart", scope="group")
@few
@given(seed=SEEDS)
def test_groups_apart_get_what_they_get_together(draw: Draw, method: Method, seed: int) -> None:
    batch = replace(draw(seed), holes=True)
    apart: dict[int, list[float]] = {}
    for part in batch.parts():
        apart |= part.by_rollout(method, options_of(method))
    assert_same(apart, batch.by_rollout(method, options_of(method)))


@methods("equal rewards")
@few
@given(seed=SEEDS)
def test_equal_rewards_give_exactly_0(draw: Draw, method: Method, seed: int) -> None:
    _, values = replace(draw(seed), constant=0.7).credited(method, options_of(method))
    assert not values[np.abs(values) > (1e-12 if method.name in NEARLY_0 else 0)].any()


@methods("equal rewards")
@pytest.mark.parametrize("reward", [0.1, 0.7, 1.1])
def test_twelve_equal_rewards_that_are_no_binary_fractions(draw: Draw, method: Method, reward: float) -> None:
    # Their mean is off by an ulp in most sums; as float32 they are no closer to one.
    for dtype in (np.float32, np.float64):
        _, values = replace(draw(3, [12]), constant=reward, dtype=dtype).credited(method, options_of(method))
        assert not values[np.abs(values) > (1e-12 if method.name in NEARLY_0 else 0)].any()


@methods("scaling")
@few
@given(seed=SEEDS)
def test_the_unit_of_the_reward_scales_the_credit_or_leaves_it(draw: Draw, method: Method, seed: int) -> None:
    batch = draw(seed)
    before, after = (each.by_rollout(method, options_of(method)) for each in (batch, replace(batch, factor=4.0)))
    expected = {
        "times": {key: [4 * value for value in values] for key, values in before.items()},
        "same": before,
    }
    if method.name in SCALING:
        assert_same(after, expected[SCALING[method.name]], rtol=1e-3, atol=1e-4)
        return
    try:
        assert_same(after, expected["times"], rtol=1e-3, atol=1e-4)
    except AssertionError:
        assert_same(after, expected["same"], rtol=1e-3, atol=1e-4)


@methods("second run")
def test_a_second_run_gives_the_same_and_what_was_given_is_left_alone(draw: Draw, method: Method) -> None:
    batch = replace(draw(5), holes=True)
    credit, values = batch.credited(method, options_of(method))
    reward, mask = credit.reward.copy(), credit.mask.copy()
    np.testing.assert_array_equal(
        method.assign(credit, **options_of(method)), method.assign(credit, **options_of(method))
    )
    np.testing.assert_array_equal(credit.reward, reward)
    np.testing.assert_array_equal(credit.mask, mask)
    np.testing.assert_array_equal(batch.credited(method, options_of(method))[1], values)


def test_the_tables_name_methods_that_are_there() -> None:
    names = {method.name for method in METHODS}
    for table in (OPTIONS, VARIANTS, SCALING, NEARLY_0, *EXCEPT.values()):
        assert set(table) <= names


def _by_all_tokens(credit: Credit) -> Array:
    return credit.reward / (1 + credit.tokens.sizes)


def _by_the_first(credit: Credit) -> Array:
    return credit.reward - credit.reward[0]


def _by_the_batch(credit: Credit) -> Array:
    return credit.reward - credit.reward.mean()


def _by_a_rounded_mean(credit: Credit) -> Array:
    groups = credit.groups
    return (credit.reward - groups.spread(groups.mean(credit.reward))) / 1e-6


def _everywhere(credit: Credit) -> Array:
    return credit.tokens.spread(credit.reward - credit.reward) + 1.0


def _squared(credit: Credit) -> Array:
    return credit.reward**2


@pytest.mark.parametrize(
    ("wrong", "law"),
    [
        (_by_all_tokens, test_environment_tokens_change_no_credit),
        (_everywhere, test_credit_is_finite_and_0_on_environment_tokens),
        (_by_the_first, test_the_order_of_groups_and_rollouts_does_not_matter),
        (_by_the_batch, test_groups_apart_get_what_they_get_together),
        (_squared, test_equal_rewards_give_exactly_0),
        (_by_a_rounded_mean, test_equal_rewards_give_exactly_0),
        (_squared, test_the_unit_of_the_reward_scales_the_credit_or_leaves_it),
    ],
    ids=lambda each: each.__name__,
)
def test_a_method_that_breaks_a_law_is_caught(draw: Draw, wrong: Callable[..., Array], law: Any) -> None:
    granularity = "token" if wrong is _everywhere else "rollout"
    method = Method(
        name=wrong.__name__, function=wrong, needs=("reward",), granularity=granularity, methodology="monte-carlo"
    )
    caught = 0
    for seed in range(8):  # binary rewards, whose squares are themselves, are every other seed
        try:
            law.hypothesis.inner_test(draw=draw, method=method, seed=seed)
        except AssertionError:
            caught += 1
    assert caught >= 3
