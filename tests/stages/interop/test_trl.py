"""The adapter with the real trainer of TRL, on builtin:tiny. Skipped where TRL is not installed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from apportion.formats.errors import UsageError
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.stages.interop.trl import with_credit
from apportion.stages.models.policy import TINY
from typer.testing import Result

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's, of vLLM's version and of what it does itself

PROMPTS = ["17+4*2", "3*5-1", "8-2*3", "6+6*2"]
SIZE = 4  # completions of a prompt
Train = Callable[..., Any]


class Plain:
    """Stands where the options are tried without a trainer."""


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("tempoo", {}, "did you mean 'tempo'"),
        ("grpo", {"ddof": -1}, "ddof must be at least 0, got -1"),
        ("vineppo", {}, "needs probes"),
        ("gigpo", {}, "gigpo needs 'step.state', which TRL's trainer does not have"),
        ("gae", {}, "gae needs 'token.value', which TRL's trainer does not have"),
        ("turn_return", {"steps": None}, "turn_return needs 'step.start'"),
    ],
)
def test_what_cannot_work_fails_before_the_loop(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_credit(Plain, method, **options)


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """train(trainer class, …) → the trainer after two steps, with what its generations gave as `batches`."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    def run(cls: Any, *, rewards: Any = None, rollouts: Any = None, **options: Any) -> Any:
        class Recorded(cls):
            def _generate_and_score_completions(self, inputs: Any) -> Any:
                output = super()._generate_and_score_completions(inputs)
                self.batches = [*getattr(self, "batches", []), (output, self._rewards_per_function.clone())]
                return output

            def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
                self._rewards_per_function = super()._calculate_rewards(*args, **kwargs)
                return self._rewards_per_function

        def parity(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
            return [float(sum(ids) % 3) for ids in completion_ids]

        config = trl.GRPOConfig(
            output_dir=str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=2 * SIZE, num_generations=SIZE,
            max_completion_length=12, learning_rate=1e-3, seed=7, use_cpu=True, report_to=[], save_strategy="no",
            logging_steps=1, disable_tqdm=True, **options,
        )  # fmt: skip
        trainer = Recorded(
            model=str(TINY), reward_funcs=rewards or parity, args=config,
            train_dataset=Dataset.from_dict({"prompt": PROMPTS}), rollout_func=rollouts,
        )  # fmt: skip
        trainer.train()
        return trainer

    return run


def as_file(path: Path, output: Any, rewards: Any) -> Path:
    """The rollouts of a generation as a file."""
    inside = output["completion_mask"].bool()
    ids = [row[chosen].tolist() for row, chosen in zip(output["completion_ids"], inside, strict=True)]
    bare = pa.table(
        {
            "rollout_id": [f"r{row}" for row in range(len(ids))],
            "group_id": [f"g{row // SIZE}" for row in range(len(ids))],
            "reward": pa.array(rewards[:, 0].double().tolist()),
        }
    )
    batch = Rollouts(bare).with_columns(
        {
            "token.id": Ragged.from_lists(ids, np.int32),
            "token.mask": Ragged.from_lists([[True] * len(row) for row in ids], bool),
        }
    )
    write_rollouts(path, [batch], Provenance())
    return path


@pytest.mark.peers
@pytest.mark.parametrize(("method", "options"), [("tempo", {}), ("turn_return", {"scale": "std"}), ("treerl", {})])
def test_the_trainer_gets_what_assign_credit_gives_on_the_same_rollouts(
    method: str, options: dict[str, Any], train: Train, cli: Callable[..., Result], tmp_path: Path
) -> None:
    trainer_class = pytest.importorskip("trl").GRPOTrainer
    trainer = train(with_credit(trainer_class, method, **options))
    assert len(trainer.batches) == 2
    for number, (output, rewards) in enumerate(trainer.batches):
        file = as_file(tmp_path / f"{number}.parquet", output, rewards)
        tree, steps, credit = (tmp_path / f"{number}-{name}.parquet" for name in ("tree", "steps", "credit"))
        assert cli("tree-build", file, "-o", tree).exit_code == 0
        batch = RolloutFile(tree).read()
        sizes = batch.tokens.sizes
        spans = {"step.start": [[0] for _ in sizes], "step.end": [[int(size)] for size in sizes]}
        write_rollouts(steps, [batch.with_columns(spans)], Provenance())
        settings = [word for name, value in options.items() for word in ("--set", f"{name}={value}")]
        assert cli("assign-credit", steps, "--method", method, *settings, "-o", credit).exit_code == 0
        expected = RolloutFile(credit).read().ragged("token.advantage").values
        advantages, inside = output["advantages"], output["completion_mask"].bool()
        assert advantages.shape == output["completion_ids"].shape
        np.testing.assert_allclose(advantages[inside].numpy(), expected, atol=1e-6)
        assert not advantages[~inside].any()
        assert expected.any()
    assert "credit/dead_groups" in trainer.state.log_history[0]


@pytest.mark.peers
@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"])
def test_grpo_by_token_trains_as_trl_does_by_completion(loss_type: str, train: Train) -> None:
    trainer_class = pytest.importorskip("trl").GRPOTrainer
    theirs = train(trainer_class, loss_type=loss_type)
    ours = train(with_credit(trainer_class, "grpo", preset="trl"), loss_type=loss_type)
    assert ours.batches[0][0]["advantages"].ndim == 2
    moved = 0.0
    start = dict(type(theirs.model).from_pretrained(str(TINY)).named_parameters())
    for (name, mine), (_, other) in zip(ours.model.named_parameters(), theirs.model.named_parameters(), strict=True):
        np.testing.assert_allclose(mine.detach().numpy(), other.detach().numpy(), atol=2e-5, err_msg=name)
        moved = max(moved, float((mine.detach() - start[name].detach()).abs().max()))
    assert moved > 1e-4


@pytest.mark.peers
def test_a_completion_that_nothing_could_score_takes_no_part(train: Train) -> None:
    trainer_class = pytest.importorskip("trl").GRPOTrainer

    def sometimes(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        return [None if row % SIZE == 0 else float(row % 2) for row in range(len(completion_ids))]

    output, _ = train(with_credit(trainer_class, "rloo"), rewards=sometimes).batches[0]
    per_row = output["advantages"][:, 0].tolist()
    assert per_row == [0.0, 0.5, -1.0, 0.5, 0.0, 0.5, -1.0, 0.5]


@pytest.mark.peers
def test_completions_of_one_length_may_begin_with_a_tools_tokens(train: Train) -> None:
    trainer_class = pytest.importorskip("trl").GRPOTrainer

    def scripted(prompts: list[Any], trainer: Any) -> dict[str, list[Any]]:
        ids = [[9, 5, 7 + row % SIZE] for row in range(len(prompts))]
        return {
            "prompt_ids": [[4, 3]] * len(ids), "completion_ids": ids, "logprobs": [[0.0, -0.5, -0.5]] * len(ids),
            "env_mask": [[0, 1, 1]] * len(ids),
        }  # fmt: skip

    output, rewards = train(with_credit(trainer_class, "rloo"), rollouts=scripted).batches[0]
    assert output["tool_mask"].tolist() == [[0, 1, 1]] * 2 * SIZE
    # 21, 22, 23, 24 in each group, modulo 3: rewards 0, 1, 2, 0, of which each is held to the mean of the others.
    assert rewards[:SIZE, 0].tolist() == [0.0, 1.0, 2.0, 0.0]
    assert output["advantages"][:SIZE].tolist() == [
        pytest.approx([0.0, value, value]) for value in (-1.0, 1 / 3, 5 / 3, -1.0)
    ]


@pytest.mark.peers
def test_what_trl_logs_is_imported_with_its_own_credit_which_is_ours(
    train: Train, cli: Callable[..., Result], tmp_path: Path
) -> None:
    """From the Parquet files of log_completions to a diff: TRL's advantages are those of grpo with the preset trl."""
    train(pytest.importorskip("trl").GRPOTrainer, log_completions=True)
    out, credit = tmp_path / "rollouts.parquet", tmp_path / "credit.parquet"
    done = cli("import", tmp_path / "out" / "completions", "--group-by", "prompt", "-o", out)
    assert done.exit_code == 0, done.stderr
    assert cli("assign-credit", out, "--method", "grpo", "--preset", "trl", "-o", credit).exit_code == 0
    batch = RolloutFile(credit).read()
    assert batch.groups.sizes.tolist() == [SIZE] * 4  # two prompts in each of two steps
    ours, theirs = batch.ragged("token.advantage").values, batch.ragged("token.advantage_source").values
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert ours.any()
