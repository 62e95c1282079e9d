"""Prompts and responses as text, in anybody's fields."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ....formats.errors import DataError, UsageError
from ..kind import Sample, Source, Unmapped, importer
from ..source import field_of
from ._messages import messages_of, pieces_of, prompt_of, text_of

# Ours, and the names under which trainers write them, the likeliest first.
NAMES = {
    "prompt": ("prompt", "input", "question", "problem"),
    "response": ("response", "completion", "output", "answer_text", "generation"),
    "messages": ("messages", "conversation", "chat_completions"),
    "reward": ("reward", "score", "rewards"),
    "group": ("group_id", "group", "uid", "prompt_id"),
    "id": ("rollout_id", "id"),
    "step": ("step", "iteration"),
    "advantage": ("advantage",),
    "reference": ("reference", "gts", "solution", "ground_truth"),
}


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
    fills=("prompt", "text", "reference", "reward", "rewards.NAME", "iteration", "step.start", "step.end", "step.kind"),
    loses=("the token ids that the policy sampled, so `train` refuses the file",),
    source="TRL 1.16.0, verl 0.9.1, SkyRL 0.3.0 and OpenAI's chat messages",
    evidence="code",
)
def read_texts(source: Source, *, map: str = "") -> Iterator[Sample | Unmapped]:
    """JSON lines, JSON or Parquet with a text prompt and response in each record, or a conversation.

    It knows the fields of verl's rollout_data_dir, TRL's completions, SkyRL's evaluations and OpenAI's messages. A conversation is
    split where its first assistant message begins; each assistant message is a step that the policy wrote. Numbers in fields of
    their own whose names end in "reward", and those in a mapping of rewards, become `rewards.NAME`. A scalar advantage goes to
    `token.advantage_source`, on every token of the policy.

    Args:
        map: your own names, as ours=theirs, joined by commas: prompt, response, messages, reward, group, id, step, advantage,
            reference.
    """
    names = _names(map)
    for number, (where, record) in enumerate(source.records()):
        if not isinstance(record, Mapping):
            raise DataError(f"{where}: {type(record).__name__}, expected a record with fields")
        found = {
            ours: next((value for name in theirs if (value := field_of(record, name)) is not None), None)
            for ours, theirs in names.items()
        }
        prompt, pieces = _split(found)
        if not any(own and text for text, own in pieces):
            yield Unmapped("records without a response")
            continue
        group = found["group"]
        reward = found["reward"]
        columns: dict[str, Any] = {
            "prompt": prompt,
            "text": "".join(text for text, _ in pieces),
            "reference": None if found["reference"] is None else text_of(found["reference"]),
            "reward": sum(reward.values()) if isinstance(reward, Mapping) else reward,
            "iteration": found["step"]
            if isinstance(found["step"], int)
            else source.number_in_name("step", "completions"),
            "step.kind": ["turn"] * sum(own for _, own in pieces),
            **_rewards(record, reward),
        }
        if isinstance(found["advantage"], int | float):
            columns["token.advantage_source"] = float(found["advantage"])
        name = text_of(found["id"]) if found["id"] is not None else f"{source.path.stem}/{number}"
        yield Sample(
            where=where,
            rollout_id=name,
            group_id=None if group is None else _group(text_of(group)),
            pieces=pieces,
            columns={path: value for path, value in columns.items() if value is not None},
            record=record,
        )


def _names(given: str) -> dict[str, tuple[str, ...]]:
    names = dict(NAMES)
    for pair in filter(None, (each.strip() for each in given.split(","))):
        ours, equals, theirs = pair.partition("=")
        if not equals or ours not in names:
            raise UsageError(f"importer text: map: {pair!r}, expected ours=theirs with ours one of {', '.join(names)}")
        names[ours] = (theirs,)
    return names


def _group(uid: str) -> str:
    """The prompt's own part of verl's uid, {prompt}_{session}_{output}; any other name as it is."""
    found = re.fullmatch(r"(.+)_\d+_\d+", uid)
    return found[1] if found else uid


def _split(found: Mapping[str, Any]) -> tuple[list[dict[str, str]], list[tuple[str, bool]]]:
    """(the prompt's messages, the response's pieces with whether the policy wrote each)."""
    if isinstance(found["messages"], list) and found["response"] is None:
        chat = messages_of(each for each in found["messages"] if isinstance(each, Mapping))
        first = next((place for place, each in enumerate(chat) if each["role"] == "assistant"), len(chat))
        return chat[:first], [(each["content"], each["role"] == "assistant") for each in chat[first:]]
    return prompt_of(found["prompt"]), pieces_of(found["response"])


def _rewards(record: Mapping[str, Any], reward: Any) -> dict[str, float]:
    named = dict(reward) if isinstance(reward, Mapping) else {}
    named |= {key: each for key, each in record.items() if key.endswith("reward") and key != "reward"}
    return {
        f"rewards.{re.sub(r'[^0-9A-Za-z_]', '_', name)}": float(value)
        for name, value in named.items()
        if isinstance(value, int | float)
    }
