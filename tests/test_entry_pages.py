"""docs/strategies/, docs/scorers/ and README's tables of them say what the code does."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from apportion.stages.registry import options_of

ROOT = Path(__file__).parent.parent
OUT_OF_DATE = "out of date; run: python docs/regenerate.py"


@pytest.fixture(scope="module")
def pages() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "docs"))
    spec = importlib.util.spec_from_file_location("entry_pages", ROOT / "docs" / "entry_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["entry_pages"] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(ROOT / "docs"))
    del sys.modules["entry_pages"]


def test_the_pages_are_what_the_code_makes(pages: ModuleType) -> None:
    expected = pages.expected()
    stale = [path.name for path, text in expected.items() if not path.is_file() or path.read_text("utf-8") != text]
    assert stale == [], OUT_OF_DATE
    for kind in pages.KINDS:
        assert set(kind.pages.glob("*.md")) <= set(expected), OUT_OF_DATE


def test_every_option_is_explained(pages: ModuleType) -> None:
    silent = {
        f"{entry.name}.{option}"
        for kind in pages.KINDS
        for entry in kind.entries()
        for option in options_of(entry.function)
        if not pages.explained(entry).get(option)
    }
    assert silent == set()


def test_a_page_names_its_source_its_command_and_what_it_continues(pages: ModuleType) -> None:
    (kind,) = (kind for kind in pages.KINDS if kind.plural == "strategies")
    text = pages.page(kind, next(entry for entry in kind.entries() if entry.name == "vine"))
    assert "`apportion sample --strategy vine --from IN -o OUT`" in text
    assert "- `--from FILE`: it continues rollouts" in text
    assert "arXiv:2410.01679" in text
    assert "| `every` | int \\| None | `None` |" in text


def test_the_tables_stand_between_their_comments(pages: ModuleType) -> None:
    readme = "".join(f"a\n{begin}\nold\n{end}\n" for begin, end in (kind.markers for kind in pages.KINDS))
    assert "old" not in pages.with_tables(readme)
    assert pages.with_tables(pages.with_tables(readme)) == pages.with_tables(readme)
    with pytest.raises(SystemExit, match="needed are the lines"):
        pages.with_tables("nothing")
