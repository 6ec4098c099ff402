"""Describe a file or folder of rows, and propose its source entry.

No word of a row is shown: the five rows are masked.

    python -m stages.ingest.look data/sources/clinic.csv
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from pydantic import TypeAdapter, ValidationError

from bula.errors import UserError, run_stage
from bula.escaping import terminal
from bula.param_types import RepositoryPath
from bula.params import Limits, load_params
from bula.records import Row
from bula.text import mask
from stages.ingest.csv_files import find_delimiter
from stages.ingest.encodings import find_encoding
from stages.ingest.formats import READABLE, file_suffix, read_file
from stages.ingest.headers import looks_like_data
from stages.ingest.json_files import array_text
from stages.ingest.json_forms import has_json_lines, rows_key
from stages.ingest.opening import COMPRESSIONS, plain_file
from stages.ingest.proposals import (
    SOURCE_NAME,
    has_usual_name,
    lacks_answers,
    propose_columns,
    propose_filter,
    source_entry,
    to_yaml,
)
from stages.ingest.reading import ReadOptions, Refused
from stages.ingest.user_files import folder_files

# Rows that are read, rows that are shown, and files of a folder that are opened.
MOST_ROWS = 10_000
SHOWN_ROWS = 5
MOST_FILES = 20
ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")
NAMES_NOTE = "`names: present` needs a model in privacy.names, or `names_waiver: true`"
DELIMITER_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}


class Look(NamedTuple):
    """The form of a file and its first rows."""

    suffix: str
    form: str
    compression: str
    options: ReadOptions
    sheets: list[str]
    columns: list[str]
    rows: list[Row]
    """The rows that were read, at most MOST_ROWS."""
    refused: list[str]
    """Line and reason of each row that could not be read."""
    has_more: bool
    """Whether the file has more rows than were read."""


def look_at(path: Path, limits: Limits) -> Look:
    """Return the form of a file and its first rows.

    Raise UserError if it cannot be read.
    """
    suffix = file_suffix(path.name)
    if not suffix:
        fix = "unpack it" if path.suffix.lower() in ARCHIVES else "convert the file"
        raise UserError(path, f"only {READABLE} can be read", fix)
    options = ReadOptions(SOURCE_NAME, path.name, "utf-8", [], limits)
    options, form, sheets = _find_form(path, suffix, options)
    if len(sheets) > 1:
        options = options._replace(sheet=_first_sheet_with_rows(path, sheets, options))
    rows, refused, has_more = _read_rows(path, options)
    compression = next((name for name in COMPRESSIONS if suffix.endswith(name)), "")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    _check_names(columns, form, options)
    _check_form(columns, rows, options)
    return Look(suffix, form, compression, options, sheets, columns, rows, refused, has_more)


def _check_names(columns: list[str], form: str, options: ReadOptions) -> None:
    """Raise UserError if the names of the columns look like a row of data.

    In a file without a header the first line is a patient's row, so it is masked.
    """
    if has_usual_name(columns) or not any(looks_like_data(name) for name in columns):
        return
    shape = mask(", ".join(columns))
    if form.startswith("JSON"):
        what = f"no key of its rows has a usual name, and some look like data (masked: {shape!r})"
        raise options.error(what, "name two keys of each row pergunta and resposta")
    what = f"the names of its columns look like a row of data (masked: {shape!r})"
    raise options.error(what, "put a line with names first, such as pergunta and resposta")


def _check_form(columns: list[str], rows: list[Row], options: ReadOptions) -> None:
    """Raise UserError if question and answer cannot be columns of the rows."""
    proposed, _ = propose_columns(columns, rows)
    if "messages" in proposed:
        return
    parts = list(rows[0].values()) if len(rows) == 1 else []
    if len(parts) > 1 and all(isinstance(part, dict | list) for part in parts):
        what = "it is one object with objects or lists, and not a list of rows"
        raise options.error(what, "save it as JSON Lines, with one object for each row")
    if proposed["question"] == proposed["answer"]:
        what = "it has one column, and question and answer need one each"
        raise options.error(what, "start the file with the names of all columns")
    if lacks_answers(columns, rows, proposed):
        what = f"it has questions ({proposed['question']}), and no column with answers"
        fix = "add the answers, or name their column resposta if each is a single word"
        raise options.error(what, fix)


def _find_form(path: Path, suffix: str, options: ReadOptions) -> tuple[ReadOptions, str, list[str]]:
    """Return how a file is read, its form in words, and its sheets."""
    if suffix == ".parquet":
        from stages.ingest.parquet_files import column_names

        return options._replace(columns=column_names(path)), "Parquet", []
    if suffix == ".xlsx":
        from stages.ingest.excel_files import sheet_names

        return options, "Excel", sheet_names(path)
    encoding = find_encoding(path, options)
    if not encoding:
        what = "no encoding was found under which its accented letters are those of Portuguese"
        raise options.error(what, "save it as UTF-8")
    options = options._replace(encoding=encoding)
    with plain_file(path, options) as (plain, plain_options):
        key, form = _text_form(plain, suffix, plain_options)
    return options._replace(rows=key), form, []


def _first_sheet_with_rows(path: Path, sheets: list[str], options: ReadOptions) -> str:
    """Return the first sheet that has a row below its header."""
    for name in sheets:
        rows = read_file(path, options._replace(sheet=name))
        if any(not isinstance(row, Refused) for _, row in rows):
            return name
    return sheets[0]


def _text_form(path: Path, suffix: str, options: ReadOptions) -> tuple[str, str]:
    """Return the key above the rows of a file, and its form."""
    if suffix.startswith((".csv", ".tsv")):
        return "", f"CSV ({DELIMITER_NAMES.get(find_delimiter(path, options), 'other delimiter')})"
    is_named_array = suffix.split(".")[1] == "json"
    has_lines = has_json_lines(path, is_named_array, options)
    key = ""
    if not has_lines or _has_one_line(path):
        key = rows_key(array_text(path, options), [])
    if key:
        return key, "JSON, with the rows below a key"
    return "", "JSON Lines" if has_lines else "JSON array"


def _has_one_line(path: Path) -> bool:
    """Return whether a file has a single line."""
    with path.open("rb") as file:
        return len(list(islice(file, 2))) == 1


def _read_rows(path: Path, options: ReadOptions) -> tuple[list[Row], list[str], bool]:
    """Return the first rows, the refusals, and whether more rows follow."""
    rows: list[Row] = []
    refused: list[str] = []
    for count, (line, row) in enumerate(read_file(path, options)):
        if count == MOST_ROWS:
            return rows, refused, True
        if not isinstance(row, Refused):
            rows.append(row)
        elif line == 0:
            raise options.error(f"the file cannot be read: {row.reason}", "repair the file")
        else:
            refused.append(f"line {line}: {row.reason}")
    if not rows:
        what = f"it has no row that can be read; {refused[0] if refused else 'it is empty'}"
        raise options.error(what, "repair the file")
    return rows, refused, False


def describe(look: Look) -> Iterator[str]:
    """Yield the lines that describe a file."""
    yield f"form: {look.form}"
    yield f"compression: {look.compression.removeprefix('.') or 'none'}"
    if look.suffix not in (".parquet", ".xlsx"):
        yield f"encoding: {look.options.encoding}"
    if look.options.rows:
        yield f"rows below the key: {look.options.rows}"
    if look.sheets:
        yield f"sheets: {', '.join(look.sheets)}"
    yield f"columns: {', '.join(map(_quote, look.columns))}"
    more = f", and the file has more than {MOST_ROWS} rows" if look.has_more else ""
    yield f"rows: {len(look.rows)} read{more}"
    if look.refused:
        yield f"unreadable rows: {len(look.refused)}, the first is {look.refused[0]}"
    for number, row in enumerate(look.rows[:SHOWN_ROWS], start=1):
        yield f"row {number}, masked:"
        for name in look.columns:
            yield f"  {_quote(name)}: {mask(row.get(name))}"


def _quote(name: str) -> str:
    """Return a name, in quotes if it has outer spaces or line feeds."""
    return name if name == " ".join(name.split()) else repr(name)


def look_at_folder(root: Path, limits: Limits) -> tuple[Look, str, list[str]]:
    """Return the most frequent form in a folder, its pattern, and notes.

    The pattern is empty if all files have this form.
    """
    files = list(folder_files(root, "").values())
    if not files:
        raise UserError(root, f"no {READABLE}, is there", "name another folder")
    groups: dict[tuple[str, tuple[str, ...]], list[Look]] = {}
    notes = [f"files: {len(files)}, of which {min(len(files), MOST_FILES)} were opened"]
    for file in files[:MOST_FILES]:
        try:
            look = look_at(file, limits)
        except UserError as error:
            notes.append(f"  not readable: {error}")
            continue
        groups.setdefault((look.suffix, tuple(sorted(look.columns))), []).append(look)
    if not groups:
        raise UserError(root, "\n".join(["no file can be read", *notes]), "repair the files")
    for (suffix, columns), looks in groups.items():
        notes.append(f"  {len(looks)} files {suffix} with the columns {', '.join(columns)}")
    chosen, looks = max(groups.items(), key=lambda group: len(group[1]))
    if len(groups) == 1:
        return looks[0], "", notes
    if sum(suffix == chosen[0] for suffix, _ in groups) > 1:
        notes.append(
            "files of one suffix have different columns: put them into folders of their own"
        )
    return looks[0], f"*{chosen[0]}", notes


def place_in_sources(path: Path) -> tuple[str, list[str]]:
    """Return the path for params.yaml, and a note if it needs a copy."""
    resolved = path.resolve()
    root = Path().resolve()
    notes = []
    place = f"data/sources/{resolved.name}"
    if resolved.is_relative_to(root / "data/sources"):
        place = resolved.relative_to(root).as_posix()
    else:
        notes.append("DVC watches data/sources only: copy the data there first")
    try:
        TypeAdapter(RepositoryPath).validate_python(place)
    except ValidationError as error:
        notes.append(f"rename it: {error.errors()[0]['msg'].removeprefix('Value error, ')}")
    return place, notes


def _report(path: Path, look: Look, pattern: str) -> Iterator[str]:
    """Yield the description of a file, and the entry for params.yaml."""
    yield from describe(look)
    place, notes = place_in_sources(path)
    columns, doubts = propose_columns(look.columns, look.rows)
    options = look.options
    fields: Row = {"pattern": pattern, "rows": options.rows, "sheet": options.sheet}
    fields["filter"] = propose_filter(look.rows)
    yield from (f"note: {note}" for note in [*notes, *doubts, NAMES_NOTE])
    yield "entry for ingest.sources in params.yaml (check names, license and redistribution):"
    yield to_yaml(source_entry(place, columns, options.encoding, fields)).rstrip("\n")


def main(path: Annotated[Path, typer.Argument(help="File or folder with rows.")]) -> None:
    """Describe a file or folder of rows, and propose its entry in params.yaml."""
    if not path.exists():
        raise UserError(path, "it does not exist", "name a file or a folder")
    limits = load_params().ingest.limits
    try:
        if path.is_dir():
            look, pattern, notes = look_at_folder(path, limits)
        else:
            look, pattern, notes = look_at(path, limits), "", []
    except OSError as error:
        what = f"it cannot be read ({error.strerror or type(error).__name__})"
        raise UserError(path, what, "check the disk and the permissions") from error
    for note in notes:
        print(terminal(note))
    for line in _report(path, look, pattern):
        print(terminal(line, lines=True))


if __name__ == "__main__":
    run_stage(main, less_memory="lower ingest.limits.unpacked_bytes")
