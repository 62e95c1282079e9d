"""Results that a gate can fail: the option `--fail-if`, and what a command ends with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from ...formats.errors import ApportionError
from ...formats.gates import Gate, flatten_figures
from ..core.options import Names

FAIL_IF = "fail_if"  # its key in a recipe
FailIf = Annotated[
    list[str] | None,
    "Exit with 5 if this holds of the figures that --json gives, as in 'pass@1 < 0.6'; repeatable (docs/json.md).",
    Names(("--fail-if",)),
]


@dataclass(frozen=True, kw_only=True)
class Gated:
    """A result with the gates that its user set."""

    gates: Sequence[Gate] = ()

    def to_json(self) -> dict[str, Any]:
        raise NotImplementedError

    def figures(self) -> dict[str, float | None]:
        """What gates may ask for, by name."""
        return flatten_figures(self.to_json())

    def fault(self) -> ApportionError | None:
        """What the command ends with: the first gate that fails."""
        return fault_of(self.gates, self.figures) if self.gates else None


def fault_of(gates: Sequence[Gate], figures: Any) -> ApportionError | None:
    """The first gate that fails of the figures that a call gives; unknown names come first."""
    found = figures()
    faults = [gate.fault(found) for gate in gates]
    return next((fault for fault in faults if fault is not None), None)


def gates_of(texts: Sequence[str] | None) -> tuple[Gate, ...]:
    """The gates that an option gives, parsed. UsageError for text that is none."""
    return tuple(Gate(text) for text in texts or ())
