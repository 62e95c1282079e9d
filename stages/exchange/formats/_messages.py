"""Chat messages of any system as ours: a role and a text."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from ..tokens import whole_characters


def text_of(content: Any) -> str:
    """A message's content as text: a string as it is, the text parts of a list joined, anything else as JSON."""
    if content is None:
        return ""
    if isinstance(content, str):
        return whole_characters(content)
    if isinstance(content, list):
        return "".join(
            whole_characters(str(part.get("text", "")))
            if isinstance(part, Mapping) and part.get("type", "text") == "text"
            else as_json(part)
            for part in content
        )
    return as_json(content)


def message(role: Any, content: Any, calls: Any = None) -> dict[str, str]:
    """One message; tool calls follow the text as JSON, one a line."""
    text = text_of(content)
    for call in calls or ():
        text += f"{chr(10) if text else ''}{as_json(call.get('function', call) if isinstance(call, Mapping) else call)}"
    return {"role": str(role), "content": text}


def messages_of(chat: Iterable[Any]) -> list[dict[str, str]]:
    """A conversation of mappings with role and content."""
    return [message(each.get("role", "user"), each.get("content"), each.get("tool_calls")) for each in chat]


def is_chat(value: Any) -> TypeGuard[list[Mapping[str, Any]]]:
    """Whether it is a list of messages."""
    return isinstance(value, list) and all(isinstance(each, Mapping) for each in value)


def prompt_of(value: Any) -> list[dict[str, str]]:
    """A prompt as messages: a conversation, or a text that the user wrote."""
    return messages_of(value) if is_chat(value) else [message("user", value)]


def pieces_of(value: Any) -> list[tuple[str, bool]]:
    """A response as pieces, with whether the policy wrote each: a conversation's messages, or one text."""
    if is_chat(value):
        return [(each["content"], each["role"] == "assistant") for each in messages_of(value)]
    return [(text_of(value), True)]


def as_json(value: Any) -> str:
    """A value as JSON in one line."""
    return whole_characters(json.dumps(value, ensure_ascii=False, sort_keys=True, default=str))
