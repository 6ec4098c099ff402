"""Build Llama 3.2 1B Instruct from its public parts and random weights.

The tokenizer is Meta's own file of merges, from the wheel `llama-models`. The special tokens are
those of Llama 3.2, the chat template is bench/llama-3.2.jinja. Meta's weights are gated, so random
weights replace them. tests/test_llama.py and bench/llama_dry_run.py use these functions.
"""

import base64
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers.processors import ByteLevel, Sequence, TemplateProcessing
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.convert_slow_tokenizer import TikTokenConverter

from bula.params import WheelModel, load_params
from stages.models.downloads import fetch_wheel

TEMPLATE = Path(__file__).with_name("llama-3.2.jinja")
# Every profile contains the limits for downloads.
LIMITS = Path(__file__).parents[1] / "profiles/llama-3.2-1b.yaml"
# One file of the wheel is used, checked by its hash; its dependencies are not installed.
WHEEL = WheelModel(
    kind="wheel",
    hub_id="",
    package="llama-models",
    version="0.3.0",
    wheel_sha256="7f77f78ff13fca09f70d76a376aff6414cd901623fb9d57e69c2f8367a73032f",
    member="llama_models/llama3/tokenizer.model",
    sha256="82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55",
    license="llama3.2",
)
MERGED_TOKENS = 128_000
SPECIAL_TOKENS = 256
# Special tokens with a use, by their position among the special tokens.
NAMED_SPECIAL_TOKENS = {
    0: "begin_of_text",
    1: "end_of_text",
    4: "finetune_right_pad_id",
    6: "start_header_id",
    7: "end_header_id",
    8: "eom_id",
    9: "eot_id",
    10: "python_tag",
}
# config.json as Meta publishes it with the model.
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 8192,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-05,
    "attention_bias": False,
    "mlp_bias": False,
    "vocab_size": MERGED_TOKENS + SPECIAL_TOKENS,
    "tie_word_embeddings": True,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "initializer_range": 0.02,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "torch_dtype": "bfloat16",
    "use_cache": True,
}


class MergesConverter(TikTokenConverter):  # type: ignore[misc]
    """transformers' converter without the package tiktoken.

    Each line of the file is a token in base64 and its rank.
    """

    @staticmethod
    def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
        """Return the rank of each token's bytes."""
        ranks = {}
        for line in Path(tiktoken_url).read_text(encoding="ascii").splitlines():
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
        return ranks


def special_tokens() -> list[str]:
    """Return the 256 special tokens, from id 128000 on.

    Tokens without a use are numbered in their order.
    """
    tokens = []
    reserved = 0
    for position in range(SPECIAL_TOKENS):
        if position in NAMED_SPECIAL_TOKENS:
            tokens.append(f"<|{NAMED_SPECIAL_TOKENS[position]}|>")
        else:
            tokens.append(f"<|reserved_special_token_{reserved}|>")
            reserved += 1
    return tokens


def make_tokenizer(merges: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer as Meta publishes it.

    It names no padding token, and puts a BOS token before every text.
    """
    special = special_tokens()
    bos = special[0]
    backend = MergesConverter(vocab_file=str(merges), extra_special_tokens=special).converted()
    add_bos = TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos}:1 $B:1",
        special_tokens=[(bos, MERGED_TOKENS)],
    )
    backend.post_processor = Sequence([ByteLevel(trim_offsets=False), add_bos])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        eos_token="<|eot_id|>",
        model_max_length=CONFIG["max_position_embeddings"],
        model_input_names=["input_ids", "attention_mask"],
    )
    tokenizer.chat_template = TEMPLATE.read_text(encoding="utf-8")
    return tokenizer


def save_tokenizer(folder: Path) -> None:
    """Fetch the merges, and write the tokenizer with its chat template."""
    limits = load_params(LIMITS).ingest.limits
    with tempfile.TemporaryDirectory() as name:
        merges = fetch_wheel(WHEEL, Path(name), limits)
        make_tokenizer(merges).save_pretrained(folder)


def write_json(path: Path, content: dict[str, Any], indent: int | None = None) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(content, indent=indent), encoding="utf-8")


def save_config(folder: Path, **changes: Any) -> None:
    """Write config.json and generation_config.json.

    `changes` replace keys of config.json, for a smaller model.
    """
    ends = {key: CONFIG[key] for key in ("bos_token_id", "eos_token_id")}
    write_json(folder / "config.json", CONFIG | changes, indent=2)
    write_json(folder / "generation_config.json", ends, indent=2)


def outline(folder: Path) -> PreTrainedModel:
    """Return the model of a folder's config.json without weights.

    Its parameters are on the meta device, which allocates no memory.
    """
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))


def shapes_by_file(folder: Path) -> list[dict[str, torch.Size]]:
    """Return the parameters' shapes, grouped by layer.

    Parameters outside the MLP and attention have their own groups.
    """
    groups: dict[str, dict[str, torch.Size]] = {}
    for name, parameter in outline(folder).named_parameters():
        layer = name.split(".mlp.")[0].split(".self_attn.")[0]
        groups.setdefault(layer, {})[name] = parameter.shape
    return list(groups.values())


def random_tensors(
    shapes: dict[str, torch.Size], std: float, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Return random matrices, and norms of 1, in bfloat16."""
    tensors = {name: torch.ones(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    for tensor in tensors.values():
        if tensor.dim() > 1:
            tensor.normal_(0, std, generator=generator)
    return tensors


def save_weights(folder: Path, seed: int) -> int:
    """Write random weights in bfloat16, and return their number.

    Matrices are drawn from N(0, initializer_range²), norms are 1, so the loss starts near
    ln(vocabulary). One file per layer limits memory to one layer or the embeddings (0.5 GB).
    """
    generator = torch.Generator().manual_seed(seed)
    config = json.loads((folder / "config.json").read_text())
    groups = shapes_by_file(folder)
    file_of: dict[str, str] = {}
    total = 0
    for number, shapes in enumerate(groups, 1):
        file = f"model-{number:05}-of-{len(groups):05}.safetensors"
        tensors = random_tensors(shapes, config["initializer_range"], generator)
        save_file(tensors, folder / file, metadata={"format": "pt"})
        file_of |= dict.fromkeys(tensors, file)
        total += sum(tensor.numel() for tensor in tensors.values())
    index = {"metadata": {"total_size": 2 * total}, "weight_map": file_of}
    write_json(folder / "model.safetensors.index.json", index)
    return total
