"""Question-answer pairs and benchmark items: every source read, filtered, mapped to one set of names, its losses kept in sight."""

import hashlib
import math
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from bula.params import DataSource, DemoSource, FilesSource, HubSource, LocalTask, Tabular, TaskSource, UrlSource
from bula.records import Row, read_rows
from bula.text import mask
from stages.ingest.files import SUFFIXES, HeaderError, Item, Refused, read_file

DEMO_SPLITS = ("train", "dev", "validation/A", "validation/B", "validation/C", "validation/D", "validation/E")
# What is read from an address at once.
CHUNK = 1 << 20


def read_source(source: DataSource) -> Iterator[Row]:
    """Rows of one source, each with the source's name and license.

    A row that could not be read has `refused` (the reason) and `excerpt` (masked) in place of question and answer.
    Raises ValueError with file, line and fix where the source as a whole cannot be what params.yaml says.
    """
    if isinstance(source, DemoSource):
        rows = read_demo(source)
    elif isinstance(source, FilesSource):
        rows = read_files(source)
    elif isinstance(source, UrlSource):
        rows = read_url(source)
    else:
        rows = read_hub(source)
    for row in rows:
        yield row | {"source": source.name, "license": source.license}


def read_demo(source: DemoSource) -> Iterator[Row]:
    """Rows of the demo corpus, with the split that their file gives them."""
    for split in DEMO_SPLITS:
        path = Path(source.path) / f"{split}.jsonl"
        for line, row in read_file(path, "utf-8", ["question", "answer"]):
            where = {"split": split.removeprefix("validation/"), "file": f"{split}.jsonl", "line": line}
            yield where | (refusal(row) if isinstance(row, Refused) else row)


def read_files(source: FilesSource) -> Iterator[Row]:
    """Mapped rows of a user's files, those in folders below too, in the order of their paths; other kinds are named on the terminal."""
    root = Path(source.path)
    if not root.exists():
        raise ValueError(f"{root} does not exist; correct ingest.sources in params.yaml")
    files = sorted(file for file in root.rglob("*") if file.is_file() and not _hidden(file, root)) if root.is_dir() else [root]
    wrong = [file for file in files if file.suffix.lower() not in SUFFIXES]
    if len(wrong) == len(files):
        raise ValueError(f"{root}: no {', '.join(SUFFIXES)} file there; correct ingest.sources in params.yaml")
    for file in wrong:
        # A folder that DVC tracks has a .gitignore and .dvc files.
        if file.suffix not in ("", ".dvc", ".md"):
            print(f"ingest: {source.name}: {file} is left out: none of {', '.join(SUFFIXES)}", file=sys.stderr)
    good = {file: file.relative_to(root).as_posix() if root.is_dir() else file.name for file in files if file not in wrong}
    items = ((name, item) for file, name in good.items() for item in read_file(file, source.encoding, wanted(source)))
    yield from map_rows(source, items)


def _hidden(file: Path, root: Path) -> bool:
    """Whether a file or a folder above it is hidden: editors keep copies there, which would count twice."""
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def read_url(source: UrlSource) -> Iterator[Row]:
    """Mapped rows of a file behind an address, read only if its checksum is the pinned one."""
    name = Path(urllib.parse.urlparse(source.url).path).name
    with tempfile.TemporaryDirectory() as folder:
        path, digest = Path(folder) / (name or "file"), hashlib.sha256()
        with urllib.request.urlopen(source.url, timeout=60) as reply, path.open("wb") as file:
            while chunk := reply.read(CHUNK):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != source.sha256:
            raise ValueError(f"{source.url} has sha256 {digest.hexdigest()}, params.yaml says {source.sha256}; nothing was kept")
        yield from map_rows(source, ((name, item) for item in read_file(path, source.encoding, wanted(source))))


def read_hub(source: HubSource) -> Iterator[Row]:
    """Mapped rows of a data set on the hub, streamed; datasets 5 runs no code of a data set, whatever it is asked."""
    from datasets import load_dataset

    rows = load_dataset(source.id, source.subset, split=source.split, revision=source.revision, streaming=True)
    yield from map_rows(source, ((source.id, (line, row)) for line, row in enumerate(rows, start=1)))


def wanted(source: Tabular) -> list[str]:
    """Names that a row of the source must have: those of the mapping and of the filter."""
    return sorted({column for column in source.columns.model_dump().values() if column} | set(source.filter))


def map_rows(source: Tabular, items: Iterator[tuple[str, Item]]) -> Iterator[Row]:
    """Rows that pass the filter, under this project's names, at most `limit` of them; those that could not be read, as refused."""
    good, filtered, first, absent = 0, 0, "", optional(source)
    try:
        for file, (line, row) in items:
            where: Row = {"file": file, "line": line}
            if source.role != "split":
                where["split"] = source.role
            if isinstance(row, dict) and not passes(source, row):
                filtered += 1
                continue
            mapped = row if isinstance(row, Refused) else map_columns(row, source)
            if isinstance(mapped, Refused):
                if line == 0:
                    # A whole file is no single row: how many are lost cannot be told.
                    raise ValueError(f"source {source.name}: {file} cannot be read: {mapped.reason}")
                first = first or f"{file}:{line}: {mapped.reason}"
                yield where | refusal(mapped)
            else:
                good, absent = good + 1, absent - set(row)
                yield where | mapped
            if good == source.limit > 0:
                break
    except HeaderError as error:
        raise ValueError(f"{error}. Correct `columns` of source {source.name}") from error
    if not good:
        why = first or ("its filter lets none through" if filtered else "nothing in it holds one")
        raise ValueError(f"source {source.name} gives no row: {why}")
    if absent:
        raise ValueError(f"source {source.name}: no row has a column {', '.join(sorted(absent))}; correct its `columns`")


def optional(source: Tabular) -> set[str]:
    """Mapped columns that a row may lack, though not every row."""
    return {column for column in (source.columns.specialty, source.columns.kind) if column}


def passes(source: Tabular, row: Row) -> bool:
    """Whether every column of the filter holds one of its values, or the row lacks one and is refused for that."""
    return all(column not in row or str(row[column]) in values for column, values in source.filter.items())


def refusal(refused: Refused) -> Row:
    """The record of a row that could not be read, without its words."""
    return {"refused": refused.reason, "excerpt": mask(refused.text)}


def plain(value: object) -> str | int | float | bool | None:
    """A cell as JSON can hold it: what is missing in a table (NaN) becomes null; lists and objects keep only their kind."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, str | int | float | bool) else None


def map_columns(row: Row, source: Tabular) -> Row | Refused:
    """The row under this project's names, or the columns that it lacks. Reasons name columns of params.yaml, never what a row holds."""
    missing = [column for column in wanted(source) if column not in row and column not in optional(source)]
    if missing:
        return Refused(f"no column {', '.join(missing)}", "")
    names = {field: column for field, column in source.columns.model_dump().items() if column}
    nested = [column for field, column in names.items() if field in ("question", "answer") and isinstance(row[column], list | dict)]
    if nested:
        return Refused(f"{nested[0]} is no text but a {type(row[nested[0]]).__name__}", "")
    return {field: plain(row.get(column)) for field, column in names.items()}


def read_task(source: TaskSource) -> Iterator[Row]:
    """Items of one benchmark in the task's own form; a damaged file stops here, since a score over fewer items is another score."""
    if isinstance(source, LocalTask):
        return read_rows(Path(source.path))
    from datasets import load_dataset

    return iter(load_dataset(source.id, source.subset, split=source.split, revision=source.revision, streaming=True))
