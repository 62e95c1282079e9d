"""`apportion.plugin`: what it offers, and how quickly."""

import inspect
import subprocess
import sys

import apportion.plugin as plugin
import pytest
from apportion.formats.errors import ApportionError
from apportion.stages.core.kinds import kinds


def test_every_name_is_there_and_explained() -> None:
    assert sorted(plugin.__all__) == sorted(set(plugin.__all__))
    for name in plugin.__all__:
        found = getattr(plugin, name)
        if inspect.isclass(found) or inspect.isfunction(found):
            assert (found.__doc__ or "").strip(), name


def test_every_kind_has_its_decorator() -> None:
    """A decorator is a function of a room's `kind.py` that registers what it decorates; its annotation says so."""
    for name in {kind.room for kind in kinds().values()}:
        room = sys.modules[f"{name}.kind"]
        own = [
            each
            for each, found in vars(room).items()
            if inspect.isfunction(found)
            and found.__module__ == room.__name__
            and (
                "adder" in found.__code__.co_names
                or any(getattr(each, "co_name", "") == "register" for each in found.__code__.co_consts)
            )
        ]
        assert len(own) == sum(kind.room == room.__package__ for kind in kinds().values()), name
        assert set(own) <= set(plugin.__all__), name


def test_it_loads_no_model_library() -> None:
    code = "import sys, apportion.plugin; print(*({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not found.stdout.strip()


def test_a_command_that_fails_says_why() -> None:
    assert "grpo" in plugin.run_command("list", "methods")
    with pytest.raises(ApportionError, match="did you mean 'methods'"):
        plugin.run_command("list", "metods")
