"""The importer of traces against verifiers' own classes. Skipped where verifiers is not installed: pip install verifiers==0.4.0."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.parquet import RolloutFile
from typer.testing import Result

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]


def node(parent: int | None, role: str, text: str, sampled: int, read: int, first: int, **more: Any) -> dict[str, Any]:
    """A message that adds `read` tokens of a template or an environment and then `sampled` ones of the policy."""
    return {
        **({} if parent is None else {"parent": parent}),
        "message": {"role": role, "content": text, **({"tool_call_id": "c"} if role == "tool" else {})},
        "sampled": sampled > 0, "token_ids": list(range(first, first + read + sampled)),
        "mask": [False] * read + [True] * sampled,
        "logprobs": [-0.123456 * (place + 1) for place in range(sampled)],
        **({"advantages": [0.25 * (first + place) for place in range(sampled)]} if sampled else {}), **more,
    }  # fmt: skip


def episode(name: str, reward: float) -> dict[str, Any]:
    """A trace with two contexts that share a turn, and an attempt at compaction that nothing went on from."""
    nodes = [
        node(None, "system", "be brief", 0, 3, 1), node(0, "user", "2+2", 0, 2, 10), node(1, "assistant", "look", 3, 1, 20),
        node(2, "tool", "t", 0, 2, 30), node(3, "assistant", "4", 2, 1, 40), node(2, "tool", "u", 0, 1, 50),
        node(5, "assistant", "5", 1, 0, 60),
        node(2, "assistant", "sum", 2, 1, 70, semantic_parents=[{"node": 2, "type": "compaction_attempt"}]),
    ]  # fmt: skip
    task = {"type": "Sums", "data": {}}
    return {
        "id": f"e-{name}", "task": task, "group": {"id": "g"}, "ok": True,
        "traces": [
            {
                "id": name, "task": task, "agent": {"config": {}, "name": "solver"}, "nodes": nodes, "ok": True,
                "rewards": {"exact": {"score": reward, "weight": 0.5}, "style": {"score": 1.0}},
            }
        ],
    }  # fmt: skip


def test_rows_are_the_branches_that_verifiers_makes(cli: Callable[..., Result], tmp_path: Path) -> None:
    wire = pytest.importorskip("verifiers.v1.episode").WireEpisode
    made = [wire.model_validate(episode(name, reward)) for name, reward in (("a", 1.0), ("b", 0.0))]
    source, out = tmp_path / "traces.jsonl", tmp_path / "out.parquet"
    source.write_text("".join(json.dumps(each.to_record()) + "\n" for each in made), encoding="utf-8")
    done = cli("import", source, "-o", out)
    assert done.exit_code == 0, done.stderr
    assert cli("validate", out).exit_code == 0
    batch = RolloutFile(out).read()
    branches = [branch for each in made for branch in each.traces[0].branches]
    assert len(batch) == len(branches) == 6
    for row, branch in enumerate(branches):
        prompt = batch.arrow("prompt_ids")[row].as_py()
        assert [*prompt, *batch.token_ids[row].tolist()] == branch.token_ids
        inside = slice(*batch.tokens.offsets[row : row + 2])
        assert [False] * len(prompt) + batch.mask[inside].tolist() == branch.sampled_mask
        logprobs = np.array(branch.spread(lambda node: node.logprobs))[len(prompt) :]
        np.testing.assert_allclose(batch.ragged("token.logprob")[row], logprobs, atol=5e-5)  # four decimals on disk
        credit = np.array(branch.spread(lambda node: node.advantages))[len(prompt) :]
        trained = batch.trainable[inside]
        np.testing.assert_allclose(batch.ragged("token.advantage_verifiers")[row], np.where(trained, credit, 0))
        assert trained.any() == branch.trainable
    first = made[0].traces[0]
    assert batch.numbers("reward")[0] == pytest.approx(first.reward)
    assert batch.strings("episode_id") == ["a"] * 3 + ["b"] * 3
    # Every token that the policy sampled is trained once, but for those of the attempt.
    assert int(batch.trainable.sum()) == 2 * (3 + 2 + 1)
