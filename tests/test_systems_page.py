"""docs/systems.md says what the code has of the published systems, and recipes and entries name systems that there are."""

import importlib
import sys
from pathlib import Path

import pytest
from apportion.formats.errors import UsageError
from apportion.formats.recipes import load_recipe, recipe_names
from apportion.stages.core.kinds import kinds
from apportion.stages.core.systems import SYSTEMS
from apportion.stages.score.kind import SCORERS, Scorer

ROOT = Path(__file__).parent.parent

sys.path.insert(0, str(ROOT / "docs"))
systems_page = importlib.import_module("systems_page")
sys.path.remove(str(ROOT / "docs"))


def test_the_page_is_what_the_code_makes() -> None:
    assert systems_page.PAGE.read_text("utf-8") == systems_page.page(), "out of date; run: python docs/regenerate.py"


def test_there_are_43_and_what_is_here_has_parts() -> None:
    assert len(SYSTEMS) == 43
    parts = {system for kind in kinds().values() for entry in kind for system in entry.system}
    named = {system for name in recipe_names() for system in load_recipe(name).system}
    here = {system.name for system in SYSTEMS.values() if system.state != "not there"}
    assert parts == here
    assert named <= here
    assert all(bool(system.missing) == (system.state in ("in part", "toy")) for system in SYSTEMS.values())


def test_a_system_that_there_is_not_is_refused() -> None:
    entry = Scorer(name="mine", function=lambda rollouts: {}, granularity="rollout", system=("TEMPI",))
    with pytest.raises(UsageError, match="unknown system of scorer mine 'TEMPI'; did you mean 'TEMPO'"):
        SCORERS.add(entry)
    assert "mine" not in SCORERS
