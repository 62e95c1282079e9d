"""Credit in a terminal: green earned it, red lost it, the stronger the more; marks where there are no colours."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.style import Style

Palette = Literal["many", "16"]

POSITIVE, NEGATIVE, NEUTRAL = (46, 160, 67), (218, 54, 51), (110, 118, 129)
FAINTEST = 0.15  # of the full colour, for the least that is not 0
# Of 16 colours, (text, background) from the faintest to the strongest, each for an equal share of the scale.
EARNED = (("green", None), ("black", "green"), ("black", "bright_green"))
LOST = (("red", None), ("white", "red"), ("black", "bright_red"))


def palette_of(console: "Console") -> Palette | None:
    """What the terminal can show; None without colour."""
    if console.no_color or console.color_system is None:
        return None
    return "16" if console.color_system in ("standard", "windows") else "many"


def credit_style(value: float, full: float, palette: Palette = "many") -> "Style":
    """Colour for a credit, full at ±`full`. No colour for 0, or where all credit is 0."""
    from rich.style import Style

    if value == 0 or full == 0:
        return Style()
    share = min(1.0, abs(value) / full)
    if palette == "16":
        steps = EARNED if value > 0 else LOST
        color, background = steps[min(int(share * len(steps)), len(steps) - 1)]
        return Style(color=color, bgcolor=background)
    strength = FAINTEST + (1 - FAINTEST) * share
    towards = POSITIVE if value > 0 else NEGATIVE
    mixed = (round(n + (t - n) * strength) for n, t in zip(NEUTRAL, towards, strict=True))
    return Style(bgcolor="#" + "".join(f"{each:02x}" for each in mixed), color="white")


def level_of(value: float, full: float) -> str:
    """Credit without colour and without room for numbers: doubled from half of the scale on.

    >>> [level_of(value, 1.0) for value in (0.5, 0.1, 0.0, -0.1, -1.0)]
    ['++', '+', '0', '−', '−−']
    """
    if value == 0:
        return "0"
    return ("+" if value > 0 else "−") * (2 if abs(value) >= full / 2 else 1)


def excluded_style() -> "Style":
    """What has no credit because the policy did not write it."""
    from rich.style import Style

    return Style(dim=True, italic=True)
