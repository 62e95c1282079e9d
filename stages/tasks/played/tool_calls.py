"""How a model writes tool calls: learnt from its chat template, or explained to the model in plain words."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from . import Action, Call, Tool

NAME, KEY, VALUE = "sentinel_tool", "sentinel_key", "sentinel_value"
CALL_ID = "abcdefghi"  # Mistral's templates insist on nine letters or digits
ASKED = {"role": "user", "content": "a"}


@dataclass(frozen=True)
class CallFormat:
    """`begin` JSON, where JSON is an object with name and arguments, or a list of them. With `middle`:
    `begin` name `middle` JSON, where JSON is the arguments. If `begin` is empty, the turn begins with the JSON.

    plain: the template knows no tools, or writes calls in a way that is not parsed here; the policy is then told a
        format.
    """

    begin: str
    name_key: str = "name"
    arguments_key: str = "arguments"
    middle: str = ""
    plain: bool = False

    def read(self, text: str, shown: str) -> Action:
        """The calls of a turn. text: with special tokens. shown: without them; it becomes the action's text."""
        calls: list[Call] = []
        for name, rest in self._places(text):
            try:
                calls += self._calls(name, rest)
            except ValueError as error:
                return Action(shown, tuple(calls), str(error))
        return Action(shown, tuple(calls))

    def _places(self, text: str) -> list[tuple[str, str]]:
        """(name, rest) of every call; the name is "" if it is in the JSON."""
        if self.middle:
            pattern = re.escape(self.begin) + r"\s*([\w.-]+)\s*" + re.escape(self.middle)
            return [(match[1], text[match.end() :]) for match in re.finditer(pattern, text)]
        if self.begin:
            return [("", rest) for rest in text.split(self.begin)[1:]]
        first = text.strip()
        if not first.startswith("{") or f'"{self.name_key}"' not in first:
            return []
        places: list[tuple[str, str]] = []
        while first.startswith("{"):  # several calls in a row
            places.append(("", first))
            try:
                first = first[json.JSONDecoder().raw_decode(first)[1] :].lstrip(" ;,\n")
            except (ValueError, RecursionError):
                break
        return places

    def _calls(self, name: str, rest: str) -> list[Call]:
        try:
            value = json.JSONDecoder(strict=False).raw_decode(rest.lstrip())[0]
        except (ValueError, RecursionError) as error:
            raise ValueError("the tool call is not JSON") from error
        if name:
            return [Call(name, _object(value))]
        found: list[Call] = []
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, dict) or not isinstance(one.get(self.name_key), str):
                raise ValueError(f"a tool call needs {self.name_key!r} and {self.arguments_key!r}")
            found.append(Call(one[self.name_key], _object(one.get(self.arguments_key, {}))))
        return found


PLAIN = CallFormat("<tool>", plain=True)


def _object(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):  # some templates write the arguments as a string of JSON
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError("the arguments of the tool call are not JSON") from error
    if not isinstance(value, dict):
        raise ValueError("the arguments of the tool call are no JSON object")
    return value


def describe_tools(tools: Sequence[Tool]) -> str:
    """The instructions for a model whose template cannot describe tools."""
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    return (
        f"You can use tools. These there are, each with a JSON schema of its arguments:\n{listed}\n"
        'To call one, write <tool>{"name": "its name", "arguments": {…}}</tool> and end your turn; the result comes '
        "between <result> and </result>. A turn without a call is your final answer."
    )


def call_message(value: str, name: str = NAME, key: str = KEY) -> dict[str, Any]:
    """An assistant message with a tool call."""
    call = {"id": CALL_ID, "type": "function", "function": {"name": name, "arguments": {key: value}}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def call_format(tokenizer: Any, tools: Sequence[Tool]) -> CallFormat:
    """The template's own format; PLAIN if it has none that is JSON."""
    if not tokenizer.chat_template:
        return PLAIN

    def render(*messages: Any, **options: Any) -> str:
        return tokenizer.apply_chat_template(list(messages), tokenize=False, **options)

    try:
        if render(ASKED) == render(ASKED, tools=list(tools)):
            return PLAIN
        called = render(ASKED, call_message(VALUE), tools=list(tools))
        answered = render(ASKED, {"role": "assistant", "content": "\u241f"}, tools=list(tools))
    except Exception:  # a template may raise anything for what it does not know
        return PLAIN
    pairs = zip(called, answered, strict=False)
    first = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    for match in re.finditer(r"[\[{]", called[first:]):
        start = first + match.start()
        try:
            value = json.JSONDecoder().raw_decode(called[start:])[0]
        except ValueError:
            continue
        written = json.dumps(value)
        if KEY not in written:
            continue
        begin = called[first:start].strip()
        if NAME not in written:
            before, name, middle = begin.partition(NAME)
            return CallFormat(before.strip(), middle=middle.strip()) if name and middle.strip() else PLAIN
        one = value[0] if isinstance(value, list) else value
        if not isinstance(one, dict):
            continue
        names = [key for key, inside in one.items() if inside == NAME]
        arguments = [key for key, inside in one.items() if KEY in json.dumps(inside)]
        return CallFormat(begin, names[0], arguments[0]) if names and arguments else PLAIN
    return PLAIN
