"""The rollouts that open-instruct saves with --save_traces."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from ....formats.flags import TRUNCATED
from ..kind import Sample, Source, Unmapped, importer


@importer(
    "open_instruct",
    recognises=lambda source: source.has("prompt_tokens", "response_tokens", "prompt_idx"),
    exact=True,
    fills=("reward", "reference", "iteration", "finish_reason", "flags", "token.logprob", "token.advantage_open_instruct"),
    loses=("which tokens of a response a tool wrote", "tools' outputs and times"),
    source="open-instruct, rl_utils.py of August 2026",
    evidence="code",
)  # fmt: skip
def read_rollouts(source: Source, *, tools: Literal["refuse", "keep"] = "refuse") -> Iterator[Sample | Unmapped]:
    """Rollouts of open-instruct, one a line of `{run}_rollouts_{shard}.jsonl`.

    A group is a step's prompt. The scalar advantage goes to `token.advantage_open_instruct`, on every token. A response that ended
    for any other reason than `stop` is flagged truncated.

    Args:
        tools: what becomes of responses in which a tool was called. The file does not tell the tool's tokens from the policy's:
            refuse counts such rollouts and leaves them out, keep takes all of their tokens as the policy's.
    """
    for where, record in source.lines():
        with source.record():
            yield _sample(where, record, keep_tools=tools == "keep")


def _sample(where: str, record: Mapping[str, Any], *, keep_tools: bool) -> Sample | Unmapped:
    ids = record["response_tokens"]
    if not ids:
        return Unmapped("rollouts without a response")
    if not keep_tools and (record.get("request_info") or {}).get("tool_calleds"):
        return Unmapped("rollouts in which a tool was called (--set tools=keep takes them)")
    truth, reason = record.get("ground_truth"), record.get("finish_reason")
    return Sample(
        where=where,
        rollout_id=f"{record['step']}/{record['sample_idx']}",
        group_id=str(record["prompt_idx"]),
        prompt_ids=record["prompt_tokens"],
        ids=ids,
        mask=[1] * len(ids),
        columns={
            "reward": record.get("reward"),
            "reference": None if truth is None else truth if isinstance(truth, str) else json.dumps(truth),
            "iteration": record["step"],
            "finish_reason": reason,
            "flags": [TRUNCATED] if reason not in (None, "stop") else [],
            "token.logprob": record.get("logprobs"),
            "token.advantage_open_instruct": None if record.get("advantage") is None else float(record["advantage"]),
        },
        record=record,
    )
