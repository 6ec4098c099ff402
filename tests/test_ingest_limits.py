"""Hostile sources: endless, slow, swollen or unencrypted ones end with a sentence, and no message holds a row or a file's name."""

import hashlib
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from bench.clones import ROOT
from bula.errors import UserError
from bula.params import HubSource, UrlSource
from bula.records import Row
from stages.ingest import __main__ as ingest
from stages.ingest import fetch, sources
from stages.ingest.formats import read_file
from stages.ingest.memory import memory_limit
from stages.ingest.reading import ReadOptions, Refused
from tests.conftest import write_jsonl
from tests.test_ingest import LIMITS, PAIR, SETTINGS, source

DRIP_SECONDS = 0.05
TARGETS = {
    "/to-file.jsonl": "file:///etc/passwd",
    "/to-ftp.jsonl": "ftp://127.0.0.1/x",
    "/loop.jsonl": "/loop.jsonl",
}
TARGETS["/moved.jsonl"] = "/empty.jsonl"
# A test that waits for an endless source without a limit would wait for this long.
pytestmark = pytest.mark.timeout(60)


class Hostile(BaseHTTPRequestHandler):
    """A server whose answers never end, or lead elsewhere."""

    def do_GET(self) -> None:
        name = self.path.split("?")[0]
        try:
            if name == "/headers.jsonl":
                self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                self.drip(b"X: y")
            if name in TARGETS:
                self.send_response(302)
                self.send_header("Location", TARGETS[name])
                self.end_headers()
                return
            self.send_response(404 if name == "/absent.jsonl" else 200)
            self.end_headers()
            if name == "/endless.jsonl":
                while True:
                    self.wfile.write(b"{}\n" * 10_000)
            if name == "/drip.jsonl":
                self.drip(b"{")
        except (BrokenPipeError, ConnectionResetError):
            pass

    def drip(self, part: bytes) -> None:
        while True:
            self.wfile.write(part)
            self.wfile.flush()
            time.sleep(DRIP_SECONDS)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """The hostile server on a port of its own."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield web
        web.shutdown()
        thread.join()


def behind(url: str) -> UrlSource:
    """A source behind an address."""
    fields = source(Path("p")).model_dump() | {"kind": "url", "url": url, "sha256": "0" * 64}
    return UrlSource.model_validate(
        {name: value for name, value in fields.items() if name not in ("path", "names")}
    )


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("endless.jsonl", "it serves more than 1000000 bytes"),
        ("drip.jsonl", "the transfer takes longer than ingest.limits.download_seconds allows"),
        ("headers.jsonl", "the transfer takes longer than ingest.limits.download_seconds allows"),
        ("to-file.jsonl", "it redirects to an address that is not https"),
        ("to-ftp.jsonl", "it redirects to an address that is not https"),
        ("loop.jsonl", "it redirects more than 10 times"),
        ("absent.jsonl", "it cannot be fetched \\(the server answered 404\\)"),
    ],
)
def test_an_address_that_never_ends_or_leads_elsewhere_is_a_sentence(
    name: str, what: str, server: ThreadingHTTPServer
) -> None:
    limits = LIMITS.model_copy(update={"download_bytes": 1_000_000, "download_seconds": 1})
    address = f"http://127.0.0.1:{server.server_port}/{name}"
    start = time.monotonic()
    with pytest.raises(UserError, match=what) as caught:
        list(sources.read_source(behind(f"{address}?token=hf_secret"), limits))
    assert time.monotonic() - start < 10
    assert caught.value.where == address


def test_a_server_without_a_trusted_certificate_is_refused(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        [*command.split(), "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as web:
        web.socket = context.wrap_socket(web.socket, server_side=True)
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        with pytest.raises(UserError, match="CERTIFICATE_VERIFY_FAILED"):
            list(
                sources.read_source(behind(f"https://127.0.0.1:{web.server_port}/p.jsonl"), LIMITS)
            )
        web.shutdown()
        thread.join()


def test_a_full_disk_is_not_called_a_missing_network(server: ThreadingHTTPServer) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        fetch.download(
            f"http://127.0.0.1:{server.server_port}/endless.jsonl",
            "0" * 64,
            Path("/dev/full"),
            LIMITS,
        )


# --- the hub ------------------------------------------------------------------------------------------------


def from_hub(monkeypatch: pytest.MonkeyPatch, rows: Callable[[], Iterator[Row]]) -> HubSource:
    """A source on the hub, which is not reached: `rows` are what it streams."""
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows())
    fields = source(Path("p")).model_dump() | {
        "kind": "hub",
        "id": "owner/name",
        "revision": "a" * 40,
    }
    fields |= {"subset": "default", "split": "train"}
    return HubSource.model_validate(
        {name: value for name, value in fields.items() if name not in ("path", "names", "encoding")}
    )


def drip() -> Iterator[Row]:
    """Rows that come ever more slowly."""
    yield PAIR
    while True:
        time.sleep(DRIP_SECONDS)


def endless() -> Iterator[Row]:
    """Rows without an end."""
    while True:
        yield PAIR


def quoting() -> Iterator[Row]:
    """A library's error that quotes a row."""
    yield PAIR
    raise pyarrow.ArrowInvalid("Could not convert 'Maria tem HIV' to int64")


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (drip, "the transfer takes longer than ingest.limits.download_seconds allows"),
        (endless, "it has more than 20 rows"),
        (quoting, r"it cannot be read \(ArrowInvalid\)\. "),
    ],
)
def test_a_data_set_on_the_hub_that_never_ends_is_a_sentence(
    rows: Callable[[], Iterator[Row]], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = LIMITS.model_copy(update={"download_seconds": 1, "rows": 20})
    with pytest.raises(UserError, match=what) as caught:
        list(sources.read_source(from_hub(monkeypatch, rows), limits))
    assert "Maria" not in str(caught.value)


def test_a_folder_with_the_name_of_a_data_set_is_not_read_in_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "owner/name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="a folder of this name lies here"):
        list(sources.read_source(from_hub(monkeypatch, endless), LIMITS))


# --- files --------------------------------------------------------------------------------------------------


def reading(**limits: int) -> ReadOptions:
    """How the files of these tests are read."""
    return ReadOptions(
        "mine",
        "file-001.parquet",
        "utf-8",
        ["pergunta", "resposta"],
        LIMITS.model_copy(update=limits),
    )


def test_a_parquet_file_of_one_text_repeated_is_read_up_to_the_limit(tmp_path: Path) -> None:
    # 3 million rows of 20,000 bytes are 60 GB; the file has one of them.
    column = pyarrow.DictionaryArray.from_arrays(
        pyarrow.nulls(3_000_000, pyarrow.int32()).fill_null(0), ["x" * 20_000]
    )
    parquet.write_table(
        pyarrow.table({"pergunta": column, "resposta": column}),
        tmp_path / "p.parquet",
        compression="zstd",
    )
    assert (tmp_path / "p.parquet").stat().st_size < 20_000
    read: list[object] = []
    with pytest.raises(
        UserError, match=r"^source mine: file-001\.parquet: it unpacks to more than 100000000 bytes"
    ):
        read.extend(read_file(tmp_path / "p.parquet", reading(unpacked_bytes=100_000_000)))
    rows = list(zip(range(1000), read_file(tmp_path / "p.parquet", reading()), strict=False))
    assert len(rows) == 1000


def swollen(path: Path, size: int) -> parquet.FileMetaData:
    """Write a Parquet file with one cell of `size` bytes, which compresses to almost nothing."""
    table = pyarrow.table({"pergunta": ["a" * size], "resposta": ["b"]})
    parquet.write_table(
        table, path, compression="zstd", use_dictionary=False, write_statistics=False
    )
    return parquet.ParquetFile(path).metadata


def test_a_parquet_file_that_says_its_size_is_refused_before_it_is_read(tmp_path: Path) -> None:
    swollen(tmp_path / "p.parquet", 30_000_000)
    assert (tmp_path / "p.parquet").stat().st_size < 5000
    with pytest.raises(UserError, match="it unpacks to more than 1000000 bytes"):
        next(read_file(tmp_path / "p.parquet", reading(unpacked_bytes=1_000_000)))


def varint(number: int, size: int = 0) -> bytes:
    """A number as Thrift's compact protocol writes it, padded to `size` bytes."""
    parts: list[int] = []
    number <<= 1
    while number or not parts or len(parts) < size:
        parts.append(number & 0x7F)
        number >>= 7
    return bytes(part | 0x80 for part in parts[:-1]) + bytes(parts[-1:])


def test_a_parquet_file_whose_footer_lies_about_its_size_is_stopped_while_it_is_read(
    tmp_path: Path,
) -> None:
    group = swollen(tmp_path / "p.parquet", 60_000_000).row_group(0)
    raw = (tmp_path / "p.parquet").read_bytes()
    # The footer, its length in four bytes, and a magic word end the file.
    start = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    footer = raw[start:]
    for size in (group.column(0).total_uncompressed_size, group.total_byte_size):
        assert footer.count(varint(size)) == 1
        footer = footer.replace(varint(size), varint(1000, len(varint(size))))
    (tmp_path / "p.parquet").write_bytes(raw[:start] + footer)
    assert parquet.ParquetFile(tmp_path / "p.parquet").metadata.row_group(0).total_byte_size == 1000
    # In a process of its own, where no memory lies free from before.
    script = (
        "from pathlib import Path; from bula.params import load_params; from stages.ingest.formats import read_file; from stages.ingest.reading import ReadOptions; "
        "limits = load_params().ingest.limits.model_copy(update={'unpacked_bytes': 5_000_000}); "
        "reading = ReadOptions('mine', 'file-001.parquet', 'utf-8', ['pergunta', 'resposta'], limits); "
        f"next(read_file(Path({str(tmp_path / 'p.parquet')!r}), reading))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (
        "UserError: source mine: file-001.parquet: it unpacks to more than 5000000 bytes"
        in result.stderr
    )


def test_the_memory_limit_is_lifted_after_the_block() -> None:
    with pytest.raises(MemoryError), memory_limit(10_000_000):
        bytearray(10_000_000_000)
    assert len(bytearray(100_000_000)) == 100_000_000


def test_a_delta_encoded_column_is_read_as_it_is(tmp_path: Path) -> None:
    table = pyarrow.table({"pergunta": ["dor", "dor de cabeça"], "resposta": ["a", "b"]})
    encodings = {"pergunta": "DELTA_BYTE_ARRAY", "resposta": "PLAIN"}
    parquet.write_table(
        table, tmp_path / "p.parquet", use_dictionary=False, column_encoding=encodings
    )
    assert [row for _, row in read_file(tmp_path / "p.parquet", reading())] == table.to_pylist()


def test_a_row_over_the_limit_is_refused_in_every_form(tmp_path: Path) -> None:
    long = {"pergunta": "a" * 400, "resposta": "b"}
    short = {"pergunta": "a", "resposta": "b"}
    write_jsonl(tmp_path / "p.jsonl", [long, short])
    (tmp_path / "p.json").write_text(
        (tmp_path / "p.jsonl").read_text().strip().replace("\n", ",").join("[]")
    )
    (tmp_path / "p.csv").write_text("pergunta,resposta\n" + "a" * 400 + ",b\na,b\n")
    parquet.write_table(pyarrow.Table.from_pylist([long, short]), tmp_path / "p.parquet")
    for suffix in ("jsonl", "json", "csv", "parquet"):
        first, second = (
            row for _, row in read_file(tmp_path / f"p.{suffix}", reading(row_bytes=300))
        )
        assert isinstance(first, Refused) and "longer than 300 bytes" in first.reason
        assert second == short


def test_a_json_array_too_large_for_memory_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("[" + " " * 2000 + "]")
    with pytest.raises(
        UserError, match=r"a JSON array of more than 1000 bytes .* Save it as JSON Lines"
    ):
        list(read_file(tmp_path / "p.json", reading(unpacked_bytes=1000)))


def test_a_source_with_too_many_rows_is_a_sentence_and_no_output(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "p.jsonl", [PAIR] * 5)
    few = SETTINGS.model_copy(update={"limits": LIMITS.model_copy(update={"rows": 4})})
    with pytest.raises(
        UserError, match=r"^source mine: it has more than 4 rows \(ingest.limits.rows\)"
    ):
        ingest.ingest_source(source(tmp_path / "p.jsonl"), tmp_path / "raw", few)
    assert not (tmp_path / "raw/mine.jsonl").exists()
    assert (
        ingest.ingest_source(source(tmp_path / "p.jsonl", limit=3), tmp_path / "raw", few)["rows"]
        == 3
    )


# --- names --------------------------------------------------------------------------------------------------


def test_no_message_and_no_row_has_the_name_of_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "d"
    write_jsonl(folder / "ana-souza.jsonl", [PAIR])
    (folder / "maria-silva.jsonl").write_text(
        "{Maria tem HIV\n" + '{"pergunta": "a", "resposta": "b", "area": "c"}\n'
    )
    (folder / "maria-silva.docx").write_bytes(b"")
    loose = SETTINGS.model_copy(update={"unreadable_share": 0.5})
    ingest.ingest_source(source(folder), tmp_path / "raw", loose)
    with pytest.raises(UserError, match=r"the first is file-002\.jsonl:1: not JSON") as caught:
        ingest.ingest_source(source(folder), tmp_path / "raw", SETTINGS)
    (folder / "maria-silva.parquet").write_bytes(b"PAR1 Maria")
    with pytest.raises(UserError, match="cannot be read: not Parquet") as damaged:
        ingest.ingest_source(source(folder / "maria-silva.parquet"), tmp_path / "raw", SETTINGS)
    (folder / "maria-silva.parquet").unlink()
    (folder / "maria-silva.jsonl").unlink()
    (folder / "maria-silva.jsonl").mkdir()
    with pytest.raises(
        UserError, match=r"the file cannot be read \(Is a directory\)"
    ) as unreadable:
        list(read_file(folder / "maria-silva.jsonl", reading()))
    said = capsys.readouterr()
    everything = f"{said.out}{said.err}{caught.value}{damaged.value}{unreadable.value}{(tmp_path / 'raw/mine.jsonl')}"
    assert "file-002.jsonl:1" in everything
    assert not [
        word for word in ("maria", "silva", "HIV", "souza") if word.lower() in everything.lower()
    ]


def test_files_are_numbered_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b.csv", "a/z.csv", "a-b/y.csv", ".hidden/x.csv", "note.md", "B.CSV"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("pergunta,resposta,area\n")
    found = {
        name: file.relative_to(tmp_path).as_posix()
        for name, file in sources.data_files(source(tmp_path)).items()
    }
    # docs/data.md tells this command to a person who looks for a file.
    command = f"cd {tmp_path} && find . -type f -not -path '*/.*' | LC_ALL=C sort | grep -iE '\\.(jsonl|ndjson|json|csv|tsv|parquet)$'"
    lines = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=True
    ).stdout.split()
    assert list(found.values()) == [line.removeprefix("./") for line in lines]
    assert list(found) == ["file-001.csv", "file-002.csv", "file-003.csv", "file-004.csv"]


def test_a_source_with_names_of_people_is_named_and_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "p.jsonl", [PAIR])
    for names in ("removed", "present"):
        mine = source(tmp_path / "p.jsonl", names=names)
        ingest.warn_of_rows([mine])
        assert ingest.ingest_source(mine, tmp_path / "raw", SETTINGS)["names"] == names
        assert ("source mine: people's names stay" in capsys.readouterr().err) == (
            names == "present"
        )


def test_a_redirect_is_followed_to_the_pinned_file(
    server: ThreadingHTTPServer, tmp_path: Path
) -> None:
    empty = hashlib.sha256(b"").hexdigest()
    fetch.download(
        f"http://127.0.0.1:{server.server_port}/moved.jsonl", empty, tmp_path / "f", LIMITS
    )
    assert (tmp_path / "f").read_bytes() == b""
