"""The pages of commands, and of every kind of entry but methods, say what the code does."""

import importlib
import sys
from pathlib import Path

from apportion.stages.commands.docstrings import meanings_of
from apportion.stages.core.options import options_of
from apportion.stages.core.table import commands

ROOT = Path(__file__).parent.parent
OUT_OF_DATE = "out of date; run: python docs/regenerate.py"

sys.path.insert(0, str(ROOT / "docs"))
pages = importlib.import_module("pages")
entry_pages = importlib.import_module("entry_pages")
command_pages = importlib.import_module("command_pages")
sys.path.remove(str(ROOT / "docs"))


def test_the_pages_are_what_the_code_makes() -> None:
    expected = entry_pages.expected()
    stale = [path.name for path, text in expected.items() if not path.is_file() or path.read_text("utf-8") != text]
    assert stale == [], OUT_OF_DATE
    for kind in entry_pages.KINDS.values():
        assert set(entry_pages.pages_of(kind).glob("*.md")) <= set(expected), OUT_OF_DATE


def test_the_pages_of_commands_are_what_the_code_makes() -> None:
    expected = command_pages.expected()
    stale = [path.name for path, text in expected.items() if not path.is_file() or path.read_text("utf-8") != text]
    assert stale == [], OUT_OF_DATE
    assert set(command_pages.PAGES.glob("*.md")) == set(expected), OUT_OF_DATE
    listed = [name for names in command_pages.GROUPS.values() for name in names]
    assert sorted(listed) == sorted(commands()), "a command belongs in a group of the index"


def test_every_option_of_a_command_is_explained() -> None:
    silent = {
        (name, key) for name, each in commands().items() for key, option in each.options().items() if not option.help
    }
    assert silent == set()


def test_every_option_is_explained() -> None:
    silent = {
        f"{entry.name}.{option}"
        for kind in entry_pages.KINDS.values()
        for entry in pages.of_this_repository(kind)
        for option in options_of(entry.function)
        if not meanings_of(entry).get(option)
    }
    assert silent == set()


def test_a_page_names_its_source_its_command_and_what_it_continues() -> None:
    kind = entry_pages.KINDS["strategies"]
    text = entry_pages.page(kind, kind["vine"])
    assert "`apportion sample --from IN --strategy vine -o OUT`" in text
    assert "- `--from FILE`: it continues rollouts" in text
    assert "arXiv:2410.01679" in text
    assert "| `every` | int \\| None, at least 1 | `None` |" in text
