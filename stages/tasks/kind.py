"""The kind of entry that makes tasks, and what a task is."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from inspect import signature
from typing import Any, Protocol, TypeVar

from ...formats.errors import UsageError, unknown
from ..core.extras import missing_extra
from ..core.kinds import Entry, Kind
from ..core.options import plain_value, takes_others, typed_options
from ..core.results import check_result

Message = dict[str, str]
Opener = TypeVar("Opener", bound="Callable[..., Task]")


@dataclass(frozen=True)
class Problem:
    """One problem of a task.

    problem_id: stable; the same problem has the same id in every run. prompt: chat messages ({role, content}).
    reference: JSON-able; all that `verify` needs besides the answer's text; None if there is no answer to compare with. row: what else the problem's source says
    about it, by column, such as a hint or a worked solution; None if there is no such row. place: where its source has
    it, such as "row 3"; it is no part of what the problem is.
    """

    problem_id: str
    prompt: list[Message]
    reference: Any
    row: Mapping[str, Any] | None = None
    place: str = field(default="", compare=False)


class Task(Protocol):
    """A source of problems with a verifier. `open_task(task.spec, task.options)` opens the same task again."""

    @property
    def spec(self) -> str:
        """The `--task` value."""
        ...

    @property
    def options(self) -> Mapping[str, Any]:
        """The task's options, JSON-able."""
        ...

    def problems(self, split: str, count: int, seed: int) -> Iterator[Problem]:
        """`count` distinct problems of `split` ("train", "test", or "all" for both). Train and test never overlap; same seed,
        same problems.

        A larger `count` begins with the same problems. UsageError if there are not that many.
        """
        ...

    def verify(self, text: str, reference: Any) -> float:
        """The reward in [0, 1] of an answer's text."""
        ...


class StepTask(Task, Protocol):
    """A task that can also tell right steps from wrong ones; this is optional."""

    def verify_step(self, problem: Problem, before: str, step: str) -> bool | None:
        """Whether `step` is right after `before`, the response up to it; None if that cannot be decided."""
        ...


@dataclass(frozen=True, kw_only=True)
class TaskFamily(Entry):
    """A family that `--task NAME…` names. `function(spec, **options)` makes a Task; `spec` is the `--task` value.

    members: yields the `rest` of every `name/rest`, for listings and did-you-mean; it may import what it needs. claims:
    whether the family opens a spec that begins with no family's name, such as a path. played: whether its tasks are
    environments; None if that depends on the task. A function with a second positional parameter receives the options
    in it, as a mapping, and checks them itself.
    """

    members: Callable[[], Iterable[str]] | None = None
    claims: Callable[[str], bool] | None = None
    played: bool | None = None

    @property
    def checks_options(self) -> bool:
        """Whether its options are in its signature."""
        return len(signature(self.function).parameters) - len(self.options) - takes_others(self.function) < 2

    def names(self) -> list[str]:
        """Its members' names; none if it has no members, or if the package that knows them is not installed."""
        try:
            return list(self.members()) if self.members is not None else []
        except ModuleNotFoundError as error:
            if missing_extra(error) is None:
                raise
            return []

    def open(self, spec: str, given: Mapping[str, Any]) -> Task:
        """The task. UsageError for an option that is unknown, missing, of the wrong type or out of range, PluginError for what is
        no task."""
        if not self.checks_options:
            made = self.function(spec, {name: plain_value(value) for name, value in given.items()})
        else:
            made = self.function(spec, **typed_options(self.function, given, f"task {spec!r}"))
        fits = all(hasattr(made, name) for name in ("spec", "options", "problems"))
        fits &= hasattr(made, "verify") or hasattr(made, "environment")  # what is played gives its rewards itself
        check_result(fits, f"task {spec}", "an object with spec, options, problems and verify", made)
        return made


TASKS: Kind[TaskFamily] = Kind(
    "tasks",
    "task",
    __package__ or "",
    "apportion sample --task {name} -o OUT",
    lambda spec: named_by(spec),
    "--task-set",
)


def family_of(spec: str) -> TaskFamily | None:
    """The family that opens a `--task` value; None if no family does."""
    for name in (spec, spec.partition("/")[0]):
        if name in TASKS:
            return TASKS[name]
    return next((family for family in TASKS if family.claims is not None and family.claims(spec)), None)


def named_by(spec: str) -> str:
    """The name of the family that opens a `--task` value. UsageError, with the nearest name, if no family does."""
    family = family_of(spec)
    if family is not None:
        return family.name
    # A member's bare name is the likeliest mistake: `chain_sum` for `reasoning_gym/chain_sum`.
    members = {member: f"{family.name}/{member}" for family in TASKS for member in family.names()}
    members |= {family.name.partition("/")[2]: family.name for family in TASKS if "/" in family.name}
    near = get_close_matches(spec, [*members, *members.values(), *(family.name for family in TASKS)], n=1)
    if near:
        raise UsageError(f"unknown task {spec!r}; did you mean {members.get(near[0], near[0])!r}?")
    raise unknown("task", spec, [f"{family.name}/NAME" if family.members else family.name for family in TASKS])


def task_family(
    name: str,
    *,
    members: Callable[[], Iterable[str]] | None = None,
    claims: Callable[[str], bool] | None = None,
    played: bool | None = None,
    source: str = "",
) -> Callable[[Opener], Opener]:
    """Register the function that opens the tasks of a family."""
    return TASKS.adder(TaskFamily, name=name, members=members, claims=claims, played=played, source=source)
