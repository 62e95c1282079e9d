"""Credit on its way from the process that has all samples to the ranks that train on some: rollout files in a shared folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa

from ...formats.digests import digest_of_tokens
from ...formats.errors import DataError
from ...formats.parquet import RolloutFile, write_rollouts
from ...formats.provenance import Provenance
from ...formats.ragged import Ragged
from ...formats.rollouts import Rollouts
from ._rows import Rows, as_numpy


def key_of(index: int, tokens: Any) -> str:
    """Of a sample, in all processes. Its tokens are in it: fan-out may give several samples one index, and for tokens that were
    changed on the way nothing must be found."""
    return f"{index}-{digest_of_tokens([], as_numpy(tokens))}"


def write_credit(folder: Path, keys: Sequence[str], prompts: Sequence[list[int]], rows: Rows, credit: Any) -> Path:
    """A file of a batch. DataError where two samples that cannot be told apart have different credit."""
    number = np.unique(rows.groups, return_inverse=True)[1]
    places = {keys[place]: place for place in np.argsort(number, kind="stable").tolist()}
    for place, key in enumerate(keys):
        if credit[places[key]] != credit[place]:
            raise DataError(f"two samples {key.split('-')[0]} have the same tokens, but not the same credit")
    order = list(places.values())
    table = pa.table(
        {
            "rollout_id": [keys[place] for place in order],
            "group_id": [rows.groups[place] for place in order],
            "episode_id": [rows.episodes[place] for place in order],
            "part": pa.array(order, pa.int32()),
            "reward": pa.array([None if rows.skipped[place] else rows.rewards[place] for place in order], pa.float64()),
        }
    )
    batch = Rollouts(table).with_columns(
        {
            "prompt_ids": Ragged.from_lists([prompts[place] for place in order], np.int32),
            "token.id": Ragged.from_lists([rows.ids[place] for place in order], np.int32),
            "token.mask": Ragged.from_lists([rows.own[place] for place in order], bool),
            "token.advantage": Ragged.from_lists([credit[place] for place in order], np.float32),
        }
    )
    path = folder / f"credit-{crc32(' '.join(sorted(keys)).encode()):08x}.parquet"
    write_rollouts(path, [batch], Provenance(), force=True)
    return path


def read_credit(folder: Path, keys: Sequence[str]) -> dict[str, list[float]]:
    """The credit of these samples, from the newest files that have them."""
    found: dict[str, list[float]] = {}
    missing = set(keys)
    for path in sorted(folder.glob("credit-*.parquet"), key=lambda each: each.stat().st_mtime_ns, reverse=True):
        batch = RolloutFile(path).read(["group_id", "rollout_id", "token.advantage"])
        credit = batch.ragged("token.advantage")
        for row, key in enumerate(batch.strings("rollout_id")):
            if key in missing:
                found[key] = credit[row].tolist()
                missing.remove(key)
        if not missing:
            return found
    raise DataError(
        f"{folder} has no credit of sample {min(missing)}; all nodes must share the folder, and the tokens must be the rollout's"
    )
