"""Real commands in processes of their own, which can be killed or held up at any of their operations on files."""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from apportion.formats.parquet import write_rollouts
from apportion.formats.provenance import Provenance, Record, digest_of, digest_of_file
from apportion.stages.assign_credit._examples import rollouts_of

# argv: place, what happens (kill:AT:SIGNAL, hold:AT:SECONDS or never:0:0; with :plain at its end on a system that cannot
# swap two names), a file for the count of operations, the command.
LAUNCHER = """
import atexit, os, sys, time
place, what, counted = sys.argv[1:4]
kind, at, value, *plain = what.split(":")
events = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "shutil.rmtree"}
seen = 0

def watch(event, arguments):
    global seen
    if event in events and any(isinstance(each, str) and each.startswith(place) for each in arguments):
        seen += 1
        if seen == int(at) and kind == "kill":
            os.kill(os.getpid(), int(value))
        if seen == int(at) and kind == "hold":
            time.sleep(float(value))

from apportion.cli.main import main
if plain:
    from apportion.formats import renaming
    renaming._system_call = lambda: None
if counted:
    atexit.register(lambda: open(counted, "w").write(str(seen)))
sys.addaudithook(watch)
sys.argv = ["apportion", *sys.argv[4:]]
main()
"""


@dataclass(frozen=True)
class Case:
    """A command that writes `out` into the folder it runs in. other: the same with another result."""

    name: str
    words: str
    other: str
    out: str
    heavy: bool = False

    def command(self, *, other: bool = False, force: bool = False) -> list[str]:
        words = (self.other if other else self.words).split()
        return [*words, "--force"] if force and words[0] != "run" else words


CASES = (
    Case("tree-build", "tree-build many.parquet -o out", "tree-build some.parquet -o out", "out"),
    Case(
        "assign-credit",
        "assign-credit some.parquet --method grpo -o out",
        "assign-credit some.parquet --method rloo -o out",
        "out",
    ),
    Case("filter", "filter some.parquet --where reward>0 -o out", "filter some.parquet --where reward<1 -o out", "out"),
    Case("split", "split some.parquet --parts 3 -o out", "split some.parquet --parts 2 -o out", "out"),
    Case("directory", "assign-credit data --method grpo -o out", "assign-credit data --method rloo -o out", "out"),
    Case("inspect", "inspect some.parquet --html out", "inspect many.parquet --html out", "out"),
    Case("run", "run light.yaml --dir out", "run light.yaml --dir out --set method=rloo", "out"),
    Case(
        "sample",
        "sample --prompts 6 -n 2 --max-tokens 8 --set rows_at_once=4 --device cpu -o out",
        "sample --prompts 6 -n 2 --max-tokens 8 --set rows_at_once=4 --device cpu --seed 1 -o out",
        "out",
        heavy=True,
    ),
    Case("score", "score sampled.parquet -o out", "score sampled.parquet --set truncated=0.5 -o out", "out", heavy=True),
    Case(
        "train",
        "train credit.parquet --lr 1e-4 --device cpu -o out",
        "train credit.parquet --lr 2e-4 --device cpu -o out",
        "out",
        heavy=True,
    ),
    Case("run with a model", "run heavy.yaml --dir out", "run heavy.yaml --dir out --set lr=0.01", "out", heavy=True),
)  # fmt: skip

LIGHT = """
vars: {method: grpo}
steps:
  - tree-build: {rollouts: some.parquet, out: tree.parquet}
  - split: {rollouts: "${latest('tree-build')}", parts: 2, out: parts}
  - assign-credit: {rollouts: "${latest('split')}", method: "${method}", out: credit}
  - inspect: {rollouts: some.parquet, html: page.html}
"""
HEAVY = """
vars: {lr: 1.0e-4}
steps:
  - sample: {prompts: 4, n: 4, max_tokens: 8, device: cpu, out: rollouts.parquet}
  - score: {rollouts: "${latest('sample')}", out: scored.parquet}
  - assign-credit: {rollouts: credit.parquet, method: rloo, out: rloo.parquet}
  - train: {rollouts: "${latest('assign-credit')}", on_nothing: skip, lr: "${lr}", device: cpu, out: policy}
"""


def prepare(folder: Path, *, heavy: bool) -> None:
    """The inputs of all cases."""
    folder.mkdir(parents=True)
    (folder / "data").mkdir()
    for name, groups in (("some.parquet", 8), ("many.parquet", 200), ("data/a.parquet", 3), ("data/b.parquet", 3)):
        rows = 4 * groups
        tokens = [[5, row % 7, 9 + row % 3, 2] for row in range(rows)]
        batch = rollouts_of(
            [float(row % 3 == 0) for row in range(rows)], tokens=tokens, groups=[r // 4 for r in range(rows)]
        )
        named = {column: [f"{name}{each}" for each in batch.strings(column)] for column in ("rollout_id", "group_id")}
        history = (Record(stage="sample", version="0", parameters={}),)
        write_rollouts(folder / name, [batch.with_columns(named)], Provenance(history=history))
    (folder / "light.yaml").write_text(LIGHT)
    (folder / "heavy.yaml").write_text(HEAVY)
    if heavy:
        for line in (
            "sample --prompts 6 -n 6 --max-tokens 24 --seed 3 --device cpu -o sampled.parquet",
            "score sampled.parquet -o scored.parquet",
            "assign-credit scored.parquet --method grpo -o credit.parquet",
        ):
            ended = finish(start(folder, line.split()))
            assert ended[0] == 0, ended[1]


def start(folder: Path, words: Sequence[str], what: str = "never:0:0", counted: str = "") -> "subprocess.Popen[str]":
    """The command, running in `folder`. what: see LAUNCHER."""
    place = str(folder)
    line = [sys.executable, "-c", LAUNCHER, place, what, counted, *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        line, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit code and standard error."""
    told = process.communicate(timeout=300)[1]
    return process.returncode, told


def operations(folder: Path, words: Sequence[str]) -> int:
    """How many operations on files in the folder the command has. It must end well."""
    count = folder.parent / f"{folder.name}.count"
    code, told = finish(start(folder, words, counted=str(count)))
    assert code == 0, f"{' '.join(words)}: {told}"
    return int(count.read_text())


def fresh(inputs: Path, folder: Path, old: Path | None = None) -> Path:
    """A folder with the inputs, and with an old output if there is one."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(inputs, folder)
    if old is not None and old.is_dir():
        shutil.copytree(old, folder / "out", copy_function=shutil.copy2)
    elif old is not None:
        shutil.copy2(old, folder / "out")
    return folder


def content(path: Path) -> str | None:
    """A digest of a file or directory as it is, but for what a run notes about itself; None where it is not there."""
    if path.is_dir():
        names = sorted(
            each for each in path.rglob("*") if each.is_file() and each.name not in ("journal.jsonl", "run.lock")
        )
        return digest_of([(str(each.relative_to(path)), content(each)) for each in names])
    if (
        path.suffix == ".safetensors" and path.is_file()
    ):  # the order of what its header says of it is another one every time
        whole = path.read_bytes()
        end = 8 + int.from_bytes(whole[:8], "little")
        return digest_of([json.loads(whole[8:end]), hashlib.sha256(whole[end:]).hexdigest()])
    return digest_of_file(path) if path.exists() else None


def differing(found: Path, wanted: Path) -> list[str]:
    """The files that two outputs do not share."""
    names = {str(each.relative_to(top)) for top in (found, wanted) for each in top.rglob("*") if each.is_file()}
    return sorted(name for name in names if content(found / name) != content(wanted / name))


def left_over(folder: Path) -> list[str]:
    """Names that a command only uses while it runs, or leaves where something went wrong."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.name.startswith(".") or path.suffix in (".tmp", ".old", ".done", ".partial", ".probe")
    )


class Expected:
    """What the cases give uninterrupted, made when it is first asked for."""

    def __init__(self, inputs: Path, folder: Path):
        self.inputs, self.folder = inputs, folder
        self._made: dict[tuple[str, bool], Path] = {}
        self._operations: dict[tuple[str, bool], tuple[int, float]] = {}

    def out(self, case: Case, *, other: bool = False) -> Path:
        key = (case.name, other)
        if key not in self._made:
            place = fresh(self.inputs, self.folder / "work")
            code, told = finish(start(place, case.command(other=other)))
            assert code == 0, told
            kept = self.folder / f"{case.name}-{other}"
            (place / case.out).rename(kept)
            self._made[key] = kept
        return self._made[key]

    def moments(self, case: Case, old: Path | None) -> tuple[int, float]:
        """Operations on files, and seconds."""
        key = (case.name, old is not None)
        if key not in self._operations:
            place = fresh(self.inputs, self.folder / "work", old)
            began = time.monotonic()
            self._operations[key] = operations(place, case.command(force=old is not None)), time.monotonic() - began
        return self._operations[key]


def run_campaign(name: str, about: str | None, try_one: Callable[[Case, Expected, random.Random], str | None]) -> int:
    """Random cases of `try_one`, which says what is wrong, under the command line's options. Returns the exit code."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--heavy", action="store_true", help="also commands that load a model")
    parser.add_argument("--only", default="", help="only the case of this name")
    given = parser.parse_args()
    rng = random.Random(given.seed)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    failures = []
    try:
        prepare(folder / "inputs", heavy=given.heavy)
        expected = Expected(folder / "inputs", folder)
        cases = [case for case in CASES if (given.heavy or not case.heavy) and given.only in ("", case.name)]
        weights = [1 if case.heavy else 3 for case in cases]
        for _ in range(given.count):
            fault = try_one(rng.choices(cases, weights)[0], expected, rng)
            if fault is not None:
                failures.append(fault)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for fault in failures:
        print(fault)
    print(f"{name}: {given.count} cases, {len(failures)} failures")
    return 1 if failures else 0
