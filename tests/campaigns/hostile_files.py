"""Rollout files that someone wrote to do harm: nothing in them runs, and nothing in them reaches a terminal.

    python tests/campaigns/hostile_files.py --count 300 --seed 0

Three kinds of case, in turn. A history becomes commands (`log --shell`), which a real shell reads in an empty directory with
`apportion` replaced by a script that writes down its words: these words arrive, and nothing else happens. The verifier of a
task reads an answer and a reference in which something is replaced: a score or a line, in time. A command reads a file in
which every word is hostile: an exit code of ours, no traceback, and no control character in what it prints or draws.
"""

import argparse
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from apportion.formats.errors import ApportionError, DataError
from apportion.formats.parquet import write_rollouts
from apportion.formats.provenance import Provenance, Record
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.commands.reproduction import commands_of
from apportion.stages.core.harmless import UNSAFE
from apportion.stages.core.table import commands
from apportion.stages.tasks import open_task
from apportion.stages.tasks.reasoning_gym import generator_names

SECONDS = 120  # for one command, on a busy machine
VERIFY_SECONDS = 15.0  # of this process; the verifier's own limit is 10
PIECES = (
    "a", "model", "=", "\n", "\r\n", " ", "\t", "$(touch ran)", "`touch ran`", "'", '"', "\\", ";", "&&", "|", ">ran", "#", "touch ran",
    "\x00", "\x07", "\x1b[2J", "\x1b]0;t\x07", "\x9b5m", "\x85", "\u202e", "\u2066", "\u2028", "\x7f", "é", "🙂", "${IFS}", "*", "~", "!",
    "--force", "-o", "--plugin=ran.py", "{", "}", "[/x]", ":smile:", "<script>", "%s", "../", "/", "\ufeff", "=1+1", "@SUM(A1)",
)  # fmt: skip
QUIET = tuple(each for each in PIECES if not UNSAFE.search(each))  # with which a line of shell is made
CODE = (
    "__import__('os').system('touch ran')", "open('ran','w')", "[open('ran','w')]", "(lambda: open('ran','w'))()",
    "().__class__.__base__.__subclasses__()", "Symbol(open('ran','w'))", "x.subs(x,open('ran','w'))", "exec('open(\"ran\",\"w\")')",
    "9**9**9**9", "1e999999999", "1<<10**10", "(" * 500 + "1" + ")" * 500, "{" * 300 + "1" + "}" * 300, "10^{10^{10}}", "99999999!",
)  # fmt: skip
ODD = (10**15, -1, None, True, [], {}, "", 1e308, "nan", ["a", ["b"]], {"!tuple": 3}, {"!items": [[[], 1]]})
RUN = "import sys; from apportion.cli.main import main; sys.argv[0] = 'apportion'; main()"


def words(draw: random.Random, most: int = 6) -> str:
    pieces = draw.choice((PIECES, QUIET, QUIET, QUIET))
    return "".join(draw.choice(pieces) for _ in range(draw.randint(1, most)))


def value(draw: random.Random) -> Any:
    return draw.choice((words(draw), {words(draw): words(draw)}, [words(draw)], draw.choice(ODD), 3, 0.5, False))


def history(draw: random.Random) -> Provenance:
    """Records of real and of made-up stages, with real and made-up parameters."""
    records = []
    for _ in range(draw.randint(1, 6)):
        stage = draw.choice(
            (*(name for name, each in commands().items() if each.writes), "inspect", "eval policy", words(draw))
        )
        known = commands().get(stage)
        keys = [key for key in known.options() if key not in ("force", "histories")] if known else []
        names = [*draw.sample(keys, min(len(keys), 6)), words(draw), "model"]
        records.append(
            Record(
                stage=stage, version=draw.choice(("0.1.0", words(draw))), parameters={name: value(draw) for name in names},
                inputs={draw.choice(("rollouts", "policy", f"rollouts/{words(draw)}", words(draw))): words(draw) for _ in range(3)},
                counts={words(draw): 1},
            )
        )  # fmt: skip
    return Provenance(history=tuple(records), facts={words(draw): words(draw)})


def shell_case(draw: random.Random, work: Path) -> str | None:
    """None, or what went wrong: a history as commands, read by a shell."""
    name = words(draw).replace("/", "").replace("\0", "") or "x"
    lines = commands_of(Path("x", name if name not in (".", "..") else "x"), history(draw))
    if any(UNSAFE.search(line) for line in lines):
        return "a control character in a line"
    programs, heard = work.parent / "bin", work.parent / "heard"
    programs.mkdir(exist_ok=True)
    script = programs / "apportion"
    script.write_text(f"#!/bin/sh\nprintf '%s\\0' \"$@\" >> {shlex.quote(str(heard))}\n")
    script.chmod(0o755)
    done = subprocess.run(
        ["sh"], input=("\n".join(lines) + "\n").encode(), cwd=work, capture_output=True, timeout=SECONDS,
        env={"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(work)},
    )  # fmt: skip
    if (done.returncode, done.stdout, done.stderr) != (0, b"", b""):
        return f"the shell said {done.stdout!r} {done.stderr!r}"
    expected = [word for line in lines if not line.startswith("#") for word in shlex.split(line)[1:]]
    arrived = heard.read_bytes().decode().split("\0")[:-1] if heard.exists() else []
    return None if arrived == expected else f"{arrived} arrived, and not {expected}"


def verify_case(draw: random.Random, work: Path) -> str | None:
    """None, or what went wrong: one verifier with a hostile answer and a hostile reference."""
    name = draw.choice(
        ("arithmetic", "file", *(f"reasoning_gym/{each}" for each in generator_names() if each != "composite"))
    )
    if name == "file":
        (work.parent / "problems.jsonl").write_text(
            '{"question": "1+1?", "answer": "2"}\n{"question": "a?", "answer": "x^2"}\n'
        )
        task, reference = open_task(str(work.parent / "problems.jsonl")), draw.choice(("2", ["x^2", "2"]))
    else:
        task = open_task(name)
        reference = json.loads(json.dumps(next(task.problems("train", 1, draw.randrange(100))).reference))
    own = str(reference["answer"]) if isinstance(reference, dict) and "answer" in reference else "2"
    for _ in range(8):
        places = list(leaves(reference))
        bad = replaced(reference, draw.choice(places), draw.choice((draw.choice(CODE), draw.choice(ODD), words(draw))))
        answer = draw.choice((own, own, draw.choice(CODE), words(draw), "1"))
        begun = time.process_time()
        try:
            score = task.verify(f"<answer>{answer}</answer>", draw.choice((bad, bad, reference)))
        except DataError:
            score = 0.0
        if time.process_time() - begun > VERIFY_SECONDS:
            return f"{name}: {time.process_time() - begun:.0f} s for {answer[:60]!r} and {bad!r:.200}"
        if not 0 <= score <= 1:
            return f"{name}: a score of {score}"
        if any(work.iterdir()):
            return f"{name}: {answer[:60]!r} or {bad!r:.200} ran"
    return None


def leaves(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = (
        content.items() if isinstance(content, dict) else enumerate(content[:3]) if isinstance(content, list) else ()
    )
    for key, each in inner:
        yield from leaves(each, (*path, key))


def replaced(content: Any, path: tuple[Any, ...], by: Any) -> Any:
    if not path:
        return by
    copy = content.copy()
    copy[path[0]] = replaced(copy[path[0]], path[1:], by)
    return copy


def hostile_file(draw: random.Random, path: Path) -> None:
    """Rollouts that hold together, in which every word is hostile."""
    rows = draw.randint(2, 4)
    group = words(draw)
    tokens = [[1, 2, 3][: draw.randint(1, 3)] for _ in range(rows)]
    batch = rollouts_of([float(draw.random() < 0.5) for _ in range(rows)], tokens=tokens)
    said = [[{"role": words(draw), "content": words(draw)}] for _ in range(rows)]
    credit = [[draw.uniform(-1, 1) for _ in row] for row in tokens]
    reference = draw.choice(
        (json.dumps({"answer": draw.choice(CODE), "metadata": {words(draw): draw.choice(CODE)}}), words(draw))
    )
    batch = batch.with_columns(
        {
            "rollout_id": [f"{words(draw)}{row}" for row in range(rows)], "group_id": [group] * rows,
            "problem_id": [group] * rows, "text": [words(draw) for _ in range(rows)], "policy": [words(draw)] * rows,
            "task": [draw.choice((words(draw), "arithmetic", f"reasoning_gym/{draw.choice(generator_names())}"))] * rows,
            "task_options": [draw.choice((None, "{}", words(draw)))] * rows, "reference": [reference] * rows,
            "flags": pa.array([[words(draw)] for _ in range(rows)]), "prompt": pa.array(said),
            "token.advantage": Ragged.from_lists(credit, np.float32),
        }
    )  # fmt: skip
    named = f"{draw.choice(('=', '', '@'))}{words(draw)}".replace("\0", "").replace(".", "") or "x"
    if named not in batch.table.column_names:
        batch = Rollouts(batch.table.append_column(named, pa.array([words(draw) for _ in range(rows)])))
    write_rollouts(path, [batch], history(draw))


def commands_on(path: Path, other: Path, out: Path, draw: random.Random) -> list[list[str]]:
    file, made = str(path), str(out / "made.parquet")
    bad = words(draw).replace("\0", "")
    return [
        ["show", file], ["show", file, "--to", "csv"], ["show", file, "--json"], ["show", file, "--where", f"text == {json.dumps(bad)}"],
        ["head", file], ["head", file, "--json"], ["head", file, "-c", bad], ["log", file], ["log", file, "--shell"], ["log", file, "--json"],
        ["inspect", file, "--svg", str(out / "a.svg"), "--html", str(out / "a.html")], ["inspect", file, "--group", bad],
        ["diff", file, str(other)], ["validate", file], ["validate", file, "--json"], ["digest", file], ["upgrade", file, "-o", made],
        ["score", file, "-o", made, "--force"], ["score", file, "--with", "steps", "-o", made], ["tree-build", file, "-o", made],
        ["assign-credit", file, "--method", bad, "-o", made], ["assign-credit", file, "--method", "grpo", "--as", "x", "-o", made],
        ["filter", file, "--where", "reward >= 0", "-o", made], ["merge", file, str(other), "-o", made], ["eval", "rollouts", file],
        ["eval", "rollouts", file, "--series", bad, "-o", str(out / "a.json")], ["list", bad], [bad], ["run", bad], ["score", bad, "-o", made],
        ["split", file, "--by", "group_id", "-o", str(out / "parts")],
        ["sample", "--model", bad, "-o", made], ["sample", "--task", bad, "-o", made], ["sample", "--from", file, "--strategy", "retry", "-o", made],
    ]  # fmt: skip


def command_case(draw: random.Random, work: Path) -> str | None:
    """None, or what went wrong: one command on hostile files, as a process."""
    files, out = work.parent / "files", work.parent / "out"
    files.mkdir()
    out.mkdir()
    try:
        for name in ("a.parquet", "b.parquet"):
            hostile_file(draw, files / name)
    except ApportionError:  # an invariant that such words break, as the writer says
        return None
    chosen = draw.choice(commands_on(files / "a.parquet", files / "b.parquet", out, draw))
    given = [word.replace("\0", "") or "x" for word in chosen]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *given], cwd=work, input=b"y\n" * 20, capture_output=True, timeout=SECONDS,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    for what, text in (("stdout", done.stdout), ("stderr", done.stderr)):
        if found := UNSAFE.search(text.decode()):
            return f"{given}: {found[0]!r} on {what}"
    if b"Traceback" in done.stderr or done.returncode not in range(6):
        return f"{given}: exit {done.returncode}, {done.stderr.decode()[-300:]}"
    for each in out.rglob("*"):
        if each.suffix in (".svg", ".html", ".json") and (found := UNSAFE.search(each.read_text(encoding="utf-8"))):
            return f"{given}: {found[0]!r} in {each.name}"
    return None


KINDS: tuple[Callable[[random.Random, Path], str | None], ...] = (shell_case, verify_case, command_case)


def campaign(count: int, seed: int) -> dict[str, str]:
    """What went wrong, by the case's name; empty where nothing did."""
    failures: dict[str, str] = {}
    before = Path.cwd()
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        folder = Path(tempfile.mkdtemp(prefix="hostile-"))
        work = folder / "work"
        work.mkdir()
        os.chdir(work)
        try:
            fault = kind(random.Random(f"{seed} {number}"), work)
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
        finally:
            os.chdir(before)
        if fault is None and any(work.iterdir()):
            fault = f"something ran: {[each.name for each in work.iterdir()]}"
        if fault is not None:
            failures[f"case {number} of seed {seed}, {kind.__name__}"] = fault
        shutil.rmtree(folder)
    return failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    failed = campaign(given.count, given.seed)
    for case, fault in failed.items():
        print(f"{case}: {fault}")
    print(f"hostile_files: {given.count} cases, {len(failed)} failures")
    sys.exit(bool(failed))
