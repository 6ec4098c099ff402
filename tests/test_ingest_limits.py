"""Test that hostile sources stop with one sentence.

No message contains a row or the name of a file.
"""

import contextlib
import hashlib
import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from bench.clones import ROOT
from bula.errors import UserError
from bula.params import HubSource, Ingest, UrlSource
from bula.records import Row
from stages.ingest import __main__ as ingest
from stages.ingest import fetch, sources, user_files
from stages.ingest.formats import read_file
from stages.ingest.memory import memory_limit
from stages.ingest.reading import ReadOptions, Refused
from tests.conftest import write_jsonl
from tests.test_ingest import HEADER, LIMITS, PAIR, SETTINGS, fields_without, source

DRIP_SECONDS = 0.05
TARGETS = {
    "/to-file.jsonl": "file:///etc/passwd",
    "/to-ftp.jsonl": "ftp://127.0.0.1/x",
    "/loop.jsonl": "/loop.jsonl",
    "/moved.jsonl": "/empty.jsonl",
}
# An endless source would make a test without a limit wait for ever.
pytestmark = pytest.mark.timeout(60)


class Hostile(BaseHTTPRequestHandler):
    """A server with endless replies and bad redirects."""

    def do_GET(self) -> None:
        name = self.path.split("?")[0]
        # The client closes the connection to an endless reply.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.answer(name)

    def answer(self, name: str) -> None:
        if name == "/headers.jsonl":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            self.repeat(b"X: y", DRIP_SECONDS)
        if name in TARGETS:
            self.send_response(302)
            self.send_header("Location", TARGETS[name])
            self.end_headers()
            return
        self.send_response(404 if name == "/absent.jsonl" else 200)
        self.end_headers()
        if name == "/endless.jsonl":
            self.repeat(b"{}\n" * 10_000, 0)
        if name == "/drip.jsonl":
            self.repeat(b"{", DRIP_SECONDS)

    def repeat(self, part: bytes, pause: float) -> None:
        """Send a part again and again."""
        while True:
            self.wfile.write(part)
            self.wfile.flush()
            time.sleep(pause)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def hostile() -> Iterator[ThreadingHTTPServer]:
    """Yield a hostile server that does not run yet."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as web:
        yield web


@pytest.fixture
def running(hostile: ThreadingHTTPServer) -> Iterator[None]:
    """Run the hostile server during the test."""
    thread = threading.Thread(target=hostile.serve_forever)
    thread.start()
    yield
    hostile.shutdown()
    thread.join()


@pytest.fixture
def server(hostile: ThreadingHTTPServer, running: None) -> str:
    """Return the address of the running hostile server."""
    return f"http://127.0.0.1:{hostile.server_port}"


@pytest.fixture
def secure_server(hostile: ThreadingHTTPServer, tmp_path: Path) -> None:
    """Let the hostile server use a certificate that nobody trusts."""
    key = tmp_path / "key.pem"
    certificate = tmp_path / "certificate.pem"
    command = [
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
        *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", str(key), "-out", str(certificate)),
    ]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    hostile.socket = context.wrap_socket(hostile.socket, server_side=True)


def source_behind(url: str) -> UrlSource:
    """Return a source of the file behind an address."""
    fields = fields_without("path", "names", "names_waiver")
    fields["kind"] = "url"
    fields["url"] = url
    fields["sha256"] = "0" * 64
    return UrlSource.model_validate(fields)


# Addresses

SLOW = "the transfer takes longer than ingest.limits.download_seconds allows"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("endless.jsonl", "it serves more than 1000000 bytes"),
        ("drip.jsonl", SLOW),
        ("headers.jsonl", SLOW),
        ("to-file.jsonl", "it redirects to an address that is not https"),
        ("to-ftp.jsonl", "it redirects to an address that is not https"),
        ("loop.jsonl", "it redirects more than 10 times"),
        ("absent.jsonl", r"it cannot be fetched \(the server answered 404\)"),
    ],
)
def test_a_hostile_address_raises_user_error_without_its_query(
    name: str, what: str, server: str
) -> None:
    limits = LIMITS.model_copy(update={"download_bytes": 1_000_000, "download_seconds": 1})
    address = f"{server}/{name}"
    start = time.monotonic()
    with pytest.raises(UserError, match=what) as caught:
        list(sources.read_source(source_behind(f"{address}?token=hf_secret"), limits))
    assert time.monotonic() - start < 50
    assert caught.value.where == address


@pytest.mark.usefixtures("secure_server", "running")
def test_a_server_without_a_trusted_certificate_is_refused(hostile: ThreadingHTTPServer) -> None:
    secure = source_behind(f"https://127.0.0.1:{hostile.server_port}/p.jsonl")
    with pytest.raises(UserError, match="CERTIFICATE_VERIFY_FAILED"):
        list(sources.read_source(secure, LIMITS))


def test_a_full_disk_is_not_reported_as_a_network_error(server: str) -> None:
    full_disk = Path("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        fetch.download(f"{server}/endless.jsonl", "0" * 64, full_disk, LIMITS)


def test_a_redirect_is_followed_to_the_pinned_file(server: str, tmp_path: Path) -> None:
    file = tmp_path / "f"
    sha256_of_nothing = hashlib.sha256(b"").hexdigest()
    fetch.download(f"{server}/moved.jsonl", sha256_of_nothing, file, LIMITS)
    assert file.read_bytes() == b""


# The hub


def stream_from_hub(
    monkeypatch: pytest.MonkeyPatch, rows: Callable[[], Iterator[Row]]
) -> HubSource:
    """Let the hub stream `rows`, and return a source on it.

    The real hub is not reached.
    """
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows())
    fields = fields_without("path", "names", "names_waiver", "encoding")
    fields["kind"] = "hub"
    fields["id"] = "owner/name"
    fields["revision"] = "a" * 40
    fields["subset"] = "default"
    fields["split"] = "train"
    return HubSource.model_validate(fields)


def stalling_rows() -> Iterator[Row]:
    """Yield one row, and then nothing for ever."""
    yield PAIR
    while True:
        time.sleep(DRIP_SECONDS)


def endless_rows() -> Iterator[Row]:
    """Yield rows for ever."""
    while True:
        yield PAIR


def quoting_rows() -> Iterator[Row]:
    """Yield one row, and then raise an error that quotes it."""
    yield PAIR
    raise pyarrow.ArrowInvalid("Could not convert 'Maria tem HIV' to int64")


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (stalling_rows, SLOW),
        (endless_rows, "it has more than 20 rows"),
        (quoting_rows, r"it cannot be read \(ArrowInvalid\)\. "),
    ],
)
def test_a_hostile_hub_data_set_raises_user_error_without_its_words(
    rows: Callable[[], Iterator[Row]], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = LIMITS.model_copy(update={"download_seconds": 1, "rows": 20})
    hub_source = stream_from_hub(monkeypatch, rows)
    with pytest.raises(UserError, match=what) as caught:
        list(sources.read_source(hub_source, limits))
    assert "Maria" not in str(caught.value)


def test_a_local_folder_with_the_name_of_a_data_set_is_not_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "owner/name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    hub_source = stream_from_hub(monkeypatch, endless_rows)
    with pytest.raises(UserError, match="a local folder has this name"):
        list(sources.read_source(hub_source, LIMITS))


# Parquet files


def options(**limits: int) -> ReadOptions:
    """Return how the files of these tests are read."""
    return ReadOptions(
        source_name="mine",
        file_name="file-001.parquet",
        encoding="utf-8",
        columns=["pergunta", "resposta"],
        limits=LIMITS.model_copy(update=limits),
    )


@pytest.fixture
def repeated_text(tmp_path: Path) -> Path:
    """Write a small Parquet file that unpacks to 60 GB.

    The 3 million rows repeat one text of 20,000 bytes, which the file contains once.
    """
    file = tmp_path / "p.parquet"
    indices = pyarrow.nulls(3_000_000, pyarrow.int32()).fill_null(0)
    column = pyarrow.DictionaryArray.from_arrays(indices, ["x" * 20_000])
    table = pyarrow.table({"pergunta": column, "resposta": column})
    parquet.write_table(table, file, compression="zstd")
    assert file.stat().st_size < 20_000
    return file


def test_a_parquet_file_of_one_repeated_text_stops_at_the_limit(repeated_text: Path) -> None:
    small = options(unpacked_bytes=100_000_000)
    what = r"^source mine: file-001\.parquet: it unpacks to more than 100000000 bytes"
    with pytest.raises(UserError, match=what):
        list(read_file(repeated_text, small))


def test_a_parquet_file_of_one_repeated_text_is_read_up_to_the_limit(repeated_text: Path) -> None:
    rows = read_file(repeated_text, options())
    first_rows = list(islice(rows, 1000))
    assert len(first_rows) == 1000


def write_large_cell(path: Path, size: int) -> parquet.FileMetaData:
    """Write a Parquet file with one cell of `size` bytes.

    The cell compresses to almost nothing.
    """
    table = pyarrow.table({"pergunta": ["a" * size], "resposta": ["b"]})
    parquet.write_table(
        table,
        path,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
    )
    return parquet.ParquetFile(path).metadata


def test_a_parquet_file_is_refused_by_the_size_in_its_footer(tmp_path: Path) -> None:
    file = tmp_path / "p.parquet"
    write_large_cell(file, 30_000_000)
    assert file.stat().st_size < 5000
    with pytest.raises(UserError, match="it unpacks to more than 1000000 bytes"):
        next(read_file(file, options(unpacked_bytes=1_000_000)))


def varint(number: int, size: int = 0) -> bytes:
    """Return a number in Thrift's compact protocol.

    The bytes are padded to `size`.
    """
    parts: list[int] = []
    number <<= 1
    while number or not parts or len(parts) < size:
        parts.append(number & 0x7F)
        number >>= 7
    return bytes(part | 0x80 for part in parts[:-1]) + bytes(parts[-1:])


def write_small_size(footer: bytes, size: int) -> bytes:
    """Return a footer that says 1,000 in place of `size`."""
    true_size = varint(size)
    assert footer.count(true_size) == 1
    return footer.replace(true_size, varint(1000, len(true_size)))


@pytest.fixture
def lying_file(tmp_path: Path) -> Path:
    """Write a Parquet file of 60 MB whose footer says 1,000 bytes."""
    file = tmp_path / "p.parquet"
    group = write_large_cell(file, 60_000_000).row_group(0)
    raw = file.read_bytes()
    # The footer, its length in four bytes, and a magic word end the file.
    length = int.from_bytes(raw[-8:-4], "little")
    start = len(raw) - 8 - length
    footer = raw[start:]
    footer = write_small_size(footer, group.column(0).total_uncompressed_size)
    footer = write_small_size(footer, group.total_byte_size)
    file.write_bytes(raw[:start] + footer)
    assert parquet.ParquetFile(file).metadata.row_group(0).total_byte_size == 1000
    return file


READ_FIRST_ROW = """
import sys
from pathlib import Path
from bula.params import load_params
from stages.ingest.formats import read_file
from stages.ingest.reading import ReadOptions

limits = load_params().ingest.limits.model_copy(update={"unpacked_bytes": 5_000_000})
columns = ["pergunta", "resposta"]
options = ReadOptions("mine", "file-001.parquet", "utf-8", columns, limits)
next(read_file(Path(sys.argv[1]), options))
"""


def test_a_parquet_file_with_a_wrong_size_in_its_footer_is_stopped(lying_file: Path) -> None:
    # A new process has no free memory from earlier allocations.
    result = subprocess.run(
        [sys.executable, "-c", READ_FIRST_ROW, str(lying_file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    what = "UserError: source mine: file-001.parquet: it unpacks to more than 5000000 bytes"
    assert what in result.stderr


def test_the_memory_limit_is_lifted_after_the_block() -> None:
    with pytest.raises(MemoryError), memory_limit(10_000_000):
        bytearray(10_000_000_000)
    assert len(bytearray(100_000_000)) == 100_000_000


def test_a_delta_encoded_column_is_read(tmp_path: Path) -> None:
    file = tmp_path / "p.parquet"
    table = pyarrow.table({"pergunta": ["dor", "dor de cabeça"], "resposta": ["a", "b"]})
    parquet.write_table(
        table,
        file,
        use_dictionary=False,
        column_encoding={"pergunta": "DELTA_BYTE_ARRAY", "resposta": "PLAIN"},
    )
    rows = [row for _, row in read_file(file, options())]
    assert rows == table.to_pylist()


# Long rows, large files and many rows

LONG = {"pergunta": "a" * 400, "resposta": "b"}
SHORT = {"pergunta": "a", "resposta": "b"}


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".jsonl", f"{json.dumps(LONG)}\n{json.dumps(SHORT)}\n"),
        (".json", json.dumps([LONG, SHORT])),
        (".csv", f"pergunta,resposta\n{'a' * 400},b\na,b\n"),
        (".parquet", ""),
    ],
)
def test_a_row_over_the_limit_is_refused_in_every_format(
    suffix: str, text: str, tmp_path: Path
) -> None:
    file = tmp_path / f"p{suffix}"
    file.write_text(text, encoding="utf-8")
    if suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist([LONG, SHORT]), file)
    rows = read_file(file, options(row_bytes=300))
    first, second = (row for _, row in rows)
    assert isinstance(first, Refused)
    assert "longer than 300 bytes" in first.reason
    assert second == SHORT


def test_a_json_array_too_large_for_memory_raises_user_error(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text("[" + " " * 2000 + "]")
    what = "a JSON array of more than 1000 bytes .* Save it as JSON Lines"
    with pytest.raises(UserError, match=what):
        list(read_file(file, options(unpacked_bytes=1000)))


@pytest.fixture
def five_rows(tmp_path: Path) -> Path:
    """Write a file of five rows."""
    file = tmp_path / "p.jsonl"
    write_jsonl(file, [PAIR] * 5)
    return file


@pytest.fixture
def at_most_four_rows() -> Ingest:
    """Return settings that allow four rows."""
    limits = LIMITS.model_copy(update={"rows": 4})
    return SETTINGS.model_copy(update={"limits": limits})


def test_a_source_with_too_many_rows_raises_user_error_and_writes_nothing(
    five_rows: Path, at_most_four_rows: Ingest, tmp_path: Path
) -> None:
    what = r"^source mine: it has more than 4 rows \(ingest.limits.rows\)"
    with pytest.raises(UserError, match=what):
        ingest.ingest_source(source(five_rows), tmp_path / "raw", at_most_four_rows)
    assert not (tmp_path / "raw/mine.jsonl").exists()


def test_a_source_with_a_smaller_limit_may_have_more_rows(
    five_rows: Path, at_most_four_rows: Ingest, tmp_path: Path
) -> None:
    limited = source(five_rows, limit=3)
    figures = ingest.ingest_source(limited, tmp_path / "raw", at_most_four_rows)
    assert figures["rows"] == 3


# Names of people


def has_words_of_the_patient(text: str) -> bool:
    """Return whether a text repeats a file's name or a row."""
    words = ("maria", "silva", "hiv", "souza")
    return any(word in text.lower() for word in words)


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    """Write a folder of files that are named after patients.

    One of the two rows in the second file is damaged.
    """
    folder = tmp_path / "d"
    write_jsonl(folder / "ana-souza.jsonl", [PAIR])
    damaged = "{Maria tem HIV\n" + '{"pergunta": "a", "resposta": "b", "area": "c"}\n'
    (folder / "maria-silva.jsonl").write_text(damaged)
    (folder / "maria-silva.docx").write_bytes(b"")
    return folder


def test_neither_terminal_nor_output_names_a_file(
    patients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SETTINGS.model_copy(update={"unreadable_share": 0.5})
    ingest.ingest_source(source(patients), tmp_path / "raw", settings)
    printed = capsys.readouterr()
    written = (tmp_path / "raw/mine.jsonl").read_text(encoding="utf-8")
    assert "file-002.jsonl:1" in printed.err
    assert not has_words_of_the_patient(printed.out + printed.err + written)


def test_the_error_of_too_many_unreadable_rows_names_no_file(
    patients: Path, tmp_path: Path
) -> None:
    what = r"the first is file-002\.jsonl:1: not JSON"
    with pytest.raises(UserError, match=what) as caught:
        ingest.ingest_source(source(patients), tmp_path / "raw", SETTINGS)
    assert not has_words_of_the_patient(str(caught.value))


def test_the_error_of_a_damaged_parquet_file_does_not_name_it(tmp_path: Path) -> None:
    file = tmp_path / "maria-silva.parquet"
    file.write_bytes(b"PAR1 Maria")
    with pytest.raises(UserError, match="cannot be read: not Parquet") as caught:
        ingest.ingest_source(source(file), tmp_path / "raw", SETTINGS)
    assert not has_words_of_the_patient(str(caught.value))


def test_the_error_of_a_path_that_cannot_be_opened_does_not_name_it(tmp_path: Path) -> None:
    folder = tmp_path / "maria-silva.jsonl"
    folder.mkdir()
    what = r"the file cannot be read \(Is a directory\)"
    with pytest.raises(UserError, match=what) as caught:
        list(read_file(folder, options()))
    assert not has_words_of_the_patient(str(caught.value))


def test_files_are_numbered_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b.csv", "a/z.csv", "a-b/y.csv", ".hidden/x.csv", "note.md", "B.CSV"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(HEADER)
    # docs/data.md names this command for a person who looks for a file.
    command = (
        f"cd {tmp_path} && find . -type f -not -path '*/.*' | LC_ALL=C sort | "
        r"grep -iE '\.(jsonl|ndjson|json|csv|tsv|parquet)$'"
    )
    listed = subprocess.check_output(["sh", "-c", command], text=True)
    expected = [str(tmp_path / line) for line in listed.split()]
    found = user_files.data_files(source(tmp_path))
    assert [str(file) for file in found.values()] == expected
    assert list(found) == [
        "file-001.csv",
        "file-002.csv",
        "file-003.csv",
        "file-004.csv",
    ]


@pytest.mark.parametrize(("names", "warned"), [("removed", False), ("present", True)])
def test_a_source_with_names_of_people_causes_a_warning(
    names: str, warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest.warn_of_rows([source(tmp_path, names=names)])
    printed = capsys.readouterr().err
    assert ("source mine: people's names stay" in printed) == warned


@pytest.mark.parametrize("names", ["removed", "present"])
def test_the_figures_say_whether_a_source_has_names_of_people(names: str, tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    write_jsonl(file, [PAIR])
    figures = ingest.ingest_source(source(file, names=names), tmp_path / "raw", SETTINGS)
    assert figures["names"] == names
