"""Tests of bula/lora_kernels.py against the libraries and against values calculated by hand."""

import copy
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Gemma3TextConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3Attention, Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from bula import lora_kernels, model_kernels
from bula.models import load_model, load_tokenizer
from bula.prompts import encode
from bula.records import Example
from bula.scoring import pad_batch, unwrap_adapter

LN_3 = math.log(3)
Batch = dict[str, Tensor]


def lora_model(tiny: Path, dropout: float, targets: str | list[str] = "all-linear") -> PeftModel:
    """Return the two-layer model with an adapter whose output is not zero."""
    torch.manual_seed(1)
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM"
    )
    model = get_peft_model(load_model(tiny, "float32"), config).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def use_fused(model: PeftModel) -> None:
    """Use all kernels in a model."""
    model_kernels.use_kernels(model)
    model_kernels.add_answer_head(unwrap_adapter(model))


def padded_batch(tiny: Path) -> Batch:
    """Return two encoded examples of different lengths."""
    tokenizer = load_tokenizer(tiny)
    pairs = [
        ("Dói?", "Sim, um pouco, e passa."),
        ("Posso tomar sol sem protetor no rosto?", "Não."),
    ]
    encoded = []
    for number, (question, answer) in enumerate(pairs):
        example = Example(
            id=f"{number}" * 16,
            source="s",
            license="l",
            split="train",
            question=question,
            answer=answer,
        )
        encoded.append(encode(tokenizer, example))
    return pad_batch(encoded, tokenizer.pad_token_id)


def model_logits(model: PeftModel, inputs: Batch) -> Tensor:
    logits: Tensor = model(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
    ).logits
    return logits


def summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return torch's cross-entropy over the supervised tokens."""
    predictions = logits[:, :-1].flatten(0, 1)
    targets = labels[:, 1:].flatten()
    return cross_entropy(predictions, targets, reduction="sum")


def gradients_of(model: PeftModel) -> dict[str, Tensor]:
    gradients = {}
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            gradients[name] = weight.grad.clone()
    return gradients


class Result(NamedTuple):
    """Output of a function and gradient of its input."""

    output: Tensor
    gradient: Tensor


def differentiate(function: Callable[[Tensor], Tensor], x: Tensor, upstream: Tensor) -> Result:
    """Run a function's forward and backward pass."""
    leaf = x.detach().clone().requires_grad_()
    output = function(leaf)
    output.backward(upstream)  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    return Result(output.detach(), leaf.grad)


# --- the complete model ------------------------------------------------------------------------


class Comparison(NamedTuple):
    """One batch by the libraries, and then by the kernels."""

    model: PeftModel
    inputs: Batch
    matrices: int
    """Trained matrices."""
    logits: Tensor
    loss: Tensor
    gradients: dict[str, Tensor]
    fused_loss: Tensor
    fused_correct: Tensor
    fused_count: Tensor
    fused_gradients: dict[str, Tensor]
    """Gradients of half the loss."""


# Seven linear layers in each of two blocks, or two of them; two matrices each.
@pytest.fixture(
    scope="module",
    params=[("all-linear", 28), (["q_proj", "v_proj"], 8), (["k_proj", "up_proj"], 8)],
    ids=["all", "q-v", "k-up"],
)
def comparison(tiny: Path, request: pytest.FixtureRequest) -> Comparison:
    targets, matrices = request.param
    model = lora_model(tiny, 0.0, targets)
    inputs = padded_batch(tiny)
    # A bias excludes this layer from the kernels, beside a layer that they compute.
    gate = model.base_model.model.model.layers[1].mlp.gate_proj
    bias = torch.nn.Parameter(torch.randn(gate.out_features), requires_grad=False)
    getattr(gate, "base_layer", gate).bias = bias
    logits = model_logits(model, inputs)
    loss = summed_loss(logits, inputs["labels"])
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = gradients_of(model)
    model.zero_grad()
    use_fused(model)
    fused_loss, correct, count = model(**inputs, answer_head=True)
    (fused_loss * 0.5).backward()
    return Comparison(
        model=model,
        inputs=inputs,
        matrices=matrices,
        logits=logits,
        loss=loss,
        gradients=gradients,
        fused_loss=fused_loss,
        fused_correct=correct,
        fused_count=count,
        fused_gradients=gradients_of(model),
    )


def test_the_fused_loss_is_torchs_cross_entropy(comparison: Comparison) -> None:
    assert comparison.fused_loss.item() == pytest.approx(comparison.loss.item(), rel=1e-6)


def test_supervised_tokens_are_counted(comparison: Comparison) -> None:
    targets = comparison.inputs["labels"][:, 1:]
    supervised = targets != -100
    assert comparison.fused_count.item() == int(supervised.sum())


def test_correct_predictions_are_counted(comparison: Comparison) -> None:
    targets = comparison.inputs["labels"][:, 1:]
    predictions = comparison.logits[:, :-1].argmax(-1)
    # A padding target is -100, which no prediction equals.
    correct = predictions == targets
    assert comparison.fused_correct.item() == int(correct.sum())


def test_gradients_are_those_of_peft(comparison: Comparison) -> None:
    assert len(comparison.gradients) == comparison.matrices
    for name, gradient in comparison.gradients.items():
        # Sums of some hundred products in another order: float32's rounding of the largest.
        atol = 1e-5 * gradient.abs().max().item()
        fused = comparison.fused_gradients[name] * 2
        torch.testing.assert_close(fused, gradient, rtol=1e-4, atol=atol)


def test_without_answer_head_forward_still_returns_logits(comparison: Comparison) -> None:
    """Generation calls the model in this way."""
    logits = model_logits(comparison.model, comparison.inputs)
    torch.testing.assert_close(logits, comparison.logits, rtol=1e-4, atol=1e-4)


def gradients_with_dropout(tiny: Path, checkpointing: bool) -> dict[str, Tensor]:
    """Return the gradients of a model with dropout, for a fixed seed."""
    model = lora_model(tiny, 0.5)
    if checkpointing:
        model.enable_input_require_grads()
        unwrap_adapter(model).activation_checkpointing_enable()
    use_fused(model)
    inputs = padded_batch(tiny)
    torch.manual_seed(9)
    loss, _, _ = model(**inputs, answer_head=True)
    loss.backward()
    return gradients_of(model)


def test_checkpointing_draws_the_same_dropout_again(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = []
    original = lora_kernels.drop_unscaled

    def counted(x: Tensor, dropout: float) -> tuple[Tensor, Tensor | None]:
        draws.append(dropout)
        return original(x, dropout)

    monkeypatch.setattr(lora_kernels, "drop_unscaled", counted)
    plain = gradients_with_dropout(tiny, checkpointing=False)
    # In each of two blocks: queries, keys and values; output; gate and up; down.
    assert len(draws) == 8
    draws.clear()
    checkpointed = gradients_with_dropout(tiny, checkpointing=True)
    assert len(draws) == 16
    assert len(plain) == 28
    assert all(torch.equal(gradient, checkpointed[name]) for name, gradient in plain.items())


# --- the precision of matmuls ------------------------------------------------------------------


class DtypeRecorder(TorchDispatchMode):
    """Record the precision in which a function of torch computes."""

    def __init__(self, name: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.name = name
        self.found: list[torch.dtype] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if self.name in str(function):
            self.found.append(args[0].dtype)
        return function(*args, **(kwargs or {}))


class Pass(NamedTuple):
    """Results of one forward and backward pass."""

    loss: float
    gradient: Tensor
    """Gradients of all trained weights in float64."""


class FusedPass(NamedTuple):
    """Results of the kernels, and the precisions in which they computed."""

    result: Pass
    linear: list[torch.dtype]
    head: list[torch.dtype]
    attention: list[torch.dtype]


def bfloat16_model(tiny: Path) -> PeftModel:
    """Return the model with all weights rounded to bfloat16."""
    return lora_model(tiny, 0.0).to(torch.bfloat16)


def joined_gradients(model: PeftModel) -> Tensor:
    return torch.cat([gradient.double().flatten() for gradient in gradients_of(model).values()])


def exact_pass(tiny: Path) -> Pass:
    """Return the libraries' results in float64."""
    model = bfloat16_model(tiny).double()
    inputs = padded_batch(tiny)
    loss = summed_loss(model_logits(model, inputs), inputs["labels"])
    loss.backward()  # type: ignore[no-untyped-call]
    return Pass(loss.item(), joined_gradients(model))


def fused_pass(tiny: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> FusedPass:
    """Return the kernels' results for bfloat16 weights with matmuls in dtype."""

    def choose(own: torch.dtype, place: str) -> torch.dtype:
        return dtype if own == torch.bfloat16 else own

    monkeypatch.setattr(lora_kernels, "matmul_dtype", choose)
    model = bfloat16_model(tiny)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    use_fused(model)
    inputs = padded_batch(tiny)
    with (
        DtypeRecorder("aten.addmm_") as linear,
        DtypeRecorder("aten.mm.out") as head,
        DtypeRecorder("flash_attention") as attention,
    ):
        loss, _, _ = model(**inputs, answer_head=True)
        loss.backward()
    result = Pass(loss.item(), joined_gradients(model))
    return FusedPass(result, linear.found, head.found, attention.found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_matmuls_have_the_precision_that_matmul_dtype_returns(
    dtype: torch.dtype, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = fused_pass(tiny, dtype, monkeypatch)
    # Base and adapter are added in these matmuls, forward and backward.
    assert set(used.linear) == {dtype}
    assert set(used.head) == {dtype}
    # Attention's backward pass is always in float32, so only both blocks' forward passes count.
    assert set(used.attention[:2]) == {dtype}


def test_wider_matmuls_are_no_further_from_float64(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = exact_pass(tiny)
    plain = fused_pass(tiny, torch.bfloat16, monkeypatch).result
    wide = fused_pass(tiny, torch.float32, monkeypatch).result
    assert abs(wide.loss - exact.loss) <= abs(plain.loss - exact.loss) + 1e-3 * exact.loss
    wide_error = (wide.gradient - exact.gradient).norm()
    plain_error = (plain.gradient - exact.gradient).norm()
    assert wide_error <= 1.05 * plain_error
    assert wide_error <= 0.05 * exact.gradient.norm()


# --- linear layers with adapters ---------------------------------------------------------------


def base_and_adapter(layer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return W, A and B of a layer."""
    return layer.base_layer.weight, layer.lora_A.default.weight, layer.lora_B.default.weight


def lora_by_hand(layer: Any, x: Tensor, dropped: Tensor) -> Tensor:
    """Return a layer's output; the adapter's scale is 8 / 4."""
    weight, a, b = base_and_adapter(layer)
    return x @ weight.T + 2.0 * dropped @ a.T @ b.T


def gradients_of_outputs(outputs: Sequence[Tensor], leaves: list[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients of a function of two outputs."""
    first, second = outputs
    total = first.square().sum() + second.sum()
    return torch.autograd.grad(total, leaves)


def test_lora_linears_with_one_shared_dropout_mask(tiny: Path) -> None:
    mlp = lora_model(tiny, 0.5).base_model.model.model.layers[0].mlp
    layers = [mlp.up_proj, mlp.gate_proj]
    x = torch.randn(3, 5, 256, requires_grad=True)
    leaves = [x]
    for layer in layers:
        leaves += base_and_adapter(layer)[1:]
    torch.manual_seed(7)
    _, mask = lora_kernels.drop_unscaled(x.detach().view(15, 256), 0.5)
    assert mask is not None
    dropped = x * mask.view(x.shape) / 0.5
    expected = [lora_by_hand(layer, x, dropped) for layer in layers]
    expected_gradients = gradients_of_outputs(expected, leaves)
    torch.manual_seed(7)
    found = lora_kernels.lora_linears(layers, x)
    torch.testing.assert_close(list(found), expected)
    gradients = gradients_of_outputs(found, leaves)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-4)


def test_lora_linear_has_no_dropout_in_evaluation(tiny: Path) -> None:
    layer = lora_model(tiny, 0.5).base_model.model.model.layers[0].mlp.up_proj.eval()
    x = torch.randn(3, 5, 256)
    torch.testing.assert_close(lora_kernels.lora_linear(layer, x), lora_by_hand(layer, x, x))


@pytest.mark.parametrize("cache_numbers", [1 << 18, 10_000])
def test_dropout_keeps_the_expected_share(
    cache_numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora_kernels, "CACHE_NUMBERS", cache_numbers)
    torch.manual_seed(3)
    x = torch.randn(1001, 999).bfloat16()
    dropped, mask = lora_kernels.drop_unscaled(x, 0.05)
    assert mask is not None
    assert mask.dtype == torch.bfloat16
    assert set(mask.flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(dropped, x * mask)
    # Each 64-bit word yields four draws, so each quarter of the mask is checked, too.
    numbers = mask.flatten()
    for part in (numbers, *(numbers[start::4] for start in range(4))):
        five_standard_errors = 5 * math.sqrt(0.95 * 0.05 / part.numel())
        assert abs(part.double().mean().item() - 0.95) < five_standard_errors


def test_without_dropout_there_is_no_mask_and_no_copy() -> None:
    x = torch.randn(3, 4)
    dropped, mask = lora_kernels.drop_unscaled(x, 0.0)
    assert dropped is x
    assert mask is None


# --- attention and MLP -------------------------------------------------------------------------


def one_head(*values: float) -> Tensor:
    """Return the values of one token and one head."""
    return torch.tensor(values, dtype=torch.float32).view(1, 1, 1, 4)


def test_rotary_embedding_turns_pairs_of_values() -> None:
    # The pairs (1, 3) and (2, 4) are rotated by 90 and 180 degrees to (-3, 1) and (-2, -4).
    cos = torch.tensor([0.0, -1.0, 0.0, -1.0])
    sin = torch.tensor([1.0, 0.0, 1.0, 0.0])

    def rotate(x: Tensor) -> Tensor:
        return lora_kernels.apply_rotary(x, cos.view(1, 1, 4), sin.view(1, 1, 4))

    found = differentiate(rotate, one_head(1, 2, 3, 4), one_head(5, 6, 7, 8))
    assert torch.equal(found.output, one_head(-3, -2, 1, -4))
    # The gradient (5, 7) and (6, 8) is rotated by -90 and -180 degrees.
    assert torch.equal(found.gradient, one_head(7, -6, -5, -8))


def test_swiglu_by_hand() -> None:
    # silu(x) = x / (1 + exp(-x)), with slope 1/2 at 0. At ln 3 the sigmoid is 3/4, and the slope is
    # 3/4 + ln 3 x 3/4 x 1/4.
    slope = 0.75 + LN_3 * 3 / 16
    gate = torch.tensor([0.0, LN_3], requires_grad=True)
    up = torch.tensor([4.0, 2.0], requires_grad=True)
    found = lora_kernels.gated_unit(gate, up, lora_kernels.SILU)
    assert found.tolist() == pytest.approx([0.0, 1.5 * LN_3])
    upstream = torch.tensor([1.0, 10.0])
    gradients = torch.autograd.grad(found, [gate, up], upstream)
    gate_gradient, up_gradient = gradients
    assert gate_gradient.tolist() == pytest.approx([2.0, 20 * slope])
    assert up_gradient.tolist() == pytest.approx([0.0, 7.5 * LN_3])


def test_geglu_is_the_tanh_approximation() -> None:
    torch.manual_seed(4)
    gate, up, upstream = torch.randn(3, 5, 7, dtype=torch.float64) * 2
    # Hendrycks & Gimpel 2016, arXiv:1606.08415, section 2.
    leaves = [gate.requires_grad_(), up.requires_grad_()]
    inner = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
    expected = 0.5 * gate * (1 + inner.tanh()) * up
    expected_gradients = torch.autograd.grad(expected, leaves, upstream)
    found = lora_kernels.gated_unit(gate, up, lora_kernels.GELU_TANH)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, leaves, upstream), expected_gradients)


class AttentionCase(NamedTuple):
    """A bfloat16 attention layer with its kernel, inputs and an upstream gradient."""

    layer: Any
    kernel: Callable[..., Any]
    x: Tensor
    position: tuple[Tensor, Tensor]
    upstream: Tensor


def llama_layer(tiny: Path) -> Any:
    return load_model(tiny, "bfloat16").model.layers[0].self_attn


def gemma_layer() -> Any:
    """Return an attention layer with norms of queries and keys, and another scale."""
    config = Gemma3TextConfig(
        vocab_size=8,
        hidden_size=256,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=64,
        query_pre_attn_scalar=40,
        num_hidden_layers=1,
        layer_types=["sliding_attention"],
        sliding_window=100,
        attn_implementation="sdpa",
    )
    layer = Gemma3Attention(config, 0)
    for norm in (layer.q_norm, layer.k_norm):
        torch.nn.init.normal_(norm.weight, std=0.3)
    return layer


@pytest.fixture(params=["llama", "gemma"])
def attention(tiny: Path, request: pytest.FixtureRequest) -> AttentionCase:
    torch.manual_seed(11)
    is_llama = request.param == "llama"
    layer = llama_layer(tiny) if is_llama else gemma_layer()
    layer = layer.requires_grad_(False).bfloat16()
    config = layer.config
    # Grouped-query attention has fewer key heads than query heads.
    assert config.num_attention_heads > config.num_key_value_heads
    shape = (2, 70, 256)
    half_angles = torch.rand(1, 70, layer.head_dim // 2)
    angles = half_angles.repeat(1, 1, 2) * 6
    return AttentionCase(
        layer=layer,
        kernel=model_kernels.llama_attention if is_llama else model_kernels.gemma3_attention,
        x=torch.randn(shape).bfloat16(),
        position=(angles.cos().bfloat16(), angles.sin().bfloat16()),
        upstream=torch.randn(shape).bfloat16(),
    )


def attend_in_float64(case: AttentionCase) -> Result:
    """Return the library's attention in float64."""
    layer = copy.deepcopy(case.layer).double()
    cos, sin = case.position
    position = (cos.double(), sin.double())

    def attend(x: Tensor) -> Any:
        return layer(x, position, None)[0]

    return differentiate(attend, case.x.double(), case.upstream.double())


def attend_in_bfloat16(case: AttentionCase) -> Result:
    """Return the library's attention in bfloat16."""

    def attend(x: Tensor) -> Any:
        return case.layer(x, case.position, None)[0]

    return differentiate(attend, case.x, case.upstream)


def attend_by_kernel(case: AttentionCase) -> Result:
    """Return the kernel's attention in bfloat16."""

    def attend(x: Tensor) -> Tensor:
        output: Tensor = case.kernel(case.layer, x, case.position)[0]
        return output

    return differentiate(attend, case.x, case.upstream)


def test_attention_in_bfloat16_is_no_further_from_float64_than_torchs(
    attention: AttentionCase,
) -> None:
    exact = attend_in_float64(attention)
    library = attend_in_bfloat16(attention)
    ours = attend_by_kernel(attention)
    for found, other, true in zip(ours, library, exact, strict=True):
        error = (found - true).norm()
        library_error = (other - true).norm()
        assert error <= 1.05 * library_error
        assert error <= 0.01 * true.norm()


def test_attentions_backward_pass_computes_in_float32(attention: AttentionCase) -> None:
    with DtypeRecorder("flash_attention_for_cpu_backward") as recorder:
        attend_by_kernel(attention)
    assert recorder.found == [torch.float32]


# --- loss and norm -----------------------------------------------------------------------------


class Loss(NamedTuple):
    """A fused loss with its gradient."""

    total: float
    correct: float
    gradient: list[float]


def fused_loss(hidden: Tensor, targets: list[int], divisor: int = 1) -> Loss:
    """Return the loss of a head that is the identity.

    The gradient is that of loss / divisor.
    """
    leaf = hidden.requires_grad_()
    head = torch.eye(2, dtype=hidden.dtype)
    ids = torch.tensor(targets, dtype=torch.int64)
    total, correct = lora_kernels.fused_linear_cross_entropy(leaf, head, ids)
    (total / divisor).backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    return Loss(total.item(), correct.item(), leaf.grad.flatten().tolist())


@pytest.mark.parametrize(("logits_rows", "softmax_rows"), [(2, 1), (2, 2), (3, 2), (256, 16)])
def test_loss_and_gradient_of_three_tokens_by_hand(
    logits_rows: int, softmax_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora_kernels, "LOGITS_CHUNK_ROWS", logits_rows)
    monkeypatch.setattr(lora_kernels, "SOFTMAX_CHUNK_ROWS", softmax_rows)
    # The probabilities are 3/4, 1/4; 1/4, 3/4; 1/2, 1/2.
    hidden = torch.tensor([[LN_3, 0.0], [0.0, LN_3], [0.0, 0.0]])
    loss = fused_loss(hidden, [0, 0, 1])
    assert loss.total == pytest.approx(math.log(4 / 3) + math.log(4) + math.log(2))
    assert loss.correct == 1
    assert loss.gradient == pytest.approx([-0.25, 0.25, -0.75, 0.75, 0.5, -0.5])


def test_the_gradient_of_a_bfloat16_loss_is_rounded_once() -> None:
    hidden = torch.tensor([[0.0, LN_3]], dtype=torch.bfloat16)
    loss = fused_loss(hidden, [0], divisor=1100)
    # 0.75 / 1,100 rounds to 0.00068283; 0.75 times a rounded 1 / 1,100 does not.
    assert loss.gradient == pytest.approx([-0.00068283, 0.00068283], rel=1e-4)


def test_the_loss_of_no_tokens_is_zero() -> None:
    loss = fused_loss(torch.zeros(0, 2), [])
    assert loss == Loss(total=0.0, correct=0, gradient=[])


def norm_in_float64(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return the norm by its formula."""
    mean_square = x.square().mean(-1, keepdim=True)
    return weight * x / (mean_square + eps).sqrt()


def check_norm(
    kernel: Callable[[Tensor], Tensor], weight: Tensor, dtype: torch.dtype, tolerance: float
) -> None:
    """Compare a norm and its gradient with the formula."""
    x, upstream = torch.randn(2, 4, 9, 64).to(dtype)

    def formula(values: Tensor) -> Tensor:
        return norm_in_float64(values, weight.double(), 1e-5)

    exact = differentiate(formula, x.double(), upstream.double())
    found = differentiate(kernel, x, upstream)
    for ours, true in zip(found, exact, strict=True):
        assert ours.dtype == dtype
        expected = true.to(dtype)
        torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)


@PRECISIONS
def test_the_norm_is_that_of_llama(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(5)
    layer = LlamaRMSNorm(64, eps=1e-5).to(dtype).requires_grad_(False)
    layer.weight.data.uniform_(0.5, 1.5)
    check_norm(functools.partial(model_kernels.llama_norm, layer), layer.weight, dtype, tolerance)


@PRECISIONS
def test_the_norm_is_that_of_gemma(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(5)
    layer = Gemma3RMSNorm(64, eps=1e-5).to(dtype).requires_grad_(False)
    layer.weight.data.uniform_(-0.5, 0.5)
    weight = 1 + layer.weight.double()
    check_norm(functools.partial(model_kernels.gemma3_norm, layer), weight, dtype, tolerance)


def test_gemmas_norm_rounds_once() -> None:
    torch.manual_seed(6)
    layer = Gemma3RMSNorm(64).bfloat16().requires_grad_(False)
    layer.weight.data.uniform_(-0.5, 0.5)
    x = torch.randn(50, 64).bfloat16()
    found = model_kernels.gemma3_norm(layer, x)
    # Both compute in float32 in another order, so a few results round to the next number.
    assert (found != layer(x)).float().mean() < 0.01


# --- models ------------------------------------------------------------------------------------


def test_use_kernels_replaces_only_supported_layers(tiny: Path) -> None:
    model = lora_model(tiny, 0.0)
    with_bias = model.base_model.model.model.layers[0].mlp.up_proj
    with_bias.base_layer.bias = torch.nn.Parameter(torch.zeros(256))
    model_kernels.use_kernels(model)
    replaced = [name for name, layer in model.named_modules() if "forward" in vars(layer)]
    # Seven linear layers, two norms, attention and MLP per block, and the last norm, without the
    # layer with a bias.
    assert len(replaced) == 2 * 11 + 1 - 1
    assert not any(name.endswith("layers.0.mlp.up_proj") for name in replaced)
