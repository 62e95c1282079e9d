"""Agents' trajectories in the interchange format ATIF, as Harbor writes them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....formats.errors import DataError, UsageError
from ....formats.flags import ERROR, TRUNCATED
from ..kind import Sample, Source, Unmapped, importer
from ._calls import Call, Line, lines_of
from ._messages import message, text_of

MAIN = "trajectory.json"


@dataclass(frozen=True)
class Trial:
    """What Harbor's result.json says of a trial; empty where there is none.

    files: the trajectories that are read as one episode, one for each step of the task. rewards, details: the reward of each of
    those steps, and the agent's rollout details.
    """

    files: tuple[Path, ...]
    name: str | None = None
    group: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rewards: tuple[float | None, ...] = (None,)
    details: tuple[tuple[Any, ...], ...] = ((),)


@dataclass(frozen=True)
class Said:
    """A message of a trajectory. call: its number among the agent's calls; None of what the agent only read."""

    role: str
    text: str
    call: int | None


@dataclass(frozen=True)
class Row:
    """Calls that become a row, or the whole of a trajectory as text; and which task's step they were made in."""

    line: Line | None
    said: list[Said]
    lineage: str | None
    stage: int


@importer(
    "atif",
    recognises=lambda source: source.has("schema_version", "steps") and str(source.first["schema_version"]).startswith("ATIF"),
    exact=True,
    fills=(
        "reward", "rewards.NAME", "step.reward", "prompt", "text", "episode_id", "part", "lineage", "task", "engine", "flags", "error",
        "step.start", "step.end", "step.kind", "token.logprob",
    ),
    loses=("images and audio", "trials without a trajectory", "token ids, where the agent did not collect them: the file is text then"),
    source="Harbor 0.26.0, models/trajectories and models/trial (ATIF 1.8)",
    evidence="code",
)  # fmt: skip
def read_trajectory(source: Source, *, reward_key: str = "reward") -> Iterator[Sample | Unmapped]:
    """A trajectory.json of a Harbor trial, with the trial's result.json if it is in the folder above; or trajectories, one a line.

    An agent's step is a call of the model. Where steps have token ids, or the result has them as rollout details, a call whose
    prompt goes on from the last one continues the row, and what lies between is an environment's; any other prompt begins a new
    part of the episode. Otherwise the row is text. Steps that were copied from an earlier trajectory belong to the prompt.

    Sub-agents' trajectories, in the file or beside it, are parts with their agent's name as `lineage`; so are files that the
    trajectory is continued in. A group is a task, for each agent and model. The verifier's rewards become `rewards.NAME`; those
    of a task's steps stand on the last step of their part as `step.reward`.

    Args:
        reward_key: which of several rewards is the reward.
    """
    path = source.path.absolute()
    if path.suffix == ".jsonl":
        for _, content in source.lines():
            with source.record():
                yield from _samples(source, content, _trial_in(content, path))
    elif path.name == MAIN or path.name not in _referred_to_by(path.with_name(MAIN)):
        with source.record():
            trial = _trial_of(path, reward_key)
            if path == trial.files[0]:  # the others are read with it
                yield from _samples(source, source.content, trial)


def _samples(source: Source, content: Mapping[str, Any], trial: Trial) -> Iterator[Sample | Unmapped]:
    rows: list[Row] = []
    for stage, path in enumerate(trial.files):
        rows += _rows_of(path, Source(path).content if stage else content, stage, trial.details[stage])
    if not rows:
        yield Unmapped("trajectories in which the agent said nothing")
        return
    name = str(trial.name or content.get("trajectory_id") or content.get("session_id") or source.path.parent.name)
    last_of_stage = {row.stage: number for number, row in enumerate(rows)}
    for part, row in enumerate(rows):
        prompt, pieces = _texts(row)
        steps = len(row.line.spans) if row.line is not None else sum(own for _, own in pieces)
        columns: dict[str, Any] = {
            **trial.columns,
            "prompt": prompt,
            "text": "".join(text for text, _ in pieces),
            "lineage": row.lineage or trial.columns.get("lineage"),
            **(row.line.columns() if row.line is not None else {"step.kind": ["turn"] * steps}),
        }
        if any(each is not None for each in trial.rewards):
            columns["step.reward"] = [0.0] * steps
            if last_of_stage[row.stage] == part:
                columns["step.reward"][-1] = float(trial.rewards[row.stage] or 0)
        if len(rows) > 1:
            columns |= {"episode_id": name, "part": part}
        ids = (
            {} if row.line is None else {"prompt_ids": row.line.prompt_ids, "ids": row.line.ids, "mask": row.line.mask}
        )
        yield Sample(
            where=str(trial.files[row.stage]) if row.stage else source.place,
            rollout_id=f"{name}/{part}" if len(rows) > 1 else name,
            group_id=trial.group,
            **ids,
            pieces=pieces if row.line is None else None,
            columns={path: value for path, value in columns.items() if value is not None},
            record=content,
        )


def _rows_of(path: Path, content: Mapping[str, Any], stage: int, details: tuple[Any, ...]) -> list[Row]:
    """The rows of a trajectory and of those that belong to it."""
    found: list[Row] = []
    for lineage, trajectory in _family(path, content, None):
        said = _said(trajectory["steps"])
        calls = _calls(trajectory["steps"], f"{path}, {lineage or 'main'}")
        if not any(each.call is not None and (calls or each.text) for each in said):
            continue
        found += [Row(line, said, lineage, stage) for line in (lines_of(calls) if calls else [None])]
    if details and all(row.line is None for row in found):
        lines = [line for each in details for line in lines_of(_calls_of(each, str(path)))]
        said = found[0].said if found else []
        found = [Row(line, said if number == 0 else [], None, stage) for number, line in enumerate(lines)]
    return found


def _family(
    path: Path, content: Mapping[str, Any], lineage: str | None, seen: tuple[Path, ...] = ()
) -> Iterator[tuple[str | None, Mapping[str, Any]]]:
    """A trajectory, its sub-agents' and what it is continued in, each with its lineage, in the order of reading."""
    yield lineage, content
    for each in content.get("subagent_trajectories") or ():
        yield from _family(path, each, _agent(each), (*seen, path))
    for name in _references(content):
        other = path.with_name(name)
        if other in (path, *seen) or not other.is_file():
            continue
        more = Source(other).content
        own = lineage if name == content.get("continued_trajectory_ref") else _agent(more)
        yield from _family(other, more, own, (*seen, path))


def _agent(content: Mapping[str, Any]) -> str:
    return str((content.get("agent") or {}).get("name") or "sub-agent")


def _references(content: Mapping[str, Any]) -> list[str]:
    """The names of files beside a trajectory that it refers to: sub-agents in the order of its steps, and its continuation."""
    results = [
        result for step in content.get("steps") or () for result in (step.get("observation") or {}).get("results") or ()
    ]
    paths = [ref.get("trajectory_path") for result in results for ref in result.get("subagent_trajectory_ref") or ()]
    paths.append(content.get("continued_trajectory_ref"))
    return list(dict.fromkeys(Path(path).name for path in paths if path))


def _referred_to_by(path: Path) -> set[str]:
    """The names of all the files that belong to a trajectory beside it."""
    found: set[str] = set()
    waiting = [path]
    while waiting:
        each = waiting.pop()
        if not each.is_file():
            continue
        new = [name for name in _references(Source(each).content) if name not in found]
        found.update(new)
        waiting += [path.with_name(name) for name in new]
    return found


def _is_call(step: Mapping[str, Any]) -> bool:
    return step.get("source") == "agent" and step.get("llm_call_count") != 0 and not step.get("is_copied_context")


def _calls(steps: list[Mapping[str, Any]], where: str) -> list[Call]:
    """The agent's calls with their token ids; none where a call has no ids."""
    found: list[Call] = []
    for step in filter(_is_call, steps):
        metrics = step.get("metrics") or {}
        prompt, ids = metrics.get("prompt_token_ids"), metrics.get("completion_token_ids")
        if prompt is None or ids is None:
            return []
        found.append(Call(f"{where}, step {step.get('step_id')}", prompt, ids, metrics.get("logprobs")))
    return found


def _calls_of(detail: Mapping[str, Any], where: str) -> list[Call]:
    """The calls of one of Harbor's rollout details, whose lists have an entry a turn."""
    prompts, ids, logprobs = (detail.get(name) for name in ("prompt_token_ids", "completion_token_ids", "logprobs"))
    if not prompts or not ids or len(prompts) != len(ids) or (logprobs and len(logprobs) != len(ids)):
        raise DataError(f"{where}: rollout_details of the result: lists of different lengths")
    return [
        Call(f"{where}, turn {turn}", prompts[turn], ids[turn], logprobs[turn] if logprobs else None)
        for turn in range(len(ids))
    ]


def _said(steps: list[Mapping[str, Any]]) -> list[Said]:
    """All that was said in a trajectory, in order."""
    found: list[Said] = []
    calls = 0
    for step in steps:
        said = message(
            "assistant" if step.get("source") == "agent" else step.get("source"),
            step.get("message"),
            step.get("tool_calls"),
        )
        text = "\n".join(each for each in (step.get("reasoning_content"), said["content"]) if each)
        call = calls if _is_call(step) else None
        calls += call is not None
        if text or call is not None:
            found.append(Said(said["role"], text, call))
        seen = (step.get("observation") or {}).get("results") or ()
        found += [Said("tool", text_of(each.get("content")), None) for each in seen if each.get("content")]
    return found


def _texts(row: Row) -> tuple[list[dict[str, str]], list[tuple[str, bool]]]:
    """(the prompt's messages, the pieces of the response with whether the agent wrote each) of a row."""
    own = [place for place, each in enumerate(row.said) if each.call is not None]
    if not own:
        return [], []
    calls = {row.said[place].call for place in own} if row.line is None else set(row.line.calls)
    first = next((place for place in own if row.said[place].call in calls), len(row.said))
    last = next((place for place in own if place > first and row.said[place].call not in calls), len(row.said))
    prompt = [{"role": each.role, "content": each.text} for each in row.said[:first]]
    return prompt, [(each.text, each.call is not None) for each in row.said[first:last]]


def _trial_in(content: Mapping[str, Any], path: Path) -> Trial:
    """What the exporter of this format wrote into a trajectory's own `extra`."""
    extra = content.get("extra") or {}
    named = {f"rewards.{name}": value for name, value in (extra.get("rewards") or {}).items()}
    known = {name: extra.get(name) for name in ("episode_id", "part", "lineage", "reward")}
    return Trial((path,), name=extra.get("rollout_id"), group=extra.get("group_id"), columns={**known, **named})


def _trial_of(path: Path, reward_key: str) -> Trial:
    """What result.json in the trial's folder says. The trial of a task with steps has a trajectory for each of them."""
    folder = path.parent.parent
    if folder.parent.name == "steps":
        folder = folder.parent.parent
    where = folder / "result.json"
    result = Source(where).content if where.is_file() else None
    if not isinstance(result, Mapping) or "task_name" not in result:
        return Trial((path,))
    stages: list[tuple[Path, Mapping[str, Any]]] = [(path, {**result, "verifier_result": None})]
    if result.get("step_results"):
        places = [(folder / "steps" / each["step_name"] / "agent" / MAIN, each) for each in result["step_results"]]
        stages = [(place, each) for place, each in places if place.is_file()] or stages
    faults = [
        each["exception_info"] for each in (result, *(result.get("step_results") or ())) if each.get("exception_info")
    ]
    is_valid = result.get("reward_valid", not faults)
    rewards, agent = _rewards_of(result), result.get("agent_info") or {}
    model = (agent.get("model_info") or {}).get("name")
    columns: dict[str, Any] = {
        "reward": _chosen(rewards, reward_key, where),
        **{f"rewards.{name}": value for name, value in rewards.items()},
        "task": result["task_name"],
        "engine": model,
        "flags": ([TRUNCATED] if is_valid else [ERROR]) if faults else [],
        "error": _fault(faults[-1]) if faults and not is_valid else None,
    }
    return Trial(
        files=tuple(place for place, _ in stages),
        name=result.get("trial_name") or folder.name,
        group="/".join(str(each) for each in (result["task_name"], agent.get("name"), model) if each),
        columns=columns,
        rewards=tuple(_chosen(_rewards_of(each), reward_key, where) for _, each in stages),
        details=tuple(tuple((each.get("agent_result") or {}).get("rollout_details") or ()) for _, each in stages),
    )


def _rewards_of(result: Mapping[str, Any]) -> Mapping[str, Any]:
    return (result.get("verifier_result") or {}).get("rewards") or {}


def _fault(fault: Mapping[str, Any]) -> str:
    return f"{fault.get('exception_type')}: {fault.get('exception_message')}"[:2000]


def _chosen(rewards: Mapping[str, Any], key: str, path: Path) -> float | None:
    """The reward of several by its name; a single one has any name."""
    if not rewards:
        return None
    if key in rewards:
        return rewards[key]
    if len(rewards) == 1:
        return next(iter(rewards.values()))
    raise UsageError(f"{path}: several rewards ({', '.join(rewards)}); give --set reward_key=NAME")
