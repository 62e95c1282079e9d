"""Every importer, on an example of its format, through the commands that come after: validate, tree-build, assign-credit, inspect."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from apportion.formats.parquet import RolloutFile
from apportion.stages.exchange.kind import IMPORTERS
from typer.testing import Result

Cli = Callable[..., Result]
PROMPT, FIRST, SECOND = [1, 2], [5, 7, 9], [5, 8]  # two rollouts of one prompt, rewards 1 and 0


def rows(make: Callable[[int, list[int], float], dict[str, Any]]) -> list[dict[str, Any]]:
    return [make(number, ids, float(number == 0)) for number, ids in enumerate((FIRST, SECOND))]


def verifiers(number: int, ids: list[int], reward: float) -> dict[str, Any]:
    nodes = [
        {"message": {"role": "user", "content": "q"}, "token_ids": PROMPT, "mask": [False] * 2},
        {"parent": 0, "sampled": True, "message": {"role": "assistant", "content": "a"}, "token_ids": ids, "mask": [True] * len(ids),
         "logprobs": [-0.5] * len(ids)},
    ]  # fmt: skip
    trace = {"id": f"t{number}", "agent": {"name": "solver"}, "nodes": nodes, "rewards": {"exact": {"score": reward}}}
    return {"id": f"e{number}", "group": {"id": "g"}, "traces": [trace]}


def nemo_rl(number: int, ids: list[int], reward: float) -> dict[str, Any]:
    mask = [0, 0, *[1] * len(ids)]
    return {
        "token_ids": [*PROMPT, *ids],
        "token_loss_mask": mask,
        "input_lengths": len(mask),
        "rewards": reward,
        "idx": number,
    }


def open_instruct(number: int, ids: list[int], reward: float) -> dict[str, Any]:
    return {"step": 1, "sample_idx": number, "prompt_idx": 0, "prompt_tokens": PROMPT, "response_tokens": ids, "reward": reward,
            "advantage": 0.5, "finish_reason": "stop"}  # fmt: skip


def prime_rl_tokens(number: int, ids: list[int], reward: float) -> dict[str, Any]:
    size = len(ids) + 2
    return {"token_ids": [*PROMPT, *ids], "loss_mask": [False, False, *[True] * len(ids)], "rewards": [reward] * size,
            "inference_logprobs": [-0.5] * size}  # fmt: skip


def tinker(number: int, ids: list[int], reward: float) -> dict[str, Any]:
    scope = {"run_id": "r", "iteration": 0, "group_idx": 0, "traj_idx": number}
    samples = [{"tokens": ids, "logprobs": [-0.5] * len(ids), "stop_reason": "stop"}]
    return {
        "kind": "sample",
        "scope": scope,
        "status": "ok",
        "prompt_tokens": PROMPT,
        "samples": samples,
        "created_at": number,
    }


def atif(number: int, ids: list[int], reward: float) -> dict[str, Any]:
    metrics = {"prompt_token_ids": PROMPT, "completion_token_ids": ids, "logprobs": [-0.5] * len(ids)}
    steps = [
        {"step_id": 1, "source": "user", "message": "q"},
        {"step_id": 2, "source": "agent", "message": "a", "metrics": metrics},
    ]
    extra = {"rollout_id": f"r{number}", "group_id": "g", "reward": reward}
    return {"schema_version": "ATIF-v1.8", "agent": {"name": "a", "version": "1"}, "steps": steps, "extra": extra}


def rllm(number: int, ids: list[int], reward: float) -> dict[str, Any]:
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "".join(map(str, ids))}]
    steps = [{"chat_completions": chat, "reward": reward, "model_response": chat[1]["content"]}]
    trajectory = {"name": "solver", "uid": str(number), "reward": reward, "steps": steps}
    return {
        "training_step": 1,
        "episode_id": f"t:{number}",
        "task_hash": "h",
        "is_correct": True,
        "trajectories": [trajectory],
    }


def text(number: int, ids: list[int], reward: float) -> dict[str, Any]:
    return {"input": "q", "output": "".join(map(str, ids)), "score": reward, "step": 1, "uid": f"u_{number}_0"}


def unpaired(number: int, ids: list[int], reward: float) -> dict[str, Any]:
    return {"prompt": "q", "completion": "".join(map(str, ids)), "label": reward > 0}


def stepwise(number: int, ids: list[int], reward: float) -> dict[str, Any]:
    return {"prompt": "q", "completions": list(map(str, ids)), "labels": [reward > 0] * len(ids)}


def math_shepherd(number: int, ids: list[int], reward: float) -> dict[str, Any]:
    said = [f"Step {place + 1}: {each} " for place, each in enumerate(ids)]
    sign = "+" if reward else "-"
    return {"input": "q " + "".join(f"{each}ки\n" for each in said), "label": "q " + "".join(f"{each}{sign}\n" for each in said),
            "task": "GSM8K"}  # fmt: skip


def processbench(number: int, ids: list[int], reward: float) -> dict[str, Any]:
    return {"id": f"p{number}", "generator": "m", "problem": "q", "steps": list(map(str, ids)), "final_answer_correct": reward > 0,
            "label": -1 if reward else 0}  # fmt: skip


PREFERENCE = [{"prompt": "q", "chosen": "579", "rejected": "58"}]
PRM800K = [
    {"question": {"problem": "q", "ground_truth_answer": "3"},
     "label": {"finish_reason": "solution", "steps": [
         {"completions": [{"text": "5", "rating": 1}, {"text": "6", "rating": -1}], "chosen_completion": 0},
         {"completions": [{"text": "# Answer\n3", "rating": 1}], "chosen_completion": 0},
     ]}}
]  # fmt: skip
EXAMPLES: dict[str, tuple[str, list[dict[str, Any]], tuple[str, ...]]] = {
    "verifiers": ("traces.jsonl", rows(verifiers), ()),
    "nemo_rl": ("train_data_step1.jsonl", rows(nemo_rl), ("--group-size", "2")),
    "open_instruct": ("run_rollouts_000000.jsonl", rows(open_instruct), ()),
    "prime_rl_tokens": ("rank_0.jsonl", rows(prime_rl_tokens), ("--group-size", "2")),
    "tinker": ("sample.jsonl", rows(tinker), ()),
    "atif": ("trajectories.jsonl", rows(atif), ()),
    "rllm": ("episodes.jsonl", rows(rllm), ()),
    "text": ("1.jsonl", rows(text), ()),
    "preference": ("pairs.jsonl", PREFERENCE, ()),
    "unpaired": ("labels.jsonl", rows(unpaired), ()),
    "stepwise": ("steps.jsonl", rows(stepwise), ()),
    "math_shepherd": ("shepherd.jsonl", rows(math_shepherd), ()),
    "prm800k": ("prm.jsonl", PRM800K, ()),
    "processbench": ("bench.jsonl", rows(processbench), ()),
}
IN_TORCH = {"slime", "verl_batch"}  # files of torch.save


def test_every_importer_has_an_example() -> None:
    assert {each.name for each in IMPORTERS} == EXAMPLES.keys() | IN_TORCH


@pytest.mark.parametrize("name", [*EXAMPLES, "slime"])
def test_an_example_goes_through_the_commands(name: str, cli: Cli, tmp_path: Path) -> None:
    if name == "slime":
        torch = pytest.importorskip("torch")
        source, more = tmp_path / "rollout_1.pt", ()
        samples = [
            {"group_index": 0, "index": number, "tokens": [*PROMPT, *ids], "response_length": len(ids), "reward": float(number == 0),
             "prompt": "q", "status": "completed"}
            for number, ids in enumerate((FIRST, SECOND))
        ]  # fmt: skip
        torch.save({"rollout_id": 1, "samples": samples}, source)
    else:
        file, records, more = EXAMPLES[name]
        source = tmp_path / file
        if name == "tinker":  # whose rewards are in a file of the run's
            source = tmp_path / "run" / "capture" / file
            source.parent.mkdir(parents=True)
            summaries = [
                {"split": "train", "iteration": 0, "group_idx": 0, "traj_idx": number, "total_reward": float(number == 0), "steps": []}
                for number in range(2)
            ]  # fmt: skip
            path = tmp_path / "run" / "train_rollout_summaries.jsonl"
            path.write_text("".join(json.dumps(each) + "\n" for each in summaries), encoding="utf-8")
        source.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    out, tree, credit = (tmp_path / f"{stage}.parquet" for stage in ("out", "tree", "credit"))
    looked = cli("import", source, *more, "--dry-run")
    assert looked.stdout.splitlines()[0].split()[1] == name
    done = cli("import", source, *more, "-o", out)
    assert done.exit_code == 0, done.stderr
    assert cli("validate", out, "--ignore", "singleton").exit_code == 0
    assert cli("tree-build", out, "-o", tree).exit_code == 0
    method = "tempo" if "reward" in RolloutFile(tree).read() else "mapo"  # labels of steps alone
    done = cli("assign-credit", tree, "--method", method, "-o", credit)
    assert done.exit_code == 0, done.stderr
    batch = RolloutFile(credit).read()
    assert batch.groups.sizes.tolist() == [2]
    assert batch.ragged("token.advantage").values.any()
    assert cli("inspect", credit, "--stats").exit_code == 0


WRONG: list[Any] = [
    None, 0, -1, 1e308, float("nan"), 10**30, "", "x", [], {}, [None], ["a"], [[1]], True, "\ud800\x1b[31m\x00", {"a": 1}, 2.5, [1, 2, 3],
]  # fmt: skip


def corrupted(value: Any, chance: random.Random) -> Any:
    """The value with something wrong at some place of it: left out, or another kind of thing."""
    if not isinstance(value, dict | list) or not value or chance.random() < 0.25:
        return chance.choice(WRONG)
    found = dict(value) if isinstance(value, dict) else dict(enumerate(value))
    place = chance.choice(list(found))
    if chance.random() < 0.2:
        del found[place]
    else:
        found[place] = corrupted(found[place], chance)
    return found if isinstance(value, dict) else list(found.values())


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_corrupted_record_is_told_in_one_line_or_counted(name: str, cli: Cli, tmp_path: Path) -> None:
    """Never a traceback, half a file, or a file that breaks a rule."""
    file, records, more = EXAMPLES[name]
    source, out = tmp_path / file, tmp_path / "out.parquet"
    for seed in range(8):
        chance = random.Random(f"{name} {seed}")
        place = chance.randrange(len(records))
        changed = [corrupted(each, chance) if number == place else each for number, each in enumerate(records)]
        source.write_text("".join(json.dumps(record) + "\n" for record in changed), encoding="utf-8")
        for lenient in ([], ["--lenient"]):
            done = cli("import", source, "--format", name, *more, *lenient, "-o", out, "--force")
            assert done.exit_code in (0, 2, 3, 4), (changed[place], done.output)
            if done.exit_code in (2, 3):
                assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, (changed[place], done.stderr)
                assert not out.exists()
            else:
                valid = cli("validate", out, "--ignore", "singleton", "--ignore", "split_episode")
                assert valid.exit_code == 0, (changed[place], valid.output)
                out.unlink()
