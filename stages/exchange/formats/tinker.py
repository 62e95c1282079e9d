"""What tinker-cookbook captures of a run: every call of the sampler."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from ....formats.errors import UsageError
from ....formats.flags import TRUNCATED
from ..kind import Sample, Source, Unmapped, importer
from ._calls import Call, lines_of

KEY = ("run_id", "split", "iteration", "group_idx", "traj_idx")
TRAIN = "train"


def _is_capture(source: Source) -> bool:
    if source.path.suffix == ".sqlite":
        return source.path.name == "capture.sqlite"
    return source.has("kind", "scope", "status") and source.first["kind"] == "sample"


@importer(
    "tinker",
    recognises=_is_capture,
    exact=True,
    fills=(
        "reward", "step.reward", "step.start", "step.end", "step.kind", "token.logprob", "episode_id", "part", "iteration", "purpose",
        "policy", "temperature", "top_p", "finish_reason", "flags",
    ),
    loses=("prompts and responses as text: give --tokenizer", "calls that failed", "advantages, which the cookbook does not write"),
    source="tinker-cookbook 0.6.1, capture/instrument.py, capture/store/schema.py and rl/rollout_logging.py",
    evidence="code",
)  # fmt: skip
def read_capture(source: Source, *, summaries: str = "") -> Iterator[Sample | Unmapped]:
    """Calls in capture/sample.jsonl, or in the capture store's capture.sqlite, put together to trajectories.

    A trajectory is what one run, split, iteration, group and trajectory index share; calls without an index are trajectories of
    their own, as many as they sampled. A call whose prompt goes on from the last one continues the row, and what lies between
    is an environment's; any other prompt begins a new part of the episode. Each call is a step.

    Rewards stand in the cookbook's *_rollout_summaries.jsonl, which are looked for in the run's folder, where the capture lies in a
    folder `capture` of it, and its iterations. A step's reward is taken over where the summary's steps have the lengths of the calls.

    Args:
        summaries: the folder in which the summaries are looked for, with all that is below it.
    """
    rewards = _rewards(_summaries(source.path, summaries))
    if summaries and not rewards:
        raise UsageError(f"importer tinker: summaries: no *_rollout_summaries.jsonl below {summaries}")
    for key, calls in _trajectories(source):
        with source.record():
            yield from _samples(source, dict(zip(KEY, key, strict=True)), calls, rewards)


def _trajectories(source: Source) -> Iterator[tuple[tuple[Any, ...], list[dict[str, Any]]]]:
    """(run, split, iteration, group, trajectory) and the calls of each, in the order in which they were made."""
    if source.path.suffix == ".jsonl":
        for name, records in source.gathered(_key_of):
            calls = [
                _call_of(where, record, sample) for where, record in records for sample in record.get("samples") or ()
            ]
            yield from _apart(name[:-1], sorted(calls, key=lambda call: call["created_at"]))
        return
    rows = source.query(f"SELECT * FROM wire_rows ORDER BY {', '.join(KEY)}, created_at, sample_idx")
    for name, found in groupby(rows, lambda row: tuple(row[each] for each in KEY)):
        calls = [_call_of_row(source.place, row) for row in found]
        yield from _apart(name, [call for call in calls if call["tokens"] is not None])


def _apart(
    name: tuple[Any, ...], calls: list[dict[str, Any]]
) -> Iterator[tuple[tuple[Any, ...], list[dict[str, Any]]]]:
    """One trajectory, or one for each call where nothing says which belong together."""
    if name[-1] is not None or not calls:
        yield name, calls
        return
    for number, call in enumerate(calls):
        yield (*name[:-1], f"{call['call']}/{number}"), [call]


def _key_of(record: Any) -> tuple[Any, ...] | None:
    """What a call's trajectory is told by; None for a record that is no call. Calls without an index stand alone."""
    if not isinstance(record, Mapping) or record.get("kind") != "sample":
        return None
    scope = record.get("scope") or {}
    name = tuple(scope.get(each) for each in KEY)
    return (*name, None if name[-1] is not None else record.get("seq_id"))


def _call_of(where: str, record: Mapping[str, Any], sample: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "where": where, "prompt": record.get("prompt_tokens"), "tokens": sample.get("tokens"), "logprobs": sample.get("logprobs"),
        "stop": sample.get("stop_reason"), "settings": record.get("sampling_params") or {}, "policy": record.get("model_path"),
        "created_at": record.get("created_at") or 0, "call": record.get("seq_id"), "purpose": (record.get("scope") or {}).get("purpose"),
    }  # fmt: skip


def _call_of_row(where: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the store, whose lists are JSON."""
    prompt, tokens, logprobs, more = (
        None if row[name] is None else json.loads(row[name])
        for name in ("prompt_tokens", "sampled_tokens", "logprobs", "metadata")
    )
    more = more or {}
    return {
        "where": where, "prompt": prompt, "tokens": tokens, "logprobs": logprobs, "stop": more.get("stop_reason"),
        "settings": more.get("sampling_params") or {}, "policy": row["policy_version"] or more.get("model_path"),
        "created_at": row["created_at"] or 0, "call": row["seq_id"], "purpose": row["purpose"],
    }  # fmt: skip


def _samples(
    source: Source, key: Mapping[str, Any], calls: list[dict[str, Any]], rewards: Mapping[Any, Mapping[str, Any]]
) -> Iterator[Sample | Unmapped]:
    if not calls:
        yield Unmapped("trajectories whose calls all failed")
        return
    if any(call["prompt"] is None for call in calls):
        yield Unmapped("trajectories with a prompt that is not of tokens alone")
        return
    split = key["split"] or TRAIN
    found = rewards.get((split, key["iteration"], key["group_idx"], key["traj_idx"]), {})
    steps = found.get("steps") or []
    lengths = [(step.get("ob_len"), step.get("ac_len")) for step in steps]
    is_aligned = lengths == [(len(call["prompt"]), len(call["tokens"])) for call in calls]
    lines = lines_of(
        [
            Call(
                call["where"],
                call["prompt"],
                call["tokens"],
                call["logprobs"],
                steps[place]["reward"] if is_aligned else None,
            )
            for place, call in enumerate(calls)
        ]
    )
    name = "/".join(str(each) for each in key.values() if each is not None)
    for part, line in enumerate(lines):
        last = calls[line.calls[-1]]
        settings = last["settings"]
        columns: dict[str, Any] = {
            **line.columns(),
            "reward": found.get("total_reward"),
            "iteration": key["iteration"],
            "purpose": "eval" if not str(split).startswith(TRAIN) or last["purpose"] == "eval" else TRAIN,
            "policy": last["policy"],
            "temperature": settings.get("temperature"),
            "top_p": settings.get("top_p"),
            "finish_reason": last["stop"],
            "flags": [TRUNCATED] if last["stop"] == "length" else [],
        }
        if len(lines) > 1:
            columns |= {"episode_id": name, "part": part}
        group = [str(key[each]) for each in ("run_id", "split", "group_idx") if key[each] is not None]
        yield Sample(
            where=last["where"],
            rollout_id=f"{name}/{part}" if len(lines) > 1 else name,
            group_id="/".join(group) if key["group_idx"] is not None else None,
            prompt_ids=line.prompt_ids,
            ids=line.ids,
            mask=line.mask,
            columns={path: value for path, value in columns.items() if value is not None},
            record=key,
        )


def _summaries(path: Path, folder: str) -> list[Path]:
    """The files of summaries that belong to a capture."""
    name = "*_rollout_summaries.jsonl"
    if folder:
        return sorted(Path(folder).rglob(name))
    run = path.absolute().parent
    run = run.parent if run.name == "capture" else run
    return sorted([*run.glob(name), *run.glob(f"iteration_*/{name}")])


def _rewards(paths: Sequence[Path]) -> dict[Any, dict[str, Any]]:
    """What the cookbook's summaries say of each trajectory, by split, iteration, group and trajectory."""
    found: dict[Any, dict[str, Any]] = {}
    for path in paths:
        for _, record in Source(path).lines():
            key = tuple(record.get(name) for name in ("split", "iteration", "group_idx", "traj_idx"))
            found[key] = {name: record.get(name) for name in ("total_reward", "steps")}
    return found
