"""The parts of Llama 3.2 1B Instruct that are not gated: its tokenizer and its architecture, with random weights.

The tokenizer is Meta's own file of merges, which ships in the wheel `llama-models`; the special tokens are those of Llama 3.2,
the chat template is bench/llama-3.2.jinja. tests/test_llama.py and bench/llama_dry_run.py build on it.
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
from stages.ingest.model_downloads import fetch_wheel

TEMPLATE = Path(__file__).with_name("llama-3.2.jinja")
# What may be fetched at most stands in every profile.
LIMITS = Path(__file__).parents[1] / "profiles/llama-3.2-1b.yaml"
# The wheel's own dependencies are unwanted; one file of it is taken, by its hash.
WHEEL = WheelModel(
    kind="wheel",
    package="llama-models",
    version="0.3.0",
    wheel_sha256="7f77f78ff13fca09f70d76a376aff6414cd901623fb9d57e69c2f8367a73032f",
    member="llama_models/llama3/tokenizer.model",
    sha256="82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55",
    license="llama3.2",
)
MERGED, SPECIAL = 128_000, 256
NAMED = {
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
    "vocab_size": MERGED + SPECIAL,
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


class Ranks(TikTokenConverter):  # type: ignore[misc]
    """transformers' converter, which would read the file by the package tiktoken: a line is a token in base64 and its rank."""

    @staticmethod
    def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
        """Rank of each token's bytes."""
        lines = Path(tiktoken_url).read_text(encoding="ascii").splitlines()
        return {
            base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)
        }


def special_tokens() -> list[str]:
    """The 256 special tokens, from id 128000 on; those without a use are numbered in their order."""
    free = iter(range(SPECIAL))
    return [
        f"<|{NAMED[place]}|>" if place in NAMED else f"<|reserved_special_token_{next(free)}|>"
        for place in range(SPECIAL)
    ]


def make_tokenizer(ranks: Path) -> PreTrainedTokenizerBase:
    """The tokenizer as Meta publishes it: it names no padding token, and by itself puts a BOS token before every text."""
    backend = Ranks(vocab_file=str(ranks), extra_special_tokens=special_tokens()).converted()
    bos = special_tokens()[0]
    start = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, MERGED)]
    )
    backend.post_processor = Sequence([ByteLevel(trim_offsets=False), start])
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
    """Fetch the merges and write the tokenizer with its chat template."""
    limits = load_params(LIMITS).ingest.limits
    with tempfile.TemporaryDirectory() as name:
        make_tokenizer(fetch_wheel(WHEEL, Path(name), limits)).save_pretrained(folder)


def save_config(folder: Path, **changes: Any) -> None:
    """Write config.json, with `changes` for a smaller model, and generation_config.json."""
    ends = {key: CONFIG[key] for key in ("bos_token_id", "eos_token_id")}
    for name, content in (("config", CONFIG | changes), ("generation_config", ends)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2), encoding="utf-8")


def outline(folder: Path) -> PreTrainedModel:
    """The model of a folder's config.json without memory for its weights (meta device)."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))


def save_weights(folder: Path, seed: int) -> int:
    """Write random weights in bfloat16, one file a layer, and give the number of parameters.

    Matrices are drawn from N(0, initializer_range²), norms are 1, so that the loss starts near ln(vocabulary). No more than
    one layer or the embeddings (0.5 GB) is in memory at once.
    """
    generator, spread = (
        torch.Generator().manual_seed(seed),
        json.loads((folder / "config.json").read_text())["initializer_range"],
    )
    parts: dict[str, list[tuple[str, torch.Size]]] = {}
    for name, parameter in outline(folder).named_parameters():
        parts.setdefault(name.split(".mlp.")[0].split(".self_attn.")[0], []).append(
            (name, parameter.shape)
        )
    places: dict[str, str] = {}
    total = 0
    for number, part in enumerate(parts.values(), 1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        tensors = {name: torch.ones(shape, dtype=torch.bfloat16) for name, shape in part}
        for tensor in tensors.values():
            if tensor.dim() > 1:
                tensor.normal_(0, spread, generator=generator)
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, file)
        total += sum(tensor.numel() for tensor in tensors.values())
    index = {"metadata": {"total_size": 2 * total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return total
