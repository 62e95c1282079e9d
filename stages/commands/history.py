"""How a file or checkpoint came to be."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ...formats.errors import DataError, UsageError

if TYPE_CHECKING:
    from ...formats.provenance import Provenance


@dataclass(frozen=True)
class Log:
    """The history of one output, oldest stage first. shell: the commands that make it again, where they were asked for."""

    path: str
    provenance: "Provenance"
    shell: Sequence[str] | None = None

    def to_json(self) -> dict[str, Any]:
        commands = {} if self.shell is None else {"shell": list(self.shell)}
        return {"path": self.path, **asdict(self.provenance), **commands}

    def render(self) -> None:
        if self.shell is not None:
            print("\n".join(self.shell))
            return
        if not self.provenance.history:
            print(f"{self.path}: no history in it (another tool wrote it)")
            return
        facts = "".join(f", {name}: {_shown(value)}" for name, value in self.provenance.facts.items())
        print(f"{self.path}: format {self.provenance.format}{facts}")
        for record in self.provenance.history:
            counts = ", ".join(f"{count:,} {name}" for name, count in record.counts.items())
            print(f"{record.stage} {record.version}" + (f"  ({counts})" if counts else ""))
            for name, value in record.parameters.items():
                print(f"    {name}: {_shown(value)}")
            for role, digest in record.inputs.items():
                print(f"    {role} <- {digest}")


def log(
    path: Annotated[Path, "Rollout file, memory, or checkpoint directory."],
    *,
    shell: Annotated[bool, "Print the shell commands that make it again, options at their defaults left out."] = False,
) -> Log:
    """Print a file's history: every stage with its parameters, seed, version, counts and the digests of its inputs.

    A checkpoint's history begins with that of the rollouts it was trained on.
    """
    provenance = _provenance(path)
    if not shell:
        return Log(str(path), provenance)
    from .reproduction import commands_of

    return Log(str(path), provenance, commands_of(path, provenance))


def _provenance(path: Path) -> "Provenance":
    from ...formats.memories import MemoryFile, is_memory
    from ...formats.own import CHECKPOINT_HISTORY
    from ...formats.parquet import RolloutFile
    from ...formats.provenance import Provenance

    if not path.is_dir():
        return (MemoryFile if is_memory(path) else RolloutFile)(path).provenance
    kept = path / CHECKPOINT_HISTORY
    if not kept.is_file():
        raise UsageError(f"{path}: no {CHECKPOINT_HISTORY} in it; expected a rollout file or a checkpoint of `train`")
    try:
        return Provenance.from_json(kept.read_text())
    except (DataError, ValueError) as error:
        raise DataError(f"{kept}: {error}") from error


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_shown(each)}" for name, each in value.items()) or "none"
    return "none" if value is None or value == "" else str(value)
