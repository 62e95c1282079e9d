"""Values of steps from probes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError
from apportion.formats.parquet import RolloutFile
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._probe_examples import probed, probed_rollouts
from apportion.stages.assign_credit.kind import METHODS, Credit
from apportion.stages.score.process.values import values
from typer.testing import Result

vineppo = METHODS["vineppo"].assign
potential_difference = METHODS["potential_difference"].assign

PROBES = {(0, 0): [1, 0, 0, 1], (0, 1): [1, 1, 0, 1], (0, 2): [0, 0, 0, 1]}


def file_of(*given: Any) -> Rollouts:
    """The batch as it lies in a file: rollouts, then their probes."""
    return Rollouts.concat(list(probed_rollouts(*given)))


def test_a_chain_of_commands_gives_the_credit_that_vineppo_gives(tmp_path: Path, cli: Callable[..., Result]) -> None:
    """step.value through `potential_difference` is VinePPO's advantage: both are V' - V, and R - V at the end."""
    path = tmp_path.joinpath
    for line in (
        f"sample --prompts 3 -n 3 --seed 3 --max-tokens 40 --device cpu -o {path('a')}",
        f"score {path('a')} --with steps -o {path('b')}",
        f"sample --from {path('b')} --strategy vine --set k=3 --max-tokens 40 --device cpu -o {path('c')}",
        f"score {path('c')} --with verify -o {path('d')}",
        f"score {path('d')} --with values -o {path('e')}",
        f"assign-credit {path('e')} --method vineppo --as advantage_vine -o {path('f')}",
        f"assign-credit {path('f')} --method potential_difference -o {path('g')}",
        f"validate {path('g')} --ignore singleton --ignore zero_credit",
    ):
        result = cli(*line.split())
        assert result.exit_code == 0, f"{line}: {result.output}"
    rollouts = RolloutFile(path("g")).read()
    vine, potential = rollouts.ragged("token.advantage_vine"), rollouts.ragged("token.advantage")
    np.testing.assert_allclose(potential.values, vine.values, atol=1e-6)
    assert np.abs(vine.values).max() > 0.1
    purpose = rollouts.strings("purpose")
    found = rollouts.table["step"].combine_chunks().field("value").to_pylist()
    assert all((row is None) == (kind == "probe") for row, kind in zip(found, purpose, strict=True))


def test_a_truncated_probe_counts_as_it_does_for_vineppo() -> None:
    """A scorer may give it a reward; what it measures is 0 to both, or what it got."""
    own, probes = probed_rollouts([1.0], [[5, 6, 7]], PROBES)
    probes = probes.with_flag("truncated", np.arange(12) % 2 == 0)
    credit = Credit(own, probes)
    by_default: list[float] = []
    options: list[dict[str, Any]] = [{}, {"truncated": None}, {"truncated": -1.0}]
    for option in options:
        found = values(Rollouts.concat([own, probes]), **option)["step.value"].values
        by_default = by_default or found.tolist()
        stepped = Credit(own.with_columns({"step.value": [found.tolist()]}))
        assert potential_difference(stepped).tolist() == vineppo(credit, **option).tolist()
    assert by_default == [0.25, 0.5, 0.25]  # 1 0 0 1 with the first and third cut: 0 0 0 1


def test_steps_that_no_probe_measured_are_refused() -> None:
    wrong = {(0, 1): [1.0, 0.0]}
    given = probed_rollouts([1.0], [[5, 6, 7]], wrong, steps=[[0, 2]])
    for function in (lambda: vineppo(Credit(*given)), lambda: values(Rollouts.concat(list(given)))):
        with pytest.raises(DataError, match=r"no probe begins at a step \(steps: 2, .*probes: 2, .*--set at=steps"):
            function()


def test_the_worked_example_of_vineppo() -> None:
    credit = probed([1.0], [[5, 6, 7]], PROBES)
    found = values(file_of([1.0], [[5, 6, 7]], PROBES))
    assert found["step.value"].values.tolist() == [0.5, 0.75, 0.25]
    assert found["step.probes"].values.tolist() == [4, 4, 4]
    assert found["step.value"].present is not None
    assert found["step.value"].present.tolist() == [True] + [False] * 12
    stepped = Credit(credit.rollouts.with_columns({"step.value": [[0.5, 0.75, 0.25]]}))
    assert potential_difference(stepped).tolist() == vineppo(credit).tolist() == [0.25, -0.5, 0.75]


def test_a_state_that_nothing_continues_has_the_next_ones_value_and_no_probes() -> None:
    found = values(file_of([1.0], [[5, 6, 7]], {(0, 1): [1, 0]}))
    assert found["step.value"].values.tolist() == [0.5, 0.5, 1.0]
    assert found["step.probes"].values.tolist() == [0, 2, 0]


def test_without_probes_it_says_who_makes_them() -> None:
    with pytest.raises(DataError, match="sample --from IN --strategy vine"):
        values(file_of([1.0], [[5, 6, 7]], {}))
