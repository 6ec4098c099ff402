"""List the columns of a Parquet file, and sample its texts."""

from itertools import islice
from pathlib import Path
from typing import Any

from stages.ingest.memory import memory_limit

BATCH_ROWS = 1000
# The first row group of the sampled columns may unpack to so many bytes.
MOST_BYTES = 100_000_000
# Memory for reading them, with stacks of threads and an allocator's reserve.
SLACK_BYTES = 1_000_000_000


def column_names(path: Path) -> list[str]:
    """Return the names of a Parquet file's columns.

    The list is empty for a damaged file.
    """
    # Imported here and below, because pyarrow loads slowly.
    from pyarrow import parquet

    from stages.ingest.parquet_files import PARQUET_ERRORS

    try:
        return list(parquet.read_schema(path).names)
    except PARQUET_ERRORS:
        return []


def first_texts(path: Path, names: list[str], rows: int) -> list[dict[str, str]]:
    """Return the texts of some columns in the first rows of a Parquet file.

    The list is empty for a damaged file, and for one whose columns take too much memory.
    """
    from pyarrow import parquet

    from stages.ingest.parquet_files import PARQUET_ERRORS

    texts: list[dict[str, str]] = []
    try:
        with memory_limit(SLACK_BYTES):
            file = parquet.ParquetFile(path)
            wanted = _text_columns(file, names)
            if wanted and _first_group_bytes(file, wanted) <= MOST_BYTES:
                batches = file.iter_batches(BATCH_ROWS, [0], wanted, use_threads=False)
                for batch in islice(batches, rows // BATCH_ROWS):
                    texts += batch.to_pylist()
    except PARQUET_ERRORS:
        # The reader of the file reports the damage.
        return []
    return texts


def _text_columns(file: Any, names: list[str]) -> list[str]:
    """Return the names of text columns.

    The list is empty for a file without rows.
    """
    from pyarrow import types

    if not file.num_row_groups:
        return []
    kinds = {name: file.schema_arrow.field(name).type for name in names}
    return [
        name for name, kind in kinds.items() if types.is_string(kind) or types.is_large_string(kind)
    ]


def _first_group_bytes(file: Any, names: list[str]) -> int:
    """Return the unpacked bytes of some columns in the first row group."""
    group = file.metadata.row_group(0)
    chunks = [group.column(index) for index in range(group.num_columns)]
    sizes = [chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in names]
    return sum(sizes)
