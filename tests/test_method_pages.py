"""docs/methods/ and README's table say what the code does."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from apportion.stages.assign_credit._method import METHODS
from apportion.stages.registry import options_of

ROOT = Path(__file__).parent.parent
OUT_OF_DATE = "out of date; run: python docs/regenerate.py"


def _loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("method_pages", ROOT / "docs" / "method_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages = _loaded()
EXPECTED = pages.expected()
NAMES = [method.name for method in pages.own_methods()]


@pytest.mark.parametrize("path", EXPECTED, ids=[str(path.relative_to(ROOT)) for path in EXPECTED])
def test_the_page_is_what_the_code_makes(path: Path) -> None:
    assert path.is_file(), f"{path.name} is missing; run: python docs/regenerate.py"
    assert path.read_text(encoding="utf-8") == EXPECTED[path], f"{path.name} is {OUT_OF_DATE}"


def test_there_is_no_page_of_a_method_that_is_gone() -> None:
    assert set((ROOT / "docs" / "methods").glob("*.md")) <= set(EXPECTED), OUT_OF_DATE


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_all_its_parts(name: str) -> None:
    method, text = METHODS[name], EXPECTED[pages.PAGES / f"{name}.md"]
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
    readme = f"a\n{pages.BEGIN}\nold\n{pages.END}\nb"
    assert "old" not in pages.with_table(readme)
    assert pages.with_table(pages.with_table(readme)) == pages.with_table(readme)
    with pytest.raises(SystemExit, match="needed are the lines"):
        pages.with_table("nothing")
