"""Random mutations of the shipped recipes through `run --dry-run`: exit code 0 or 2, one line, no traceback, no hang.

python tests/campaigns/recipes.py --count 1000 --seed 1
"""

import argparse
import contextlib
import copy
import io
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from apportion.cli.main import app
from apportion.formats.recipes import RECIPES

SLOW = 5.0  # seconds of processor time, of which starting the families of tasks takes one
EXPRESSIONS = (
    "-'a'", "'a' * 10**9", "'a' * 1000000000", "1000000 * 1000000 * 1000000 * 1000000", "1 / 0", "1 % 0.0", "1 // 0",
    "'%99999999999d' % 1", "'%s' % latest", "latest()", "latest(1)", "latest('train')", "every('nothing')", "every([])",
    "latest('sample', 1, 2)", "((((((1))))))", "(" * 300 + "1" + ")" * 300, "-" * 900 + "1", "1" + "+1" * 490,
    "x", "round.a.b", "sampling", "None", "not True", "[1, 2]", "{}", "lambda: 0", "f'{1}'", "", " ", "1e999", "-1e999",
    "1e999 - 1e999", "'\\d'", "'\\ud800'", "1" * 700, "__import__('os')", "latest(*[1])", "every('sample') * 100000000",
    "9223372036854775807 + 1", "b'a'", "1j", "...", "'a' + 1", "-None", "'a' % 1", "10000000000000000000000000",
)  # fmt: skip
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3.5, float("nan"), float("inf"), -float("inf"), 1e25, 10**25, -(10**25), 2**63 - 1, 10**12,
    "", " ", "a", "\x1b[31m", "\u202e", "é" * 300, "x" * 5000, "../..", "/", "/dev/null", "~", "-", "a\nb", "\0", "\ud800",
    [], {}, [[]], [None], {"a": {"b": {}}}, {1: 2}, {None: None}, {True: 1, "a": 2}, "2020-13-45", "1:1:1", "journal.jsonl",
    "2020-01-01", "sample", "train", "${", "}", "${}", "${round", "${${a}}", "$", "{}", "*a", "!!python/object:os.system {}",
)  # fmt: skip
TEXTS = (
    "a: &a [*a]\nsteps: *a", "&a {steps: *a}", "steps: &s [*s]", "[" * 5000, "{" * 5000, "- " * 5000, "? " * 5000, "", "null",
    "42", "[]", "steps:", "steps: []", "steps: {}", "steps: [loop]", "\t", "%YAML 9.9\n---\na", "--- a\n--- b", "!!binary x", "a: !!int x",
    "vars: {a: 9" + "9" * 5000 + "}\nsteps: [head: {rollouts: a}]", "vars: {a: 2020-13-45}\nsteps: [{head: {rollouts: a}}]",
    "vars: {a: 1" + ":59" * 4000 + "}\nsteps: [{head: {rollouts: a}}]", "vars: {a: !!set {b}, c: !!omap [d: 1]}\nsteps: [{head: {rollouts: a}}]",
    "steps: [{loop: {var: i, range: 1000000000000, steps: []}}]", "steps: [{run: {recipe: SELF}}]", "\ufeffsteps: []", "a: \x00",
    "steps: [{loop: {var: i, range: 1000000000000, steps: [{head: {rollouts: a}}]}}]", "steps: [{run: {recipe: SELF, set: {a: '${-1}'}}}]",
    "steps:\n  - loop: {var: i, range: 400, steps: [{loop: {var: j, range: 400, steps: [{loop: {var: k, range: 400, steps: []}}]}}]}",
    "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)) + "steps: *a11",
    "a0: &a0 {k0: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}], k{n}: 1}}\n" for n in range(1, 12)) + "steps: [*a11]",
    "vars: {a: '" + "y" * 60000 + "'}\nsteps: [{head: {rollouts: '" + "${a}" * 9000 + "'}}]",
)  # fmt: skip


def places_in(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in a recipe."""
    yield path
    pairs: list[tuple[Any, Any]] = []
    if isinstance(content, dict):
        pairs = list(content.items())
    elif isinstance(content, list):
        pairs = list(enumerate(content))
    for key, value in pairs:
        yield from places_in(value, (*path, key))


def mutate(content: Any, rng: random.Random) -> Any:
    """One change at a random place: another value, an expression, a key less, more or renamed, a list cut or doubled, nesting."""
    places: list[tuple[Any, ...]] = list(places_in(content))[1:] or [()]
    path = rng.choice(places)
    if not path:
        return rng.choice(ODD)
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    last, value = path[-1], holder[path[-1]]
    match rng.randrange(9):
        case 0 | 1:
            holder[last] = copy.deepcopy(rng.choice(ODD))
        case 2 | 3:
            holder[last] = f"${{{rng.choice(EXPRESSIONS)}}}"
        case 4:
            holder[last] = f"{value}${{{rng.choice(EXPRESSIONS)}}}"
        case 5:
            del holder[last]
        case 6 if isinstance(holder, dict):
            holder[rng.choice([name for name in ODD if not isinstance(name, dict | list)])] = holder.pop(last)
        case 7:
            for _ in range(rng.choice([1, 10, 50, 400])):
                value = [value] if rng.random() < 0.5 else {"steps": value}
            holder[last] = value
        case _:
            holder[last] = {
                "loop": {
                    "var": rng.choice(["i", 1, "round"]),
                    "range": rng.choice([1, 10**12, "${rounds}"]),
                    "steps": [value],
                }
            }
    return content


def case_of(rng: random.Random, path: Path) -> str:
    """The text of one recipe."""
    if rng.random() < 0.1:
        return rng.choice(TEXTS).replace("SELF", str(path))
    text = rng.choice(sorted(RECIPES.glob("*.yaml"))).read_text()
    if rng.random() < 0.15:  # as text
        at = rng.randrange(len(text))
        cut = text[at : at + rng.randrange(40)]
        return (
            text[:at]
            + rng.choice(["", *EXPRESSIONS, "\t", "&a ", "*a ", "{", "[", "'", ": ", "\n- "])
            + text[at + len(cut) :]
        )
    content = yaml.safe_load(text)
    for _ in range(rng.choice([1, 1, 2, 5])):
        content = mutate(content, rng)
        if not isinstance(content, dict | list):
            break
    try:
        return yaml.safe_dump(content, allow_unicode=True)
    except (yaml.YAMLError, RecursionError):
        return str(content)


def fault_in(text: str, path: Path) -> str | None:
    """What is wrong with how `run --dry-run` takes the recipe; None where nothing is."""
    path.write_text(text, errors="surrogatepass")
    out, err = io.StringIO(), io.StringIO()
    started = time.process_time()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            app(["run", str(path), "--dry-run", "--dir", str(path.parent / "out")])
        code: Any = 0
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        return traceback.format_exc()
    took = time.process_time() - started
    if took > SLOW:
        return f"took {took:.1f} s"
    if code not in (0, 2):
        return f"exit {code}: {err.getvalue()}"
    lines = err.getvalue().splitlines()
    if code == 2 and (len(lines) != 1 or not lines[0].startswith("error: ") or len(lines[0]) > 4000):
        return f"not one line: {err.getvalue()[:2000]!r}"
    return None


def run_cases(count: int, seed: int) -> list[str]:
    """The faults of so many cases. The first ones are all TEXTS."""
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for number in range(count):
            rng = random.Random(f"{seed}/{number}")
            path = Path(folder, f"case-{number}.yaml")
            text = (
                TEXTS[number].replace("SELF", str(path)) if number < min(len(TEXTS), count // 2) else case_of(rng, path)
            )
            if (fault := fault_in(text, path)) is not None:
                failures.append(f"case {number} of seed {seed}: {fault}\n{text[:400]}")
            path.unlink()
    return failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found = run_cases(given.count, given.seed)
    for failure in found:
        print(failure)
    print(f"recipes: {given.count} cases, {len(found)} failures")
    sys.exit(bool(found))
