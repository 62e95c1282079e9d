"""docs/methods/ and README's table say what the code does."""

import doctest
import importlib
import sys
from pathlib import Path

import pytest
from apportion.stages.assign_credit._method import METHODS
from apportion.stages.registry import options_of

ROOT = Path(__file__).parent.parent
OUT_OF_DATE = "out of date; run: python docs/regenerate.py"

sys.path.insert(0, str(ROOT / "docs"))
pages = importlib.import_module("pages")
method_pages = importlib.import_module("method_pages")
sys.path.remove(str(ROOT / "docs"))

EXPECTED = method_pages.expected()
NAMES = [method.name for method in pages.of_this_repository(METHODS)]


@pytest.mark.parametrize("path", EXPECTED, ids=[str(path.relative_to(ROOT)) for path in EXPECTED])
def test_the_page_is_what_the_code_makes(path: Path) -> None:
    assert path.is_file(), f"{path.name} is missing; run: python docs/regenerate.py"
    assert path.read_text(encoding="utf-8") == EXPECTED[path], f"{path.name} is {OUT_OF_DATE}"


def test_there_is_no_page_of_a_method_that_is_gone() -> None:
    assert set((ROOT / "docs" / "methods").glob("*.md")) <= set(EXPECTED), OUT_OF_DATE


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_all_its_parts(name: str) -> None:
    method, text = METHODS[name], EXPECTED[method_pages.PAGES / f"{name}.md"]
    for heading in ("# ", "```text\n", "## What it needs\n", "## Options\n", "## What it gives\n", "## Example\n"):
        assert f"\n{heading}" in f"\n{text}", heading
    assert all(f"`{needed}`" in text.partition("## Options")[0] for needed in method.needs)
    assert all(f"--preset {preset}`" in text for preset in method.presets)
    assert f"| evidence | {method.evidence}:" in text


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_explained(name: str) -> None:
    explained = pages.explained(METHODS[name])
    assert [option for option in options_of(METHODS[name].function) if not explained.get(option)] == []


def test_an_indented_block_is_the_formula_and_the_rest_is_prose() -> None:
    assert (
        pages.formula_and_prose("Summary.\n\n    A = b\n\nIn words\ngoes on.")
        == "```text\nA = b\n```\n\nIn words\ngoes on."
    )


def test_the_table_stands_between_its_comments() -> None:
    begin, end = pages.markers("methods")
    readme = f"a\n{begin}\nold\n{end}\nb"
    made = pages.with_table(readme, "methods", "new")
    assert made == f"a\n{begin}\n\nnew\n\n{end}\nb"
    assert pages.with_table(made, "methods", "new") == made
    with pytest.raises(SystemExit, match=r"README\.md: needed are the lines <!-- methods: "):
        pages.with_table("nothing", "methods", "new")


def test_what_is_gone_is_removed_and_what_is_there_written(tmp_path: Path) -> None:
    (tmp_path / "gone.md").write_text("old")
    (tmp_path / "kept.txt").write_text("mine")
    pages.write({tmp_path / "new.md": "é"}, [tmp_path])
    assert {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()} == {"kept.txt": "mine", "new.md": "é"}


def test_the_examples_of_the_module_run() -> None:
    assert doctest.testmod(pages) == doctest.TestResults(failed=0, attempted=1)
