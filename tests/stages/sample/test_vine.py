"""Probes: what `sample --from … --strategy vine` adds beside the rollouts it continues."""

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
from apportion.stages.sample import sample
from apportion.stages.score import score
from typer.testing import Result

Probed = Callable[..., Rollouts]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rollouts with steps, a line each."""
    folder = tmp_path_factory.mktemp("vine")
    sample(prompts=3, n=3, seed=3, max_tokens=32, device="cpu", out=folder / "rollouts.parquet")
    score(folder / "rollouts.parquet", scorer="steps", out=folder / "steps.parquet")
    return folder / "steps.parquet"


@pytest.fixture
def probed(split: Path, tmp_path: Path) -> Probed:
    """Continue the rollouts into a file of its own and read it."""

    def run(name: str = "probed", settings: dict[str, Any] | None = None, **options: Any) -> Rollouts:
        out = tmp_path / f"{name}.parquet"
        sample(
            **{"strategy": "vine", "rollouts": split, "settings": {"k": 2, **(settings or {})}, "seed": 4}
            | {"max_tokens": 32, "device": "cpu", "out": out}
            | options
        )
        return RolloutFile(out).read()

    return run


def own_and_probes(rollouts: Rollouts) -> tuple[Rollouts, Rollouts]:
    purpose = np.array(rollouts.strings("purpose"))
    return rollouts.take(np.flatnonzero(purpose == "train")), rollouts.take(np.flatnonzero(purpose == "probe"))


def test_every_distinct_step_start_is_continued_k_times(split: Path, probed: Probed) -> None:
    before = RolloutFile(split).read()
    own, probes = own_and_probes(probed())
    assert own.table.select(before.table.column_names).equals(before.table)
    states = {
        (group, tuple(before.token_ids[row][:start].tolist()))
        for row, group in enumerate(before.strings("group_id"))
        for start in before.ragged("step.start")[row].tolist()
    }
    continued = [
        (group, tuple(probes.token_ids[row][:fork].tolist()))
        for row, (group, fork) in enumerate(zip(probes.strings("group_id"), probes.numbers("fork"), strict=True))
    ]
    assert set(continued) == states
    assert len(continued) == 2 * len(states)


def test_a_probe_begins_like_its_parent_and_says_what_is_new(probed: Probed) -> None:
    own, probes = own_and_probes(probed())
    rows = {name: row for row, name in enumerate(own.strings("rollout_id"))}
    logprob, tokenizer = probes.ragged("token.logprob"), load_tokenizer("builtin:tiny")
    for row, (parent, fork) in enumerate(zip(probes.strings("parent_id"), probes.numbers("fork"), strict=True)):
        ids = probes.token_ids[row]
        mask = probes.mask[probes.tokens.starts[row] : probes.tokens.offsets[row + 1]]
        assert ids[:fork].tolist() == own.token_ids[rows[parent]][:fork].tolist()
        assert mask.tolist() == [False] * fork + [True] * (len(ids) - fork)
        assert not logprob[row][:fork].any()
        assert tokenizer.decode(ids, skip_special_tokens=True) == probes.strings("text")[row]
        assert len(ids) <= 32
        assert probes.flagged("truncated")[row] == (probes.strings("finish_reason")[row] == "length")
    for column in ("group_id", "problem_id", "prompt", "reference", "prompt_ids", "task"):
        parents = own.take(np.array([rows[name] for name in probes.strings("parent_id")]))
        assert parents.arrow(column).to_pylist() == probes.arrow(column).to_pylist()


def test_the_same_seed_writes_the_same_table_in_any_parts(probed: Probed) -> None:
    first, parts = probed("first"), probed("parts", {"rows_at_once": 1})
    assert first.table.equals(probed("again").table)
    assert first.strings("rollout_id") == parts.strings("rollout_id")
    assert first.token_ids.values.tolist() == parts.token_ids.values.tolist()
    assert not first.table.equals(probed("other", seed=5).table)


def test_groups_stay_together(probed: Probed) -> None:
    rollouts = probed()
    assert len(rollouts.groups) == len(set(rollouts.strings("group_id"))) == 3


@pytest.mark.parametrize(("settings", "kept"), [({"every": 2}, lambda place: place % 2 == 0), ({"max_states": 2}, lambda place: place < 2)])  # fmt: skip
def test_fewer_states(probed: Probed, split: Path, settings: dict[str, Any], kept: Callable[[int], bool]) -> None:
    _, probes = own_and_probes(probed(settings=settings))
    before = RolloutFile(split).read()
    rows = {name: row for row, name in enumerate(before.strings("rollout_id"))}
    for parent, fork in zip(probes.strings("parent_id"), probes.numbers("fork"), strict=True):
        assert kept(before.ragged("step.start")[rows[parent]].tolist().index(fork))


def test_a_smaller_budget_cuts_what_would_have_been_longer(probed: Probed) -> None:
    _, long = own_and_probes(probed("long"))
    _, short = own_and_probes(probed("short", max_tokens=14))
    assert short.tokens.sizes.max() <= 14
    by_name = {name: long.token_ids[row].tolist() for row, name in enumerate(long.strings("rollout_id"))}
    for row, name in enumerate(short.strings("rollout_id")):
        assert by_name[name][:14] == short.token_ids[row].tolist()
    assert short.numbers("fork").max() < 14


def test_probes_of_probes_are_not_sampled(probed: Probed, tmp_path: Path) -> None:
    first = probed("first")
    again = probed("again", rollouts=tmp_path / "first.parquet", round=1)
    assert len(again) - len(first) == len(own_and_probes(first)[1])


@pytest.mark.parametrize(
    ("settings", "method", "options"),
    [({}, "vineppo", {}), ({"at": "unlikely", "every": 2}, "spo_chain", {"every": 2, "mask_above": None})],
)
def test_the_chain_to_credit(
    probed: Probed, tmp_path: Path, settings: dict[str, Any], method: str, options: dict[str, Any]
) -> None:
    probed("probed", settings)
    score(tmp_path / "probed.parquet", out=tmp_path / "scored.parquet")
    assign_credit(tmp_path / "scored.parquet", method=method, settings=options, out=tmp_path / "credit.parquet")
    own, probes = own_and_probes(RolloutFile(tmp_path / "credit.parquet").read())
    assert own.ragged("token.advantage").values.any()
    assert probes.arrow("token.advantage").null_count == len(probes)


def test_the_history_goes_on_and_can_be_typed_again(cli: Callable[..., Result], probed: Probed, tmp_path: Path) -> None:
    probed("probed")
    lines = cli("log", tmp_path / "probed.parquet", "--shell").stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["sample", "score", "sample"]
    assert "--from scored.parquet" in lines[-1]
    assert "--strategy vine" in lines[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rollouts": None}, "name them with --from FILE"),
        ({"strategy": "independent", "settings": {}}, "--strategy independent starts at the prompt"),
        ({"settings": {"k": 0}}, "strategy vine: k must be at least 1, got 0"),
        ({"rollouts": Path("nowhere.parquet")}, "nowhere.parquet: no such file"),
    ],
    ids=str,
)
def test_wrong_use_is_refused_and_leaves_nothing(
    split: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    given = {"strategy": "vine", "rollouts": split, "device": "cpu", "out": tmp_path / "out.parquet"} | options
    with pytest.raises(UsageError, match=message):
        sample(**given)
    assert not list(tmp_path.iterdir())


def test_rollouts_without_steps_name_what_makes_them(split: Path, probed: Probed) -> None:
    with pytest.raises(DataError, match="score IN --with steps"):
        probed(rollouts=split.parent / "rollouts.parquet")


def test_what_an_environment_wrote_cannot_be_continued(split: Path, tmp_path: Path, probed: Probed) -> None:
    batch = RolloutFile(split).read()
    mask = batch.mask.copy()
    mask[1] = False
    path = tmp_path / "masked.parquet"
    write_rollouts(path, [batch.with_columns({"token.mask": batch.token_ids.with_values(mask)})], Provenance())
    with pytest.raises(DataError, match="vine needs responses written by the policy alone"):
        probed(rollouts=path)
