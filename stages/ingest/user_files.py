"""List a user's files under neutral names.

A file's name may be a patient's name, and quarantine, metrics and logs are shared.
"""

import sys
from pathlib import Path

from bula.errors import UserError
from bula.params import FilesSource
from stages.ingest.formats import READABLE, file_suffix
from stages.ingest.json_forms import is_description
from stages.ingest.mapping import wanted_columns

# Suffixes of files without rows, which a folder that DVC tracks contains beside the data.
NO_DATA_SUFFIXES = ("", ".dvc", ".md")
# Files that tools write beside the rows. Their names are fixed, so messages may show them.
SIDE_BYTES = 1_000_000
SIDE_FILES = (
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
    "metadata.json",
    "croissant.json",
    "datapackage.json",
    "README.json",
)


def data_files(source: FilesSource) -> dict[str, Path]:
    """Return the files of a source by neutral names.

    The names follow the order of the paths: file-001.csv is the first file.
    """
    root = Path(source.path)
    fix = f"correct `path` of source {source.name} in params.yaml"
    if not root.exists():
        raise UserError(root, "it does not exist", fix)
    pattern = source.pattern or ""
    files = folder_files(root, pattern, source) if root.is_dir() else numbered_files([root])
    if not files:
        what = f"no file there matches the pattern {pattern} and is {READABLE}"
        if root.is_file():
            what = f"only {READABLE} can be read"
            fix = "convert it, for example to .csv"
        elif not pattern:
            what = f"no {READABLE}, is there"
        raise UserError(root, what, fix)
    return files


def numbered_files(files: list[Path]) -> dict[str, Path]:
    """Return the files that can be read by neutral names."""
    readable = [file for file in files if file_suffix(file.name)]
    numbered: dict[str, Path] = {}
    for number, file in enumerate(readable, start=1):
        name = f"file-{number:03d}{file_suffix(file.name)}"
        numbered[name] = file
    return numbered


def folder_files(root: Path, pattern: str, source: FilesSource | None = None) -> dict[str, Path]:
    """Return the files with rows in a folder by neutral names.

    Print what is left out: unknown formats, files that do not match the pattern, and side files.
    Every readable file has a number, so that a person finds it by its position in the folder.
    """
    found = _visible_files(root)
    source_name = source.name if source else root.name
    _report_left_out(source_name, found)
    files = numbered_files(found)
    matching = {
        name: file for name, file in files.items() if _matches(file.relative_to(root), pattern)
    }
    others = len(files) - len(matching)
    if others:
        _say(source_name, f"left out {others} files that do not match {pattern}")
    columns = wanted_columns(source) if source else []
    has_key = bool(source and source.rows)
    side = [name for name, file in matching.items() if is_side_file(file, columns, has_key)]
    if len(side) == len(matching):
        return matching
    for name in side:
        shown = f"{name} ({files[name].name})" if files[name].name in SIDE_FILES else name
        _say(source_name, f"left out {shown}, which has no rows")
        del matching[name]
    return matching


def is_side_file(file: Path, columns: list[str], has_key: bool) -> bool:
    """Return whether a tool wrote a file beside the rows, to describe them.

    The file has a usual name for this, or a single JSON object that is no row.
    """
    if file.name in SIDE_FILES:
        return True
    is_small = file.suffix.lower() == ".json" and file.stat().st_size <= SIDE_BYTES
    if not is_small or has_key:
        return False
    text = file.read_bytes().decode("utf-8-sig", "replace")
    return is_description(text, columns)


def _matches(path: Path, pattern: str) -> bool:
    """Return whether a path below the folder fits a pattern.

    An empty pattern fits all paths.
    """
    return not pattern or path.match(pattern)


def _say(source_name: str, note: str) -> None:
    """Print a note about a source."""
    print(f"ingest: {source_name}: {note}", file=sys.stderr)


def _visible_files(root: Path) -> list[Path]:
    """Return the files below a folder in the order of `LC_ALL=C sort`.

    A person finds a file from its number by this order. Hidden files, such as editors' copies, are
    left out.
    """
    visible = []
    for file in root.rglob("*"):
        path = file.relative_to(root)
        hidden = any(part.startswith(".") for part in path.parts)
        if file.is_file() and not hidden:
            visible.append(path)
    visible.sort(key=Path.as_posix)
    return [root / path for path in visible]


def _report_left_out(source_name: str, files: list[Path]) -> None:
    """Print how many files of unknown formats are left out."""
    others = 0
    for file in files:
        if not file_suffix(file.name) and file.suffix not in NO_DATA_SUFFIXES:
            others += 1
    if others:
        _say(source_name, f"left out {others} files that are not {READABLE}")
