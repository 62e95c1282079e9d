"""Which split a question belongs to. Only the question decides, so that no run and no seed can mix the two."""

from hashlib import blake2b

from ...formats.errors import unknown

SPLITS = ("train", "test")
TEST_SHARE = 5  # one question in five is a test problem


def digest_question(question: str) -> bytes:
    """An 8-byte digest of the question, the same in every process and on every machine."""
    return blake2b(question.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def hash_split(question: str) -> str:
    """The question's split: "test" for one question in five, else "train"."""
    return "test" if int.from_bytes(digest_question(question), "big") % TEST_SHARE == 0 else "train"


def check_split(split: str) -> None:
    """Check a split's name. UsageError if it is unknown."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
