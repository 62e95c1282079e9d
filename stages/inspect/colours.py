"""The colours of credit in a terminal: green earned it, red lost it, the stronger the more."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.style import Style

POSITIVE, NEGATIVE, NEUTRAL = (46, 160, 67), (218, 54, 51), (110, 118, 129)
FAINTEST = 0.15  # of the full colour, for the least that is not 0


def credit_style(value: float, full: float) -> "Style":
    """Background for a credit; the colour is full at ±`full`. None for 0, or where all credit is 0."""
    from rich.style import Style

    if value == 0 or full == 0:
        return Style()
    strength = FAINTEST + (1 - FAINTEST) * min(1.0, abs(value) / full)
    towards = POSITIVE if value > 0 else NEGATIVE
    mixed = (round(n + (t - n) * strength) for n, t in zip(NEUTRAL, towards, strict=True))
    return Style(bgcolor="#" + "".join(f"{each:02x}" for each in mixed), color="white")


def excluded_style() -> "Style":
    """What has no credit because the policy did not write it."""
    from rich.style import Style

    return Style(dim=True, italic=True)
