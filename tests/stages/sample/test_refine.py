"""Search-R2's sampling: what is accepted, what is cut, and what comes in its place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.formats.invariants import broken_invariants
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit import assign_credit
from apportion.stages.sample import sample
from apportion.stages.sample.revise.refine import Verdict, verdict_of
from apportion.stages.score import score

from .conftest import check_branches, check_logprobs

Refined = Callable[..., Rollouts]


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three groups of four, scored and split into steps."""
    folder = tmp_path_factory.mktemp("refine")
    sample(prompts=3, n=4, seed=3, max_tokens=40, device="cpu", out=folder / "rollouts")
    score(folder / "rollouts", out=folder / "scored")
    score(folder / "scored", scorer="steps", out=folder / "stepped")
    return folder / "stepped"


@pytest.fixture
def refined(stepped: Path, tmp_path: Path) -> Refined:
    def run(rollouts: Path = stepped, options: dict[str, Any] | None = None, **settings: Any) -> Rollouts:
        sample(
            **{"strategy": "refine", "rollouts": rollouts, "settings": settings, "seed": 4, "max_tokens": 40}
            | {"device": "cpu", "out": tmp_path / "refined", "force": True}
            | (options or {})
        )
        return RolloutFile(tmp_path / "refined").read()

    return run


def solution(text: str) -> str | None:
    """The numbered steps in what a refiner reads."""
    if "its steps numbered:\n" not in text:
        return None
    return text.partition("its steps numbered:\n")[2].partition("\n\n")[0]


def cut_third(text: str) -> str | None:
    """Cuts before the third step of solutions that have four or more."""
    steps = solution(text)
    if steps is None:
        return None
    return "The third adds. CUT 3" if "\n4. " in steps else "ACCEPT"


def test_a_policy_that_answers_neither_accepts_all(stepped: Path, refined: Refined) -> None:
    before, after = RolloutFile(stepped).read(), refined(refiner_tokens=8)
    assert after.strings("rollout_id") == before.strings("rollout_id")
    assert after.flagged("accepted").all()
    assert after.numbers("accept_probability").tolist() == [1.0] * 12
    assert after.strings("cut_step") == [None] * 12
    assert set(after.strings("purpose")) == {"train"}
    for path in before.paths:
        if path != "flags":
            assert after.arrow(path).equals(before.arrow(path)), path


def test_a_rollout_is_cut_before_the_step_named_and_written_on(
    stepped: Path, refined: Refined, scripted: Callable[..., Any]
) -> None:
    opened = scripted(cut_third)
    before, after = RolloutFile(stepped).read(), refined(options={"engine": "scripted"})
    assert list(broken_invariants(after)) == []
    check_branches(after)
    check_logprobs(after)
    assert len(opened[0].read) == len(before), "every rollout is judged"
    steps = dict(zip(before.strings("rollout_id"), before.ragged("step.start").segments.sizes, strict=True))
    rows = after.table.to_pylist()
    names = {row["rollout_id"]: row for row in rows}
    made = [row for row in rows if "refined" in row["flags"]]
    assert 0 < len(made) < len(before)
    assert {row["parent_id"] for row in made} == {name for name, size in steps.items() if size >= 4}
    for row in made:
        parent = names[row["parent_id"]]
        assert row["group_id"] == parent["group_id"]
        assert row["fork"] == parent["step"]["start"][2]
        assert row["text"].splitlines()[:2] == parent["text"].splitlines()[:2]
        assert (parent["purpose"], row["purpose"]) == ("probe", "train")
        assert (parent["accept_probability"], parent["cut_step"]) == (0.0, 2)
        assert (row["accept_probability"], row["cut_step"], row["reward"]) == (None, None, None)
        assert all(row["token"]["mask"])
        assert row["step"]["start"] is None
    for name, size in steps.items():
        if size < 4:
            assert names[name]["flags"] == ["accepted"]
            assert names[name]["purpose"] == "train"
    assert [row["text"] for row in made] != [names[row["parent_id"]]["text"] for row in made]


def test_the_refiner_reads_the_question_and_numbered_steps(
    stepped: Path, refined: Refined, scripted: Callable[..., Any]
) -> None:
    opened = scripted(cut_third)
    refined(options={"engine": "scripted"})
    first = RolloutFile(stepped).read().table.to_pylist()[0]
    lines = [f"{number}. {line}" for number, line in enumerate(first["text"].splitlines(), 1)]
    assert "Question:\n" + first["prompt"][-1]["content"] + "\n" in opened[0].read[0]
    assert solution(opened[0].read[0]) == "\n".join(lines)


def test_groups_keep_their_size_for_credit(refined: Refined, scripted: Callable[..., Any], tmp_path: Path) -> None:
    scripted(cut_third)
    refined(options={"engine": "scripted"})
    score(tmp_path / "refined", out=tmp_path / "scored")
    assign_credit(tmp_path / "scored", method="grpo", out=tmp_path / "credit")
    after = RolloutFile(tmp_path / "credit").read()
    trained = np.array(after.strings("purpose")) == "train"
    assert after.groups.sum(trained).tolist() == [4, 4, 4]
    advantage = after.arrow("token.advantage")
    assert [each.as_py() is None for each in advantage] == (~trained).tolist()


def test_a_second_revision_looks_at_new_rows_only(
    refined: Refined, scripted: Callable[..., Any], tmp_path: Path
) -> None:
    opened = scripted(cut_third)
    once = refined(options={"engine": "scripted"})
    score(tmp_path / "refined", scorer="steps", out=tmp_path / "again")
    refined(tmp_path / "again", options={"engine": "scripted", "seed": 5})
    assert len(opened[1].read) == int(once.flagged("refined").sum())


def test_parents_may_stay_and_nothing_can_follow_beyond_the_budget(
    stepped: Path, refined: Refined, scripted: Callable[..., Any]
) -> None:
    scripted(cut_third)
    kept = refined(replaced="keep", options={"engine": "scripted"})
    assert set(kept.strings("purpose")) == {"train"}
    assert kept.flagged("refined").any()
    short = refined(options={"engine": "scripted", "max_tokens": 10})
    assert len(short) == len(RolloutFile(stepped).read())
    assert set(short.strings("purpose")) == {"train"}


def test_the_refiner_is_asked_in_other_words(refined: Refined, scripted: Callable[..., Any], stepped: Path) -> None:
    opened = scripted(lambda text: "CUT 1" if text.startswith("Check") else None)
    refined(refiner="Check {question}: {steps} {other}", options={"engine": "scripted"})
    rows = RolloutFile(stepped).read().table.to_pylist()
    assert opened[0].read == [
        f"Check {row['prompt'][-1]['content']}: "
        + "\n".join(f"{number}. {line}" for number, line in enumerate(row["text"].splitlines(), 1))
        + " {other}"
        for row in rows
    ]
    with pytest.raises(UsageError, match=r"strategy refine: refiner must have \{steps\} in it"):
        refined(refiner="Check")


def test_a_cut_before_the_first_step_begins_at_the_prompt(refined: Refined, scripted: Callable[..., Any]) -> None:
    scripted(lambda text: "CUT 1" if solution(text) else None)
    after = refined(options={"engine": "scripted"})
    made = after.take(np.flatnonzero(after.flagged("refined")))
    assert len(made) == 12
    assert set(made.table.column("fork").to_pylist()) == {0}
    check_branches(after)
    check_logprobs(after)


def test_the_same_seed_makes_the_same_rows(refined: Refined, scripted: Callable[..., Any]) -> None:
    scripted(cut_third)
    first = refined(options={"engine": "scripted"})
    assert first.table.equals(refined(options={"engine": "scripted"}).table)
    other = refined(options={"engine": "scripted", "seed": 5})
    assert first.strings("text") != other.strings("text")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["ACCEPT"], Verdict(1.0, None)),
        (["CUT 2"], Verdict(0.0, 1)),
        (["I would cut at step number 3."], Verdict(0.0, 2)),
        (["Accept? No: **CUT: 1**"], Verdict(0.0, 0)),
        (["CUT 1? No, ACCEPT"], Verdict(1.0, None)),
        (["CUT 0"], Verdict(0.0, 0)),
        (["CUT 17"], Verdict(0.0, 3)),
        (["cut it short"], Verdict(1.0, None)),
        ([""], Verdict(1.0, None)),
        (["ACCEPT", "CUT 3", "CUT 2"], Verdict(1 / 3, 2)),
        (["ACCEPT", "CUT 3", "what"], Verdict(2 / 3, None)),
    ],
)
def test_verdicts(answers: list[str], expected: Verdict) -> None:
    found = verdict_of(answers, 4)
    assert found == (pytest.approx(expected.accept), expected.cut)


def test_a_response_without_steps_is_accepted_and_tau_is_inclusive() -> None:
    assert verdict_of(["CUT 1"], 0).cut is None
    assert verdict_of(["CUT 1", "ACCEPT"], 3, 0.5).cut is None
    assert verdict_of(["CUT 1", "ACCEPT"], 3, 0.6).cut == 0
    assert verdict_of(["CUT 1"], 3, 0.0).cut is None


def test_what_is_needed(refined: Refined, stepped: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"strategy refine: threshold must be between 0 and 1, got 2"):
        refined(threshold=2.0)
    with pytest.raises(UsageError, match="strategy refine: votes must be at least 1, got 0"):
        refined(votes=0)
    for temperature, needed in ((-1.0, "at least 0"), (float("nan"), "a number")):
        with pytest.raises(UsageError, match=f"refiner_temperature must be {needed}, got {temperature:g}"):
            refined(refiner_temperature=temperature)
    sample(prompts=1, n=1, max_tokens=8, device="cpu", out=tmp_path / "bare")
    with pytest.raises(DataError, match=r"step\.start"):
        refined(tmp_path / "bare")


@pytest.mark.parametrize("flag", ["filtered", "error", "retried", "guided", "intervention", "partial", "demonstration"])
def test_what_the_policy_did_not_write_from_the_prompt_alone_is_not_looked_at(
    refined: Refined, scripted: Callable[..., Any], stepped: Path, tmp_path: Path, flag: str
) -> None:
    """Nor is it refused: its mask may be false on a part of it."""
    opened = scripted(lambda text: "CUT 1" if solution(text) is not None else None)
    batch = RolloutFile(stepped).read()
    mask = batch.mask.copy()
    mask[: len(batch.token_ids[0]) // 2] = False
    batch = batch.with_columns({"token.mask": batch.token_ids.with_values(mask)})
    write_rollouts(tmp_path / "flagged", [batch.with_flag(flag, np.arange(12) == 0)], Provenance())
    after = refined(tmp_path / "flagged", options={"engine": "scripted"})
    assert len(opened[0].read) == 11
    name = batch.strings("rollout_id")[0]
    assert name not in after.strings("parent_id")
    (row,) = (each for each in after.table.to_pylist() if each["rollout_id"] == name)
    assert (row["purpose"], row["accept_probability"], row["flags"]) == ("train", None, [flag])
