"""Check which host receives which key, and that no output contains a key."""

import datetime
import ipaddress
import json
import socket
import ssl
import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.clones import ROOT, edit_params
from bula import api_keys
from bula.errors import UserError
from bula.records import SET_NAMES, write_rows
from stages import judge
from tests.judge_server import write_calibration

KEY = "sk-CANARY-5d1c0b7e9a"
HOST = "judge.test"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("BULA_JUDGE_HOSTS", raising=False)


@pytest.mark.parametrize(
    "url",
    ["https://api.openai.com/v1", "https://api.openai.com:443/v1/", "https://API.OpenAI.com"],
)
def test_openai_receives_the_key(url: str) -> None:
    assert api_keys.key_for(url) == KEY


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/v1",
        "http://localhost/v1",
        "http://[::1]:9/v1",
        "https://127.0.0.1/v1",
    ],
)
def test_this_machine_receives_only_the_local_key(url: str) -> None:
    assert api_keys.key_for(url) == api_keys.LOCAL_KEY


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://api.openai.com/v1", "only over https"),
        ("https://judge.test/v1", "may not be sent to judge.test. If you trust that host"),
        ("https://api.openai.com:8443/v1", "may not be sent to api.openai.com:8443"),
        ("https://api.openai.com./v1", "may not be sent to api.openai.com."),
        ("https://api.openai.com.judge.test/v1", "may not be sent to api.openai.com.judge.test"),
        ("http://127.0.0.1.judge.test/v1", "only over https"),
        ("http://127.1/v1", "only over https"),
        ("http://2130706433/v1", "only over https"),
        ("http://[::ffff:127.0.0.1]/v1", "not a plain"),
        ("https://api.openai.com@judge.test/v1", "not a plain"),
        ("https://user:word@api.openai.com/v1", "not a plain"),
        ("https://api.openai.com\\@judge.test/v1", "not a plain"),
        ("https://api.openai.com%2f@judge.test", "not a plain"),
        ("https://api.openai.com/v1?to=judge.test", "not a plain"),
        ("https://api.openai.com#@judge.test/", "not a plain"),
        ("https://api.openai.com\n.judge.test/", "not a plain"),
        ("https://api.openai.com:443\t/v1", "not a plain"),
        ("https://api.openai.com:443 .judge.test/v1", "not a plain"),
        # IDNA maps some of these letters to ASCII.
        ("https://\N{CYRILLIC SMALL LETTER A}pi.openai.com/v1", "not a plain"),
        ("http://\N{FULLWIDTH LATIN SMALL LETTER L}ocalhost/v1", "not a plain"),
        ("https://\N{KELVIN SIGN}.test/v1", "not a plain"),
        ("ftp://api.openai.com/v1", "not a plain"),
        ("//api.openai.com/v1", "not a plain"),
        ("", "not a plain"),
    ],
)
def test_other_addresses_are_refused_before_the_key_is_read(
    url: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError) as error:
        api_keys.key_for(url)
    assert message in str(error.value)


def test_the_environment_allows_other_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BULA_JUDGE_HOSTS", "judge.test, Other.Test:8443")
    assert api_keys.key_for("https://judge.test/v1") == KEY
    assert api_keys.key_for("https://other.test:8443/v1") == KEY
    for url in ("https://other.test/v1", "https://api.openai.com/v1"):
        with pytest.raises(UserError, match="may not be sent to"):
            api_keys.key_for(url)


def test_env_file_may_contain_the_key_but_allows_no_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    (tmp_path / ".env").write_text(
        "BULA_JUDGE_HOSTS=judge.test\nOPENAI_API_KEY='sk-${HOME}-file'\n", encoding="utf-8"
    )
    assert api_keys.key_for("https://api.openai.com/v1") == "sk-${HOME}-file"
    with pytest.raises(UserError, match=r"may not be sent to judge\.test"):
        api_keys.key_for("https://judge.test/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert api_keys.key_for("https://api.openai.com/v1") == KEY


def test_git_ignores_the_env_file() -> None:
    assert ".env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    "bad", ["sk-a\nX-Header: b", "sk-a b", "sk-\N{LATIN SMALL LETTER E WITH ACUTE}"]
)
def test_error_about_an_invalid_key_does_not_show_it(
    bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", bad)
    with pytest.raises(UserError, match="contains a character that no key has") as error:
        api_keys.key_for("https://api.openai.com/v1")
    assert "sk-" not in str(error.value)


def test_error_about_a_missing_key_says_where_to_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    message = r"OPENAI_API_KEY: it is not set\. Set it, or write OPENAI_API_KEY=\.\.\. into \.env"
    with pytest.raises(UserError, match=message):
        api_keys.key_for("https://api.openai.com/v1")


def test_error_about_a_damaged_env_file_names_the_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    (tmp_path / ".env").write_bytes(b"OPENAI_API_KEY=sk-\xff\n")
    with pytest.raises(UserError, match=r"\.env: it is not UTF-8 text"):
        api_keys.key_for("https://api.openai.com/v1")


class Server(ThreadingHTTPServer):
    """A server that repeats the key in one of several ways, its mode."""

    daemon_threads = True

    def __init__(self) -> None:
        self.mode = "reason"
        self.seen: list[dict[str, str]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        prompt = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.seen.append({name.lower(): value for name, value in self.headers.items()})
        echo = f"{self.headers['Authorization']}; the prompt was {prompt}"
        status, body = reply_with(echo, self.server.mode)
        self.send_response(status)
        if status == 307:
            self.send_header("Location", f"https://{HOST}:{self.server.port}/{KEY}")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body.encode())))
        self.send_header("X-Request-Id", self.headers["Authorization"])
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


def reply_with(echo: str, mode: str) -> tuple[int, str]:
    """Return the status and the body of a reply that repeats `echo`."""
    reason = echo[:200] if mode == "reason" else "Correta."
    verdict = json.dumps({"reason": reason, "accuracy": 3, "style": 3})
    message = f"Incorrect API key provided: {echo}"
    error = json.dumps({"error": {"message": message, "code": echo, "type": echo}})
    replies = {
        "reason": (200, json.dumps({"choices": [{"message": {"content": verdict}}]})),
        "echo_401": (401, error),
        "echo_403": (403, error),
        "echo_404": (404, error),
        "echo_500": (500, error),
        "html": (200, f"<html>{echo}</html>"),
        "redirect": (307, ""),
    }
    return replies[mode]


def certify(folder: Path) -> tuple[Path, Path]:
    """Write a private key and a certificate for HOST."""
    private = ec.generate_private_key(ec.SECP256R1())
    key = folder / "key.pem"
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    localhost = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    names = x509.SubjectAlternativeName([x509.DNSName(HOST), localhost])
    authority = x509.BasicConstraints(ca=True, path_length=None)
    hour = datetime.timedelta(hours=1)
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, private.public_key(), 1)
        .not_valid_before(now - hour)
        .not_valid_after(now + hour)
        .add_extension(names, critical=False)
        .add_extension(authority, critical=True)
        .sign(private, hashes.SHA256())
    )
    certificate = folder / "certificate.pem"
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return key, certificate


def start_tls(folder: Path) -> tuple[Server, Path]:
    """Start a TLS server, and return it with its certificate."""
    server = Server()
    key, certificate = certify(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    # The handshake happens in the connection's thread, so a silent client does not block accept().
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, certificate


def resolve_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the name HOST stand for 127.0.0.1."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        address = "127.0.0.1" if host in (HOST, HOST.encode()) else host
        return resolve(address, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def write_answers(path: Path) -> None:
    """Write three answers per validation set."""
    rows = []
    for name in SET_NAMES:
        for number in range(3):
            rows.append(
                {
                    "id": f"{name}{number}",
                    "split": name,
                    "question": f"Pergunta {number} de {name}?",
                    "answer": "Sim.",
                    "generated": "PACIENTE-CANARIO não.",
                    "finish_reason": "stop",
                    "variant": "base",
                }
            )
    write_rows(path, rows)


@pytest.fixture
def outside(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    """Start a TLS server as an outside host that the environment allows."""
    server, certificate = start_tls(tmp_path_factory.mktemp("tls"))
    resolve_to_this_machine(monkeypatch)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("BULA_JUDGE_HOSTS", f"{HOST}:{server.port}")
    point_to(workspace, f"https://{HOST}:{server.port}/v1")
    write_answers(workspace / "data/answers/base.jsonl")
    yield server
    server.shutdown()
    server.server_close()


def point_to(workspace: Path, url: str) -> None:
    """Write params.yaml with the judge at `url`."""

    def edit(params: dict[str, Any]) -> None:
        params["ingest"]["judge"] = {"kind": "api", "license": "terms"}
        params["judge"].update(
            base_url=url, model="judge-1", parallel=2, retries=0, items_per_set=2
        )

    edit_params(workspace / "params.yaml", edit)
    write_calibration(workspace)


def written_files(workspace: Path) -> list[bytes]:
    """Return the content of every file that the test did not copy."""
    contents = []
    for path in workspace.rglob("*"):
        if path.is_file() and "data/demo" not in str(path):
            contents.append(path.read_bytes())
    return contents


def test_a_key_in_a_verdict_is_replaced(
    outside: Server, workspace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outside.mode = "reason"
    judge.main("base")
    printed = "".join(capfd.readouterr()).encode()
    contents = written_files(workspace)
    # The one allowed host did receive the key.
    assert {seen["authorization"] for seen in outside.seen} == {f"Bearer {KEY}"}
    assert any(b"Bearer [key]" in content for content in contents)
    assert not any(KEY.encode() in content for content in [*contents, printed])


@pytest.mark.parametrize(
    "mode", ["echo_401", "echo_403", "echo_404", "echo_500", "html", "redirect"]
)
def test_no_error_shows_the_key_or_the_prompt(
    mode: str, outside: Server, workspace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outside.mode = mode
    with pytest.raises(UserError) as caught:
        judge.main("base")
    traceback_text = "".join(traceback.format_exception(caught.value))
    printed = "".join(capfd.readouterr())
    shown = (traceback_text + printed).encode()
    # The one allowed host did receive the key.
    assert {seen["authorization"] for seen in outside.seen} == {f"Bearer {KEY}"}
    contents = written_files(workspace)
    assert not any(KEY.encode() in content for content in [*contents, shown])
    assert not any(b"Bearer [key]" in content for content in contents)
    # A server may repeat the prompt, which is about a patient.
    assert "PACIENTE" not in traceback_text


def test_openai_variables_do_not_reach_another_host(
    outside: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY", "OPENAI_BASE_URL"):
        monkeypatch.setenv(name, f"https://SECRET-{name}.test")
    monkeypatch.setenv(
        "OPENAI_CUSTOM_HEADERS", "X-Secret: SECRET-1\nAuthorization: Bearer SECRET-2"
    )
    judge.main("base")
    assert outside.seen
    assert "SECRET" not in json.dumps(outside.seen)


def test_the_stage_refuses_a_host_before_its_first_request(
    outside: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BULA_JUDGE_HOSTS")
    with pytest.raises(UserError, match=f"OPENAI_API_KEY may not be sent to {HOST}"):
        judge.main("base")
    assert outside.seen == []
