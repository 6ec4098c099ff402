"""List a user's files under neutral names.

A file's name may be a patient's name, and quarantine, metrics and logs are shared.
"""

import re
import sys
from pathlib import Path

from bula.errors import UserError
from bula.params import FilesSource
from stages.ingest.formats import READABLE, file_suffix
from stages.ingest.json_forms import is_description
from stages.ingest.mapping import wanted_columns

SOURCES = Path("data/sources")
CACHED_FILE = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}(\.dir)?$")
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
    if not root.is_dir():
        refuse_links(root)
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
    refuse_links(root)
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
    if not pattern:
        _refuse_side_files_alone(root, found, files)
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


def refuse_links(root: Path) -> None:
    """Raise UserError if a symbolic link leaves the folder of the sources.

    DVC does not watch the other end of such a link. The links of DVC's own cache are welcome. A
    link to a folder is not followed, so the rows behind it would be missing.
    """
    paths = [root, *sorted(root.rglob("*"))] if root.is_dir() else [root]
    for path in paths:
        reason = _link_reason(path, root) if path.is_symlink() else ""
        if reason:
            raise UserError(path, reason, "copy the data there in place of the link")


def _link_reason(path: Path, root: Path) -> str:
    """Return why a symbolic link is refused, or an empty text."""
    target = path.resolve()
    is_hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    # A file in DVC's cache has the name of its content: files/md5/ab/cdef...
    if is_hidden or CACHED_FILE.search(target.as_posix()):
        return ""
    if target.is_dir() and path != root:
        return "it is a symbolic link to a folder, which is not followed"
    if not target.is_dir() and not file_suffix(path.name):
        return ""
    if not target.exists():
        return "it is a symbolic link to a file that does not exist"
    if not target.is_relative_to(_sources_folder(root)):
        return "it is a symbolic link that leaves the folder of the sources"
    return ""


def _sources_folder(root: Path) -> Path:
    """Return the folder that links may not leave: data/sources, or else the folder itself."""
    if root.absolute().is_relative_to(SOURCES.absolute()):
        return SOURCES.resolve()
    folder = root.parent if root.is_symlink() or root.is_file() else root
    return folder.resolve()


def _refuse_side_files_alone(root: Path, found: list[Path], files: dict[str, Path]) -> None:
    """Raise UserError if only Arrow files have the rows of a folder."""
    has_arrow = any(file.suffix == ".arrow" for file in found)
    if has_arrow and all(file.name in SIDE_FILES for file in files.values()):
        what = "its rows are in .arrow files, as save_to_disk of datasets writes them"
        fix = "write the data set with to_parquet or to_json"
        raise UserError(root, what, fix)


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
