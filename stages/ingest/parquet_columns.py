"""List the columns of a Parquet file."""

from pathlib import Path


def column_names(path: Path) -> list[str]:
    """Return the names of a Parquet file's columns.

    The list is empty for a damaged file.
    """
    # Imported here, because pyarrow loads slowly.
    from pyarrow import parquet

    from stages.ingest.parquet_files import PARQUET_ERRORS

    try:
        return list(parquet.read_schema(path).names)
    except PARQUET_ERRORS:
        return []
