"""Ask the policy about its own work, and parse its answers."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...formats.rollouts import Rollouts
from ..core.wording import fill
from ..models.engine import Completion, Request, Sampling
from ..models.policy import render_prompt
from ..tasks import Message, Problem
from .context import SamplingContext

_NUMBER = r"([-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))"
_SCORES = [
    re.compile(rf"<score>\s*{_NUMBER}\s*</score>", re.IGNORECASE),
    re.compile(rf"\b(?:score|rating)\s*[:=]\s*{_NUMBER}", re.IGNORECASE),
    re.compile(_NUMBER),
]
_RESULT = re.compile(r"\bresult\W{0,6}(true|false)\b", re.IGNORECASE)
_TRUTH = re.compile(r"true|false", re.IGNORECASE)


def ask_policy(
    context: SamplingContext,
    questions: Sequence[str],
    seeds: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    temperature: float,
) -> list[list[str]]:
    """The policy's answers to each question, one per seed. UsageError if a question exceeds its context."""
    sampling = replace(context.sampling, max_tokens=max_tokens, temperature=temperature, top_p=1.0, top_k=0, stop=())
    conversations = [[{"role": "user", "content": text}] for text in questions]
    return [texts_of(context, made) for made in reply_to(context, conversations, seeds, sampling)]


def reply_to(
    context: SamplingContext,
    conversations: Sequence[Sequence[Message]],
    seeds: Sequence[Sequence[int]],
    sampling: Sampling,
) -> list[list[Completion]]:
    """What the policy says next in each conversation, once per seed. UsageError if a conversation exceeds its
    context."""
    requests = [
        Request(render_prompt(context.tokenizer, list(messages)), each)
        for messages, each in zip(conversations, seeds, strict=True)
    ]
    found = context.generate(requests, sampling)
    context.failures.count_answers([each for group in found for each in group])
    return found


def texts_of(context: SamplingContext, completions: Sequence[Completion]) -> list[str]:
    """The texts of the completions, without special tokens."""
    if not completions:
        return []
    return context.tokenizer.batch_decode([each.ids.tolist() for each in completions], skip_special_tokens=True)


def with_template(problem: Problem, template: str, **values: str) -> list[Message]:
    """The problem's messages, the last one rewritten by the template; {question} stands for its content."""
    *before, last = problem.prompt
    return [*before, {**last, "content": fill(template, question=last["content"], **values)}]


def step_texts(tokenizer: Any, batch: Rollouts, row: int) -> list[str]:
    """The texts of a row's steps; the text of a turn includes the answer it got."""
    starts, ends, ids = batch.ragged("step.start")[row], batch.ragged("step.end")[row], batch.token_ids[row]
    spans = [ids[start:end].tolist() for start, end in zip(starts, [*starts[1:], *ends[-1:]], strict=True)]
    return tokenizer.batch_decode(spans, skip_special_tokens=True) if spans else []


def number_steps(steps: Sequence[str], first: int) -> str:
    """The steps as numbered lines.

    >>> number_steps(["7+10=17\\n", "17-12=5"], first=0)
    '0. 7+10=17\\n1. 17-12=5'
    """
    return "\n".join(f"{number}. {text.strip()}" for number, text in enumerate(steps, first))


def question_of(problem: Problem) -> str:
    """The problem's messages as one text."""
    return "\n".join(message["content"] for message in problem.prompt)


def reference_of(problem: Problem) -> str:
    """What the verifier compares with, as text; "" if there is nothing."""
    if problem.reference is None:
        return ""
    return (
        problem.reference if isinstance(problem.reference, str) else json.dumps(problem.reference, ensure_ascii=False)
    )


def answers_of(problem: Problem) -> list[str]:
    """The right final answers, as far as the reference names them: it is one, a list of them, or has one under "answer";
    otherwise its JSON.

    >>> [answers_of(Problem("", [], each)) for each in (7, ["a", "b"], {"answer": "c", "metadata": {}}, None)]
    [['7'], ['a', 'b'], ['c'], []]
    """
    named = problem.reference
    if isinstance(named, dict):
        named = named.get("answer", named)
    every = named if isinstance(named, list) else [] if named is None else [named]
    return [each if isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each in every]


def score_of(text: str) -> float:
    """The score in a judge's answer, from -1 to 1: the first <score> tag, else "Score: x" or "Rating: x", else the first
    number, else 0.

    >>> [score_of(text) for text in ("2 of 3 <score>-1</score>", "Rating: 0.5", "5 out of 5", "none")]
    [-1.0, 0.5, 1.0, 0.0]
    """
    for pattern in _SCORES:
        found = pattern.search(text)
        if found:
            return min(1.0, max(-1.0, float(found[1])))
    return 0.0


def truth_of(text: str) -> bool | None:
    """The verdict of a judge that was asked for true or false: the value of "result", else the last of the two words;
    None if there is neither.

    >>> [truth_of(text) for text in ('{"reason": "not true", "result": "False"}', "So it is TRUE.", "maybe")]
    [False, True, None]
    """
    found = _RESULT.findall(text) or _TRUTH.findall(text)
    return found[-1].lower() == "true" if found else None
