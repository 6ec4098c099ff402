"""Try adapter, kernels and an optimizer step on the cut."""

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor

from bula.errors import UserError
from bula.lora import check_target_modules, lora_config, targets_in
from bula.model_kernels import ADAPTER_STD, add_answer_head, kernel_difference, use_kernels
from bula.models import load_model
from bula.params import Lora
from bula.scoring import Batch, check_head, pad_batch, unwrap_adapter
from stages.dry_run.cut import empty_model
from stages.dry_run.trial import OTHER_BASE, Trial, step

# Float32's rounding in two layers stays below 2e-6.
KERNEL_TOLERANCE = 1e-5
# The adapter of the trial; train.lora sets only its modules, so that no other change of train.lora
# repeats the dry run.
RANK = 4
ALPHA = 8
FIX_KERNELS = {
    "fused": "set train.kernels to trl in params.yaml",
    "trl": "set train.kernels to fused in params.yaml, or use another base model",
}


def try_training(trial: Trial) -> None:
    """Try adapter, kernels and an optimizer step, and save the adapter."""
    kernels = trial.params.train.kernels
    with step(trial.base, "target modules", "correct train.lora.target_modules in params.yaml"):
        check_target_modules(empty_model(trial.config), trial.params.train.lora)
        model = adapted_cut(trial, "float32")
    with step(trial.base, "the head of the model", OTHER_BASE):
        check_head(model)
    with step(trial.base, f"the {kernels} kernels", FIX_KERNELS[kernels]):
        check_kernels(model, batch_on(model, trial), kernels)
    # Two models would need twice the memory.
    del model
    with step(trial.base, "an optimizer step", OTHER_BASE):
        model = adapted_cut(trial, trial.params.dtype)
        use_trained(model, kernels)
        take_step(model, batch_on(model, trial), kernels)
        model.save_pretrained(trial.folder / "adapter")


def adapted_cut(trial: Trial, dtype: str) -> PeftModel:
    """Return the cut with an adapter whose output is not zero."""
    model = load_model(trial.folder / "cut", dtype)
    targets = targets_in(model, trial.params.train.lora.target_modules)
    lora = Lora(r=RANK, alpha=ALPHA, dropout=0.0, target_modules=targets)
    adapted = get_peft_model(model, lora_config(lora))
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            # Training keeps adapters in float32, too.
            parameter.data = parameter.data.float()
        if "lora_B" in name:
            # PEFT starts B at zero, and no output would depend on the adapter.
            torch.nn.init.normal_(parameter, std=ADAPTER_STD)
    adapted.eval()
    return adapted


def batch_on(model: PeftModel, trial: Trial) -> Batch:
    """Return the short rows as one padded batch on the model's device."""
    batch = pad_batch(trial.short, trial.tokenizer.pad_token_id)
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


def use_trained(model: PeftModel, kernels: str) -> None:
    """Replace the model's functions by those that compute them in training."""
    if kernels == "fused":
        use_kernels(model)
        add_answer_head(unwrap_adapter(model))
        return
    # TRL takes seconds to import.
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(unwrap_adapter(model), outputs=("log_probs", "is_top1"))


def mean_loss(model: PeftModel, batch: Batch, kernels: str) -> Tensor:
    """Return the loss in nats per supervised token, as training computes it."""
    if kernels == "fused":
        total, _, supervised = model(**batch, answer_head=True)
    else:
        output = model(**batch, use_cache=False, fused_lm_head=True)
        total = -output.log_probs.sum()
        supervised = output.label_mask.sum()
    loss: Tensor = total / supervised
    return loss


def check_kernels(model: PeftModel, batch: Batch, kernels: str) -> None:
    """Raise UserError if the kernels differ from transformers in float32.

    The model may have TRL's head afterwards.
    """
    if kernels == "fused":
        loss, gradient = kernel_difference(model, batch["input_ids"], batch["labels"])
    else:
        loss, gradient = trl_difference(model, batch)
    # A comparison with NaN is false.
    if not max(loss, gradient) <= KERNEL_TOLERANCE:
        found = f"loss {loss:.1e} and gradients {gradient:.1e} off"
        what = f"they differ from transformers: {found} (tolerance {KERNEL_TOLERANCE:g})"
        raise UserError("kernels", what, FIX_KERNELS[kernels])


def trl_difference(model: PeftModel, batch: Batch) -> tuple[float, float]:
    """Return the relative differences of TRL's loss and gradients from transformers'."""
    own = model(**batch, use_cache=False).loss
    own_gradients = adapter_gradients(model, own)
    use_trained(model, "trl")
    found = mean_loss(model, batch, "trl")
    apart = (adapter_gradients(model, found) - own_gradients).norm()
    loss_apart = (found - own).detach().abs() / own.detach()
    return float(loss_apart), float(apart / own_gradients.norm())


def adapter_gradients(model: PeftModel, loss: Tensor) -> Tensor:
    """Return the gradients of a loss for all adapters as one vector."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, trained)
    return torch.cat([gradient.flatten() for gradient in gradients])


def take_step(model: PeftModel, batch: Batch, kernels: str) -> None:
    """Take one optimizer step; raise UserError if a number is not finite."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    loss = mean_loss(model, batch, kernels)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    with torch.no_grad():
        after = mean_loss(model, batch, kernels)
    if not (loss.isfinite() and after.isfinite()):
        what = f"the loss is {float(loss)} before the step and {float(after)} after it"
        raise UserError("training", what, OTHER_BASE)
