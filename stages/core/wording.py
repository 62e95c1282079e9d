"""Templates of what a policy is told, with {names} in them."""

import re

from ...formats.errors import UsageError


def fill(template: str, **values: object) -> str:
    """The template with each {name} that there is a value for replaced; other braces stand for themselves.

    >>> fill('{question} {"key": {steps}}', question="{steps}?", steps=1)
    '{steps}? {"key": 1}'
    """
    return re.sub(r"\{(" + "|".join(values) + r")\}", lambda found: str(values[found[1]]), template)


def check_template(strategy: str, option: str, template: str, *names: str) -> None:
    """UsageError for a template that lacks one of the names."""
    for name in names:
        if f"{{{name}}}" not in template:
            raise UsageError(f"strategy {strategy}: {option} must have {{{name}}} in it")
