"""Test how ingest reads sources and maps their rows."""

import functools
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pytest
from huggingface_hub import constants
from pyarrow import parquet

from bench.clones import ROOT, edit_params
from bula.errors import UserError
from bula.files import sha256_file
from bula.params import Columns, DemoSource, FilesSource, HubSource, Ingest, UrlSource, load_params
from bula.records import Row, read_rows
from stages.ingest import __main__ as ingest
from stages.ingest import sources
from stages.ingest.survey import new_survey
from tests.conftest import leftovers, run, write_jsonl

SETTINGS = load_params(ROOT / "profiles/smollm2-135m.yaml").ingest
LIMITS = SETTINGS.limits
COLUMNS = Columns(question="pergunta", answer="resposta", specialty="area", kind="")
PAIR = {
    "pergunta": "O que é febre?",
    "resposta": "É a subida da temperatura.",
    "area": "clínica",
}
LINE = json.dumps(PAIR, ensure_ascii=False)
HEADER = "pergunta,resposta,area\n"


def source(path: Path, encoding: str = "utf-8", **changes: object) -> FilesSource:
    """Return a source of files at `path`."""
    fields: dict[str, object] = {
        "kind": "files",
        "name": "mine",
        "path": "p",
        "columns": COLUMNS,
        "encoding": encoding,
        "license": "cc0-1.0",
        "names": "removed",
        "redistribution": "allowed",
        "filter": {},
        "limit": 0,
        "role": "split",
    }
    fields.update(changes)
    # params.yaml may not name an absolute path, which a test's files need.
    return FilesSource.model_validate(fields).model_copy(update={"path": str(path)})


def fields_without(*names: str) -> dict[str, Any]:
    """Return the fields of a source of files without some of them."""
    fields = source(Path("p")).model_dump(exclude_none=True)
    return {name: value for name, value in fields.items() if name not in names}


def rows_of(path: Path, encoding: str = "utf-8", **changes: object) -> list[Row]:
    """Return the rows of a source of files at `path`."""
    files = source(path, encoding, **changes)
    return list(sources.read_files(files, LIMITS, new_survey()))


Read = Callable[..., list[Row]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Return a function that writes and reads a source."""

    def write_and_read(name: str, content: str | bytes, **changes: Any) -> list[Row]:
        file = tmp_path / name
        raw = content.encode() if isinstance(content, str) else content
        file.write_bytes(raw)
        return rows_of(file, **changes)

    return write_and_read


def questions(rows: list[Row]) -> dict[int, str | None]:
    """Return the question of each line.

    The question of a refused row is None.
    """
    return {row["line"]: row.get("question") for row in rows}


def refusals(rows: list[Row]) -> dict[int, str]:
    """Return the reason of each line that was refused."""
    refused = [row for row in rows if "refused" in row]
    return {row["line"]: row["refused"] for row in refused}


def write_pair(file: Path) -> None:
    """Write one row in the format of the file's suffix."""
    frame = pandas.DataFrame([PAIR])
    match file.suffix:
        case ".parquet":
            frame.to_parquet(file)
        case ".json":
            file.write_text(f"[{LINE}]", encoding="utf-8")
        case ".jsonl":
            file.write_text(f"{LINE}\n", encoding="utf-8")
        case ".csv":
            frame.to_csv(file, index=False)
        case ".tsv":
            frame.to_csv(file, index=False, sep="\t")


# Formats of files


@pytest.mark.parametrize(
    ("suffix", "line"),
    [
        (".csv", 2),
        (".tsv", 2),
        (".jsonl", 1),
        (".json", 1),
        (".parquet", 1),
    ],
)
def test_each_file_format_returns_the_same_mapped_row(
    suffix: str, line: int, tmp_path: Path
) -> None:
    file = tmp_path / f"pairs{suffix}"
    write_pair(file)
    expected = {
        "question": "O que é febre?",
        "answer": "É a subida da temperatura.",
        "specialty": "clínica",
        "file": f"file-001{suffix}",
        "line": line,
    }
    assert rows_of(file) == [expected]


@pytest.mark.parametrize(
    ("delimiter", "encoding"),
    [
        (",", "utf-8"),
        (";", "utf-8"),
        (";", "latin-1"),
        ("\t", "cp1252"),
    ],
)
def test_csv_fields_may_contain_quotes_line_feeds_and_delimiters(
    delimiter: str, encoding: str, tmp_path: Path
) -> None:
    file = tmp_path / "pairs.csv"
    question = 'Dói "muito"; e\nà noite, também?'
    frame = pandas.DataFrame([{**PAIR, "pergunta": question}, PAIR])
    frame.to_csv(file, index=False, sep=delimiter, encoding=encoding)
    # The second record starts on line 4, since the first contains a line feed.
    expected = {
        2: question,
        4: "O que é febre?",
    }
    assert questions(rows_of(file, encoding)) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pairs.csv", f"{HEADER}{','.join(PAIR.values())}\n"),
        ("pairs.jsonl", json.dumps(PAIR)),
        ("pairs.json", json.dumps([PAIR])),
    ],
)
def test_a_byte_order_mark_is_removed(name: str, text: str, read: Read) -> None:
    rows = read(name, text.encode("utf-8-sig"))
    assert rows[0]["question"] == "O que é febre?"


# Damaged files


def test_each_damaged_line_is_refused_with_its_reason(read: Read) -> None:
    lines = [
        LINE.encode(),
        b"{broken",
        LINE.encode(),
        b"\xff\xfe\xfa",
        b"[1]",
        b'{"pergunta": "so isto"}',
        b'{"pergunta": ["a"], "resposta": "b", "area": ""}',
        LINE.encode(),
    ]
    rows = read("pairs.jsonl", b"\n".join(lines))
    assert [row["line"] for row in rows if "question" in row] == [1, 3, 8]
    assert refusals(rows) == {
        2: "not JSON (Expecting property name enclosed in double quotes)",
        4: "not utf-8 (byte 1 of the line)",
        5: "a JSON object is expected, found list",
        6: "no column resposta",
        7: "pergunta is a list and not text",
    }


STRAY_QUOTE = """\
pergunta;resposta;area
a;b;c
uma "aspa;solta;x
"d;
e";f;g
h;i
j;k;l
"""


def test_a_stray_quote_in_csv_refuses_only_its_own_row(read: Read) -> None:
    expected = {
        2: "a",
        3: None,
        4: "d;\ne",
        6: None,
        7: "j",
    }
    assert questions(read("pairs.csv", STRAY_QUOTE)) == expected


def test_only_the_damaged_object_of_a_json_array_is_refused(read: Read) -> None:
    damaged = '{"pergunta": "a, "resposta": ]}'
    rows = read("pairs.json", f"[{LINE},\n{damaged},\n{LINE}]")
    expected = {
        1: "O que é febre?",
        2: None,
        3: "O que é febre?",
    }
    assert questions(rows) == expected


@pytest.mark.parametrize("end", ["", ",", ",\n ", "\n"])
def test_an_array_cut_between_two_objects_is_reported(end: str, read: Read) -> None:
    rows = read("pairs.json", f"[{LINE},\n{LINE}{end}")
    reasons = [row.get("refused") for row in rows]
    assert reasons == [None, None, "the array is never closed"]


def test_an_array_cut_inside_an_object_is_reported_once(read: Read) -> None:
    rows = read("pairs.json", f"[{LINE},\n{LINE[:-3]}")
    assert ["refused" in row for row in rows] == [False, True]


def test_a_csv_file_with_a_repeated_column_is_refused(read: Read) -> None:
    text = "pergunta;resposta;area;resposta\na;certa;c;errada\n"
    what = (
        r"^source mine: file-001\.csv:1: column resposta appears more than once\. "
        r"Rename or remove"
    )
    with pytest.raises(UserError, match=what):
        read("p.csv", text)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("p.jsonl", "{}\n{}\n"),
        ("p.json", "[{},\n{}]"),
    ],
)
def test_a_json_object_with_a_repeated_key_is_refused(name: str, form: str, read: Read) -> None:
    repeated = '{"pergunta": "a", "resposta": "certa", "area": "c", "resposta": "errada"}'
    rows = read(name, form.format(repeated, LINE))
    reasons = [row.get("refused") for row in rows]
    assert reasons == ["not JSON (a key appears twice in one object)", None]


def test_a_damaged_parquet_file_raises_user_error(tmp_path: Path, read: Read) -> None:
    file = tmp_path / "pairs.parquet"
    frame = pandas.DataFrame([PAIR] * 50)
    frame.to_parquet(file)
    content = file.read_bytes()
    what = (
        r"source mine: file-001\.parquet: "
        r"the file cannot be read: not Parquet \(ArrowInvalid\)\."
    )
    with pytest.raises(UserError, match=what):
        read("pairs.parquet", content[:-20])


def test_parquet_text_in_another_encoding_refuses_only_its_own_row(tmp_path: Path) -> None:
    file = tmp_path / "p.parquet"
    answers = pyarrow.array([b"Sim.", b"N\xe3o.", b"Talvez."])
    columns = {
        "pergunta": ["a", "b", "c"],
        "resposta": answers.view(pyarrow.string()),
        "area": ["x", "x", "x"],
    }
    parquet.write_table(pyarrow.table(columns), file)
    expected = {
        1: "a",
        2: None,
        3: "c",
    }
    assert questions(rows_of(file)) == expected


@pytest.mark.parametrize("other", ["a.jsonl", "c.jsonl"])
def test_a_file_in_utf_16_stops_the_source(other: str, tmp_path: Path) -> None:
    utf_16 = HEADER.encode("utf-16")
    (tmp_path / "b.csv").write_bytes(utf_16 * 100)
    write_jsonl(tmp_path / other, [PAIR] * 200)
    what = r"source mine: file-00[12]\.csv: the file cannot be read: the file is UTF-16"
    with pytest.raises(UserError, match=what):
        rows_of(tmp_path)


# Folders


def test_subfolders_are_read_and_hidden_folders_are_not(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "b.jsonl", [PAIR])
    write_jsonl(tmp_path / "a/c.jsonl", [PAIR, PAIR])
    write_jsonl(tmp_path / ".copies/b.jsonl", [PAIR])
    places = [(row["file"], row["line"]) for row in rows_of(tmp_path)]
    assert places == [
        ("file-001.jsonl", 1),
        ("file-001.jsonl", 2),
        ("file-002.jsonl", 1),
    ]


def test_upper_case_suffixes_are_read_and_other_files_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "A.CSV").write_text(f"{HEADER}a,b,c\n", encoding="utf-8")
    (tmp_path / "b.jsonl.xz").write_bytes(b"")
    rows = rows_of(tmp_path)
    assert len(rows) == 1
    assert "left out 1 files" in capsys.readouterr().err


# Filter and mapping


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.jsonl", ""),
        ("p.json", "[]"),
        ("p.csv", HEADER),
    ],
)
def test_an_empty_file_raises_user_error(name: str, text: str, read: Read) -> None:
    what = "source mine: no row could be used: it contains no row"
    with pytest.raises(UserError, match=what):
        read(name, text)


def test_a_filter_that_passes_no_row_raises_user_error(read: Read) -> None:
    what = "source mine: no row could be used: its filter passes no row"
    with pytest.raises(UserError, match=what):
        read("p.jsonl", LINE, filter={"area": ["outra"]})


def test_the_filter_runs_before_the_mapping(read: Read) -> None:
    # The mapping would refuse the second row, whose question is a list.
    lines = [
        '{"pergunta": "a", "resposta": "b", "area": "c", "l": "pt"}',
        '{"pergunta": ["x"], "resposta": "b", "area": "c", "l": "en"}',
    ]
    rows = read("p.jsonl", "\n".join(lines), filter={"l": ["pt"]})
    assert questions(rows) == {1: "a"}


def test_single_rows_may_lack_an_optional_column(read: Read) -> None:
    rows = read("p.jsonl", f'{{"pergunta": "a", "resposta": "b"}}\n{LINE}\n')
    specialties = [row.get("specialty") for row in rows]
    assert specialties == [None, "clínica"]


def test_an_optional_column_that_every_row_lacks_raises_user_error(read: Read) -> None:
    what = r"source mine: no row has a column area\. Correct its `columns`"
    with pytest.raises(UserError, match=what):
        read("p.jsonl", '{"pergunta": "a", "resposta": "b"}')


AREAS = """\
pergunta,resposta,area
0,b,a
1,b,b
2,b,a
3,b,c
4,b,a
"""


def test_filter_limit_and_role_are_applied(read: Read) -> None:
    rows = read("p.csv", AREAS, filter={"area": ["a", "c"]}, limit=3, role="B")
    found = [(row["question"], row["split"]) for row in rows]
    assert found == [
        ("0", "B"),
        ("2", "B"),
        ("3", "B"),
    ]


def test_rows_without_a_role_have_no_split(read: Read) -> None:
    rows = read("p.csv", AREAS, role="split")
    assert ["split" in row for row in rows] == [False] * 5


def test_a_table_without_the_mapped_columns_raises_user_error(read: Read) -> None:
    what = (
        r"file-001\.csv:1: no column area, pergunta, resposta; "
        r'the header is "q", "a"\. Correct `columns`'
    )
    with pytest.raises(UserError, match=what):
        read("pairs.csv", "q,a\n1,2\n")


# Messages


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "Sou Maria, CPF 529.982.247-25,dor\n"),
        ("p.jsonl", '{"Sou Maria, CPF 529.982.247-25": 1}\n'),
    ],
)
def test_messages_do_not_repeat_words_of_rows(name: str, text: str, read: Read) -> None:
    with pytest.raises(UserError) as caught:
        read(name, text)
    assert "Maria" not in str(caught.value)
    assert "529" not in str(caught.value)


def test_the_excerpt_of_a_refused_row_is_masked(read: Read) -> None:
    rows = read("pairs.jsonl", f"{LINE}\nMaria, CPF 123\n")
    assert rows[1]["excerpt"].strip() == "xxxxx, xxx 999"


# Unreadable rows


def ingest_one_bad_row(folder: Path, share: float) -> dict[str, int | float | str]:
    """Ingest three good rows and one bad row.

    Ingest may accept up to `share` of unreadable rows.
    """
    file = folder / "pairs.jsonl"
    file.write_text(f"{LINE}\n{LINE}\n{LINE}\n?\n", encoding="utf-8")
    settings = SETTINGS.model_copy(update={"unreadable_share": share})
    return ingest.ingest_source(source(file), folder / "raw", settings)


def test_unreadable_rows_up_to_the_allowed_share_are_counted(tmp_path: Path) -> None:
    figures = ingest_one_bad_row(tmp_path, share=0.25)
    assert figures["rows"] == 3
    assert figures["unreadable"] == 1


def test_more_unreadable_rows_than_allowed_stop_the_source(tmp_path: Path) -> None:
    ingest_one_bad_row(tmp_path, share=0.25)
    what = (
        r"^source mine: 1 of 4 rows cannot be read, .*; "
        r"the first is file-001\.jsonl:4: not JSON"
    )
    with pytest.raises(UserError, match=what):
        ingest_one_bad_row(tmp_path, share=0.24)
    assert not (tmp_path / "raw/mine.jsonl").exists()


# Places that DVC watches


def settings_with(path: Path) -> Ingest:
    """Return the workspace's settings with a source at `path`."""
    settings = load_params().ingest
    return settings.model_copy(update={"sources": [source(path)]})


@pytest.mark.parametrize(
    "path",
    [
        "elsewhere/p.csv",
        "{workspace}/data/sources/../p.csv",
    ],
)
def test_data_that_dvc_does_not_watch_are_refused(path: str, workspace: Path) -> None:
    outside = Path(path.format(workspace=workspace))
    what = "^source mine: .* is outside data/demo and data/sources, so .* Move it there"
    with pytest.raises(UserError, match=what):
        ingest.refuse_unwatched(settings_with(outside))


def test_data_below_the_watched_folder_are_accepted(workspace: Path) -> None:
    inside = workspace / "data/sources/deep/p.csv"
    ingest.refuse_unwatched(settings_with(inside))


# Kinds of sources


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Yield the address of a server of this test's folder."""
    (tmp_path / "web").mkdir()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    handler.func.log_message = lambda *_: None  # type: ignore[attr-defined]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        thread.join()


def served_source(server: str, sha256: str) -> UrlSource:
    """Return a source behind the address of the test's server."""
    fields = fields_without("path", "names")
    fields["kind"] = "url"
    fields["url"] = f"{server}/pairs.jsonl?download=1"
    fields["sha256"] = sha256
    return UrlSource.model_validate(fields)


@pytest.fixture
def served_sha256(tmp_path: Path, server: str) -> str:
    """Write the file that the server serves, and return its SHA-256."""
    file = tmp_path / "web/pairs.jsonl"
    write_jsonl(file, [PAIR])
    return sha256_file(file)


def test_a_file_behind_an_address_is_read_by_its_checksum(server: str, served_sha256: str) -> None:
    pinned = served_source(server, served_sha256)
    rows = list(sources.read_source(pinned, LIMITS))
    assert questions(rows) == {1: "O que é febre?"}


def test_a_file_behind_an_address_with_another_checksum_is_refused(
    server: str, served_sha256: str
) -> None:
    pinned = served_source(server, "0" * 64)
    what = (
        rf"pairs\.jsonl: it has sha256 {served_sha256}, "
        rf"params\.yaml says {pinned.sha256}; nothing was kept"
    )
    with pytest.raises(UserError, match=what):
        list(sources.read_source(pinned, LIMITS))


def test_a_hub_data_set_streams_at_its_revision_and_runs_no_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A test cannot reach the hub, but it can see the request.
    import datasets

    requests: list[object] = []

    def load_dataset(*names: str, **options: object) -> list[Row]:
        requests.append((names, options))
        return [PAIR]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    fields = fields_without("path", "names", "encoding")
    fields["kind"] = "hub"
    fields["id"] = "o/n"
    fields["subset"] = "default"
    pin = {"split": "train", "revision": "a" * 40}
    hub_source = HubSource.model_validate({**fields, **pin})
    row = next(sources.read_source(hub_source, LIMITS))
    assert row["question"] == "O que é febre?"
    names = ("hf://datasets/o/n", "default")
    assert requests == [(names, {**pin, "streaming": True})]


def test_demo_rows_keep_the_split_of_their_file() -> None:
    fields = {
        "kind": "demo",
        "name": "demo",
        "path": "data/demo",
        "license": "cc-by-4.0",
        "redistribution": "allowed",
    }
    demo = DemoSource.model_validate(fields)
    demo = demo.model_copy(update={"path": str(ROOT / "data/demo")})
    rows = list(sources.read_source(demo, LIMITS))
    splits = [row["split"] for row in rows]
    expected = list(read_rows(ROOT / "data/demo/validation/A.jsonl"))
    assert splits.count("A") == len(expected)
    assert {row["license"] for row in rows} == {"cc-by-4.0"}


# The stage


@pytest.fixture
def failed_stage(workspace: Path) -> "subprocess.CompletedProcess[str]":
    """Run the stage over a source without a good row."""
    path = Path("data/sources/mine.jsonl")
    write_jsonl(workspace / path, [{"pergunta": "sem resposta"}])

    def add_source(params: dict[str, Any]) -> None:
        params["ingest"]["sources"].append(source(path).model_dump(exclude_none=True))

    edit_params(workspace / "params.yaml", add_source)
    return run(["python", "-m", "stages.ingest"], workspace)


def test_a_failed_stage_prints_one_sentence_and_leaves_no_output(
    failed_stage: "subprocess.CompletedProcess[str]", workspace: Path
) -> None:
    assert failed_stage.returncode == 1
    assert "Traceback" not in failed_stage.stderr
    last = failed_stage.stderr.strip().splitlines()[-1]
    what = "source mine: no row could be used: file-001.jsonl:1: no column resposta."
    assert last.startswith(what)
    assert not (workspace / "data/raw").exists()
    assert not (workspace / "metrics").exists()
    assert leftovers(workspace) == []


def test_the_stage_asks_the_hub_before_it_reads_a_row(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = fields_without("path", "names", "encoding")
    pin = {"kind": "hub", "id": "o/n", "revision": "a" * 40, "subset": "default", "split": "train"}

    def add_source(params: dict[str, Any]) -> None:
        params["ingest"]["sources"].append({**fields, **pin})

    edit_params(workspace / "params.yaml", add_source)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(ingest, "ingest_data", lambda *_: pytest.fail("it read a row"))
    with pytest.raises(UserError, match=r"dataset o/n at revision a+: the hub cannot be reached"):
        ingest.main()
    assert leftovers(workspace) == []


def test_the_stage_needs_no_model_and_writes_rows_items_and_figures(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest.main()
    rows = list(read_rows(workspace / "data/raw/demo.jsonl"))
    items = list(read_rows(workspace / "data/benchmarks/bula_medmcqa.jsonl"))
    figures = json.loads((workspace / "metrics/ingest.json").read_text(encoding="utf-8"))
    assert figures["source_demo"]["rows"] == len(rows) > 0
    assert figures["benchmark_bula_medmcqa"]["rows"] == len(items) > 0
    names = ("bula_medmcqa", "bula_medqa_4options", "bula_squad_completion", "bula_contrast")
    assert set(figures) == {"source_demo", *(f"benchmark_{name}" for name in names)}
    total = sum(group["rows"] for group in figures.values())
    printed = f"ingest: {total} rows from 5 sources, in data/raw and data/benchmarks\n"
    assert capsys.readouterr().out == printed
    assert list((workspace / "models").iterdir()) == []
