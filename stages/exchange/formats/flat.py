"""A table of tokens and credit, for a trainer that looks its rows up."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ....formats.digests import digest_of_tokens
from ..kind import Batches, exporter


@exporter(
    "flat",
    needs_with=lambda column, **_: (column,),
    suffix=".parquet",
    source="ours",
)
def write_flat(batches: Batches, out: Path, *, column: str = "token.advantage") -> int:
    """One row a rollout: rollout_id, group_id, digest, prompt_ids, response_ids, mask and advantages.

    A trainer finds its row by `rollout_id`, and holds `digest` against `digest_of_tokens(prompt_ids, response_ids)` of what it
    has: where they differ, the credit is of other tokens.

    Args:
        column: the credit that is written as advantages.

    Returns:
        The number of rows.
    """
    count, writer = 0, None
    try:
        for batch in batches:
            ids = batch.token_ids
            prompts = batch.ragged("prompt_ids") if "prompt_ids" in batch else None
            none = np.empty(0, np.int32)
            digests = [
                digest_of_tokens(none if prompts is None else prompts[row], ids[row]) for row in range(len(batch))
            ]
            empty = pa.array([[]] * len(batch), pa.list_(pa.int32()))
            table = pa.table(
                {
                    "rollout_id": batch.arrow("rollout_id").cast(pa.string()),
                    "group_id": batch.arrow("group_id").cast(pa.string()),
                    "digest": pa.array(digests, pa.string()),
                    "prompt_ids": empty if prompts is None else batch.arrow("prompt_ids").cast(pa.list_(pa.int32())),
                    "response_ids": batch.arrow("token.id").cast(pa.list_(pa.int32())),
                    "mask": batch.arrow("token.mask").cast(pa.list_(pa.bool_())),
                    "advantages": batch.arrow(column).cast(pa.list_(pa.float32())),
                }
            )
            writer = writer or pq.ParquetWriter(out, table.schema, compression="zstd")
            writer.write_table(table)
            count += len(batch)
    finally:
        if writer is not None:
            writer.close()
    return count
