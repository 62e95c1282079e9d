"""Process supervision in both directions: steps that somebody labelled."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from typer.testing import Result

from .conftest import exported, imported, on_one_line, read_lines, write_lines

Cli = Callable[..., Result]

STEPWISE = [
    {"prompt": "Which is larger, 9.8 or 9.11?", "completions": ["11 is more than 8.\n", "So 9.11 > 9.8."], "labels": [True, False]},
    {"prompt": "Which is larger, 9.8 or 9.11?", "completions": ["11 is more than 8.\n", "\nBut 0.8 > 0.11."], "labels": [True, True]},
]  # fmt: skip
SHEPHERD = [
    {
        "input": "Two apples cost $3. Four? Step 1: One costs 3/2. ки\nStep 2: Four cost 6.\nThe answer is: 6 ки",
        "label": "Two apples cost $3. Four? Step 1: One costs 3/2. +\nStep 2: Four cost 6.\nThe answer is: 6 -",
        "task": "GSM8K",
    },
    {
        "input": "Two apples cost $3. Four? Step 1: One costs 3. ки",
        "label": "Two apples cost $3. Four? Step 1: One costs 3. -",
        "task": "GSM8K",
    },
]
BENCH = [
    {"id": f"gsm8k-{row}", "generator": "Qwen2-7B-Instruct", "problem": "1+1+1?", "steps": ["1+1 = 2", last, "So it is"],
     "final_answer_correct": right, "label": label}
    for row, (last, right, label) in enumerate((("2+1 = 3", True, -1), ("2+1 = 4", False, 1), ("2+1 is 3", True, 2)))
]  # fmt: skip


def rated(*texts: tuple[str, int | None]) -> list[dict[str, Any]]:
    return [{"text": text, "rating": rating, "flagged": None} for text, rating in texts]


def prm800k(**label: Any) -> dict[str, Any]:
    """A solution with a wrong turn at each step, and a step that the labeler wrote."""
    steps = [
        {"completions": rated(("Add.", 1), ("Multiply.", -1)), "human_completion": None, "chosen_completion": 0},
        {
            "completions": rated(("Bad.", -1), ("Odd.", -1)), "chosen_completion": None,
            "human_completion": {"text": "1+1 is the question.", "rating": None, "source": "human"},
        },
        {
            "completions": rated(("2.\n\n# Answer\n\n2", 1), ("3.\n\n# Answer\n\n3", -1)), "human_completion": None,
            "chosen_completion": 0,
        },
    ]  # fmt: skip
    return {
        "labeler": "l", "timestamp": "t", "generation": None, "is_quality_control_question": False,
        "question": {"problem": "1+1?", "ground_truth_answer": "2"},
        "label": {"steps": steps, "total_time": 1, "finish_reason": "solution", **label},
    }  # fmt: skip


def steps_of(batch: Rollouts, row: int) -> list[str]:
    said = "".join(map(chr, batch.token_ids[row].tolist()))
    spans = zip(batch.arrow("step.start")[row].as_py(), batch.arrow("step.end")[row].as_py(), strict=True)
    return [said[start:end] for start, end in spans]


@pytest.mark.parametrize(
    ("records", "method", "shown"),
    [
        (STEPWISE, ("mapo",), "So 9.11 > 9.8."),
        (SHEPHERD, ("mapo",), "The answer is: 6"),
        (BENCH, ("rloo",), "2+1 = 4"),
        ([prm800k()], ("tempo",), "1+1 is the question."),
    ],
    ids=["stepwise", "math_shepherd", "processbench", "prm800k"],
)
def test_labelled_steps_make_a_tree_get_credit_and_are_shown(
    records: list[Any], method: tuple[str, ...], shown: str, cli: Cli, tmp_path: Path
) -> None:
    source = imported(cli, tmp_path / "labels.jsonl", records)
    assert RolloutFile(source).provenance.facts["tokens_exact"] is False
    tree, credit = tmp_path / "tree.parquet", tmp_path / "credit.parquet"
    assert cli("tree-build", source, "--by", "step", "-o", tree).exit_code == 0
    done = cli("assign-credit", tree, "--method", *method, "-o", credit)
    assert done.exit_code == 0, done.stderr
    assert cli("validate", credit, "--ignore", "singleton").exit_code == 0
    assert RolloutFile(credit).read().ragged("token.advantage").values.any()
    page = cli("inspect", credit)
    assert page.exit_code == 0
    assert shown in page.stdout


# Stepwise supervision


def test_each_completion_is_a_step_with_its_label_as_reward(cli: Cli, tmp_path: Path) -> None:
    batch = RolloutFile(imported(cli, tmp_path / "steps.jsonl", STEPWISE)).read()
    assert steps_of(batch, 0) == ["11 is more than 8.\n", "\nSo 9.11 > 9.8."]
    assert batch.arrow("step.reward").to_pylist() == [[1.0, 0.0], [1.0, 1.0]]
    assert batch.groups.sizes.tolist() == [2]
    assert batch.strings("text")[1] == "11 is more than 8.\n\n\nBut 0.8 > 0.11."


@pytest.mark.parametrize("separator", ["\n", "", " | "])
def test_steps_come_back_as_they_were(separator: str, cli: Cli, tmp_path: Path) -> None:
    source = imported(cli, tmp_path / "steps.jsonl", STEPWISE, "--set", f"separator={json.dumps(separator)}")
    back = exported(cli, source, "stepwise", by="step.reward", separator=json.dumps(separator))
    assert back == STEPWISE


def test_soft_labels_are_numbers(cli: Cli, tmp_path: Path) -> None:
    rows = [STEPWISE[0] | {"labels": [0.25, 1]}]
    source = imported(cli, tmp_path / "steps.jsonl", rows)
    assert exported(cli, source, "stepwise", by="step.reward", soft="true") == rows
    assert exported(cli, source, "stepwise", by="step.reward", threshold=0.25)[0]["labels"] == [True, True]


def with_values(
    source: Path, out: Path, values: list[list[float]], probes: list[list[int]] | None, reward: list[Any]
) -> None:
    """Write a file again with values of the states before its steps."""
    file = RolloutFile(source)
    batch = file.read()
    columns: dict[str, Any] = {"step.value": Ragged.from_lists(values, np.float64), "reward": reward}
    if probes is not None:
        columns["step.probes"] = Ragged.from_lists(probes, np.int32)
    write_rollouts(out, [batch.with_columns(columns)], file.provenance)


def test_a_steps_label_is_the_value_of_the_state_after_it(cli: Cli, tmp_path: Path) -> None:
    source, out = imported(cli, tmp_path / "steps.jsonl", STEPWISE), tmp_path / "values.parquet"
    with_values(source, out, [[0.75, 0.25], [0.75, 0.5]], [[8, 4], [8, 2]], [0.0, 1.0])
    soft = exported(cli, out, "stepwise", soft="true")
    assert [(each["labels"], each["probes"]) for each in soft] == [([0.25, 0.0], [4, 1]), ([0.5, 1.0], [2, 1])]
    assert [each["labels"] for each in exported(cli, out, "stepwise")] == [[False, False], [True, True]]
    assert exported(cli, out, "math_shepherd", threshold=0.01)[0]["label"].count("+") == 1
    with_values(source, tmp_path / "unscored.parquet", [[0.75, 0.25], [0.75, 0.5]], None, [None, 1.0])
    (row,) = exported(cli, tmp_path / "unscored.parquet", "stepwise")
    assert "probes" not in row


def test_values_that_probes_give_can_be_written(cli: Cli, chain: Path, tmp_path: Path) -> None:
    steps, vine, scored, values = (tmp_path / f"{name}.parquet" for name in ("steps", "vine", "scored", "values"))
    for line in (
        f"score {chain}/rollouts.parquet --with steps --set by=regex --set pattern=(?==) -o {steps}",
        f"sample --from {steps} --strategy vine --set k=2 --max-tokens 16 --seed 1 --device cpu -o {vine}",
        f"score {vine} -o {scored}",
        f"score {scored} --with values -o {values}",
    ):
        done = cli(*line.split())
        assert done.exit_code == 0, (line, done.stderr)
    out = tmp_path / "labels.jsonl"
    done = cli("export", values, "--format", "stepwise", "--set", "soft=true", "-o", out)
    assert done.exit_code == 0, done.stderr
    assert "rows not to train on" in on_one_line(done.stderr), "the probes"
    batch = RolloutFile(values).read()
    own = np.flatnonzero(batch.for_training).tolist()
    rows = read_lines(out)
    assert len(rows) == len(own)
    expected = [[*batch.ragged("step.value")[row].tolist()[1:], batch.numbers("reward")[row]] for row in own]
    assert [each["labels"] for each in rows] == expected
    assert any(count == 2 for each in rows for count in each["probes"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [True]}, "labels: 1 values for 2 completions"),
        ({"labels": [True, "yes"]}, "labels: 'yes' at position 1, expected a finite number"),
        ({"labels": [True, None]}, "labels: None at position 1"),
        ({"labels": 3}, "labels: 3, expected a list of numbers"),
        ({"completions": ["a", 3]}, "completions: 3 at position 1, expected a text"),
        ({"prompt": None}, "prompt: None, expected a text or a list of messages"),
    ],
)
def test_a_stepwise_record_that_breaks_a_rule_is_named(
    change: dict[str, Any], message: str, cli: Cli, tmp_path: Path
) -> None:
    check_fault(cli, tmp_path, [STEPWISE[0], STEPWISE[1] | change], message)


def check_fault(cli: Cli, tmp_path: Path, records: list[Any], message: str) -> None:
    """The second record stops the import with one line, or is left out if asked."""
    source, out = write_lines(tmp_path / "faulty.jsonl", records), tmp_path / "out.parquet"
    refused = cli("import", source, "-o", out)
    assert refused.exit_code == 3
    (line,) = refused.stderr.strip().splitlines()
    assert f"faulty.jsonl, line 2, {message}" in line
    assert not out.exists()
    kept = cli("import", source, "--lenient", "-o", out)
    assert kept.exit_code == 4
    assert "1 faulty records" in kept.stderr
    assert len(RolloutFile(out).read())


# Math-Shepherd


def test_signs_in_the_place_of_the_tag_are_rewards(cli: Cli, tmp_path: Path) -> None:
    batch = RolloutFile(imported(cli, tmp_path / "shepherd.jsonl", SHEPHERD)).read()
    assert steps_of(batch, 0) == ["Step 1: One costs 3/2.", "\nStep 2: Four cost 6.\nThe answer is: 6"]
    assert batch.arrow("step.reward").to_pylist() == [[1.0, 0.0], [0.0]]
    assert batch.strings("prompt")[0] == [{"role": "user", "content": "Two apples cost $3. Four?"}]
    assert batch.groups.sizes.tolist() == [2]


def test_solutions_come_back_as_they_were(cli: Cli, tmp_path: Path) -> None:
    source = imported(cli, tmp_path / "shepherd.jsonl", SHEPHERD)
    assert exported(cli, source, "math_shepherd", by="step.reward") == SHEPHERD


def test_another_tag_and_another_beginning(cli: Cli, tmp_path: Path) -> None:
    rows = [{"input": "p\nFirst, a <s>\nthen b <s>\n", "label": "p\nFirst, a +\nthen b -\n"}]
    words = ("--format", "math_shepherd", "--set", "tag=<s>", "--set", "first=First,")
    source = imported(cli, tmp_path / "own.jsonl", rows, *words)
    assert steps_of(RolloutFile(source).read(), 0) == ["First, a", "\nthen b"]
    (back,) = exported(cli, source, "math_shepherd", by="step.reward", tag="<s>")
    assert back == {
        "input": "p Step 1: First, a <s>\nStep 2: then b <s>",
        "label": "p Step 1: First, a +\nStep 2: then b -",
    }
    done = cli(
        "export",
        source,
        "--format",
        "math_shepherd",
        "--set",
        "by=step.reward",
        "--set",
        "tag=then",
        "-o",
        tmp_path / "no.jsonl",
    )
    assert done.exit_code == 3
    assert "1 rows in whose texts 'then' stands" in on_one_line(done.stderr)
    for command, words in (
        (("import", tmp_path / "own.jsonl"), ()),
        (("export", source), ("--set", "by=step.reward")),
    ):
        refused = cli(*command, "--format", "math_shepherd", "--set", "tag=", *words, "-o", tmp_path / "no.jsonl")
        assert refused.exit_code == 2, refused.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "Two apples cost $3. Four? Step 1: One costs 2. -"}, "label: step 0 has another text than in input"),
        ({"label": "Two apples cost $3. Four? Step 1: One costs 3. ?"}, "label: '?' behind step 0, expected + or -"),
        ({"label": "Two apples cost $3. Four? Step 1: One costs 3. "}, "label: '' behind step 0, expected + or -"),
        ({"label": "Two apples cost $3. Four? Step 1: One costs 3. - So"}, "label: 'So' after the last step"),
        ({"label": 1}, "label: 1, expected a text"),
        ({"input": "Two apples cost $3. Four? Step 1: One costs 3. ки So"}, "input: 'So' after the last tag"),
    ],
)
def test_a_solution_whose_two_texts_do_not_agree_is_named(
    change: dict[str, Any], message: str, cli: Cli, tmp_path: Path
) -> None:
    check_fault(cli, tmp_path, [SHEPHERD[0], SHEPHERD[1] | change], message)


def test_solutions_that_cannot_be_split_are_counted(cli: Cli, tmp_path: Path) -> None:
    rows = [SHEPHERD[0], {"input": "q a", "label": "q a"}, {"input": "q a ки", "label": "q a +"}]
    done = cli("import", write_lines(tmp_path / "some.jsonl", rows), "-o", tmp_path / "out.parquet")
    assert done.exit_code == 4
    told = on_one_line(done.stderr)
    assert "1 solutions without the tag 'ки'" in told
    assert "1 solutions whose first step does not begin with 'Step 1:'" in told


# ProcessBench


def test_steps_are_valid_before_the_first_wrong_one(cli: Cli, tmp_path: Path) -> None:
    batch = RolloutFile(imported(cli, tmp_path / "bench.jsonl", BENCH)).read()
    assert batch.arrow("step.valid").to_pylist() == [[True] * 3, [True, False, False], [True, True, False]]
    assert batch.numbers("reward").tolist() == [1, 0, 1]
    assert batch.strings("rollout_id") == batch.strings("problem_id") == ["gsm8k-0", "gsm8k-1", "gsm8k-2"]
    assert batch.strings("engine") == ["Qwen2-7B-Instruct"] * 3
    assert steps_of(batch, 0) == ["1+1 = 2", "\n\n2+1 = 3", "\n\nSo it is"]
    assert batch.groups.sizes.tolist() == [3]
    labels = exported(cli, tmp_path / "bench.parquet", "stepwise", by="step.valid", separator='"\\n\\n"')
    assert [each["completions"] for each in labels] == [each["steps"] for each in BENCH]
    assert labels[1]["labels"] == [True, False, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 3}, "label: 3, expected -1 or the number of one of 3 steps"),
        ({"label": -2}, "label: -2, expected -1"),
        ({"label": True}, "label: True, expected -1"),
        ({"final_answer_correct": "yes"}, "final_answer_correct: 'yes', expected true or false"),
        ({"steps": "one"}, "steps: 'one', expected a list of texts"),
        ({"problem": None}, "problem: None, expected a text"),
    ],
)
def test_a_label_that_names_no_step_is_named(change: dict[str, Any], message: str, cli: Cli, tmp_path: Path) -> None:
    check_fault(cli, tmp_path, [BENCH[0], BENCH[1] | change], message)


# PRM800K


def test_alternatives_leave_the_trunk_at_their_step(cli: Cli, tmp_path: Path) -> None:
    source = imported(cli, tmp_path / "prm.jsonl", [prm800k()])
    batch = RolloutFile(source).read()
    names = [name.removeprefix("prm.jsonl/0/") for name in batch.strings("rollout_id")]
    assert names == ["chosen", "0.1", "1.0", "1.1", "2.1"]
    rewards = dict(zip(names, batch.arrow("step.reward").to_pylist(), strict=True))
    assert rewards == {"chosen": [1, 1, 1], "0.1": [-1], "1.0": [1, -1], "1.1": [1, -1], "2.1": [1, 1, -1]}
    assert batch.numbers("reward").tolist() == [1, -1, -1, -1, -1]
    assert batch.arrow("flags").to_pylist() == [
        ["demonstration"],
        ["partial"],
        ["partial"],
        ["partial"],
        ["demonstration"],
    ]
    assert batch.strings("reference") == ["2"] * 5
    tree = tmp_path / "tree.parquet"
    assert cli("tree-build", source, "--by", "step", "-o", tree).exit_code == 0
    paths = dict(zip(names, RolloutFile(tree).read().arrow("node.id").to_pylist(), strict=True))
    assert paths["chosen"][:2] == paths["2.1"][:2]
    assert paths["chosen"][0] == paths["1.0"][0] == paths["1.1"][0] != paths["0.1"][0]
    assert len({paths["chosen"][1], paths["1.0"][1], paths["1.1"][1]}) == 3
    pairs = exported(cli, tree, "preference", siblings="true", most=9)
    assert {"prompt": "1+1?Add.\n1+1 is the question.", "chosen": "\n2.\n\n# Answer\n\n2", "rejected": "\n3.\n\n# Answer\n\n3",
            "score_chosen": 1.0, "score_rejected": -1.0} in pairs  # fmt: skip


def test_a_solution_that_ends_at_a_mistake_has_no_row_of_its_own(cli: Cli, tmp_path: Path) -> None:
    steps = prm800k()["label"]["steps"]
    last = steps[1] | {"human_completion": None}
    source = imported(cli, tmp_path / "prm.jsonl", [prm800k(steps=[steps[0], last], finish_reason="found_error")])
    names = [name.removeprefix("prm.jsonl/0/") for name in RolloutFile(source).read().strings("rollout_id")]
    assert names == ["0.1", "1.0", "1.1"]


def test_solutions_to_one_problem_are_a_group_and_broken_problems_filtered(cli: Cli, tmp_path: Path) -> None:
    source = imported(cli, tmp_path / "prm.jsonl", [prm800k(), prm800k(finish_reason="bad_problem")])
    batch = RolloutFile(source).read()
    assert batch.groups.sizes.tolist() == [10]
    assert batch.flagged("filtered").tolist() == [False] * 5 + [True] * 5


def test_completions_that_nobody_rated_are_counted(cli: Cli, tmp_path: Path) -> None:
    steps = prm800k()["label"]["steps"]
    steps[0]["completions"][1]["rating"] = None
    source = write_lines(tmp_path / "prm.jsonl", [prm800k(steps=steps), prm800k(steps=[])])
    done = cli("import", source, "-o", tmp_path / "out.parquet")
    assert done.exit_code == 4
    told = on_one_line(done.stderr)
    assert "1 completions without a rating" in told
    assert "1 solutions without a rated step" in told
    assert len(RolloutFile(tmp_path / "out.parquet").read()) == 4


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"chosen_completion": 7}, "label.steps[0].chosen_completion: 7, expected the number of a completion, or null"),
        ({"completions": rated(("a", 5))}, "label.steps[0].completions[0].rating: 5, expected -1, 0 or 1"),
        ({"completions": rated(("a", None))}, "label.steps[0].completions[0].rating: None, expected -1, 0 or 1"),
        ({"completions": [{"rating": 1}]}, "label.steps[0].completions[0].text: missing, expected a text"),
        ({"completions": [{"text": "a", "rating": "1"}]}, "label.steps[0].completions[0].rating: '1', expected"),
        ({"chosen_completion": None, "human_completion": 5}, "label.steps[0].human_completion.text: missing"),
        ({"completions": "a"}, "label.steps[0].completions: 'a', expected a list"),
    ],
)
def test_a_step_that_breaks_a_rule_is_named_with_its_place(
    step: dict[str, Any], message: str, cli: Cli, tmp_path: Path
) -> None:
    good = {"completions": rated(("a", 1)), "human_completion": None, "chosen_completion": 0}
    check_fault(cli, tmp_path, [prm800k(), prm800k(steps=[good | step])], message)


def test_steps_that_are_none_are_named(cli: Cli, tmp_path: Path) -> None:
    check_fault(
        cli, tmp_path, [prm800k(), prm800k(steps=["a"])], "label.steps[0]: str, expected a step with completions"
    )
    other = prm800k() | {"question": {"problem": 3}}
    check_fault_again = write_lines(tmp_path / "other.jsonl", [prm800k(), other])
    refused = cli("import", check_fault_again, "-o", tmp_path / "other.parquet")
    assert "line 2, question.problem: missing, expected a text" in on_one_line(refused.stderr)
