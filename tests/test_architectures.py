"""Compare kernels and head with transformers' own functions, for many architectures.

Each architecture is a model of two to four layers with random weights, in float32.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.gemma3.modeling_gemma3 import Gemma3Attention, Gemma3MLP, Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm
from trl.trainer.utils import add_fused_lm_head

from bula import model_kernels
from bula.errors import UserError
from bula.lora_kernels import LOGITS_CHUNK_ROWS
from bula.model_kernels import add_answer_head, has_plain_head, kernel_difference, use_kernels
from bula.prompts import Encoded
from bula.scoring import find_decoder, head_logits, supervised_logits, unwrap_adapter

VOCABULARY = 128
TOLERANCE = 1e-5
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    # With weights of the usual 0.02, all logits of so narrow a model would be almost equal.
    "initializer_range": 0.2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
GEMMA = {"head_dim": 16, "hidden_activation": "gelu_pytorch_tanh"}
# The rows have 20 tokens, so a window of 8 masks some of them, and a window of 32 none.
SHORT_WINDOW = 8
LONG_WINDOW = 32
GEMMA3 = GEMMA | {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "query_pre_attn_scalar": 40,
}
GEMMA3_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
}


class Architecture(NamedTuple):
    """An architecture in a small size."""

    model_type: str
    settings: dict[str, Any]
    plain: bool = True
    """Whether the logits are hidden states times a matrix."""


ARCHITECTURES = {
    "llama": Architecture("llama", {}),
    "llama-tied": Architecture("llama", {"tie_word_embeddings": True}),
    "llama-bias": Architecture("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-llama3-rope": Architecture("llama", {"rope_parameters": LLAMA3_ROPE}),
    "llama-dropout": Architecture("llama", {"attention_dropout": 0.1}),
    "mistral-window": Architecture("mistral", {"sliding_window": SHORT_WINDOW}),
    "qwen2": Architecture("qwen2", {}),
    "qwen3": Architecture("qwen3", {"head_dim": 16}),
    "gemma": Architecture("gemma", GEMMA),
    "gemma2": Architecture(
        "gemma2",
        GEMMA | {"final_logit_softcapping": 0.5, "sliding_window": SHORT_WINDOW},
        plain=False,
    ),
    "gemma3-window": Architecture(
        "gemma3_text", GEMMA3 | {"sliding_window": SHORT_WINDOW, "rope_parameters": GEMMA3_ROPE}
    ),
    "gemma3-long-window": Architecture("gemma3_text", GEMMA3 | {"sliding_window": LONG_WINDOW}),
    "gemma3-softcap": Architecture(
        "gemma3_text", GEMMA3 | {"final_logit_softcapping": 0.5}, plain=False
    ),
    "granite": Architecture(
        "granite",
        {
            "logits_scaling": 8.0,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.1,
        },
        plain=False,
    ),
    "cohere": Architecture("cohere", {"logit_scale": 0.0625}, plain=False),
    "cohere2": Architecture(
        "cohere2", {"logit_scale": 0.25, "sliding_window": SHORT_WINDOW}, plain=False
    ),
    "phi": Architecture("phi", {}, plain=False),
    "phi3": Architecture("phi3", {"sliding_window": SHORT_WINDOW}),
    "smollm3": Architecture("smollm3", {"no_rope_layers": [1, 0]}),
    "olmo2": Architecture("olmo2", {}),
    "stablelm": Architecture("stablelm", {"partial_rotary_factor": 0.25}),
    "starcoder2": Architecture("starcoder2", {"sliding_window": SHORT_WINDOW}),
    "gpt2": Architecture("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "opt": Architecture("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
}


def make_model(architecture: Architecture) -> PreTrainedModel:
    """Return a small model in which no bias, norm, or scale has its initial value."""
    config = AutoConfig.for_model(architecture.model_type, **SIZES | architecture.settings)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for name, weight in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            weight.data += 0.3 * torch.randn_like(weight)
    return model


def with_adapter(model: PreTrainedModel, dropout: float = 0.0) -> PeftModel:
    settings = LoraConfig(
        r=4, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, settings)


def rows() -> tuple[Tensor, Tensor]:
    """Return input_ids and labels of two rows of 20 tokens, 12 of them supervised."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(3, VOCABULARY, (2, 20), generator=generator)
    labels = ids.masked_fill(torch.arange(20) < 8, -100)
    return ids, labels


@pytest.fixture(params=list(ARCHITECTURES), scope="module")
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return ARCHITECTURES[request.param]


@pytest.fixture(scope="module")
def model(architecture: Architecture) -> PreTrainedModel:
    return make_model(architecture)


# PEFT corrects this setting of GPT-2's layers itself.
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
def test_loss_and_gradients_are_those_of_transformers(model: PreTrainedModel) -> None:
    loss, gradients = kernel_difference(with_adapter(copy.deepcopy(model)), *rows())
    assert loss <= TOLERANCE
    assert gradients <= TOLERANCE


def test_only_a_plain_head_is_fused(model: PreTrainedModel, architecture: Architecture) -> None:
    frozen = copy.deepcopy(model).requires_grad_(False)
    assert has_plain_head(frozen) == architecture.plain


def test_supervised_logits_are_the_models_own(model: PreTrainedModel) -> None:
    ids, _ = rows()
    first, second = ids.tolist()
    encoded = [
        Encoded(prompt=first[:8], completion=first[8:]),
        Encoded(prompt=second[:8], completion=second[8:13]),
    ]
    expected = []
    for item in encoded:
        own = model(torch.tensor([item.input_ids])).logits[0]
        # Token t is predicted by the logits at t - 1.
        expected.append(own[7:-1])
    found = [logits for logits, _ in supervised_logits(model, encoded, pad_id=0)]
    torch.testing.assert_close(torch.cat(found), torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_trls_loss_is_that_of_transformers(model: PreTrainedModel) -> None:
    patched = copy.deepcopy(model)
    ids, labels = rows()
    own = patched(ids).logits
    expected = cross_entropy(own[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    add_fused_lm_head(patched)
    found = -patched(ids, labels=labels, fused_lm_head=True).log_probs.sum()
    assert found.item() == pytest.approx(expected.item(), rel=TOLERANCE)


# --- layers ------------------------------------------------------------------------------------


def replaced_classes(adapted: PeftModel) -> set[type[nn.Module]]:
    """Return the classes of transformers' layers that got a kernel."""
    use_kernels(adapted)
    replaced = {type(layer) for layer in adapted.modules() if "forward" in vars(layer)}
    return {kind for kind in replaced if kind.__module__.startswith("transformers")}


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("llama", {LlamaAttention, LlamaMLP, LlamaRMSNorm}),
        ("llama-bias", {LlamaAttention, LlamaMLP, LlamaRMSNorm}),
        ("llama-dropout", {LlamaMLP, LlamaRMSNorm}),
        ("gemma3-window", {Gemma3Attention, Gemma3MLP, Gemma3RMSNorm}),
        ("granite", set()),
        ("gemma2", set()),
        ("qwen3", set()),
    ],
)
def test_only_layers_of_known_classes_get_kernels(name: str, classes: set[type[nn.Module]]) -> None:
    assert replaced_classes(with_adapter(make_model(ARCHITECTURES[name]))) == classes


@pytest.mark.parametrize("settings", [{"hidden_activation": "gelu"}, {"hidden_activation": "silu"}])
def test_another_activation_keeps_gemmas_own_mlp(settings: dict[str, Any]) -> None:
    changed = Architecture("gemma3_text", GEMMA3 | settings)
    assert Gemma3MLP not in replaced_classes(with_adapter(make_model(changed)))


def test_bidirectional_attention_keeps_gemmas_own() -> None:
    changed = Architecture("gemma3_text", GEMMA3 | {"use_bidirectional_attention": True})
    assert Gemma3Attention not in replaced_classes(with_adapter(make_model(changed)))


class DoubledMlp(LlamaMLP):  # type: ignore[misc]
    """A subclass that computes something else."""

    def forward(self, x: Tensor) -> Any:
        return 2 * super().forward(x)


class ScaledLinear(nn.Linear):
    """A linear layer that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


def scale_outputs(layer: nn.Module) -> None:
    """Turn a layer into one of a subclass."""
    layer.__class__ = DoubledMlp if isinstance(layer, LlamaMLP) else ScaledLinear


@pytest.mark.parametrize("name", ["mlp", "self_attn.q_proj", "mlp.down_proj"])
def test_a_subclass_keeps_its_own_forward(name: str) -> None:
    model = make_model(ARCHITECTURES["llama"])
    scale_outputs(model.model.layers[0].get_submodule(name))
    loss, gradients = kernel_difference(with_adapter(model), *rows())
    assert loss <= TOLERANCE
    assert gradients <= TOLERANCE


def test_a_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_activation(layer: LlamaMLP, x: Tensor) -> Any:
        return layer.down_proj(layer.gate_proj(x) * layer.up_proj(x))

    wrong = model_kernels.LayerKernel(without_activation, model_kernels.has_silu)
    monkeypatch.setitem(model_kernels.LAYER_KERNELS, LlamaMLP, wrong)
    loss, gradients = kernel_difference(with_adapter(make_model(ARCHITECTURES["llama"])), *rows())
    assert loss > 10 * TOLERANCE
    assert gradients > 10 * TOLERANCE


def test_a_comparison_leaves_the_model_as_it_was() -> None:
    adapted = with_adapter(make_model(ARCHITECTURES["llama"]), dropout=0.5).bfloat16().train()
    weights = {name: weight.clone() for name, weight in adapted.named_parameters()}
    kernel_difference(adapted, *rows())
    assert adapted.training
    assert not any("forward" in vars(layer) for layer in adapted.modules())
    for name, weight in adapted.named_parameters():
        assert weight.grad is None
        assert torch.equal(weight, weights[name])


# --- head --------------------------------------------------------------------------------------


def test_a_long_row_of_another_head_is_computed_in_chunks() -> None:
    model = make_model(ARCHITECTURES["cohere"])
    adapted = with_adapter(model)
    ids = torch.randint(3, VOCABULARY, (12, LOGITS_CHUNK_ROWS // 8))
    labels = ids.masked_fill(torch.arange(ids.shape[1]) < 4, -100)
    loss, gradients = kernel_difference(adapted, ids, labels)
    assert loss <= TOLERANCE
    assert gradients <= TOLERANCE


@pytest.mark.parametrize("name", ["llama", "granite"])
def test_the_loss_of_no_supervised_token_is_zero(name: str) -> None:
    adapted = with_adapter(make_model(ARCHITECTURES[name]))
    add_answer_head(unwrap_adapter(adapted))
    ids, _ = rows()
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    loss, correct, count = adapted(**batch, labels=torch.full_like(ids, -100), answer_head=True)
    loss.backward()
    assert (loss.item(), correct.item(), count.item()) == (0.0, 0, 0)


@pytest.mark.parametrize("name", ["llama", "granite"])
def test_correct_predictions_are_counted(name: str) -> None:
    adapted = with_adapter(make_model(ARCHITECTURES[name]))
    ids, labels = rows()
    predicted = adapted(ids).logits[0, 10].argmax()
    # The label at position 11 becomes the prediction of position 10.
    labels = labels.masked_fill(labels != -100, 3)
    labels[0, 11] = predicted
    expected = int((adapted(ids).logits[:, :-1].argmax(-1) == labels[:, 1:]).sum())
    add_answer_head(unwrap_adapter(adapted))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    _, correct, count = adapted(**batch, answer_head=True)
    assert expected >= 1
    assert (correct.item(), count.item()) == (expected, 24)


def test_a_trained_head_receives_its_gradient() -> None:
    model = make_model(ARCHITECTURES["llama"])
    add_answer_head(model)
    ids, labels = rows()
    loss, _, _ = model(
        input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, answer_head=True
    )
    loss.backward()
    assert model.lm_head.weight.grad.norm() > 0


def change_forward(change: Callable[[Any, Any], Any]) -> PreTrainedModel:
    """Return a Llama whose forward function changes its output."""
    model = make_model(ARCHITECTURES["llama"]).requires_grad_(False)
    own = type(model).forward

    def forward(self: Any, **inputs: Any) -> Any:
        return change(self, own(self, **inputs))

    model.__class__ = type("ChangedForCausalLM", (type(model),), {"forward": forward})
    return model


def test_a_head_that_moves_the_logits_is_not_plain() -> None:
    def roll(model: Any, output: Any) -> Any:
        output.logits = output.logits.roll(1, -1)
        return output

    model = change_forward(roll)
    assert not has_plain_head(model)
    add_answer_head(model)


def test_a_head_that_depends_on_the_position_is_refused() -> None:
    def scale_by_position(model: Any, output: Any) -> Any:
        length = output.logits.shape[1]
        output.logits = output.logits * (1 + torch.arange(length))[:, None]
        # Another pass of the decoder makes the logits depend on more than the hidden states.
        find_decoder(model)(input_ids=torch.zeros(1, 1, dtype=torch.int64))
        return output

    model = change_forward(scale_by_position)
    with pytest.raises(UserError, match="calls its decoder 2 times"):
        add_answer_head(model)


def test_a_head_that_reads_more_than_hidden_states_is_refused() -> None:
    class Noisy(nn.Module):
        passes = 0

    state = Noisy()

    def add_pass_number(model: Any, output: Any) -> Any:
        state.passes += 1
        output.logits = output.logits + state.passes * torch.arange(VOCABULARY)
        return output

    model = change_forward(add_pass_number)
    with pytest.raises(UserError, match="returns other logits"):
        add_answer_head(model)


def test_a_model_without_a_decoder_is_refused() -> None:
    model = make_model(ARCHITECTURES["llama"])
    with pytest.raises(UserError, match="no decoder apart from its head"):
        find_decoder(model.model)


def test_the_forward_functions_are_restored() -> None:
    model = make_model(ARCHITECTURES["granite"])
    hidden = torch.randn(3, 32)
    first = head_logits(model, hidden)
    assert first.shape == (3, VOCABULARY)
    assert not any("forward" in vars(layer) for layer in model.modules())
    torch.testing.assert_close(first, model.lm_head(hidden) / 8.0)
