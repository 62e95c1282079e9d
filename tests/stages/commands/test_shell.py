"""Values on the command line, as they are read back."""

from typing import Any

import pytest
from apportion.stages.commands.shell import _as_yaml
from apportion.stages.core.options import parse_settings, plain_value


@pytest.mark.parametrize(
    "value",
    ["plain", "7", "2e-4", "null", "yes", "", "a: b", "{question}\n{hint}", "[", "'", "- x", "#", "é", 0.5, None, True, [1, "a"]],
    ids=repr,
)  # fmt: skip
def test_every_value_comes_back(value: Any) -> None:
    assert plain_value(parse_settings([f"x={_as_yaml(value)}"])["x"]) == value
