import functools
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas
import pytest

from bench.clones import ROOT, edit_params
from bula.errors import UserError
from bula.params import Columns, DemoSource, FilesSource, HubSource, Ingest, UrlSource, load_params
from bula.records import Row, read_rows
from stages.ingest import __main__ as ingest
from stages.ingest import sources
from tests.conftest import leftovers, run, write_jsonl

SETTINGS = load_params(ROOT / "profiles/smollm2-135m.yaml").ingest
LIMITS = SETTINGS.limits
COLUMNS = Columns(question="pergunta", answer="resposta", specialty="area", kind="")
PAIR = {"pergunta": "O que é febre?", "resposta": "É a subida da temperatura.", "area": "clínica"}


def source(path: Path, encoding: str = "utf-8", **changes: object) -> FilesSource:
    fields = {
        "kind": "files",
        "name": "mine",
        "path": "p",
        "columns": COLUMNS,
        "encoding": encoding,
        "license": "cc0-1.0",
    }
    fields |= {
        "names": "removed",
        "redistribution": "allowed",
        "filter": {},
        "limit": 0,
        "role": "split",
    }
    # params.yaml may not name an absolute path; a test's files have no other.
    return FilesSource.model_validate(fields | changes).model_copy(update={"path": str(path)})


def allowing(share: float) -> Ingest:
    """The settings that let this share of a source's rows be unreadable."""
    return SETTINGS.model_copy(update={"unreadable_share": share})


def rows_of(path: Path, encoding: str = "utf-8", **changes: object) -> list[Row]:
    """Every row of a file or folder, read as a source."""
    return list(sources.read_files(source(path, encoding, **changes), LIMITS))


EXPECTED = {
    "question": "O que é febre?",
    "answer": "É a subida da temperatura.",
    "specialty": "clínica",
}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_each_file_format_gives_the_same_mapped_rows(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"pairs{suffix}"
    frame = pandas.DataFrame([PAIR])
    if suffix == ".parquet":
        frame.to_parquet(file)
    elif suffix == ".json":
        file.write_text(json.dumps([PAIR], ensure_ascii=False), encoding="utf-8")
    elif suffix == ".jsonl":
        write_jsonl(file, [PAIR])
    else:
        frame.to_csv(file, index=False, sep="," if suffix == ".csv" else "\t")
    rows = rows_of(file)
    line = {".csv": 2, ".tsv": 2}.get(suffix, 1)
    assert rows == [EXPECTED | {"file": f"file-001{suffix}", "line": line}]


HARD = 'Dói "muito"; e\nà noite, também?'


@pytest.mark.parametrize(
    ("delimiter", "encoding"), [(",", "utf-8"), (";", "utf-8"), (";", "latin-1"), ("\t", "cp1252")]
)
def test_csv_with_quotes_newlines_and_any_delimiter(
    delimiter: str, encoding: str, tmp_path: Path
) -> None:
    file = tmp_path / "pairs.csv"
    frame = pandas.DataFrame([PAIR | {"pergunta": HARD}, PAIR])
    frame.to_csv(file, index=False, sep=delimiter, encoding=encoding)
    rows = rows_of(file, encoding)
    # The second record starts on line 4: the first holds a line feed.
    assert [(row["question"], row["line"]) for row in rows] == [(HARD, 2), (PAIR["pergunta"], 4)]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"pairs{suffix}"
    text = {
        ".csv": "pergunta,resposta,area\nO que é febre?,É a subida da temperatura.,clínica\n"
    }.get(suffix, json.dumps(PAIR))
    file.write_text(f"[{text}]" if suffix == ".json" else text, encoding="utf-8-sig")
    assert rows_of(file)[0]["question"] == "O que é febre?"


def refused(file: Path, **changes: str) -> list[tuple[int, str]]:
    """Line and reason of every row that could not be read."""
    return [(row["line"], row["refused"]) for row in rows_of(file, **changes) if "refused" in row]


def test_what_cannot_be_read_names_line_and_reason_and_costs_no_other_row(tmp_path: Path) -> None:
    good = json.dumps(PAIR, ensure_ascii=False).encode()
    lines = [
        good,
        b"{broken",
        good,
        b"\xff\xfe\xfa",
        b"[1]",
        b'{"pergunta": "so isto"}',
        b'{"pergunta": ["a"], "resposta": "b", "area": ""}',
        good,
    ]
    (tmp_path / "pairs.jsonl").write_bytes(b"\n".join(lines))
    assert refused(tmp_path / "pairs.jsonl") == [
        (2, "not JSON (Expecting property name enclosed in double quotes)"),
        (4, "not utf-8 (byte 1 of the line)"),
        (5, "a JSON object is expected, found list"),
        (6, "no column resposta"),
        (7, "pergunta is no text but a list"),
    ]
    assert sum("question" in row for row in rows_of(tmp_path / "pairs.jsonl")) == 3


def test_a_stray_quote_in_csv_costs_its_own_row_alone(tmp_path: Path) -> None:
    text = 'pergunta;resposta;area\na;b;c\numa "aspa;solta;x\n"d;\ne";f;g\nh;i\nj;k;l\n'
    (tmp_path / "pairs.csv").write_text(text, encoding="utf-8")
    rows = rows_of(tmp_path / "pairs.csv")
    assert [row["question"] for row in rows if "question" in row] == ["a", "d;\ne", "j"]
    assert [row["line"] for row in rows if "refused" in row] == [3, 6]


def test_a_damaged_object_of_a_json_array_costs_itself_alone(tmp_path: Path) -> None:
    good = json.dumps(PAIR, ensure_ascii=False)
    (tmp_path / "pairs.json").write_text(
        f'[{good},\n{{"pergunta": "a, "resposta": ]}},\n{good}]', encoding="utf-8"
    )
    rows = rows_of(tmp_path / "pairs.json")
    assert [(row["line"], "question" in row) for row in rows] == [(1, True), (2, False), (3, True)]


@pytest.mark.parametrize("end", ["", ",", ",\n ", "\n"])
def test_an_array_that_breaks_off_between_two_objects_says_so(end: str, tmp_path: Path) -> None:
    good = json.dumps(PAIR, ensure_ascii=False)
    (tmp_path / "pairs.json").write_text(f"[{good},\n{good}{end}", encoding="utf-8")
    rows = rows_of(tmp_path / "pairs.json")
    assert [row.get("refused") for row in rows] == [None, None, "the array is never closed"]
    # Where an object broke off, that is the damage, and it counts once.
    (tmp_path / "pairs.json").write_text(f"[{good},\n{good[:-3]}", encoding="utf-8")
    assert ["refused" in row for row in rows_of(tmp_path / "pairs.json")] == [False, True]


def test_a_column_or_key_that_stands_twice_is_refused_and_never_the_last_one_taken(
    tmp_path: Path,
) -> None:
    (tmp_path / "p.csv").write_text(
        "pergunta;resposta;area;resposta\na;certa;c;errada\n", encoding="utf-8"
    )
    with pytest.raises(
        UserError,
        match=r"^source mine: file-001\.csv:1: column resposta stands there more than once\. Rename or remove",
    ):
        rows_of(tmp_path / "p.csv")
    twice = '{"pergunta": "a", "resposta": "certa", "area": "c", "resposta": "errada"}'
    good = json.dumps(PAIR, ensure_ascii=False)
    for name, text in (("p.jsonl", f"{twice}\n{good}\n"), ("p.json", f"[{twice},\n{good}]")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        rows = rows_of(tmp_path / name)
        assert [row.get("refused") for row in rows] == [
            "not JSON (a key stands twice in one object)",
            None,
        ]


def test_folders_below_are_read_too_and_hidden_ones_are_not(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "b.jsonl", [PAIR])
    write_jsonl(tmp_path / "a/c.jsonl", [PAIR, PAIR])
    write_jsonl(tmp_path / ".copies/b.jsonl", [PAIR])
    rows = rows_of(tmp_path)
    assert [(row["file"], row["line"]) for row in rows] == [
        ("file-001.jsonl", 1),
        ("file-001.jsonl", 2),
        ("file-002.jsonl", 1),
    ]


def test_an_empty_file_is_not_blamed_on_the_filter(tmp_path: Path) -> None:
    for name, text in (("p.jsonl", ""), ("p.json", "[]"), ("p.csv", "pergunta,resposta,area\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(
            UserError, match="source mine: no row could be used: nothing in it holds one"
        ):
            rows_of(tmp_path / name)
    write_jsonl(tmp_path / "p.jsonl", [PAIR])
    with pytest.raises(
        UserError, match="source mine: no row could be used: its filter lets none through"
    ):
        rows_of(tmp_path / "p.jsonl", filter={"area": ["outra"]})


def test_data_that_dvc_does_not_watch_are_refused_and_a_model_is_named(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest.refuse_unwatched(load_params().ingest)
    assert "after a change there run `dvc repro --force ingest`" in capsys.readouterr().err
    for change in (
        {"sources": [source(Path("elsewhere/p.csv"))]},
        {"sources": [source(workspace / "data/sources/../p.csv")]},
    ):
        with pytest.raises(
            UserError,
            match=r"^source mine: .* lies outside data/demo and data/sources, where .* Move it there",
        ):
            ingest.refuse_unwatched(load_params().ingest.model_copy(update=change))
    ingest.refuse_unwatched(
        load_params().ingest.model_copy(
            update={"sources": [source(workspace / "data/sources/deep/p.csv")]}
        )
    )


def test_a_damaged_parquet_file_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "pairs.parquet"
    pandas.DataFrame([PAIR] * 50).to_parquet(file)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(
        UserError,
        match=r"source mine: file-001\.parquet: the file cannot be read: not Parquet \(ArrowInvalid\)\.",
    ):
        rows_of(file)


def test_text_in_another_encoding_refuses_its_own_row_of_a_parquet_file(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    answers = pyarrow.array([b"Sim.", b"N\xe3o.", b"Talvez."]).view(pyarrow.string())
    parquet.write_table(
        pyarrow.table({"pergunta": ["a", "b", "c"], "resposta": answers, "area": ["x"] * 3}),
        tmp_path / "p.parquet",
    )
    rows = rows_of(tmp_path / "p.parquet")
    assert [(row["line"], "question" in row) for row in rows] == [(1, True), (2, False), (3, True)]


@pytest.mark.parametrize("other", ["a.jsonl", "c.jsonl"])
def test_a_file_that_cannot_be_read_at_all_is_no_single_row(other: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / other, [PAIR] * 200)
    (tmp_path / "b.csv").write_bytes("pergunta,resposta,area\n".encode("utf-16") * 100)
    with pytest.raises(
        UserError,
        match=r"source mine: file-00[12]\.csv: the file cannot be read: the file is UTF-16",
    ):
        rows_of(tmp_path)


def test_files_of_other_kinds_are_named_and_endings_may_shout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "A.CSV").write_text("pergunta,resposta,area\na,b,c\n", encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(b"")
    assert len(rows_of(tmp_path)) == 1
    assert "left out 1 files" in capsys.readouterr().err


def test_the_filter_comes_before_the_mapping_and_optional_columns_may_be_absent(
    tmp_path: Path,
) -> None:
    rows: list[Row] = [
        {"pergunta": "a", "resposta": "b", "l": "pt"},
        PAIR | {"l": "pt"},
        {"pergunta": ["x"], "resposta": "b", "l": "en"},
    ]
    write_jsonl(tmp_path / "p.jsonl", rows)
    assert [
        row.get("specialty") for row in rows_of(tmp_path / "p.jsonl", filter={"l": ["pt"]})
    ] == [None, "clínica"]
    write_jsonl(tmp_path / "p.jsonl", rows[:1])
    with pytest.raises(
        UserError, match=r"source mine: no row has a column area\. Correct its `columns`"
    ):
        rows_of(tmp_path / "p.jsonl")


def test_no_message_repeats_what_a_row_holds(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("Sou Maria, CPF 529.982.247-25,dor\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        rows_of(tmp_path / "p.csv")
    (tmp_path / "p.jsonl").write_text('{"Sou Maria, CPF 529.982.247-25": 1}\n', encoding="utf-8")
    with pytest.raises(UserError) as other:
        rows_of(tmp_path / "p.jsonl")
    assert not any(word in f"{caught.value} {other.value}" for word in ("Maria", "529"))


def test_quarantine_gets_the_shape_of_what_could_not_be_read_and_no_word(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(json.dumps(PAIR) + "\nMaria, CPF 123\n", encoding="utf-8")
    rows = rows_of(tmp_path / "pairs.jsonl")
    assert rows[1]["excerpt"].strip() == "xxxxx, xxx 999"


def test_more_unreadable_rows_than_allowed_stop_with_the_first(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text((json.dumps(PAIR) + "\n") * 3 + "?\n", encoding="utf-8")
    figures = ingest.ingest_source(
        source(tmp_path / "pairs.jsonl"), tmp_path / "raw", allowing(0.25)
    )
    assert (figures["rows"], figures["unreadable"]) == (3, 1)
    with pytest.raises(
        UserError,
        match=r"^source mine: 1 of 4 rows cannot be read, .*; the first is file-001\.jsonl:4: not JSON",
    ):
        ingest.ingest_source(source(tmp_path / "pairs.jsonl"), tmp_path / "raw", allowing(0.24))
    assert not (tmp_path / "raw/mine.jsonl").exists()


def test_filter_limit_and_role(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    write_jsonl(
        file,
        [
            PAIR | {"pergunta": str(n), "area": area}
            for n, area in enumerate(["a", "b", "a", "c", "a"])
        ],
    )
    rows = rows_of(file, filter={"area": ["a", "c"]}, limit=3, role="B")
    assert [(row["question"], row["split"]) for row in rows] == [("0", "B"), ("2", "B"), ("3", "B")]
    assert "split" not in rows_of(file)[0]
    with pytest.raises(
        UserError, match="source mine: no row could be used: its filter lets none through"
    ):
        rows_of(file, filter={"area": ["z"]})


def test_a_table_without_the_mapped_columns_stops_with_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("q,a\n1,2\n", encoding="utf-8")
    what = r"file-001\.csv:1: no column area, pergunta, resposta together; the first line looks like 'x,x'\. Correct `columns`"
    with pytest.raises(UserError, match=what):
        rows_of(tmp_path / "pairs.csv")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server over a folder of this test."""
    (tmp_path / "web").mkdir()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    handler.func.log_message = lambda *_: None  # type: ignore[attr-defined]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        thread.join()


def test_an_address_is_read_only_under_its_checksum(server: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "web/pairs.jsonl", [PAIR])
    digest = hashlib.sha256((tmp_path / "web/pairs.jsonl").read_bytes()).hexdigest()
    fields = source(tmp_path).model_dump() | {
        "kind": "url",
        "url": f"{server}/pairs.jsonl?download=1",
        "sha256": digest,
    }
    del fields["path"], fields["names"]
    assert [
        row["question"] for row in sources.read_source(UrlSource.model_validate(fields), LIMITS)
    ] == [PAIR["pergunta"]]
    with pytest.raises(
        UserError,
        match=rf"pairs\.jsonl: it has sha256 {digest}, params\.yaml says {'0' * 64}; nothing was kept",
    ):
        list(sources.read_source(UrlSource.model_validate(fields | {"sha256": "0" * 64}), LIMITS))


def test_a_hub_data_set_streams_at_its_revision_and_runs_no_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The hub cannot be reached from a test; what is asked of it can be seen.
    import datasets

    asked: list[object] = []

    def load_dataset(*names: str, **options: object) -> list[Row]:
        asked.append((names, options))
        return [PAIR]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    fields = source(Path("x")).model_dump() | {
        "kind": "hub",
        "id": "o/n",
        "revision": "a" * 40,
        "subset": "default",
        "split": "train",
    }
    fields = {
        name: value for name, value in fields.items() if name not in ("path", "encoding", "names")
    }
    assert (
        next(sources.read_source(HubSource.model_validate(fields), LIMITS))["question"]
        == PAIR["pergunta"]
    )
    assert asked == [
        (
            ("hf://datasets/o/n", "default"),
            {"split": "train", "revision": "a" * 40, "streaming": True},
        )
    ]


def test_the_whole_stage_fails_in_one_sentence_and_leaves_no_output(workspace: Path) -> None:
    write_jsonl(workspace / "data/sources/mine.jsonl", [{"pergunta": "sem resposta"}])

    def add_source(params: dict[str, object]) -> None:
        extra = source(Path("data/sources/mine.jsonl")).model_dump()
        params["ingest"]["sources"].append(extra)  # type: ignore[index]

    edit_params(workspace / "params.yaml", add_source)
    result = run(["python", "-m", "stages.ingest"], workspace)
    assert result.returncode == 1
    assert (
        result.stderr.strip()
        .splitlines()[-1]
        .startswith("source mine: no row could be used: file-001.jsonl:1: no column resposta.")
    )
    assert "Traceback" not in result.stderr
    assert not (workspace / "data/raw").exists()
    assert not (workspace / "metrics").exists()
    assert leftovers(workspace) == []


def test_demo_rows_keep_the_split_of_their_file() -> None:
    fields = {
        "kind": "demo",
        "name": "demo",
        "path": "data/demo",
        "license": "cc-by-4.0",
        "redistribution": "allowed",
    }
    demo = DemoSource.model_validate(fields).model_copy(update={"path": str(ROOT / "data/demo")})
    rows = list(sources.read_source(demo, LIMITS))
    assert [row["split"] for row in rows].count("A") == len(
        list(read_rows(ROOT / "data/demo/validation/A.jsonl"))
    )
    assert {row["license"] for row in rows} == {"cc-by-4.0"}
