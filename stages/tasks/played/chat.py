"""A conversation in token ids: what the policy reads first, and what each observation adds.

No generated token is ever encoded again. What a message adds is the difference between two renderings of a small
conversation, which the chat template encodes like any other.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Any

from ....formats.errors import UsageError
from ..kind import Message
from . import Action, Role, Tool
from .tool_calls import ASKED, CALL_ID, NAME, PLAIN, call_format, call_message, describe_tools


class Chat:
    """How one tokenizer frames the turns of an environment task. UsageError if its chat template cannot do it."""

    def __init__(self, tokenizer: Any, role: Role, tools: Sequence[Tool] = ()):
        self._tokenizer, self._tools = tokenizer, list(tools)
        self.format = call_format(tokenizer, tools) if tools else PLAIN
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        marks = {*map(str, tokenizer.all_special_tokens), *(token.content for token in added if token.special)}
        self._marks = sorted(mark for mark in marks if len(mark) > 1)
        self._templated = bool(tokenizer.chat_template)
        self._plain = bool(tools) and self.format.plain
        self._role: Role = "user" if self._plain else role
        self._head: list[int] = []
        self._closing: list[int] = []
        if self._templated:
            self._find_closing()
        self._added = lru_cache(maxsize=4096)(self._render_added)

    def prompt(self, messages: Sequence[Message], advice: str = "") -> tuple[list[Message], list[int]]:
        """The messages with what the template omits about the tools, and the advice as a system message; their ids."""
        messages = self._with_system(list(messages), self._harmless(advice)) if advice else list(messages)
        if self._tools and not self._plain:
            return messages, self._ids(messages, tools=self._tools)
        if self._plain:
            messages = self._with_system(messages, describe_tools(self._tools))
        from ...models.policy import render_prompt

        return messages, render_prompt(self._tokenizer, messages)

    def added(self, observation: str, *, closed: bool, advice: str = "") -> list[int]:
        """The ids after a turn: its end (unless a token of the policy `closed` it), the advice as a system message, the
        observation as a message, and the prompt for the next turn.

        If the template allows no system message there, or then writes the observation differently, the advice goes in
        front of the observation in the same message. If either contains what looks like a special token, it is only
        text of some document, so a space is written into it.
        """
        observation = self._harmless(observation)
        if self._plain:
            observation = f"<result>{observation}</result>"
        return [*([] if closed else self._closing), *self._added(observation, self._harmless(advice))]

    def action(self, ids: Sequence[int], *, closed: bool) -> Action:
        """The action that the ids of a turn express. closed: whether the last id ends the turn."""
        said = list(ids)[: len(ids) - closed]
        shown = self._tokenizer.decode(said, skip_special_tokens=True)
        if not self._tools:
            return Action(shown)
        return self.format.read(self._tokenizer.decode(said, skip_special_tokens=False), shown)

    def is_closed(self, turn: Sequence[int], after: Sequence[int]) -> bool:
        """Whether the policy ended a turn itself, judging by what follows it in a rollout."""
        if self._closing:
            return list(after[: len(self._closing)]) != self._closing
        return bool(turn) and turn[-1] == self._tokenizer.eos_token_id

    def _harmless(self, text: str) -> str:
        for mark in self._marks:
            if mark in text:
                text = text.replace(mark, f"{mark[0]} {mark[1:]}")
        return text

    def _render_added(self, observation: str, advice: str) -> list[int]:
        if not self._templated:
            shown = f"{advice}\n{observation}" if advice else observation
            return self._tokenizer(f"\n{shown}\n", add_special_tokens=False)["input_ids"]
        if advice:
            return self._advised(observation, advice) or self._render_added(f"{advice}\n\n{observation}", "")
        whole = self._ids([ASKED, self._turn("1"), self._message(observation)])
        if whole[: len(self._head)] != self._head:
            raise self._broken("what it writes before a message depends on the message")
        return whole[len(self._head) :]

    def _advised(self, observation: str, advice: str) -> list[int] | None:
        """The ids of a system message and an observation. None if the template does not write both verbatim, or writes the
        system message as if the policy had said it."""
        before, after = [ASKED, self._turn("1")], self._message(observation)
        messages = [*before, {"role": "system", "content": advice}, after]
        text = self._text(messages)
        if advice.strip() not in text or text == self._text([*before, {"role": "assistant", "content": advice}, after]):
            return None
        whole, alone = self._ids(messages), self._render_added(observation, "")
        sound = whole[: len(self._head)] == self._head and whole[len(whole) - len(alone) :] == alone
        return whole[len(self._head) :] if sound else None

    def _find_closing(self) -> None:
        """Find the ids of a small conversation up to the end of the policy's turn, and the token that ends the turn."""
        one, other = (self._ids([ASKED, self._turn(text), self._message("0")]) for text in ("1", "2"))
        pairs = zip(reversed(one), reversed(other), strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        tail = one[len(one) - same :]
        ends = {self._tokenizer.eos_token_id}
        if ends.isdisjoint(tail):
            ends = set(self._tokenizer.all_special_ids)
        end = next((index for index, token in enumerate(tail) if token in ends), None)
        if end is None:
            raise self._broken("no special token ends an assistant's message")
        self._head = one[: len(one) - same + end + 1]
        self._closing = [tail[end]]
        before = [ASKED, self._turn("2"), self._message("1")]
        longer = self._ids([*before, self._turn("1"), self._message("0")])
        added = one[len(self._head) :]
        if not added or longer[len(longer) - len(added) - 1 :] != [*self._closing, *added]:
            raise self._broken("what it writes for a message depends on the messages before it")

    def _turn(self, text: str) -> Mapping[str, Any]:
        return call_message(text) if self._role == "tool" else {"role": "assistant", "content": text}

    def _message(self, observation: str) -> Mapping[str, Any]:
        if self._role == "tool":
            return {"role": "tool", "name": NAME, "tool_call_id": CALL_ID, "content": observation}
        return {"role": "user", "content": observation}

    def _with_system(self, messages: list[Message], said: str) -> list[Message]:
        """The messages with `said` as a system message, or in the first message if the template drops or refuses it."""
        head = messages[0]
        merged = [{**head, "content": f"{said}\n\n{head['content']}"}, *messages[1:]]
        if head["role"] == "system":
            return merged
        system: list[Message] = [{"role": "system", "content": said}, *messages]
        return system if not self._templated or said.strip() in self._text(system) else merged

    def _text(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The messages as the template renders them; "" if it refuses them."""
        try:
            return self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except Exception:  # a template may raise anything
            return ""

    def _ids(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        try:
            ids = self._tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=True, return_dict=False, **options
            )
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise self._broken(
                f"it refuses a conversation with messages of the role {self._role!r} ({reason})"
            ) from error
        return [int(token) for token in ids]

    def _broken(self, why: str) -> UsageError:
        name = getattr(self._tokenizer, "name_or_path", "") or "this model"
        return UsageError(f"the chat template of {name} cannot continue turn by turn: {why}; choose another model")
