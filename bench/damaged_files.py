"""Draw damaged files, run them through ingest and preprocess, and check what survives."""

import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy
import pandas
from hypothesis import strategies as st

from bench.clones import ROOT
from bula.errors import UserError
from bula.params import FilesSource, Params, load_params
from stages.ingest.__main__ import ingest_source
from stages.preprocess.__main__ import preprocess
from stages.preprocess.report import quarantine_rows
from stages.preprocess.table import rows_at

COLUMNS = {"question": "pergunta", "answer": "resposta", "specialty": "", "kind": ""}


DEMO = [
    json.loads(line)
    for line in (ROOT / "data/demo/train.jsonl").read_text(encoding="utf-8").splitlines()
]


# Texts that Latin-1 can hold, so that every encoding can be tried on every row.
PAIRS = [
    (row["question"], row["answer"])
    for row in DEMO
    if not any(ord(c) > 255 for c in row["question"] + row["answer"])
]


# What people's files hold and parsers trip over.
QUIRKS = ["{}", 'Ele disse: "{}"', "{}\nE depois?", "{};;", "{} \\", ",{}", "'{}'", "{}\t"]


DEEP = "[" * 20_000 + "]" * 20_000


Record = tuple[str, str]


def encode_record(record: dict[str, Any], form: str, encoding: str) -> bytes:
    """One record's bytes, without what separates it from the next."""
    if form in ("jsonl", "json"):
        return json.dumps(record, ensure_ascii=False, indent=1 if form == "json" else None).encode(
            encoding
        )
    text = io.StringIO()
    csv.writer(text, delimiter=";" if form == "semicolon" else ",", lineterminator="\n").writerow(
        record.values()
    )
    return text.getvalue().removesuffix("\n").encode(encoding)


def assemble(records: list[bytes], form: str, bom: bool) -> tuple[bytes, list[int]]:
    """A file of records, and where each of them ends."""
    content = b"\xef\xbb\xbf" if bom else b""
    content += {
        "jsonl": b"",
        "json": b"[\n",
        "comma": b"pergunta,resposta\n",
        "semicolon": b"pergunta;resposta\n",
    }[form]
    ends = []
    for number, record in enumerate(records):
        content += (b",\n" if form == "json" and number else b"") + record
        ends.append(len(content))
        content += b"" if form == "json" else b"\n"
    return content + (b"\n]\n" if form == "json" else b""), ends


def bad_record(draw: st.DrawFn, good: bytes, form: str, encoding: str) -> bytes:
    """A record that is damaged, or no record at all."""
    wrong = {
        "flip": lambda: flip(draw, good),
        "cut": lambda: good[: draw(st.integers(1, max(1, len(good) - 2)))].replace(b"\n", b" "),
        "binary": lambda: (
            draw(st.binary(min_size=1, max_size=60)).replace(b"\n", b"") + b"\x00\xff"
        ),
        "encoding": lambda: encode_record(
            dict(
                zip(
                    ("pergunta", "resposta"),
                    ("Não dói à noite, está só coçando?", "É bom ir já."),
                    strict=True,
                )
            ),
            form,
            "utf-16-le",
        ),
        "huge": lambda: encode_record(
            {"pergunta": "Dói?", "resposta": "dor " * draw(st.sampled_from([300_000, 2_700_000]))},
            form,
            encoding,
        ),
    }
    if form in ("jsonl", "json"):
        values: list[Any] = [
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
        value = draw(st.sampled_from(values))
        name = draw(st.sampled_from(["pergunta", "resposta"]))
        wrong |= {
            "type": lambda: json.dumps(
                {"pergunta": "Dói muito aqui?", "resposta": "Procure o posto de saúde."}
                | {name: value}
            ).encode(),
            "missing": lambda: b'{"pergunta": "Sem resposta nenhuma?"}',
            "deep": lambda: b'{"pergunta": ' + DEEP.encode() + b', "resposta": 1}',
            "number": lambda: b'{"pergunta": NaN, "resposta": ' + b"9" * 5000 + b"}",
        }
    else:
        wrong |= {
            "quote": lambda: b'Uma aspa "perdida, e mais',
            "open": lambda: b'"Uma aspa que nunca fecha',
            "fields": lambda: b"a,b,c;d;e,f",
        }
    return wrong[draw(st.sampled_from(sorted(wrong)))]()


def flip(draw: st.DrawFn, good: bytes) -> bytes:
    """Some bytes changed; line feeds stay where they were, and none is added."""
    changed = bytearray(good)
    for _ in range(draw(st.integers(1, 5))):
        place, value = draw(st.integers(0, len(good) - 1)), draw(st.integers(0, 255))
        if changed[place] != 10 and value not in (10, 13):
            changed[place] = value
    return bytes(changed)


@st.composite
def damaged_files(draw: st.DrawFn) -> tuple[str, str, bytes, list[Record], int]:
    """Suffix, encoding, bytes, the pairs that nothing happened to, and how many records were damaged."""
    form = draw(st.sampled_from(["jsonl", "json", "comma", "semicolon", "parquet"]))
    encoding = draw(st.sampled_from(["utf-8", "latin-1"])) if form != "parquet" else "utf-8"
    chosen = draw(st.lists(st.integers(0, len(PAIRS) - 1), min_size=2, max_size=6, unique=True))
    quirky = [
        [draw(st.sampled_from(QUIRKS)).format(text) for text in PAIRS[index]] for index in chosen
    ]
    pairs: list[Record] = [(question, answer) for question, answer in quirky]
    rows = [dict(zip(("pergunta", "resposta"), pair, strict=True)) for pair in pairs]
    if form == "parquet":
        return damage_parquet(draw, rows)
    suffix = {"comma": "csv", "semicolon": "csv"}.get(form, form)
    # Damage is done to a pair of its own: a damaged copy of a good pair would be its near-duplicate.
    *records, spare = (encode_record(row, form, encoding) for row in rows)
    pairs.pop()
    bom = encoding == "utf-8" and draw(st.booleans())
    if draw(st.booleans()):
        whole, ends = assemble([*records, spare], form, bom)
        cut = draw(st.integers(ends[0], len(whole) - 1))
        # Between two records nothing is damaged, but for an array, which must be closed.
        damaged = (
            cut < ends[-1] + 2 if form == "json" else not any(end <= cut <= end + 1 for end in ends)
        )
        return (
            suffix,
            encoding,
            whole[:cut],
            [pair for pair, end in zip(pairs, ends, strict=False) if end <= cut],
            int(damaged),
        )
    at = sorted(draw(st.lists(st.integers(0, len(records)), min_size=1, max_size=3)), reverse=True)
    for place in at:
        records.insert(place, bad_record(draw, spare, form, encoding))
    return suffix, encoding, assemble(records, form, bom)[0], list(pairs), len(at)


def damage_parquet(
    draw: st.DrawFn, rows: list[dict[str, str]]
) -> tuple[str, str, bytes, list[Record], int]:
    """A Parquet file with bytes changed or cut off: what survives cannot be told beforehand, so no pair is promised."""
    buffer = io.BytesIO()
    pandas.DataFrame(rows).to_parquet(buffer, row_group_size=2)
    raw = buffer.getvalue()
    damaged = raw[: draw(st.integers(0, len(raw) - 1))] if draw(st.booleans()) else flip(draw, raw)
    return "parquet", "utf-8", damaged, [], 0 if damaged == raw else 1


def survivors(
    content: bytes, suffix: str, encoding: str, params: Params, base: Path, folder: Path
) -> tuple[set[str], list[dict[str, Any]], str]:
    """Run both stages on one file: the questions kept (as words), the quarantine, and the message if a stage ended early."""
    (folder / "raw").mkdir()
    file = folder / f"file.{suffix}"
    file.write_bytes(content)
    common: dict[str, object] = {
        "kind": "files",
        "name": "mine",
        "path": "p",
        "columns": COLUMNS,
        "encoding": encoding,
        "license": "cc0-1.0",
    }
    common |= {
        "license": "cc0-1.0",
        "names": "removed",
        "redistribution": "allowed",
        "filter": {},
        "limit": 0,
        "role": "train",
    }
    source = FilesSource.model_validate(common).model_copy(update={"path": str(file)})
    try:
        ingest_source(
            source, folder / "raw", params.ingest.model_copy(update={"unreadable_share": 1.0})
        )
    except UserError as error:
        return set(), [], str(error)
    only = params.model_copy(
        update={"ingest": params.ingest.model_copy(update={"sources": [source]})}
    )
    table, decision, _, parts = preprocess(folder / "raw", [], base, folder, only)
    kept = rows_at(table, folder, numpy.flatnonzero(decision.alive))
    return (
        {"".join(row["example"]["question"].split()) for row in kept},
        list(quarantine_rows(table, decision, folder, parts)),
        "",
    )


def check(case: tuple[str, str, bytes, list[Record], int], base: Path) -> tuple[int, int]:
    """The property; gives good rows kept and good rows promised."""
    suffix, encoding, content, promised, damaged = case
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    with tempfile.TemporaryDirectory() as name:
        kept, quarantine, message = survivors(content, suffix, encoding, params, base, Path(name))
    expected = {"".join(question.split()) for question, _ in promised}
    assert expected <= kept, (expected - kept, message, quarantine)
    assert all(
        row["reason"] and row["file"] == f"file-001.{suffix}" and row["line"] >= 0
        for row in quarantine
    )
    # What is neither kept nor refused was lost in silence. In JSON Lines each damaged record is told apart; in the other forms
    # neighbours may be refused as one.
    least = damaged if suffix == "jsonl" else min(damaged, 1)
    assert message or len(kept) + len(quarantine) >= len(expected) + least, (kept, quarantine)
    if message:
        assert any(
            why in message for why in ("no row could be used", "cannot be read: ", "no column")
        )
        assert not expected
    return len(expected & kept), len(expected)
