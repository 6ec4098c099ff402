"""Test packed rows, data-loader workers and torch.compile on a two-layer model."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import masking_utils
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from bench.clones import ROOT, edit_params
from bula.errors import UserError
from bula.params import load_params
from stages.train import fit as train
from stages.train import packing, trainer
from tests.test_train import hash_outputs, logged_losses, set_train, stop_and_resume

Batch = dict[str, Any]
Losses = tuple[float, dict[str, torch.Tensor]]
Trainers = dict[str, trainer.AnswerTrainer]
KERNELS = ("fused", "trl")


def make_packed(folder: Path, kernels: str) -> trainer.AnswerTrainer:
    """Return a trainer of packed rows in float32, whose adapter has random weights."""

    def edit(params: dict[str, Any]) -> None:
        params["dtype"] = "float32"
        params["train"].update(packing=True, kernels=kernels)
        params["train"]["lora"]["dropout"] = 0.0

    edit_params(folder / "params.yaml", edit)
    params = load_params(folder / "params.yaml")
    base, clean = folder / "models/base", folder / "data/clean"
    made = trainer.make_trainer(params, base, clean, folder / "checkpoints")
    for _, weight in adapter(made):
        # The second matrix of a fresh adapter is zero, and so is the first one's gradient.
        torch.nn.init.normal_(weight, std=0.05)
    return made


@pytest.fixture(scope="module")
def packed_folder(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace after preprocess, in which only make_packed writes."""
    folder = tmp_path_factory.mktemp("packed") / "workspace"
    shutil.copytree(prepared, folder, symlinks=True)
    return folder


@pytest.fixture(scope="module")
def trainers(packed_folder: Path) -> Trainers:
    """Return one trainer for each kind of kernels; tests change only gradients and sums."""
    return {kernels: make_packed(packed_folder, kernels) for kernels in KERNELS}


@pytest.fixture
def fused(trainers: Trainers) -> trainer.AnswerTrainer:
    """Return the trainer with fused kernels."""
    return trainers["fused"]


def adapter(made: trainer.AnswerTrainer) -> list[tuple[str, torch.nn.Parameter]]:
    """Return the trained matrices by name."""
    parameters = made.model.named_parameters()
    return [(name, weight) for name, weight in parameters if weight.requires_grad]


def packed_rows(made: trainer.AnswerTrainer) -> list[Batch]:
    """Return two packed rows; each has several examples."""
    rows: list[Batch] = [made.train_dataset[place] for place in (0, 1)]
    assert all(len(row["seq_lengths"]) > 1 for row in rows)
    return rows


def split_row(row: Batch) -> list[Batch]:
    """Return the examples of a packed row as batches of one example."""
    ids = torch.split(torch.tensor([row["input_ids"]]), row["seq_lengths"], dim=1)
    labels = torch.split(torch.tensor([row["labels"]]), row["seq_lengths"], dim=1)
    return [
        {"input_ids": part, "labels": label, "attention_mask": torch.ones_like(part)}
        for part, label in zip(ids, labels, strict=True)
    ]


def score(made: trainer.AnswerTrainer, batches: list[Batch]) -> Losses:
    """Return the summed loss of batches in nats, and the adapter's gradients."""
    made.model.zero_grad()
    sum_of_losses = 0.0
    for batch in batches:
        loss = made._score(made.model, batch)[0]
        loss.backward()  # type: ignore[no-untyped-call]
        sum_of_losses += loss.item()
    gradients = {}
    for name, weight in adapter(made):
        assert weight.grad is not None
        gradients[name] = weight.grad.clone()
    return sum_of_losses, gradients


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_packed_row_has_the_loss_and_gradients_of_its_examples(
    trainers: Trainers, kernels: str
) -> None:
    made = trainers[kernels]
    rows = packed_rows(made)
    batch = made.data_collator(rows)
    apart = [example for row in rows for example in split_row(row)]
    loss, gradients = score(made, [batch])
    expected_loss, expected = score(made, apart)
    assert batch["input_ids"].shape[0] == 2
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for name, gradient in gradients.items():
        largest = expected[name].abs().max()
        assert (gradient - expected[name]).abs().max() < 1e-5 * largest, name


@pytest.mark.parametrize(
    ("kernels", "lost"), [("fused", "position_ids"), ("fused", "mask"), ("trl", "mask")]
)
def test_examples_that_see_each_other_have_another_loss(
    trainers: Trainers, kernels: str, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainers[kernels]
    batch = made.data_collator(packed_rows(made))
    correct, _ = score(made, [batch])
    if lost == "position_ids":
        del batch["position_ids"]
    else:
        # With a padding mask, transformers does not look for borders in the positions.
        monkeypatch.setattr(trainer, "drop_padding_mask", dict)
    wrong, _ = score(made, [batch])
    # Ten times the tolerance of the test above.
    assert abs(wrong - correct) > 1e-4 * correct


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_sums_of_packed_rows_count_no_padding(trainers: Trainers, kernels: str) -> None:
    made = trainers[kernels]
    rows = packed_rows(made)
    supervised = sum(label != -100 for row in rows for label in row["labels"])
    tokens = sum(length for row in rows for length in row["seq_lengths"])
    batch = made.data_collator(rows)
    made.sums["train"].zero_()
    made.compute_loss(made.model, batch)
    assert batch["input_ids"].numel() > tokens
    assert made.sums["train"].tolist()[2:] == [supervised, tokens]


def test_the_first_token_of_a_packed_example_is_never_predicted(
    fused: trainer.AnswerTrainer,
) -> None:
    batch = fused.data_collator(packed_rows(fused))
    first = batch["position_ids"] == 0
    assert first.sum() > 2
    assert set(batch["labels"][first].tolist()) == {-100}


def test_packing_keeps_every_example_once(
    fused: trainer.AnswerTrainer, packed_folder: Path
) -> None:
    longest = load_params(packed_folder / "params.yaml").preprocess.max_tokens
    packed = [
        split["input_ids"][0].tolist() for row in fused.train_dataset for split in split_row(row)
    ]
    assert len(fused.train_dataset) < len(fused.rows)
    assert max(map(len, fused.train_dataset["input_ids"])) <= longest
    assert sorted(packed) == sorted(fused.rows["input_ids"])


def test_an_epoch_of_packed_rows_has_complete_steps(
    fused: trainer.AnswerTrainer,
) -> None:
    order = list(fused._get_train_sampler())
    rows_per_step = 4
    assert len(order) == len(fused.train_dataset) // rows_per_step * rows_per_step
    assert len(set(order)) == len(order) > 0


def test_a_model_that_mixes_packed_examples_is_refused(
    packed_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An architecture that ignores the positions when it makes its mask.
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda positions: None)
    with pytest.raises(UserError, match="LlamaForCausalLM mixes packed examples"):
        make_packed(packed_folder, "trl")


def test_packed_rows_for_flash_attention_stay_one_row(
    fused: trainer.AnswerTrainer,
) -> None:
    collator = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    rows = packed_rows(fused)
    assert collator(rows)["input_ids"].shape[0] == 1
    packing.keep_rows_apart(collator)
    assert collator(rows)["input_ids"].shape[0] == 2


def test_a_packed_run_that_was_stopped_resumes_to_the_same_adapter(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_train(ready, packing=True, max_steps=4, eval_steps=2, save_steps=2, batch_size=1)
    train.main()
    uninterrupted = hash_outputs(ready)
    stop_and_resume(2, monkeypatch)
    assert hash_outputs(ready) == uninterrupted


def test_loader_workers_change_no_byte_of_the_outputs(ready: Path) -> None:
    set_train(ready, max_steps=5, eval_steps=5, save_steps=5)
    train.main()
    alone = hash_outputs(ready)
    edit_params(ready / "params.yaml", lambda params: params["compute"].update(loader_workers=2))
    train.main()
    assert hash_outputs(ready) == alone


# --- torch.compile -----------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")
# torch's compiler raises warnings, and hides some by other means than filters.
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_trains_to_the_same_losses(ready: Path) -> None:
    def edit(params: dict[str, Any]) -> None:
        params["dtype"] = "float32"
        # One shape of one batch, because the compiler takes most of the time of this test.
        one = {"batch_size": 2, "gradient_accumulation": 1, "max_steps": 1, "eval_steps": 1}
        constant = {"learning_rate": 0.01, "scheduler": "constant", "warmup_share": 0.0}
        params["train"].update(kernels="trl", **one, **constant)
        params["train"]["lora"]["dropout"] = 0.0

    edit_params(ready / "params.yaml", edit)
    losses = []
    for compiled in (False, True):
        set_train(ready, compile=compiled)
        train.main()
        losses.append(logged_losses(ready, "train") + logged_losses(ready, "dev"))
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


@pytest.mark.parametrize(("gpu", "names"), [(False, r"g\+\+"), (True, "gcc, clang")])
def test_compiling_without_a_compiler_is_refused(
    gpu: bool, names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("torch.cuda.device_count", lambda: int(gpu))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    compiled = params.train.model_copy(update={"compile": True, "kernels": "trl"})
    message = rf"train\.compile is true, which needs a compiler \({names}\)"
    with pytest.raises(UserError, match=message):
        trainer.check_requirements(params.model_copy(update={"train": compiled}))


def test_a_compiler_that_the_environment_names_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("CXX", "my-compiler")
    monkeypatch.setattr(shutil, "which", lambda name: name == "my-compiler")
    trainer._require_compiler()
