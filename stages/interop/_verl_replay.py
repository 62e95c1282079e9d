"""Credit of earlier rollouts, looked up by their keys, for a batch of verl's that is trained on again."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...formats.errors import DataError, UsageError
from ...formats.segments import Array
from ._verl_batch import Batch

COLUMNS = ("rollout_id", "digest", "advantages")


class CreditFiles:
    """A file of `apportion export --format flat`, or a folder with one for each step. UsageError when there is none, DataError for
    a file of another kind."""

    def __init__(self, path: Path):
        self.path = path
        self._file: Path | None = None
        self._table = pa.table({})
        self._rows: dict[str, int] = {}
        if not path.exists():
            raise UsageError(f"{path}: no such file; write it with `apportion export --format flat`")
        if not path.is_dir():
            self._open(path)

    def credit_of(self, batch: Batch, step: int) -> list[Array]:
        """[B][L] float32. DataError for a row that is not in the file, or whose tokens are others."""
        file = self.path / f"{step}.parquet" if self.path.is_dir() else self.path
        if file != self._file:
            if not file.exists():
                raise DataError(f"{file}: no such file: expected the credit of step {step}")
            self._open(file)
        found: list[Array] = []
        advantages, digests = self._table.column("advantages"), self._table.column("digest")
        for row, (name, origin) in enumerate(zip(batch.names, _origins(batch), strict=True)):
            place = self._rows.get(name, self._rows.get(origin))
            if place is None:
                also = f" (sampled as {origin!r})" if origin != name else ""
                raise DataError(f"{file}: no row for rollout {name!r}{also} of step {step}")
            if digests[place].as_py() != batch.digests[row]:
                raise DataError(
                    f"{file}, row {place}: the credit of rollout {name!r} was computed on other tokens than the batch has; "
                    "export it from the rollouts of this batch"
                )
            trained = batch.trained[row]
            values = advantages[place].values
            credit = np.zeros(len(trained)) if values is None else values.to_numpy(zero_copy_only=False)
            found.append(np.where(trained, credit, 0.0).astype(np.float32))
        return found

    def _open(self, file: Path) -> None:
        try:
            missing = [name for name in COLUMNS if name not in pq.read_schema(file).names]
            table = None if missing else pq.read_table(file, columns=list(COLUMNS))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file}: not a whole Parquet file ({str(error).splitlines()[0]})") from error
        if table is None:
            raise DataError(f"{file}: no column {missing[0]!r}: expected a file of `apportion export --format flat`")
        self._file, self._table = file, table.combine_chunks()
        names = self._table.column("rollout_id").to_pylist()
        self._rows = {name: row for row, name in enumerate(names)}
        if len(self._rows) < len(names):
            again = next(name for row, name in enumerate(names) if self._rows[name] != row)
            raise DataError(f"{file}: rollout {again!r} is in two rows; expected one for each key")


def _origins(batch: Batch) -> list[str]:
    """[B] the keys that the rows were sampled under. verl gives a batch that it injects again keys of new prompts, and leaves
    the old uid and session among the fields."""
    if "uid" not in batch.fields or "session_id" not in batch.fields:
        return batch.names
    return [
        f"{uid}_{session}_{key.index}"
        for uid, session, key in zip(batch.fields["uid"], batch.fields["session_id"], batch.keys, strict=True)
    ]
