"""Find the final answer in a response, and compare it with a reference answer."""

import math
import re
from collections.abc import Iterable

from ._third_party import contain, time_limit

_ANNOUNCED = re.compile(r"(?:final\s+answer|answer)\**\s*(?::|\bis\b:?)\**", re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_MARKUP = re.compile(r"\\(?:text|mathrm|textbf|mbox)\s*\{([^{}]*)\}")
_FORMULA = re.compile(r"[0-9\\^+*/=<>√π∞]|^-?\(?[A-Za-z]\)?$")
MAX_FORMULA = 2_000  # characters; sympy needs minutes for longer ones, and no reference answer is longer
MAX_DEPTH = 40  # of nested brackets
MAX_EXPONENT = 100_000  # also the largest argument of a factorial
_POWER = re.compile(r"(?=(?:\^|\*\*)[{( ]*-?(\d+)[) ]*(?:(?:\^|\*\*)[{( ]*(\d+))?)")
_FACTORIAL = re.compile(r"(?:binom[{ ]*|(?=\d+[}) ]*!))(\d+)()")
_TOWER = re.compile(r"(?:(?:\^|\*\*)[{( ]*\w+[) ]*){4}")
VERIFY_SECONDS = 5


def final_answer(text: str, *, hashes: bool = False) -> str:
    r"""The part of a response that is its final answer; "" if there is none.

    It is the last <answer>…</answer>; without one, the last \boxed{…}; then, with `hashes`, the rest of the line after
    the last `####` (GSM8K's form); then what follows the last "Answer:" or "answer is"; else the last non-empty line.

    >>> final_answer("<answer>4</answer> no, <answer> 5 </answer>")
    '5'
    >>> final_answer(r"so \boxed{\frac{1}{2}} it is"), final_answer("2+2\nThe answer is 4."), final_answer("hm\n7\n")
    ('\\frac{1}{2}', '4', '7')
    """
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    if start >= 0:
        inside = text[start + len("<answer>") : end].strip()
        return last_boxed(inside, whole=True) or inside
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed
    if hashes and "####" in text:
        return text.rpartition("####")[2].strip().partition("\n")[0].strip()
    announced = list(_ANNOUNCED.finditer(text))
    if announced:
        rest = text[announced[-1].end() :]
        # An answer on the same line is one line. An answer below it, a grid or a list, may have several.
        first_line = rest.partition("\n")[0].strip()
        if first_line:
            return first_line.removesuffix(".").removesuffix("**").removeprefix("**").removesuffix(".").strip()
        if rest.strip():
            return rest.strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def last_boxed(text: str, *, whole: bool = False) -> str | None:
    r"""The content of the last complete \boxed{…}. None if there is none or, with `whole`, if `text` has more than it.

    >>> last_boxed(r"\boxed{1} then \boxed{\frac{3}{4}} and \boxed{5")
    '\\frac{3}{4}'
    """
    start = len(text)
    while (start := text.rfind(r"\boxed{", 0, start)) >= 0:
        opened = start + len(r"\boxed{")
        depth = 1
        for position in range(opened, len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                if whole and (start > 0 or position + 1 < len(text)):
                    return None
                return text[opened:position].strip()
    return None


def gold_answer(solution: str) -> str:
    r"""The final answer of a reference solution: after `####` (GSM8K), in the last \boxed{…} (MATH), or all of it.

    >>> gold_answer("He has 3+4=7.\n#### 7"), gold_answer(r"Hence $\boxed{x^2}$."), gold_answer(" Paris ")
    ('7', 'x^2', 'Paris')
    """
    if "####" in solution:
        return solution.rpartition("####")[2].strip()
    boxed = last_boxed(solution)
    return solution.strip() if boxed is None else boxed


def check(answer: str, accepted: Iterable[str]) -> float:
    r"""1 if `answer` equals one of the accepted answers, as text or as mathematics, else 0.

    As text, case, spaces, `$`, \text{…}, thousands' commas and a final full stop do not matter. As mathematics,
    math-verify decides, but only if the reference looks like a formula (so that "Pairs" is not p·a·i·r·s = "Paris").
    If math-verify raises or takes too long, the result is 0.

    >>> check("1,234.", ["1234"]), check(r"\frac{1}{2}", ["0.5"]), check("Pairs", ["Paris"]), check("", [""])
    (1.0, 1.0, 0.0, 0.0)
    """
    if not answer.strip():
        return 0.0
    return float(
        any(normalise_answer(answer) == normalise_answer(one) or _same_formula(answer, one) for one in accepted)
    )


def normalise_answer(answer: str) -> str:
    r"""An answer stripped of what does not matter: case, spaces, `$`, \text{…}, thousands' commas, a final full stop."""
    bare = _MARKUP.sub(r"\1", answer).replace("$", "").replace(r"\!", "").replace(r"\,", "")
    bare = _THOUSANDS.sub("", bare.strip().removesuffix("."))
    return "".join(bare.split()).casefold()


def takes_long(formula: str) -> bool:
    r"""Whether a formula's form alone shows that sympy would compute for minutes, or forever.

    >>> [takes_long(each) for each in ("10^{10^{10}}", "(9^9)^{999999999}", "99999999!", "{" * 99, "2^{2008}", "x^{n^2}")]
    [True, True, True, True, False, False]
    """
    depth = deepest = 0
    for each in formula:
        depth += (each in "({[") - (each in ")}]")
        deepest = max(deepest, depth)
    if len(formula) > MAX_FORMULA or deepest > MAX_DEPTH or _TOWER.search(formula):
        return True
    return any(_beyond(*found) for found in (*_POWER.findall(formula), *_FACTORIAL.findall(formula)))


def _beyond(number: str, power: str) -> bool:
    base, times = int(number[:9]), int(power[:9] or 1)
    return base > 1 and times * math.log(base) > math.log(MAX_EXPONENT)


def _same_formula(answer: str, reference: str) -> bool:
    if not _FORMULA.search(reference) or takes_long(answer) or takes_long(reference):
        return False
    with contain():
        from math_verify import parse, verify

        try:
            # Not math-verify's own limit: that is a single signal, which may be lost.
            with time_limit(VERIFY_SECONDS):
                gold, given = (
                    parse(f"${one.strip().strip('$')}$", parsing_timeout=None)  # type: ignore[arg-type]  # no limit
                    for one in (reference, answer)
                )
                return bool(gold and given) and verify(gold, given, timeout_seconds=None)
        except Exception:
            return False
