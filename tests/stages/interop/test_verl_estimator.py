"""The estimator for verl: what it refuses, and what verl's own code gets from it where verl is installed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.stages.interop.verl_estimator import estimator, estimator_of

pytestmark = pytest.mark.filterwarnings("ignore")  # verl's and ray's

SEAM = r"use the trainer: with_credit\(PPOTrainerSync, \"{}\"\) of apportion\.stages\.interop\.verl$"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"APPORTION_METHOD": "rlooo"}, "did you mean 'rloo'"),
        ({"APPORTION_METHOD": "grpo", "APPORTION_PRESET": "verll"}, "did you mean 'verl'"),
        ({"APPORTION_METHOD": "grpo", "APPORTION_SET": "ddof=-1"}, "ddof must be at least 0, got -1"),
        ({"APPORTION_METHOD": "grpo", "APPORTION_SET": "ddof"}, "name=value"),
        ({"APPORTION_METHOD": "vineppo"}, "needs probes"),
        ({"APPORTION_METHOD": "tempo"}, SEAM.format("tempo")),
        ({"APPORTION_METHOD": "turn_return"}, SEAM.format("turn_return")),
        ({"APPORTION_METHOD": "gdpo"}, SEAM.format("gdpo")),
        ({"APPORTION_METHOD": "gae"}, SEAM.format("gae")),
    ],
)
def test_what_an_estimator_cannot_do_fails_before_the_loop(variables: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        estimator_of(variables)


REWARDS = [[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]]  # of a: 1 and 0, of b: 1
MASK = [[0, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 1]]
GROUPS = np.array(["a", "a", "b"], object)


def test_credit_stands_where_the_mask_is_whatever_the_side_of_the_padding() -> None:
    torch = pytest.importorskip("torch")
    function = estimator("rloo", singleton="raw")
    advantages, returns = function(torch.tensor(REWARDS), torch.tensor(MASK), index=GROUPS, config=None, other=1)
    assert advantages.tolist() == [[0, 1, 1, 0], [-1, -1, 0, 0], [1, 0, 1, 1]]
    assert returns is advantages
    to_the_right = function(torch.tensor(REWARDS).flip(1), torch.tensor(MASK).flip(1), index=GROUPS)[0]
    assert to_the_right.flip(1).tolist() == advantages.tolist()


def test_rows_without_a_reward_or_a_token_move_nobody_s_baseline() -> None:
    torch = pytest.importorskip("torch")
    rewards = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, float("nan")], [9.0, 0.0]])
    mask = torch.tensor([[1, 1], [1, 0], [1, 1], [0, 0]])
    advantages, _ = estimator("rloo")(rewards, mask, index=np.array(["a"] * 4, object))
    assert advantages.tolist() == [[1, 1], [-1, 0], [0, 0], [0, 0]]


def test_a_batch_without_groups_is_refused() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(DataError, match="no uid"):
        estimator("rloo")(torch.tensor(REWARDS), torch.tensor(MASK))


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own, in which nothing is imported yet."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("APPORTION_", "VERL_"))}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env={**kept, **variables}, capture_output=True, text=True, check=False
    )  # fmt: skip


def test_the_adapter_is_imported_without_torch_and_without_verl() -> None:
    blocked = "import sys; sys.modules.update(torch=None, verl=None, ray=None, tensordict=None, transfer_queue=None);"
    done = run(f"{blocked} import apportion.stages.interop.verl, apportion.stages.interop.verl_estimator")
    assert done.returncode == 0, done.stderr


# -------------------------------------------------------------------------------------------------- with verl itself

LOOK = (
    "import verl; from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY as found; print('apportion' in found)"
)


@pytest.mark.peers
@pytest.mark.parametrize(
    ("variables", "is_there"),
    [
        ({"APPORTION_METHOD": "rloo"}, "True"),  # by the entry point
        ({}, "False"),
        (
            {
                "APPORTION_METHOD": "rloo",
                "VERL_USE_EXTERNAL_PLUGINS": "none",
                "VERL_USE_EXTERNAL_MODULES": "apportion.stages.interop.verl_estimator",
            },
            "True",
        ),
    ],
)
def test_verl_finds_the_estimator(variables: dict[str, str], is_there: str) -> None:
    pytest.importorskip("verl")
    done = run(LOOK, **variables)
    assert done.stdout.strip().endswith(is_there), done.stderr


@pytest.mark.peers
def test_a_method_that_verl_cannot_serve_ends_the_program_with_one_line() -> None:
    pytest.importorskip("verl")
    done = run("import verl; print('went on')", APPORTION_METHOD="tempo")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = [line for line in done.stderr.splitlines() if "apportion" in line.lower()]
    assert line.startswith("error: APPORTION_METHOD=tempo: credit method tempo needs 'node.id'")


@pytest.fixture
def verl() -> Iterator[Any]:
    """verl's compute_advantage, with `apportion` registered for the test alone."""
    pytest.importorskip("verl")
    core_algos = pytest.importorskip("verl.trainer.ppo.core_algos")
    ray_trainer = pytest.importorskip("verl.trainer.ppo.ray_trainer")

    yield ray_trainer
    core_algos.ADV_ESTIMATOR_REGISTRY.pop("apportion", None)


def batch_of(seed: int, sizes: list[int]) -> Any:
    """A DataProto as verl's trainers make it: padded on the right, an environment's tokens within, groups of these sizes."""
    import torch

    tensordict, protocol = pytest.importorskip("tensordict"), pytest.importorskip("verl.protocol")

    draw = np.random.default_rng(seed)
    rows, longest = sum(sizes), 9
    mask, rewards = torch.zeros(rows, longest), torch.zeros(rows, longest)
    for row in range(rows):
        length = int(draw.integers(1, longest + 1))
        mask[row, :length] = torch.from_numpy((draw.random(length) < 0.8).astype(np.float32))
        mask[row, length - 1] = 1  # which verl's rewards stand on
        rewards[row, length - 1] = float(draw.integers(3))
    groups = np.repeat([f"g{group}" for group in range(len(sizes))], sizes).astype(object)
    shuffled = torch.from_numpy(draw.permutation(rows))
    batch = tensordict.TensorDict({"token_level_rewards": rewards, "response_mask": mask}, batch_size=rows)[shuffled]
    return protocol.DataProto(batch=batch, non_tensor_batch={"uid": groups[shuffled.numpy()]})


SAME = ("grpo", "rloo", "opo", "gpg", "reinforce_plus_plus", "reinforce_plus_plus_baseline")  # named as verl's own


@pytest.mark.peers
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("method", SAME)
def test_verl_s_compute_advantage_gets_its_own_numbers(verl: Any, method: str, seed: int) -> None:
    algorithm = pytest.importorskip("verl.trainer.config")

    options = {"f_norm": 1.0} if method == "gpg" else {}
    verl.core_algos.register_adv_est("apportion")(estimator(method, preset="verl", **options))
    config = algorithm.AlgoConfig(gamma=1.0)
    sizes = [1, 2, 5, 3]
    ours = verl.compute_advantage(batch_of(seed, sizes), adv_estimator="apportion", config=config)
    theirs = verl.compute_advantage(batch_of(seed, sizes), adv_estimator=method, config=config)
    np.testing.assert_allclose(
        ours.batch["advantages"].numpy(),
        (theirs.batch["advantages"] * theirs.batch["response_mask"]).numpy(),
        atol=1e-4,
    )
    assert ours.batch["advantages"].any()


@pytest.mark.peers
def test_the_v1_trainer_passes_the_estimator_its_padded_rows(verl: Any) -> None:
    """Rows that verl adds to fill a batch have a mask of zeros; batch statistics do not count them."""
    import torch

    protocol, utils = pytest.importorskip("verl.protocol"), pytest.importorskip("verl.trainer.ppo.v1.utils")

    verl.core_algos.register_adv_est("apportion")(estimator("lite_ppo"))
    data = batch_of(3, [2, 3])
    keys = [f"{uid}_{row}_0" for row, uid in enumerate(data.non_tensor_batch["uid"])]
    alone = utils.compute_advantage_for_multi_trajectories(data, keys, "apportion").batch["advantages"]
    added = protocol.DataProto.from_dict(
        {name: torch.zeros(3, 9) for name in ("token_level_rewards", "response_mask")},
        non_tensors={"uid": np.array(["pad"] * 3, object)},
    )
    whole = protocol.DataProto.concat([batch_of(3, [2, 3]), added])
    filled = utils.compute_advantage_for_multi_trajectories(
        whole, [*keys, "pad_0_0", "pad_1_0", "pad_2_0"], "apportion"
    )
    assert torch.equal(filled.batch["advantages"][:5], alone)
    assert not filled.batch["advantages"][5:].any()
