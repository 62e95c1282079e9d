"""Which rollouts `inspect` shows, and how much of a file it reads for them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from apportion.formats.parquet import RolloutFile, RolloutWriter
from apportion.formats.provenance import Provenance
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from typer.testing import Result

GROUPS = ["a", "2", "c", "d", "e", "f"]  # the second is called by a number
ROWS = 2  # of each


@pytest.fixture
def six(tmp_path: Path) -> Path:
    """Six groups of two, each in a row group of its own. Lengths 1 to 12; the even rows are right."""
    path = tmp_path / "six.parquet"
    rows = ROWS * len(GROUPS)
    batch = rollouts_of([1.0, 0.0] * len(GROUPS), tokens=[[5] * (row + 1) for row in range(rows)], groups=[row // ROWS for row in range(rows)])  # fmt: skip
    names = {"group_id": [GROUPS[row // ROWS] for row in range(rows)], "rollout_id": [f"r{row}" for row in range(rows)]}
    writer = RolloutWriter(path, "six", tokens_per_row_group=1)
    writer.write(batch.with_columns(names))
    writer.close(Provenance())
    assert RolloutFile(path).num_row_groups == len(GROUPS)
    return path


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of the row groups that are read whole."""
    found: list[int] = []
    plain = RolloutFile.row_groups

    def counted(self: RolloutFile, columns: list[str] | None = None) -> Iterator[Rollouts]:
        for part in plain(self, columns):
            if columns is None:
                found.append(len(part))
            yield part

    monkeypatch.setattr(RolloutFile, "row_groups", counted)
    return found


CHOICES = {
    "the first group": ((), ["r0", "r1"], 2),
    "two groups": (("--limit", 2), ["r0", "r1", "r2", "r3"], 3),
    "none": (("--limit", 0), [], 2),
    "a group by name": (("--group", "c"), ["r4", "r5"], 4),
    "a name that looks like a number": (("--group", "2"), ["r2", "r3"], 3),
    "a group by number": (("--group", "3"), ["r6", "r7"], 5),
    "a rollout by name": (("--rollout", "r5"), ["r5"], 4),
    "a rollout by row": (("--rollout", "7"), ["r7"], 5),
    "by what is true": (("--where", "length > 7"), ["r6", "r7"], 5),
    "rows count from the file's start": (("--where", "row == 9"), ["r8", "r9"], 6),
    "a number counts what is true": (("--where", "length > 7", "--group", "1"), ["r8", "r9"], 6),
    "a rollout of what is true": (("--where", "length > 7", "--rollout", "1"), ["r7"], 5),
    "more than there is": (("--limit", 99), [f"r{row}" for row in range(12)], 6),
}


@pytest.mark.parametrize("name", CHOICES)
def test_what_is_shown_and_how_far_is_read(name: str, cli: Callable[..., Result], six: Path, read: list[int]) -> None:
    """A row group more than is needed, as a group might go on in the next."""
    words, rows, row_groups = CHOICES[name]
    shown = json.loads(cli("inspect", six, "--json", "--no-stats", *words).stdout)
    assert [each["rollout_id"] for each in shown["rollouts"]] == rows
    assert len(read) == row_groups
    read.clear()
    whole = json.loads(cli("inspect", six, "--json", *words).stdout)
    assert whole["rollouts"] == shown["rollouts"]
    assert (len(read), whole["statistics"]["rollouts"]) == (6, 12)


FAULTS = {
    "group": (("--group", "cc"), "unknown group 'cc'; did you mean 'c'?"),
    "number": (("--group", "6"), "unknown group '6'; choose from: 2, a, c, d, e, f"),
    "rollout": (("--rollout", "r12"), "unknown rollout 'r12'; did you mean 'r"),
    "true of none": (("--where", "length > 12"), "--where length > 12: true of no rollout in the file"),
    "true of none, by name": (("--where", "length > 12", "--group", "a"), "true of no rollout in the file"),
    "not among those it is true of": (("--where", "length > 7", "--group", "a"), "unknown group 'a'; choose from: d, e, f"),
    "no column": (("--where", "lenth > 7"), "unknown column 'lenth'; did you mean 'length'?"),
    "no groups for a page": (("--limit", 0, "--html", "new.html"), "--limit must be at least 1 with --html"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name: str, cli: Callable[..., Result], six: Path) -> None:
    words, line = FAULTS[name]
    result = cli("inspect", six, *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert line in result.stderr
