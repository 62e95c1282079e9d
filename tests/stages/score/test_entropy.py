from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.stages.models.policy import load_policy
from apportion.stages.score.uncertainty.entropy import entropy
from typer.testing import Result


def sampled(chain: Path) -> Rollouts:
    return RolloutFile(chain / "rollouts.parquet").read()


def test_entropy_of_the_distribution_before_each_token(chain: Path) -> None:
    import torch

    rollouts = sampled(chain)
    found = entropy(rollouts, model="builtin:tiny", device="cpu")["token.entropy"]
    model = load_policy("builtin:tiny", device="cpu").model
    for row in (0, 5):
        prompt, ids = rollouts.ragged("prompt_ids")[row], rollouts.token_ids[row]
        with torch.inference_mode():
            logits = model(input_ids=torch.from_numpy(np.concatenate((prompt, ids)).astype(np.int64))[None]).logits[0]
        logp = torch.log_softmax(logits[len(prompt) - 1 : -1].double(), -1)
        np.testing.assert_allclose(found[row], -(logp.exp() * logp).sum(-1).numpy(), atol=1e-4)


def test_log_probabilities_stay_and_are_written_where_there_are_none(chain: Path) -> None:
    rollouts = sampled(chain)
    assert set(entropy(rollouts, model="builtin:tiny", device="cpu")) == {"token.entropy"}
    token = rollouts.table.column("token").combine_chunks()
    leaves = [field for field in token.type if field.name != "logprob"]
    bare = pa.StructArray.from_arrays([token.field(each.name) for each in leaves], fields=leaves)
    place = rollouts.table.schema.get_field_index("token")
    found = entropy(Rollouts(rollouts.table.set_column(place, "token", bare)), model="builtin:tiny", device="cpu")
    np.testing.assert_allclose(found["token.logprob"].values, rollouts.ragged("token.logprob").values, atol=1e-4)
    assert set(found["logprob_kind"]) == {"policy"}


def test_what_an_environment_wrote_has_none(chain: Path) -> None:
    rollouts = sampled(chain)
    mask = rollouts.mask.copy()
    mask[3] = False
    masked = rollouts.with_columns({"token.mask": rollouts.token_ids.with_values(mask)})
    found = entropy(masked, model="builtin:tiny", device="cpu")["token.entropy"].values
    assert found[3] == 0
    whole = entropy(rollouts, model="builtin:tiny", device="cpu")["token.entropy"].values
    np.testing.assert_allclose(np.delete(found, 3), np.delete(whole, 3), atol=1e-5)


def test_a_rollout_beyond_what_the_model_reads_is_refused(
    chain: Path, cli: Callable[..., Result], tmp_path: Path
) -> None:
    rollouts = sampled(chain).slice(0, 4)
    long = Ragged.from_lists([[5], [5], [5] * 600, [5]], np.int32)
    token = {"token.id": long, "token.mask": long.with_values(np.ones(603, bool))}
    path = tmp_path / "long.parquet"
    rows = rollouts.table.select(["rollout_id", "group_id", "prompt_ids"])
    write_rollouts(path, [Rollouts(rows).with_columns(token)], Provenance())
    result = cli("score", path, "--with", "entropy", "--set", "model=builtin:tiny", "-o", tmp_path / "scored.parquet")
    size = 600 + len(rollouts.ragged("prompt_ids")[2])
    name = rollouts.strings("rollout_id")[2]
    assert result.exit_code == 3
    assert (
        f"rollout {name!r} has {size} tokens with its prompt, and builtin:tiny reads 512; name another" in result.stderr
    )
