"""The adapter with Trinity-RFT's own experiences, registry and operators. Skipped where Trinity-RFT is not installed."""

import asyncio
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.stages.interop.trinity import Credit

from .conftest import CreditOfFile, Row

pytestmark = pytest.mark.filterwarnings("ignore")  # of Trinity and Ray

PATH = "apportion.stages.interop.trinity.Credit"
PROMPTS = {"a": [11, 12], "b": [13], "c": [14, 15, 16]}
ROWS = [
    Row("a", [5, 7, 90, 91, 8], [1, 1, 0, 0, 1], 1.0, paid=(0.25, 0.75), states=("s", "t"), logprobs=(-0.5, -0.1, 0, 0, -0.2)),
    Row("b", [93, 4, 4], [0, 1, 1], 1.0, paid=(1.0,), states=("u",), logprobs=(0, -0.3, -0.3)),
    Row("a", [5, 7, 90, 92, 6, 2], [1, 1, 0, 0, 1, 1], 0.0, paid=(0.5, -0.5), states=("s", "t"),
        logprobs=(-0.5, -0.1, 0, 0, -1, -1)),
    Row("a", [5, 3], [1, 1], 0.5, paid=(0.5,), states=("s",), logprobs=(-0.5, -0.9)),
    Row("b", [93, 4, 94, 5], [0, 1, 0, 1], 0.25, paid=(0.0, 0.25), states=("u", "v"), logprobs=(0, -0.3, 0, -0.4)),
    Row("c", [6], [1], 1.0, paid=(1.0,), states=("w",), logprobs=(-0.7,)),
]  # fmt: skip
"""Groups of three, two and one, out of order."""
EPISODES = [
    Row("a", [5, 7], [1, 1], 1.0, episode="0", part=0, paid=(0.0,), states=("s",)),
    Row("a", [6, 2], [1, 1], 0.0, episode="1", part=0, paid=(0.0,), states=("s",)),
    Row("a", [8, 2], [1, 1], 1.0, episode="0", part=2, paid=(1.0,), states=("t",)),
    Row("a", [9, 90, 4], [1, 0, 1], 1.0, episode="0", part=1, paid=(0.5, 0.25), states=("t", "u")),
    Row("b", [4], [1], 0.5, episode="0", part=0, paid=(0.5,), states=("s",)),
    Row("b", [3, 3], [1, 1], 1.0, episode="1", part=0, paid=(0.0,), states=("s",)),
    Row("b", [3, 4], [1, 1], 1.0, episode="1", part=1, paid=(1.0,), states=("v",)),
]
"""Runs of three experiences, one, one and two, not in the order of their steps."""
Process = Callable[..., list[Any]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "tempoo"}, "did you mean 'tempo'"),
        ({"method": "grpo", "ddof": -1}, "ddof must be at least 0, got -1"),
        ({"method": "vineppo"}, "needs probes"),
        ({"method": "gae"}, r"gae needs 'token\.value', which an experience of Trinity does not have"),
        ({"method": "turn_return", "steps": None}, r"turn_return needs 'step\.start'"),
        ({"method": "turn_return", "steps": "turn"}, "steps must be 'mask', 'experience' or null, got 'turn'"),
    ],
    ids=str,
)
def test_what_cannot_work_fails_before_the_loop(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Credit(**options)


@pytest.fixture
def process() -> Process:
    """process(rows, method=…, …) → the experiences as the pipeline of the configuration's advantage_fn leaves them."""
    pytest.importorskip("trinity")
    algorithms = import_module("trinity.algorithm")
    operators = import_module("trinity.buffer.operators.experience_operator")
    experience = import_module("trinity.common.experience")

    def run(rows: list[Row], change: Callable[[Any], None] = lambda exp: None, **arguments: Any) -> list[Any]:
        config: Any = import_module("trinity.common.config").Config()
        config.algorithm.algorithm_type, config.algorithm.advantage_fn = "multi_step_grpo", PATH
        given: Any = arguments or None
        config.algorithm.advantage_fn_args = given
        import_module("trinity.common.config_validator").AlgorithmConfigValidator().validate(config)
        cls = algorithms.ADVANTAGE_FN.get(PATH)
        assert not cls.compute_in_trainer()
        exps = [_experience(experience, number, row) for number, row in enumerate(rows)]
        for exp in exps:
            change(exp)
        exps = experience.Experience.deserialize_many(experience.Experience.serialize_many(exps))
        operator = operators.ensure_v1_operator(cls(**config.algorithm.advantage_fn_args))
        found, metrics = asyncio.run(operator.process(exps))
        assert {type(value) for value in metrics.values()} == {float}
        experience.Experience.deserialize_many(experience.Experience.serialize_many(found))
        return found

    return run


def _experience(module: Any, number: int, row: Row) -> Any:
    info: dict[str, Any] = {}
    for key, values in (("step_reward", row.paid), ("env_state_hash", row.states)):
        if values:
            info[key] = [*values] if len(values) > 1 else next(iter(values))
    return module.Experience(
        eid=module.EID(batch=3, task=row.group, run=number if row.episode is None else int(row.episode), step=row.part),
        tokens=PROMPTS[row.group] + row.ids,
        prompt_length=len(PROMPTS[row.group]),
        action_mask=[bool(own) for own in row.own],
        logprobs=[float(each) for each in row.logprobs] or [-0.5] * len(row.ids),
        reward=row.reward,
        info=info,
    )


def assert_same(found: list[Any], expected: list[list[float]]) -> None:
    for exp, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(exp.advantages, theirs, atol=1e-6)
        assert exp.advantages.equal(exp.returns) and exp.advantages is not exp.returns
        assert exp.advantages.shape == exp.action_mask.shape
    assert any(any(row) for row in expected)


@pytest.mark.peers
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("rloo", {}), ("tempo", {}), ("treerl", {}), ("spo_tree", {}), ("turn_return", {"scale": "std"}), ("mapo", {}),
        ("gigpo", {}), ("groundedprm", {}),
    ],
)  # fmt: skip
def test_experiences_get_what_assign_credit_gives_on_the_same_rollouts(
    method: str, options: dict[str, Any], process: Process, credit_of_file: CreditOfFile
) -> None:
    found = process(ROWS, method=method, **options)
    assert_same(found, credit_of_file(method, [row.in_file for row in ROWS], **options))


@pytest.mark.peers
@pytest.mark.parametrize("method", ["rloo", "turn_return", "mapo", "gigpo", "reinforce_plus_plus"])
def test_the_steps_of_a_run_are_its_parts(method: str, process: Process, credit_of_file: CreditOfFile) -> None:
    assert_same(process(EPISODES, method=method), credit_of_file(method, [row.in_file for row in EPISODES]))


@pytest.mark.peers
def test_an_experience_may_be_one_step(process: Process) -> None:
    rows = [
        Row("a", [5, 90, 6], [1, 0, 1], 1.0, episode="0", part=0), Row("a", [7], [1], 1.0, episode="0", part=1),
        Row("a", [8], [1], 0.0, episode="1", part=0),
    ]  # fmt: skip

    def judge(exp: Any) -> None:
        exp.info["step_reward"] = 0.5 * exp.reward

    found = process(rows, judge, method="turn_return", steps="experience", rewards="steps")
    # First steps: 0.5 + 0.5 and 0 are left to earn, mean 0.5. No other run has a second step.
    assert [exp.advantages.tolist() for exp in found] == [[0.5, 0.0, 0.5], [0.0], [-0.5]]
    with pytest.raises(DataError, match=r"signal 'step\.reward', row 0: 1 values for 2 steps"):
        process(rows, judge, method="turn_return", rewards="steps")
    with pytest.raises(DataError, match=r"'step\.state': no experience has info\['env_state_hash'\]"):
        process(rows, method="gigpo", steps="experience")


@pytest.mark.peers
def test_the_reward_of_a_run_is_that_of_its_last_step(process: Process) -> None:
    rows = [
        Row("a", [5], [1], 0.5, episode="0", part=1), Row("a", [6, 2], [1, 1], 3.0, episode="0", part=0),
        Row("a", [7], [1], 0.0, episode="1", part=0), Row("a", [8], [1], 7.0, episode="2", part=0),
        Row("a", [9], [1], None, episode="2", part=1),
    ]  # fmt: skip
    # Rewards 0.5 and 0; the last run has none.
    assert [exp.advantages.tolist() for exp in process(rows, method="rloo")] == [
        [0.5],
        [0.5, 0.5],
        [-0.5],
        [0.0],
        [0.0],
    ]


@pytest.mark.peers
def test_grpo_by_token_is_what_trinity_computes(process: Process) -> None:
    functions = import_module("trinity.algorithm").ADVANTAGE_FN
    for rows, name in ((ROWS, "grpo"), (sorted(EPISODES, key=lambda row: row.part), "step_wise_grpo")):
        found = process(rows, method="grpo", preset="verl")
        theirs = functions.get(name)().process(process(rows))[0]
        expected = {(exp.eid.rid, exp.eid.step): exp.advantages for exp in theirs}
        for exp in found:
            np.testing.assert_allclose(exp.advantages, expected[exp.eid.rid, exp.eid.step], atol=1e-5)


@pytest.mark.peers
def test_gigpo_is_what_trinity_computes(process: Process) -> None:
    theirs = import_module("trinity.algorithm").ADVANTAGE_FN.get("gigpo")(fnorm="std", epsilon=1e-6)
    rows = [row for row in EPISODES if row.group == "a" and row.own != [1, 0, 1]]
    expected = {(exp.eid.rid, exp.eid.step): exp.advantages for exp in theirs.process(process(rows))[0]}
    for exp in process(rows, method="gigpo", gamma=1.0):
        assert exp.advantages.any()
        np.testing.assert_allclose(exp.advantages, expected[exp.eid.rid, exp.eid.step], atol=1e-5)


@pytest.mark.peers
def test_experiences_without_a_reward_take_no_part(process: Process, credit_of_file: CreditOfFile) -> None:
    rows = [
        Row("a", [5, 7], [1, 1], 1.0), Row("a", [5, 8, 2], [0, 0, 0], 0.0), Row("a", [5, 9], [1, 1], None),
        Row("a", [5, 7, 2], [1, 1, 1], 0.5),
    ]  # fmt: skip
    found = process(rows, method="rloo")
    assert [exp.advantages.tolist() for exp in found] == [[0.75, 0.75], [0, 0, 0], [0, 0], [0, 0, 0]]
    assert_same(found, credit_of_file("rloo", [row.in_file for row in rows]))

    def unknown(exp: Any) -> None:
        exp.reward = float("nan") if exp.reward is None else exp.reward

    assert [exp.advantages.tolist() for exp in process(rows, unknown, method="rloo")] == [
        exp.advantages.tolist() for exp in found
    ]


@pytest.mark.peers
def test_an_algorithm_that_has_no_experiences_is_told_to_choose_another(process: Process) -> None:
    with pytest.raises(UsageError, match="this algorithm_type computes advantages in the trainer"):
        Credit("grpo")({"token_level_rewards": None})
    assert Credit("grpo")([]) == ([], {})
    found = process(ROWS)
    gathered = import_module("trinity.common.experience").gather_response_attrs(found, "advantages", 8)
    assert gathered.shape == (6, 8) and gathered.any()  # as the trainer pads them
