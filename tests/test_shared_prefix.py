"""Tests of bula/shared_prefix.py: a prefix computed once gives each row's own results."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from bula import model_kernels, shared_prefix
from bula.model_kernels import add_answer_head, can_share_prefix, use_kernels
from bula.scoring import Batch, find_decoder, unwrap_adapter
from bula.shared_prefix import SharedPrefix, find_shared_prefix, shared_hidden

PREFIX = 18
TOKENS = 40
SIZES = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GEMMA = {"head_dim": 16, "layer_types": ["sliding_attention", "full_attention"]}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "gemma3_text": {"model_type": "gemma3_text", "sliding_window": TOKENS, **GEMMA},
}


def make_model(name: str) -> PeftModel:
    torch.manual_seed(1)
    config = AutoConfig.for_model(**SIZES | MODELS[name])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    settings = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(model, settings).train()
    for parameter_name, weight in adapted.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(weight, std=0.05)
    use_kernels(adapted)
    add_answer_head(unwrap_adapter(adapted))
    return adapted


def make_batch() -> Batch:
    """Return three rows that begin with 18 equal tokens; the last one has padding."""
    ids = torch.randint(3, 128, (3, TOKENS), generator=torch.Generator().manual_seed(2))
    ids[:, :PREFIX] = ids[0, :PREFIX]
    ids[:, PREFIX] = torch.tensor([3, 4, 5])
    mask = torch.ones_like(ids)
    mask[2, -7:] = 0
    labels = ids.masked_fill(torch.arange(TOKENS) < 25, -100).masked_fill(mask == 0, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class Pass(NamedTuple):
    """Results of a forward and backward pass."""

    loss: Tensor
    correct: int
    supervised: int
    gradient: Tensor


def run(model: PeftModel, batch: Batch) -> Pass:
    model.zero_grad()
    loss, correct, count = model(**batch, answer_head=True)
    loss.backward()
    gradients = [weight.grad.flatten() for weight in model.parameters() if weight.requires_grad]
    return Pass(loss.detach(), int(correct), int(count), torch.cat(gradients))


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_shared_prefix_changes_no_result(
    name: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(name)
    if checkpointing:
        model.enable_input_require_grads()
        unwrap_adapter(model).activation_checkpointing_enable()
    packed_rows = []

    def counted(decoder: Any, batch: Batch, layout: SharedPrefix) -> Any:
        packed_rows.append(layout)
        return shared_hidden(decoder, batch, layout)

    monkeypatch.setattr(model_kernels, "shared_hidden", counted)
    shared = run(model, make_batch())
    assert packed_rows == [SharedPrefix(length=PREFIX, rows=3, rest=TOKENS - PREFIX)]
    monkeypatch.setattr(shared_prefix, "MIN_SHARED_TOKENS", TOKENS)
    separate = run(model, make_batch())
    assert len(packed_rows) == 1
    assert (shared.correct, shared.supervised) == (separate.correct, separate.supervised)
    torch.testing.assert_close(shared.loss, separate.loss, rtol=1e-6, atol=0)
    error = (shared.gradient - separate.gradient).norm()
    assert error <= 1e-6 * separate.gradient.norm()


def test_pack_and_unpack_are_inverse() -> None:
    layout = SharedPrefix(length=2, rows=2, rest=1)
    rows = torch.tensor([[1, 2, 3], [1, 2, 4]])
    packed = layout.pack(rows)
    assert packed.tolist() == [[1, 2, 3, 4]]
    assert torch.equal(layout.unpack(packed), rows)


def test_the_gradient_of_the_prefix_is_summed_over_the_rows() -> None:
    layout = SharedPrefix(length=2, rows=2, rest=1)
    packed = torch.zeros(1, 4, requires_grad=True)
    upstream = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    layout.unpack(packed).backward(upstream)  # type: ignore[no-untyped-call]
    assert packed.grad is not None
    assert packed.grad.tolist() == [[11.0, 22.0, 3.0, 30.0]]


def supervise_from(position: int) -> Callable[[Batch], None]:
    """Return an edit that supervises the tokens from a position on."""

    def edit(batch: Batch) -> None:
        batch["labels"][:, position:] = batch["input_ids"][:, position:]

    return edit


def test_the_prefix_ends_before_the_first_supervised_prediction() -> None:
    batch = make_batch()
    supervise_from(17)(batch)
    # Position 16 predicts the token at 17.
    layout = find_shared_prefix(batch)
    assert layout == SharedPrefix(length=16, rows=3, rest=TOKENS - 16)


def test_equal_rows_keep_their_last_token() -> None:
    batch = make_batch()
    batch["input_ids"][:] = batch["input_ids"][0]
    batch["labels"][:] = -100
    layout = find_shared_prefix(batch)
    assert layout == SharedPrefix(length=TOKENS - 1, rows=3, rest=1)


def one_row(batch: Batch) -> None:
    for name in batch:
        batch[name] = batch[name][:1]


def other_start(batch: Batch) -> None:
    batch["input_ids"][1, 3] = 126 - batch["input_ids"][0, 3]


def with_positions(batch: Batch) -> None:
    batch["position_ids"] = torch.arange(TOKENS).expand(3, -1)


@pytest.mark.parametrize("edit", [one_row, other_start, with_positions, supervise_from(10)])
def test_batches_without_a_long_common_start_are_computed_row_by_row(
    edit: Callable[[Batch], None],
) -> None:
    batch = make_batch()
    edit(batch)
    assert find_shared_prefix(batch) is None


def test_rows_longer_than_a_window_are_computed_row_by_row() -> None:
    decoder = find_decoder(make_model("gemma3_text"))
    assert can_share_prefix(decoder, TOKENS)
    assert not can_share_prefix(decoder, TOKENS + 1)


def test_a_decoder_without_kernels_computes_row_by_row() -> None:
    decoder = find_decoder(make_model("llama"))
    del decoder.layers[1].self_attn.forward
    assert not can_share_prefix(decoder, TOKENS)
