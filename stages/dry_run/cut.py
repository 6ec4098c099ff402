"""Cut a base model's configuration to a small model with random weights.

The cut has the base's own architecture and vocabulary, and each kind of layer at its own place. The
dry run trains, merges and exports it.
"""

import math
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from bula.errors import UserError
from bula.gguf_config import LARGE_GEMMA_LAYERS

FEWEST_LAYERS = 2
# Tokens of a sliding window; the longest trial row has about 350.
WINDOW = 128
# The K-quant writer takes a second for 3 million parameters on two cores.
MOST_PARAMETERS = 16_000_000
# K-quants store blocks of 256 numbers, and other widths fall back to other types.
BLOCK = 256
# With one key head, no test would see key heads in the wrong order.
FEWEST_KEY_HEADS = 2
# Widths that may shrink alone.
FREE_WIDTHS = ("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size")
HEADS = ("hidden_size", "num_attention_heads")
# Spread of a layer's outputs; a layer with initializer_range would hardly change its input, and a
# wrong export of it would hardly change the logits.
SPREAD = 1.5
NORM_SPREAD = 0.1
SEED = 0

Fields = dict[str, Any]


def build_cut(config: PreTrainedConfig) -> PreTrainedModel:
    """Return the cut of a configuration, with random float32 weights."""
    fields = text_fields(config.to_dict())
    changes = shallow_fields(fields) | window_fields(fields) | scale_fields(fields)
    small = with_fields(config, changes)
    if count_parameters(small) > MOST_PARAMETERS:
        small = with_fields(small, narrow_fields(text_fields(small.to_dict())))
    model: PreTrainedModel = AutoModelForCausalLM.from_config(small, dtype=torch.float32)
    draw_weights(model)
    return model.eval()


def text_fields(content: Fields) -> Fields:
    """Return the part of a config.json that describes the language model."""
    part: Fields = content.get("text_config", content)
    return part


def with_fields(config: PreTrainedConfig, changes: Fields) -> PreTrainedConfig:
    """Return a copy of a configuration with other values of its language model."""
    content = config.to_dict()
    text_fields(content).update(changes)
    copy: PreTrainedConfig = type(config).from_dict(content)
    return copy


def shallow_fields(fields: Fields) -> Fields:
    """Return the changes that keep the first layers.

    Lists with one item per layer, as Gemma 3's kinds of attention, are shortened too. Enough layers
    stay for each item's first place.
    """
    layers = fields.get("num_hidden_layers")
    if layers is None:
        what = "it does not say how many layers the model has (num_hidden_layers)"
        raise UserError("config.json", what, "use another base model in ingest.base")
    lists = {
        name: value
        for name, value in fields.items()
        if isinstance(value, list) and len(value) == layers
    }
    depth = max([FEWEST_LAYERS, *map(layers_to_show_all, lists.values())])
    if depth >= layers:
        return {}
    shortened = {name: value[:depth] for name, value in lists.items()}
    return {"num_hidden_layers": depth, **shortened}


def window_fields(fields: Fields) -> Fields:
    """Return the change that makes a window shorter than the longest trial row.

    A window as long as the context has no effect and stays.
    """
    window = fields.get("sliding_window")
    if not window or not WINDOW < window < fields["max_position_embeddings"]:
        return {}
    return {"sliding_window": WINDOW}


def scale_fields(fields: Fields) -> Fields:
    """Return the change of the attention scale of a large Gemma.

    llama.cpp does not read the scale: it knows the large models by their number of layers, and
    takes the width of a head for all others, such as the cut.
    """
    family = fields["model_type"].removesuffix("_text")
    if fields["num_hidden_layers"] != LARGE_GEMMA_LAYERS.get(family):
        return {}
    share = fields["hidden_size"] // fields["num_attention_heads"]
    if fields["query_pre_attn_scalar"] != share:
        return {}
    return {"query_pre_attn_scalar": fields["head_dim"]}


def layers_to_show_all(kinds: list[Any]) -> int:
    """Return the number of first layers that contain every kind."""
    first_places = [kinds.index(kind) for kind in kinds]
    return 1 + max(first_places)


def narrow_fields(fields: Fields) -> Fields:
    """Return the changes to the smallest widths of the same structure.

    The width of a head, the ratio of query heads to key heads, and each width's remainder modulo
    the block of K-quants stay.
    """
    if any(name not in fields for name in HEADS):
        return {}
    changes = narrow_heads(fields)
    for name in FREE_WIDTHS:
        if isinstance(fields.get(name), int):
            changes[name] = narrowed(fields[name], multiple=1)
    return changes


def narrow_heads(fields: Fields) -> Fields:
    """Return the changes to the number of heads and the width between layers.

    Where a configuration names no width of a head, it follows from the width between layers.
    """
    heads = fields["num_attention_heads"]
    key_heads = fields.get("num_key_value_heads") or heads
    head_width = fields.get("head_dim")
    width = head_width or fields["hidden_size"] // heads
    fewer_keys = fewest_key_heads(heads, key_heads, width)
    fewer_heads = fewer_keys * (heads // key_heads)
    hidden = fewer_heads * width
    if head_width:
        # Some configurations demand a multiple of the number of heads.
        hidden = narrowed(fields["hidden_size"], multiple=fewer_heads)
    return {
        "num_attention_heads": fewer_heads,
        "num_key_value_heads": fewer_keys,
        "hidden_size": hidden,
    }


def narrowed(width: int, multiple: int) -> int:
    """Return the smallest width with the same remainder modulo a block.

    The width is a multiple of `multiple`, if any such width is below the given width.
    """
    smallest = width % BLOCK or BLOCK
    for candidate in range(smallest, width, BLOCK):
        if candidate % multiple == 0:
            return candidate
    return width


def fewest_key_heads(heads: int, key_heads: int, head_width: int) -> int:
    """Return the fewest key heads whose queries keep the width's remainder."""
    ratio = heads // key_heads
    remainder = heads * head_width % BLOCK
    for fewer in range(min(FEWEST_KEY_HEADS, key_heads), key_heads):
        if fewer * ratio * head_width % BLOCK == remainder:
            return fewer
    return key_heads


def count_parameters(config: PreTrainedConfig) -> int:
    """Return the number of a model's parameters, without allocating them."""
    return sum(parameter.numel() for parameter in empty_model(config).parameters())


def empty_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Return the model of a configuration, without memory for its weights."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


@torch.no_grad()
def draw_weights(model: PreTrainedModel) -> None:
    """Fill matrices with random numbers, and add some to norms and biases.

    Without them, an export that drops a bias or shifts the weight of a norm would look correct.
    """
    generator = torch.Generator().manual_seed(SEED)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            spread = SPREAD / math.sqrt(parameter.shape[-1])
            parameter.normal_(0, spread, generator=generator)
        else:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise, alpha=NORM_SPREAD)
