import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.stages.assign_credit._probe_examples import probed
from apportion.stages.assign_credit.kind import METHODS, Credit

spo_chain = METHODS["spo_chain"].assign

# methods A, SPO chain: cuts before tokens 1 and 4, V 0.5 and 0.25, R = 1.
PROBS = [[0.99, 0.5, 0.95, 0.8, 0.3, 0.97, 0.6, 0.99]]
TOKENS = [[1, 2, 3, 4, 5, 6, 7, 8]]
OUTCOMES = {(0, 1): [1, 0], (0, 4): [1, 0, 0, 0]}


def test_worked_example() -> None:
    credit = probed([1.0], TOKENS, OUTCOMES, probs=PROBS)
    whole = spo_chain(credit, every=2, mask_above=None)
    np.testing.assert_allclose(whole, [0, -0.25, -0.25, -0.25, 0.75, 0.75, 0.75, 0.75])
    np.testing.assert_allclose(spo_chain(credit, every=2), [0, -0.25, 0, -0.25, 0.75, 0, 0.75, 0])


def test_a_first_cut_at_the_prompt_leaves_no_token_out() -> None:
    credit = probed([1.0], [[1, 2]], {(0, 0): [0, 0, 1, 0]}, probs=[[0.5, 0.5]])
    np.testing.assert_allclose(spo_chain(credit), [0.75, 0.75])


def test_without_unlikely_tokens_all_is_zero() -> None:
    assert not spo_chain(probed([1.0], [[1, 2]], {(0, 0): [0]}, probs=[[0.95, 0.99]])).any()


def test_a_cut_that_was_not_measured_has_the_value_of_the_next() -> None:
    credit = probed([1.0], TOKENS, {(0, 4): [1, 0, 0, 0]}, probs=PROBS)
    found = spo_chain(credit, every=2, mask_above=None)
    np.testing.assert_allclose(found, [0, 0, 0, 0, 0.75, 0.75, 0.75, 0.75])


def test_environment_tokens_are_no_cuts_and_change_no_other_credit() -> None:
    tokens, probs = [[1, 2, 9, 3, 4, 5, 6, 7, 8]], [[0.99, 0.5, 0.1, 0.95, 0.8, 0.3, 0.97, 0.6, 0.99]]
    mask = [[True, True, False] + [True] * 6]
    credit = probed([1.0], tokens, {(0, 1): [1, 0], (0, 5): [1, 0, 0, 0]}, probs=probs, mask=mask)
    np.testing.assert_allclose(spo_chain(credit, every=2), [0, -0.25, 0, 0, -0.25, 0.75, 0, 0.75, 0])


def test_equal_prefixes_are_one_state() -> None:
    probs = [[0.5, 0.5], [0.5, 0.5]]
    credit = probed([1.0, 0.0], [[5, 6], [5, 7]], {(0, 0): [0], (0, 1): [1], (1, 1): [0]}, probs=probs)
    np.testing.assert_allclose(spo_chain(credit, every=1), [0.5, 0.5, 0.5, -0.5])


def test_an_empty_response_takes_no_part() -> None:
    assert spo_chain(probed([1.0, 0.0], [[5], []], {(0, 0): [0]}, probs=[[0.5], []])).tolist() == [1.0]


def test_what_is_missing_is_named() -> None:
    with pytest.raises(DataError, match=r"'token\.logprob'"):
        spo_chain(probed([1.0], TOKENS, OUTCOMES))
    with pytest.raises(DataError, match="sample --from IN --strategy vine"):
        spo_chain(probed([1.0], TOKENS, {}, probs=PROBS))
    with pytest.raises(UsageError, match="every must be at least 1, got 0"):
        METHODS.settle("spo_chain", {"every": 0})


def test_a_group_in_which_no_probe_begins_at_a_cut_is_refused() -> None:
    """All its credit would be 0. Probes of steps are such ones, or those of another `every`."""
    tokens, probs = [[1, 2, 3, 4], [1, 2, 5, 6], [7, 8]], [[0.99, 0.5, 0.95, 0.8], [0.99, 0.5, 0.6, 0.7], [0.5, 0.99]]
    good = {(0, 1): [1.0], (2, 0): [0.0]}
    assert spo_chain(probed([1.0, 0.0, 1.0], tokens, good, probs=probs, groups=[0, 0, 1])).any()
    message = (
        "row 0, group 'g0': no probe begins at a cut (cuts: 2, e.g. at response token 1 of 'r0'; probes: 3, e.g. from "
        "response token 2 of 'r0'); run `apportion sample --from IN --strategy vine --set at=unlikely --set every=5 "
        "--set below=0.9 -o OUT` first, and score that"
    )
    wrong = {(0, 2): [1.0], (0, 0): [1.0], (1, 3): [0.0], (2, 0): [0.0]}
    with pytest.raises(DataError) as error:
        spo_chain(probed([1.0, 0.0, 1.0], tokens, wrong, probs=probs, groups=[0, 0, 1]))
    assert str(error.value) == message
    with pytest.raises(
        DataError, match=r"row 2, group 'g1'.*\(cuts: 1, e.g. at response token 0 of 'r2'; probes: none\)"
    ):
        spo_chain(probed([1.0, 0.0, 1.0], tokens, {(0, 1): [1.0]}, probs=probs, groups=[0, 0, 1]))
    with pytest.raises(DataError, match=r"--set every=2 --set below=0\.7"):
        spo_chain(probed([1.0], TOKENS, {(0, 2): [1.0]}, probs=PROBS), every=2, below=0.7)


def test_a_probability_of_exactly_the_threshold_is_neither_likely_nor_unlikely() -> None:
    """On disk it is a float32, which is a little more than 0.9."""
    assert float(np.float32(np.log(0.9))) > np.log(0.9)
    probs = [[0.9, 0.5, 0.9, 0.95]]
    credit = probed([1.0], [[1, 2, 3, 4]], {(0, 1): [1, 0], (0, 0): [0]}, probs=probs)
    for dtype in (np.float32, np.float64):
        stored = credit.rollouts.ragged("token.logprob")
        stored = stored.with_values(stored.values.astype(dtype))
        rollouts = credit.rollouts.with_columns({"token.logprob": stored})
        found = spo_chain(Credit(rollouts, credit.probe_rollouts))
        assert found.tolist() == [0.0, 0.5, 0.5, 0.0]
        nearer = spo_chain(Credit(rollouts, credit.probe_rollouts), below=0.95)  # now the first token is a cut
        assert nearer.tolist() == [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("seed", range(10))
def test_agrees_with_the_definition_on_random_rollouts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = [rng.integers(0, 50, rng.integers(0, 30)).tolist() for _ in range(6)]
    probs = [rng.uniform(0.5, 1.0, len(row)).tolist() for row in tokens]
    rewards = rng.integers(0, 2, 6).astype(float).tolist()
    cuts = [[place for place, prob in enumerate(row) if prob < 0.9][::3] for row in probs]
    outcomes = {(row, cut): [float(rng.integers(0, 2))] for row, each in enumerate(cuts) for cut in each}
    pooled: dict[tuple[int, ...], list[float]] = {}
    for (row, cut), each in outcomes.items():
        pooled.setdefault(tuple(tokens[row][:cut]), []).extend(each)
    expected: list[float] = []
    for row, each in enumerate(cuts):
        credits = [0.0] * len(tokens[row])
        values = [float(np.mean(pooled[tuple(tokens[row][:cut])])) for cut in each]
        for index, cut in enumerate(each):
            end = each[index + 1] if index + 1 < len(each) else len(credits)
            following = values[index + 1] if index + 1 < len(each) else rewards[row]
            credits[cut:end] = [following - values[index]] * (end - cut)
        expected += [0.0 if prob > 0.9 else credit for prob, credit in zip(probs[row], credits, strict=True)]
    found = spo_chain(probed(rewards, tokens, outcomes, probs=probs), every=3)
    np.testing.assert_allclose(found, expected, atol=1e-12)
