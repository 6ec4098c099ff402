"""Broken and hostile model files end with a UserError: at once, without a question or a blow-up."""

import json
import pickle
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.clones import ROOT
from bula.errors import UserError
from bula.model_files import check_adapter, check_model
from bula.models import library_errors, load_adapted, load_model, load_tokenizer

Break = Callable[[Path], object]
LAYER = "model.layers.0.self_attn.o_proj.weight"


def edit_json(name: str, **changes: object) -> Break:
    """Return a function that changes keys of one of a folder's JSON files."""

    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(content | changes), encoding="utf-8")

    return edit


def write(name: str, content: str | bytes) -> Break:
    """Return a function that writes one of a folder's files."""

    def edit(folder: Path) -> None:
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)

    return edit


def edit_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Break:
    """Return a function that changes the tensors of a folder's weights."""

    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


def edit_header(change: Callable[[dict[str, Any]], object]) -> Break:
    """Return a function that changes the header of a folder's weights, and nothing after it."""

    def edit(folder: Path) -> None:
        content = (folder / "model.safetensors").read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        start = struct.pack("<Q", len(text)) + text
        (folder / "model.safetensors").write_bytes(start + content[8 + length :])

    return edit


def move_weights(name: str) -> Break:
    """Return a function that moves the weights to `name`, and writes an index that says so."""

    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").rename(folder / name)
        index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, name)}
        write("model.safetensors.index.json", json.dumps(index))(folder)

    return edit


def cut(name: str, keep: int) -> Break:
    """Return a function that cuts a file; `keep` counts from its end if negative."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep])


def pickled(folder: Path) -> None:
    """Leave only pickled weights, which name a program."""
    (folder / "model.safetensors").unlink()
    (folder / "weights.pt").write_bytes(pickle.dumps(print))


class AloneError(Exception):
    """Stands for an exception of a kind that no library is known to raise."""


def head_of_its_own(tensors: dict[str, torch.Tensor]) -> None:
    """Add a head that is not the embeddings, though config.json ties them."""
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1


BROKEN: dict[str, tuple[Break, str]] = {
    "code of its own": (edit_json("config.json", auto_map={"AutoConfig": "x.Y"}), "auto_map"),
    "code one level deeper": (
        edit_json("generation_config.json", sub={"auto_map": {"AutoModel": "x.Y"}}),
        "auto_map",
    ),
    "code of the tokenizer": (
        edit_json("tokenizer_config.json", auto_map={"AutoTokenizer": ["x.Y", None]}),
        "auto_map",
    ),
    "pickled weights": (pickled, "pickled files can run code"),
    "pickle beside the weights": (write("old.bin", b"\x80"), "pickled files can run code"),
    "an adapter of another base": (write("adapter_config.json", "{}"), "model and an adapter"),
    "configuration is a list": (write("config.json", "[]"), "a JSON object is expected"),
    "configuration has a key twice": (write("config.json", '{"a": 1, "a": 2}'), "a key twice"),
    "configuration is no text": (write("config.json", b"\xff\xfe{"), "it is no JSON"),
    "no type": (edit_json("config.json", model_type=None), "it has no model_type"),
    "weights by another name": (
        edit_json("config.json", transformers_weights="../x.safetensors"),
        "it names weights of its own",
    ),
    "unknown type": (edit_json("config.json", model_type="bulario"), "it cannot be loaded"),
    "a million layers": (
        edit_json("config.json", num_hidden_layers=10**6),
        "num_hidden_layers is 1000000, and its weights allow an integer from 1 to 2",
    ),
    "width is a text": (edit_json("config.json", hidden_size="256"), "hidden_size is '256'"),
    "huge vocabulary": (edit_json("config.json", vocab_size=2**62), "vocab_size is"),
    "no head": (edit_json("config.json", num_attention_heads=0), "num_attention_heads is 0"),
    "fewer layers": (edit_json("config.json", num_hidden_layers=1), "tensors are of another model"),
    "another width": (edit_json("config.json", intermediate_size=64), "tensors have another shape"),
    "no norm of rotary angles": (
        edit_json("config.json", rope_parameters={"rope_type": "none"}),
        "it cannot be loaded",
    ),
    "a tensor is missing": (
        edit_tensors(lambda tensors: tensors.pop(LAYER)),
        f"tensors are missing (1, such as {LAYER})",
    ),
    "a tensor too many": (
        edit_tensors(lambda tensors: tensors.update(extra=torch.ones(2))),
        "tensors are of another model (1, such as extra)",
    ),
    "a NaN": (
        edit_tensors(lambda tensors: tensors[LAYER][3, 5].fill_(float("nan"))),
        f"{LAYER} is not finite",
    ),
    "an infinity": (
        edit_tensors(lambda tensors: tensors[LAYER][0, 0].fill_(float("-inf"))),
        f"{LAYER} is not finite",
    ),
    "two heads": (edit_tensors(head_of_its_own), "ties the head to the embeddings"),
    "untied without a head": (
        edit_json("config.json", tie_word_embeddings=False),
        "tensors are missing (1, such as lm_head.weight)",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no complete model"),
    "empty weights": (write("model.safetensors", b""), "longer than the file"),
    "header longer than the file": (cut("model.safetensors", 100), "longer than the file"),
    "weights cut by a byte": (cut("model.safetensors", -1), "bytes, it has"),
    "header is a list": (
        write("model.safetensors", struct.pack("<Q", 2) + b"[]"),
        "no JSON object",
    ),
    "offset beyond the file": (
        edit_header(lambda header: header[LAYER]["data_offsets"].__setitem__(1, 2**50)),
        "do not agree",
    ),
    "shape too large": (
        edit_header(lambda header: header[LAYER].update(shape=[2**40, 2**40])),
        "do not agree",
    ),
    "weights elsewhere": (move_weights("../outside.safetensors"), "a file outside the folder"),
    "index names no file": (
        write("model.safetensors.index.json", '{"weight_map": []}'),
        "it has no weight_map",
    ),
    "tokenizer nests deeply": (
        write("tokenizer.json", '{"a":' * 50_000 + "1" + "}" * 50_000),
        "nested too deeply",
    ),
    "tokenizer without words": (
        write("tokenizer.json", '{"model": {}}'),
        "no model with a vocabulary",
    ),
    "tokenizer of numbers": (
        write("tokenizer.json", '{"model": {"vocab": {"a": "b"}}, "added_tokens": []}'),
        "it cannot be loaded",
    ),
}


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the two-layer model, to be broken."""
    shutil.copytree(tiny, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_directory_ends_with_a_sentence_at_once(name: str, folder: Path) -> None:
    change, sentence = BROKEN[name]
    change(folder)
    if name == "index names no file":
        (folder / "model.safetensors").unlink()
    start = time.monotonic()
    with pytest.raises(UserError) as found:
        load_tokenizer(folder)
        load_model(folder, "float32")
    assert sentence in str(found.value)
    assert str(folder) in found.value.where
    assert time.monotonic() - start < 15


def test_an_untouched_directory_and_a_sharded_one_pass(folder: Path) -> None:
    whole = load_model(folder, "float32").state_dict()
    move_weights("model-00001-of-00001.safetensors")(folder)
    sharded = load_model(folder, "float32").state_dict()
    assert all(torch.equal(whole[name], sharded[name]) for name in whole)


def test_a_head_that_equals_the_embeddings_is_no_fault(folder: Path) -> None:
    edit_tensors(lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))(
        folder
    )
    model = load_model(folder, "float32")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_folder_that_changed_is_checked_again(folder: Path) -> None:
    check_model(folder)
    edit_json("config.json", num_hidden_layers=10**6)(folder)
    with pytest.raises(UserError, match="num_hidden_layers"):
        check_model(folder)


@pytest.mark.parametrize("name", ["none", "none.gguf"])
def test_a_model_that_does_not_exist_says_how_to_get_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`dvc repro` writes it, `dvc pull` fetches it"):
        load_model(tmp_path / name, "float32")


LIMITED = """
import resource, sys
from pathlib import Path
from bula.errors import UserError
from bula.models import load_model, load_tokenizer
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
for folder in map(Path, sys.argv[1:]):
    try:
        load_tokenizer(folder), load_model(folder, "float32")
    except UserError as error:
        print("UserError", error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_hostile_directories_ask_nothing_and_take_no_memory(tiny: Path, tmp_path: Path) -> None:
    names = ("a million layers", "huge vocabulary", "code of its own", "tokenizer nests deeply")
    for name in names:
        shutil.copytree(tiny, tmp_path / name)
        BROKEN[name][0](tmp_path / name)
    command = [sys.executable, "-c", LIMITED, *(str(tmp_path / name) for name in names)]
    # A question on the terminal would find no answer, and would stand in the output.
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, input="")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["UserError"] * len(names)
    assert "custom code" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "error",
    [
        struct.error("unpack"),
        KeyError("added_tokens"),
        OSError("no number"),
        MemoryError(),
        pickle.UnpicklingError("weights only"),
        RecursionError("too deep"),
        ZeroDivisionError("modulo"),
        Exception("expected value at line 1 column 1"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_library_raises_over_a_file_becomes_a_user_error(error: Exception) -> None:
    with (
        pytest.raises(UserError, match=f"{type(error).__name__}|the memory is too small"),
        library_errors(Path("models/base")),
    ):
        raise error


@pytest.mark.parametrize("error", [AssertionError("a bug"), KeyboardInterrupt(), AloneError()])
def test_other_exceptions_keep_their_traceback(error: BaseException) -> None:
    with pytest.raises(type(error)), library_errors(Path("models/base")):
        raise error


@pytest.fixture
def adapter(tiny: Path, tmp_path: Path) -> Path:
    """An adapter of the two-layer model."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    model = get_peft_model(load_model(tiny, "float32"), config)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def edit_adapter(change: Callable[[dict[str, torch.Tensor]], object]) -> Break:
    """Return a function that changes the matrices of an adapter."""

    def edit(folder: Path) -> None:
        matrices = load_file(folder / "adapter_model.safetensors")
        change(matrices)
        save_file(matrices, folder / "adapter_model.safetensors", metadata={"format": "pt"})

    return edit


def drop_half(matrices: dict[str, torch.Tensor]) -> None:
    """Remove all B matrices: PEFT would leave them at zero."""
    for name in [name for name in matrices if "lora_B" in name]:
        del matrices[name]


def widen(matrices: dict[str, torch.Tensor]) -> None:
    """Give one matrix another rank."""
    name = next(name for name in matrices if "lora_A" in name)
    matrices[name] = torch.ones(8, matrices[name].shape[1])


BROKEN_ADAPTERS: dict[str, tuple[Break, str]] = {
    "half of it": (edit_adapter(drop_half), "matrices are missing (4, such as"),
    "a matrix too many": (
        edit_adapter(lambda matrices: matrices.update(extra=torch.ones(2))),
        "matrices belong to no layer (1, such as extra)",
    ),
    "another rank": (edit_adapter(widen), "it cannot be loaded (RuntimeError"),
    "a NaN": (
        edit_adapter(lambda matrices: next(iter(matrices.values()))[0, 0].fill_(float("nan"))),
        "hold a NaN",
    ),
    "no LoRA": (edit_json("adapter_config.json", peft_type="IA3"), "it is no LoRA adapter"),
    "imports a module": (
        edit_json("adapter_config.json", megatron_config={"a": 1}, megatron_core="os"),
        "megatron_config: not supported",
    ),
    "adds layers": (
        edit_json("adapter_config.json", layer_replication=[[0, 2]]),
        "layer_replication",
    ),
    "an expression for names": (
        edit_json("adapter_config.json", target_modules="(a+)+$"),
        "target_modules: not supported",
    ),
    "huge rank": (edit_json("adapter_config.json", r=10**9), "r is 1000000000"),
    "unknown modules": (
        edit_json("adapter_config.json", target_modules=["nothing"]),
        "it cannot be loaded (NoMatchingPeftModuleError",
    ),
    "pickled": (write("adapter_model.bin", b"\x80"), "pickled files can run code"),
    "cut": (cut("adapter_model.safetensors", -1), "safetensors file is broken"),
}


@pytest.mark.parametrize("name", BROKEN_ADAPTERS)
def test_a_broken_adapter_ends_with_a_sentence(name: str, adapter: Path, tiny: Path) -> None:
    change, sentence = BROKEN_ADAPTERS[name]
    change(adapter)
    with pytest.raises(UserError) as found:
        load_adapted(tiny, adapter, "float32")
    assert sentence in str(found.value)


def test_a_complete_adapter_loads(adapter: Path, tiny: Path) -> None:
    assert len(check_adapter(adapter)) == 8
    assert not load_adapted(tiny, adapter, "float32").training
