import numpy as np
import pyarrow as pa
import pytest
from apportion.formats.errors import DataError
from apportion.formats.ragged import Ragged


def test_arrow_lists_are_taken_without_copying() -> None:
    column = pa.array([[1, 2], [], [3]], pa.list_(pa.int32()))
    ragged = Ragged.from_arrow(column)
    assert ragged.values.tolist() == [1, 2, 3]
    assert ragged.offsets.tolist() == [0, 2, 2, 3]
    assert ragged.values.__array_interface__["data"][0] == column.values.buffers()[1].address


def test_a_slice_of_arrow_lists_starts_at_zero() -> None:
    ragged = Ragged.from_arrow(pa.array([[1, 2], [3], [4, 5]], pa.list_(pa.int32())).slice(1))
    assert ragged.values.tolist() == [3, 4, 5]
    assert ragged.offsets.tolist() == [0, 1, 3]


def test_a_missing_list_is_not_an_empty_one() -> None:
    column = pa.array([[1.0], None, []], pa.list_(pa.float32()))
    ragged = Ragged.from_arrow(column)
    assert ragged.present is not None and ragged.present.tolist() == [True, False, True]
    assert ragged.to_arrow().cast(column.type).equals(column)


def test_a_null_inside_a_list_is_refused() -> None:
    with pytest.raises(DataError, match="1 missing"):
        Ragged.from_arrow(pa.array([[1, None]], pa.list_(pa.int32())))


def test_chunks_and_large_lists_read_alike() -> None:
    chunks = pa.chunked_array(
        [pa.array([[1]], pa.large_list(pa.int64())), pa.array([[2, 3]], pa.large_list(pa.int64()))]
    )
    assert Ragged.from_arrow(chunks).values.tolist() == [1, 2, 3]


def test_take_gathers_rows_in_order() -> None:
    taken = Ragged.from_lists([[1, 2], [], [3]], np.int32).take(np.array([2, 0, 2]))
    assert [taken[row].tolist() for row in range(3)] == [[3], [1, 2], [3]]


def test_goes_to_torch_and_back() -> None:
    ragged = Ragged.from_arrow(pa.array([[1.5], [2.5, 3.5]], pa.list_(pa.float32())))
    values, offsets = ragged.to_torch("cpu")
    back = Ragged.from_torch(values * 2, offsets)
    assert [back[row].tolist() for row in range(2)] == [[3.0], [5.0, 7.0]]
