"""What a step chooses by name, a method or a scorer, with its options: checked with the plan, before anything runs."""

from collections.abc import Mapping
from typing import Any

from ..core.options import typed_options


def check_chosen(command: str, options: Mapping[str, Any]) -> None:
    """UsageError, as the command itself would give: an unknown name, an option it does not have or of another type.

    options: by recipe key, typed.
    """
    settings = options.get("set") or {}
    match command:
        case "assign-credit":
            from ..assign_credit.kind import METHODS, resolve_options

            resolve_options(METHODS[options["method"]], settings, options["preset"])
        case "score":
            from ..score.kind import SCORERS

            typed_options(SCORERS[options["with"]].function, settings, f"scorer {options['with']!r}")
        case "sample":
            from ..sample.kind import STRATEGIES

            typed_options(STRATEGIES[options["strategy"]].function, settings, f"strategy {options['strategy']!r}")
        case "remember":
            from ..remember.kind import MEMORIES

            typed_options(MEMORIES[options["what"]].function, settings, f"memory {options['what']!r}")
        case "train":
            from ..train.kind import OBJECTIVES

            typed_options(OBJECTIVES[options["objective"]].function, settings, f"objective {options['objective']!r}")
        case _:
            pass
