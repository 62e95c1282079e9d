"""docs/methods/ says what the code does."""

import doctest
import html
import importlib
import re
import sys
from pathlib import Path

import pytest
from apportion.stages.assign_credit.kind import METHODS
from apportion.stages.commands.docstrings import meanings_of
from apportion.stages.core.options import options_of
from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent
OUT_OF_DATE = "out of date; run: python docs/regenerate.py"

sys.path.insert(0, str(ROOT / "docs"))
pages = importlib.import_module("pages")
method_pages = importlib.import_module("method_pages")
entry_pages = importlib.import_module("entry_pages")
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
    explained = meanings_of(METHODS[name])
    assert [option for option in options_of(METHODS[name].function) if not explained.get(option)] == []


def test_an_indented_block_is_the_formula_and_the_rest_is_prose() -> None:
    assert (
        pages.formula_and_prose("Summary.\n\n    A = b\n\nIn words\ngoes on.")
        == "```text\nA = b\n```\n\nIn words\ngoes on."
    )


def test_a_number_at_the_end_of_a_sentence_is_no_number_of_a_list() -> None:
    """groundedprm.md said "a step of value 0 has credit", and lost the 0."""
    listed = pages.numbered("1. A step of value 0 has credit 0. 2. Of 2. 5 are\n left. 3. (See 4.) 4. none")
    assert listed == "- A step of value 0 has credit 0.\n- Of 2. 5 are left.\n- (See 4.).\n- None."
    assert pages.numbered("in all 1. 2. are left") == "In all 1. 2. are left."


@pytest.mark.parametrize(
    "line", ["+ 1", "- 1", "* 1", "# 1", "1. a", "12) a", "> 0", ">0", "---", "==", "<b>a</b>", "<!-- a"]
)
def test_what_looks_like_a_mark_is_shown_as_it_is(line: str) -> None:
    for text in (line, f"words\n{line}"):
        page = MarkdownIt("commonmark").render(pages.formula_and_prose(f"Summary.\n\n{text}"))
        assert page == f"<p>{html.escape(text, quote=False)}</p>\n"
    [item] = re.findall("<li>(.*)</li>", MarkdownIt("commonmark").render(f"- {pages.sentence(line)}"))
    assert item.lower() == html.escape(f"{line}.", quote=False)


def test_the_pages_have_no_marks_but_their_own() -> None:
    for path, text in {**EXPECTED, **entry_pages.expected()}.items():
        if path.parent == ROOT:
            continue
        for token in MarkdownIt("commonmark").enable("table").parse(text):
            assert token.type not in ("ordered_list_open", "blockquote_open", "html_block", "hr", "code_block"), path
            assert token.type != "heading_open" or token.markup in ("#", "##"), path
            for part in token.children or ():
                assert part.type not in ("em_open", "strong_open", "html_inline", "image"), f"{path}: {token.content}"


def test_what_is_gone_is_removed_and_what_is_there_written(tmp_path: Path) -> None:
    (tmp_path / "gone.md").write_text("old")
    (tmp_path / "kept.txt").write_text("mine")
    pages.write({tmp_path / "new.md": "é"}, [tmp_path])
    assert {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()} == {"kept.txt": "mine", "new.md": "é"}


def test_the_examples_of_the_module_run() -> None:
    assert doctest.testmod(pages) == doctest.TestResults(failed=0, attempted=3)
