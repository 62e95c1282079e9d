"""Random valid files with one defect planted: `validate` names it, and no stage reads past it."""

import copy
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apportion.cli.main import app
from apportion.formats.invariants import RULES
from apportion.formats.parquet import RolloutWriter
from apportion.formats.provenance import Provenance
from apportion.formats.rollouts import Rollouts
from apportion.formats.seal import seal
from apportion.stages.assign_credit._apply import assign_to
from apportion.stages.structure.prefix_tree import add_prefix_tree
from hypothesis import HealthCheck, Phase, assume, given, reject, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

# The same examples every time; HYPOTHESIS_EXPLORE=1 draws new ones.
FEW = settings(
    max_examples=9, deadline=None, derandomize="HYPOTHESIS_EXPLORE" not in os.environ, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large], phases=(Phase.explicit, Phase.generate),
)  # fmt: skip

Row = dict[str, Any]
Data = st.DataObject
COMMANDS = {
    "tree-build": "tree-build IN -o OUT",
    "tree-build --by step": "tree-build IN --by step -o OUT",
    "score": "score IN --with verify -o OUT",
    "score --with states": "score IN --with states --set window=tokens --set model=builtin:tiny -o OUT",
    "grpo": "assign-credit IN --method grpo -o OUT",
    "rloo": "assign-credit IN --method rloo --as rloo -o OUT",
    "tempo": "assign-credit IN --method tempo --as tempo -o OUT",
    "upgrade": "upgrade IN -o OUT",
    "eval rollouts": "eval rollouts IN",
    "inspect": "inspect IN --json",
    "filter": "filter IN --where length>0 -o OUT",
    "filter --drop": "filter IN --where reward>=0.5 --drop -o OUT",
    "split": "split IN --by task -o OUT",
    "merge": "merge IN -o OUT",
    "diff": "diff IN --columns advantage,mine --limit 0",
    "show --where": "show IN --where reward>=0",
    "head": "head IN --rows 100",
    "show": "show IN",
    "digest": "digest IN",
    "train": "train IN --device cpu -o OUT",
}
UNCHECKED = {"head", "show", "digest"}  # made to look at what is broken, and to tell whether a copy of it is whole
NAMES = {"rollout_id", "group_id", "token.id"}
READ = {  # by the commands that write no rollouts, or not all of them
    "eval rollouts": NAMES | {"reward"},
    "filter --drop": NAMES | {"reward"},
    "diff": NAMES | {"reward", "token.mask", "token.advantage", "token.mine"},
    "show --where": NAMES | {"reward"},
    "train": NAMES | {"token.mask", "token.logprob", "token.advantage", "prompt_ids", "weight"},
}
HEALS = {  # rules of a column that the command makes anew, or of the rows' order
    "tree-build": {
        ("out_of_range", "node.visits"),
        ("node_spans", "node.start"),
        ("node_spans", "node.end"),
        ("siblings", "node.id"),
    },
    "tree-build --by step": {
        ("out_of_range", "node.visits"),
        ("node_spans", "node.start"),
        ("node_spans", "node.end"),
        ("siblings", "node.id"),
    },
    "score": {("finite", "reward")},
    "grpo": {("finite", "token.advantage"), ("masked_credit", "token.advantage")},
    "upgrade": {("split_group", "group_id")},
}


@dataclass
class File:
    """Rows, and how many of them each row group has."""

    rows: list[Row]
    sizes: list[int]
    schema: pa.Schema = field(repr=False)

    def groups(self) -> list[list[int]]:
        """Row numbers of each group."""
        found: dict[str, list[int]] = {}
        for number, row in enumerate(self.rows):
            found.setdefault(row["group_id"], []).append(number)
        return list(found.values())

    def write(self, path: Path) -> None:
        """With pyarrow alone, which checks nothing."""
        with pq.ParquetWriter(path, self.schema) as writer:
            for start, end in pairwise([0, *accumulate(self.sizes)]):
                writer.write_table(pa.Table.from_pylist(self.rows[start:end], self.schema))
        seal(path)


@st.composite
def valid_files(draw: st.DrawFn) -> File:
    """Two to four groups that went through tree-build and assign-credit, in one or several row groups."""
    group_sizes = draw(st.lists(st.integers(2, 4), min_size=2, max_size=4))
    rows: list[Row] = []
    for group, size in enumerate(group_sizes):
        for _ in range(size):
            ids = draw(st.lists(st.integers(4, 6), max_size=6))
            cuts = sorted(draw(st.sets(st.integers(0, len(ids)), max_size=3)))
            floats = st.lists(st.floats(-9, 0, width=32), min_size=len(ids), max_size=len(ids))
            rows.append(
                {
                    "rollout_id": f"r{len(rows)}", "group_id": f"g{group}", "task": "arithmetic",
                    "task_options": "{}", "reference": "6", "text": "=6", "prompt_ids": [1, 2], "purpose": "train",
                    "flags": [], "weight": draw(st.sampled_from([1.0, 0.5, None])), "mine": draw(st.integers(-9, 9)),
                    "reward": draw(st.sampled_from([0.0, 0.5, 1.0])), "rewards": {"format": draw(st.floats(0, 1))},
                    "token": {
                        "id": ids, "logprob": draw(floats), "mine": draw(floats),
                        "mask": [draw(st.integers(0, 3)) > 0 for _ in ids],
                    },
                    "step": {
                        "start": cuts[:-1], "end": cuts[1:], "kind": ["step"] * max(0, len(cuts) - 1),
                    },
                }
            )  # fmt: skip
    first, last = rows[:2]  # something to learn in the first group, always
    for row, reward in ((first, 0.0), (last, 1.0)):
        row["reward"] = reward
        row["token"] = {"id": [4, 5, 6], "logprob": [-1.0] * 3, "mine": [0.5] * 3, "mask": [True, True, False]}
        row["step"] = {"start": [0, 1], "end": [1, 3], "kind": ["step"] * 2}
    batch = add_prefix_tree(Rollouts(pa.Table.from_pylist(rows, SCHEMA)))
    batch = assign_to(batch, draw(st.sampled_from(["grpo", "rloo"])), "advantage", {})
    with TemporaryDirectory() as folder:
        writer = RolloutWriter(Path(folder, "a"), "a", tokens_per_row_group=draw(st.integers(1, 40)))
        writer.write(batch)
        writer.close(Provenance())
        metadata = pq.read_metadata(Path(folder, "a"))
        table = pq.read_table(Path(folder, "a")).replace_schema_metadata(None)
    sizes = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    return File(table.to_pylist(), sizes, table.schema)


def _list(kind: pa.DataType) -> pa.DataType:
    return pa.list_(kind)


SCHEMA = pa.schema(
    {
        **{name: pa.string() for name in ("rollout_id", "group_id", "task", "task_options", "reference", "text", "purpose")},
        "prompt_ids": _list(pa.int32()), "flags": _list(pa.string()), "weight": pa.float64(), "mine": pa.int64(),
        "reward": pa.float64(), "rewards": pa.struct({"format": pa.float64()}),
        "token": pa.struct({"id": _list(pa.int32()), "mask": _list(pa.bool_()), "logprob": _list(pa.float32()), "mine": _list(pa.float32())}),
        "step": pa.struct({"start": _list(pa.int32()), "end": _list(pa.int32()), "kind": _list(pa.string())}),
    }
)  # fmt: skip

Planted = tuple[int, str]  # row and column of the defect
DEFECTS: dict[str, Callable[[Data, File], Planted]] = {}


def defect(plant: Callable[[Data, File], Planted]) -> Callable[[Data, File], Planted]:
    """Plants a defect of the rule it is named after."""
    DEFECTS[plant.__name__] = plant
    return plant


def some_row(data: Data, file: File, fits: Callable[[Row], Any] = lambda row: True) -> int:
    numbers = [number for number, row in enumerate(file.rows) if fits(row)]
    return data.draw(st.sampled_from(numbers)) if numbers else reject()


def leaf_of(row: Row, path: str) -> list[Any]:
    head, _, leaf = path.partition(".")
    return row[head][leaf] if leaf else row[head]


def some_place(data: Data, values: list[Any]) -> int:
    return data.draw(st.integers(0, len(values) - 1))


@defect
def missing(data: Data, file: File) -> Planted:
    column = data.draw(
        st.sampled_from(["rollout_id", "group_id", "token.id", "token.mask", "token.id/", "token.mask/", "token.mine/",
                         "token.advantage/", "node.visits/", "node.id/", "step.end/", "prompt_ids/"])
    )  # fmt: skip
    path, inside, _ = column.partition("/")
    if inside:
        number = some_row(data, file, lambda row: leaf_of(row, path))
        values = leaf_of(file.rows[number], path)
        values[some_place(data, values)] = None
    elif path == "group_id":  # in its middle, it would split the group too
        number = data.draw(st.sampled_from(file.groups()))[data.draw(st.sampled_from([0, -1]))]
        file.rows[number]["group_id"] = None
    else:
        number = some_row(data, file)
        head, _, leaf = path.partition(".")
        (file.rows[number][head] if leaf else file.rows[number])[leaf or head] = None
    return number, path


@defect
def duplicate_rollout(data: Data, file: File) -> Planted:
    number = data.draw(st.integers(1, len(file.rows) - 1))
    file.rows[number]["rollout_id"] = file.rows[data.draw(st.integers(0, number - 1))]["rollout_id"]
    return number, "rollout_id"


@defect
def split_group(data: Data, file: File) -> Planted:
    groups = file.groups()
    moved = data.draw(st.integers(0, len(groups) - 2))
    behind = data.draw(st.integers(moved + 1, len(groups) - 1))
    row = file.rows.pop(groups[moved][-1])
    place = groups[behind][-1]
    file.rows.insert(place, row)
    runs = [len(group) - (number == moved) for number, group in enumerate(groups)]
    runs.insert(behind + 1, 1)
    file.sizes = [len(file.rows)] if data.draw(st.booleans()) else runs
    return place, "group_id"


@defect
def straddled_group(data: Data, file: File) -> Planted:
    group = data.draw(st.sampled_from(file.groups()))
    place = data.draw(st.sampled_from(group[1:]))
    ends = sorted({*accumulate(file.sizes), place})
    file.sizes = [end - start for start, end in pairwise([0, *ends])]
    return place, "group_id"


@defect
def lengths(data: Data, file: File) -> Planted:
    path = data.draw(
        st.sampled_from(["token.mask", "token.logprob", "token.advantage", "token.mine", "step.end", "step.kind",
                         "node.start", "node.end", "node.visits", "node.end/"])
    )  # fmt: skip
    path, null, _ = path.partition("/")
    number = some_row(data, file)
    values = leaf_of(file.rows[number], path)
    if null:
        file.rows[number]["node"]["end"] = None
    elif values and data.draw(st.booleans()):
        values.pop()
    else:
        values.append(values[-1] if values else {"token.mask": True, "step.kind": "step"}.get(path, 0))
    return number, path


@defect
def token_ids(data: Data, file: File) -> Planted:
    path = data.draw(st.sampled_from(["token.id", "prompt_ids"]))
    number = some_row(data, file, lambda row: path == "prompt_ids" or 1 in row["node"]["visits"])
    row, negative = file.rows[number], data.draw(st.integers(-(1 << 31), -1))
    values = leaf_of(row, path)
    # Of a node with siblings in it, the tokens would disagree as well.
    place = some_place(data, values) if path == "prompt_ids" else row["node"]["start"][row["node"]["visits"].index(1)]
    values[place] = negative
    return number, path


@defect
def finite(data: Data, file: File) -> Planted:
    path = data.draw(
        st.sampled_from(["reward", "weight", "rewards.format", "token.logprob", "token.advantage", "token.mine"])
    )
    wrong = data.draw(st.sampled_from([float("nan"), float("inf"), float("-inf")]))
    if not path.startswith("token."):
        number = some_row(data, file)
        head, _, leaf = path.partition(".")
        (file.rows[number][head] if leaf else file.rows[number])[leaf or head] = wrong
        return number, path
    number = some_row(data, file, lambda row: row["token"]["id"])
    values = leaf_of(file.rows[number], path)
    values[some_place(data, values)] = wrong
    return number, path


@defect
def out_of_range(data: Data, file: File) -> Planted:
    path, wrong = data.draw(st.sampled_from([("weight", -1.0), ("node.visits", -1)]))
    number = some_row(data, file, lambda row: path == "weight" or row["node"]["visits"])
    if path == "weight":
        file.rows[number]["weight"] = wrong
    else:
        values = file.rows[number]["node"]["visits"]
        values[some_place(data, values)] = wrong
    return number, path


@defect
def logprob(data: Data, file: File) -> Planted:
    number = some_row(data, file, lambda row: row["token"]["id"])
    values = file.rows[number]["token"]["logprob"]
    values[some_place(data, values)] = data.draw(st.sampled_from([1e-6, 0.5, 20.0]))
    return number, "token.logprob"


@defect
def masked_credit(data: Data, file: File) -> Planted:
    number = some_row(data, file, lambda row: row["token"]["id"])
    token = file.rows[number]["token"]
    place = some_place(data, token["id"])
    token["mask"][place], token["advantage"][place] = False, data.draw(st.sampled_from([1.0, -0.25, 1e-6]))
    return number, "token.advantage"


@defect
def step_spans(data: Data, file: File) -> Planted:
    number = some_row(data, file, lambda row: row["step"]["start"])
    row = file.rows[number]
    starts, ends = row["step"]["start"], row["step"]["end"]
    kind = data.draw(st.sampled_from(["past the end", "before the start", "backwards", "overlap"]))
    if kind == "past the end":
        ends[-1] = len(row["token"]["id"]) + data.draw(st.integers(1, 1 << 30))
    elif kind == "before the start":
        starts[0] = -data.draw(st.integers(1, 1 << 30))
    elif kind == "backwards":
        starts[0] = ends[0] + 1
    else:
        assume(len(starts) > 1)
        starts[1] = ends[0] - 1
    return number, "step.start"


@defect
def node_spans(data: Data, file: File) -> Planted:
    number = some_row(data, file, lambda row: row["node"]["start"])
    node = file.rows[number]["node"]
    kind = data.draw(st.sampled_from(["gap", "past the end", "short", "nothing", "far"]))
    if kind in ("gap", "far"):
        node["start"][some_place(data, node["start"])] += 1 if kind == "gap" else 1 << 30
    elif kind == "past the end":
        node["end"][-1] += data.draw(st.integers(1, 1 << 30))
    elif kind == "short":
        node["end"][-1] -= 1
        return number, "node.end"
    else:
        for leaf in node:
            node[leaf] = []
        return number, "node.end"
    return number, "node.start"


@defect
def siblings(data: Data, file: File) -> Planted:
    shared: list[tuple[int, int]] = []
    for group in file.groups():
        seen: set[int] = set()
        for number in group:
            node = file.rows[number]["node"]
            shared += [
                (number, data.draw(st.integers(start, end - 1)))
                for name, start, end in zip(node["id"], node["start"], node["end"], strict=True) if name in seen
            ]  # fmt: skip
            seen.update(node["id"])
    number, place = data.draw(st.sampled_from(shared))
    file.rows[number]["token"]["id"][place] = data.draw(st.integers(7, 500))
    return number, "node.id"


@defect
def zero_credit(data: Data, file: File) -> Planted:
    numbers = file.groups()[0]
    for number in numbers:
        token = file.rows[number]["token"]
        token["advantage"] = [0.0] * len(token["id"])
    return numbers[0], "token.advantage"


@defect
def singleton(data: Data, file: File) -> Planted:
    groups = file.groups()
    chosen = data.draw(st.integers(0, len(groups) - 1))
    kept = data.draw(st.sampled_from(groups[chosen]))
    file.rows = [row for number, row in enumerate(file.rows) if number == kept or number not in groups[chosen]]
    file.sizes = [len(file.rows)]
    return groups[chosen][0], "group_id"


@defect
def episode_parts(data: Data, file: File) -> Planted:
    """Two rows of a group are parts of one episode at the same place."""
    group = data.draw(st.sampled_from([each for each in file.groups() if len(each) > 1]))
    first, second = sorted(data.draw(st.permutations(group))[:2])
    _as_parts(file, {first: ("e", 0), second: ("e", 0)})
    return second, "part"


@defect
def split_episode(data: Data, file: File) -> Planted:
    """Rows of two groups have the name of one episode."""
    groups = file.groups()
    first, second = sorted(data.draw(st.permutations(range(len(groups))))[:2])
    rows = [data.draw(st.sampled_from(groups[group])) for group in (first, second)]
    _as_parts(file, {row: ("e", part) for part, row in enumerate(rows)})
    return rows[1], "episode_id"


def _as_parts(file: File, parts: dict[int, tuple[str, int]]) -> None:
    for number, row in enumerate(file.rows):
        row["episode_id"], row["part"] = parts.get(number, (None, None))
    file.schema = file.schema.append(pa.field("episode_id", pa.string())).append(pa.field("part", pa.int32()))


def run(line: str, source: Path, out: Path) -> Result:
    """A command line in this process; a bug is raised."""
    words = [str({"IN": source, "OUT": out}.get(word, word)) for word in line.split()]
    return CliRunner().invoke(app, words, catch_exceptions=False)


def findings(path: Path, severity: str, exit_code: int | None = 3) -> list[tuple[str, int, str]]:
    result = run("validate IN --json", path, path)
    content = json.loads(result.stdout)
    assert result.exit_code == (3 if content["findings"] else 0)
    assert exit_code is None or result.exit_code == exit_code
    assert sum(content["counts"].values()) == len(content["findings"])
    return [(each["rule"], each["row"], each["column"]) for each in content["findings"] if each["severity"] == severity]


def test_every_rule_has_its_defect() -> None:
    assert DEFECTS.keys() == {name for name, rule in RULES.items() if rule.severity != "remark"}


@pytest.mark.parametrize("rule", DEFECTS)
def test_a_planted_defect_is_named_and_no_stage_reads_past_it(rule: str) -> None:
    severity = RULES[rule].severity

    @FEW
    @given(valid_files(), st.data())
    def check(valid: File, data: Data) -> None:
        file = copy.deepcopy(valid)
        row, column = DEFECTS[rule](data, file)
        with TemporaryDirectory() as folder:
            broken = Path(folder, "broken.parquet")
            file.write(broken)
            assert findings(broken, severity) == [(rule, row, column)]
            if severity == "warning":
                assert findings(broken, "error") == []
                ignored = run(f"validate IN --ignore {rule} --json", broken, broken)
                assert rule not in json.loads(ignored.stdout)["counts"]
                return
            for name, line in COMMANDS.items():
                if name in UNCHECKED:
                    continue
                heals = rule == "straddled_group" or (rule, column) in HEALS.get(name, ())
                insists = not heals and column in READ.get(name, {column})
                if name == "train" and not insists:
                    continue  # it would train, and writes no rollouts
                out = Path(folder, f"{name}.parquet")
                result = run(line, broken, out)
                assert result.exit_code == 3 or (not insists and result.exit_code == 0), (name, result.output)
                if result.exit_code == 3:
                    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
                    assert not out.exists()
                    assert result.stdout == "" or (name == "show --where" and result.stdout.count("\n") <= row)
                elif out.exists():
                    assert findings(out, "error", None) == []

    check()


@pytest.mark.parametrize("rule", DEFECTS)
def test_a_defective_file_can_be_looked_at_and_compared(rule: str) -> None:
    """`head` and `show` print what is there, and `digest` tells it from the valid file; they say that they check nothing."""

    @settings(FEW, max_examples=4)
    @given(valid_files(), st.data())
    def check(valid: File, data: Data) -> None:
        file = copy.deepcopy(valid)
        _, column = DEFECTS[rule](data, file)
        with TemporaryDirectory() as folder:
            whole, broken = Path(folder, "whole.parquet"), Path(folder, "broken.parquet")
            valid.write(whole)
            file.write(broken)
            looked = run(COMMANDS["head"], broken, broken)
            assert (looked.exit_code, looked.stdout.count("\n  rollout_id ")) == (0, len(file.rows))
            shown = run(COMMANDS["show"], broken, broken)
            assert shown.exit_code == 0
            told = [leaf_of(json.loads(line), column) for line in shown.stdout.splitlines()]
            assert told == [as_json(leaf_of(each, column)) for each in pq.read_table(broken).to_pylist()]
            digests = [json.loads(run("digest IN --json", path, path).stdout)[0] for path in (whole, broken)]
            stored = rule == "straddled_group" or repr(file.rows) == repr(valid.rows)
            assert (digests[0]["digest"] == digests[1]["digest"]) == stored

    check()


def as_json(value: Any) -> Any:
    """NaN and the infinities, which JSON does not know, are null."""
    if isinstance(value, list):
        return [as_json(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@pytest.mark.parametrize("name", sorted(UNCHECKED))
def test_a_command_that_checks_nothing_says_so(name: str) -> None:
    assert "apportion validate" in " ".join(CliRunner().invoke(app, [name, "--help"]).stdout.split())


def test_valid_files_have_no_findings_and_every_stage_accepts_them() -> None:
    @settings(FEW, max_examples=6)
    @given(valid_files())
    def check(valid: File) -> None:
        with TemporaryDirectory() as folder:
            source = Path(folder, "valid.parquet")
            valid.write(source)
            assert run("validate IN", source, source).stdout == f"{source}: ok, {len(valid.rows)} rollouts\n"
            for name, line in COMMANDS.items():
                out = Path(folder, f"{name}.parquet")
                result = run(line, source, out)
                assert result.exit_code == 0, (name, result.output)
                if out.exists() and name != "train":
                    assert findings(out, "error", None) == []

    check()


@pytest.mark.parametrize("column", ["rollout_id", "group_id", "task", "text", "step.kind"])
def test_bytes_that_are_no_text_are_refused_by_all_that_read_them(column: str, tmp_path: Path) -> None:
    """pyarrow takes them for strings, and Python stumbles over them."""

    @settings(FEW, max_examples=1)
    @given(valid_files())
    def check(valid: File) -> None:
        broken = tmp_path / "broken.parquet"
        table = Rollouts(pa.Table.from_pylist(valid.rows, valid.schema))
        pq.write_table(table.with_columns({column: garbled(table.arrow(column))}).table, broken)
        for name, line in {**COMMANDS, "validate": "validate IN"}.items():
            out = tmp_path / f"{name}.parquet"
            result = run(line, broken, out)
            reads = column in NAMES or name not in ("diff", "eval rollouts", "train")
            assert result.exit_code == 3 or not reads, (name, result.output)
            if result.exit_code == 3:
                fault = f"error: {broken}: row group 0, column {column.partition('.')[0]!r}: Invalid UTF8 sequence"
                assert result.stderr.startswith(fault) and result.stderr.count("\n") == 1
                assert (result.stdout, out.exists()) == ("", False)

    check()


def garbled(array: pa.Array) -> pa.Array:
    """Strings, or lists of them, with bytes of no text in place of the first that is there."""
    if pa.types.is_list(array.type):
        return pa.ListArray.from_arrays(array.offsets, garbled(array.values))
    words = [None if word is None else word.encode() for word in array.to_pylist()]
    words[next(place for place, word in enumerate(words) if word)] = b"\xff\xfe"
    as_bytes = pa.array(words, pa.binary())
    return pa.StringArray.from_buffers(len(words), *as_bytes.buffers()[1:], as_bytes.buffers()[0])
