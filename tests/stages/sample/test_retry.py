"""R3L's sampling: which reflections count, and what is tried again."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from apportion.formats.errors import DataError, UsageError
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit import assign_credit
from apportion.stages.models.engine import Completion, Request, Sampling
from apportion.stages.models.kind import ENGINES, engine
from apportion.stages.models.policy import load_policy, load_tokenizer
from apportion.stages.sample import sample
from apportion.stages.sample.revise.retry import reflection_of
from apportion.stages.score import score
from typer.testing import Result

from .conftest import ScriptedEngine

Retried = Callable[..., Rollouts]
BASE = {"trajectory_summary": "a", "root_cause_analysis": "b", "trajectory_outcome": "failure"}
SHORT = {"reflector": "{question} {steps}", "guidance": "{question}\n{reflection}"}


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three groups of four, scored and split into steps."""
    folder = tmp_path_factory.mktemp("retry")
    sample(prompts=3, n=4, seed=3, max_tokens=40, device="cpu", out=folder / "rollouts")
    score(folder / "rollouts", out=folder / "scored")
    score(folder / "scored", scorer="steps", out=folder / "stepped")
    return folder / "stepped"


@pytest.fixture
def retried(stepped: Path, tmp_path: Path) -> Retried:
    def run(rollouts: Path = stepped, options: dict[str, Any] | None = None, **settings: Any) -> Rollouts:
        sample(
            **{
                "strategy": "retry",
                "rollouts": rollouts,
                "settings": SHORT | {"reflections": "drop", "parents": "keep"} | settings,
                "seed": 4,
                "max_tokens": 40,
            }
            | {"device": "cpu", "engine": "scripted", "out": tmp_path / "retried", "force": True}
            | (options or {})
        )
        return RolloutFile(tmp_path / "retried").read()

    return run


def report(step: Any, outcome: str = "failure") -> str:
    return json.dumps(BASE | {"trajectory_outcome": outcome, "improvement_suggestion": "c", "retry_from_step": step})


def from_second(text: str) -> str | None:
    """Begins again at step 1 where there is a fourth; what has the report in it is the guided prompt."""
    if "trajectory" in text or "0. " not in text:
        return None
    return f"Well: {report(1)} Done." if "\n3. " in text else json.dumps(BASE | {"trajectory_outcome": "success"})


def test_reflections_of_a_policy_that_cannot_reflect_leave_the_rows_as_they_are(
    stepped: Path, retried: Retried, tmp_path: Path, cli: Callable[..., Result], capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = RolloutFile(stepped).read(), retried(options={"engine": "auto"}, reflection_tokens=8)
    assert "retry: 12 reflections, 0 of them sound; 0 rollouts tried again\n" in capsys.readouterr().err
    assert after.strings("rollout_id") == before.strings("rollout_id")
    assert after.strings("reflection") == after.strings("retry_step") == [None] * 12
    for path in before.paths:
        assert after.arrow(path).equals(before.arrow(path)), path
    assert cli("validate", tmp_path / "retried").exit_code == 0


def test_a_retry_goes_on_from_the_step_named(
    stepped: Path, retried: Retried, scripted: Callable[..., Any], tmp_path: Path, cli: Callable[..., Result],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    opened = scripted(from_second)
    before, after = RolloutFile(stepped).read(), retried()
    assert len(opened[0].read) == len(before), "every rollout is reflected on"
    assert cli("validate", tmp_path / "retried").exit_code == 0
    rows = after.table.to_pylist()
    names = {row["rollout_id"]: row for row in rows}
    steps = dict(zip(before.strings("rollout_id"), before.ragged("step.start").segments.sizes, strict=True))
    made = [row for row in rows if "retried" in row["flags"]]
    assert 0 < len(made) < len(before)
    assert f"12 reflections, 12 of them sound; {len(made)} rollouts tried again" in capsys.readouterr().err
    assert {row["parent_id"] for row in made} == {name for name, size in steps.items() if size >= 4}
    for row in made:
        parent, fork = names[row["parent_id"]], row["fork"]
        assert fork == parent["step"]["start"][1]
        assert row["token"]["id"][:fork] == parent["token"]["id"][:fork]
        assert row["token"]["mask"] == [False] * fork + [True] * (len(row["token"]["id"]) - fork)
        assert (row["group_id"], row["prompt_ids"]) == (parent["group_id"], parent["prompt_ids"])
        assert (row["reward"], row["reflection"], row["step"]["start"]) == (None, None, None)
        assert (parent["reflection"], parent["retry_step"]) == (report(1), 1)
        assert len(row["token"]["id"]) <= 40
    for name, size in steps.items():
        if size < 4:
            assert json.loads(names[name]["reflection"])["trajectory_outcome"] == "success"
            assert names[name]["retry_step"] is None
    own = after.take(np.flatnonzero(~after.flagged("retried")))
    for path in before.paths:
        assert own.arrow(path).equals(before.arrow(path)), path


def test_its_log_probabilities_are_those_under_the_reflection(retried: Retried, scripted: Callable[..., Any]) -> None:
    scripted(from_second)
    after = retried()
    model, tokenizer = load_policy("builtin:tiny", device="cpu").model, load_tokenizer("builtin:tiny")
    made = after.take(np.flatnonzero(after.flagged("retried")))
    read, logprob, forks = made.ragged("behaviour_prompt_ids"), made.ragged("token.logprob"), made.numbers("fork")
    for row, problem in enumerate(made.arrow("prompt").to_pylist()):
        question = problem[-1]["content"]
        assert tokenizer.decode(read[row], skip_special_tokens=True) == f"{question}\n{report(1)}"
        ids = np.concatenate((read[row], made.token_ids[row])).astype(np.int64)
        with torch.inference_mode():
            logits = model(torch.from_numpy(ids)[None]).logits[0].float()
        whole = torch.log_softmax(logits[:-1], -1).gather(1, torch.from_numpy(ids)[1:, None])[:, 0]
        expected = whole[len(read[row]) - 1 + forks[row] :].numpy()
        np.testing.assert_allclose(logprob[row][forks[row] :], expected, atol=1e-4)
        assert not logprob[row][: forks[row]].any()
    own = after.take(np.flatnonzero(~after.flagged("retried")))
    assert own.arrow("behaviour_prompt_ids").null_count == len(own)


def test_what_was_shared_has_no_credit_and_parents_may_lose_theirs(
    stepped: Path, retried: Retried, scripted: Callable[..., Any], tmp_path: Path
) -> None:
    scripted(from_second)
    after = retried(parents="suffix")
    rows = {row["rollout_id"]: row for row in after.table.to_pylist()}
    made = [row for row in rows.values() if "retried" in row["flags"]]
    masked = {row["parent_id"] for row in made}
    for row in made:
        mask = rows[row["parent_id"]]["token"]["mask"]
        assert mask == [place >= row["fork"] for place in range(len(mask))]
    assert all(all(row["token"]["mask"]) for name, row in rows.items() if name not in masked and row not in made)
    score(tmp_path / "retried", out=tmp_path / "scored")
    assign_credit(tmp_path / "scored", method="grpo", out=tmp_path / "credit")
    credit = RolloutFile(tmp_path / "credit").read()
    assert credit.groups.sizes.sum() == 12 + len(made)
    assert not credit.ragged("token.advantage").values[~credit.mask].any()
    assert credit.ragged("token.advantage").values.any()


def right_from_the_start(text: str) -> str | None:
    """A sound reflection on every rollout, that knows whether it is right; every guided try is right."""
    question = text.split()[0]
    if "trajectory" in text:
        return f"1+1={eval(question)}"
    if "0. " not in text:
        return None
    right = text.rpartition("=")[2].strip() == str(eval(question))
    return json.dumps(BASE | {"trajectory_outcome": "success"}) if right else report(0)


def test_reflections_that_helped_are_rows_of_their_own(
    stepped: Path, retried: Retried, scripted: Callable[..., Any], tmp_path: Path, cli: Callable[..., Result],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    scripted(right_from_the_start)
    before, after = RolloutFile(stepped).read(), retried(reflections="keep")
    assert cli("validate", tmp_path / "retried").exit_code == 0
    rows = {row["rollout_id"]: row for row in after.table.to_pylist()}
    wrong = {
        name for name, reward in zip(before.strings("rollout_id"), before.numbers("reward"), strict=True) if not reward
    }
    learnt = [row for row in rows.values() if row["flags"] in (["reflection"], ["guided"])]
    assert 0 < len(wrong) < len(before)
    assert f"{len(learnt)} rows to learn that from" in capsys.readouterr().err
    about = {
        flag: {row["rollout_id"].rpartition("/")[0]: row for row in learnt if row["flags"] == [flag]}
        for flag in ("reflection", "guided")
    }
    assert set(about["reflection"]) == set(before.strings("rollout_id")), (
        "all wrong ones got better, right ones were let be"
    )
    assert set(about["guided"]) == wrong
    tokenizer = load_tokenizer("builtin:tiny")
    for row in learnt:
        assert row["group_id"] == row["problem_id"] == row["rollout_id"]
        assert (row["reward"], row["purpose"], row["parent_id"], row["behaviour_prompt_ids"]) == (
            1.0,
            "train",
            None,
            None,
        )
        assert all(row["token"]["mask"])
        assert len(row["token"]["logprob"]) == len(row["token"]["id"])
        assert tokenizer.decode(row["prompt_ids"], skip_special_tokens=True) == row["prompt"][-1]["content"]
    for name, row in about["reflection"].items():
        question = rows[name]["prompt"][-1]["content"]
        steps = [f"{number}. {line}" for number, line in enumerate(rows[name]["text"].splitlines())]
        assert row["prompt"] == [{"role": "user", "content": f"{question} " + "\n".join(steps)}]
        assert row["text"] == right_from_the_start(row["prompt"][0]["content"])
    for name, row in about["guided"].items():
        assert row["prompt"][-1]["content"] == f"{rows[name]['prompt'][-1]['content']}\n{report(0)}"
        twin = next(each for each in rows.values() if each["parent_id"] == name)
        assert row["token"]["id"] == twin["token"]["id"]
        assert row["prompt_ids"] == twin["behaviour_prompt_ids"] != twin["prompt_ids"]
    own = after.take(
        np.flatnonzero([name in set(before.strings("rollout_id")) for name in after.strings("rollout_id")])
    )
    for path in before.paths:
        assert own.arrow(path).equals(before.arrow(path)), path


def test_what_helped_keeps_its_reward_and_is_credited_as_a_group_of_one(
    retried: Retried, scripted: Callable[..., Any], tmp_path: Path
) -> None:
    scripted(right_from_the_start)
    retried(reflections="keep")
    score(tmp_path / "retried", out=tmp_path / "scored")
    for singleton, expected in (("raw", 1.0), ("zero", 0.0)):
        assign_credit(tmp_path / "scored", method="grpo", settings={"singleton": singleton}, out=tmp_path / singleton)
        credit = RolloutFile(tmp_path / singleton).read()
        learnt = np.flatnonzero(credit.flagged("reflection") | credit.flagged("guided"))
        assert len(learnt) > 12
        assert set(credit.take(learnt).numbers("reward")) == {1.0}
        assert set(credit.take(learnt).ragged("token.advantage").values) == {expected}
        assert credit.take(np.flatnonzero(credit.flagged("retried"))).numbers("reward").all()


def test_reflections_that_did_not_help_are_not_kept(retried: Retried, scripted: Callable[..., Any]) -> None:
    scripted(lambda text: "1+1=1000" if "trajectory" in text else right_from_the_start(text))
    after = retried(reflections="keep")
    assert after.flagged("retried").any()
    assert not after.flagged("guided").any()
    kept = after.take(np.flatnonzero(after.flagged("reflection")))
    assert {json.loads(text)["trajectory_outcome"] for text in kept.strings("text")} == {"success"}


def test_kept_reflections_need_rewards(
    stepped: Path, retried: Retried, scripted: Callable[..., Any], tmp_path: Path
) -> None:
    scripted(right_from_the_start)
    sample(prompts=1, n=1, max_tokens=8, device="cpu", out=tmp_path / "bare")
    score(tmp_path / "bare", scorer="steps", out=tmp_path / "steps")
    with pytest.raises(DataError, match=r"no column 'reward', which strategy 'retry' needs"):
        retried(tmp_path / "steps", reflections="keep")
    assert not retried(tmp_path / "steps").flagged("reflection").any()


def test_a_retry_from_the_first_step_begins_at_the_prompt(retried: Retried, scripted: Callable[..., Any]) -> None:
    scripted(lambda text: report(0, "success_but_inefficient") if "0. " in text and "trajectory" not in text else None)
    after = retried(parents="suffix")
    made = after.take(np.flatnonzero(after.flagged("retried")))
    assert len(made) == 12
    assert set(made.numbers("fork").tolist()) == {0}
    assert after.mask.all(), "nothing is shared"


def test_nothing_is_tried_beyond_the_budget(retried: Retried, scripted: Callable[..., Any]) -> None:
    scripted(from_second)
    after = retried(options={"max_tokens": 3})
    assert not after.flagged("retried").any()


def test_retries_are_not_retried(retried: Retried, scripted: Callable[..., Any], tmp_path: Path) -> None:
    opened = scripted(from_second)
    once = retried()
    score(tmp_path / "retried", scorer="steps", out=tmp_path / "again")
    twice = retried(tmp_path / "again", options={"seed": 5})
    assert len(opened[1].read) == 12
    assert twice.flagged("retried").sum() == 2 * once.flagged("retried").sum()


def test_the_same_seed_makes_the_same_rows_in_any_parts(retried: Retried, scripted: Callable[..., Any]) -> None:
    scripted(from_second)
    first = retried()
    assert first.table.equals(retried().table)
    parts = retried(rows_at_once=1)
    assert first.strings("rollout_id") == parts.strings("rollout_id")
    assert first.strings("text") == parts.strings("text")
    assert first.strings("text") != retried(options={"seed": 5}).strings("text")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (report(0), 0),
        (report(3), 3),
        (report(2, "success_but_inefficient"), 2),
        (f"I see. {report(1)} That is all", 1),
        (f"```json\n{report(1)}\n```", 1),
        (json.dumps(json.loads(report(1)) | {"trajectory_summary": {"a": "{{}", "b": ["}{"]}}), 1),
        (json.dumps(json.loads(report(1)) | {"trajectory_summary": "ü \ud83d\ude00 \ud800"}), 1),
        (report(2).replace('"c"', '"NaN, \\u007b"'), 2),
        (report(7, "success"), None),
        (json.dumps(BASE | {"trajectory_outcome": "success"}), None),
    ],
)
def test_sound_reflections(text: str, expected: int | None) -> None:
    found = reflection_of(text, steps=4)
    assert found is not None
    assert found.step == expected
    assert json.loads(found.text)["root_cause_analysis"] == "b"


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"retry_from_step": ' + "9" * 5_000 + "}",
        report(10**30),
        "no braces",
        "} {",
        "{not json}",
        "[1, 2]",
        f"{report(1)} and {{}}",
        "{" * 100_000 + "}" * 100_000,
        report(4),
        report(-1),
        report(1.0),
        report("1"),
        report(True),
        report(None),
        report(1, "unclear"),
        report(1, ""),
        json.dumps(BASE),
        json.dumps(BASE | {"retry_from_step": 1}),
        json.dumps(BASE | {"improvement_suggestion": "c"}),
        json.dumps({"trajectory_outcome": "success"}),
        json.dumps({**BASE, "trajectory_outcome": ["success"]}),
    ],
)
def test_reflections_that_do_not_count(text: str) -> None:
    assert reflection_of(text, steps=4) is None


def test_what_is_needed(retried: Retried, scripted: Callable[..., Any], tmp_path: Path) -> None:
    scripted(from_second)
    with pytest.raises(UsageError, match="strategy retry: reflection_tokens must be at least 1, got 0"):
        retried(reflection_tokens=0)
    with pytest.raises(UsageError, match=r"strategy retry: guidance must have \{reflection\} in it"):
        retried(guidance="{question}")
    sample(prompts=1, n=1, max_tokens=8, device="cpu", out=tmp_path / "bare")
    with pytest.raises(DataError, match="score IN --with steps"):
        retried(tmp_path / "bare")


def test_parents_lose_the_mask_of_what_they_share_unless_they_are_kept(
    retried: Retried, scripted: Callable[..., Any], stepped: Path, tmp_path: Path
) -> None:
    scripted(from_second)
    sample(
        strategy="retry", rollouts=stepped, settings=SHORT, seed=4, max_tokens=40, device="cpu", engine="scripted",
        out=tmp_path / "default",
    )  # fmt: skip
    default = RolloutFile(tmp_path / "default").read()
    suffix, keep = (retried(parents=each, reflections="keep") for each in ("suffix", "keep"))
    assert (
        default.token_ids.with_values(default.mask)
        .to_arrow()
        .equals(suffix.token_ids.with_values(suffix.mask).to_arrow())
    )
    assert suffix.mask.sum() < keep.mask.sum()


class FailingTries(ScriptedEngine):
    """Every other second try fails."""

    can_fail = True

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, on_progress: Callable[[int], None] | None = None
    ) -> list[list[Completion]]:
        failed = Completion(np.empty(0, np.int32), np.empty(0, np.float32), "error", error="the server is busy")
        tries = ["trajectory" in self._policy.tokenizer.decode(list(request.prefix_ids)) for request in requests]
        return [
            [failed if is_try and seed % 2 else each for seed, each in zip(request.seeds, made, strict=True)]
            for is_try, request, made in zip(tries, requests, super().generate(requests, sampling), strict=True)
        ]


def test_a_parent_whose_second_try_failed_keeps_its_mask(retried: Retried) -> None:
    engine("failing")(lambda source, seed: FailingTries(source, from_second))
    try:
        after = retried(options={"engine": "failing"}, parents="suffix")
    finally:
        ENGINES.remove("failing")
    rows = {row["rollout_id"]: row for row in after.table.to_pylist()}
    masked = {True: 0, False: 0}
    for row in rows.values():
        if "retried" in row["flags"]:
            failed = "error" in row["flags"]
            assert all(rows[row["parent_id"]]["token"]["mask"]) == failed
            masked[failed] += 1
    assert masked[True] > 0 < masked[False]


def test_every_rollout_needs_a_reward_before_anything_is_asked(
    stepped: Path, retried: Retried, scripted: Callable[..., Any], tmp_path: Path
) -> None:
    opened = scripted(lambda text: "nothing sound" if "0. " in text else None)
    batch = RolloutFile(stepped).read()
    reward = [None if row == 7 else each for row, each in enumerate(batch.numbers("reward"))]
    write_rollouts(tmp_path / "torn", [batch.with_columns({"reward": reward})], Provenance())
    with pytest.raises(DataError, match=f"rollout '{batch.strings('rollout_id')[7]}', column 'reward': missing"):
        retried(tmp_path / "torn", reflections="keep")
    assert opened[0].read == []
    assert len(retried(tmp_path / "torn")) == 12


def test_the_same_retries_are_not_made_twice(retried: Retried, scripted: Callable[..., Any], tmp_path: Path) -> None:
    scripted(from_second)
    once = retried()
    (tmp_path / "retried").rename(tmp_path / "once")
    name = once.strings("rollout_id")[int(np.flatnonzero(once.flagged("retried"))[0])]
    with pytest.raises(DataError, match=f"rollout '{name}' already exists: .* choose another --seed or --round"):
        retried(tmp_path / "once")


def test_rows_of_two_tasks_are_refused(
    retried: Retried, scripted: Callable[..., Any], stepped: Path, tmp_path: Path
) -> None:
    """Whose verifier would have said what helped?"""
    scripted(from_second)
    batch = RolloutFile(stepped).read()
    for columns, message in (
        ({"task": ["arithmetic"] * 4 + ["other"] * 8}, "rows of two tasks, arithmetic .* and other"),
        (
            {"task_options": ["{}"] * 4 + ['{"terms": 2}'] * 8},
            'rows of two tasks, arithmetic {} and arithmetic {"terms": 2}',
        ),
    ):
        write_rollouts(tmp_path / "two", [batch.with_columns(columns)], Provenance(), force=True)
        with pytest.raises(DataError, match=message):
            retried(tmp_path / "two")
