"""Random mutations of real histories, through every command that reads a file: a documented exit code, one line, no traceback.

python tests/campaigns/histories.py --count 1000 --seed 1
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from apportion.cli.main import app
from apportion.formats.own import CHECKPOINT_HISTORY

KEY = b"apportion"
CODES = (0, 1, 2, 3, 4)
DEEP: Any = 0
for _ in range(60):
    DEEP = [DEEP]
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 3.5, float("nan"), float("inf"), 1e308, 10**25, -(10**25), 2**63, 10**400, "", " ", "a", "0", "null",
    "\x1b[31m", "\u202e", "\ud800", "\0", "a\nb", "é" * 300, "x" * 5000, "../..", "/", "/dev/null", "~", "-", "builtin:none", "builtin:tiny",
    "nobody/nothing", "a/b/c", [], {}, [[]], [None], [0], [[0], [0]], [[5]], [[-1]], [["0"]], [[0, 0]], [[[0]]], {"a": {"b": {}}}, {"a": None},
    DEEP, {"": DEEP}, [1] * 2000, {str(number): number for number in range(500)}, "sample", "merge", "split", "train", "part", "no-stage",
)  # fmt: skip
NAMES = ("histories", "part", "model", "settings", "set", "task", "task_settings", "method", "with", "strategy", "what", "from", "rollouts",
         "out", "credit", "as", "policy", "", "groups", "counts", "tokens_exact", "memory", "format", "stage", "x" * 300, "\x1b", "earlier", "rollouts/x", "rollouts/99")  # fmt: skip
RAW = (
    "", " ", "{", "[", "null", "1", '"a"', "[]", "{}", "[[1, 2]]", "[" * 100000, '{"a":' * 50000, "9" * 5000, '{"format": ' + "9" * 5000 + "}",
    '{"format": 1.5}', '{"format": "1"}', '{"format": true}', '{"format": -1}', '{"format": 2}', '{"history": {}}', '{"history": [null]}',
    '{"history": [[]]}', '{"facts": []}', '{"history": [{}]}', "\ufeff{}", "NaN", '{"history": NaN}', '{"facts": {"a": "\\ud800"}}', "\0\0{}",
)  # fmt: skip
COMMANDS = {
    "rollouts": (
        "log IN", "log IN --shell", "log IN --json", "log IN --shell --json", "inspect IN", "inspect IN --html OUT.html", "show IN", "head IN",
        "validate IN", "merge IN GOOD -o OUT", "merge GOOD IN -o OUT", "split IN --shares 0.5,0.5 -o OUT", "filter IN --where reward>=0 -o OUT",
        "diff IN GOOD", "diff GOOD IN", "digest IN", "upgrade IN -o OUT", "tree-build IN -o OUT", "score IN --with verify -o OUT",
        "score IN --with entropy -o OUT", "assign-credit IN --method grpo --as again -o OUT", "eval rollouts IN", "remember IN -o OUT",
        "sample --from IN --strategy retry -n 1 --max-tokens 4 --device cpu -o OUT", "train IN --device cpu -o OUT", "merge IN -o OUT",
    ),
    "part": ("sample --prompts 6 -n 4 --seed 3 --max-tokens 32 --device cpu -o OUT --resume", "log OUT.partial", "inspect OUT.partial",
             "sample --prompts 6 -n 4 --seed 3 --max-tokens 32 --device cpu -o OUT --resume --force"),
    "checkpoint": ("log IN", "log IN --shell", "log IN --json", "sample --model IN --prompts 1 -n 1 --max-tokens 4 --device cpu -o OUT"),
    "memory": ("log IN", "log IN --shell", "remember GOOD --what problems --earlier IN -o OUT", "head IN", "digest IN"),
}  # fmt: skip


def run(line: str) -> tuple[int, str]:
    """Exit code and what was said on standard error; 99 and a traceback for a bug."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            app(line.split())
    except SystemExit as ended:
        return int(ended.code or 0), err.getvalue()
    except BaseException:
        return 99, traceback.format_exc()
    return 0, err.getvalue()


def make_material(folder: Path) -> dict[str, list[Path]]:
    """Real files of every kind with a history."""
    made = "-n 4 --max-tokens 32 --device cpu"
    for line in (
        f"sample --prompts 6 {made} --seed 3 -o {folder}/sampled.parquet",
        f"tree-build {folder}/sampled.parquet -o {folder}/tree.parquet",
        f"score {folder}/tree.parquet --set truncated=0.25 -o {folder}/scored.parquet",
        f"assign-credit {folder}/scored.parquet --method grpo -o {folder}/credit.parquet",
        f"split {folder}/credit.parquet --shares 0.5,0.5 -o {folder}/parts",
        f"merge {folder}/parts -o {folder}/merged.parquet",
        f"remember {folder}/scored.parquet --what problems -o {folder}/memory.parquet",
        f"sample --prompts 2 {made} --seed 9 -o {folder}/good.parquet",
        f"train {folder}/credit.parquet --device cpu -o {folder}/policy",
    ):
        code, said = run(line)
        if code:
            raise SystemExit(f"{line}: {said}")
    return {
        "rollouts": [folder / f"{name}.parquet" for name in ("sampled", "credit", "merged")],
        "part": [folder / "sampled.parquet"], "checkpoint": [folder / "policy"], "memory": [folder / "memory.parquet"],
    }  # fmt: skip


def places_in(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from places_in(value, (*path, key))


def mutate(content: Any, rng: random.Random) -> Any:
    """One change at a random place."""
    path = rng.choice(list(places_in(content)))
    if not path:
        return rng.choice(ODD)
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    last, value = path[-1], holder[path[-1]]
    match rng.randrange(7):
        case 0:
            del holder[last]
        case 1 if isinstance(holder, dict):
            holder[rng.choice(NAMES)] = rng.choice(ODD)
        case 2 if isinstance(holder, dict):
            holder[rng.choice(NAMES)] = holder.pop(last)
        case 3 if isinstance(holder, list):
            holder.insert(rng.randrange(len(holder) + 1), rng.choice([value, *ODD]))
        case 4:
            holder[last] = rng.choice([[value], {"a": value}, str(value)])
        case _:
            holder[last] = rng.choice(ODD)
    return content


def mutated(text: bytes, rng: random.Random) -> bytes:
    chance = rng.random()
    if chance < 0.1:
        return rng.choice(RAW).encode()
    if chance < 0.15:
        at = rng.randrange(len(text))
        return text[:at] + bytes(rng.randrange(256) for _ in range(rng.randrange(4))) + text[at + rng.randrange(4) :]
    content = json.loads(text)
    for _ in range(rng.choice([1, 1, 2, 4])):
        content = mutate(content, rng)
        if not isinstance(content, dict | list):
            break
    return json.dumps(content).encode()


def plant(source: Path, target: Path, rng: random.Random) -> None:
    """A copy of the file or checkpoint with another history."""
    if source.is_dir():
        shutil.copytree(source, target)
        history = target / CHECKPOINT_HISTORY
        history.write_bytes(mutated(history.read_bytes(), rng))
        return
    table = pq.read_table(source)
    metadata = {KEY: mutated(pq.read_metadata(source).metadata[KEY], rng)}
    if target.suffix == ".partial":
        table = table.slice(0, 8)
    pq.write_table(table.replace_schema_metadata(metadata), target)


def run_cases(count: int, seed: int) -> list[str]:
    """The faults of so many mutated histories, each read by three commands."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        material = make_material(folder)
        for number in range(count):
            rng = random.Random(f"{seed}/{number}")
            kind = rng.choices(list(COMMANDS), [8, 1, 1, 1])[0]
            source = rng.choice(material[kind])
            here = folder / "case"
            here.mkdir()
            planted, out = here / "in.parquet", here / "out"
            plant(source, here / "out.partial" if kind == "part" else planted, rng)
            for line in rng.sample(COMMANDS[kind], 3):
                if kind == "part" and not (here / "out.partial").exists():
                    continue  # the command before went on with it
                words = (
                    line.replace("IN", str(planted))
                    .replace("GOOD", str(folder / "good.parquet"))
                    .replace("OUT", str(out))
                )
                code, said = run(words)
                if out.is_dir():
                    shutil.rmtree(out)
                out.unlink(missing_ok=True)
                told = [each for each in said.splitlines() if each.startswith("error: ")]
                if code not in CODES or (code not in (0, 4) and len(told) != 1) or "Traceback" in said:
                    failures.append(f"case {number} of seed {seed}, {line}: exit {code}\n{said[-1500:]}")
            shutil.rmtree(here)
    return failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found = run_cases(given.count, given.seed)
    for failure in found:
        print(failure)
    print(f"histories: {given.count} cases, {len(found)} failures")
    sys.exit(bool(found))
