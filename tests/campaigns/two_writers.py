"""Two commands on one output at the same time: without --force the first one wins and the other loses nothing it made;
with --force the last one wins; both whole. Of two runs in one folder one runs, and the other says so in a line.

    python tests/campaigns/two_writers.py --count 100 --seed 0 --heavy
"""

import random
import shutil
import sys

from launching import Case, Expected, content, finish, fresh, left_over, run_campaign, start


def try_one(case: Case, expected: Expected, rng: random.Random) -> str | None:
    """The fault of two writers with random pauses, or None."""
    runs = case.words.startswith("run ")
    force = not runs and rng.random() < 0.5
    old = expected.out(case, other=rng.random() < 0.5) if force and rng.random() < 0.7 else None
    made = [content(expected.out(case)), content(expected.out(case, other=True))]
    both = [case.command(force=force), case.command(other=not runs, force=force)]
    if rng.random() < 0.5:
        made.reverse()
        both.reverse()
    count, _ = expected.moments(case, None)
    place = fresh(expected.inputs, expected.folder / "work", old)
    plain = ":plain" if rng.random() < 0.3 else ""
    pauses = [f"hold:{rng.randint(1, count)}:{rng.choice([0.0, 0.05, 0.3, 1.0])}{plain}" for _ in both]
    told = f"{case.name}{' --force' if force else ''}, {' and '.join(pauses)}"
    ended = [finish(each) for each in [start(place, words, pause) for words, pause in zip(both, pauses, strict=True)]]
    codes = [code for code, _ in ended]
    out = place / case.out
    if any(code and (len(said.splitlines()) != 1 or not said.startswith("error: ")) for code, said in ended):
        return f"{told}: not one line: {ended}"
    if runs:
        if content(out) != content(expected.out(case)) or sorted(codes) not in ([0, 0], [0, 1]):
            return f"{told}: ended with {ended}"
        if 1 in codes and "is running a recipe there" not in ended[codes.index(1)][1]:
            return f"{told}: ended with {ended}"
    elif force:
        if codes != [0, 0] or content(out) not in made:
            return f"{told}: ended with {ended}"
    else:
        if sorted(codes)[0] != 0 or codes.count(0) != 1:
            return f"{told}: ended with {ended}"
        winner = codes.index(0)
        if content(out) != made[winner]:
            return f"{told}: the output is not that of the one that ended well"
        for kept in place.glob(f"{case.out}.*.done"):
            if "exists already" not in ended[1 - winner][1] or content(kept) != made[1 - winner]:
                return f"{told}: {kept.name} is not what the other one made"
            shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
    if left := left_over(place):
        return f"{told}: left over: {', '.join(left)}"
    return None


if __name__ == "__main__":
    sys.exit(run_campaign("two_writers", __doc__, try_one))
