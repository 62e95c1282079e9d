"""The format's own types: what every column is stored as, and how a column of another width becomes one.

Readers take more than writers give: any width of integer or float, large lists, dictionaries. `canonical` narrows a batch
to what this version writes. Columns the schema does not know keep their values and numbers' widths.
"""

import pyarrow as pa

from .errors import DataError
from .invariants import is_credit
from .rollouts import Rollouts
from .schema import FIELDS, RULERS, arrow_type


def full_schema() -> pa.Schema:
    """Every known column as one Arrow schema, rulers as structs of lists."""
    fields: dict[str, list[pa.Field] | pa.DataType] = {}
    for path, field in FIELDS.items():
        head, _, leaf = path.partition(".")
        if head in RULERS and leaf:
            leaves = fields.setdefault(head, [])
            assert isinstance(leaves, list)
            leaves.append(pa.field(leaf, arrow_type(path)))
        else:
            fields[path] = field.type
    return pa.schema([(name, pa.struct(kind) if isinstance(kind, list) else kind) for name, kind in fields.items()])


def canonical_type(path: str, seen: pa.DataType) -> pa.DataType:
    """The type a column is stored as, given the type it has: the schema's where it knows the column."""
    if path in FIELDS:
        return arrow_type(path)
    plain = _plain(seen)
    if is_credit(path) and pa.types.is_list(plain) and pa.types.is_floating(plain.value_type):
        return arrow_type("token.advantage")
    return plain


def canonical(batch: Rollouts) -> Rollouts:
    """The batch with every column in its canonical type. DataError for a value that does not fit.

    The order of rows and columns is kept; float64 signals of the schema are rounded to its float32.
    """
    columns: dict[str, pa.Array] = {}
    for field in batch.table.schema:
        if not pa.types.is_struct(field.type) or not field.type.num_fields:
            columns[field.name] = _cast(batch, field.name)
            continue
        names = [leaf.name for leaf in field.type]
        leaves = [_cast(batch, f"{field.name}.{name}") for name in names]
        columns[field.name] = pa.StructArray.from_arrays(leaves, names)
    return Rollouts(pa.table(columns))


def _cast(batch: Rollouts, path: str) -> pa.Array:
    array = batch.arrow(path)
    wanted = canonical_type(path, array.type)
    if array.type == wanted:
        return array
    try:
        return array.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"column {path!r} is {array.type} and does not fit {wanted} ({reason})") from error


def _plain(kind: pa.DataType) -> pa.DataType:
    """The same values without large offsets, views and dictionaries."""
    types = pa.types
    if types.is_dictionary(kind):
        return _plain(kind.value_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    if types.is_list(kind) or types.is_large_list(kind) or types.is_list_view(kind) or types.is_large_list_view(kind):
        return pa.list_(_plain(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([pa.field(each.name, _plain(each.type)) for each in kind])
    return kind
