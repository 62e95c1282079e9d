"""RISE's sampling: what is edited, which edits can be used, and how pairs stand in the file."""

from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit import assign_credit
from apportion.stages.models.kind import ENGINES
from apportion.stages.models.policy import load_tokenizer
from apportion.stages.sample import sample
from apportion.stages.sample.revise._edits import (
    edit_kinds,
    edit_of,
    edit_ratio,
    last_sentences,
    levenshtein,
    open_boxes,
    speaks_of_errors,
)
from apportion.stages.score import score
from typer.testing import Result

Injected = Callable[..., Rollouts]
SHORT = {"editor": "BEFORE {before} STEP {step} KIND {instruction}"}


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight groups of five, scored and split into steps: some all wrong, some both."""
    folder = tmp_path_factory.mktemp("inject")
    sample(prompts=8, n=5, seed=3, max_tokens=40, device="cpu", out=folder / "rollouts")
    score(folder / "rollouts", out=folder / "scored")
    score(folder / "scored", scorer="steps", out=folder / "stepped")
    return folder / "stepped"


@pytest.fixture
def injected(stepped: Path, tmp_path: Path) -> Injected:
    def run(rollouts: Path = stepped, options: dict[str, Any] | None = None, **settings: Any) -> Rollouts:
        sample(
            **{"strategy": "inject_errors", "rollouts": rollouts, "settings": SHORT | settings, "seed": 4}
            | {"device": "cpu", "engine": "scripted", "out": tmp_path / "injected", "force": True}
            | (options or {})
        )
        return RolloutFile(tmp_path / "injected").read()

    return run


def step_in(text: str) -> str:
    return text.partition(" STEP ")[2].partition(" KIND ")[0]


def off_by_some(text: str) -> str | None:
    """Writes the step with another last digit, in what is left of a fenced block."""
    step = step_in(text)
    return f"{step[:-1]}{(int(step[-1]) + 1) % 10}\n``` and more ```no```" if step else None


def pairs_of(rollouts: Rollouts) -> dict[str, dict[str, dict[str, Any]]]:
    """{pair_id: {role: row}}."""
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in rollouts.table.to_pylist():
        if row["pair_id"] is not None:
            assert row["pair_role"] not in found[row["pair_id"]]
            found[row["pair_id"]][row["pair_role"]] = row
    assert all(set(pair) == {"chosen", "rejected"} for pair in found.values())
    return found


def mixed(rollouts: Rollouts) -> set[str]:
    """Groups with right and wrong rollouts."""
    reward, groups = rollouts.numbers("reward"), rollouts.groups
    mean = groups.mean(reward)
    return {
        rollouts.strings("group_id")[int(groups.starts[group])] for group in np.flatnonzero((mean > 0) & (mean < 1))
    }


def test_a_policy_that_edits_nothing_leaves_whole_pairs_only(
    stepped: Path, injected: Injected, tmp_path: Path, cli: Callable[..., Result], capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = RolloutFile(stepped).read(), injected(options={"engine": "auto"}, editor_tokens=4)
    assert len(after) == len(before)
    assert cli("validate", tmp_path / "injected").exit_code == 0
    pairs = pairs_of(after)
    assert {pair["chosen"]["group_id"] for pair in pairs.values()} == mixed(before) != set()
    for pair in pairs.values():
        assert (pair["chosen"]["reward"], pair["rejected"]["reward"]) == (1.0, 0.0)
        assert pair["chosen"]["group_id"] == pair["rejected"]["group_id"]
    assert f"8 groups, {len(pairs)} whole pairs; " in (said := capsys.readouterr().err)
    assert "edits, 0 of them sound, 0 step pairs" in said
    for path in before.paths:
        assert after.arrow(path).equals(before.arrow(path)), path


def test_a_step_pair_is_two_rows_that_differ_in_one_step(
    stepped: Path, injected: Injected, scripted: Callable[..., Any], tmp_path: Path, cli: Callable[..., Result]
) -> None:
    scripted(off_by_some)
    before, after = RolloutFile(stepped).read(), injected()
    assert cli("validate", tmp_path / "injected").exit_code == 0
    names = {row["rollout_id"]: row for row in after.table.to_pylist()}
    steps = [pair for pair in pairs_of(after).values() if "partial" in (pair["chosen"]["flags"] or ())]
    assert {pair["chosen"]["group_id"] for pair in steps} == mixed(before)
    assert len(steps) == len(mixed(before)), "one a prompt"
    for pair in steps:
        chosen, rejected = pair["chosen"], pair["rejected"]
        base = names[chosen["parent_id"]]
        fork, good, bad = chosen["fork"], chosen["token"]["id"], rejected["token"]["id"]
        assert base["reward"] == 1.0
        assert base["pair_role"] == "chosen", "the one of the whole pair"
        assert (rejected["parent_id"], rejected["fork"]) == (chosen["rollout_id"], fork)
        place = base["step"]["start"].index(fork)
        assert good == [token for token in base["token"]["id"][: base["step"]["end"][place]] if token != _end()]
        assert bad[:fork] == good[:fork]
        assert bad != good
        assert bad == load_tokenizer("builtin:tiny")(rejected["text"], add_special_tokens=False)["input_ids"]
        assert rejected["text"].rstrip("\n")[:-1] == chosen["text"].rstrip("\n")[:-1]
        assert rejected["text"].endswith("\n") == chosen["text"].endswith("\n")
        for row in (chosen, rejected):
            assert row["token"]["mask"] == [token >= fork for token in range(len(row["token"]["id"]))]
            assert row["token"]["logprob"] is None
            assert (row["purpose"], row["reward"], row["temperature"]) == ("train", None, None)
        assert (chosen["flags"], rejected["flags"]) == (["partial"], ["partial", "edited"])
        assert chosen["edit"] is None
        assert rejected["edit"] in ("multi_value", "substitution", "delete_term", "symbol", "swap")


def test_rollouts_without_step_pairs_can_be_given_credit(
    injected: Injected, scripted: Callable[..., Any], tmp_path: Path, cli: Callable[..., Result]
) -> None:
    scripted(off_by_some)
    injected()
    cli("filter", tmp_path / "injected", "--where", "'partial' not in flags", "--drop", "-o", tmp_path / "rest")
    assign_credit(tmp_path / "rest", method="grpo", out=tmp_path / "credit")
    assert RolloutFile(tmp_path / "credit").read().ragged("token.advantage").values.any()


def _end() -> int:
    return load_tokenizer("builtin:tiny").eos_token_id


def test_the_editor_reads_what_stands_before_the_step_and_not_what_follows(
    injected: Injected, scripted: Callable[..., Any]
) -> None:
    opened = scripted(off_by_some)
    after = injected()
    texts = [row["text"].splitlines() for row in after.table.to_pylist() if row["pair_role"] == "chosen"]
    asked = {(text.partition(" STEP ")[0].removeprefix("BEFORE "), step_in(text)) for text in opened[0].read}
    expected = {
        ("".join(f"{line}\n" for line in lines[:place]), line) for lines in texts for place, line in enumerate(lines)
    }
    assert asked
    assert asked <= expected
    assert all(text.endswith("```\n") for text in opened[0].read), "the answer begins in a fenced block"


def test_more_pairs_of_a_prompt_and_prompts_that_are_all_right(
    stepped: Path, injected: Injected, scripted: Callable[..., Any]
) -> None:
    scripted(off_by_some)
    two = injected(edits=2)
    assert two.flagged("edited").sum() == 2 * len(mixed(RolloutFile(stepped).read()))
    before = RolloutFile(stepped).read()
    solved = before.groups.max(before.numbers("reward")) == 1
    every = injected(need_wrong=False)
    assert every.flagged("edited").sum() == solved.sum() >= len(mixed(before))


@pytest.mark.parametrize(
    "answer",
    [
        lambda step: f"{step}\n```",
        lambda step: f"{step[:-1]}x",
        lambda step: "\n```",
        lambda step: f"mistakenly {step[:-1]}x\n```",
        lambda step: f"{step} and some more, and more than that, of what was not asked for at all\n```",
    ],
    ids=["the same", "no block", "empty", "spoken of", "too far"],
)
def test_edits_that_cannot_be_used(
    injected: Injected, scripted: Callable[..., Any], answer: Callable[[str], str]
) -> None:
    scripted(lambda text: answer(step_in(text)) if step_in(text) else None)
    assert not injected().flagged("edited").any()


def test_a_far_edit_may_be_kept(injected: Injected, scripted: Callable[..., Any]) -> None:
    scripted(lambda text: "something else\n```" if step_in(text) else None)
    assert not injected(max_edit_ratio=0.5).flagged("edited").any()
    assert injected(max_edit_ratio=1.0).flagged("edited").any()


def test_boxes_of_the_whole_rejected_step_may_be_opened(
    stepped: Path, injected: Injected, scripted: Callable[..., Any], tmp_path: Path
) -> None:
    """Those of the sentences before the edit, too; and an edit that only opens one changes nothing."""
    tokenizer, batch = load_tokenizer("builtin:tiny"), RolloutFile(stepped).read()
    text = "So \\boxed{1}. a. b. c. d=\\boxed{2}"
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    row = batch.take(np.array([0])).with_columns({
        "token.id": [ids], "token.mask": [[True] * len(ids)], "reward": [1.0], "step.start": [[0]],
        "step.end": [[len(ids)]],
    })  # fmt: skip
    bare = Rollouts(row.table.select([name for name in row.table.column_names if name not in ("token", "step")]))
    bare = bare.with_columns({path: row.arrow(path) for path in ("token.id", "token.mask", "step.start", "step.end")})
    write_rollouts(tmp_path / "boxed", [bare], Provenance())
    for answer, unbox, expected in (
        ("a. b. c. d=\\boxed{3}", True, "So 1. a. b. c. d=3"),
        ("a. b. c. d=\\boxed{3}", False, "So \\boxed{1}. a. b. c. d=\\boxed{3}"),
        ("a. b. c. d=\\boxed{2}", True, None),
    ):
        scripted(lambda read, answer=answer: f"{answer}\n```" if step_in(read) else None)
        after = injected(tmp_path / "boxed", need_wrong=False, unbox=unbox)
        made = after.take(np.flatnonzero(after.flagged("edited"))).strings("text")
        assert made == ([] if expected is None else [expected])
        ENGINES.remove("scripted")
    scripted(lambda read: None)


def test_headers_are_no_part_of_the_step(injected: Injected, scripted: Callable[..., Any]) -> None:
    opened = scripted(off_by_some)
    after = injected(header=r"\d+[-+]")
    assert all("+" not in step_in(text) and "-" not in step_in(text) for text in opened[0].read)
    rows = {row["rollout_id"]: row for row in after.table.to_pylist()}
    made = [row for row in rows.values() if "edited" in (row["flags"] or ())]
    assert made
    for row in made:
        base = rows[rows[row["parent_id"]]["parent_id"]]
        assert any(row["fork"] == start + 2 for start in base["step"]["start"])


def test_the_same_seed_makes_the_same_rows_in_any_parts(injected: Injected, scripted: Callable[..., Any]) -> None:
    scripted(off_by_some)
    first = injected()
    assert first.table.equals(injected().table)
    parts = injected(rows_at_once=1)
    assert first.strings("rollout_id") == parts.strings("rollout_id")
    assert first.strings("text") == parts.strings("text")


def test_rollouts_that_speak_of_mistakes_are_not_drawn_as_right(
    stepped: Path, injected: Injected, scripted: Callable[..., Any], tmp_path: Path
) -> None:
    scripted(off_by_some)
    tokenizer = load_tokenizer("builtin:tiny")
    batch = RolloutFile(stepped).read()
    spoken = tokenizer("an error: 1=1", add_special_tokens=False)["input_ids"]
    table = batch.table.to_pylist()
    for row in table:
        row["token"] = {"id": spoken, "mask": [True] * len(spoken), "logprob": None}
        row["step"] = {"start": [0], "end": [len(spoken)], "kind": ["step"]}
    from pyarrow import Table

    rows = Rollouts(Table.from_pylist(table, schema=batch.table.schema))
    write_rollouts(tmp_path / "spoken", [rows], Provenance())
    assert not pairs_of(injected(tmp_path / "spoken"))
    for row in table:
        row["prompt"] = [{"role": "user", "content": "What is wrong here?"}]
    rows = Rollouts(Table.from_pylist(table, schema=batch.table.schema))
    write_rollouts(tmp_path / "asked", [rows], Provenance())
    assert pairs_of(injected(tmp_path / "asked"))


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("x = 3 + 4", ["multi_value", "substitution", "delete_term", "symbol", "swap"]),
        ("He has 12 apples", ["value"]),
        ("so x = y", ["substitution", "delete_term", "symbol", "swap"]),
        ("therefore she leaves early", ["words"]),
        ("3.5 apples", ["multi_value"]),
    ],
)
def test_the_kinds_of_error_a_step_allows(step: str, expected: list[str]) -> None:
    assert edit_kinds(step) == expected


@pytest.mark.parametrize(
    ("one", "other", "distance", "ratio"),
    [
        ("12 * 3 = 36, so he pays 36 dollars.", "12 * 3 = 38, so he pays 38 dollars.", 2, 2 / 35),
        ("12 * 3 = 36, so he pays 36 dollars.", "I think the answer is 5.", 26, 26 / 35),
        ("kitten", "sitting", 3, 3 / 7),
        ("abc", "", 3, 1.0),
        ("", "abc", 3, 1.0),
        ("", "", 0, 0.0),
        ("abc", "abc", 0, 0.0),
        ("é😀", "e😀", 1, 1 / 2),
    ],
)
def test_distances(one: str, other: str, distance: int, ratio: float) -> None:
    assert levenshtein(one, other) == distance
    assert edit_ratio(one, other) == pytest.approx(ratio, rel=1e-12)


def test_distances_are_those_of_the_recursion() -> None:
    from functools import cache

    @cache
    def slow(one: str, other: str) -> int:
        if not one or not other:
            return len(one) + len(other)
        return min(slow(one[1:], other) + 1, slow(one, other[1:]) + 1, slow(one[1:], other[1:]) + (one[0] != other[0]))

    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abc"), size)) for size in rng.integers(0, 9, 40)]
    for one, other in pairwise(words):
        assert levenshtein(one, other) == slow(one, other)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```\nx\n```", "x"),
        ("```\nx\n``` ```\ny\n```", "x"),
        ("```text\nx = 1\ny = 2```", "x = 1\ny = 2"),
        ("```\n \n```", None),
        ("```\nx", None),
        ("x", None),
    ],
)
def test_the_first_fenced_block(text: str, expected: str | None) -> None:
    assert edit_of(text) == expected


def test_only_the_last_four_sentences_are_edited() -> None:
    assert last_sentences("A. B. C. D") == 0
    assert last_sentences("A. B. C. D. E") == 3
    assert last_sentences("A\nB\nC\nD\nE\n\n") == 2
    assert last_sentences("3.5 and 4.5 and 5.5 and 6.5 and 7.5") == 0


def test_boxes_and_announcements() -> None:
    assert open_boxes(r"so \boxed{\frac{1}{2}} and \boxed{3}") == r"so \frac{1}{2} and 3"
    assert open_boxes(r"\boxed{open \boxed{3}") == r"\boxed{open 3"
    assert open_boxes("none") == "none"
    assert speaks_of_errors("This is Misleading")
    assert not speaks_of_errors("2 + 3 = 6")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"edits": 0}, "strategy inject_errors: edits must be at least 1, got 0"),
        ({"max_edit_ratio": 1.5}, r"strategy inject_errors: max_edit_ratio must be between 0 and 1, got 1\.5"),
        ({"header": "("}, r"strategy inject_errors: header must be a regular expression, got '\('"),
        ({"editor": "{step}"}, r"strategy inject_errors: editor must have \{instruction\} in it"),
    ],
)
def test_bad_options_are_refused(
    injected: Injected, scripted: Callable[..., Any], settings: dict[str, Any], message: str
) -> None:
    scripted(off_by_some)
    with pytest.raises(UsageError, match=message):
        injected(**settings)


def test_what_is_needed(injected: Injected, scripted: Callable[..., Any], tmp_path: Path) -> None:
    scripted(off_by_some)
    sample(prompts=1, n=1, max_tokens=8, device="cpu", out=tmp_path / "bare")
    with pytest.raises(DataError, match="no column 'reward'"):
        injected(tmp_path / "bare")
    score(tmp_path / "bare", out=tmp_path / "scored")
    with pytest.raises(DataError, match="score IN --with steps"):
        injected(tmp_path / "scored")
