"""Where people already look: the figures of a run, and some of its rollouts, in TensorBoard, trackio or Weights & Biases."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from ...formats.errors import ApportionError, UsageError
from ...formats.provenance import digest_of

TrackerName = Literal["tensorboard", "trackio", "wandb"]
Row = Mapping[str, Any]


class Tracker(ABC):
    """A tracker's own client, for one run. `place` says where what it gets lies or goes."""

    place: str

    @abstractmethod
    def figures(self, values: Mapping[str, float], at: int) -> None:
        """Numbers by name, at a step of the run."""

    def updates(self, values: Mapping[str, float], at: int) -> None:
        """Numbers of an update of a training; at: updates of the whole run so far."""
        self.figures({**values, "train/updates": at}, at)

    @abstractmethod
    def rollouts(self, rows: Sequence[Row], at: int) -> None:
        """Rollouts, each with its figures and, unless they are left out, its texts."""

    @abstractmethod
    def close(self) -> None:
        """Send what is waiting."""


class TensorBoard(Tracker):
    """Event files in the run's folder; nothing leaves the machine."""

    def __init__(self, recipe: str, folder: Path, settings: Mapping[str, Any]):
        module = _client("torch.utils.tensorboard", "tensorboard")
        self.place = str(folder / "tensorboard")
        self._writer = module.SummaryWriter(self.place)
        self._writer.add_text("variables", _as_block(settings), 0)

    def figures(self, values: Mapping[str, float], at: int) -> None:
        """One scalar each."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, at)

    def rollouts(self, rows: Sequence[Row], at: int) -> None:
        """One text each, as JSON in a block of code, so that nothing in it is taken for markup."""
        for number, row in enumerate(rows):
            self._writer.add_text(f"rollouts/{number}", _as_block(row), at)

    def close(self) -> None:
        """Write the event file."""
        self._writer.close()


class Trackio(Tracker):
    """trackio's store on this machine, or the Space or server that its environment variables name."""

    def __init__(self, recipe: str, folder: Path, settings: Mapping[str, Any]):
        self._module = _client("trackio", "trackio")
        other = os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL")
        name = f"{folder.name}-{digest_of(str(folder.absolute()))[:6]}"
        self._run = self._module.init(project=recipe, name=name, config=dict(settings), resume="allow", embed=False)
        self.place = f"project {recipe}, run {name}, {f'at {other}' if other else 'on this machine'}"

    def figures(self, values: Mapping[str, float], at: int) -> None:
        """One call for all."""
        self._run.log(dict(values), step=at)

    def rollouts(self, rows: Sequence[Row], at: int) -> None:
        """A trace each: the prompt's messages and the response, a span for each step with its credit."""
        for number, row in enumerate(rows):
            said = [*(row.get("prompt") or ()), {"role": "assistant", "content": row.get("response") or ""}]
            known = {
                name: value for name, value in row.items() if name not in ("prompt", "response", "credit_of_steps")
            }
            spans = [
                {"id": str(step), "name": f"step {step}", "kind": "generation", "metadata": {"credit": credit}}
                for step, credit in enumerate(row["credit_of_steps"])
            ]
            trace = self._module.Trace(messages=said, metadata=known, spans=spans)
            self._run.log({f"rollouts/{number}": trace}, step=at)

    def close(self) -> None:
        """Wait until all is written."""
        self._run.finish()


class WandB(Tracker):
    """Weights & Biases: to its server, or into the run's folder where WANDB_MODE is offline."""

    def __init__(self, recipe: str, folder: Path, settings: Mapping[str, Any]):
        self._module = _client("wandb", "wandb")
        self._run = self._module.init(
            project=recipe, name=folder.name, id=digest_of(str(folder.absolute()))[:16], resume="allow", dir=str(folder),
            config=dict(settings),
        )  # fmt: skip
        self.place = f"run {self._run.url}" if self._run.url else f"{folder / 'wandb'} ({os.environ.get('WANDB_MODE')})"
        for name in ("eval", "sample", "score", "assign-credit"):
            self._run.define_metric(f"{name}/*", step_metric="step")
        self._run.define_metric("train/*", step_metric="train/updates")

    def updates(self, values: Mapping[str, float], at: int) -> None:
        """Against the updates, not the run's steps."""
        self._run.log({**values, "train/updates": at})

    def figures(self, values: Mapping[str, float], at: int) -> None:
        """Against the run's step, so that a run which goes on adds to what is there."""
        self._run.log({**values, "step": at})

    def rollouts(self, rows: Sequence[Row], at: int) -> None:
        """One table a step."""
        columns = list(rows[0])
        data = [[_as_cell(row[name]) for name in columns] for row in rows]
        self._run.log({"rollouts": self._module.Table(columns=columns, data=data), "step": at})

    def close(self) -> None:
        """Send what is waiting."""
        self._run.finish()


TRACKERS: Mapping[str, Callable[[str, Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard, "trackio": Trackio, "wandb": WandB,
}  # fmt: skip


def tracker_of(name: str, recipe: str, folder: Path, settings: Mapping[str, Any]) -> Tracker:
    """Begin to log. UsageError where the client is not installed, ApportionError where it does not begin."""
    try:
        return TRACKERS[name](recipe, folder, settings)
    except UsageError:
        raise
    except Exception as error:  # the client's own: no account, no network
        told = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ApportionError(f"--log {name}: {told:.300}") from error


def _client(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(f"--log {package} needs {package}; pip install {package}") from error


def _as_block(value: Mapping[str, Any]) -> str:
    """JSON, indented as a block of code in Markdown."""
    text = json.dumps(value, indent=1, ensure_ascii=True, default=str)
    return "\n".join(f"    {line}" for line in text.splitlines())


def _as_cell(value: Any) -> Any:
    return value if isinstance(value, int | float | str) or value is None else json.dumps(value, default=str)
