"""A sweep: one run for each value of a list, in folders of their own."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...formats.errors import ApportionError, Stopped
from .members import Member


@dataclass(frozen=True)
class MemberRan:
    """A member of a sweep: what it did, as `run` says it of one run, and the fault that it ended with."""

    member: Member
    ran: Any
    fault: ApportionError | None


@dataclass(frozen=True)
class Sweep:
    """All members of a sweep, those that failed too."""

    recipe: str
    folder: str
    members: Sequence[MemberRan]

    def fault(self) -> ApportionError | None:
        """The first member's that has one, and how many have."""
        failed = [each for each in self.members if each.fault is not None]
        if not failed or failed[0].fault is None:
            return None
        fault, names = failed[0].fault, ", ".join(each.member.name for each in failed)
        fault.args = (f"{len(failed)} of {len(self.members)} members failed ({names:.300}); the first: {fault}",)
        fault.result = None
        return fault

    def to_json(self) -> dict[str, Any]:
        members = [
            {
                "name": each.member.name, "settings": dict(each.member.values), "error": None if each.fault is None else str(each.fault),
                "run": None if each.ran is None else each.ran.to_json(),
            }
            for each in self.members
        ]  # fmt: skip
        return {"recipe": self.recipe, "folder": self.folder, "members": members}

    def render(self) -> None:
        for each in self.members:
            print(f"{each.member.name}:", file=sys.stderr)
            if each.ran is not None:
                each.ran.render()
            if each.fault is not None:
                print(f"{each.member.name}: {each.fault}", file=sys.stderr)


def run_sweep(recipe: str, folder: Path, members: Sequence[Member], runs: Sequence[Callable[[], Any]]) -> Sweep:
    """Every member in turn; one that fails does not keep the others from running. A signal ends the sweep."""
    found: list[MemberRan] = []
    for number, (member, run) in enumerate(zip(members, runs, strict=True), 1):
        print(f"{recipe}: {member.name} ({number} of {len(members)})", file=sys.stderr, flush=True)
        try:
            ran = run()
            fault = ran.fault()
        except Stopped:
            raise
        except ApportionError as error:
            ran, fault = error.result, error
        found.append(MemberRan(member, ran, fault))
    return Sweep(recipe, str(folder), found)
