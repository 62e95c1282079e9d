"""Guide: hints where everything failed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from apportion.formats.errors import DataError, UsageError
from apportion.formats.invariants import broken_invariants
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.rollouts import Rollouts
from apportion.stages.models.policy import load_policy, load_tokenizer
from apportion.stages.sample import sample
from apportion.stages.score import score

Hinted = Callable[..., Rollouts]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Groups of two, some failed, some solved."""
    folder = tmp_path_factory.mktemp("hint")
    sample(prompts=16, n=2, seed=3, max_tokens=40, device="cpu", out=folder / "rollouts")
    score(folder / "rollouts", out=folder / "scored")
    return folder / "scored"


@pytest.fixture
def hinted(scored: Path, tmp_path: Path) -> Hinted:
    def run(rollouts: Path = scored, options: dict[str, Any] | None = None, **settings: Any) -> Rollouts:
        settings = {"hint_from": "demonstration:2", "template": "{question}\n{hint}"} | settings
        sample(
            strategy="hint", rollouts=rollouts, settings=settings, n=4, seed=4, max_tokens=40, device="cpu",
            out=tmp_path / "hinted", force=True, **(options or {}),
        )  # fmt: skip
        return RolloutFile(tmp_path / "hinted").read()

    return run


def test_failed_groups_get_a_second_one_behind_them(scored: Path, hinted: Hinted) -> None:
    before, after = RolloutFile(scored).read(), hinted()
    assert list(broken_invariants(after)) == []
    mean = before.groups.mean(before.numbers("reward"))
    names = before.arrow("group_id").to_pylist()[::2]
    expected = [
        name for group, name in enumerate(names) for name in ([name, f"{name}/hinted"] if mean[group] == 0 else [name])
    ]
    assert (mean == 0).any()
    assert (mean > 0).any()
    assert after.arrow("group_id").to_pylist()[0] == names[0]
    assert list(dict.fromkeys(after.strings("group_id"))) == expected
    new = after.flagged("hinted")
    own = after.take(np.flatnonzero(~new))
    for path in before.paths:
        if path != "flags":
            assert own.arrow(path).equals(before.arrow(path)), path


def test_what_is_trained_has_no_hint_and_what_was_read_has_one(hinted: Hinted) -> None:
    after = hinted()
    new = np.flatnonzero(after.flagged("hinted"))
    made, tokenizer = after.take(new), load_tokenizer("builtin:tiny")
    model = load_policy("builtin:tiny", device="cpu").model
    prompts, read, logprob = (made.ragged(path) for path in ("prompt_ids", "behaviour_prompt_ids", "token.logprob"))
    assert not after.take(np.flatnonzero(~after.flagged("hinted"))).arrow("behaviour_prompt_ids").drop_null()
    for row in range(len(made)):
        plain, guided = tokenizer.decode(prompts[row]), tokenizer.decode(read[row])
        assert guided.startswith(plain.removesuffix("<answer>"))
        assert guided.count("\n") == plain.count("\n") + 2
        ids = np.concatenate((read[row], made.token_ids[row])).astype(np.int64)
        with torch.inference_mode():
            logits = model(torch.from_numpy(ids)[None]).logits[0].float()
        whole = torch.log_softmax(logits[:-1], -1).gather(1, torch.from_numpy(ids)[1:, None])[:, 0]
        np.testing.assert_allclose(logprob[row], whole[len(read[row]) - 1 :].numpy(), atol=1e-4)


def test_groups_that_teach_nothing_are_flagged_and_kept(scored: Path, hinted: Hinted) -> None:
    after = hinted()
    mean = after.groups.spread(after.groups.mean(after.numbers("reward")))
    assert after.flagged("filtered").tolist() == ((mean == 0) | (mean == 1)).tolist()
    kept = hinted(replaced="keep")
    assert not kept.flagged("filtered").any()


def test_hints_of_a_column(scored: Path, hinted: Hinted, tmp_path: Path) -> None:
    file = RolloutFile(scored)
    batch = file.read()
    write_rollouts(tmp_path / "with", [batch.with_columns({"hint": ["1+2=3"] * len(batch)})], Provenance())
    after = hinted(tmp_path / "with", hint_from="column:hint")
    read = after.ragged("behaviour_prompt_ids")
    rows = np.flatnonzero(after.flagged("hinted")).tolist()
    tokenizer = load_tokenizer("builtin:tiny")
    assert rows
    assert all(tokenizer.decode(read[row]).endswith("\n1+2=3<answer>") for row in rows)
    assert after.arrow("hint").take(rows).null_count == len(rows)
    write_rollouts(tmp_path / "without", [batch.with_columns({"hint": [None] * len(batch)})], Provenance())
    with pytest.raises(DataError, match="column 'hint': missing; a group that failed needs a hint"):
        hinted(tmp_path / "without", hint_from="column:hint")
    with pytest.raises(DataError, match="no column 'advice', which strategy 'hint' needs"):
        hinted(hint_from="column:advice")


@pytest.mark.parametrize(("settings", "message"), [
    ({"template": "{question}"}, "template must have {hint} in it"),
    ({"hint_from": "somewhere"}, "must be column:NAME or demonstration:N, got 'somewhere'"),
    ({"hint_from": "demonstration:all"}, "must be column:NAME or demonstration:N"),
])  # fmt: skip
def test_bad_options_are_refused(hinted: Hinted, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        hinted(**settings)


def test_only_what_the_policy_made_of_the_prompt_counts(scored: Path, hinted: Hinted, tmp_path: Path) -> None:
    """Half of each group is right: what becomes of it is up to the wrong half's being looked at."""
    batch = RolloutFile(scored).read()
    second = np.arange(len(batch)) % 2 == 1
    batch = batch.with_columns({"reward": np.where(second, 1.0, 0.0).tolist()})
    none, every = 0, len(batch.groups)
    probes = batch.with_columns({"purpose": ["probe" if each else "train" for each in second]})
    unknown = [None if each else 0.0 for each in second]
    for name, changed, failed in (
        ("plain", batch, none),
        ("probes", probes, every),
        ("errors", batch.with_flag("error", second).with_columns({"reward": unknown}), every),
        ("demonstrations", batch.with_flag("demonstration", second), every),
        ("filtered", batch.with_flag("filtered", second), none),
        ("hinted", batch.with_flag("hinted", second | True), none),
    ):
        write_rollouts(tmp_path / f"{name}.parquet", [changed], Provenance())
        after = hinted(tmp_path / f"{name}.parquet")
        assert len(after.groups) - len(batch.groups) == failed, name
        assert list(broken_invariants(after)) == []


def test_the_same_hints_are_not_given_twice(hinted: Hinted, tmp_path: Path) -> None:
    hinted()
    (tmp_path / "hinted").rename(tmp_path / "once")
    with pytest.raises(DataError, match=r"/hinted@.*/0' already exists: .* choose another --seed or --round"):
        hinted(tmp_path / "once")


def test_what_is_taught_is_what_is_asked(scored: Path, hinted: Hinted, tmp_path: Path) -> None:
    """`critique` renders a hint as `hint` does, and answers with the worked solution."""
    settings = {"of": "hint", "hint_from": "demonstration:2", "template": "{question}\n{hint}"}
    sample(strategy="critique", rollouts=scored, settings=settings, seed=4, out=tmp_path / "lessons")
    lessons = RolloutFile(tmp_path / "lessons").read()
    taught = lessons.take(np.flatnonzero(lessons.flagged("demonstration")))
    assert len(taught) == len(RolloutFile(scored).read().groups)
    asked = hinted().ragged("behaviour_prompt_ids")
    questions = {tuple(taught.ragged("prompt_ids")[row].tolist()) for row in range(len(taught))}
    assert {tuple(asked[row].tolist()) for row in np.flatnonzero(asked.segments.sizes).tolist()} <= questions
    assert len(questions) == len(taught)
    score(tmp_path / "lessons", out=tmp_path / "verified")
    reward = RolloutFile(tmp_path / "verified").read()
    assert (reward.numbers("reward")[reward.flagged("demonstration")] == 1).all()


@pytest.mark.parametrize(("settings", "message"), [
    ({"of": "hint", "solution_from": "somewhere"}, "solution_from must be column:NAME or demonstration, got 'somewhere'"),
    ({"of": "hint", "hint_from": "somewhere"}, "must be column:NAME or demonstration:N, got 'somewhere'"),
    ({"of": "verdict", "hint_from": "column:hint"}, "no effect with of=verdict"),
])  # fmt: skip
def test_bad_options_of_what_is_taught_are_refused(
    scored: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        sample(strategy="critique", rollouts=scored, settings=settings, out=tmp_path / "lessons")


def test_how_many_hinted_groups_are_left_to_learn_from_is_said(
    hinted: Hinted, capsys: pytest.CaptureFixture[str]
) -> None:
    after = hinted()
    new = after.flagged("hinted")
    live = len(
        {name for name, own in zip(after.strings("group_id"), new & ~after.flagged("filtered"), strict=True) if own}
    )
    groups = len({name for name, own in zip(after.strings("group_id"), new, strict=True) if own})
    assert f"hint: {groups} groups failed and were sampled again with a hint; {live} of them" in capsys.readouterr().err
