"""The functions of bula/lora_kernels.py against the libraries' own, and against values worked out by hand."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from bula import lora_kernels
from bula.models import load_model, load_tokenizer
from bula.prompts import encode
from bula.records import Example
from bula.scoring import pad_batch, unwrap_adapter


def lora(tiny: Path, dropout: float, targets: str | list[str] = "all-linear") -> PeftModel:
    """The two-layer model with an adapter that does something."""
    torch.manual_seed(1)
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM"
    )
    model = get_peft_model(load_model(tiny, "float32"), config).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def batch(tiny: Path) -> dict[str, torch.Tensor]:
    tokenizer = load_tokenizer(tiny)
    pairs = [
        ("Dói?", "Sim, um pouco, e passa."),
        ("Posso tomar sol sem protetor no rosto?", "Não."),
    ]
    examples = [
        Example(id=f"{n}" * 16, source="s", license="l", split="train", question=q, answer=a)
        for n, (q, a) in enumerate(pairs)
    ]
    return pad_batch([encode(tokenizer, example) for example in examples], tokenizer.pad_token_id)


# Seven linear layers in each of two blocks, or two of them; two matrices each.
@pytest.mark.parametrize(
    ("targets", "matrices"),
    [("all-linear", 28), (["q_proj", "v_proj"], 8), (["k_proj", "up_proj"], 8)],
)
def test_loss_and_gradients_are_those_of_peft_and_torch(
    targets: str | list[str], matrices: int, tiny: Path
) -> None:
    model, inputs = lora(tiny, 0.0, targets), batch(tiny)
    # One that the functions leave alone, beside one that they do not.
    gate = model.base_model.model.model.layers[1].mlp.gate_proj
    getattr(gate, "base_layer", gate).bias = torch.nn.Parameter(
        torch.randn(gate.out_features), requires_grad=False
    )
    logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    expected = cross_entropy(
        logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten(), reduction="sum"
    )
    expected.backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    lora_kernels.use_kernels(model)
    lora_kernels.add_answer_head(unwrap_adapter(model))
    total, right, count = model(**inputs, answer_head=True)
    (total * 0.5).backward()
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    kept = inputs["labels"][:, 1:] != -100
    assert count.item() == int(kept.sum())
    assert right.item() == int((logits[:, :-1].argmax(-1) == inputs["labels"][:, 1:])[kept].sum())
    assert len(gradients) == matrices
    for name, parameter in model.named_parameters():
        if name in gradients:
            assert parameter.grad is not None
            # Sums of some hundred products in another order: float32's rounding of the largest.
            torch.testing.assert_close(
                parameter.grad * 2,
                gradients[name],
                rtol=1e-4,
                atol=1e-5 * gradients[name].abs().max().item(),
            )
    # Without the flag it is the model's own forward, as generation needs it.
    torch.testing.assert_close(
        model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits,
        logits,
        rtol=1e-4,
        atol=1e-4,
    )


def test_checkpointing_draws_the_same_dropout_again(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, draws, plain = [], [0], lora_kernels.dropped

    def counted(x: torch.Tensor, dropout: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        draws[-1] += 1
        return plain(x, dropout)

    monkeypatch.setattr(lora_kernels, "dropped", counted)
    for again in (False, True):
        model, inputs = lora(tiny, 0.5), batch(tiny)
        if again:
            model.enable_input_require_grads()
            unwrap_adapter(model).activation_checkpointing_enable()
        lora_kernels.use_kernels(model)
        lora_kernels.add_answer_head(unwrap_adapter(model))
        torch.manual_seed(9)
        model(**inputs, answer_head=True)[0].backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        draws.append(0)
    # Queries, keys and values draw once, gate and up once, output and down once each, in two blocks; and all of them again.
    assert draws[:2] == [8, 16]
    assert len(found[0]) == 28
    assert all(torch.equal(gradient, found[1][name]) for name, gradient in found[0].items())


class Widths(TorchDispatchMode):
    """Notes in which precision a function of torch's computes."""

    def __init__(self, name: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.name, self.found = name, list[torch.dtype]()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if self.name in str(function):
            self.found.append(args[0].dtype)
        return function(*args, **(kwargs or {}))


def test_wider_products_change_what_computes_them_and_bring_the_gradients_no_further_from_exact_ones(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, inputs = {}, batch(tiny)
    for wide in (torch.float64, torch.bfloat16, torch.float32):
        monkeypatch.setattr(
            lora_kernels,
            "matmul_dtype",
            lambda dtype, place, wide=wide: wide if dtype == torch.bfloat16 else dtype,
        )
        model = lora(tiny, 0.0)
        exact = wide == torch.float64
        model.to(torch.bfloat16)
        for parameter in model.parameters():
            # The same numbers for all three.
            parameter.data = (
                parameter.data.double()
                if exact
                else parameter.data.float()
                if parameter.requires_grad
                else parameter.data
            )
        if not exact:
            lora_kernels.use_kernels(model)
            lora_kernels.add_answer_head(unwrap_adapter(model))
            with (
                Widths("aten.addmm_") as sums,
                Widths("aten.mm.out") as head,
                Widths("flash_attention") as attention,
            ):
                total = model(**inputs, answer_head=True)[0]
                total.backward()
            # Base and adapter are added up in products, forward and back; attention's backward pass is in float32 anyhow.
            assert set(sums.found) == {wide}
            assert set(head.found) == {wide}
            assert set(attention.found[:2]) == {wide}
        else:
            logits = model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
            ).logits
            total = cross_entropy(
                logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten(), reduction="sum"
            )
            total.backward()  # type: ignore[no-untyped-call]
        gradient = torch.cat(
            [p.grad.double().flatten() for p in model.parameters() if p.grad is not None]
        )
        found[wide] = total.item(), gradient
    (true, exact_gradient), (plain, plain_gradient), (widened, widened_gradient) = found.values()
    assert abs(widened - true) <= abs(plain - true) + 1e-3 * true
    assert (widened_gradient - exact_gradient).norm() <= 1.05 * (
        plain_gradient - exact_gradient
    ).norm()
    assert (widened_gradient - exact_gradient).norm() <= 0.05 * exact_gradient.norm()


def test_adapters_with_dropout_by_hand(tiny: Path) -> None:
    model = lora(tiny, 0.5)
    mlp = model.base_model.model.model.layers[0].mlp
    layers = [mlp.up_proj, mlp.gate_proj]
    x = torch.randn(3, 5, 256, requires_grad=True)
    ours = [
        matrix.weight for layer in layers for matrix in (layer.lora_A.default, layer.lora_B.default)
    ]
    up, gate = (
        (layer.base_layer.weight, layer.lora_A.default.weight, layer.lora_B.default.weight)
        for layer in layers
    )
    torch.manual_seed(7)
    mask = lora_kernels.dropped(x.detach().view(15, 256), 0.5)[1]
    assert mask is not None
    # One draw for both, which read the same x.
    seen = x * mask.view(x.shape) / 0.5
    expected = [x @ weight.T + 2.0 * seen @ a.T @ b.T for weight, a, b in (up, gate)]
    wanted = torch.autograd.grad(expected[0].square().sum() + expected[1].sum(), [x, *ours])
    torch.manual_seed(7)
    found = lora_kernels.adapted(layers, x)
    torch.testing.assert_close(list(found), expected)
    for one, other in zip(
        torch.autograd.grad(found[0].square().sum() + found[1].sum(), [x, *ours]),
        wanted,
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        lora_kernels.alone(layers[0].eval(), x), x @ up[0].T + 2.0 * x @ up[1].T @ up[2].T
    )


@pytest.mark.parametrize("cached", [1 << 18, 10_000])
def test_a_mask_keeps_the_share_that_it_should(
    cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora_kernels, "CACHED", cached)
    torch.manual_seed(3)
    x = torch.randn(1001, 999).bfloat16()
    seen, mask = lora_kernels.dropped(x, 0.05)
    assert mask is not None
    assert mask.dtype == torch.bfloat16
    assert set(mask.flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(seen, x * mask)
    # Five standard errors of a share over a million draws; each quarter of the words' bits on its own, too.
    for part in (mask, *(mask.flatten()[start::4] for start in range(4))):
        assert abs(part.double().mean().item() - 0.95) < 5 * math.sqrt(0.95 * 0.05 / part.numel())
    same, none = lora_kernels.dropped(x, 0.0)
    assert same is x
    assert none is None


def test_rotation_by_hand() -> None:
    # Two pairs, (1, 3) and (2, 4), turned by 90 and 180 degrees: (-3, 1) and (-2, -4).
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4).requires_grad_()
    cos, sin = (
        torch.tensor([0.0, -1.0, 0.0, -1.0]).view(1, 1, 4),
        torch.tensor([1.0, 0.0, 1.0, 0.0]).view(1, 1, 4),
    )
    found = lora_kernels.rotated(x, cos, sin)
    assert found.flatten().tolist() == [-3.0, -2.0, 1.0, -4.0]
    # A rotation's gradient is turned back: (5, 7) and (6, 8) by -90 and -180 degrees.
    (gradient,) = torch.autograd.grad(found, x, torch.tensor([5.0, 6.0, 7.0, 8.0]).view(1, 1, 1, 4))
    assert gradient.flatten().tolist() == [7.0, -6.0, -5.0, -8.0]


def test_a_gated_value_by_hand() -> None:
    # silu(x) = x / (1 + exp(-x)); its slope at 0 is 1/2. At ln 3 the sigmoid is 3/4, the slope 3/4 + ln 3 x 3/4 x 1/4.
    three = math.log(3)
    gate, up = (
        torch.tensor([0.0, three], requires_grad=True),
        torch.tensor([4.0, 2.0], requires_grad=True),
    )
    found = lora_kernels.gated(gate, up)
    assert found.tolist() == pytest.approx([0.0, 1.5 * three])
    by_gate, by_up = torch.autograd.grad(found, [gate, up], torch.tensor([1.0, 10.0]))
    assert by_gate.tolist() == pytest.approx([2.0, 20 * (0.75 + three * 3 / 16)])
    assert by_up.tolist() == pytest.approx([0.0, 7.5 * three])


def test_attention_in_bfloat16_is_torchs(tiny: Path) -> None:
    torch.manual_seed(11)
    layer = load_model(tiny, "bfloat16").model.layers[0].self_attn.requires_grad_(False).bfloat16()
    heads = layer.config.num_attention_heads, layer.config.num_key_value_heads
    assert heads[0] > heads[1]
    x, upstream = (
        torch.randn(2, 70, 256).bfloat16().requires_grad_(),
        torch.randn(2, 70, 256).bfloat16(),
    )
    angles = torch.rand(1, 70, layer.head_dim // 2).repeat(1, 1, 2) * 6
    position = angles.cos().bfloat16(), angles.sin().bfloat16()
    found, _ = lora_kernels.attended(layer, x, position)
    with Widths("flash_attention_for_cpu_backward") as widths:
        (our,) = torch.autograd.grad(found, x, upstream)
    assert widths.found == [torch.float32]
    exact, wide = copy.deepcopy(layer).double(), x.detach().double().requires_grad_()
    wanted, _ = exact(wide, (position[0].double(), position[1].double()))
    (theirs,) = torch.autograd.grad(wanted, wide, upstream.double())
    plain, _ = layer(x, position)
    (before,) = torch.autograd.grad(plain, x, upstream)
    # No further from float64 than the library's own way.
    for one, other, true in ((found, plain, wanted), (our, before, theirs)):
        assert (one - true).norm() <= 1.05 * (other - true).norm()
        assert (one - true).norm() <= 0.01 * true.norm()


@pytest.mark.parametrize(("rows", "part"), [(2, 1), (2, 2), (3, 2), (256, 16)])
def test_the_loss_of_three_tokens_by_hand(
    rows: int, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora_kernels, "ROWS", rows)
    monkeypatch.setattr(lora_kernels, "PART", part)
    # Logits (ln 3, 0), (0, ln 3) and (0, 0): probabilities 3/4, 1/4; 1/4, 3/4; 1/2, 1/2.
    three = math.log(3)
    hidden = torch.tensor([[three, 0.0], [0.0, three], [0.0, 0.0]], requires_grad=True)
    total, right = lora_kernels.answer_loss(hidden, torch.eye(2), torch.tensor([0, 0, 1]))
    total.backward()  # type: ignore[no-untyped-call]
    assert total.item() == pytest.approx(math.log(4 / 3) + math.log(4) + math.log(2))
    assert right.item() == 1
    assert hidden.grad is not None
    assert hidden.grad.flatten().tolist() == pytest.approx([-0.25, 0.25, -0.75, 0.75, 0.5, -0.5])
    # In bfloat16 the gradient is rounded once: 0.75 / 1,100 lies nearest to 0.00068283, 0.75 times a rounded 1 / 1,100 does not.
    short = torch.tensor([[0.0, three]], dtype=torch.bfloat16, requires_grad=True)
    total, _ = lora_kernels.answer_loss(
        short, torch.eye(2, dtype=torch.bfloat16), torch.tensor([0])
    )
    (total / 1100).backward()  # type: ignore[no-untyped-call]
    assert short.grad is not None
    assert short.grad.flatten().tolist() == pytest.approx([-0.00068283, 0.00068283], rel=1e-4)
    empty, none = lora_kernels.answer_loss(
        hidden[:0], torch.eye(2), torch.tensor([], dtype=torch.int64)
    )
    assert (empty.item(), none.item()) == (0.0, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_is_llamas(dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    layer = LlamaRMSNorm(64, eps=1e-5).to(dtype)
    layer.weight.data.uniform_(0.5, 1.5)
    layer.weight.requires_grad_(False)
    x = torch.randn(4, 9, 64).to(dtype).requires_grad_()
    gradient = torch.randn(4, 9, 64).to(dtype)
    exact = x.detach().double().requires_grad_()
    wanted = layer.weight.double() * exact / (exact.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    (by,) = torch.autograd.grad(wanted, exact, gradient.double())
    found = lora_kernels.normalised(layer, x)
    (our,) = torch.autograd.grad(found, x, gradient)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found, wanted.to(dtype), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(our, by.to(dtype), rtol=tolerance, atol=tolerance)


def test_only_what_the_functions_are_for_is_replaced(tiny: Path) -> None:
    model = lora(tiny, 0.0)
    bias = model.base_model.model.model.layers[0].mlp.up_proj
    bias.base_layer.bias = torch.nn.Parameter(torch.zeros(256))
    lora_kernels.use_kernels(model)
    replaced = [name for name, layer in model.named_modules() if "forward" in vars(layer)]
    # Seven linear layers, two norms, attention and MLP a block, and the last norm; less the layer with a bias.
    assert len(replaced) == 2 * 11 + 1 - 1
    assert not any(name.endswith("layers.0.mlp.up_proj") for name in replaced)
