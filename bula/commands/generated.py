"""Compare generated text with files, and write it."""

from pathlib import Path

from bula.errors import UserError
from bula.files import staged


def replace_section(where: str, text: str, marks: tuple[str, str], content: str) -> str:
    """Return the text with new content between its two marks.

    A UserError names the file `where` if a mark is missing.
    """
    start, end = marks
    before, found_start, after = text.partition(start)
    _, found_end, rest = after.partition(end)
    if not (found_start and found_end):
        what = f"the line {start.strip()!r} or {end.strip()!r} is missing"
        raise UserError(where, what, "put both lines where the generated part belongs")
    return before + start + content + end + rest


def read_text(file: Path) -> str:
    """Return a text file of the repository. Raise UserError if it does not exist."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        fix = "run this command in the repository's root"
        raise UserError(file, "the file does not exist", fix) from error


def update(file: Path, text: str, *, command: str, write: bool) -> None:
    """Compare a file with its generated text, or write it.

    Without `write`, a UserError says that the file differs, and which command to run.
    """
    before = file.read_text(encoding="utf-8") if file.is_file() else None
    if before == text:
        print(f"{command}: {file} is up to date")
        return
    if before is None and not write:
        fix = f"run `python -m bula {command} --write` in the repository's root"
        raise UserError(file, "the file does not exist", fix)
    if not write:
        what = "it differs from the text that the code generates"
        raise UserError(file, what, f"run `python -m bula {command} --write`")
    write_text(file, text)
    print(f"{command}: {file} was written")


def write_text(file: Path, text: str) -> None:
    """Write a text file completely or not at all."""
    with staged(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
