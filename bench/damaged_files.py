"""Draw damaged files for tests and benchmarks."""

import bz2
import csv
import gzip
import io
import json
import re
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pandas
from backports import zstd
from hypothesis import strategies as st
from openpyxl import Workbook

from bench.clones import ROOT
from bula.records import read_rows

FORMS = [
    "jsonl",
    "lines-named-json",
    "json",
    "one-line-json",
    "below-key",
    "comma",
    "semicolon",
    "sep-line",
    "parquet",
    "xlsx",
]
JSON_FORMS = ("jsonl", "lines-named-json", "json", "one-line-json", "below-key")
DELIMITERS = {"comma": ",", "semicolon": ";", "sep-line": ";"}
SUFFIXES = {
    "jsonl": "jsonl",
    "lines-named-json": "json",
    "json": "json",
    "one-line-json": "json",
    "below-key": "json",
    "comma": "csv",
    "semicolon": "csv",
    "sep-line": "csv",
}
STARTS = {
    "jsonl": b"",
    "lines-named-json": b"",
    "json": b"[\n",
    "one-line-json": b"[",
    "below-key": b'{"info": {"a": [1, {}]}, "dados": [\n',
    "comma": b"pergunta,resposta\n",
    "semicolon": b"pergunta;resposta\n",
    "sep-line": b"sep=;\r\npergunta;resposta\n",
}
# What separates the objects of an array, and what closes it.
ARRAYS = {
    "json": (b",\n", b"\n]"),
    "one-line-json": (b", ", b"]"),
    "below-key": (b",\n", b"\n]}"),
}
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gz": partial(gzip.compress, mtime=0),
    "bz2": bz2.compress,
    "zst": zstd.compress,
}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Texts that people's files contain and that confuse parsers.
QUIRKS = ["{}", 'Ele disse: "{}"', "{}\nE depois?", "{};;", "{} \\", ",{}", "'{}'", "{}\t"]
DEEP = b"[" * 20_000 + b"]" * 20_000
# Kinds of damage that change or make up a record.
DRAWN_DAMAGE = ["binary", "cut", "encoding", "flip", "huge"]
# Damaged records that are always the same.
JSON_DAMAGE = {
    "deep": b'{"pergunta": ' + DEEP + b', "resposta": 1}',
    "missing": b'{"pergunta": "Sem resposta nenhuma?"}',
    "number": b'{"pergunta": NaN, "resposta": ' + b"9" * 5000 + b"}",
}
CSV_DAMAGE = {
    "fields": b"a,b,c;d;e,f",
    "open": b'"Uma aspa que nunca fecha',
    "quote": b'Uma aspa "perdida, e mais',
}
# Values that are no question and no answer.
WRONG_VALUES: list[Any] = [
    None,
    5,
    True,
    [],
    {},
    [[None, {"a": None}]],
    {"a": [None]},
    "",
    "  ",
    "\ud83d",
]
# Lengths of a long answer, in words. Both exceed the limit of a row (1 MB).
HUGE_WORDS = [300_000, 2_700_000]
LINE_FEED = 10
TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
CARRIAGE_RETURN = 13

Record = tuple[str, str]


class Case(NamedTuple):
    """A damaged file, and what must survive of it."""

    suffix: str
    encoding: str
    content: bytes
    promised: list[Record]
    """Question-answer pairs that were not damaged."""
    damaged: int
    """Number of damaged records."""
    rows: str = ""
    """Key below which the file has its rows."""


class GoodFile(NamedTuple):
    """The parts of a file before it is damaged."""

    form: str
    encoding: str
    has_byte_order_mark: bool
    pairs: list[Record]
    records: list[bytes]
    """The encoded pairs."""
    spare: bytes
    """One more record. A damaged copy of a good record would be its near-duplicate."""


def fits_latin_1(text: str) -> bool:
    """Return whether Latin-1 can encode a text."""
    return all(ord(character) < 256 for character in text)


def load_pairs() -> list[Record]:
    """Return the demo corpus's pairs that every encoding can encode."""
    pairs = []
    for row in read_rows(ROOT / "data/demo/train.jsonl"):
        question = row["question"]
        answer = row["answer"]
        if fits_latin_1(question + answer):
            pairs.append((question, answer))
    return pairs


PAIRS = load_pairs()


@st.composite
def damaged_files(draw: st.DrawFn) -> Case:
    """Draw a damaged file of two to six records."""
    form = draw(st.sampled_from(FORMS))
    chosen = draw(st.lists(st.integers(0, len(PAIRS) - 1), min_size=2, max_size=6, unique=True))
    pairs = [add_quirks(draw, PAIRS[index]) for index in chosen]
    if form == "parquet":
        return damage_table(draw, "parquet", parquet_file(pairs))
    if form == "xlsx":
        return damage_table(draw, "xlsx", excel_file(pairs))
    encoding = draw(st.sampled_from(["utf-8", "latin-1", "cp850"]))
    *records, spare = (encode_record(to_row(pair), form, encoding) for pair in pairs)
    file = GoodFile(
        form=form,
        encoding=encoding,
        has_byte_order_mark=encoding == "utf-8" and draw(st.booleans()),
        pairs=pairs[:-1],
        records=records,
        spare=spare,
    )
    case = cut_file(draw, file) if draw(st.booleans()) else insert_damage(draw, file)
    return compress(draw, case) if draw(st.integers(0, 3)) == 0 else case


def compress(draw: st.DrawFn, case: Case) -> Case:
    """Compress a file, and sometimes damage the compressed bytes.

    Damage refuses the complete file, so a damaged file promises no pair.
    """
    name = draw(st.sampled_from(sorted(COMPRESSORS)))
    content = COMPRESSORS[name](case.content)
    case = case._replace(suffix=f"{case.suffix}.{name}", content=content)
    if draw(st.booleans()):
        return case
    return case._replace(content=damage_bytes(draw, content), promised=[])


def add_quirks(draw: st.DrawFn, pair: Record) -> Record:
    """Return a pair whose texts are hard to parse."""
    question, answer = (draw(st.sampled_from(QUIRKS)).format(text) for text in pair)
    return question, answer


def to_row(pair: Record) -> dict[str, Any]:
    """Return a pair under the column names of these files."""
    question, answer = pair
    return {"pergunta": question, "resposta": answer}


def encode_record(row: dict[str, Any], form: str, encoding: str) -> bytes:
    """Return the bytes of one record without a separator."""
    if form in JSON_FORMS:
        indent = 1 if form in ("json", "below-key") else None
        return json.dumps(row, ensure_ascii=False, indent=indent).encode(encoding)
    text = io.StringIO()
    writer = csv.writer(text, delimiter=DELIMITERS[form], lineterminator="\n")
    writer.writerow(row.values())
    return text.getvalue().removesuffix("\n").encode(encoding)


def assemble(file: GoodFile, records: list[bytes]) -> tuple[bytes, list[int]]:
    """Return a file of records, and where each record ends."""
    separator, end = ARRAYS.get(file.form, (b"\n", b""))
    content = BYTE_ORDER_MARK if file.has_byte_order_mark else b""
    content += STARTS[file.form]
    ends = []
    for number, record in enumerate(records):
        if number > 0:
            content += separator
        content += record
        ends.append(len(content))
    return content + end + b"\n", ends


def cut_file(draw: st.DrawFn, file: GoodFile) -> Case:
    """Cut a file off somewhere after its first record."""
    content, ends = assemble(file, [*file.records, file.spare])
    cut = draw(st.integers(ends[0], len(content) - 1))
    if file.form in ARRAYS:
        # An array must be closed.
        _, end = ARRAYS[file.form]
        damaged = cut < ends[-1] + len(end)
    else:
        # A cut between two records damages neither of them.
        damaged = not any(end <= cut <= end + 1 for end in ends)
    # The last end belongs to the spare record, which is no promise.
    complete = sum(end <= cut for end in ends[:-1])
    return make_case(file, content[:cut], file.pairs[:complete], int(damaged))


def insert_damage(draw: st.DrawFn, file: GoodFile) -> Case:
    """Insert one to three damaged records."""
    records = list(file.records)
    indices = st.integers(0, len(records))
    places = draw(st.lists(indices, min_size=1, max_size=3))
    places.sort(reverse=True)
    for place in places:
        bad_record = draw_bad_record(draw, file)
        records.insert(place, bad_record)
    content, _ = assemble(file, records)
    return make_case(file, content, file.pairs, len(places))


def make_case(file: GoodFile, content: bytes, promised: list[Record], damaged: int) -> Case:
    """Return the case of a damaged file."""
    return Case(
        suffix=SUFFIXES[file.form],
        encoding=file.encoding,
        content=content,
        promised=promised,
        damaged=damaged,
        rows="dados" if file.form == "below-key" else "",
    )


def draw_bad_record(draw: st.DrawFn, file: GoodFile) -> bytes:
    """Draw a damaged record, or bytes that are no record."""
    is_json = file.form in JSON_FORMS
    fixed = JSON_DAMAGE if is_json else CSV_DAMAGE
    kinds = [*DRAWN_DAMAGE, *fixed]
    if is_json:
        kinds.append("type")
    kind = draw(st.sampled_from(sorted(kinds)))
    match kind:
        case "binary":
            return draw_binary(draw)
        case "cut":
            return cut_record(draw, file.spare)
        case "encoding":
            row = to_row(("Não dói à noite, está só coçando?", "É bom ir já."))
            return encode_record(row, file.form, "utf-16-le")
        case "flip":
            return flip_bytes(draw, file.spare)
        case "huge":
            row = to_row(("Dói?", "dor " * draw(st.sampled_from(HUGE_WORDS))))
            return encode_record(row, file.form, file.encoding)
        case "type":
            return draw_wrong_type(draw)
    return fixed[kind]


def draw_binary(draw: st.DrawFn) -> bytes:
    """Draw bytes that are no text, without a line feed."""
    content = draw(st.binary(min_size=1, max_size=60))
    return content.replace(b"\n", b"") + b"\x00\xff"


def cut_record(draw: st.DrawFn, record: bytes) -> bytes:
    """Return the start of a record on one line."""
    size = draw(st.integers(1, max(1, len(record) - 2)))
    return record[:size].replace(b"\n", b" ")


def flip_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Return content with one to five changed bytes.

    Line feeds are neither changed nor added, so that the number of lines is known.
    """
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 5))):
        place = draw(st.integers(0, len(content) - 1))
        value = draw(st.integers(0, 255))
        if changed[place] != LINE_FEED and value not in (LINE_FEED, CARRIAGE_RETURN):
            changed[place] = value
    return bytes(changed)


def draw_wrong_type(draw: st.DrawFn) -> bytes:
    """Draw a JSON object with a value of a wrong type."""
    row = to_row(("Dói muito aqui?", "Procure o posto de saúde."))
    value = draw(st.sampled_from(WRONG_VALUES))
    name = draw(st.sampled_from(list(row)))
    row[name] = value
    return json.dumps(row).encode()


def parquet_file(pairs: list[Record]) -> bytes:
    """Return a Parquet file of pairs."""
    buffer = io.BytesIO()
    frame = pandas.DataFrame([to_row(pair) for pair in pairs])
    frame.to_parquet(buffer, row_group_size=2)
    return buffer.getvalue()


def excel_file(pairs: list[Record]) -> bytes:
    """Return an Excel file of pairs."""
    buffer = io.BytesIO()
    book = Workbook(write_only=True)
    sheet = book.create_sheet("Dados")
    sheet.append(["pergunta", "resposta"])
    for pair in pairs:
        sheet.append(pair)
    book.save(buffer)
    return without_times(buffer)


def without_times(content: io.BytesIO) -> bytes:
    """Return an Excel file whose bytes do not depend on the time of writing.

    A strategy must draw the same file from the same choices.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            member = TIME.sub(b"2026-01-01T00:00:00Z", old.read(name))
            new.writestr(zipfile.ZipInfo(name), member, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def damage_table(draw: st.DrawFn, suffix: str, content: bytes) -> Case:
    """Change or cut off bytes of a binary file.

    Nobody knows beforehand which rows survive, so the case promises no pair.
    """
    damaged = damage_bytes(draw, content)
    return Case(suffix, "utf-8", damaged, [], int(damaged != content))


def damage_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Change or cut off bytes."""
    if draw(st.booleans()):
        size = draw(st.integers(0, len(content) - 1))
        return content[:size]
    return flip_bytes(draw, content)
