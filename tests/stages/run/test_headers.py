"""Every command that stands in a recipe's header, in the README or in the docs: it is read, planned, and run small."""

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from apportion.cli.main import app
from apportion.formats.recipes import RECIPES, load_recipe
from apportion.stages.models.policy import TINY
from typer.testing import Result

ROOT = RECIPES.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
HEADERS = sorted(RECIPES.glob("*.yaml"))
SMALL: dict[str, Any] = {
    "rounds": 1, "prompts": 4, "n": 4, "eval_prompts": 2, "eval_n": 1, "max_tokens": 24, "blocks": 1, "updates": 1,
    "seeds": "[1]", "lessons": 8, "attempts": 1, "warmup_epochs": 1, "interventions": 4, "critic_tokens": 16,
    "proposals": 1, "k": 2, "reflection_tokens": 16, "refiner_tokens": 16, "editor_tokens": 16, "simulations": 2,
    "factors": "[2, 2]", "live": 2, "demonstrations": 32, "epochs": 1,
}  # fmt: skip


def commands_of(text: str) -> Iterator[str]:
    """The `apportion …` commands in it, one a line, whatever stands before and behind them."""
    for part in re.split(r"[\n;|]|&&", text.replace("\\\n", " ")):
        words = part.strip().lstrip("#$").strip()
        if re.match(r"apportion [a-z-]", words):
            yield without_redirection(re.sub(r"\s{2,}#.*", "", words).replace('"$@"', "")).strip()


def without_redirection(line: str) -> str:
    """The line up to the first ` >` that is not within quotes."""
    for found in re.finditer(" >", line):
        before = line[: found.start()]
        if not before.count("'") % 2 and not before.count('"') % 2:
            return before
    return line


def in_headers() -> list[str]:
    lines = [line for path in HEADERS for line in path.read_text().split("\nname:")[0].splitlines()]
    return [each for line in lines if line.startswith("#   ") for each in commands_of(line)]


def in_pages() -> list[str]:
    texts = [path.read_text() for path in PAGES]
    blocks = [
        block for text in texts for block in re.findall(r"```(?:sh|bash|console)\n(.*?)```", text, flags=re.DOTALL)
    ]
    spans = [span for text in texts for span in re.findall(r"`(apportion [^`]*)`", text)]
    return list(dict.fromkeys(each for text in (*blocks, *spans) for each in commands_of(text)))


def runs(commands: list[str]) -> list[str]:
    """Those that run a recipe there is."""
    names = {path.stem for path in HEADERS}
    return list(
        dict.fromkeys(each for each in commands if re.match(rf"apportion run ({'|'.join(names)})(?![\w-])", each))
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the commands name: my-model, any-model-directory, my.jsonl, and runs of others."""
    for name in ("my-model", "any-model-directory"):
        shutil.copytree(TINY, tmp_path / name)
        config = tmp_path / name / "config.json"
        config.write_text(
            config.read_text().replace('"max_position_embeddings": 512', '"max_position_embeddings": 8192')
        )
    rows = [f'{{"prompt": "{n}+2*5-2*3", "answer": "{n + 4}", "hint": "{n}+10={n + 10}", "split": "{split}"}}\n'
            for n, split in enumerate(["train"] * 8 + ["test"] * 4, 2)]  # fmt: skip
    (tmp_path / "my.jsonl").write_text("".join(rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_commands() -> None:
    assert len(runs(in_headers())) > 40
    assert len(in_pages()) > 60


@pytest.mark.parametrize("command", [each for each in runs([*in_headers(), *in_pages()]) if len(each.split()) > 3])
def test_every_run_has_a_plan(command: str, here: Path, cli: Callable[..., Result]) -> None:
    """Those without options have theirs in test_recipes.py."""
    (here / "runs/RECIPE/warmup-0/policy").mkdir(parents=True)
    result = cli(*(word.replace("=N", "=4") for word in shlex.split(command)[1:] if word != "--shell"), "--dry-run")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") > 2


@pytest.mark.parametrize("command", [each for each in in_pages() if each not in runs(in_pages())])
def test_every_command_of_a_page_is_one(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name, its options and their values are read as the command line reads them. A plugin's file need not be there."""
    monkeypatch.setattr("apportion.cli.typed.load_plugins", lambda paths: None)
    words = shlex.split(command)[1:]
    found: Any = typer.main.get_command(app)
    while hasattr(found, "commands") and words and not words[0].startswith("-"):
        assert words[0] in found.commands
        found, words = found.commands[words[0]], words[1:]
    if words and "…" not in command:
        try:
            found.make_context("apportion", words)
        except typer.Exit:  # --help, --version
            pass
        except Exception as fault:  # a sentence may show a part of a command: files may be missing, and nothing else
            if type(fault).__name__ != "MissingParameter":
                raise


@pytest.mark.parametrize("command", runs(in_headers()))
def test_every_header_runs(command: str, here: Path, cli: Callable[..., Result]) -> None:
    words = shlex.split(command)[1:]
    known = load_recipe(words[1]).vars
    small = [word for name, value in SMALL.items() if name in known for word in ("--set", f"{name}={value}")]
    model = ("--set", "model=./my-model") if words[1] == "smollm2" and "model=" not in command else ()
    result = cli(*words, *small, *model)
    assert result.exit_code == 0, result.stderr
