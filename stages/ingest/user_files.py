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
        raise UserError(root, f"no {', '.join(SUFFIXES)} file is there", fix)
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
    others = [file for file in files if not _is_expected(file)]
    if others:
        note = f"left out {len(others)} files whose suffix is not {', '.join(SUFFIXES)}"
        print(f"ingest: {source_name}: {note}", file=sys.stderr)


def _is_expected(file: Path) -> bool:
    """Return whether a file's suffix is known."""
    return file.suffix.lower() in SUFFIXES or file.suffix in NO_DATA_SUFFIXES
