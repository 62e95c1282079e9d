"""The documents beside the generated pages: links lead somewhere, code runs, and what is listed is all there is."""

import json
import re
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml
from apportion.formats.parquet import RolloutFile
from apportion.formats.recipes import recipe_names
from apportion.stages.eval._refinement import Refinement
from apportion.stages.interop.trl import with_credit
from typer.testing import Result

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOCS = ROOT / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    found = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in found}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        assert goal.exists(), target
        assert not anchor or anchor in anchors(goal), target


def test_the_index_names_every_page_and_folder() -> None:
    index = (DOCS / "README.md").read_text()
    for path in DOCS.iterdir():
        if path.suffix == ".md" and path.name != "README.md":
            assert f"({path.name})" in index, path.name
        if path.is_dir() and (path / "README.md").exists():
            assert f"({path.name}/README.md)" in index, path.name


def test_the_python_of_a_page_runs(
    chain: Path, cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("rollouts", "credit"):
        (tmp_path / f"{name}.parquet").symlink_to(chain / f"{name}.parquet")
    monkeypatch.chdir(tmp_path)
    for block in blocks("python.md", "python"):
        exec(block, {})
    assert "token.advantage" in RolloutFile(tmp_path / "rloo.parquet").read()
    (query,) = blocks("python.md", "sql")
    assert len(duckdb.connect().execute(query).fetchall()) == 5


def test_the_trainers_page_names_what_is_there() -> None:
    scripts = blocks("trainers.md", "python")
    assert len(scripts) >= 5
    for script in scripts:
        compile(script, "trainers.md", "exec")
        for module, name in re.findall(r"^from (apportion\.\S+) import (\w+)$", script, flags=re.MULTILINE):
            assert hasattr(import_module(module), name), f"{module}.{name}"
    calls = re.findall(r'with_credit\((?:GRPO|My)Trainer, "(\w+)"([^)]*)\)', (DOCS / "trainers.md").read_text())
    assert len(calls) >= 5
    for method, options in calls:
        given = {name: value.strip('"') for name, value in re.findall(r"(\w+)=([^,)]+)", options)}
        with_credit(object, method, **given)


def test_the_recipe_of_a_page_runs(cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (text,) = blocks("recipes.md", "yaml")
    Path("mine.yaml").write_text(text)
    result = cli("run", "mine.yaml")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "runs" / yaml.safe_load(text)["name"] / "1" / "policy" / "config.json").is_file()


def test_every_recipe_is_listed() -> None:
    rows = re.findall(r"^\| (.*?) \|", (DOCS / "recipes.md").read_text(), flags=re.MULTILINE)
    assert set(recipe_names()) <= set(re.findall(r"`([^`]+)`", " ".join(rows)))


def shape(value: Any) -> dict[str, str]:
    """The keys of an object, or of a list's first one, with the types that JSON has for their values."""
    names = {str: "text", bool: "truth", int: "number", float: "number", list: "list", dict: "object"}
    content = value[0] if isinstance(value, list) else value
    return {key: names.get(type(each), "null") for key, each in content.items()}


def assert_same_shape(example: Any, printed: Any, where: str) -> None:
    """The same keys; the same types, where neither is null."""
    first, second = shape(example), shape(printed)
    assert first.keys() == second.keys(), where
    differ = {key for key in first if first[key] != second[key] and "null" not in (first[key], second[key])}
    assert not differ, where


def test_the_shapes_of_json_are_so(
    chain: Path, cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every example's keys and types are those that the command prints; what an example shortens, it shortens below them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.jsonl").write_text('{"prompt": "a", "response": "b", "reward": 1.0, "group": "a"}\n')
    sweep = "name: s\nvars: {part: 0.5}\nsteps: [digest: {paths: ['" + str(chain / "scored.parquet") + "']}]\n"
    (tmp_path / "sweep.yaml").write_text(sweep)
    assert cli("eval", "rollouts", chain / "scored.parquet", "-o", "report.json").exit_code == 0
    credit, scored = chain / "credit.parquet", chain / "scored.parquet"
    lines = {
        "score": ("score", chain / "rollouts.parquet", "--with", "verify", "-o", "scored.parquet"),
        "filter": ("filter", scored, "--where", "reward > 0", "-o", "kept.parquet"),
        "split": ("split", scored, "--parts", "2", "-o", "parts"),
        "import": ("import", "texts.jsonl", "--group-by", "group", "-o", "imported.parquet"),
        "export": ("export", credit, "--format", "flat", "-o", "exported.parquet"),
        "new": ("new", "scorer", "mine"),
        "train": ("train", credit, "-o", "policy"),
        "eval rollouts": ("eval", "rollouts", scored),
        "eval curve": ("eval", "curve", "report.json"),
        "eval refinement": (),
        "diff": ("diff", credit, "-c", "grpo,advantage"),
        "diff of three": ("diff", credit, "-c", "grpo,advantage,logprob"),
        "inspect": ("inspect", credit),
        "validate": ("validate", credit),
        "doctor": ("doctor", credit),
        "log": ("log", credit),
        "digest": ("digest", credit),
        "list methods --for": ("list", "methods", "--for", scored),
        "run": ("run", "quickstart", "--dry-run"),
        "sweep": ("run", "sweep.yaml", "--set", "part=[1,2]", "--dry-run"),
    }
    shown = re.findall(r"```json ([^\n]+)\n(.*?)```", (DOCS / "json.md").read_text(), flags=re.DOTALL)
    assert [name for name, _ in shown] == list(lines)
    for name, example in shown:
        if not lines[name]:
            known = {each.name for each in fields(Refinement)} - {"gates", "out"}
            assert set(json.loads(example)) == known
            continue
        result = cli(*lines[name], "--json")
        assert result.exit_code == 0, f"{name}: {result.output}"
        assert_same_shape(json.loads(example), json.loads(result.stdout), name)
