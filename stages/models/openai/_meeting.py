"""The handshake with a server that speaks OpenAI's API: what it is, what it accepts, and what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ....formats.errors import ApportionError, UsageError, unknown
from ..engine import Sampling
from ._answer import Choice, answer_of
from ._client import Refused, Server, Unanswered, asked, body_of, models_of

if TYPE_CHECKING:
    from openai import AsyncOpenAI

PROBE = "7+2*(5-3) = 11, or is it?\n"


@dataclass(frozen=True)
class Met:
    """What a server reveals when it is asked for one token. kind: the software, in its own words.

    begins: the server itself puts the beginning-of-sequence token before a text.
    """

    server: Server
    first: Choice
    begins: bool
    kind: str
    fingerprint: str
    context: int | None


async def meet(server: Server, served_model: str | None, tokenizer: Any) -> Met:
    """Probe a server: is it there, which model has it, does it accept token ids, and what does it answer?"""
    async with server.client() as client:
        cards = await models_of(client, server)
        card = _choose_model(cards, served_model, server)
        server = replace(server, model=card["id"])
        prompt = [int(token) for token in tokenizer(PROBE)["input_ids"]]
        server, said = await _with_extras(client, server)
        _check_tokenizer(said, prompt, server)
        try:
            said, begins = await _probed(client, _hasty(server), prompt), False
            if _read_count(said) not in (None, len(prompt)):
                raise Refused(
                    f"{server.base_url}: the server read {len(prompt)} token ids as {_read_count(said)} tokens"
                )
        except (Refused, ApportionError):
            server = replace(server, text=True)
            said, begins = await _by_text(client, server, prompt, tokenizer)
    context = card.get("max_model_len")
    return Met(
        server, answer_of(said, server.vocabulary), begins, _name(card.get("owned_by")),
        _name(said.get("system_fingerprint")), context if type(context) is int and context > 0 else None,
    )  # fmt: skip


def _name(said: Any) -> str:
    """What a server calls itself, shortened, since every row of a file repeats it."""
    return "".join(filter(str.isprintable, said))[:80] if isinstance(said, str) else ""


def _hasty(server: Server) -> Server:
    """The same server with one retry at most: it is known to be there, and retrying does not teach it parameters."""
    return replace(server, retries=min(1, server.retries))


async def _with_extras(client: "AsyncOpenAI", server: Server) -> tuple[Server, dict[str, Any]]:
    """The server, knowing whether it accepts more than OpenAI's own parameters, and its answer to a text. Of servers that
    do not accept them, some refuse and others break."""
    try:
        return server, await _probed(client, _hasty(server), PROBE)
    except (Refused, ApportionError):
        plain = replace(server, extras=False)
        said = await _probed(client, plain, PROBE)
    try:  # the server may just have been busy
        return server, await _probed(client, _hasty(server), PROBE)
    except (Refused, ApportionError):
        return plain, said


async def _by_text(
    client: "AsyncOpenAI", server: Server, prompt: list[int], tokenizer: Any
) -> tuple[dict[str, Any], bool]:
    """The answer to a prompt sent as text, and whether the server puts the beginning-of-sequence token before it.
    UsageError if it reads other tokens."""
    bos = tokenizer.bos_token_id
    prompt = prompt[1:] if prompt[0] == bos else prompt
    said = await _probed(client, server, to_text(tokenizer, prompt))
    more = (_read_count(said) or len(prompt)) - len(prompt)
    if more == 0 or (more == 1 and bos is not None):
        return said, more == 1
    raise UsageError(
        f"{server.base_url}: the server accepts no token ids, and reads {len(prompt)} tokens sent as text as "
        f"{_read_count(said)}; use a server that accepts ids, or name the served model's tokenizer with --model"
    )


def to_text(tokenizer: Any, ids: list[int]) -> str:
    """Tokens as text, including special ones."""
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _read_count(said: Mapping[str, Any]) -> int | None:
    """How many tokens of the prompt the server read."""
    return (said.get("usage") or {}).get("prompt_tokens")


def _choose_model(cards: Sequence[dict[str, Any]], served_model: str | None, server: Server) -> dict[str, Any]:
    names = [card["id"] for card in cards]
    if served_model is None:
        if len(names) == 1:
            return cards[0]
        choice = f"choose from {', '.join(names)}" if names else "the server lists none"
        raise UsageError(f"{server.base_url}: name the model with --engine-set served_model=NAME; {choice}")
    if names and served_model not in names:
        raise unknown(f"model of {server.base_url}", served_model, names)
    return next((card for card in cards if card["id"] == served_model), {"id": served_model})


async def _probed(client: "AsyncOpenAI", server: Server, prompt: str | list[int]) -> dict[str, Any]:
    """The whole answer to a request for one token after the prompt, checked to be readable."""

    def read(content: Any) -> dict[str, Any]:
        answer_of(content, server.vocabulary)
        return content

    try:
        return await asked(client, server, body_of(server, Sampling(), prompt, 1), read)
    except Unanswered as error:
        raise ApportionError(f"{server.base_url}: {error}") from error


def _check_tokenizer(said: Mapping[str, Any], ours: list[int], server: Server) -> None:
    """UsageError if the server splits the same text into other tokens, as far as it says which or how many."""
    theirs = said["choices"][0].get("prompt_token_ids")
    count = _read_count(said)
    differs = theirs != ours if theirs is not None else count is not None and abs(count - len(ours)) > 1
    if differs:
        raise UsageError(
            f"{server.base_url}: model {server.model!r} splits a text into other tokens than the tokenizer of --model does; "
            "name the served model with --model"
        )
