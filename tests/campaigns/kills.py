"""Commands killed at any moment: the output is the old one whole, the new one whole, or absent if there was none; the same
command again ends as if nothing had happened, and nothing is left beside it.

    python tests/campaigns/kills.py --count 200 --seed 0 --heavy
"""

import random
import signal
import sys
import time
from pathlib import Path

from launching import Case, Expected, content, differing, finish, fresh, left_over, run_campaign, start


def try_one(case: Case, expected: Expected, rng: random.Random) -> str | None:
    """The fault of one random kill, or None."""
    old = expected.out(case, other=True) if rng.random() < 0.6 else None
    wanted = content(expected.out(case))
    count, seconds = expected.moments(case, old)
    number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
    by_operation = rng.random() < 0.7
    # The last operations are those that put the output in its place.
    at = rng.choice([rng.randint(1, count), max(1, count - rng.randint(0, 9))])
    moment = rng.uniform(0.3, 1.1) * seconds
    place = fresh(expected.inputs, expected.folder / "work", old)
    plain = ":plain" if rng.random() < 0.3 else ""
    what = (f"kill:{at}:{int(number)}" if by_operation else "never:0:0") + plain
    told = f"{case.name}{plain}, {'over an old output, ' if old else ''}{number.name} at " + (
        f"operation {at} of {count}" if by_operation else f"{moment:.2f} of {seconds:.2f} s"
    )
    process = start(place, case.command(force=old is not None), what)
    if not by_operation:
        time.sleep(moment)
        process.send_signal(number)
    finish(process)
    out = place / case.out
    before = None if old is None else content(old)
    if case.words.startswith("run "):
        found = [content(each) for each in sorted(out.iterdir())] if out.is_dir() else []
        whole = {content(each) for made in (expected.out(case), old) if made is not None for each in made.iterdir()}
        lies = [each.name for each, digest in zip(sorted(out.iterdir()) if out.is_dir() else [], found, strict=True)
                if not each.name.startswith(".") and each.suffix != ".partial"
                and each.name not in ("journal.jsonl", "run.lock") and digest not in whole]  # fmt: skip
        if lies:
            return f"{told}: {', '.join(lies)} is neither old nor new"
    elif content(out) not in {before, wanted}:
        return f"{told}: the output is neither old nor new nor absent"
    again = case.command(force=old is not None or out.exists())
    if case.words.startswith("sample") and Path(f"{out}.partial").exists():
        again.append("--resume")
    code, said = finish(start(place, again))
    if code != 0:
        return f"{told}: again, it ended with {code}: {said}"
    if content(out) != wanted:
        names = differing(out, expected.out(case))
        return f"{told}: again, it ended with another result{f': {names}' if names else ''}"
    if left := left_over(place):
        return f"{told}: left over: {', '.join(left)}"
    return None


if __name__ == "__main__":
    sys.exit(run_campaign("kills", __doc__, try_one))
