"""What `sample` says of the work that its engine was spared."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from apportion.formats.parquet import RolloutFile
from typer.testing import Result

Cli = Callable[..., Result]
LINE = ("sample", "--prompts", 4, "-n", 4, "--max-tokens", 8, "--device", "cpu", "--force")


def test_sample_says_how_much_of_the_prompts_was_not_computed(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "rollouts"
    result = cli(*LINE, "-o", out, "--json")
    found = json.loads(result.stdout)
    rollouts = RolloutFile(out).read()
    prompts = [ids.tolist() for ids in (rollouts.ragged("prompt_ids")[row] for row in range(16))]
    given = sum(map(len, prompts))
    # Computed: each prompt but its last token once for its four samples, what all begin with once, 16 last tokens.
    once = {tuple(prompt[:end]) for prompt in prompts for end in range(1, len(prompt))}
    computed_at_most = sum(len(prompt) - 1 for prompt in prompts[::4]) + 16
    usage = found["usage"]
    assert (usage["prompt_tokens"], usage["generated_tokens"]) == (given, found["tokens"])
    assert given - computed_at_most <= usage["cached_tokens"] <= given - len(once) - 16
    share = usage["cached_tokens"] / given
    told = cli(*LINE, "-o", out)
    assert f"{found['tokens']:,} tokens; {share:.0%} of {given:,} prompt tokens from the prefix cache" in told.stderr


def test_the_file_does_not_depend_on_it(cli: Cli, tmp_path: Path) -> None:
    """The same samples, all at once and group by group: what is computed twice differs, the files' counts do not."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    usages: list[dict[str, int]] = []
    for out, rows in ((whole, 16), (parts, 4)):
        result = cli(*LINE, "--set", f"rows_at_once={rows}", "-o", out, "--json")
        usages.append(json.loads(result.stdout)["usage"])
    assert usages[0]["cached_tokens"] >= usages[1]["cached_tokens"]
    for out in (whole, parts):
        [record] = RolloutFile(out).provenance.history
        assert set(record.counts) == {"rollouts", "groups", "tokens"}
        assert b"cached_tokens" not in pq.read_metadata(out).metadata[b"apportion"]


@pytest.mark.parametrize("counts", [True, False])
def test_a_server_that_does_not_count_is_not_called_uncached(
    serve: Callable[..., Any], cli: Cli, tmp_path: Path, counts: bool
) -> None:
    server = serve(counts=counts)
    line = (*LINE, "--engine", "openai", "--engine-set", f"base_url={server.url}", "--engine-set", "concurrency=1")
    result = cli(*line, "-o", tmp_path / "rollouts")
    assert result.exit_code == 0, result.output
    assert ("prompt tokens from the prefix cache" in result.stderr) == counts
