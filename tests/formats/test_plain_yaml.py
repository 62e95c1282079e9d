"""YAML of a bounded size: what would fill memory, never end or hold what is no data is refused in one line."""

import time
from typing import Any

import pytest
from apportion.formats.plain_yaml import LARGEST, NotPlain, read_yaml

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
MERGED = "a0: &a0 {k: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}], k{n}: 1}}\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("", None),
        ("a: &x {b: [1, 2.5, null, true, text]}\nc: *x", {"a": {"b": [1, 2.5, None, True, "text"]}, "c": {"b": [1, 2.5, None, True, "text"]}}),
        ("a: &x {b: 1}\nc: {<<: *x, d: 2}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
        ("9223372036854775807", (1 << 63) - 1),
    ],
)  # fmt: skip
def test_plain_data_is_read(text: str, data: Any) -> None:
    assert read_yaml(text) == data


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("&a [*a]", "an anchor that contains itself"),
        ("a: &a {b: *a}", "an anchor that contains itself"),
        (LAUGHS, "with its aliases written out it has more than 262,144 characters"),
        (MERGED, "with its aliases written out it has more than 262,144 characters"),
        ("[" * 40 + "]" * 40, "nested deeper than 32"),
        ("[" * 5000 + "]" * 5000, "nested deeper than 32"),
        ("x" * (LARGEST + 1), "131,073 characters, expected at most 131,072"),
        ("a: 10000000000000000000000000", "a number of 84 bits; expected one from -2^63 to 2^63 - 1"),
        ("a: " + "9" * 5000, "4300"),
        ("2020-13-45", "month must be in 1..12"),
        ('"\\ud800"', "a character that is no text"),
        ('"\\0"', "a character that is no text"),
        ("{a: 1, a: 2}", "the key 'a' stands twice"),
        ("!!python/object:os.system {}", "could not determine a constructor"),
        ("a: [", "expected the node content"),
    ],
)
def test_what_is_more_than_plain_data_is_refused_at_once(text: str, said: str) -> None:
    started = time.process_time()
    with pytest.raises(NotPlain) as fault:
        read_yaml(text)
    assert said in str(fault.value)
    assert "\n" not in str(fault.value)
    assert time.process_time() - started < 3
