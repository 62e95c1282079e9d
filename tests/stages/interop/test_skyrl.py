"""The adapter with SkyRL's own trainer, which pads the batch and computes its figures. Skipped where SkyRL is not installed."""

import sys
import typing
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.formats.parquet import RolloutFile
from apportion.stages.interop.skyrl import register, with_credit
from apportion.stages.models.policy import TINY
from typer.testing import Result

from .conftest import CreditOfFile, Row

pytestmark = pytest.mark.filterwarnings("ignore")  # of SkyRL and Ray

PROMPTS = {"a": [11, 12], "b": [13], "c": [14, 15, 16]}
ROWS = [
    Row("a", [5, 7, 90, 91, 8], [1, 1, 0, 0, 1], 1.0, paid=(0.25, 0.75), logprobs=(-0.5, -0.1, 0.0, 0.0, -0.2)),
    Row("a", [5, 7, 90, 92, 6, 2], [1, 1, 0, 0, 1, 1], 0.0, paid=(0.5, -0.5), logprobs=(-0.5, -0.1, 0, 0, -1, -1)),
    Row("a", [5, 3], [1, 1], 0.5, paid=(0.5,), logprobs=(-0.5, -0.9)),
    Row("b", [93, 4, 4], [0, 1, 1], 1.0, paid=(1.0,), logprobs=(0.0, -0.3, -0.3)),
    Row("b", [93, 4, 94, 5], [0, 1, 0, 1], 0.25, paid=(0.0, 0.25), logprobs=(0.0, -0.3, 0.0, -0.4)),
    Row("c", [6], [1], 1.0, paid=(1.0,), logprobs=(-0.7,)),
]  # groups of three, two and one
PAIRS = ROWS[:2] + ROWS[3:5]
EPISODES = [
    Row("a", [5, 7], [1, 1], 1.0, episode="1", part=0, paid=(0.25,)),
    Row("a", [8, 2], [1, 1], 1.0, episode="1", part=1, paid=(0.5,)),
    Row("a", [9, 90, 4], [1, 0, 1], 1.0, episode="1", part=2, paid=(0.25, 0.75)),
    Row("a", [6, 2], [1, 1], 0.0, episode="2", part=0, paid=(0.0,)),
    Row("b", [4], [1], 0.5, episode="3", part=0, paid=(0.5,)),
    Row("b", [3, 3], [1, 1], 1.0, episode="4", part=0, paid=(0.0,)),
    Row("b", [3, 4], [1, 1], 1.0, episode="4", part=1, paid=(1.0,)),
]  # episodes of three, one, one and two rows; what the last row was paid is the reward
Make = Callable[..., Any]


class Plain:
    """Stands where the options are tried without a trainer."""


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("tempoo", {}, "did you mean 'tempo'"),
        ("grpo", {"ddof": -1}, "ddof must be at least 0, got -1"),
        ("vineppo", {}, "needs probes"),
        ("gigpo", {}, "gigpo needs 'step.state', which SkyRL's trainer does not have"),
        ("hepo", {}, "hepo needs 'token.entropy', which SkyRL's trainer does not have"),
        ("turn_return", {"steps": None}, "turn_return needs 'step.start'"),
    ],
)
def test_what_cannot_work_fails_before_the_loop(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_credit(Plain, method, **options)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("tempoo", "did you mean 'tempo'"),
        ("tempo", "tempo compares tokens, which an estimator of SkyRL does not have"),
        ("turn_return", "turn_return needs 'step.start', which an estimator of SkyRL does not have"),
    ],
)
def test_an_estimator_of_what_it_is_not_given_fails_before_the_loop(method: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        register(method)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    """make(method or None, …) → SkyRL's trainer, with the method's credit if there is one."""
    if sys.version_info < (3, 12):  # pydantic refuses typing's TypedDict there, which SkyRL has for its servers
        monkeypatch.setattr(typing, "TypedDict", pytest.importorskip("typing_extensions").TypedDict)
    pytest.importorskip("skyrl")
    base = import_module("skyrl.train.trainer").RayPPOTrainer
    tokenizer = import_module("transformers").AutoTokenizer.from_pretrained(str(TINY))

    def trainer(
        method: str | None, *, rows: list[Row], by_turn: bool = False, merge: bool = False, estimator: str = "grpo",
        critic: str | None = None, devices: int = 4, **options: Any,
    ) -> Any:  # fmt: skip
        config: Any = import_module("skyrl.train.config").SkyRLTrainConfig()
        config.trainer.enable_ray_gpu_monitor = False  # these two look for a running Ray
        config.generator.inference_engine.enable_ray_prometheus_stats = False
        config.trainer.algorithm.advantage_estimator = estimator
        config.trainer.critic.model.path = critic
        config.trainer.train_batch_size = config.trainer.policy_mini_batch_size = len({row.group for row in rows})
        config.generator.n_samples_per_prompt = len(rows) // config.trainer.train_batch_size
        config.generator.step_wise_trajectories, config.generator.merge_stepwise_output = by_turn, merge
        cls = base if method is None else with_credit(base, method, **options)
        made: Any = cls(
            cfg=config, tracker=None, tokenizer=tokenizer, train_dataset=None,
            inference_engine_client=None, generator=None,
        )  # fmt: skip
        made.dispatch = SimpleNamespace(
            get_lcm_dp_size=lambda: devices
        )  # workers are GPUs; their number is what counts
        return made

    return trainer


def batch_of(trainer: Any, rows: list[Row]) -> Any:
    """The rows as SkyRL's generator gives them, made a batch by the trainer as in its loop."""
    trajectory_id = import_module("skyrl.train.generators.base").TrajectoryID
    episodes = [row.episode or str(at) for at, row in enumerate(rows)]
    paid = [[0.0] * len(row.ids) for row in rows]
    for row, tokens in zip(rows, paid, strict=True):
        for (_, end), value in zip(row.turns, row.paid, strict=False):
            tokens[end - 1] = value
        if row.reward is None or not row.paid:
            tokens[-1] = float("nan") if row.reward is None else row.reward
    output: Any = {
        "prompt_token_ids": [PROMPTS[row.group] for row in rows],
        "response_ids": [row.ids for row in rows],
        "rewards": paid,
        "loss_masks": [row.own for row in rows],
        "stop_reasons": ["stop"] * len(rows),
        "rollout_metrics": None,
        "rollout_logprobs": [list(row.logprobs) or [-0.5] * len(row.ids) for row in rows],
        "trajectory_ids": [trajectory_id(row.group, int(each)) for row, each in zip(rows, episodes, strict=True)],
        "is_last_step": None,
    }
    if trainer.cfg.generator.step_wise_trajectories:
        output["is_last_step"] = [this != after for this, after in zip(episodes, [*episodes[1:], ""], strict=True)]
    output, uids = trainer.postprocess_generator_output(output, [row.group for row in rows])
    data = trainer.convert_to_training_input(output, uids)
    data["values"] = None
    return data


def of_rows(data: Any, rows: list[Row], key: str = "advantages") -> list[np.ndarray]:
    """What the rows' tokens got: the last places of a line. All else must be 0."""
    found = data[key].numpy()
    assert found.dtype == np.float32 and not found[len(rows) :].any()
    for line, row in zip(found, rows, strict=False):
        assert not line[: -len(row.ids)].any()
    return [line[-len(row.ids) :] for line, row in zip(found, rows, strict=False)]


def assert_same(found: list[np.ndarray], expected: list[list[float]]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    assert any(any(row) for row in expected)


METHODS = [
    ("rloo", {}), ("tempo", {}), ("treerl", {}), ("spo_tree", {}), ("turn_return", {"scale": "std"}), ("mapo", {}),
    ("groundedprm", {}),
]  # fmt: skip


@pytest.mark.peers
@pytest.mark.parametrize(("method", "options"), METHODS)
def test_the_trainer_gets_what_assign_credit_gives_on_the_same_rollouts(
    method: str, options: dict[str, Any], make: Make, credit_of_file: CreditOfFile
) -> None:
    trainer = make(method, rows=ROWS, by_turn=True, merge=True, **options)
    data = batch_of(trainer, ROWS)
    assert len(data["sequences"]) == 8 and data["response_mask"][2].tolist() == [0, 0, 0, 0, 1, 1]
    assert_same(
        of_rows(trainer.compute_advantages_and_returns(data), ROWS),
        credit_of_file(method, [row.in_file for row in ROWS], **options),
    )
    assert trainer.all_metrics["credit/singletons"] == pytest.approx(1 / 3)


@pytest.mark.peers
@pytest.mark.parametrize("method", ["rloo", "turn_return", "mapo", "reinforce_plus_plus"])
def test_the_turns_of_an_episode_are_its_parts(method: str, make: Make, credit_of_file: CreditOfFile) -> None:
    trainer = make(method, rows=EPISODES, by_turn=True)
    found = of_rows(trainer.compute_advantages_and_returns(batch_of(trainer, EPISODES)), EPISODES)
    assert_same(found, credit_of_file(method, [row.in_file for row in EPISODES]))


@pytest.mark.peers
@pytest.mark.parametrize(("rows", "by_turn"), [(EPISODES, True), (PAIRS, False)], ids=["turns", "whole"])
def test_grpo_by_token_is_what_skyrl_computes(rows: list[Row], by_turn: bool, make: Make) -> None:
    theirs = make(None, rows=rows, by_turn=by_turn)
    expected = theirs.compute_advantages_and_returns(batch_of(theirs, rows))
    ours = make("grpo", rows=rows, by_turn=by_turn, preset="skyrl")
    found = ours.compute_advantages_and_returns(batch_of(ours, rows))
    real = slice(len(rows))
    trained = expected["loss_mask"][real].bool()
    assert (found["advantages"][real][trained] - expected["advantages"][real][trained]).abs().max() < 1e-5
    assert (found["returns"] == expected["returns"]).all()
    if trained.equal(expected["response_mask"][real].bool()):
        assert ours.all_metrics["loss/avg_raw_advantages"] == pytest.approx(
            theirs.all_metrics["loss/avg_raw_advantages"], abs=1e-6
        )


@pytest.mark.peers
def test_rows_that_the_loss_leaves_out_count_and_those_without_a_reward_do_not(
    make: Make, credit_of_file: CreditOfFile
) -> None:
    rows = [
        Row("a", [5, 7], [1, 1], 1.0), Row("a", [5, 8, 2], [0, 0, 0], 0.0), Row("a", [5, 9], [1, 1], None),
        Row("a", [5, 7, 2], [1, 1, 1], 0.5),
    ]  # fmt: skip
    trainer = make("rloo", rows=rows)
    found = of_rows(trainer.compute_advantages_and_returns(batch_of(trainer, rows)), rows)
    assert [row.tolist() for row in found] == [[0.75, 0.75], [0, 0, 0], [0, 0], [0, 0, 0]]
    assert_same(found, credit_of_file("rloo", [row.in_file for row in rows]))


@pytest.mark.peers
def test_values_come_from_the_critic_and_returns_stay_the_estimators(make: Make) -> None:
    rows = [Row("a", [5, 7], [1, 1], 1.0), Row("b", [5, 7, 8], [1, 1, 1], 0.0)]
    with pytest.raises(UsageError, match=r"gae needs 'token\.value'; give a critic"):
        make("gae", rows=rows)
    trainer = make("gae", rows=rows, critic="builtin", estimator="gae", gamma=1.0, lam=1.0, whiten="none")
    trainer.cfg.trainer.critic_mini_batch_size = 2
    data = batch_of(trainer, rows)
    data["values"] = data["response_mask"] * 0.25
    data = trainer.compute_advantages_and_returns(data)
    # gamma and lambda of 1: the reward less the value, on every token.
    assert [row.tolist() for row in of_rows(data, rows)] == [[0.75, 0.75], [-0.25, -0.25, -0.25]]
    assert data["returns"][0, -2:].tolist() == [1.0, 1.0]


@pytest.mark.peers
def test_what_the_configuration_rules_out_fails_when_the_trainer_is_made(make: Make) -> None:
    with pytest.raises(UsageError, match="tempo compares rollouts token by token, and step_wise_trajectories"):
        make("tempo", rows=EPISODES, by_turn=True)
    trainer = make("tempo", rows=EPISODES, by_turn=True, merge=True)
    with pytest.raises(DataError, match="an episode in several parts is no single line of tokens"):
        trainer.compute_advantages_and_returns(batch_of(trainer, EPISODES))


@pytest.mark.peers
def test_log_probabilities_are_those_of_sampling_or_of_the_policy_or_named(make: Make) -> None:
    trainer = make("spo_tree", rows=ROWS, by_turn=True, merge=True)
    data = batch_of(trainer, ROWS)
    sampled = trainer.compute_advantages_and_returns(data)["advantages"].clone()
    data["action_log_probs"] = 0 * data["rollout_logprobs"]  # every token certain, so that none counts
    assert trainer.compute_advantages_and_returns(data)["advantages"].equal(sampled)
    data["rollout_logprobs"] = None
    assert not trainer.compute_advantages_and_returns(data)["advantages"].equal(sampled)
    data["action_log_probs"] = None
    with pytest.raises(DataError, match=r"spo_tree needs log-probabilities.*sampling_params\.logprobs"):
        trainer.compute_advantages_and_returns(data)


@pytest.mark.peers
@pytest.mark.parametrize(
    ("rows", "by_turn"), [(EPISODES, True), (ROWS, True), (PAIRS, False)], ids=["turns", "by turn", "whole"]
)
def test_a_registered_estimator_is_skyrls_own_where_they_agree(
    rows: list[Row], by_turn: bool, make: Make, request: pytest.FixtureRequest
) -> None:
    theirs = make(None, rows=rows, by_turn=by_turn, estimator="rloo")
    expected = theirs.compute_advantages_and_returns(batch_of(theirs, rows))
    registry = import_module("skyrl.backends.skyrl_train.utils.ppo_utils").AdvantageEstimatorRegistry
    name = register("rloo")
    request.addfinalizer(lambda: registry.unregister(name))
    trainer = make(None, rows=rows, by_turn=by_turn, estimator=name)
    found = trainer.compute_advantages_and_returns(batch_of(trainer, rows))
    np.testing.assert_allclose(found["advantages"], expected["advantages"], atol=1e-6)
    np.testing.assert_allclose(found["returns"], expected["returns"], atol=1e-6)
    assert expected["advantages"].any()
    pickle = import_module("ray.cloudpickle")  # as Ray sends it to its actors
    sent = pickle.loads(pickle.dumps(registry.get(name)))
    assert sent.credit.method.name == "rloo"


@pytest.mark.peers
def test_what_skyrls_evaluation_writes_is_imported(make: Make, cli: Callable[..., Result], tmp_path: Path) -> None:
    """dumped_evals of SkyRL's own writer: rewards may be a number or one a token. The summary beside them is no rollout file."""
    dump = import_module("skyrl.train.utils.trainer_utils").dump_per_dataset_eval_results
    tokenizer = import_module("transformers").AutoTokenizer.from_pretrained(str(TINY))
    prompt, responses = tokenizer.encode("17+4*2"), [tokenizer.encode("=25"), tokenizer.encode("=42")]
    outputs = {
        "prompt_token_ids": [prompt] * 2, "response_ids": responses, "rewards": [[0.0, 0.5, 1.0], 0.0],
        "stop_reasons": ["stop", "length"],
    }  # fmt: skip
    folder = tmp_path / "dumped_evals"
    folder.mkdir()
    dump(folder, tokenizer, outputs, ["sums"] * 2, ["sums"] * 2, [{}, {}], {"eval/sums/pass_at_2": 0.5})
    out = tmp_path / "out.parquet"
    done = cli("import", folder, "--group-by", "input_prompt", "-o", out)
    assert done.exit_code == 0, done.stderr
    batch = RolloutFile(out).read()
    assert batch.numbers("reward").tolist() == [1.5, 0.0]
    assert batch.groups.sizes.tolist() == [2]
    assert batch.flagged("truncated").tolist() == [False, True]
    assert batch.strings("text") == [tokenizer.decode(each) for each in responses]
