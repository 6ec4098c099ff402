"""Check a model's files before a library trusts them.

A model directory may come from a stranger. Its files must not run code (auto_map, pickles), name a
file outside the directory, or claim sizes that the weights do not have. Each check takes less than
a second.
"""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from bula.errors import UserError
from bula.gguf_files import FETCH_AGAIN, check_gguf_model

PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
# Bytes per number in a safetensors file.
DTYPE_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
# Room for 200,000 tensors, whose entries have about 100 bytes; safetensors itself allows 100 MB.
MOST_HEADER_BYTES = 25_000_000
# Gemma 3's tokenizer.json, the largest known, has 33 MB.
MOST_TOKENIZER_BYTES = 200_000_000
MOST_JSON_BYTES = 10_000_000
MOST_TEMPLATE_BYTES = 1_000_000
MOST_DIMENSIONS = 8
# Sizes in config.json that cannot exceed the largest dimension of the weights.
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
)
LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks)\.(\d{1,6})\.")
SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")
ADAPTER_CONFIG = "adapter_config.json"
# Keys of an adapter that make PEFT import a module, add layers, or match names by a pattern.
ADAPTER_REFUSED = ("auto_mapping", "megatron_config", "layer_replication", "layers_pattern")
# Two fixes that several errors name.
GET_MODEL = "`dvc repro` writes it, `dvc pull` fetches it"
DIRECTORY = "use a directory that `save_pretrained` wrote: config.json, *.safetensors, tokenizer"

Shapes = dict[str, tuple[int, ...]]
# Name, size and time of change of each file in a folder.
State = tuple[tuple[str, int, int], ...]


class _Entry(NamedTuple):
    """A tensor's entry in a header; offsets count from the header's end."""

    name: str
    shape: tuple[int, ...]
    start: int
    end: int


def check_model(path: Path) -> None:
    """Raise a UserError unless a model directory or GGUF file is consistent."""
    if not path.exists():
        raise UserError(path, "it does not exist", GET_MODEL)
    if path.suffix == ".gguf":
        check_gguf_model(path)
    elif not path.is_dir():
        raise UserError(path, "it is neither a directory nor a .gguf file", DIRECTORY)
    else:
        _check_directory(path.absolute(), _state(path))


def is_adapter(path: Path) -> bool:
    """Return whether a path is the folder of a LoRA adapter."""
    return (path / ADAPTER_CONFIG).is_file()


def check_adapter(path: Path) -> Shapes:
    """Return the shapes of an adapter's tensors by name.

    Raise a UserError unless the adapter is a LoRA adapter of PEFT.
    """
    _refuse_code(path)
    config_file = path / ADAPTER_CONFIG
    config = read_object(config_file, MOST_JSON_BYTES)
    if config.get("peft_type") != "LORA":
        raise UserError(config_file, "it is not a LoRA adapter", "use PEFT's LoRA")
    if refused := _refused_keys(config):
        fix = "name the modules one by one, and remove the other keys"
        raise UserError(config_file, f"{', '.join(refused)}: not supported", fix)
    shapes = check_safetensors(path / "adapter_model.safetensors")
    _check_size(config_file, config, "r", _largest_dimension(shapes))
    return shapes


def _refused_keys(config: dict[str, Any]) -> list[str]:
    """Return the keys of an adapter's configuration that are not supported."""
    refused = [key for key in ADAPTER_REFUSED if config.get(key)]
    modules = config.get("target_modules")
    if isinstance(modules, str) and modules != "all-linear":
        # PEFT takes any other text for a regular expression.
        refused.append("target_modules")
    return refused


def _state(folder: Path) -> State:
    """Return name, size and time of change of each file."""
    states = []
    for file in sorted(folder.iterdir()):
        if file.is_file():
            found = file.stat()
            states.append((file.name, found.st_size, found.st_mtime_ns))
    return tuple(states)


@lru_cache(maxsize=8)
def _check_directory(folder: Path, state: State) -> None:
    """Check a model directory, unless its present state has passed before."""
    _refuse_code(folder)
    config = read_object(folder / "config.json", MOST_JSON_BYTES)
    if "transformers_weights" in config:
        what = "its key transformers_weights names other weights"
        raise UserError(folder / "config.json", what, DIRECTORY)
    for name in ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            read_object(folder / name, MOST_JSON_BYTES)
    if (folder / "chat_template.jinja").exists():
        read_bytes(folder / "chat_template.jinja", MOST_TEMPLATE_BYTES)
    if (folder / "tokenizer.json").exists():
        _check_tokenizer(folder / "tokenizer.json")
    _check_config(folder / "config.json", config, _weights(folder))


def _refuse_code(folder: Path) -> None:
    """Raise a UserError if a folder contains pickles or names code."""
    if (folder / "config.json").exists() and (folder / ADAPTER_CONFIG).exists():
        what = "it is a model and an adapter at once, and transformers would load another base"
        raise UserError(folder, what, "keep the model and the adapter in separate folders")
    for file in sorted(folder.iterdir()):
        if file.suffix in PICKLES:
            fix = "delete it, and save weights as safetensors"
            raise UserError(file, "pickled files can run code when they are read", fix)
        if file.suffix == ".json" and file.name not in ("tokenizer.json", "vocab.json"):
            _refuse_auto_map(file)


def _refuse_auto_map(file: Path) -> None:
    """Raise a UserError if a JSON file names code to run."""
    if _names_code(_parse(file, read_bytes(file, MOST_JSON_BYTES))):
        fix = "use a model of a type that transformers knows"
        raise UserError(file, "its key auto_map names code to run", fix)


def _names_code(value: Any) -> bool:
    """Return whether an object has a key auto_map, at any depth."""
    todo = [value]
    while todo:
        found = todo.pop()
        if isinstance(found, list):
            todo += found
        elif isinstance(found, dict):
            if found.get("auto_map"):
                return True
            todo += found.values()
    return False


def read_bytes(file: Path, most: int) -> bytes:
    """Return the content of a regular file.

    Raise a UserError if the file is missing or has more than `most` bytes.
    """
    if not file.is_file():
        raise UserError(file, "the file does not exist", DIRECTORY)
    with file.open("rb") as opened:
        content = opened.read(most + 1)
    if len(content) > most:
        raise UserError(file, f"it has more than {most} bytes", DIRECTORY)
    return content


def read_object(file: Path, most: int) -> dict[str, Any]:
    """Return the object of a JSON file.

    Raise a UserError if the file has more than `most` bytes or another value.
    """
    value = _parse(file, read_bytes(file, most))
    if not isinstance(value, dict):
        raise UserError(file, "a JSON object is expected", DIRECTORY)
    return value


def _parse(file: Path, content: bytes) -> Any:
    """Return the value of a JSON text; `file` is for the UserError."""
    try:
        return json.loads(content, object_pairs_hook=_object)
    except RecursionError as error:
        raise UserError(file, "its JSON is nested too deeply", FETCH_AGAIN) from error
    except ValueError as error:
        # Python raises it for numbers of more than 4,300 digits and invalid UTF-8, too.
        raise UserError(file, f"it is not valid JSON ({error})", FETCH_AGAIN) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; raise a ValueError for a duplicate key.

    Two readers could take different values for such a key.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a key twice")
    return found


def _check_tokenizer(file: Path) -> None:
    """Raise a UserError if tokenizer.json lacks a part that transformers reads."""
    content = read_object(file, MOST_TOKENIZER_BYTES)
    model = content.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict | list):
        raise UserError(file, "it has no model with a vocabulary", FETCH_AGAIN)
    if not isinstance(content.get("added_tokens"), list):
        raise UserError(file, "it has no list of added_tokens", FETCH_AGAIN)


def _weights(folder: Path) -> Shapes:
    """Return the shapes of a model directory's tensors by name."""
    if (folder / "model.safetensors").exists():
        return check_safetensors(folder / "model.safetensors")
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        what = "it contains no complete model: there is no *.safetensors file"
        raise UserError(folder, what, GET_MODEL)
    weight_map = read_object(index, MOST_JSON_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(index, "it has no weight_map", FETCH_AGAIN)
    return _shards(index, weight_map)


def _shards(index: Path, weight_map: dict[str, Any]) -> Shapes:
    """Return the shapes of all tensors in the files of an index."""
    shapes: Shapes = {}
    for name in sorted({str(value) for value in weight_map.values()}):
        if not SHARD_NAME.fullmatch(name):
            raise UserError(index, "its weight_map names a file outside the folder", DIRECTORY)
        file = index.parent / name
        found = check_safetensors(file)
        listed = {tensor for tensor, shard in weight_map.items() if shard == name}
        if found.keys() != listed:
            raise UserError(file, "its tensors differ from the index", FETCH_AGAIN)
        shapes.update(found)
    return shapes


def check_safetensors(file: Path) -> Shapes:
    """Return the shapes of a safetensors file's tensors by name.

    Raise a UserError if the header contradicts the file.
    """
    if not file.is_file():
        raise UserError(file, "the file does not exist", FETCH_AGAIN)
    size = file.stat().st_size
    header, data_start = _read_header(file, size)
    header.pop("__metadata__", None)
    if not header:
        raise _broken(file, "it has no tensor")
    entries = sorted(_entries(file, header), key=lambda entry: entry.start)
    expected = data_start + _data_bytes(file, entries)
    if expected != size:
        raise _broken(file, f"its tensors need {expected} bytes, but it has {size}")
    return {entry.name: entry.shape for entry in entries}


def _read_header(file: Path, size: int) -> tuple[dict[str, Any], int]:
    """Return a safetensors file's header and the offset of the data."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(size - 8, MOST_HEADER_BYTES):
            raise _broken(file, "its header is longer than the file, or than 25 MB")
        header = _parse(file, opened.read(length))
    if not isinstance(header, dict):
        raise _broken(file, "its header is not a JSON object")
    return header, 8 + length


def _data_bytes(file: Path, entries: list[_Entry]) -> int:
    """Return the size of all tensors, which must have no gaps."""
    expected = 0
    for entry in entries:
        if entry.start != expected:
            raise _broken(file, "a tensor does not start where the previous tensor ends")
        expected = entry.end
    return expected


def _broken(file: Path, what: str) -> UserError:
    """Return the UserError for an inconsistent safetensors file."""
    return UserError(file, f"the safetensors file is broken: {what}", FETCH_AGAIN)


def _entries(file: Path, header: dict[str, Any]) -> Iterator[_Entry]:
    """Yield the entry of each tensor; all dimensions are positive."""
    for name, entry in header.items():
        if not isinstance(entry, dict):
            raise _broken(file, "a tensor has no entry")
        shape = _counts(file, entry.get("shape"))
        offsets = _counts(file, entry.get("data_offsets"))
        if len(offsets) != 2:
            raise _broken(file, "data_offsets of a tensor are not two numbers")
        start, end = offsets
        # The length is 0 if a dimension is 0 or the dtype is unknown.
        length = prod(shape) * DTYPE_BYTES.get(str(entry.get("dtype")), 0)
        if length == 0 or end - start != length:
            raise _broken(file, "dtype, shape and data_offsets of a tensor do not agree")
        # A scalar has the shape (), and the callers ask for the largest dimension.
        yield _Entry(name, shape or (1,), start, end)


def _counts(file: Path, values: Any) -> tuple[int, ...]:
    """Return a short list of 63-bit integers as a tuple.

    Raise a UserError for any other value.
    """
    what = "shape and data_offsets of a tensor are not lists of numbers"
    if not isinstance(values, list) or len(values) > MOST_DIMENSIONS:
        raise _broken(file, what)
    for value in values:
        if type(value) is not int or not 0 <= value < 2**63:
            raise _broken(file, what)
    return tuple(values)


def _largest_dimension(shapes: Shapes) -> int:
    """Return the largest dimension of all tensors."""
    return max(max(shape) for shape in shapes.values())


def _layer_count(shapes: Shapes) -> int:
    """Return the number of layers in the tensors' names."""
    matches = [LAYER.search(name) for name in shapes]
    return len({match[1] for match in matches if match})


def _check_config(file: Path, config: dict[str, Any], shapes: Shapes) -> None:
    """Raise a UserError if config.json claims sizes that the weights lack."""
    if not isinstance(config.get("model_type"), str):
        raise UserError(file, "it has no model_type", DIRECTORY)
    largest = _largest_dimension(shapes)
    layers = _layer_count(shapes) or len(shapes)
    # A model that also reads pictures has the sizes of its language part one level deeper.
    text_config = config.get("text_config")
    parts = [config, text_config] if isinstance(text_config, dict) else [config]
    for part in parts:
        for key in SIZES:
            _check_size(file, part, key, largest)
        _check_size(file, part, "num_hidden_layers", layers)


def _check_size(file: Path, config: dict[str, Any], key: str, most: int) -> None:
    """Raise a UserError unless a size is null or at most `most`."""
    value = config.get(key)
    if value is None:
        return
    if type(value) is not int or not 1 <= value <= most:
        what = f"{key} is {value!r:.40}, but its weights allow an integer from 1 to {most}"
        raise UserError(file, what, FETCH_AGAIN)
