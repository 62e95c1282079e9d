"""The adapter with verl's real v1 trainer and its TransferQueue, on the CPU. Skipped where verl is not installed.

The trainer is made of verl's own configuration, and batches are put into the queue as verl's agent loop puts them. What needs
a GPU is left out: sampling, and the update of the policy.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.formats.parquet import RolloutFile
from apportion.formats.rollouts import Rollouts
from apportion.stages.interop.verl import with_credit, with_replay, with_rollouts
from apportion.stages.models.policy import TINY
from typer.testing import Result

pytestmark = pytest.mark.filterwarnings("ignore")  # verl's, ray's and torch's own

Row = dict[str, Any]
Cli = Callable[..., Result]


class Plain:
    """Stands for a trainer where the options are tried without verl."""

    def _compute_advantage(self) -> None: ...


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("tempoo", {}, "did you mean 'tempo'"),
        ("grpo", {"ddof": -1}, "ddof must be at least 0, got -1"),
        ("vineppo", {}, "needs probes"),
        ("gigpo", {}, "gigpo needs 'step.state', which verl's trainer does not have"),
        ("turn_return", {"steps": None}, "turn_return needs 'step.start'"),
    ],
)
def test_what_cannot_work_fails_before_the_loop(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_credit(Plain, method, **options)


def test_a_class_that_is_no_v1_trainer_is_refused() -> None:
    with pytest.raises(UsageError, match=r"dict is no v1 trainer of verl's"):
        with_credit(dict, "grpo")


def test_a_trainer_gets_its_credit_from_one_place() -> None:
    with pytest.raises(UsageError, match="CreditPlain has credit already"):
        with_credit(with_credit(Plain, "grpo"), "rloo")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"rollout_id": ["a"], "advantages": [[1.0]]}, r"no column 'digest': expected a file of `apportion export"),
        ({"rollout_id": ["a"] * 2, "digest": ["0"] * 2, "advantages": [[1.0]] * 2}, r"rollout 'a' is in two rows"),
    ],
)
def test_a_file_that_no_export_wrote_is_refused(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    import pyarrow as pa

    pq.write_table(pa.table(columns), tmp_path / "credit.parquet")
    with pytest.raises(DataError, match=message):
        with_replay(Plain, tmp_path / "credit.parquet")
    with pytest.raises(UsageError, match="no such file"):
        with_replay(Plain, tmp_path / "other.parquet")


def test_what_the_page_shows_can_be_made() -> None:
    page = (Path(__file__).parents[3] / "docs" / "trainers.md").read_text(encoding="utf-8")
    calls = re.findall(r'with_credit\(PPOTrainer\w+, "(\w+)"([^)]*)\)', page)
    assert len(calls) >= 4
    for method, options in calls:
        given = {name: value.strip('"') for name, value in re.findall(r"(\w+)=([^,)]+)", options)}
        with_credit(Plain, method, **given)


# ------------------------------------------------------------------------------------------------- with verl's trainer


@pytest.fixture(scope="module")
def queue() -> Iterator[Any]:
    """A TransferQueue on a Ray of this test's own."""
    ray = pytest.importorskip("ray")
    tq = pytest.importorskip("transfer_queue")
    pytest.importorskip("verl")
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    tq.init()
    yield tq
    tq.close()
    ray.shutdown()


@pytest.fixture
def sync() -> Any:
    """verl's class."""
    return pytest.importorskip("verl.trainer.ppo.v1").PPOTrainerSync


@pytest.fixture
def make(queue: Any, tmp_path: Path) -> Callable[..., Any]:
    """make(class, *overrides of the configuration) → a trainer at step 3, with what `fit` and `init` prepare of what is used."""
    verl = pytest.importorskip("verl")
    hydra = pytest.importorskip("hydra")
    transformers = pytest.importorskip("transformers")

    def trainer(cls: Any, *overrides: str) -> Any:
        folder = os.path.join(os.path.dirname(verl.__file__), "trainer", "config")
        with hydra.initialize_config_dir(folder, version_base=None):
            config = hydra.compose(
                "ppo_trainer",
                overrides=[
                    "algorithm.adv_estimator=grpo", f"actor_rollout_ref.model.path={TINY}",
                    f"trainer.rollout_data_dir={tmp_path / 'rollouts'}", *overrides,
                ],
            )  # fmt: skip
        made = cls(config)
        made.global_steps = 3
        made.tokenizer = transformers.AutoTokenizer.from_pretrained(str(TINY))
        made._init_dump_executor()
        return made

    return trainer


@pytest.fixture
def put(queue: Any) -> Iterator[Callable[..., Any]]:
    """put(rows) → the batch's meta data, the rows in the queue as verl's AgentLoopWorkerTQ and its log-probability pass leave
    them; with `multiple`, filled up by verl."""
    import torch

    agent_loop = pytest.importorskip("verl.experimental.agent_loop.agent_loop")
    padding_utils = pytest.importorskip("verl.trainer.ppo.padding_utils")
    tensordict = pytest.importorskip("tensordict")
    as_tensordict = pytest.importorskip("verl.utils.tensordict_utils").list_of_dict_to_tensordict

    known: list[str] = []

    def batch(rows: list[Row], *, multiple: int = 1) -> Any:
        keys, fields, tags = [], [], []
        for row in rows:
            uid, session, index = row["key"]
            output = agent_loop.AgentLoopOutput(
                prompt_ids=row["prompt"], response_ids=row["ids"], response_mask=row["mask"],
                response_logprobs=[-0.25 * own for own in row["mask"]], reward_score=row["reward"], num_turns=2,
                metrics=agent_loop.AgentLoopMetrics(), extra_fields={"reward_extra_info": {"acc": row["reward"] > 0}},
            )  # fmt: skip
            field = output.as_dict()
            field |= {"uid": uid, "session_id": session, "global_steps": 3, "loss_mask": field["response_mask"]}
            field |= {"raw_prompt": [{"role": "user", "content": f"problem {uid}"}]}
            field["input_ids"] = torch.cat([field["prompts"], field["responses"]])
            field["position_ids"] = torch.arange(len(field["input_ids"]))
            keys.append(f"{uid}_{session}_{index}")
            fields.append(field)
            tags.append({"seq_len": len(field["input_ids"]), "min_global_steps": 2, "max_global_steps": 3})
        meta = queue.kv_batch_put(
            keys=keys, fields=as_tensordict(fields), tags=tags, partition_id="train"
        )  # fmt: skip
        meta = padding_utils.upsample_batch_to_divisible_size(meta, multiple, 2)
        responses = queue.kv_batch_get(keys=meta.keys, partition_id="train", select_fields=["responses"])["responses"]
        ids = [row.float() for row in responses.unbind()]
        made = {
            "old_log_probs": [-0.25 - 0.5 * (row % 2) for row in ids],
            "ref_log_prob": [row * 0 - 0.6 for row in ids],
            "entropy": [row / 9 for row in ids],
        }
        nested = {name: torch.nested.as_nested_tensor(values, layout=torch.jagged) for name, values in made.items()}
        queue.kv_batch_put(
            keys=meta.keys, fields=tensordict.TensorDict(nested, batch_size=len(meta)), partition_id="train"
        )
        known.extend(meta.keys)
        return meta

    yield batch
    queue.kv_clear(keys=known, partition_id="train")


def rows_of(seed: int, sizes: list[int], *, parts: int = 1) -> list[Row]:
    """Groups of these sizes in any order, each row of 1 to 8 tokens of 4 kinds with an environment's among them, also at its
    ends; each episode in up to `parts` rows."""
    draw = np.random.default_rng(seed)
    rows: list[Row] = []
    for group, size in enumerate(sizes):
        for session in range(size):
            reward = float(draw.integers(3))
            for index in range(int(draw.integers(1, parts + 1))):
                ids = draw.integers(5, 9, int(draw.integers(1, 9))).tolist()
                mask = (draw.random(len(ids)) < 0.7).astype(int).tolist()
                mask[int(draw.integers(len(ids)))] = 1
                key = (f"u{group}", session, index)
                rows.append({"key": key, "prompt": [1, 5 + group], "ids": ids, "mask": mask, "reward": reward})
    return [rows[place] for place in draw.permutation(len(rows))]


def advantages_of(queue: Any, meta: Any, name: str = "advantages") -> dict[str, list[float]]:
    found = queue.kv_batch_get(keys=meta.keys, partition_id="train", select_fields=[name])[name]
    return {key: row.tolist() for key, row in zip(meta.keys, found.unbind(), strict=True)}


def step_of(trainer: Any, meta: Any) -> tuple[Any, dict[str, Any], Rollouts]:
    """(meta data, metrics, the rollout file) of a step, of what a step does without a GPU."""
    metrics: dict[str, Any] = {}
    after = trainer._compute_advantage(meta, metrics)
    folder = Path(trainer.config.trainer.rollout_data_dir)
    trainer._log_rollout_data(after, {}, str(folder))
    trainer._shutdown_dump_executor()
    assert (folder / "3.jsonl").is_file()
    return after, metrics, RolloutFile(folder / "3.parquet").read()


@pytest.mark.peers
@pytest.mark.parametrize(
    ("method", "options", "seed"),
    [("tempo", {}, 0), ("treerl", {}, 1), ("turn_return", {"scale": "std"}, 2), ("hepo", {}, 3), ("rloo", {}, 4)],
)
def test_the_trainer_gets_what_assign_credit_gives_on_the_file_it_writes(
    method: str,
    options: dict[str, Any],
    seed: int,
    make: Any,
    sync: Any,
    put: Any,
    queue: Any,
    cli: Cli,
    tmp_path: Path,
) -> None:
    trainer = make(with_credit(sync, method, **options))
    meta = put(rows_of(seed, [4, 1, 3, 2]), multiple=8)
    assert len(meta) == 16
    after, metrics, rollouts = step_of(trainer, meta)
    file, tree, credit = (tmp_path / name for name in ("rollouts/3.parquet", "tree.parquet", "credit.parquet"))
    assert cli("validate", file, "--ignore", "singleton").exit_code == 0
    assert cli("inspect", file).exit_code == 0
    assert cli("tree-build", file, "-o", tree).exit_code == 0
    settings = [word for name, value in options.items() for word in ("--set", f"{name}={value}")]
    done = cli("assign-credit", tree, "--method", method, *settings, "--as", "again", "-o", credit)
    assert done.exit_code == 0, done.output
    again = RolloutFile(credit).read()
    np.testing.assert_allclose(
        again.ragged("token.advantage_again").values, rollouts.ragged("token.advantage").values, atol=1e-6
    )
    compared = cli("diff", credit, "--columns", "advantage_verl,advantage")
    assert compared.exit_code == 0, compared.output

    inside = advantages_of(queue, after)
    for row, name in enumerate(rollouts.strings("rollout_id")):
        np.testing.assert_allclose(inside.pop(name), rollouts.ragged("token.advantage")[row], atol=1e-6)
    assert all(name.startswith("pad") and not any(values) for name, values in inside.items())
    assert len(inside) == 6
    assert [tag.get("is_padding", False) for tag in after.tags].count(True) == 6
    assert metrics["credit/singletons"] == 0.25
    assert metrics["credit/tokens"] > 0


@pytest.mark.peers
def test_the_file_has_what_verl_sampled_and_verl_s_own_advantages(make: Any, sync: Any, put: Any, queue: Any) -> None:
    rows = rows_of(5, [3, 2])
    plain = make(sync)
    meta = put(rows)
    plain._compute_advantage(meta, {})
    theirs = {key: [*values] for key, values in advantages_of(queue, meta).items()}
    returns = advantages_of(queue, meta, "returns")

    after, _, rollouts = step_of(make(with_credit(sync, "tempo")), meta)
    assert advantages_of(queue, after, "returns") == returns
    by_name = {"{}_{}_{}".format(*row["key"]): row for row in rows}
    assert rollouts.strings("rollout_id") == sorted(by_name)
    assert rollouts.strings("group_id") == ["u0"] * 3 + ["u1"] * 2
    assert rollouts.strings("episode_id") == ["u0_0", "u0_1", "u0_2", "u1_0", "u1_1"]
    assert rollouts.strings("logprob_kind") == ["sampling"] * 5
    assert rollouts.strings("prompt")[0] == [{"role": "user", "content": "problem u0"}]
    for name, value in (("iteration", 3), ("policy_start", 2), ("policy_end", 3), ("part", 0)):
        assert rollouts.numbers(name).tolist() == [value] * 5
    for row, name in enumerate(rollouts.strings("rollout_id")):
        source = by_name[name]
        assert rollouts.ragged("prompt_ids")[row].tolist() == source["prompt"]
        assert rollouts.token_ids[row].tolist() == source["ids"]
        assert rollouts.ragged("token.mask")[row].tolist() == [bool(own) for own in source["mask"]]
        assert rollouts.ragged("token.logprob")[row].tolist() == [-0.25 * own for own in source["mask"]]
        assert rollouts.ragged("token.advantage_verl")[row].tolist() == theirs[name]
        assert rollouts.numbers("reward")[row] == source["reward"]
        assert rollouts.numbers("rewards.acc")[row] == (source["reward"] > 0)


@pytest.mark.peers
def test_the_loss_gives_every_token_the_gradient_of_its_own_credit(make: Any, sync: Any, put: Any, queue: Any) -> None:
    """verl's own loss, on what its actor would take out of the queue."""
    torch, losses = pytest.importorskip("torch"), pytest.importorskip("verl.workers.utils.losses")
    to_dataclass = pytest.importorskip("verl.utils.config").omega_conf_to_dataclass
    utils = pytest.importorskip("verl.utils.tensordict_utils")

    trainer = make(with_credit(sync, "tempo"), "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1")
    meta = trainer._compute_advantage(put(rows_of(0, [4, 3]), multiple=8), {})
    data = queue.kv_batch_get(keys=meta.keys, partition_id="train")
    utils.assign_non_tensor(data, dp_size=1, batch_num_tokens=None, global_batch_size=None)
    # A model gives the log-probability of each token at the place before it, over prompt and response.
    old = zip(data["prompts"].unbind(), data["old_log_probs"].unbind(), strict=True)
    places = [torch.cat([torch.zeros(len(prompt) - 1), logprobs, torch.zeros(1)]) for prompt, logprobs in old]
    logprobs = torch.nested.as_nested_tensor(places, layout=torch.jagged).requires_grad_()
    loss, _ = losses.ppo_loss(to_dataclass(trainer.config.actor_rollout_ref.actor), {"log_probs": logprobs}, data)
    loss.backward()

    own = torch.cat([mask.bool() for mask in data["response_mask"].unbind()])
    of_response = torch.cat(
        [
            each[len(prompt) - 1 : -1]
            for each, prompt in zip(logprobs.grad.unbind(), data["prompts"].unbind(), strict=True)
        ]
    )
    credit = torch.cat(list(data["advantages"].unbind()))
    assert len(credit[own].unique()) > 4
    np.testing.assert_allclose(of_response.numpy(), (-credit * own / own.sum()).numpy(), atol=1e-7)


@pytest.mark.peers
def test_a_trainer_without_credit_writes_its_own_advantages(
    make: Any, sync: Any, put: Any, queue: Any, cli: Cli, tmp_path: Path
) -> None:
    meta = put(rows_of(6, [3, 3]))
    _, _, rollouts = step_of(make(with_rollouts(sync)), meta)
    assert "token.advantage" not in rollouts
    credit = tmp_path / "credit.parquet"
    done = cli("assign-credit", tmp_path / "rollouts/3.parquet", "--method", "grpo", "--preset", "verl", "-o", credit)
    assert done.exit_code == 0, done.output
    ours = RolloutFile(credit).read().ragged("token.advantage").values
    np.testing.assert_allclose(ours, rollouts.ragged("token.advantage_verl").values, atol=1e-5)
    (record,) = RolloutFile(tmp_path / "rollouts/3.parquet").provenance.history
    assert (record.stage, record.parameters["adv_estimator"], record.counts["rollouts"]) == ("verl", "grpo", 6)


@pytest.mark.peers
@pytest.mark.parametrize("seed", range(3))
def test_an_episode_in_several_rows_counts_once_as_in_verl_s_own_grpo(
    seed: int, make: Any, sync: Any, put: Any, cli: Cli, tmp_path: Path
) -> None:
    meta = put(rows_of(seed, [3, 4, 2], parts=3), multiple=5)
    _, _, rollouts = step_of(make(with_credit(sync, "grpo", preset="verl")), meta)
    assert len(set(rollouts.strings("episode_id"))) == 9 < len(rollouts)
    np.testing.assert_allclose(
        rollouts.ragged("token.advantage").values, rollouts.ragged("token.advantage_verl").values, atol=1e-5
    )
    assert rollouts.ragged("token.advantage").values.any()
    file = tmp_path / "rollouts/3.parquet"
    assert cli("validate", file).exit_code == 0
    done = cli("assign-credit", file, "--method", "turn_return", "-o", tmp_path / "credit.parquet")
    assert done.exit_code == 0, done.output


@pytest.mark.peers
def test_a_tree_of_episodes_in_several_rows_is_refused(make: Any, sync: Any, put: Any) -> None:
    rows = [{"key": ("u", 0, index), "prompt": [1], "ids": [5, 6], "mask": [1, 1], "reward": 1.0} for index in (0, 1)]
    with pytest.raises(DataError, match="an episode in several parts"):
        make(with_credit(sync, "tempo"))._compute_advantage(put(rows), {})


@pytest.mark.peers
def test_rows_without_a_reward_or_a_token_take_no_part(
    make: Any, sync: Any, put: Any, queue: Any, cli: Cli, tmp_path: Path
) -> None:
    rewards, masks = [1.0, 0.0, float("nan"), 5.0], [[1, 1], [1, 0], [1, 1], [0, 0]]
    rows = [
        {"key": ("u", session, 0), "prompt": [1], "ids": [5, 6], "mask": mask, "reward": reward}
        for session, (reward, mask) in enumerate(zip(rewards, masks, strict=True))
    ]
    meta, _, rollouts = step_of(make(with_credit(sync, "rloo")), put(rows))
    assert list(advantages_of(queue, meta).values()) == [[1, 1], [-1, 0], [0, 0], [0, 0]]
    assert rollouts.strings("flags") == [[], [], ["error"], ["filtered"]]
    assert rollouts.strings("error") == [None, None, "verl gave no reward", None]
    assert rollouts.arrow("token.advantage").to_pylist() == [[1, 1], [-1, 0], None, None]
    assert rollouts.arrow("token.advantage_verl").null_count > 0  # verl's own GRPO makes NaN of it
    assert cli("validate", tmp_path / "rollouts/3.parquet").exit_code == 0


@pytest.mark.peers
def test_rows_of_one_length_may_begin_with_an_environment(make: Any, sync: Any, put: Any, queue: Any) -> None:
    rows = [
        {"key": ("u", session, 0), "prompt": [1], "ids": [5, 6, 7], "mask": mask, "reward": float(session)}
        for session, mask in enumerate(([0, 1, 1], [1, 1, 0]))
    ]
    meta = put(rows)
    make(with_credit(sync, "turn_return", scale="none"))._compute_advantage(meta, {})
    first, second = advantages_of(queue, meta).values()
    assert first == [0.0, first[1], first[1]]
    assert second == [-first[1], -first[1], 0.0]
    assert first[1] < 0


REJECTION = (
    "algorithm.rollout_correction.rollout_rs=token_k1",
    "algorithm.rollout_correction.rollout_rs_threshold='0.7_1.2'",
)


@pytest.mark.peers
def test_tokens_that_verl_rejects_are_marked_and_get_nothing(make: Any, sync: Any, put: Any) -> None:
    """verl's own rejection sampling, which takes tokens out of response_mask while it computes advantages."""
    trainer = make(with_credit(sync, "turn_return"), *REJECTION)
    rows = rows_of(7, [3, 3])
    _, _, rollouts = step_of(trainer, put(rows))
    mask, trainable = rollouts.mask, rollouts.ragged("token.trainable").values
    assert mask.any()
    assert (mask & ~trainable).any()
    assert not rollouts.ragged("token.advantage").values[~trainable].any()


@pytest.mark.peers
def test_a_penalty_in_the_reward_is_part_of_it(
    make: Any, sync: Any, put: Any, queue: Any, cli: Cli, tmp_path: Path
) -> None:
    rows = [
        {"key": ("u", session, 0), "prompt": [1], "ids": ids, "mask": [1, 1], "reward": 1.0}
        for session, ids in enumerate(([5, 7], [6, 8]))
    ]
    trainer = make(with_credit(sync, "rloo"), "algorithm.use_kl_in_reward=true", "algorithm.kl_ctrl.kl_coef=1.0")
    meta, _, rollouts = step_of(trainer, put(rows))
    # Of each token, verl takes off old_log_probs - ref_log_prob: -0.75 + 0.6 of an odd one, -0.25 + 0.6 of an even one.
    np.testing.assert_allclose(rollouts.numbers("reward"), [1 + 2 * 0.15, 1 - 2 * 0.35], rtol=1e-6)
    np.testing.assert_allclose([*advantages_of(queue, meta).values()], [[1.0, 1.0], [-1.0, -1.0]], rtol=1e-6)


@pytest.mark.peers
def test_the_batches_of_a_step_are_one_file(make: Any, put: Any, queue: Any) -> None:
    """An asynchronous trainer computes advantages several times before it ends its step."""
    colocated = pytest.importorskip("verl.trainer.ppo.v1").PPOTrainerColocateAsync

    trainer = make(with_credit(colocated, "rloo"), "trainer.v1.trainer_mode=colocate_async")
    rows = rows_of(11, [3, 2, 4])
    first = put([row for row in rows if row["key"][0] == "u1"])
    second = put([row for row in rows if row["key"][0] != "u1"])
    trainer._compute_advantage(first, {})
    _, _, whole = step_of(trainer, second)
    combined = type(first)(partition_id="train", keys=[*second.keys, *first.keys], tags=[*second.tags, *first.tags])
    trainer._init_dump_executor()
    trainer._log_rollout_data(combined, {}, trainer.config.trainer.rollout_data_dir)
    trainer._shutdown_dump_executor()
    both = RolloutFile(Path(trainer.config.trainer.rollout_data_dir) / "3.parquet").read()
    assert (len(whole), len(both)) == (7, 9)
    assert both.arrow("token.advantage").null_count == 0
    assert both.ragged("token.advantage_verl").values.any()
    assert sorted(set(both.strings("group_id"))) == ["u0", "u1", "u2"]


@pytest.mark.peers
def test_every_v1_trainer_computes_advantages_where_credit_takes_their_place() -> None:
    v1 = pytest.importorskip("verl.trainer.ppo.v1")
    for cls in (v1.PPOTrainerSync, v1.PPOTrainerColocateAsync, v1.PPOTrainerSeparateAsync):
        assert cls._compute_advantage is v1.PPOTrainer._compute_advantage
        assert cls._log_rollout_data is v1.PPOTrainer._log_rollout_data
        assert "_compute_advantage" in vars(with_credit(cls, "tempo"))


@pytest.mark.peers
def test_a_method_of_values_needs_a_critic(make: Any, sync: Any) -> None:
    with pytest.raises(UsageError, match=r"gae needs a critic's values; set critic\.enable=true"):
        make(with_credit(sync, "gae"))


# -------------------------------------------------------------------------------------------------------------- replay


@pytest.fixture
def exported(make: Any, sync: Any, put: Any, cli: Cli, tmp_path: Path) -> Callable[..., Path]:
    """exported(rows) → the credit file of their step, by `assign-credit` and `export`."""

    def export(rows: list[Row]) -> Path:
        step_of(make(with_rollouts(sync)), put(rows))
        credit, flat = tmp_path / "credit.parquet", tmp_path / "flat.parquet"
        assert cli("assign-credit", tmp_path / "rollouts/3.parquet", "--method", "rloo", "-o", credit).exit_code == 0
        done = cli("export", credit, "--format", "flat", "-o", flat)
        assert done.exit_code == 0, done.output
        return flat

    return export


@pytest.mark.peers
@pytest.mark.parametrize("in_folder", [False, True])
def test_credit_of_a_file_reaches_the_rows_it_was_computed_for(
    in_folder: bool, exported: Any, make: Any, sync: Any, put: Any, queue: Any, tmp_path: Path
) -> None:
    rows = rows_of(8, [3, 1, 4])
    flat = exported(rows)
    if in_folder:
        (tmp_path / "flat").mkdir()
        flat = flat.rename(tmp_path / "flat" / "3.parquet").parent
    meta, metrics, rollouts = step_of(make(with_replay(sync, flat)), put(rows, multiple=3))
    credited, _, expected = step_of(make(with_credit(sync, "rloo")), put(rows, multiple=3))
    found, wanted = advantages_of(queue, meta), advantages_of(queue, credited)
    assert {key: found[key] for key in found if not key.startswith("pad")} == {
        key: wanted[key] for key in wanted if not key.startswith("pad")
    }
    assert rollouts.ragged("token.advantage").values.tolist() == expected.ragged("token.advantage").values.tolist()
    assert metrics["credit/tokens"] > 0


@pytest.mark.peers
def test_credit_of_a_file_stays_off_the_tokens_that_verl_rejects_now(
    exported: Any, make: Any, sync: Any, put: Any
) -> None:
    rows = rows_of(8, [3, 4])
    flat = exported(rows)
    _, _, rollouts = step_of(make(with_replay(sync, flat), *REJECTION), put(rows))
    trainable = rollouts.ragged("token.trainable").values
    credit = np.array([value or 0.0 for row in rollouts.arrow("token.advantage").to_pylist() for value in row or []])
    assert (rollouts.mask & ~trainable).any()
    assert credit.any()
    whole = rollouts.tokens.spread(rollouts.arrow("token.advantage").is_valid().to_numpy(zero_copy_only=False))
    assert not credit[~trainable[whole]].any()


@pytest.mark.peers
def test_a_batch_that_verl_injects_again_is_found_under_new_keys(
    exported: Any, make: Any, sync: Any, put: Any, queue: Any, tmp_path: Path
) -> None:
    rollout_skip = pytest.importorskip("verl.utils.skip.rollout_skip")

    rows = [row for row in rows_of(9, [3, 3]) if row["key"][2] == 0]
    flat = exported(rows)
    overrides = [
        "skip.rollout_tq.enable=true", "skip.rollout_tq.steps=[3]", f"skip.rollout_tq.dump_dir={tmp_path / 'dump'}",
        "actor_rollout_ref.rollout.n=3",
    ]  # fmt: skip
    trainer = make(with_replay(sync, flat), *overrides)
    skip = rollout_skip.RolloutTqSkip(trainer.config.skip.rollout_tq, trainer.config)
    meta = put(rows)
    skip.prepare_data(3, meta, 3)
    wanted = advantages_after(trainer, meta, queue)
    assert skip.maybe_load_and_inject(3, ["new0", "new1"])
    keys = [key for key in queue.kv_list("train")["train"] if key.startswith("new") and "_" in key]
    again = type(meta)(keys=keys, tags=[{} for _ in keys], partition_id="train")
    found = advantages_after(trainer, again, queue)
    assert sorted(found.values()) == sorted(wanted.values())
    assert any(any(row) for row in found.values())
    queue.kv_clear(keys=[*keys, "new0", "new1"], partition_id="train")


def advantages_after(trainer: Any, meta: Any, queue: Any) -> dict[str, list[float]]:
    trainer._compute_advantage(meta, {})
    return advantages_of(queue, meta)


@pytest.mark.peers
def test_a_row_that_the_file_lacks_or_whose_tokens_changed_is_an_error(
    exported: Any, make: Any, sync: Any, put: Any
) -> None:
    rows = rows_of(10, [2, 2])
    trainer = make(with_replay(sync, exported(rows)))
    changed = [{**row, "ids": [*row["ids"][:-1], 99]} for row in rows]
    with pytest.raises(
        DataError, match=r"flat\.parquet, row \d: the credit of rollout 'u\d_\d_0' was computed on other"
    ):
        trainer._compute_advantage(put(changed), {})
    elsewhere = [{**row, "key": (f"x{row['key'][0]}", *row["key"][1:])} for row in rows]
    with pytest.raises(DataError, match=r"no row for rollout 'xu\d_\d_0' of step 3"):
        trainer._compute_advantage(put(elsewhere), {})


# ------------------------------------------------------------------------------------------------------------- loading


@pytest.mark.peers
def test_verl_trains_with_the_class_that_a_module_of_the_user_s_puts_in_its_registry(tmp_path: Path) -> None:
    """The module of docs/trainers.md."""
    pytest.importorskip("transfer_queue")
    page = (Path(__file__).parents[3] / "docs" / "trainers.md").read_text(encoding="utf-8")
    code = page.split("```python\n# my_credit.py\n", 1)[1].split("```", 1)[0]
    (tmp_path / "my_credit.py").write_text(code, encoding="utf-8")
    look = "import verl; from verl.trainer.ppo.v1 import get_trainer_cls; print(get_trainer_cls('sync').__name__)"
    found = [*filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])]
    variables = {**os.environ, "VERL_USE_EXTERNAL_MODULES": "my_credit", "PYTHONPATH": os.pathsep.join(found)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", look], env=variables, capture_output=True, text=True, check=False
    )
    assert done.stdout.split()[-1:] == ["CreditPPOTrainerSync"], done.stderr
