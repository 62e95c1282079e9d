"""InT's sampling: what a critic's answer means, and which interventions are kept."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit import assign_credit
from apportion.stages.models.policy import load_tokenizer
from apportion.stages.models.token_texts import TokenOffsets
from apportion.stages.sample import sample
from apportion.stages.sample.revise._interventions import Intervention, guide, intervention_of, leaks, select_verified
from apportion.stages.sample.revise._spelling import Spelling, spell
from apportion.stages.score import score
from apportion.stages.train import train
from typer.testing import Result

Intervened = Callable[..., Rollouts]
SHORT = {"solver": "{question} SOLVE {solution}", "critic": "CHECK {attempt}", "critic_tokens": 64}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight groups of five, some rollouts wrong."""
    folder = tmp_path_factory.mktemp("intervene")
    sample(prompts=8, n=5, seed=3, max_tokens=40, device="cpu", out=folder / "rollouts")
    score(folder / "rollouts", out=folder / "scored")
    return folder / "scored"


@pytest.fixture
def intervened(scored: Path, tmp_path: Path) -> Intervened:
    def run(rollouts: Path = scored, options: dict[str, Any] | None = None, **settings: Any) -> Rollouts:
        settings = SHORT | {"solution_from": "demonstration", "separator": "\n", "proposals": 2, "k": 4} | settings
        sample(
            **{"strategy": "intervene", "rollouts": rollouts, "settings": settings, "seed": 4, "max_tokens": 60}
            | {"device": "cpu", "engine": "scripted", "out": tmp_path / "intervened", "force": True}
            | (options or {})
        )
        return RolloutFile(tmp_path / "intervened").read()

    return run


def critic(content: Callable[[str], str], location: int = 1) -> Callable[[str], str | None]:
    """Answers the second turn with what `content` makes of the solution in the first, and the first with a word."""

    def reply(text: str) -> str | None:
        if "SOLVE" not in text:
            return None
        if "CHECK" not in text:
            return "solved"
        solution = text.partition("SOLVE ")[2].partition("<answer>")[0]
        return f'<intervention>{{"content": {content(solution)!r}, "location": {location}}}</intervention>'

    return reply


def first_line(text: str) -> str:
    return text.partition("solved")[0].splitlines()[0]


def test_a_critic_that_says_nothing_leaves_the_rows_as_they_are(
    scored: Path, intervened: Intervened, tmp_path: Path, cli: Callable[..., Result], capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = RolloutFile(scored).read(), intervened(options={"engine": "auto"}, critic_tokens=8)
    assert "wrong rollouts; 0 proposals could be read, 0 of them gave the answer away; 0 were tried, 0 kept\n" in (
        capsys.readouterr().err
    )
    for path in before.paths:
        assert after.arrow(path).equals(before.arrow(path)), path
    assert len(after) == len(before)
    assert cli("validate", tmp_path / "intervened").exit_code == 0


def test_a_step_that_fills_the_context_is_not_tried(
    intervened: Intervened, scripted: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """builtin:tiny reads 512 tokens: prompts have some 25, so that the step does not fit, whatever --max-tokens says."""
    scripted(critic(lambda solution: "x" * 500))
    after = intervened(options={"max_tokens": 600})
    assert "; 0 were tried, 0 kept\n" in capsys.readouterr().err
    assert not after.flagged("intervention").any()


def test_verified_interventions_become_targets_and_their_tries_probes(
    scored: Path, intervened: Intervened, scripted: Callable[..., Any], tmp_path: Path, cli: Callable[..., Result]
) -> None:
    opened = scripted(critic(first_line))
    before, after = RolloutFile(scored).read(), intervened()
    assert cli("validate", tmp_path / "intervened").exit_code == 0
    wrong = {
        (group, tuple(ids))
        for group, ids, reward in zip(
            before.strings("group_id"), before.table["token"].to_pylist(), before.numbers("reward"), strict=True
        )
        if reward < 1
        for ids in [ids["id"]]
    }
    assert sum("CHECK" in text for text in opened[0].read) == len(wrong), "equal rollouts are looked at once"
    assert sum("CHECK" not in text for text in opened[0].read) == len({group for group, _ in wrong})
    rows = after.table.to_pylist()
    names = {row["rollout_id"]: row for row in rows}
    made = [row for row in rows if row["flags"] == ["intervention"]]
    probes = [row for row in rows if row["purpose"] == "probe"]
    assert made
    assert len(probes) == 4 * len(made)
    for row in made:
        parent, ids = names[row["parent_id"]], row["token"]["id"]
        assert (parent["reward"], parent["group_id"]) == (0.0, row["group_id"])
        assert row["text"] == first_line(_demonstrated(opened[0].read, row["prompt"][-1]["content"]))
        assert ids[: row["fork"]] == parent["token"]["id"][: row["fork"]]
        assert all(row["token"]["mask"])
        assert row["token"]["logprob"] is None
        assert load_tokenizer("builtin:tiny").eos_token_id not in ids
        assert (row["purpose"], row["reward"], row["temperature"], row["finish_reason"]) == ("train", None, None, None)
        own = [each for each in probes if each["parent_id"] == row["rollout_id"]]
        assert [each["fork"] for each in own] == [len(ids)] * 4
        assert all(each["token"]["id"][: len(ids)] == ids for each in own)
        assert all(each["token"]["mask"].count(False) == len(ids) for each in own)
        assert row["intervention_rate"] == np.mean([each["reward"] == 1 for each in own]) > 0
    own = after.take(np.flatnonzero([name in set(before.strings("rollout_id")) for name in names]))
    for path in before.paths:
        assert own.arrow(path).equals(before.arrow(path)), path


def _demonstrated(read: list[str], question: str) -> str:
    return next(text.partition("SOLVE ")[2] for text in read if text.startswith(f"{question} SOLVE "))


def first_error(text: str) -> str | None:
    """Puts the solution's line in the place of the first block that is another, where both go on behind it."""
    if "SOLVE" not in text or "CHECK" not in text:
        return "solved" if "SOLVE" in text else None
    solution = text.partition("SOLVE ")[2].partition("solved")[0].splitlines()
    blocks = [block.partition(": ")[2] for block in text.partition("CHECK ")[2].split("\n\n")]
    place = next((place for place, pair in enumerate(zip(solution, blocks)) if pair[0] != pair[1]), 0)  # noqa: B905
    return f'<intervention>{{"content": "{solution[place]}", "location": {place + 1}}}</intervention>'


def test_blocks_before_the_location_keep_their_tokens(intervened: Intervened, scripted: Callable[..., Any]) -> None:
    scripted(first_error)
    after = intervened()
    rows = {row["rollout_id"]: row for row in after.table.to_pylist()}
    made = [row for row in rows.values() if row["flags"] == ["intervention"]]
    assert any(row["fork"] > 0 for row in made)
    for row in made:
        parent, lines = rows[row["parent_id"]], row["text"].splitlines()
        assert lines[:-1] == parent["text"].splitlines()[: len(lines) - 1]
        assert lines[-1] != parent["text"].splitlines()[len(lines) - 1]
        shared = load_tokenizer("builtin:tiny").decode(row["token"]["id"][: row["fork"]])
        assert shared == "".join(f"{line}\n" for line in lines[:-1])
        assert row["token"]["id"][: row["fork"]] == parent["token"]["id"][: row["fork"]]


def test_only_what_is_wrong_is_looked_at_and_only_what_is_right_is_kept(
    intervened: Intervened, scripted: Callable[..., Any]
) -> None:
    opened = scripted(critic(first_line))
    assert not intervened(correct=0.0).flagged("intervention").any()
    assert opened[0].read == []
    assert not intervened(correct=2.0).flagged("intervention").any()
    assert opened[1].read


def test_what_gives_the_answer_away_is_not_tried(
    intervened: Intervened, scripted: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(critic(lambda solution: solution.partition("solved")[0].splitlines()[-1]))
    after = intervened()
    assert not after.flagged("intervention").any()
    assert "0 were tried, 0 kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reference", "kept"),
    [
        ({"answer": "A", "metadata": {"from": "elsewhere"}}, False),
        (["of no use", "A"], False),
        (["of no use", 10**9], True),
        ({"answer": "of no use", "metadata": {"from": "A"}}, True),
    ],
)
def test_the_final_answer_is_found_in_references_of_any_kind(
    scored: Path, intervened: Intervened, scripted: Callable[..., Any], capsys: pytest.CaptureFixture[str],
    tmp_path: Path, reference: Any, kept: bool,
) -> None:  # fmt: skip
    """Those of reasoning_gym are an answer and what belongs to it, those of a table may be several. A: what is proposed."""
    batch = RolloutFile(scored).read()
    batch = batch.take(np.flatnonzero(batch.groups.ids == batch.groups.ids[batch.numbers("reward") < 1][0]))
    answer = str(json.loads(batch.strings("reference")[0]))
    proposed = json.dumps(reference).replace('"A"', '"12345"')
    columns = {"reference": [proposed] * len(batch), "task": [str(tmp_path / "t.jsonl")] * len(batch)}
    (tmp_path / "t.jsonl").write_text('{"question": "1+1", "answer": "2"}\n')
    write_rollouts(
        tmp_path / "other", [batch.with_columns(columns | {"task_options": ["{}"] * len(batch)})], Provenance()
    )
    assert answer != "12345"
    scripted(critic(lambda solution: "it is 12345"))
    intervened(tmp_path / "other", solution_from="reference", correct=1.0)
    said = capsys.readouterr().err
    proposals = int(said.partition(" proposals could be read, ")[0].rpartition(" ")[2])
    leaked = int(said.partition(" of them gave the answer away")[0].rpartition(" ")[2])
    assert proposals > 0
    assert leaked == (0 if kept else proposals)


def test_groups_that_are_no_problems_of_the_task_are_passed_over(
    scored: Path, intervened: Intervened, scripted: Callable[..., Any], tmp_path: Path
) -> None:
    """As `critique` and `retry` leave them behind their groups: the task has no solution of those."""
    settings = {
        "of": "intervention",
        "solver": "SOLVED {question} {solution}",
        "critic": "CHECKED {attempt}",
        "separator": "\n",
    }
    sample(strategy="critique", rollouts=scored, settings=settings, out=tmp_path / "lessons")
    scripted(critic(first_line))
    plain, after = intervened(), intervened(tmp_path / "lessons")
    made = [each.take(np.flatnonzero(each.flagged("intervention"))) for each in (plain, after)]
    assert RolloutFile(tmp_path / "lessons").read().flagged("demonstration").any()
    assert made[0].strings("rollout_id") == made[1].strings("rollout_id") != []
    assert made[0].strings("text") == made[1].strings("text")


def test_interventions_can_be_learnt(
    intervened: Intervened, scripted: Callable[..., Any], tmp_path: Path, cli: Callable[..., Result]
) -> None:
    scripted(critic(first_line))
    made = intervened().flagged("intervention").sum()
    only = tmp_path / "only"
    result = cli("filter", tmp_path / "intervened", "--where", "'intervention' in flags", "--drop", "-o", only)
    assert result.exit_code == 0, result.output
    assert len(RolloutFile(only).read()) == made
    done = train(rollouts=only, model="builtin:tiny", objective="sft", out=tmp_path / "policy", device="cpu")
    assert done.rollouts == made
    rest = tmp_path / "rest"
    cli("filter", tmp_path / "intervened", "--where", "'intervention' not in flags", "--drop", "-o", rest)
    assign_credit(rest, method="grpo", out=tmp_path / "credit")
    assert RolloutFile(tmp_path / "credit").read().ragged("token.advantage").values.any()


def test_the_same_seed_makes_the_same_rows_in_any_parts(intervened: Intervened, scripted: Callable[..., Any]) -> None:
    scripted(critic(first_line))
    first = intervened()
    assert first.table.equals(intervened().table)
    parts = intervened(rows_at_once=1)
    assert first.strings("rollout_id") == parts.strings("rollout_id")
    assert first.strings("text") == parts.strings("text")


def test_solutions_of_a_column_and_of_the_reference(
    scored: Path, intervened: Intervened, scripted: Callable[..., Any], tmp_path: Path
) -> None:
    batch = RolloutFile(scored).read()
    known = ["2+2=4" if group == 0 else None for group in batch.groups.ids]
    write_rollouts(tmp_path / "with", [batch.with_columns({"worked": known})], Provenance())
    opened = scripted(critic(first_line))
    intervened(tmp_path / "with", solution_from="column:worked")
    asked = {text.partition("SOLVE ")[2].partition("solved")[0].partition("<")[0] for text in opened[0].read}
    assert asked <= {"2+2=4"}
    intervened(solution_from="reference")
    answers = {text.partition("SOLVE ")[2] for text in opened[1].read if "CHECK" not in text}
    assert answers <= set(batch.strings("reference"))
    assert answers
    with pytest.raises(DataError, match="no column 'solution', which strategy 'intervene' needs"):
        intervened(solution_from="column:solution")
    with pytest.raises(
        UsageError, match="solution_from must be column:NAME, demonstration or reference, got 'somewhere'"
    ):
        intervened(solution_from="somewhere")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('<intervention>{"content": "X", "location": 2}</intervention>', Intervention("X", 2)),
        ("<intervention>{'content': 'X\\nY', 'location': 2}</intervention>", Intervention("X\nY", 2)),
        (
            '<intervention>{"content": "old", "location": 1}</intervention> No: '
            '<intervention>{"content": "new", "location": "Substep 3"}</intervention>',
            Intervention("new", 3),
        ),
        (
            '<intervention>\n{"content": "\\(x\\)", "location": "12 or 13"}\n</intervention>',
            Intervention("\\(x\\)", 12),
        ),
        ('<intervention>{"content": "X", "location": 1}</intervention><intervention>none</intervention>', None),
        ('<intervention>{"content": "X", "location": 0}</intervention>', None),
        ('<intervention>{"content": "X", "location": -1}</intervention>', None),
        ('<intervention>{"content": "X", "location": 1.0}</intervention>', None),
        ('<intervention>{"content": "X", "location": True}</intervention>', None),
        ('<intervention>{"content": "X", "location": "the last"}</intervention>', None),
        ('<intervention>{"content": " ", "location": 1}</intervention>', None),
        ('<intervention>{"content": 3, "location": 1}</intervention>', None),
        ('<intervention>{"content": "\\ud800", "location": 1}</intervention>', None),
        ('<intervention>{"location": 1}</intervention>', None),
        ('<intervention>["X", 1]</intervention>', None),
        ('<intervention>__import__("os")</intervention>', None),
        ("<intervention>" + "[" * 100_000 + "</intervention>", None),
        ('{"content": "X", "location": 1}', None),
        ("", None),
    ],
)
def test_what_a_critic_says(text: str, expected: Intervention | None) -> None:
    assert intervention_of(text) == expected


@pytest.mark.parametrize(
    ("content", "location", "expected", "own"),
    [
        ("X\nY", 3, "A\n\nB\n\nX\n\nY", 6),
        ("X", 1, "X", 0),
        ("X", 9, "A\n\nB\n\nC\n\nD\n\nX", 10),
        ("X", 4, "A\n\nB\n\nC\n\nX", 9),
        ("X", 5, "A\n\nB\n\nC\n\nD\n\nX", 10),
    ],
)
def test_the_guided_prefix(content: str, location: int, expected: str, own: int) -> None:
    attempt = "A\n\nB\n\nC\n\nD"
    text, kept = guide(attempt, Intervention(content, location))
    assert (text, kept) == (expected, own)
    assert text[:kept] == attempt[:kept]


def test_a_single_block_is_replaced_whole() -> None:
    assert guide("all of it", Intervention("X", 1)) == ("X", 0)


def test_leaks_and_shares() -> None:
    assert leaks("so x = 42", "42")
    assert not leaks("so x is even", "42")
    assert not leaks("anything", " ")
    assert select_verified([0, 3, 0, 32], 32) == {1: 0.09375, 3: 1.0}
    assert select_verified([1, 2, 3], 4, needed=2) == {1: 0.5, 2: 0.75}


def test_a_response_is_cut_where_tokens_allow_and_never_behind_its_end() -> None:
    tokenizer = load_tokenizer("builtin:tiny")
    ids = [*tokenizer("12+3=15\n7 é", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    spelling = Spelling(TokenOffsets(tokenizer), ids)
    kept = [spelling.tokens_before(place) for place in range(len(spelling.text) + 1)]
    assert [spelling.text[: spelling.bounds[count]] for count in kept] == [
        "", "", "12", "12+", "12+3", "12+3=", "12+3=", "12+3=15", "12+3=15\n", "12+3=15\n7", "12+3=15\n7 ",
        "12+3=15\n7 é",
    ]  # fmt: skip
    assert spelling.tokens_before(len(spelling.text)) == len(ids) - 1, "the end of sequence is not before the end"
    assert spell(tokenizer, ids[:3], "=15") == ids[3:5]
    assert spell(tokenizer, [], tokenizer.eos_token) is None, "a special token has no text"


class Spacing:
    """A tokenizer with a token a character, that writes a space before the first word of a text, and of no other."""

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(" "), *map(ord, text)]}

    def decode(self, ids: list[int], **_: Any) -> str:
        text = "".join(map(chr, ids))
        return text[1:] if text.startswith(" ") else text


def test_a_tokenizer_that_puts_a_space_in_front_is_asked_behind_a_newline() -> None:
    before = Spacing()("ab")["input_ids"]
    assert spell(Spacing(), before, "cd") == [ord("c"), ord("d")]
    assert spell(Spacing(), [], "cd") == [ord(" "), ord("c"), ord("d")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "strategy intervene: k must be at least 1, got 0"),
        ({"needed": 5}, r"strategy intervene: needed must be at most k \(4 tries\), got 5"),
        ({"separator": ""}, "separator must not be empty, since it would cut nothing"),
        ({"critic": "Check it"}, r"strategy intervene: critic must have \{attempt\} in it"),
    ],
)
def test_bad_options_are_refused(
    intervened: Intervened, scripted: Callable[..., Any], settings: dict[str, Any], message: str
) -> None:
    scripted(lambda text: None)
    with pytest.raises(UsageError, match=message):
        intervened(**settings)


def test_rewards_are_needed(intervened: Intervened, scripted: Callable[..., Any], tmp_path: Path) -> None:
    scripted(lambda text: None)
    sample(prompts=1, n=1, max_tokens=8, device="cpu", out=tmp_path / "bare")
    with pytest.raises(DataError, match="no column 'reward', which strategy 'intervene' needs"):
        intervened(tmp_path / "bare")
