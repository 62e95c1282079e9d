"""YAML as recipes and `--set` have it: plain data of a bounded size. A key stands once, and an alias cannot blow it up."""

from collections.abc import Iterator
from typing import Any

import yaml

LARGEST = 1 << 17  # characters of a text
WRITTEN_OUT = 1 << 18  # characters when every alias is replaced by what it stands for
DEEPEST = 32  # lists and mappings in one another


class NotPlain(ValueError):
    """The text is no YAML, or more than plain data of this size; the message says why, in one line."""


class NotYaml(NotPlain):
    """The text breaks YAML's own grammar."""


class _Loader(yaml.SafeLoader):
    """YAML in which a key stands once; PyYAML takes the last of several and is silent about the others."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice", node.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """The data in a text: mappings, lists, texts, numbers of 64 bits, true, false and null. Raises NotPlain."""
    if len(text) > LARGEST:
        raise NotPlain(f"{len(text):,} characters, expected at most {LARGEST:,}")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _size_of(node, {}, 0)
            content = loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError as error:
        raise NotPlain(f"nested deeper than {DEEPEST}") from error
    except NotPlain:
        raise
    # SafeLoader's own conversions raise ValueError, for a date with month 13 and for a number of 5,000 digits.
    except (yaml.constructor.ConstructorError, ValueError, OverflowError) as error:
        raise NotPlain(" ".join(str(error).split())) from error
    except yaml.YAMLError as error:
        raise NotYaml(" ".join(str(error).split())) from error
    for value in _scalars(content):
        if isinstance(value, str) and not is_text(value):
            raise NotPlain(f"{value!r:.40}: a character that is no text")
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise NotPlain(f"a number of {value.bit_length()} bits; expected one from -2^63 to 2^63 - 1")
    return content


def _size_of(node: yaml.Node, sizes: dict[yaml.Node, int | None], depth: int) -> int:
    """Characters of a node with its aliases written out. sizes: of the nodes that are known; None while one is measured."""
    if node in sizes:
        size = sizes[node]
        if size is None:
            raise NotPlain("an anchor that contains itself")
        return size
    if depth > DEEPEST:
        raise NotPlain(f"nested deeper than {DEEPEST}")
    sizes[node] = None
    size = 1
    if isinstance(node, yaml.ScalarNode):
        size += len(node.value)
    else:
        for item in node.value:
            for each in item if isinstance(item, tuple) else (item,):
                size += _size_of(each, sizes, depth + 1)
    if size > WRITTEN_OUT:
        raise NotPlain(f"with its aliases written out it has more than {WRITTEN_OUT:,} characters")
    sizes[node] = size
    return size


def _scalars(content: Any) -> Iterator[Any]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _scalars(key)
            yield from _scalars(value)
    elif isinstance(content, list | tuple | set):
        for each in content:
            yield from _scalars(each)
    else:
        yield content


def is_text(value: str) -> bool:
    """Neither NUL, which no file name can hold, nor half of a surrogate pair, which cannot be written."""
    return "\0" not in value and not any("\ud800" <= each <= "\udfff" for each in value)


class Spelled(str):
    """A number or truth value of `--set`, as it is written: an option for text takes it so, any other takes `value`."""

    value: Any

    def __new__(cls, text: str, value: Any) -> "Spelled":
        made = super().__new__(cls, text)
        made.value = value
        return made


def plain_value(value: Any) -> Any:
    """The value that a setting means where nothing says of what type it is."""
    return value.value if isinstance(value, Spelled) else value
