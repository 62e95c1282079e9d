"""Examples in docstrings are run, and every public function has a docstring."""

import doctest
import importlib
import pkgutil
from inspect import getmembers, isclass, isfunction

import apportion
import pytest
from apportion.stages.assign_credit.kind import METHODS


def modules() -> list[str]:
    found: list[str] = []
    for package in ("cli", "formats", "stages"):
        root = importlib.import_module(f"apportion.{package}")
        found += [root.__name__, *(each.name for each in pkgutil.walk_packages(root.__path__, f"{root.__name__}."))]
    return found


@pytest.mark.parametrize("name", modules())
def test_examples_give_what_they_say(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


@pytest.mark.parametrize("name", modules())
def test_public_functions_and_classes_say_what_they_do(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    silent = [
        member.__qualname__
        for label, member in getmembers(module, lambda each: isfunction(each) or isclass(each))
        if member.__module__ == name and not label.startswith("_") and not member.__doc__
    ]
    assert not silent


def test_every_method_shows_a_worked_example() -> None:
    for method in METHODS:
        assert ">>> " in (method.function.__doc__ or ""), method.name


def test_the_version_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert apportion.__version__ == version("apportion")
