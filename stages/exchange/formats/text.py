"""Prompts and responses as text, in anybody's fields."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from ....formats.errors import DataError, UsageError
from ....formats.flags import TRUNCATED
from ..kind import Sample, Source, Unmapped, importer
from ..source import field_of
from ._messages import messages_of, pieces_of, prompt_of, text_of

# Ours, and the names under which trainers write them, the likeliest first.
NAMES = {
    "prompt": ("prompt", "input", "input_prompt", "question", "problem"),
    "response": ("response", "completion", "output", "output_response", "answer_text", "generation"),
    "messages": ("messages", "conversation", "chat_completions"),
    "reward": ("reward", "score", "rewards"),
    "group": ("group_id", "group", "uid", "prompt_id"),
    "id": ("rollout_id", "id"),
    "step": ("step", "iteration"),
    "advantage": ("advantage", "advantages"),
    "reference": ("reference", "gts", "solution", "ground_truth"),
}
OF_LOGS = {name for theirs in NAMES.values() for name in theirs} | {
    "entropy"
}  # in logs of completions, no reward function
CUT_OFF = ("length", "max_tokens")  # what sources call the end of a response that was cut off


def _recognises(source: Source) -> bool:
    record = source.first
    record = record[0] if isinstance(record, list) and record else record
    if not isinstance(record, Mapping):
        return False
    has_prompt = any(name in record for name in NAMES["prompt"]) and any(name in record for name in NAMES["response"])
    return has_prompt or any(name in record for name in NAMES["messages"])


@importer(
    "text",
    recognises=_recognises,
    exact=False,
    general=True,
    fills=(
        "prompt", "text", "reference", "reward", "rewards.NAME", "iteration", "episode_id", "part", "flags", "step.start", "step.end",
        "step.kind", "token.advantage_source",
    ),
    loses=("the token ids that the policy sampled, so `train` refuses the file",),
    source="TRL 1.16.0, verl 0.9.1, SkyRL 0.3.0, ms-swift 4.6.0 and OpenAI's chat messages",
    evidence="code",
)  # fmt: skip
def read_texts(source: Source, *, map: str = "") -> Iterator[Sample | Unmapped]:
    """JSON lines, JSON or Parquet with a text prompt and response in each record, or a conversation.

    It knows the fields of verl's rollout_data_dir, TRL's completions, SkyRL's evaluations, ms-swift's completions (a line holds
    lists, a value a rollout) and OpenAI's messages. A conversation is split where its first assistant message begins; each
    assistant message is a step that the policy wrote. verl's uid, `{prompt}_{session}_{output}`, names group, episode and part.

    Numbers in fields of their own whose names end in "reward", in a mapping of rewards, and of TRL's and ms-swift's reward functions
    become `rewards.NAME`. Where no field is the reward, it is their sum: TRL and ms-swift give each the weight 1 if nothing else is
    said. A list of rewards is summed, too. A scalar advantage goes to `token.advantage_source`, on every token of the policy.

    Args:
        map: your own names, as ours=theirs, joined by commas: prompt, response, messages, reward, group, id, step, advantage,
            reference. The option --map of the command says the same.
    """
    names, step = _names(map), source.number_in_name("step", "completions")
    number = 0
    for where, line in source.records():
        with source.record():
            for record in _unrolled(where, line):
                yield _sample(where, record, f"{source.path.stem}/{number}", step, names)
                number += 1


def _unrolled(where: str, line: Any) -> Iterator[Mapping[str, Any]]:
    """The records of a line: itself, or one for each place of its lists, where prompts and completions are lists of texts."""
    if not isinstance(line, Mapping):
        raise DataError(f"{where}: {type(line).__name__}, expected a record with fields")
    prompts, completions = line.get("prompt"), line.get("completion")
    if not (
        isinstance(prompts, list)
        and isinstance(completions, list)
        and all(isinstance(each, str) for each in completions)
    ):
        yield line
        return
    lists = {name: value for name, value in line.items() if isinstance(value, list)}
    for name, value in lists.items():
        if len(value) != len(completions):
            raise DataError(f"{where}, {name}: {len(value)} values for {len(completions)} completions")
    for place in range(len(completions)):
        yield {**line, **{name: value[place] for name, value in lists.items()}}


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sample(
    where: str, record: Mapping[str, Any], name: str, step: int | None, names: Mapping[str, tuple[str, ...]]
) -> Sample | Unmapped:
    found = {
        ours: next((value for name in theirs if (value := field_of(record, name)) is not None), None)
        for ours, theirs in names.items()
    }
    prompt, pieces = _split(found)
    if not any(own and text for text, own in pieces):
        return Unmapped("records without a response")
    rewards = _rewards(record, found["reward"])
    columns: dict[str, Any] = {
        "prompt": prompt,
        "text": "".join(text for text, _ in pieces),
        "reference": None if found["reference"] is None else text_of(found["reference"]),
        "reward": _reward(found["reward"], rewards),
        "iteration": int(str(found["step"])) if str(found["step"]).isdigit() else step,
        "flags": [TRUNCATED] if record.get("stop_reason", record.get("finish_reason")) in CUT_OFF else None,
        "step.kind": ["turn"] * sum(own for _, own in pieces),
        **rewards,
    }
    if _is_number(found["advantage"]):
        columns["token.advantage_source"] = float(found["advantage"])
    group = None if found["group"] is None else text_of(found["group"])
    if group is not None and group == record.get("uid") and (parts := re.fullmatch(r"(.+)_(\d+)_(\d+)", group)):
        group = parts[1]
        columns |= {"episode_id": f"{parts[1]}_{parts[2]}", "part": int(parts[3])}
    return Sample(
        where=where,
        rollout_id=text_of(found["id"]) if found["id"] is not None else name,
        group_id=group,
        pieces=pieces,
        columns={path: value for path, value in columns.items() if value is not None},
        record=record,
    )


def _reward(given: Any, rewards: Mapping[str, float]) -> Any:
    """The reward that a record names; the sum of a list of rewards, or of those with names."""
    if isinstance(given, Mapping) or (given is None and rewards):
        return sum(rewards.values())
    return sum(given) if isinstance(given, list) else given


def _names(given: str) -> dict[str, tuple[str, ...]]:
    names = dict(NAMES)
    for pair in filter(None, (each.strip() for each in given.split(","))):
        ours, equals, theirs = pair.partition("=")
        if not equals or ours not in names:
            raise UsageError(f"importer text: map: {pair!r}, expected ours=theirs with ours one of {', '.join(names)}")
        names[ours] = (theirs,)
    return names


def _split(found: Mapping[str, Any]) -> tuple[list[dict[str, str]], list[tuple[str, bool]]]:
    """(the prompt's messages, the response's pieces with whether the policy wrote each)."""
    if isinstance(found["messages"], list) and found["response"] is None:
        chat = messages_of(each for each in found["messages"] if isinstance(each, Mapping))
        first = next((place for place, each in enumerate(chat) if each["role"] == "assistant"), len(chat))
        return chat[:first], [(each["content"], each["role"] == "assistant") for each in chat[first:]]
    return prompt_of(found["prompt"]), pieces_of(found["response"])


def _rewards(record: Mapping[str, Any], reward: Any) -> dict[str, float]:
    named = dict(reward) if isinstance(reward, Mapping) else {}
    if {"prompt", "completion"} <= record.keys() and not record.keys().isdisjoint(NAMES["advantage"]):
        named |= {name: each for name, each in record.items() if name not in OF_LOGS}  # TRL's, by its reward functions
    named |= {key: each for key, each in record.items() if key.endswith("reward") and key != "reward"}
    return {
        f"rewards.{re.sub(r'[^0-9A-Za-z_]', '_', name)}": float(value)
        for name, value in named.items()
        if _is_number(value)
    }
