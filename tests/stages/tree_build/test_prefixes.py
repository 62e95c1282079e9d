import numpy as np
import pytest
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.structure.prefixes import prefix_keys


@pytest.mark.parametrize("seed", range(6))
def test_keys_of_prefixes_agree_with_the_prefixes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = [rng.integers(0, 2, rng.integers(0, 8)).tolist() for _ in range(12)]
    groups = [0] * 7 + [1] * 5
    rollouts = rollouts_of([0.0] * 12, tokens=tokens, groups=groups)
    rows = np.repeat(np.arange(12), [len(row) + 1 for row in tokens])
    lengths = np.concatenate([np.arange(len(row) + 1) for row in tokens])
    keys = prefix_keys(rollouts, rows, lengths)
    named = [(groups[row], tuple(tokens[row][:length])) for row, length in zip(rows, lengths, strict=True)]
    assert len(set(keys.tolist())) == len(set(named)) == len(set(zip(keys.tolist(), named, strict=True)))
