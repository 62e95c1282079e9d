"""User time of `apportion --help` and of every `apportion X --help`: the best of five runs each.

    python benchmarks/help.py [--repeats 5] [--limit 0.25]

Ends with 1 when one takes the limit or more: help that imports a model library is a defect.
"""

import argparse
import resource
import subprocess
import sys

from apportion.stages.core.table import commands


def user_seconds(words: list[str]) -> float:
    """User time of one run of `apportion WORDS --help`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, "-m", "apportion", *words, "--help"], stdout=subprocess.DEVNULL, check=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=float, default=0.25, help="seconds")
    arguments = parser.parse_args()
    slow = False
    for name in ("", *commands()):
        best = min(user_seconds(name.split()) for _ in range(arguments.repeats))
        slow |= best >= arguments.limit
        print(f"{best:.3f} s  apportion {name} --help".replace("  --", " --"), flush=True)
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
