"""List a user's files under neutral names.

A file's name may be a patient's name, and quarantine, metrics and logs are shared.
"""

import sys
from pathlib import Path

from bula.errors import UserError
from bula.params import FilesSource
from stages.ingest.formats import SUFFIXES

# Suffixes of files without rows, which a folder that DVC tracks contains beside the data.
NO_DATA_SUFFIXES = ("", ".dvc", ".md")


def data_files(source: FilesSource) -> dict[str, Path]:
    """Return the files of a source by neutral names.

    The names follow the order of the paths: file-001.csv is the first file.
    """
    root = Path(source.path)
    fix = f"correct `path` of source {source.name} in params.yaml"
    if not root.exists():
        raise UserError(root, "it does not exist", fix)
    found = _visible_files(root) if root.is_dir() else [root]
    readable = [file for file in found if file.suffix.lower() in SUFFIXES]
    if not readable:
        suffixes = ", ".join(SUFFIXES)
        raise UserError(root, f"no {suffixes} file is there", fix)
    _report_left_out(source.name, found)
    files: dict[str, Path] = {}
    for number, file in enumerate(readable, start=1):
        name = f"file-{number:03d}{file.suffix.lower()}"
        files[name] = file
    return files


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
        is_read = file.suffix.lower() in SUFFIXES
        if not is_read and file.suffix not in NO_DATA_SUFFIXES:
            others += 1
    if others:
        suffixes = ", ".join(SUFFIXES)
        note = f"left out {others} files whose suffix is not {suffixes}"
        print(f"ingest: {source_name}: {note}", file=sys.stderr)
