"""Measure how many bytes the cells of an Arrow table take."""

import numpy
import pyarrow
from numpy.typing import NDArray
from pyarrow import compute

Sizes = NDArray[numpy.int64]

TEXT_TYPES = (
    pyarrow.types.is_string,
    pyarrow.types.is_large_string,
    pyarrow.types.is_binary,
    pyarrow.types.is_large_binary,
)


LIST_TYPES = (pyarrow.types.is_list, pyarrow.types.is_large_list)


def row_sizes(batch: pyarrow.RecordBatch) -> Sizes:
    """Return the bytes in the cells of each row."""
    sizes = numpy.zeros(len(batch), numpy.int64)
    for column in batch.columns:
        sizes += _cell_sizes(column)
    return sizes


def _cell_sizes(column: pyarrow.Array) -> Sizes:
    """Return the bytes in each cell of a column."""
    if isinstance(column, pyarrow.DictionaryArray):
        return _dictionary_sizes(column)
    if pyarrow.types.is_primitive(column.type):
        size = column.type.bit_width // 8
        return numpy.full(len(column), size, numpy.int64)
    if any(is_type(column.type) for is_type in TEXT_TYPES):
        lengths = compute.binary_length(column).fill_null(0)
        return numpy.asarray(lengths.to_numpy(zero_copy_only=False), numpy.int64)
    if any(is_type(column.type) for is_type in LIST_TYPES):
        return _list_sizes(column)
    if pyarrow.types.is_struct(column.type):
        return sum(map(_cell_sizes, column.flatten()), numpy.zeros(len(column), numpy.int64))
    return _nested_sizes(column)


def _list_sizes(column: pyarrow.Array) -> Sizes:
    """Return the bytes in the elements of each list."""
    totals = numpy.append(0, numpy.cumsum(_cell_sizes(column.values)))
    offsets = column.offsets.to_numpy()
    sizes: Sizes = totals[offsets[1:]] - totals[offsets[:-1]]
    return sizes


def _dictionary_sizes(column: pyarrow.DictionaryArray) -> Sizes:
    """Return the bytes of each cell's value in the dictionary."""
    # Cells without a value take the appended zero.
    sizes = numpy.append(_cell_sizes(column.dictionary), 0)
    last = len(sizes) - 1
    indices = column.indices.fill_null(last)
    chosen: Sizes = numpy.take(sizes, indices.to_numpy(zero_copy_only=False))
    return chosen


def _nested_sizes(column: pyarrow.Array) -> Sizes:
    """Return the bytes of each cell, measured one by one.

    Maps, views and other rare types have no simpler measure.
    """
    sizes = numpy.zeros(len(column), numpy.int64)
    for index in range(len(column)):
        cell = column.slice(index, 1)
        sizes[index] = cell.nbytes
    return sizes
