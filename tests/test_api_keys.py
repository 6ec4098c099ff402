"""Which key goes where, and that a key never shows up in what the judge writes or prints."""

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

KEY = "sk-CANARY-5d1c0b7e9a"
HOST = "judge.test"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("BULA_JUDGE_HOSTS", raising=False)


def test_openai_gets_the_key_and_this_machine_gets_none() -> None:
    for url in (
        "https://api.openai.com/v1",
        "https://api.openai.com:443/v1/",
        "https://API.OpenAI.com",
    ):
        assert api_keys.key_for(url) == KEY
    for url in (
        "http://127.0.0.1:8000/v1",
        "http://localhost/v1",
        "http://[::1]:9/v1",
        "https://127.0.0.1/v1",
    ):
        assert api_keys.key_for(url) == api_keys.LOCAL_KEY


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://api.openai.com/v1", "over https alone"),
        ("https://judge.test/v1", "may not be sent to judge.test. If you trust that host"),
        ("https://api.openai.com:8443/v1", "may not be sent to api.openai.com:8443"),
        ("https://api.openai.com./v1", "may not be sent to api.openai.com."),
        ("https://api.openai.com.judge.test/v1", "may not be sent to api.openai.com.judge.test"),
        ("http://127.0.0.1.judge.test/v1", "over https alone"),
        ("http://127.1/v1", "over https alone"),
        ("http://2130706433/v1", "over https alone"),
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
        # A Cyrillic a, a full-width l, the Kelvin sign: IDNA maps some of them to ASCII.
        ("https://\N{CYRILLIC SMALL LETTER A}pi.openai.com/v1", "not a plain"),
        ("http://\N{FULLWIDTH LATIN SMALL LETTER L}ocalhost/v1", "not a plain"),
        ("https://\N{KELVIN SIGN}.test/v1", "not a plain"),
        ("ftp://api.openai.com/v1", "not a plain"),
        ("//api.openai.com/v1", "not a plain"),
        ("", "not a plain"),
    ],
)
def test_another_address_is_refused_before_the_key_is_read(
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


def test_env_file_holds_a_key_and_allows_no_host(
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
def test_a_key_that_no_header_can_carry_is_a_sentence_without_the_key(
    bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", bad)
    with pytest.raises(UserError, match="holds a character that no key has") as error:
        api_keys.key_for("https://api.openai.com/v1")
    assert "sk-" not in str(error.value)


def test_a_missing_key_and_a_damaged_env_file_are_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(
        UserError,
        match=r"OPENAI_API_KEY: it is not set\. Set it, or write OPENAI_API_KEY=\.\.\. into \.env",
    ):
        api_keys.key_for("https://api.openai.com/v1")
    (tmp_path / ".env").write_bytes(b"OPENAI_API_KEY=sk-\xff\n")
    with pytest.raises(UserError, match=r"\.env: it is not UTF-8 text"):
        api_keys.key_for("https://api.openai.com/v1")


class Handler(BaseHTTPRequestHandler):
    """Answers in one of the ways in which a server can give a key back."""

    server: Any

    def do_POST(self) -> None:
        prompt = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.seen.append({name.lower(): value for name, value in self.headers.items()})
        echo = f"{self.headers['Authorization']}; the prompt was {prompt}"
        verdict = json.dumps(
            {
                "reason": echo[:200] if self.server.mode == "reason" else "Correta.",
                "accuracy": 3,
                "style": 3,
            }
        )
        good = json.dumps({"choices": [{"message": {"content": verdict}}]})
        error = json.dumps(
            {
                "error": {
                    "message": f"Incorrect API key provided: {echo}",
                    "code": echo,
                    "type": echo,
                }
            }
        )
        status, body = {
            "reason": (200, good),
            "echo_401": (401, error),
            "echo_403": (403, error),
            "echo_404": (404, error),
            "echo_500": (500, error),
            "html": (200, f"<html>{echo}</html>"),
            "redirect": (307, ""),
        }[self.server.mode]
        self.send_response(status)
        if status == 307:
            self.send_header("Location", f"https://{HOST}:{self.server.server_address[1]}/{KEY}")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body.encode())))
        self.send_header("X-Request-Id", self.headers["Authorization"])
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


def certify(folder: Path) -> tuple[Path, Path]:
    """Write a key and a certificate for HOST that lasts an hour."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName(
        [x509.DNSName(HOST), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    builder = x509.CertificateBuilder(name, name, private.public_key(), 1)
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
    builder = builder.not_valid_after(now + datetime.timedelta(hours=1)).add_extension(
        names, critical=False
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(
        private.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    )
    (folder / "certificate.pem").write_bytes(
        builder.sign(private, hashes.SHA256()).public_bytes(pem)
    )
    return folder / "key.pem", folder / "certificate.pem"


@pytest.fixture
def outside(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """A TLS server that stands for an outside host which the environment allows."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.seen = []  # type: ignore[attr-defined]
    key, certificate = certify(tmp_path_factory.mktemp("tls"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    # The handshake belongs to the thread of its connection; in accept() a silent client would stop the server.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    resolve = socket.getaddrinfo

    def to_this_machine(host: Any, *args: Any, **options: Any) -> Any:
        return resolve("127.0.0.1" if host in (HOST, HOST.encode()) else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", to_this_machine)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("BULA_JUDGE_HOSTS", f"{HOST}:{port}")
    point_to(workspace, f"https://{HOST}:{port}/v1")
    same = {"answer": "Sim.", "generated": "PACIENTE-CANARIO não.", "variant": "base"}
    rows = [
        {"id": f"{s}{n}", "split": s, "question": f"Pergunta {n} de {s}?"} | same
        for s in SET_NAMES
        for n in range(3)
    ]
    write_rows(workspace / "data/answers/base.jsonl", rows)
    yield server
    server.shutdown()
    server.server_close()


def point_to(workspace: Path, url: str) -> None:
    def edit(params: dict[str, Any]) -> None:
        params["ingest"]["judge"] = {"kind": "api", "license": "terms"}
        params["judge"] |= {
            "base_url": url,
            "model": "judge-1",
            "parallel": 2,
            "retries": 0,
            "items_per_set": 2,
        }

    edit_params(workspace / "params.yaml", edit)


@pytest.mark.parametrize(
    "mode", ["reason", "echo_401", "echo_403", "echo_404", "echo_500", "html", "redirect"]
)
def test_no_output_holds_the_key(
    mode: str, outside: Any, workspace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outside.mode = mode
    shown = ""
    try:
        judge.main("base")
    except UserError as error:
        shown = "".join(traceback.format_exception(error))
    # The key did travel, to the one host that may have it.
    assert {seen["authorization"] for seen in outside.seen} == {f"Bearer {KEY}"}
    written = {
        path: path.read_bytes()
        for path in workspace.rglob("*")
        if path.is_file() and "data/demo" not in str(path)
    }
    assert bool(shown) == (mode != "reason")
    assert any(b"Bearer [key]" in content for content in written.values()) == (mode == "reason")
    for text in (*written.values(), shown.encode(), "".join(capfd.readouterr()).encode()):
        assert KEY.encode() not in text
    # What a server says about a prompt stays out of errors too.
    assert "PACIENTE" not in shown


def test_openai_variables_do_not_reach_another_host(
    outside: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside.mode = "reason"
    names = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY", "OPENAI_BASE_URL")
    for name in names:
        monkeypatch.setenv(name, f"https://SECRET-{name}.test")
    monkeypatch.setenv(
        "OPENAI_CUSTOM_HEADERS", "X-Secret: SECRET-1\nAuthorization: Bearer SECRET-2"
    )
    judge.main("base")
    assert outside.seen
    assert "SECRET" not in json.dumps(outside.seen)


def test_the_stage_refuses_a_host_before_its_first_request(
    outside: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BULA_JUDGE_HOSTS")
    with pytest.raises(UserError, match=f"OPENAI_API_KEY may not be sent to {HOST}"):
        judge.main("base")
    assert outside.seen == []
