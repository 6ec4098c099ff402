"""Checks of a model's files before any library is asked to believe them.

A model directory may come from a stranger. Nothing in it may run code (auto_map, pickles), name a
file outside it, or claim sizes that its weights do not have. Each check takes less than a second.
"""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

from bula.errors import UserError
from bula.gguf_files import FETCH_AGAIN, check_gguf_model

PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
# Bytes of a number in a safetensors file.
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1}
DTYPE_BYTES |= {"U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}
# 100 bytes are a tensor's entry: room for 200,000 tensors. safetensors itself allows 100 MB.
MOST_HEADER_BYTES = 25_000_000
# Gemma 3's tokenizer.json, the largest known, has 33 MB.
MOST_TOKENIZER_BYTES = 200_000_000
MOST_JSON_BYTES = 10_000_000
MOST_TEMPLATE_BYTES = 1_000_000
# Sizes in config.json that the weights must show: none is larger than the largest dimension.
SIZES: tuple[str, ...] = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")
SIZES += ("num_key_value_heads", "head_dim")
SIZES += ("num_experts", "num_local_experts", "n_routed_experts")
LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks)\.(\d{1,6})\.")
DIRECTORY = "use a directory that `save_pretrained` wrote: config.json, *.safetensors, tokenizer"
# Keys of an adapter that make PEFT import a module, add layers, or match names by a pattern.
ADAPTER_REFUSED = ("auto_mapping", "megatron_config", "layer_replication", "layers_pattern")

Shapes = dict[str, tuple[int, ...]]


def check_model(path: Path) -> None:
    """Raise a UserError unless a model directory or GGUF file can be believed."""
    if not path.exists():
        raise UserError(path, "it does not exist", "`dvc repro` writes it, `dvc pull` fetches it")
    if path.suffix == ".gguf":
        check_gguf_model(path)
    elif not path.is_dir():
        raise UserError(path, "it is neither a directory nor a .gguf file", DIRECTORY)
    else:
        _check_directory(path.absolute(), _state(path))


def check_adapter(path: Path) -> Shapes:
    """Return shape by name of an adapter's tensors; UserError unless it is PEFT's LoRA."""
    _refuse_code(path)
    config = read_object(path / "adapter_config.json", MOST_JSON_BYTES)
    if config.get("peft_type") != "LORA":
        raise UserError(path / "adapter_config.json", "it is no LoRA adapter", "use PEFT's LoRA")
    refused = [key for key in ADAPTER_REFUSED if config.get(key)]
    if isinstance(config.get("target_modules"), str) and config["target_modules"] != "all-linear":
        refused.append("target_modules")
    if refused:
        fix = "name the modules one by one, and leave the other keys out"
        raise UserError(path / "adapter_config.json", f"{', '.join(refused)}: not supported", fix)
    shapes = check_safetensors(path / "adapter_model.safetensors")
    _check_size(path / "adapter_config.json", config, "r", max(map(max, shapes.values())))
    return shapes


def _state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return name, size and time of change of each file, which tell a folder's states apart."""
    states = [(file.name, file.stat()) for file in sorted(folder.iterdir()) if file.is_file()]
    return tuple((name, state.st_size, state.st_mtime_ns) for name, state in states)


@lru_cache(maxsize=8)
def _check_directory(folder: Path, state: tuple[tuple[str, int, int], ...]) -> None:
    """Check a model directory in a state; a state that passed is not checked again."""
    _refuse_code(folder)
    config = read_object(folder / "config.json", MOST_JSON_BYTES)
    if "transformers_weights" in config:
        raise UserError(folder / "config.json", "it names weights of its own", DIRECTORY)
    for name in ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            read_object(folder / name, MOST_JSON_BYTES)
    if (folder / "chat_template.jinja").exists():
        read_bytes(folder / "chat_template.jinja", MOST_TEMPLATE_BYTES)
    if (folder / "tokenizer.json").exists():
        _check_tokenizer(folder / "tokenizer.json")
    _check_config(folder / "config.json", config, _weights(folder))


def _refuse_code(folder: Path) -> None:
    """Raise a UserError if a folder has pickled weights or names code of its own."""
    if (folder / "config.json").exists() and (folder / "adapter_config.json").exists():
        what = "it is a model and an adapter at once, and transformers would look for another base"
        raise UserError(folder, what, "keep the model and the adapter in folders of their own")
    for file in sorted(folder.iterdir()):
        if file.suffix in PICKLES:
            fix = "delete it, and save weights as safetensors"
            raise UserError(file, "pickled files can run code when they are read", fix)
        if file.suffix == ".json" and file.name not in ("tokenizer.json", "vocab.json"):
            _refuse_auto_map(file)


def _refuse_auto_map(file: Path) -> None:
    """Raise a UserError if a JSON file names code to be run."""
    if _names_code(_parse(file, read_bytes(file, MOST_JSON_BYTES))):
        fix = "use a model of a type that transformers knows"
        raise UserError(file, "it names code of its own to be run (auto_map)", fix)


def _names_code(value: Any) -> bool:
    """Return whether an object, or one inside it, has a key auto_map."""
    todo = [value]
    while todo:
        found = todo.pop()
        if isinstance(found, dict):
            if found.get("auto_map"):
                return True
            todo += found.values()
        elif isinstance(found, list):
            todo += found
    return False


def read_bytes(file: Path, most: int) -> bytes:
    """Return a file's bytes; UserError if it is missing, no regular file, or larger than `most`."""
    if not file.is_file():
        raise UserError(file, "there is no such file", DIRECTORY)
    with file.open("rb") as opened:
        content = opened.read(most + 1)
    if len(content) > most:
        raise UserError(file, f"it has more than {most} bytes", DIRECTORY)
    return content


def read_object(file: Path, most: int) -> dict[str, Any]:
    """Return the object of a JSON file of at most `most` bytes; UserError if it is no object."""
    value = _parse(file, read_bytes(file, most))
    if not isinstance(value, dict):
        raise UserError(file, "a JSON object is expected", DIRECTORY)
    return value


def _parse(file: Path, content: bytes) -> Any:
    """Return the value of a JSON text; UserError if it is none, or has a key twice."""
    try:
        return json.loads(content, object_pairs_hook=_object)
    except RecursionError as error:
        raise UserError(file, "its JSON is nested too deeply", FETCH_AGAIN) from error
    except ValueError as error:
        # Also numbers of more than 4,300 digits, and bytes that are no UTF-8.
        raise UserError(file, f"it is no JSON ({error})", FETCH_AGAIN) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; ValueError if two readers could see different values for one key."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a key twice")
    return found


def _check_tokenizer(file: Path) -> None:
    """Raise a UserError if tokenizer.json lacks the parts that transformers looks for."""
    content = read_object(file, MOST_TOKENIZER_BYTES)
    model = content.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict | list):
        raise UserError(file, "it has no model with a vocabulary", FETCH_AGAIN)
    if not isinstance(content.get("added_tokens"), list):
        raise UserError(file, "it has no list of added_tokens", FETCH_AGAIN)


def _weights(folder: Path) -> Shapes:
    """Return shape by name of all tensors of a model directory."""
    if (folder / "model.safetensors").exists():
        return check_safetensors(folder / "model.safetensors")
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        what = "it holds no complete model: there is no *.safetensors file"
        raise UserError(folder, what, "`dvc repro` writes it, `dvc pull` fetches it")
    where = read_object(index, MOST_JSON_BYTES).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise UserError(index, "it has no weight_map", FETCH_AGAIN)
    shapes: Shapes = {}
    for name in sorted(set(map(str, where.values()))):
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors", name):
            raise UserError(index, "its weight_map names a file outside the folder", DIRECTORY)
        found = check_safetensors(folder / name)
        if found.keys() != {tensor for tensor, file in where.items() if file == name}:
            raise UserError(folder / name, "its tensors are not those of the index", FETCH_AGAIN)
        shapes |= found
    return shapes


def check_safetensors(file: Path) -> Shapes:
    """Return shape by name of a file's tensors; UserError if the header contradicts the file."""
    if not file.is_file():
        raise UserError(file, "there is no such file", FETCH_AGAIN)
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(size - 8, MOST_HEADER_BYTES):
            raise _broken(file, "its header is longer than the file, or than 25 MB")
        header = _parse(file, opened.read(length))
    if not isinstance(header, dict):
        raise _broken(file, "its header is no JSON object")
    header.pop("__metadata__", None)
    if not header:
        raise _broken(file, "it has no tensor")
    entries = sorted(_entries(file, header), key=lambda entry: entry[2])
    expected = 0
    for _, _, start, end in entries:
        if start != expected:
            raise _broken(file, "a tensor does not start where the one before it ends")
        expected = end
    if 8 + length + expected != size:
        raise _broken(file, f"its tensors need {8 + length + expected} bytes, it has {size}")
    return {name: shape for name, shape, _, _ in entries}


def _broken(file: Path, what: str) -> UserError:
    """Return the error of a file whose header cannot be believed."""
    return UserError(file, f"the safetensors file is broken: {what}", FETCH_AGAIN)


def _entries(file: Path, header: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...], int, int]]:
    """Yield name, shape, start and end of each tensor; all dimensions are positive."""
    for name, entry in header.items():
        if not isinstance(entry, dict):
            raise _broken(file, "a tensor has no entry")
        shape: Any = entry.get("shape")
        offsets: Any = entry.get("data_offsets")
        if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
            raise _broken(file, "shape and data_offsets of a tensor are no lists of numbers")
        start, end = offsets
        width = DTYPE_BYTES.get(str(entry.get("dtype")))
        if width is None or min(shape, default=1) < 1 or end - start != prod(shape) * width:
            raise _broken(file, "dtype, shape and data_offsets of a tensor do not agree")
        yield name, tuple(shape) or (1,), start, end


def _are_counts(values: Any) -> bool:
    """Return whether a value is a short list of integers, none negative."""
    return (
        isinstance(values, list)
        and len(values) <= 8
        and all(type(value) is int and 0 <= value < 2**63 for value in values)
    )


def _check_config(file: Path, config: dict[str, Any], shapes: Shapes) -> None:
    """Raise a UserError if config.json claims sizes or layers that the weights do not have."""
    largest = max(max(shape) for shape in shapes.values())
    layers = {match[1] for name in shapes if (match := LAYER.search(name))}
    if not isinstance(config.get("model_type"), str):
        raise UserError(file, "it has no model_type", DIRECTORY)
    # A model that also reads pictures keeps the numbers of its language part one level deeper.
    text = config.get("text_config", {})
    for part in (config, text if isinstance(text, dict) else {}):
        for key in SIZES:
            _check_size(file, part, key, largest)
        _check_size(file, part, "num_hidden_layers", len(layers) or len(shapes))


def _check_size(file: Path, config: dict[str, Any], key: str, most: int) -> None:
    """Raise a UserError unless a size is absent, null or an integer from 1 to `most`."""
    value = config.get(key)
    if value is not None and (type(value) is not int or not 1 <= value <= most):
        what = f"{key} is {value!r:.40}, and its weights allow an integer from 1 to {most}"
        raise UserError(file, what, FETCH_AGAIN)
