"""reasoning-gym's procedural generators, each with its own verifier."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from hashlib import blake2b
from typing import Any, get_type_hints

from ...formats.errors import DataError, UsageError, unknown
from ._json_types import from_json, to_json
from ._reasoning_gym_repairs import check_reference, in_fixed_order, is_entry, is_readable, run_no_text
from ._splits import check_split, digest_question, hash_split, is_in
from ._third_party import contain, time_limit
from .answers import final_answer
from .kind import Problem, task_family

INSTRUCTION = "Put your final answer, and nothing else, between <answer> and </answer>."
CHUNK = 100  # entries drawn from one instance of a generator; changing it changes what a seed means
PATIENCE = 1_000  # draws without a new problem after which hardly any can be left
MAX_FAULTS = 20  # consecutive draws that raise, which shows that the options do not go together
VERIFY_SECONDS = 10.0  # sympy can take forever over a model's formula
RESERVED = {"seed": "--seed", "size": "--prompts"}


def generator_names() -> list[str]:
    """The name of every generator."""
    return sorted(_generators())


def _generators() -> dict[str, tuple[Any, Any]]:
    """The dataset class and config class of every generator."""
    with contain():
        import reasoning_gym.composite  # noqa: F401  # the package does not import this one itself
        from reasoning_gym.factory import DATASETS

    run_no_text(DATASETS)
    return DATASETS


@dataclasses.dataclass(frozen=True)
class ReasoningGym:
    """One generator with one configuration.

    spec: `reasoning_gym/NAME`.
    options: fields of the generator's config, and `instruction`, the text appended to every question.
    config: those fields, in the types of the config.
    """

    spec: str
    options: dict[str, Any]
    config: dict[str, Any]

    @property
    def name(self) -> str:
        return self.spec.partition("/")[2]

    def problems(self, split: str, count: int, seed: int) -> Iterator[Problem]:
        """`count` distinct problems of `split`, drawn until found: one draw in five is a test problem.

        Where knight_swap, word_ladder and intermediate_integration have several right answers, the reference may hold
        another one in another process; questions and scores are the same. UsageError if 1,000 draws in a row bring no
        new problem.
        """
        check_split(split)
        entries = self._entries(seed)
        seen: set[str] = set()
        while len(seen) < count:
            problem = self._next_new(entries, split, seen)
            seen.add(problem.problem_id)
            yield problem

    def verify(self, text: str, reference: Any) -> float:
        """The generator's own score of the final answer, in [0, 1]; 0 if there is no answer or it cannot be read.

        DataError if the reference is not an entry of the generator, or would have to be executed as code.
        """
        try:
            entry = from_json(reference)
        except (AttributeError, TypeError, ValueError, RecursionError) as error:
            raise DataError(f"the reference must be an entry of reasoning-gym, got {reference!r:.60}") from error
        generator, verifier = self._one_for(entry)
        check_reference(generator, entry)
        answer = final_answer(text)
        if not answer or not is_readable(generator, answer):
            return 0.0
        try:
            with contain(seed=0), time_limit(VERIFY_SECONDS):
                score = float(verifier.score_answer(answer, entry))
        except Exception:  # a verifier may raise anything on a model's text, which then counts as no answer
            return 0.0
        return min(max(score, 0.0), 1.0) if math.isfinite(score) else 0.0

    def _one_for(self, entry: Any) -> tuple[str, Any]:
        """(name, generator) that verifies the entry: this task's, or the part of a composite that made the entry."""
        if self.name != "composite":
            return self.name, self._verifier
        members = self._verifier.datasets
        member = entry["metadata"].get("source_dataset") if is_entry(entry) else None
        if not isinstance(member, str) or member not in members:
            raise DataError(f"the reference is from generator {member!r:.60}, which is not part of {self.spec}")
        return member, members[member]

    @cached_property
    def _verifier(self) -> Any:
        with contain(seed=0):
            return self._dataset(0)

    def _dataset(self, seed: int) -> Any:
        dataset_class, config_class = _generators()[self.name]
        config = config_class(**self.config, seed=seed, size=CHUNK)
        if hasattr(config, "validate"):
            config.validate()
        return in_fixed_order(dataset_class(config=config))

    def _entries(self, seed: int) -> Iterator[dict[str, Any] | Exception]:
        """All draws of a seed, without end; an exception in place of a draw that raised one."""
        number = 0
        while True:
            chunk_seed = _derive(seed, number)
            with contain(seed=chunk_seed):
                dataset = self._dataset(chunk_seed)
            for index in range(CHUNK):
                try:
                    with contain(seed=_derive(chunk_seed, index)):
                        entry = dataset[index]
                except Exception as error:
                    yield error
                else:
                    yield entry
            number += 1

    def _next_new(self, entries: Iterator[Any], split: str, seen: set[str]) -> Problem:
        faults = 0
        for _ in range(PATIENCE):
            entry = next(entries)
            if isinstance(entry, Exception):
                faults += 1
                if faults == MAX_FAULTS:
                    raise UsageError(f"task {self.spec!r} cannot make a problem with {self.config}: {_line(entry)}")
                continue
            faults = 0
            question = entry["question"]
            problem_id = f"{self.name}-{digest_question(question).hex()}"
            if is_in(split, hash_split(question)) and problem_id not in seen:
                instruction = self.options.get("instruction", INSTRUCTION)
                content = f"{question.rstrip()}\n\n{instruction}" if instruction else question
                return Problem(problem_id, [{"role": "user", "content": content}], self._reference(entry))
        raise UsageError(
            f"task {self.spec!r}: no more {split} problems after {len(seen)} distinct ones ({PATIENCE:,} draws in a row "
            "gave none); ask for fewer, or set other options"
        )

    def _reference(self, entry: Mapping[str, Any]) -> Any:
        """Answer and metadata as JSON, without the difficulty, which no verifier reads."""
        metadata = {name: value for name, value in entry["metadata"].items() if name != "difficulty"}
        return to_json({"answer": entry["answer"], "metadata": metadata})


def _derive(*numbers: int) -> int:
    """A seed below 2**31 derived from other numbers."""
    return int.from_bytes(blake2b(repr(numbers).encode(), digest_size=4).digest(), "big") >> 1


@task_family("reasoning_gym", members=lambda: generator_names(), played=False)
def open_reasoning_gym(spec: str, /, *, instruction: str | None = None, **fields: Any) -> ReasoningGym:
    """A procedural generator of reasoning-gym, with its own verifier.

    Select it with `--task reasoning_gym/NAME`. Its other options are the fields of the generator's own configuration.
    UsageError for an unknown generator, option, or value.

    Args:
        instruction: text appended to every question; None asks for the final answer in a box.
    """
    options = fields if instruction is None else {"instruction": instruction, **fields}
    name = spec.partition("/")[2]
    generators = _generators()
    if not name:
        raise UsageError(f"task {spec!r}: name a generator, such as reasoning_gym/chain_sum")
    if name not in generators:
        raise unknown("reasoning_gym generator", name, generators)
    config_class = generators[name][1]
    task = ReasoningGym(spec, dict(options), _config(spec, config_class, options))
    try:
        with contain(seed=0):
            task._dataset(0)
    except Exception as error:  # a config reports what is wrong with an assert, a ValueError, a TypeError …
        raise UsageError(f"task {spec!r} with {dict(options)}: {_line(error)}") from error
    return task


def _config(spec: str, config_class: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are fields of the generator's config, converted to the fields' types."""
    from pydantic import TypeAdapter, ValidationError

    fields = {field.name: field for field in dataclasses.fields(config_class) if field.name not in RESERVED}
    hints = get_type_hints(config_class)
    config: dict[str, Any] = {}
    for option, value in options.items():
        if option in RESERVED:
            raise UsageError(f"task {spec!r}: {option!r} is not an option of a task; use {RESERVED[option]}")
        if option == "instruction":
            continue
        if option not in fields:
            raise unknown(f"option of task {spec!r}:", option, [*fields, "instruction"])
        hint = hints[option]
        # Some annotations are narrower than what the generator accepts.
        if hint is int and isinstance(fields[option].default, float):
            hint = float
        if hint == tuple[str]:
            hint = tuple[str, ...]
        try:
            config[option] = TypeAdapter(hint).validate_python(value)
        except ValidationError as error:
            fault = error.errors()[0]["msg"]
            message = f"task {spec!r}: option {option}: {fault[0].lower()}{fault[1:]}, got {value!r}"
            raise UsageError(message) from error
    return config


def _line(error: BaseException) -> str:
    """An exception on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()) if str(error) else type(error).__name__
