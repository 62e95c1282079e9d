"""Preference data in both directions: pairs, unpaired labels, and responses to learn from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.exchange.guess import importer_of
from apportion.stages.models.policy import TINY, load_tokenizer
from typer.testing import Result

from .conftest import exported, imported, on_one_line, read_lines, write_lines

Cli = Callable[..., Result]

USER = {"role": "user", "content": "What colour is the sky?"}
BLUE = {"role": "assistant", "content": "It is blue."}
GREEN = {"role": "assistant", "content": "It is green."}
TEXT_PAIR = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
CHAT_PAIR = {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]}
HOSTILE = 'a\nb\r\n"c"\\ \u0000 \u2028\u2029\u202e =cmd|calc \ud800é😀'


def rewarded(cli: Cli, tmp_path: Path, rewards: list[float | None], *, name: str = "own", **more: list[Any]) -> Path:
    """Responses r0, r1 … to one prompt, with these rewards and other fields."""
    rows = [
        {"prompt": [USER], "response": f"r{row}", "reward": reward, "group_id": "g"}
        for row, reward in enumerate(rewards)
    ]
    for key, values in more.items():
        for row, value in zip(rows, values, strict=True):
            row[key] = value
    return imported(cli, tmp_path / f"{name}.jsonl", rows)


# Reading pairs


@pytest.mark.parametrize("pair", [TEXT_PAIR, CHAT_PAIR], ids=["text", "chat"])
def test_a_pair_is_a_group_of_two_that_gets_credit_and_is_shown(pair: Any, cli: Cli, tmp_path: Path) -> None:
    out = imported(cli, tmp_path / "pairs.jsonl", [pair, pair])
    batch = RolloutFile(out).read()
    assert batch.strings("pair_id") == ["pairs.jsonl/0"] * 2 + ["pairs.jsonl/1"] * 2
    assert batch.strings("group_id") == batch.strings("pair_id")
    assert batch.strings("pair_role") == ["chosen", "rejected"] * 2
    assert batch.numbers("reward").tolist() == [1, 0, 1, 0]
    assert [text.strip() for text in batch.strings("text")[:2]] in (
        ["blue.", "green."],
        ["It is blue.", "It is green."],
    )
    assert RolloutFile(out).provenance.facts["tokens_exact"] is False
    tree, credit = tmp_path / "tree.parquet", tmp_path / "credit.parquet"
    assert cli("tree-build", out, "-o", tree).exit_code == 0
    assert cli("assign-credit", tree, "--method", "tempo", "-o", credit).exit_code == 0
    shown = cli("inspect", credit)
    assert shown.exit_code == 0
    assert "blue." in shown.stdout


@pytest.mark.parametrize(
    ("pair", "prompt", "texts"),
    [
        ({"chosen": "The sky is blue.", "rejected": "The sky is green."}, "The sky is", [" blue.", " green."]),
        ({"chosen": "so: yes", "rejected": "so: yesterday"}, "so: ye", ["s", "sterday"]),
        ({"chosen": [USER, BLUE], "rejected": [USER, GREEN]}, USER["content"], ["It is blue.", "It is green."]),
        (
            {"prompt": "other", "chosen": [USER, BLUE], "rejected": [USER, GREEN]},
            USER["content"], ["It is blue.", "It is green."],
        ),
        ({"prompt": [USER], "chosen": "It is blue.", "rejected": "It is green."}, USER["content"], ["It is blue.", "It is green."]),
    ],
)  # fmt: skip
def test_a_prompt_that_is_not_written_apart_is_what_both_sides_begin_with(
    pair: Any, prompt: str, texts: list[str], cli: Cli, tmp_path: Path
) -> None:
    batch = RolloutFile(imported(cli, tmp_path / "pairs.jsonl", [pair])).read()
    assert [[each["content"] for each in chat] for chat in batch.strings("prompt")] == [[prompt]] * 2
    assert batch.strings("text") == texts


def test_turns_of_others_in_a_response_are_not_the_policys(cli: Cli, tmp_path: Path) -> None:
    asked = {"role": "user", "content": "Sure?"}
    pair = {"prompt": [USER], "chosen": [GREEN, asked, BLUE], "rejected": [GREEN, asked, GREEN]}
    batch = RolloutFile(imported(cli, tmp_path / "pairs.jsonl", [pair])).read()
    said = "".join(map(chr, batch.token_ids[0][batch.mask[: batch.tokens.sizes[0]]].tolist()))
    assert said == GREEN["content"] + BLUE["content"]
    assert len(batch.arrow("step.start")[0].as_py()) == 2


def test_scores_in_the_file_are_the_rewards_and_prompts_can_be_groups(cli: Cli, tmp_path: Path) -> None:
    rows = [TEXT_PAIR | {"score_chosen": 8.5, "score_rejected": 3}, TEXT_PAIR | {"chosen": " red."}]
    batch = RolloutFile(imported(cli, tmp_path / "pairs.jsonl", rows, "--group-by", "prompt")).read()
    assert batch.numbers("reward").tolist() == [8.5, 3.0, 1.0, 0.0]
    assert batch.groups.sizes.tolist() == [4]


def test_a_json_list_and_parquet_read_as_lines_do(cli: Cli, tmp_path: Path) -> None:
    whole, table = tmp_path / "pairs.json", tmp_path / "table.parquet"
    whole.write_text(json.dumps([CHAT_PAIR]), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist([CHAT_PAIR]), table)
    read = []
    for number, source in enumerate((whole, table)):
        out = tmp_path / f"{number}.parquet"
        assert cli("import", source, "-o", out).exit_code == 0
        read.append(RolloutFile(out).read())
    assert read[0].strings("text") == read[1].strings("text") == [BLUE["content"], GREEN["content"]]
    assert read[0].strings("prompt") == read[1].strings("prompt")


def test_pairs_of_two_files_of_one_name_stay_apart(cli: Cli, tmp_path: Path) -> None:
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        files.append(write_lines(tmp_path / folder / "pairs.jsonl", [TEXT_PAIR]))
    out = tmp_path / "out.parquet"
    assert cli("import", *files, "-o", out).exit_code == 0
    assert RolloutFile(out).read().strings("pair_id") == ["pairs.jsonl/0"] * 2 + ["pairs.jsonl#2/0"] * 2


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (TEXT_PAIR | {"rejected": 3}, "rejected: 3, expected a text or a list of messages"),
        (TEXT_PAIR | {"chosen": []}, "chosen: [], expected a text or a list of messages"),
        (TEXT_PAIR | {"prompt": {"a": 1}}, "prompt: {'a': 1}, expected a text or a list of messages"),
        (CHAT_PAIR | {"rejected": "no"}, "rejected: a text, but chosen is a conversation"),
        (TEXT_PAIR | {"score_chosen": "high", "score_rejected": 1}, "score_chosen: 'high', expected a finite number"),
        (TEXT_PAIR | {"score_chosen": 10**400, "score_rejected": 1}, "score_chosen: 1000"),
        (
            TEXT_PAIR | {"score_chosen": float("nan"), "score_rejected": 1},
            "score_chosen: nan, expected a finite number",
        ),
    ],
)
def test_a_pair_that_is_none_is_named_or_left_out(pair: Any, message: str, cli: Cli, tmp_path: Path) -> None:
    source, out = write_lines(tmp_path / "pairs.jsonl", [TEXT_PAIR, pair]), tmp_path / "out.parquet"
    refused = cli("import", source, "-o", out)
    assert refused.exit_code == 3
    (line,) = refused.stderr.strip().splitlines()
    assert f"pairs.jsonl, line 2, {message}" in line
    assert not out.exists()
    assert cli("import", source, "--lenient", "-o", out).exit_code == 4
    assert len(RolloutFile(out).read()) == 2


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ({"chosen": "same", "rejected": "same"}, "1 pairs whose sides are equal"),
        ({"chosen": "yes", "rejected": "no"}, "1 pairs without a prompt"),
        (TEXT_PAIR | {"rejected": ""}, "1 pairs with a side that the policy wrote nothing of"),
        (CHAT_PAIR | {"rejected": [USER]}, "1 pairs with a side that the policy wrote nothing of"),
    ],
)
def test_pairs_that_cannot_be_rows_are_counted(pair: Any, reason: str, cli: Cli, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "pairs.jsonl", [TEXT_PAIR, pair])
    done = cli("import", source, "-o", tmp_path / "out.parquet")
    assert done.exit_code == 4
    assert reason in on_one_line(done.stderr)
    assert len(RolloutFile(tmp_path / "out.parquet").read()) == 2


def test_each_format_is_told_from_its_first_record(tmp_path: Path) -> None:
    labelled = {"prompt": "q", "completion": "a", "label": True}
    records = {
        "preference": [TEXT_PAIR, CHAT_PAIR, CHAT_PAIR | {"messages": [USER, BLUE], "prompt_id": "7"}],
        "unpaired": [labelled, labelled | {"prompt": [USER], "completion": [BLUE]}],
        "text": [
            labelled | {"label": "4"}, labelled | {"label": None}, labelled | {"advantage": 0.5, "step": 1},
            {"prompt": "q", "completion": "a", "step": 1}, {"input": "q", "output": "a", "score": 1.0},
            {"messages": [USER, BLUE]}, {"question": "q", "generation": "a"},
            {"prompt": "q", "response": "a", "chosen": True, "rejected": False},
        ],
        "stepwise": [{"prompt": "q", "completions": ["a"], "labels": [True]}],
        "math_shepherd": [{"input": "q Step 1: a ки", "label": "q Step 1: a +", "task": "MATH"}],
        "prm800k": [{"generation": 9, "question": {"problem": "q"}, "label": {"steps": []}}],
        "processbench": [{"problem": "q", "generator": "m", "steps": ["a"], "label": -1, "final_answer_correct": True}],
    }  # fmt: skip
    for name, several in records.items():
        for record in several:
            assert importer_of(write_lines(tmp_path / "1.jsonl", [record])) == name, record
    assert importer_of(write_lines(tmp_path / "1.jsonl", [{"prompt": "q", "labels": [1]}])) is None


# Pairs of rollouts


def test_the_best_and_the_worst_of_a_group_are_a_pair(cli: Cli, tmp_path: Path) -> None:
    source = rewarded(cli, tmp_path, [0.5, 1.0, 0.0, 0.75, None])
    (pair,) = exported(cli, source, "preference")
    assert pair == {
        "prompt": [USER],
        "chosen": [{"role": "assistant", "content": "r1"}],
        "rejected": [{"role": "assistant", "content": "r2"}],
        "score_chosen": 1.0,
        "score_rejected": 0.0,
    }
    both = exported(cli, source, "preference", most=5, form="text")
    assert [(each["chosen"], each["rejected"]) for each in both] == [("r1", "r2"), ("r3", "r0")]
    assert len(exported(cli, source, "preference", most=5, margin=0.3)) == 1
    refused = cli("export", source, "--format", "preference", "--set", "margin=1.5", "-o", tmp_path / "none.jsonl")
    assert refused.exit_code == 3
    assert "nothing in it becomes a record of preference (1 groups in which nothing differs" in on_one_line(
        refused.stderr
    )
    assert not (tmp_path / "none.jsonl").exists()


def test_what_becomes_no_pair_is_counted(cli: Cli, tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "response": response, "reward": reward, "group_id": group}
        for group, response, reward in (
            ("a", "x", 1.0), ("a", "y", 0.0), ("b", "x", 1.0), ("c", "x", 1.0), ("c", "y", 1.0), ("d", "x", 1.0), ("d", "x", 0.0),
        )
    ]  # fmt: skip
    source, out = imported(cli, tmp_path / "own.jsonl", rows), tmp_path / "pairs.jsonl"
    done = cli("export", source, "--format", "preference", "-o", out)
    assert done.exit_code == 0
    told = on_one_line(done.stderr)
    assert "1 records of preference; left out:" in told
    for reason in ("1 groups with fewer than two", "1 groups in which nothing differs", "1 pairs of equal texts"):
        assert reason in told
    flagged = tmp_path / "filtered.parquet"
    assert cli("filter", source, "--where", "text != 'x'", "-o", flagged).exit_code == 0
    refused = cli("export", flagged, "--format", "preference", "-o", tmp_path / "none.jsonl")
    assert refused.exit_code == 3
    assert "5 rows not to train on" in on_one_line(refused.stderr)


def test_credit_can_say_what_is_better(cli: Cli, tmp_path: Path) -> None:
    source, credit = rewarded(cli, tmp_path, [0.0, 1.0, 0.5]), tmp_path / "credit.parquet"
    assert cli("assign-credit", source, "--method", "rloo", "-o", credit).exit_code == 0
    (pair,) = exported(cli, credit, "preference", by="token.advantage", form="text")
    assert (pair["chosen"], pair["rejected"]) == ("r1", "r0")
    assert (pair["score_chosen"], pair["score_rejected"]) == (0.75, -0.75)  # 1 - (0 + 0.5) / 2
    for column, code in (("text", 2), ("nothing", 3), ("step.start", 2)):
        refused = cli("export", credit, "--format", "preference", "--set", f"by={column}", "-o", tmp_path / "no.jsonl")
        assert refused.exit_code == code, refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1


def test_an_episode_of_several_rows_counts_once_with_its_first_row(cli: Cli, tmp_path: Path) -> None:
    batch = rollouts_of([1.0, 1.0, 1.0, 0.0], tokens=[[98, 98], [97], [99], [100]])
    prompt = pa.array([[USER]] * 4, pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])))
    source = tmp_path / "episodes.parquet"
    columns = {"episode_id": ["e", "e", "e", None], "part": [1, 0, 2, None], "prompt": prompt, "text": list("bacd")}
    write_rollouts(source, [batch.with_columns(columns)], Provenance())
    pairs = exported(cli, source, "preference", most=4)
    assert [(each["chosen"][0]["content"], each["rejected"][0]["content"]) for each in pairs] == [("a", "d")]


def test_responses_in_which_an_environment_wrote_are_left_out(cli: Cli, tmp_path: Path) -> None:
    chat = [USER, GREEN, {"role": "tool", "content": "no"}, BLUE]
    rows = [{"messages": chat, "reward": 1.0, "group": "g"}, {"messages": [USER, GREEN], "reward": 0.0, "group": "g"}]
    source = imported(cli, tmp_path / "own.jsonl", rows)
    refused = cli("export", source, "--format", "preference", "-o", tmp_path / "pairs.jsonl")
    assert refused.exit_code == 3
    assert "1 responses that others than the policy wrote a part of" in on_one_line(refused.stderr)
    assert len(exported(cli, source, "unpaired")) == 1


def test_a_beginning_that_is_not_the_policys_joins_the_prompt(cli: Cli, tmp_path: Path) -> None:
    source, out = imported(cli, tmp_path / "pairs.jsonl", [TEXT_PAIR]), tmp_path / "begun.parquet"
    file = RolloutFile(source)
    batch = file.read()
    mask = batch.token_ids.with_values(batch.tokens.positions >= 1)
    write_rollouts(out, [batch.with_columns({"token.mask": mask})], file.provenance)
    (pair,) = exported(cli, out, "preference", by="pair_role", form="text")
    assert (pair["prompt"], pair["chosen"]) == ("The sky is ", "blue.")
    assert exported(cli, out, "unpaired", form="text")[1] == {
        "prompt": "The sky is ",
        "completion": "green.",
        "label": False,
    }
    refused = cli("export", out, "--format", "unpaired", "-o", tmp_path / "chat.jsonl")
    assert "2 responses whose beginning is not the policy's, which form=text puts into" in on_one_line(refused.stderr)


@pytest.mark.parametrize("form", ["text", "chat"])
def test_pairs_come_back_as_they_were(form: str, cli: Cli, tmp_path: Path) -> None:
    pair = TEXT_PAIR if form == "text" else CHAT_PAIR
    records = [
        pair | {"score_chosen": 0.25, "score_rejected": 0.75},
        pair | {"score_chosen": 1.0, "score_rejected": 0.0},
    ]
    source = imported(cli, tmp_path / "pairs.jsonl", records)
    assert exported(cli, source, "preference", by="pair_role", form=form) == records


def test_exported_pairs_import_as_the_rollouts_that_they_were(cli: Cli, tmp_path: Path) -> None:
    source, out = rewarded(cli, tmp_path, [0.25, 1.0]), tmp_path / "back.parquet"
    exported(cli, source, "preference")
    assert cli("import", tmp_path / "preference.jsonl", "-o", out).exit_code == 0
    before, after = RolloutFile(source).read().take(np.array([1, 0])), RolloutFile(out).read()
    for column in ("prompt", "text", "reward", "prompt_ids", "token.id", "token.mask"):
        assert after.arrow(column).to_pylist() == before.arrow(column).to_pylist(), column


def test_a_pair_of_which_a_half_is_left_out_is_counted_and_a_strange_role_named(cli: Cli, tmp_path: Path) -> None:
    source, out = imported(cli, tmp_path / "pairs.jsonl", [TEXT_PAIR, TEXT_PAIR]), tmp_path / "half.parquet"
    assert cli("filter", source, "--where", "rollout_id != 'pairs.jsonl/1/chosen'", "-o", out).exit_code == 0
    done = cli("export", out, "--format", "preference", "--set", "by=pair_role", "-o", tmp_path / "half.jsonl")
    assert "1 records" in done.stderr
    assert "1 pairs of which a half cannot be written" in on_one_line(done.stderr)
    batch = RolloutFile(source).read()
    write_rollouts(out, [batch.with_columns({"pair_role": ["chosen", "worse"] * 2})], Provenance(), force=True)
    refused = cli("export", out, "--format", "preference", "--set", "by=pair_role", "-o", tmp_path / "no.jsonl")
    assert refused.exit_code == 3
    assert "pair_role 'worse', expected 'chosen' or 'rejected'" in on_one_line(refused.stderr)


def test_hostile_texts_come_through_as_json(cli: Cli, tmp_path: Path) -> None:
    record = {
        "prompt": HOSTILE,
        "chosen": "+" + HOSTILE,
        "rejected": "-" + HOSTILE,
        "score_chosen": 1.0,
        "score_rejected": 0.0,
    }
    source = imported(cli, tmp_path / "pairs.jsonl", [record, record])
    whole = HOSTILE.replace("\ud800", "?")
    expected = {
        "prompt": whole,
        "chosen": "+" + whole,
        "rejected": "-" + whole,
        "score_chosen": 1.0,
        "score_rejected": 0.0,
    }
    assert exported(cli, source, "preference", by="pair_role", form="text") == [expected] * 2
    written = (tmp_path / "preference.jsonl").read_text(encoding="utf-8")
    assert len(written.splitlines()) == 2, "no text ends a line, however a reader counts lines"
    for format, settings in (("unpaired", {}), ("prompt_completion", {})):
        for each in exported(cli, source, format, **settings):
            assert each["completion"][0]["content"] in (expected["chosen"], expected["rejected"])


# Siblings


def siblings(cli: Cli, tmp_path: Path) -> Path:
    """One group's tree: after "ab" it forks into c (1, 1) and d (0, 1), and before it into x (0.5)."""
    said = {"abc1": 1.0, "abc2": 1.0, "abd1": 0.0, "abd2": 1.0, "x": 0.5}
    rows = [
        {"prompt": "p:", "response": text, "reward": reward, "group_id": "g", "id": text}
        for text, reward in said.items()
    ]
    tree = tmp_path / "tree.parquet"
    assert cli("tree-build", imported(cli, tmp_path / "own.jsonl", rows), "-o", tree).exit_code == 0
    return tree


def test_siblings_at_the_fork_with_the_largest_gap_share_a_longer_prompt(cli: Cli, tmp_path: Path) -> None:
    tree = siblings(cli, tmp_path)
    # d forks into 0 and 1, by 1; ab into c at 1 and d at 1/2; the prompt into ab at 3/4 and x at 1/2; c not at all.
    pairs = exported(cli, tree, "preference", siblings="true", most=9)
    assert pairs == [
        {"prompt": "p:abd", "chosen": "2", "rejected": "1", "score_chosen": 1.0, "score_rejected": 0.0},
        {"prompt": "p:ab", "chosen": "c1", "rejected": "d1", "score_chosen": 1.0, "score_rejected": 0.5},
        {"prompt": "p:", "chosen": "abc1", "rejected": "x", "score_chosen": 0.75, "score_rejected": 0.5},
    ]
    assert exported(cli, tree, "preference", siblings="true") == pairs[:1]
    assert exported(cli, tree, "preference", siblings="true", most=9, margin=0.5) == pairs[:2]


def test_siblings_by_credit_compare_the_branches_own_tokens(cli: Cli, tmp_path: Path) -> None:
    tree, credit = siblings(cli, tmp_path), tmp_path / "credit.parquet"
    batch = RolloutFile(tree).read()
    values = batch.token_ids.with_values(np.zeros(batch.num_tokens, np.float32))
    ids = batch.strings("rollout_id")
    for name, place, value in (
        ("abc1", 2, 0.5),
        ("abc2", 2, 0.5),
        ("abd1", 2, -1.0),
        ("abd2", 2, -0.5),
        ("abd2", 3, 0.25),
    ):
        values[ids.index(name)][place] = value
    write_rollouts(credit, [batch.with_columns({"token.advantage": values})], Provenance())
    (pair,) = exported(cli, credit, "preference", siblings="true", by="token.advantage", tokenizer="builtin:characters")
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == ("p:ab", "c1", "d1")
    assert (pair["score_chosen"], pair["score_rejected"]) == (0.5, -0.75)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("siblings=true", "form=chat"), "siblings share the beginning of a message"),
        (("siblings=true", "by=pair_role"), "by=pair_role writes the pairs of the file"),
        (("margin=-1",), "margin must be at least 0"),
        (("form=html",), "form"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    settings: tuple[str, ...], message: str, cli: Cli, tmp_path: Path
) -> None:
    source = imported(cli, tmp_path / "pairs.jsonl", [TEXT_PAIR])
    tree = tmp_path / "tree.parquet"
    assert cli("tree-build", source, "-o", tree).exit_code == 0
    words = [word for each in settings for word in ("--set", each)]
    refused = cli("export", tree, "--format", "preference", *words, "-o", tmp_path / "no.jsonl")
    assert refused.exit_code == 2, refused.stderr
    assert message in on_one_line(refused.stderr)
    assert not (tmp_path / "no.jsonl").exists()


def test_siblings_need_a_tree_and_text_a_tokenizer(cli: Cli, tmp_path: Path) -> None:
    source = imported(cli, tmp_path / "pairs.jsonl", [TEXT_PAIR])
    refused = cli("export", source, "--format", "preference", "--set", "siblings=true", "-o", tmp_path / "no.jsonl")
    assert refused.exit_code == 3
    assert "tree-build" in refused.stderr
    bare = tmp_path / "bare.parquet"
    write_rollouts(bare, [RolloutFile(source).read()], Provenance())
    refused = cli("export", bare, "--format", "preference", "--set", "form=text", "-o", tmp_path / "no.jsonl")
    assert refused.exit_code == 2
    assert "its history names no tokenizer; exporter preference decodes token ids; name their tokenizer" in on_one_line(
        refused.stderr
    )
    assert len(exported(cli, bare, "preference", form="text", tokenizer="builtin:characters")) == 1


def test_texts_of_a_real_tokenizer_are_what_was_read_and_written(cli: Cli, chain: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer("builtin:tiny")
    batch = RolloutFile(chain / "credit.parquet").read()
    whole = {tokenizer.decode(batch.ragged("prompt_ids")[row].tolist()): row for row in batch.groups.starts.tolist()}
    responses = {tokenizer.decode(batch.token_ids[row].tolist(), skip_special_tokens=True) for row in range(len(batch))}
    out = tmp_path / "pairs.jsonl"
    for words in ((), ("--set", "siblings=true")):
        done = cli(
            "export",
            chain / "credit.parquet",
            "--format",
            "preference",
            "--set",
            "form=text",
            *words,
            "-o",
            out,
            "--force",
        )
        assert done.exit_code == 0, done.stderr
        pairs = read_lines(out)
        assert pairs
        for pair in pairs:
            begins = [prompt for prompt in whole if pair["prompt"].startswith(prompt)]
            assert begins
            shared = pair["prompt"].removeprefix(max(begins, key=len))
            assert {shared + pair[role] for role in ("chosen", "rejected")} <= responses
            assert words or not shared


def test_a_beginning_that_the_tokenizer_adds_by_itself_is_not_written(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    folder = tmp_path / "tokenizer"
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text((TINY / "config.json").read_text(encoding="utf-8"), encoding="utf-8")
    read = [tokenizer.bos_token_id, *tokenizer("1+1=", add_special_tokens=False)["input_ids"]]
    said = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("2", "3")]
    source = tmp_path / "sampled.parquet"
    batch = rollouts_of([1.0, 0.0], tokens=said).with_columns({"prompt_ids": [read, read]})
    write_rollouts(source, [batch], Provenance())
    for name, prompt in ((folder, "1+1="), ("builtin:tiny", "<bos>1+1=")):
        (pair,) = exported(cli, source, "preference", form="text", tokenizer=name)
        assert pair == {"prompt": prompt, "chosen": "2", "rejected": "3", "score_chosen": 1.0, "score_rejected": 0.0}
    loaded = AutoTokenizer.from_pretrained(folder)
    assert loaded("1+1=2")["input_ids"] == [*read, *said[0]]


# Labels, and responses to learn from


def test_labelled_responses_are_rewarded_and_grouped_by_prompt(cli: Cli, tmp_path: Path) -> None:
    rows = [
        {"prompt": "q", "completion": "a", "label": True}, {"prompt": "other", "completion": "a", "label": True},
        {"prompt": "q", "completion": "b", "label": False},
    ]  # fmt: skip
    source, credit = imported(cli, tmp_path / "labels.jsonl", rows), tmp_path / "credit.parquet"
    batch = RolloutFile(source).read()
    assert batch.numbers("reward").tolist() == [1, 0, 1]
    assert batch.groups.sizes.tolist() == [2, 1]
    assert cli("assign-credit", source, "--method", "rloo", "-o", credit).exit_code == 0
    assert cli("inspect", credit).exit_code == 0
    back = exported(cli, source, "unpaired", form="text")
    assert back == [rows[0], rows[2], rows[1]]


def test_a_label_that_is_none_is_named(cli: Cli, tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": "a", "label": True}, {"prompt": "q", "completion": "a", "label": 1}]
    refused = cli("import", write_lines(tmp_path / "labels.jsonl", rows), "-o", tmp_path / "out.parquet")
    assert refused.exit_code == 3
    assert "line 2, label: 1, expected true or false" in on_one_line(refused.stderr)


def test_labels_are_rewards_from_a_threshold_on_or_the_sign_of_credit(cli: Cli, tmp_path: Path) -> None:
    source, credit = rewarded(cli, tmp_path, [0.5, 0.25, 0.75, None]), tmp_path / "credit.parquet"
    assert [each["label"] for each in exported(cli, source, "unpaired")] == [True, False, True]
    assert [each["label"] for each in exported(cli, source, "unpaired", threshold=0.75)] == [False, False, True]
    full = rewarded(cli, tmp_path, [0.5, 0.25, 0.75], name="full")
    assert cli("assign-credit", full, "--method", "rloo", "-o", credit).exit_code == 0
    done = cli("export", credit, "--format", "unpaired", "--set", "by=token.advantage", "-o", tmp_path / "credit.jsonl")
    assert "1 rows whose token.advantage is 0" in on_one_line(done.stderr)
    written = read_lines(tmp_path / "credit.jsonl")
    assert [(each["completion"][0]["content"], each["label"]) for each in written] == [("r1", False), ("r2", True)]


def test_accepted_responses_are_written_with_their_weight(cli: Cli, tmp_path: Path) -> None:
    source, out = rewarded(cli, tmp_path, [1.0, 0.0, 0.5, None, None]), tmp_path / "weighted.parquet"
    batch = RolloutFile(source).read()
    flags = pa.array([[], [], [], ["demonstration"], []], pa.list_(pa.string()))
    write_rollouts(
        out, [batch.with_columns({"weight": pa.array([2.0, 1.0, None, 0.5, 1.0]), "flags": flags})], Provenance()
    )
    rows = exported(cli, out, "prompt_completion")
    assert [(each["completion"][0]["content"], each["weight"]) for each in rows] == [
        ("r0", 2.0),
        ("r2", 1.0),
        ("r3", 0.5),
    ]
    assert all(each["prompt"] == [USER] for each in rows)
    assert len(exported(cli, out, "prompt_completion", by="")) == 5
    assert len(exported(cli, out, "prompt_completion", threshold=0.75)) == 2
