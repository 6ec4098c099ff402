"""List a user's files under neutral names.

A file's name may be a patient's name, and quarantine, metrics and logs are shared.
"""

import sys
from pathlib import Path

from bula.errors import UserError
from bula.params import FilesSource
from stages.ingest.formats import READABLE, file_suffix

# Suffixes of files without rows, which a folder that DVC tracks contains beside the data.
NO_DATA_SUFFIXES = ("", ".dvc", ".md")
# Files that tools write beside the rows. Their names are fixed, so messages may show them.
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
    readable = files_of_rows(root, pattern, source.name) if root.is_dir() else [root]
    if not any(file_suffix(file.name) for file in readable):
        what = f"no file there matches the pattern {pattern} and is {READABLE}"
        if not pattern:
            what = f"no {READABLE}, is there"
        raise UserError(root, what, fix)
    files: dict[str, Path] = {}
    for number, file in enumerate(readable, start=1):
        name = f"file-{number:03d}{file_suffix(file.name)}"
        files[name] = file
    return files


def files_of_rows(root: Path, pattern: str, source_name: str) -> list[Path]:
    """Return the files with rows in a folder, sorted by their paths.

    Print what is left out: files that do not match the pattern, side files, unknown formats.
    """
    found = _visible_files(root)
    matching = [file for file in found if _matches(file.relative_to(root), pattern)]
    readable = [file for file in matching if file_suffix(file.name)]
    rows = [file for file in readable if file.name not in SIDE_FILES]
    _report_left_out(source_name, matching)
    if len(matching) < len(found):
        _say(
            source_name, f"left out {len(found) - len(matching)} files that do not match {pattern}"
        )
    if len(rows) < len(readable):
        names = sorted({file.name for file in readable} & set(SIDE_FILES))
        _say(source_name, f"left out {', '.join(names)}, which describe the rows beside them")
    return rows


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
