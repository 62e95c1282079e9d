"""How a file or checkpoint came to be."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..formats.errors import DataError, UsageError

if TYPE_CHECKING:
    from ..formats.provenance import Provenance


@dataclass(frozen=True)
class Log:
    """The history of one output, oldest stage first."""

    path: str
    provenance: "Provenance"

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, **asdict(self.provenance)}

    def render(self) -> None:
        if not self.provenance.history:
            print(f"{self.path}: no history in it (another tool wrote it)")
        for record in self.provenance.history:
            counts = ", ".join(f"{count:,} {name}" for name, count in record.counts.items())
            print(f"{record.stage} {record.version}  ({counts})")
            for name, value in record.parameters.items():
                if value not in (None, {}, ""):
                    print(f"    {name}: {value}")
            for role, digest in record.inputs.items():
                print(f"    {role} <- {digest}")


def log(path: Annotated[Path, "Rollout file, or checkpoint directory."]) -> Log:
    """Print a file's history: every stage with its parameters, versions, counts and the digests of its inputs."""
    from ..formats.parquet import RolloutFile
    from ..formats.provenance import Provenance
    from .train import HISTORY_FILE

    if path.is_dir():
        kept = path / HISTORY_FILE
        if not kept.is_file():
            raise UsageError(f"{path}: no {HISTORY_FILE} in it; needed is a rollout file or a checkpoint of `train`")
        try:
            return Log(str(path), Provenance.from_json(kept.read_text()))
        except (DataError, ValueError) as error:
            raise DataError(f"{kept}: {error}") from error
    return Log(str(path), RolloutFile(path).provenance)
