"""Test that broken and hostile model files raise a UserError.

The error comes soon, without a question on the terminal and without using much memory.
"""

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
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from bench.clones import ROOT
from bula.errors import UserError
from bula.model_files import check_adapter, check_model
from bula.models import library_errors, load_adapted, load_model, load_tokenizer

Damage = Callable[[Path], object]
LAYER = "model.layers.0.self_attn.o_proj.weight"


def edit_json(name: str, **changes: object) -> Damage:
    """Return a function that changes keys of a JSON file."""

    def edit(folder: Path) -> None:
        file = folder / name
        content = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps(content | changes), encoding="utf-8")

    return edit


def write(name: str, content: str | bytes) -> Damage:
    """Return a function that writes a file in a folder."""

    def edit(folder: Path) -> None:
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)

    return edit


def edit_tensors(
    change: Callable[[dict[str, torch.Tensor]], object], name: str = "model.safetensors"
) -> Damage:
    """Return a function that changes tensors of a safetensors file."""

    def edit(folder: Path) -> None:
        tensors = load_file(folder / name)
        change(tensors)
        save_file(tensors, folder / name, metadata={"format": "pt"})

    return edit


def edit_header(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Return a function that changes only the header of a folder's weights."""

    def edit(folder: Path) -> None:
        file = folder / "model.safetensors"
        content = file.read_bytes()
        [length] = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        data = content[8 + length :]
        file.write_bytes(struct.pack("<Q", len(text)) + text + data)

    return edit


def move_weights(name: str) -> Damage:
    """Return a function that moves weights and writes their index."""

    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").rename(folder / name)
        index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, name)}
        write("model.safetensors.index.json", json.dumps(index))(folder)

    return edit


def cut(name: str, keep: int) -> Damage:
    """Return a function that cuts a file to content[:keep]."""

    def edit(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:keep])

    return edit


def delete_weights(folder: Path) -> None:
    """Delete the weights."""
    (folder / "model.safetensors").unlink()


def pickle_weights(folder: Path) -> None:
    """Replace the weights by a pickle that names a function."""
    delete_weights(folder)
    (folder / "weights.pt").write_bytes(pickle.dumps(print))


def write_empty_index(folder: Path) -> None:
    """Replace the weights by an index that names no file."""
    delete_weights(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": []}', encoding="utf-8")


def add_head(tensors: dict[str, torch.Tensor]) -> None:
    """Add a head that differs from the embeddings, though config.json ties them."""
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1


def copy_embeddings(tensors: dict[str, torch.Tensor]) -> None:
    """Add a head that equals the embeddings."""
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()


BROKEN_JSON: dict[str, tuple[Damage, str]] = {
    "auto_map of the model": (
        edit_json("config.json", auto_map={"AutoConfig": "x.Y"}),
        "auto_map",
    ),
    "auto_map one level deeper": (
        edit_json("generation_config.json", sub={"auto_map": {"AutoModel": "x.Y"}}),
        "auto_map",
    ),
    "auto_map of the tokenizer": (
        edit_json("tokenizer_config.json", auto_map={"AutoTokenizer": ["x.Y", None]}),
        "auto_map",
    ),
    "adapter of another base": (write("adapter_config.json", "{}"), "model and an adapter"),
    "list as configuration": (write("config.json", "[]"), "a JSON object is expected"),
    "key twice": (write("config.json", '{"a": 1, "a": 2}'), "a key twice"),
    "binary configuration": (write("config.json", b"\xff\xfe{"), "it is not valid JSON"),
    "no model type": (edit_json("config.json", model_type=None), "it has no model_type"),
    "weights by another name": (
        edit_json("config.json", transformers_weights="../x.safetensors"),
        "transformers_weights names other weights",
    ),
    "unknown model type": (edit_json("config.json", model_type="bulario"), "it cannot be loaded"),
    "unknown RoPE type": (
        edit_json("config.json", rope_parameters={"rope_type": "none"}),
        "it cannot be loaded",
    ),
    "deeply nested tokenizer": (
        write("tokenizer.json", '{"a":' * 50_000 + "1" + "}" * 50_000),
        "nested too deeply",
    ),
    "tokenizer without vocabulary": (
        write("tokenizer.json", '{"model": {}}'),
        "no model with a vocabulary",
    ),
    "tokenizer with a text as token id": (
        write("tokenizer.json", '{"model": {"vocab": {"a": "b"}}, "added_tokens": []}'),
        "it cannot be loaded",
    ),
}
WRONG_SIZES: dict[str, tuple[Damage, str]] = {
    "a million layers": (
        edit_json("config.json", num_hidden_layers=10**6),
        "num_hidden_layers is 1000000, but its weights allow an integer from 1 to 2",
    ),
    "text as width": (edit_json("config.json", hidden_size="256"), "hidden_size is '256'"),
    "huge vocabulary": (edit_json("config.json", vocab_size=2**62), "vocab_size is"),
    "no head": (edit_json("config.json", num_attention_heads=0), "num_attention_heads is 0"),
    "fewer layers": (edit_json("config.json", num_hidden_layers=1), "tensors are of another model"),
    "another width": (edit_json("config.json", intermediate_size=64), "tensors have another shape"),
}
BROKEN_TENSORS: dict[str, tuple[Damage, str]] = {
    "missing tensor": (
        edit_tensors(lambda tensors: tensors.pop(LAYER)),
        f"tensors are missing (1, such as {LAYER})",
    ),
    "additional tensor": (
        edit_tensors(lambda tensors: tensors.update(extra=torch.ones(2))),
        "tensors are of another model (1, such as extra)",
    ),
    "NaN": (
        edit_tensors(lambda tensors: tensors[LAYER][3, 5].fill_(float("nan"))),
        f"{LAYER} is not finite",
    ),
    "infinity": (
        edit_tensors(lambda tensors: tensors[LAYER][0, 0].fill_(float("-inf"))),
        f"{LAYER} is not finite",
    ),
    "tied model with a head": (edit_tensors(add_head), "ties the head to the embeddings"),
    "untied model without a head": (
        edit_json("config.json", tie_word_embeddings=False),
        "tensors are missing (1, such as lm_head.weight)",
    ),
}
BROKEN_WEIGHT_FILES: dict[str, tuple[Damage, str]] = {
    "pickled weights": (pickle_weights, "pickled files can run code"),
    "pickle beside the weights": (write("old.bin", b"\x80"), "pickled files can run code"),
    "no weights": (delete_weights, "no complete model"),
    "empty weights": (write("model.safetensors", b""), "longer than the file"),
    "header longer than the file": (cut("model.safetensors", 100), "longer than the file"),
    "weights cut by a byte": (cut("model.safetensors", -1), "bytes, but it has"),
    "list as header": (
        write("model.safetensors", struct.pack("<Q", 2) + b"[]"),
        "not a JSON object",
    ),
    "offset beyond the file": (
        edit_header(lambda header: header[LAYER]["data_offsets"].__setitem__(1, 2**50)),
        "do not agree",
    ),
    "shape too large": (
        edit_header(lambda header: header[LAYER].update(shape=[2**40, 2**40])),
        "do not agree",
    ),
    "weights outside the folder": (
        move_weights("../outside.safetensors"),
        "a file outside the folder",
    ),
    "index without files": (write_empty_index, "it has no weight_map"),
}
BROKEN_MODELS = {**BROKEN_JSON, **WRONG_SIZES, **BROKEN_TENSORS, **BROKEN_WEIGHT_FILES}


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """Return a copy of the two-layer model, which a test may damage."""
    shutil.copytree(tiny, tmp_path / "model")
    return tmp_path / "model"


# transformers warns of the older form of RoPE's settings for a model type that it does not know.
@pytest.mark.filterwarnings("ignore:`rope_scaling` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", BROKEN_MODELS)
def test_a_broken_directory_raises_a_user_error_soon(name: str, folder: Path) -> None:
    damage, message = BROKEN_MODELS[name]
    damage(folder)
    start = time.monotonic()
    with pytest.raises(UserError) as found:
        load_tokenizer(folder)
        load_model(folder, "float32")
    assert message in str(found.value)
    assert str(folder) in found.value.where
    assert time.monotonic() - start < 100


def test_a_sharded_directory_loads_the_same_weights(folder: Path) -> None:
    complete = load_model(folder, "float32").state_dict()
    move_weights("model-00001-of-00001.safetensors")(folder)
    sharded = load_model(folder, "float32").state_dict()
    assert complete
    for name, weight in complete.items():
        assert torch.equal(weight, sharded[name])


def test_a_head_that_equals_the_tied_embeddings_is_accepted(folder: Path) -> None:
    edit_tensors(copy_embeddings)(folder)
    model = load_model(folder, "float32")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_changed_folder_is_checked_again(folder: Path) -> None:
    check_model(folder)
    edit_json("config.json", num_hidden_layers=10**6)(folder)
    with pytest.raises(UserError, match="num_hidden_layers"):
        check_model(folder)


@pytest.mark.parametrize("name", ["none", "none.gguf"])
def test_the_error_for_a_missing_model_says_how_to_get_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`dvc repro` writes it, `dvc pull` fetches it"):
        load_model(tmp_path / name, "float32")


LOAD_WITH_1_GB = """
import resource, sys
from pathlib import Path
from bula.errors import UserError
from bula.models import load_model, load_tokenizer
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
for folder in map(Path, sys.argv[1:]):
    try:
        load_tokenizer(folder)
        load_model(folder, "float32")
    except UserError as error:
        print("UserError", error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_hostile_directories_ask_no_question_and_need_little_memory(
    tiny: Path, tmp_path: Path
) -> None:
    names = [
        "a million layers",
        "huge vocabulary",
        "auto_map of the model",
        "deeply nested tokenizer",
    ]
    for name in names:
        shutil.copytree(tiny, tmp_path / name)
        damage, _ = BROKEN_MODELS[name]
        damage(tmp_path / name)
    command = [sys.executable, "-c", LOAD_WITH_1_GB, *(str(tmp_path / name) for name in names)]
    # With empty standard input, a question on the terminal would fail and appear in the output.
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, input="")
    outcomes = [line.split()[0] for line in done.stdout.splitlines()]
    assert outcomes == ["UserError"] * len(names)
    assert "custom code" not in done.stdout + done.stderr


class UnknownError(Exception):
    """An exception that no library is known to raise."""


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
def test_an_error_of_a_library_becomes_a_user_error(error: Exception) -> None:
    reason = "too little memory" if isinstance(error, MemoryError) else type(error).__name__
    with pytest.raises(UserError, match=reason), library_errors(Path("models/base")):
        raise error


@pytest.mark.parametrize("error", [AssertionError("a bug"), KeyboardInterrupt(), UnknownError()])
def test_other_exceptions_pass_through_unchanged(error: BaseException) -> None:
    with pytest.raises(type(error)), library_errors(Path("models/base")):
        raise error


@pytest.fixture
def adapter(tiny: Path, tmp_path: Path) -> Path:
    """Return an adapter of the two-layer model."""
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    model = get_peft_model(load_model(tiny, "float32"), config)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def edit_adapter(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """Return a function that changes the matrices of an adapter."""
    return edit_tensors(change, "adapter_model.safetensors")


def drop_b_matrices(matrices: dict[str, torch.Tensor]) -> None:
    """Remove all B matrices; PEFT would leave them at zero."""
    for name in list(matrices):
        if "lora_B" in name:
            del matrices[name]


def widen(matrices: dict[str, torch.Tensor]) -> None:
    """Change the rank of one matrix."""
    name = next(name for name in matrices if "lora_A" in name)
    matrices[name] = torch.ones(8, matrices[name].shape[1])


def add_nan(matrices: dict[str, torch.Tensor]) -> None:
    """Write a NaN into one matrix."""
    first = next(iter(matrices.values()))
    first[0, 0] = float("nan")


BROKEN_ADAPTERS: dict[str, tuple[Damage, str]] = {
    "no B matrices": (edit_adapter(drop_b_matrices), "matrices are missing (4, such as"),
    "additional matrix": (
        edit_adapter(lambda matrices: matrices.update(extra=torch.ones(2))),
        "matrices belong to no layer (1, such as extra)",
    ),
    "another rank": (edit_adapter(widen), "it cannot be loaded (RuntimeError"),
    "NaN": (edit_adapter(add_nan), "matrices contain a NaN"),
    "IA3": (edit_json("adapter_config.json", peft_type="IA3"), "it is not a LoRA adapter"),
    "imports a module": (
        edit_json("adapter_config.json", megatron_config={"a": 1}, megatron_core="os"),
        "megatron_config: not supported",
    ),
    "adds layers": (
        edit_json("adapter_config.json", layer_replication=[[0, 2]]),
        "layer_replication",
    ),
    "regular expression for names": (
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
def test_a_broken_adapter_raises_a_user_error(name: str, adapter: Path, tiny: Path) -> None:
    damage, message = BROKEN_ADAPTERS[name]
    damage(adapter)
    with pytest.raises(UserError) as found:
        load_adapted(tiny, adapter, "float32")
    assert message in str(found.value)


def test_a_complete_adapter_loads_for_evaluation(adapter: Path, tiny: Path) -> None:
    # Each of the two blocks has an A and a B matrix in two layers.
    assert len(check_adapter(adapter)) == 8
    assert not load_adapted(tiny, adapter, "float32").training
