"""Which split a question belongs to. Only the question decides, so that no run and no seed can mix the two."""

from hashlib import blake2b

from ...formats.errors import unknown

SPLITS = ("train", "test", "all")  # all: those of both
TEST_SHARE = 5  # one question in five is a test problem


def digest_question(question: str) -> bytes:
    """An 8-byte digest of the question, the same in every process and on every machine."""
    return blake2b(question.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def hash_split(question: str, test_fraction: float = 1 / TEST_SHARE) -> str:
    """The question's split: "test" for about this fraction of all questions, else "train". The test questions of a smaller
    fraction are among those of a larger one.

    >>> [hash_split("1+1", fraction) for fraction in (0.0, 0.2, 0.7, 0.8)]
    ['train', 'train', 'test', 'test']
    """
    rest, fifth = divmod(int.from_bytes(digest_question(question), "big"), TEST_SHARE)
    place = fifth + (rest & 0xFFFFFFFF) / (1 << 32)  # from 0 to below 5
    return "test" if place < TEST_SHARE * test_fraction else "train"


def is_in(split: str, own: str) -> bool:
    """Whether a problem whose own split is "train" or "test" belongs to what was asked for."""
    return split in (own, "all")


def check_split(split: str) -> None:
    """Check a split's name. UsageError if it is unknown."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
