"""Critiques that the task writes: that they are what other strategies ask for, in their form, and true."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.formats.parquet import RolloutFile
from apportion.formats.rollouts import Rollouts
from apportion.stages.models.policy import load_tokenizer
from apportion.stages.sample import sample
from apportion.stages.sample.revise._edits import edit_of
from apportion.stages.sample.revise._interventions import intervention_of
from apportion.stages.sample.revise.refine import verdict_of
from apportion.stages.sample.revise.retry import reflection_of
from apportion.stages.score import score
from apportion.stages.train import train
from typer.testing import Result

Row = dict[str, Any]
Criticised = Callable[..., Rollouts]
TEMPLATES: dict[str, dict[str, Any]] = {
    "reflection": {"reflector": "LOOK {question}\n{steps}", "guidance": "{question}\nAGAIN {reflection}"},
    "verdict": {"refiner": "JUDGE {question}\n{steps}"},
    "intervention": {"solver": "{question} SOLVE {solution}", "critic": "CHECK {attempt}", "separator": "\n"},
    "edit": {"editor": "EDIT {question} {before}: {step} ({instruction})", "max_edit_ratio": 1.0},
}
ASKERS: dict[str, tuple[str, dict[str, Any]]] = {
    "reflection": ("retry", {"reflection_tokens": 8}),
    "verdict": ("refine", {"refiner_tokens": 8}),
    "intervention": ("intervene", {"critic_tokens": 8, "proposals": 1, "k": 1, "solution_from": "demonstration"}),
    "edit": ("inject_errors", {"editor_tokens": 8, "need_wrong": False}),
}  # fmt: skip


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight groups of six, scored and split into steps."""
    folder = tmp_path_factory.mktemp("critique")
    sample(prompts=8, n=6, seed=3, max_tokens=40, device="cpu", out=folder / "rollouts")
    score(folder / "rollouts", out=folder / "scored")
    score(folder / "scored", scorer="steps", out=folder / "stepped")
    return folder / "stepped"


@pytest.fixture
def criticised(stepped: Path, tmp_path: Path) -> Criticised:
    def run(of: str, rollouts: Path = stepped, options: dict[str, Any] | None = None, **settings: Any) -> Rollouts:
        sample(
            **{"strategy": "critique", "rollouts": rollouts, "settings": {"of": of} | TEMPLATES[of] | settings}
            | {"seed": 4, "out": tmp_path / of, "force": True}
            | (options or {})
        )
        return RolloutFile(tmp_path / of).read()

    return run


def lessons(rollouts: Rollouts) -> list[Row]:
    return [row for row in rollouts.table.to_pylist() if row["flags"] == ["demonstration"]]


def about(row: Row) -> str:
    """The rollout that a lesson is about."""
    return re.sub(r"/(reflection|guided|verdict|solution|intervention|edit/\d+)@\w+$", "", row["rollout_id"])


def worked(expression: str) -> list[str]:
    """The right lines, made with Python's own arithmetic from the left to the right of the expression's products."""
    terms = re.findall(r"[+-]\d+\*\d+", expression)
    done = expression[: len(expression) - sum(map(len, terms))]
    lines: list[str] = []
    for term in terms:
        before, done = eval(done), done + term
        lines.append(f"{before}{term[0]}{eval(term[1:])}={eval(done)}")
    return lines


def first_wrong(expression: str, lines: list[str]) -> int | None:
    """Where lines leave the right ones; None where they are the right ones or end before."""
    right = worked(expression)
    return next((place for place, line in enumerate(lines) if line not in right[place : place + 1]), None)


def of_rollouts(path: Path) -> dict[str, Row]:
    return {row["rollout_id"]: row for row in RolloutFile(path).read().table.to_pylist()}


def question_in(row: Row) -> str:
    """The problem of a rollout."""
    return row["prompt"][-1]["content"]


@pytest.mark.parametrize("of", TEMPLATES)
def test_rollouts_stay_and_lessons_stand_behind_their_groups(
    of: str, stepped: Path, criticised: Criticised, tmp_path: Path, cli: Callable[..., Result]
) -> None:
    before, after = RolloutFile(stepped).read(), criticised(of)
    assert cli("validate", tmp_path / of).exit_code == 0
    made = lessons(after)
    assert made
    own = after.take(np.flatnonzero(~after.flagged("demonstration")))
    for path in before.paths:
        assert own.arrow(path).equals(before.arrow(path)), path
    groups = dict(zip(before.strings("rollout_id"), before.strings("group_id"), strict=True))
    behind = ""
    for row in after.table.to_pylist():
        if row["flags"] != ["demonstration"]:
            behind = row["group_id"]
            continue
        assert groups[about(row)] == behind
        assert row["group_id"] == row["problem_id"] == row["rollout_id"]
        assert (row["purpose"], row["reward"], row["policy"], row["seed"]) == ("train", None, None, None)
        assert (row["token"]["logprob"], row["token"]["mask"]) == (None, [True] * len(row["token"]["id"]))
    tokenizer = load_tokenizer("builtin:tiny")
    for row in made:
        assert row["token"]["id"][-1] == tokenizer.eos_token_id
        assert tokenizer.decode(row["token"]["id"], skip_special_tokens=True) == row["text"]


def test_a_policy_learns_from_them(criticised: Criticised, tmp_path: Path, cli: Callable[..., Result]) -> None:
    criticised("verdict")
    cli("filter", tmp_path / "verdict", "--drop", "--where", "'demonstration' in flags", "-o", tmp_path / "lessons")
    trained = train(tmp_path / "lessons", objective="sft", lr=1e-3, epochs=2, device="cpu", out=tmp_path / "policy")
    losses = [json.loads(line)["loss"] for line in (tmp_path / "policy/metrics.jsonl").read_text().splitlines()]
    assert trained.rollouts == RolloutFile(tmp_path / "lessons").num_rows
    assert losses[1] < losses[0]


@pytest.mark.parametrize("of", TEMPLATES)
def test_questions_are_those_that_the_strategy_asks(
    of: str, stepped: Path, criticised: Criticised, scripted: Callable[..., Any], tmp_path: Path
) -> None:
    """The strategy is run with an engine that answers as the critique does; every question it has an answer to is there,
    token by token, and what it makes of the answers is sound."""
    answers = {tuple(row["prompt_ids"]): row["text"] for row in lessons(criticised(of))}
    name, settings = ASKERS[of]
    tokenizer = load_tokenizer("builtin:tiny")
    by_text = {tokenizer.decode(list(ids), skip_special_tokens=True): text for ids, text in answers.items()}
    assert len(by_text) == len(answers)
    opened = scripted(by_text.get)
    sample(
        strategy=name, rollouts=stepped, settings=TEMPLATES[of] | settings, seed=4, max_tokens=60, device="cpu",
        engine="scripted", out=tmp_path / "asked",
    )  # fmt: skip
    made = RolloutFile(tmp_path / "asked").read()
    guided = {ids for ids, text in answers.items() if of == "reflection" and "{" not in text}
    assert set(opened[0].read) <= set(by_text)
    assert {tokenizer.decode(ids, skip_special_tokens=True) for ids in answers.keys() - guided} <= set(opened[0].read)
    if guided:  # behind them stand the steps that are kept
        assert guided == {tuple(ids) for ids in made.arrow("behaviour_prompt_ids").to_pylist() if ids}
    flag = {"reflection": "retried", "verdict": "refined", "intervention": "intervention", "edit": "edited"}[of]
    assert made.flagged(flag).any()


def test_reflections_name_the_first_wrong_step(stepped: Path, criticised: Criticised) -> None:
    rollouts, seen = of_rollouts(stepped), dict.fromkeys(("success", "failure"), 0)
    made = lessons(criticised("reflection"))
    for row in made:
        rollout = rollouts[about(row)]
        lines, problem = rollout["text"].splitlines(), question_in(rollout)
        wrong = first_wrong(problem, lines)
        if "/guided@" in row["rollout_id"]:
            assert row["text"].splitlines() == worked(problem)
            continue
        assert question_in(row) == f"LOOK {problem}\n" + "\n".join(f"{k}. {line}" for k, line in enumerate(lines))
        found = reflection_of(row["text"], len(lines))
        assert found is not None
        assert found.step == wrong
        said = json.loads(found.text)
        seen[said["trajectory_outcome"]] += 1
        assert (said["trajectory_outcome"] == "success") == (rollout["reward"] == 1.0) == (wrong is None)
        if wrong is not None and wrong < 3:
            assert said["improvement_suggestion"] == f"write {worked(problem)[wrong]}"
    assert all(seen.values())
    guided = {about(row): row for row in made if "/guided@" in row["rollout_id"]}
    told = {about(row): row for row in made if "/reflection@" in row["rollout_id"]}
    assert guided
    for name, row in guided.items():
        assert question_in(row) == f"{question_in(rollouts[name])}\nAGAIN {told[name]['text']}"


def test_every_rollout_that_can_be_told_of_has_a_verdict(stepped: Path, criticised: Criticised) -> None:
    rollouts, made = of_rollouts(stepped), {about(row): row for row in lessons(criticised("verdict"))}
    for name, rollout in rollouts.items():
        lines = rollout["text"].splitlines()
        wrong = first_wrong(question_in(rollout), lines)
        if wrong is None and not rollout["reward"]:  # right as far as it goes
            assert name not in made
            continue
        found = verdict_of([made[name]["text"]], len(lines))
        assert found.cut == wrong
        assert (found.accept == 1.0) == (rollout["reward"] == 1.0)


def test_interventions_put_the_right_line_in_place_and_keep_the_answer_back(
    stepped: Path, criticised: Criticised
) -> None:
    rollouts = of_rollouts(stepped)
    made = lessons(criticised("intervention"))
    kinds = {"whole": 0, "cut": 0}
    for row in made:
        rollout = rollouts[about(row)]
        problem, right = question_in(rollout), worked(question_in(rollout))
        if "/solution@" in row["rollout_id"]:
            assert row["text"].splitlines() == right
            assert question_in(row) == f"{problem} SOLVE " + "\n".join(right)
            continue
        assert rollout["reward"] == 0.0
        found = intervention_of(row["text"])
        assert found is not None
        assert found.location - 1 == first_wrong(problem, rollout["text"].splitlines())
        expected, answer = right[found.location - 1], rollout["reference"]
        assert answer not in found.content
        kinds["whole" if found.content == expected else "cut"] += 1
        assert found.content in (expected, expected.removesuffix(answer))
    assert all(kinds.values())


def test_edits_are_wrong_where_what_they_stand_for_is_right(stepped: Path, criticised: Criticised) -> None:
    rollouts, made = of_rollouts(stepped), lessons(criticised("edit"))
    for row in made:
        rollout = rollouts[about(row)]
        assert rollout["reward"] == 1.0
        place = int(row["rollout_id"].rpartition("@")[0].rpartition("/")[2])
        right, edit = worked(question_in(rollout)), edit_of("```\n" + row["text"])
        before = "".join(line + "\n" for line in right[:place])
        assert f" {before}: {right[place]} (" in question_in(row)
        assert edit is not None
        left, result = edit.split("=")
        assert edit != right[place]
        assert eval(left) == int(result), "each line by itself is right"
        assert eval(left.replace("-", "+").split("+")[0]) == eval(right[place].replace("-", "+").split("+")[0])
    assert {row["rollout_id"].rpartition("@")[0].rpartition("/")[2] for row in made} == {"0", "1", "2"}


def test_mistakes_too_far_from_the_step_are_not_written(criticised: Criticised) -> None:
    every, near = lessons(criticised("edit")), lessons(criticised("edit", max_edit_ratio=0.43))
    assert 0 < len(near) < len(every)
    assert {row["rollout_id"] for row in near} < {row["rollout_id"] for row in every}


def test_the_same_rows_in_any_parts(criticised: Criticised) -> None:
    for of in TEMPLATES:
        first = criticised(of)
        assert first.table.equals(criticised(of, rows_at_once=1).table), of


@pytest.mark.parametrize(
    ("of", "settings", "message"),
    [
        ("verdict", {"reflector": "{steps}"}, "strategy critique: reflector has no effect with of=verdict"),
        ("reflection", {"guidance": "again"}, r"strategy critique: guidance must have \{reflection\} in it"),
        ("intervention", {"separator": ""}, "strategy critique: separator must not be empty"),
        ("edit", {"max_edit_ratio": 2.0}, "strategy critique: max_edit_ratio must be between 0 and 1, got 2"),
        ("edit", {"header": "("}, r"strategy critique: header must be a regular expression, got '\('"),
    ],
)
def test_wrong_options(criticised: Criticised, of: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        criticised(of, **settings)


def test_what_is_needed(criticised: Criticised, tmp_path: Path) -> None:
    sample(prompts=1, n=1, max_tokens=8, device="cpu", out=tmp_path / "bare")
    with pytest.raises(DataError, match="no column 'reward'"):
        criticised("intervention", tmp_path / "bare")
    score(tmp_path / "bare", out=tmp_path / "scored")
    with pytest.raises(DataError, match="score IN --with steps"):
        criticised("verdict", tmp_path / "scored")


def test_a_task_that_cannot_tell_steps(criticised: Criticised, tmp_path: Path) -> None:
    (tmp_path / "problems.jsonl").write_text('{"question": "1+1", "answer": "2"}\n')
    sample(task=str(tmp_path / "problems.jsonl"), prompts=1, n=1, max_tokens=8, device="cpu", out=tmp_path / "other")
    with pytest.raises(UsageError, match=r"problems\.jsonl' cannot tell right steps from wrong ones, which strategy"):
        criticised("verdict", tmp_path / "other")


def test_lessons_are_not_criticised(criticised: Criticised, tmp_path: Path) -> None:
    """Nor are their questions problems that the task would have solutions of."""
    first = criticised("verdict")
    (tmp_path / "verdict").rename(tmp_path / "first")
    both = criticised("reflection", tmp_path / "first")
    alone = criticised("reflection")
    names = [row["rollout_id"] for row in lessons(first)]
    assert sorted(row["rollout_id"] for row in lessons(both)) == sorted(
        names + [row["rollout_id"] for row in lessons(alone)]
    )
    with pytest.raises(DataError, match="already exists: a run with the same policy, --seed and --round made it"):
        criticised("verdict", tmp_path / "first")
