"""What a run says of each of its steps: in a line while it runs, and in its JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, Literal

from ...formats.gates import Figures, flatten_figures
from .plan import Planned

MOST_FIGURES = 200
# The figure of the line, by the name it has there: the first that a step has.
MAIN = {"pass@1": "pass_at.1.value", "improvement": "improvement.value", "updates": "updates", "rollouts": "rollouts"}


@dataclass(frozen=True)
class StepRan:
    """A step of a run. outputs: {recipe key: path}. figures: the numbers of its result; of a step that was up to date, those
    of the run that made it. seconds: None where it did not run to its end."""

    command: str
    where: str
    status: Literal["ran", "up to date", "to run", "failed"]
    outputs: Mapping[str, str]
    figures: Mapping[str, float | None]
    seconds: float | None

    @classmethod
    def of(
        cls, step: Planned, status: Literal["ran", "up to date", "to run", "failed"], figures: Figures, seconds: float | None = None
    ) -> "StepRan":  # fmt: skip
        return cls(step.command.name, step.where, status, step.outputs, dict(figures), seconds)


def step_figures(result: Any) -> dict[str, float | None]:
    """The numbers of a step's result by name: those that gates ask for, for any other result those of its JSON."""
    if hasattr(result, "figures"):
        return result.figures()
    content = result.to_json() if hasattr(result, "to_json") else None
    if content is None and is_dataclass(result) and not isinstance(result, type):
        content = asdict(result)
    return dict(list(flatten_figures(content).items())[:MOST_FIGURES])


def step_line(label: str, step: Planned, figures: Figures, seconds: float) -> str:
    """`[3/8] score -> runs/grpo/0/scored.parquet  rollouts 32  0.3 s`"""
    found = next((f"  {name} {figures[key]:,.4g}" for name, key in MAIN.items() if figures.get(key) is not None), "")
    place = "" if step.out is None else f" -> {step.out}"
    return f"{label} {step.command.name}{place}{found}  {seconds:.1f} s"
