"""What `sample` writes."""

from collections.abc import Callable
from inspect import Parameter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import UsageError
from apportion.formats.parquet import RolloutFile
from apportion.formats.rollouts import Rollouts
from apportion.stages.core.options import options_of
from apportion.stages.models.policy import load_tokenizer
from apportion.stages.sample import sample
from apportion.stages.sample.kind import STRATEGIES
from apportion.stages.score import score
from apportion.stages.tasks import open_task

Sampled = Callable[..., Rollouts]


@pytest.fixture
def sampled(tmp_path: Path) -> Sampled:
    """Sample into a file of its own and read it."""

    def run(name: str = "rollouts", **options: Any) -> Rollouts:
        out = tmp_path / f"{name}.parquet"
        sample(**{"prompts": 4, "n": 3, "max_tokens": 24, "device": "cpu", "out": out, **options})
        return RolloutFile(out).read()

    return run


def test_the_same_seed_writes_the_same_table(sampled: Sampled) -> None:
    assert sampled("first", seed=5).table.equals(sampled("again", seed=5).table)


@pytest.mark.parametrize("option", [{"seed": 1}, {"round": 1}, {"split": "test"}], ids=str)
def test_another_seed_round_or_split_has_other_problems(sampled: Sampled, option: dict[str, Any]) -> None:
    first, other = sampled("first"), sampled("other", **option)
    assert not set(first.strings("problem_id")) & set(other.strings("problem_id"))
    assert not set(first.strings("rollout_id")) & set(other.strings("rollout_id"))


def test_rollouts_of_a_prompt_are_neighbours_in_one_group(sampled: Sampled) -> None:
    rollouts = sampled()
    assert rollouts.groups.sizes.tolist() == [3, 3, 3, 3]
    assert len(set(rollouts.strings("group_id"))) == 4
    assert len(set(rollouts.strings("rollout_id"))) == len(set(rollouts.numbers("seed").tolist())) == 12


REQUIRED = {"budget": {"history": ["none"]}, "dynamic": {"live": 1}}


@pytest.mark.parametrize("name", [each.name for each in STRATEGIES])
def test_options_of_no_meaning(name: str, tmp_path: Path) -> None:
    options = options_of(STRATEGIES[name].function)
    required = REQUIRED.get(name, {})
    assert set(required) == {key for key, option in options.items() if option.default is Parameter.empty}
    wrong = {
        key: (float("nan"), "must be a number, got nan") for key in options if isinstance(options[key].default, float)
    }
    if "rows_at_once" in options:
        wrong["rows_at_once"] = (0, "must be at least 1, got 0")
    for key, (value, message) in wrong.items():
        with pytest.raises(UsageError, match=f"strategy {name}: {key} {message}"):
            sample(strategy=name, settings={**required, key: value}, out=tmp_path / "out")


def test_parts_written_one_after_another_are_the_same_file(sampled: Sampled) -> None:
    whole, parts = sampled("whole"), sampled("parts", settings={"rows_at_once": 3})
    assert whole.token_ids.values.tolist() == parts.token_ids.values.tolist()
    assert whole.strings("rollout_id") == parts.strings("rollout_id")


def test_more_samples_begin_with_the_same_ones(sampled: Sampled) -> None:
    few, many = sampled("few", n=2), sampled("many", n=3)
    assert [text for row, text in enumerate(many.strings("text")) if row % 3 < 2] == few.strings("text")


def test_a_response_cut_by_the_limit_is_flagged_truncated(sampled: Sampled) -> None:
    short = sampled("short", max_tokens=3)
    assert short.flagged("truncated").all()
    assert set(short.strings("finish_reason")) == {"length"}
    long = sampled("long", max_tokens=64)
    np.testing.assert_array_equal(long.flagged("truncated"), np.array(long.strings("finish_reason")) == "length")
    assert not long.flagged("truncated").all()


def test_the_text_is_the_tokens_decoded_without_the_end(sampled: Sampled) -> None:
    rollouts, tokenizer = sampled(), load_tokenizer("builtin:tiny")
    ids = rollouts.arrow("token.id").to_pylist()
    for text, row, reason in zip(rollouts.strings("text"), ids, rollouts.strings("finish_reason"), strict=True):
        assert tokenizer.decode(row) == text + ("<eos>" if reason == "stop" else "")


def test_every_row_says_how_it_was_sampled(sampled: Sampled) -> None:
    rollouts = sampled(temperature=0.5, top_p=0.75, top_k=7, purpose="probe")
    for column, value in (("temperature", 0.5), ("top_p", 0.75), ("top_k", 7), ("purpose", "probe")):
        assert set(rollouts.strings(column)) == {value}


def test_the_prompt_is_what_the_model_read(sampled: Sampled) -> None:
    rollouts, tokenizer = sampled(), load_tokenizer("builtin:tiny")
    for prompt, ids in zip(rollouts.strings("prompt"), rollouts.strings("prompt_ids"), strict=True):
        assert tokenizer.decode(ids) == f"<bos>{prompt[0]['content']}<answer>"


@pytest.mark.parametrize(("mistakes", "rewards"), [(0.0, {1.0}), (1.0, {0.0}), (0.3, {0.0, 1.0})])
def test_demonstrations_are_right_unless_mistakes_are_asked_for(
    sampled: Sampled, tmp_path: Path, mistakes: float, rewards: set[float]
) -> None:
    sampled("shown", strategy="demonstrate", settings={"mistakes": mistakes}, prompts=16)
    score(tmp_path / "shown.parquet", out=tmp_path / "scored.parquet")
    scored = RolloutFile(tmp_path / "scored.parquet").read()
    assert set(scored.numbers("reward").tolist()) == rewards
    assert scored.flagged("demonstration").all()


def test_demonstrations_are_of_the_problems_that_would_be_sampled(sampled: Sampled) -> None:
    shown = sampled("shown", strategy="demonstrate")
    assert shown.strings("problem_id") == sampled("sampled").strings("problem_id")
    expected = [problem.problem_id for problem in open_task("arithmetic").problems("train", 4, 0)]
    assert len(set(shown.strings("problem_id"))) == len(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": 0}, "--prompts must be between 1 and 10,000,000, got 0"),
        ({"n": 0}, "--n must be between 1 and 1,000,000, got 0"),
        ({"max_tokens": 0}, "--max-tokens must be at least 1, got 0"),
        ({"temperature": -1.0}, "--temperature must be between 0 and 1,000, got -1"),
        ({"top_p": -0.1}, "--top-p must be between 0 and 1, got -0.1"),
        ({"top_p": 1.5}, "--top-p must be between 0 and 1, got 1.5"),
        ({"strategy": "independant"}, "did you mean 'independent'"),
        ({"settings": {"row_at_once": 3}}, "did you mean 'rows_at_once'"),
        ({"task_settings": {"term": 3}}, "did you mean 'terms'"),
        ({"task": "arithmetics"}, "did you mean 'arithmetic'"),
        ({"engine": "transformer"}, "did you mean 'transformers'"),
    ],
    ids=str,
)
def test_wrong_options_are_refused_and_leave_nothing(
    sampled: Sampled, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        sampled(**options)
    assert not list(tmp_path.iterdir())
