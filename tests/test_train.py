"""Train, merge and quantize a two-layer model on the CPU."""

import contextlib
import json
import math
import os
import re
import resource
import shutil
import signal
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, LlamaForCausalLM, TrainerState

from bench.clones import ROOT, edit_params
from bula import checkpoints, divergence, gguf_export, hardware, merging
from bula.commands.deps import closure
from bula.errors import UserError
from bula.files import sha256_file
from bula.gguf_files import read_gguf
from bula.hardware import compute_dtype
from bula.model_kernels import add_answer_head
from bula.models import load_model, load_tokenizer, save_model
from bula.params import DirectoryModel, Params, load_params
from bula.prompts import Encoded, encode
from bula.records import SET_NAMES, Example, read_examples
from bula.scoring import pad_batch
from stages import merge, quantize
from stages.models.base import fetch_base as ingest_base
from stages.train import callbacks, fingerprint, report, trainer
from stages.train import fit as train
from tests.conftest import make_ready, make_workspace, run

# An adapter of rank r has r x (in + out) parameters in each linear layer.
# q, o, gate, up and down map 256 to 256 numbers; k and v map 256 to 128.
RANK = 4
LAYERS = 2
ENDS_OF_LAYER = 5 * (256 + 256) + 2 * (256 + 128)
TRAINABLE = LAYERS * RANK * ENDS_OF_LAYER


def read_json(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return json.loads(text)


def metrics(folder: Path, name: str) -> dict[str, Any]:
    path = folder / "metrics" / f"{name}.json"
    loaded: dict[str, Any] = read_json(path)
    return loaded


def logged_losses(folder: Path, group: str) -> list[float]:
    """Return the points of a loss curve, in nats."""
    points = read_json(folder / "plots/train/loss.json")
    return [point["loss_nats"] for point in points if point["group"] == group]


def set_train(folder: Path, **values: Any) -> None:
    """Change values of the section train of params.yaml."""

    def edit(params: dict[str, Any]) -> None:
        params["train"].update(values)

    edit_params(folder / "params.yaml", edit)


def example(question: str, answer: str) -> Example:
    """Return a training example; its other fields do not matter here."""
    return Example(
        id="0" * 16,
        source="s",
        license="l",
        split="train",
        question=question,
        answer=answer,
    )


def hash_adapter(folder: Path) -> str:
    return sha256_file(folder / "models/adapter/adapter_model.safetensors")


def hash_outputs(folder: Path) -> dict[str, str]:
    """Return the hash of every output of train, except for the speed."""
    adapter = folder / "models/adapter"
    plots = folder / "plots/train"
    figures = (folder / "metrics").glob("*.json")
    files = [*adapter.iterdir(), *plots.iterdir(), *figures]
    return {str(file): sha256_file(file) for file in files}


@pytest.fixture(scope="module")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace after train, merge and quantize; tests only read it."""
    folder = tmp_path_factory.mktemp("finished")
    make_workspace(folder, tiny)
    with contextlib.chdir(folder):
        make_ready(folder, tiny)
        set_train(folder, learning_rate=0.01)
        train.main()
        merge.main()
        quantize.main()
    return folder


def loss_in_numpy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the total loss in nats of the supervised tokens."""
    total = 0.0
    for row_logits, row_labels in zip(logits, labels, strict=True):
        # The scores at a position are those of the next token.
        for scores, label in zip(row_logits[:-1], row_labels[1:], strict=True):
            if label != -100:
                shifted = scores - scores.max()
                normaliser = np.log(np.exp(shifted).sum())
                total += normaliser - shifted[label]
    return total


def make_untrained(model: torch.nn.Module) -> trainer.AnswerTrainer:
    """Return a trainer of which only the loss works."""
    made = object.__new__(trainer.AnswerTrainer)
    made.sums = {
        "train": torch.zeros(4, dtype=torch.float64),
        "eval": torch.zeros(4, dtype=torch.float64),
    }
    made.model = model
    made.kernels = "fused"
    add_answer_head(model)
    return made


def test_the_loss_of_a_batch_equals_a_loss_computed_in_numpy(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    model = load_model(tiny, "float32")
    examples = [
        example("Dói?", "Sim, um pouco."),
        example("Posso tomar sol sem protetor?", "Não."),
    ]
    encoded = [encode(tokenizer, item) for item in examples]
    batch = pad_batch(encoded, tokenizer.pad_token_id)
    mask = batch["attention_mask"]
    with torch.inference_mode():
        logits = model(input_ids=batch["input_ids"], attention_mask=mask).logits
    total = loss_in_numpy(logits.double().numpy(), batch["labels"].numpy())
    supervised = sum(len(item.completion) for item in encoded)
    made = make_untrained(model)
    loss = made.compute_loss(model, batch).detach()
    assert (batch["labels"][:, 1:] != -100).sum() == supervised
    assert loss.item() == pytest.approx(total / supervised, abs=1e-5)
    assert made.sums["eval"].tolist()[2:] == [supervised, int(mask.sum())]


def test_training_writes_exactly_the_files_of_an_adapter(finished: Path) -> None:
    assert sorted(path.name for path in (finished / "models/adapter").iterdir()) == [
        "LICENSE",
        "NOTICE",
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert not any((finished / ".bula/checkpoints").iterdir())


def test_every_folder_of_weights_carries_its_documents(finished: Path) -> None:
    for name in ("adapter", "merged", "gguf"):
        files = {file.name: file for file in (finished / f"models/{name}").iterdir()}
        assert {"README.md", "LICENSE", "NOTICE"} <= files.keys()
        assert {file.stat().st_mode & 0o777 for file in files.values()} == {0o644}


@pytest.mark.parametrize("name", ["bf16", "q8_0", "adapter"])
def test_gguf_files_carry_name_language_and_license(finished: Path, name: str) -> None:
    fields = read_gguf(finished / f"models/gguf/{name}.gguf").fields
    assert fields["general.name"].contents() == "tiny-bula"
    assert fields["general.languages"].contents() == ["pt"]
    assert fields["general.license"].contents() == "apache-2.0"


def test_training_reports_its_parameters_and_steps(finished: Path) -> None:
    figures = metrics(finished, "train")
    run = figures["run"]
    assert figures["parameters"]["trainable"] == TRAINABLE
    assert run["steps"] == 6
    assert run["compute_dtype"] == compute_dtype("bfloat16")


def test_training_plots_every_step(finished: Path) -> None:
    points = read_json(finished / "plots/train/loss.json")
    steps = [point["step"] for point in points if point["group"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_plots_of_a_long_run_stay_small() -> None:
    history = []
    for step in range(1, 10_001):
        history.append({"step": step, "train_loss_nats": 1.0, "train_token_accuracy": 0.5})
        if step % 100 == 0:
            history.append({"step": step, "eval_loss_nats": 1.0, "eval_token_accuracy": 0.5})
    points = report.thin(report.curves(history)["loss"])
    train = [point["step"] for point in points if point["group"] == "train"]
    dev = [point["step"] for point in points if point["group"] == "dev"]
    # 250 places of 10,000, 9,999 / 249 = 40.2 apart. The 100 evaluations are all there.
    assert len(train) == 250
    assert (train[:3], train[-1]) == ([1, 41, 81], 10_000)
    assert dev == list(range(100, 10_001, 100))
    steps = [point["step"] for point in points]
    assert steps == sorted(steps)


@pytest.mark.parametrize("count", [1, 2, 250])
def test_plots_of_a_short_run_have_every_step(count: int) -> None:
    points: list[report.Point] = [{"step": step, "group": "train"} for step in range(count)]
    assert report.thin(points) == points


def test_training_lowers_dev_loss(finished: Path) -> None:
    dev = logged_losses(finished, "dev")
    first = logged_losses(finished, "train")[0]
    assert len(dev) == 2
    assert dev[-1] < first


def test_training_reports_the_lowest_dev_loss(finished: Path) -> None:
    examples = read_examples(finished / "data/clean/dev.jsonl")
    dev = metrics(finished, "train")["dev"]
    lowest = min(logged_losses(finished, "dev"))
    perplexity = 2 ** dev["bits_per_token"]
    assert dev["items"] == len(examples)
    assert dev["loss_nats"] == pytest.approx(lowest, rel=1e-5)
    assert dev["perplexity"] == pytest.approx(perplexity, rel=1e-4)


def train_with_seed(folder: Path, seed: int) -> dict[str, str]:
    """Return the hash of each file of the adapter."""
    edit_params(folder / "params.yaml", lambda params: params.update(seed=seed))
    train.main()
    files = (folder / "models/adapter").iterdir()
    return {file.name: sha256_file(file) for file in files}


def test_the_same_seed_repeats_the_adapter_and_another_seed_does_not(ready: Path) -> None:
    set_train(ready, max_steps=2, eval_steps=2)
    first = train_with_seed(ready, 1)
    again = train_with_seed(ready, 1)
    other = train_with_seed(ready, 2)
    weights = "adapter_model.safetensors"
    assert len(first) == 5
    assert first == again
    assert first[weights] != other[weights]


@pytest.fixture
def data(tmp_path: Path) -> list[Path]:
    files = [tmp_path / "train.jsonl", tmp_path / "dev.jsonl"]
    for file in files:
        file.write_text(f"rows of {file.name}", encoding="utf-8")
    return files


def default_params() -> Params:
    """Return the parameters of the default profile."""
    return load_params(ROOT / "profiles/smollm2-135m.yaml")


def with_values(params: Params, section: str, **values: Any) -> Params:
    """Return parameters with other values in a section."""
    changed = getattr(params, section).model_copy(update=values)
    return params.model_copy(update={section: changed})


def test_the_same_run_has_the_same_fingerprint(data: list[Path]) -> None:
    before = fingerprint.fingerprint(default_params(), data)
    again = fingerprint.fingerprint(default_params(), data)
    assert again == before


@pytest.mark.parametrize(
    ("section", "values"), [("train", {"learning_rate": 0.5}), ("preprocess", {"max_tokens": 99})]
)
def test_other_parameters_have_another_fingerprint(
    section: str, values: dict[str, float], data: list[Path]
) -> None:
    params = default_params()
    other = with_values(params, section, **values)
    before = fingerprint.fingerprint(params, data)
    assert fingerprint.fingerprint(other, data) != before


# accelerate's launcher sets the last two from accelerate/NAME.yaml.
@pytest.mark.parametrize(
    ("name", "value"),
    [("WORLD_SIZE", "2"), ("ACCELERATE_MIXED_PRECISION", "bf16"), ("FSDP_VERSION", "1")],
)
def test_another_launch_has_another_fingerprint(
    name: str, value: str, data: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = default_params()
    before = fingerprint.fingerprint(params, data)
    monkeypatch.setenv(name, value)
    assert fingerprint.fingerprint(params, data) != before


def test_other_package_versions_have_another_fingerprint(
    data: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = default_params()
    before = fingerprint.fingerprint(params, data)
    monkeypatch.setattr(checkpoints, "version", lambda name: f"{name} of another year")
    assert fingerprint.fingerprint(params, data) != before


def test_other_data_has_another_fingerprint(data: list[Path]) -> None:
    params = default_params()
    before = fingerprint.fingerprint(params, data)
    data[0].write_text("other rows", encoding="utf-8")
    assert fingerprint.fingerprint(params, data) != before


# Reading and checking files shapes no weight.
WITHOUT_EFFECT = {
    "bula/adapter_files.py",
    "bula/escaping.py",
    "bula/files.py",
    "bula/gguf_files.py",
    "bula/model_cards.py",
    "bula/model_files.py",
    "bula/model_licenses.py",
    "bula/older_configs.py",
    "bula/weight_checks.py",
}


def test_the_fingerprint_covers_all_code_that_shapes_the_adapter() -> None:
    covered = {str(file.relative_to(ROOT)) for file in fingerprint.CODE}
    used = closure(ROOT, "train")
    assert used - covered <= WITHOUT_EFFECT


def test_checkpoints_of_an_experiment_lie_in_the_repository_itself(tmp_path: Path) -> None:
    code = "from bula.checkpoints import CHECKPOINTS; print(CHECKPOINTS)"
    repository = tmp_path / "repository"
    result = run([sys.executable, "-c", code], tmp_path, DVC_ROOT=str(repository))
    assert result.stdout.strip() == str(repository / ".bula/checkpoints"), result.stderr


def count_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each later pass adds its step."""
    passes: list[int] = []
    training_step = trainer.AnswerTrainer.training_step

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        passes.append(self.state.global_step)
        return training_step(self, *args, **kwargs)

    monkeypatch.setattr(trainer.AnswerTrainer, "training_step", counted)
    return passes


def send_sigterm_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let training receive SIGTERM in each pass that follows a step."""
    training_step = trainer.AnswerTrainer.training_step

    def signalled(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return training_step(self, *args, **kwargs)

    monkeypatch.setattr(trainer.AnswerTrainer, "training_step", signalled)


def stop_and_resume(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop training by SIGTERM in the pass after a step, and run it again to its end."""
    message = rf"stopped; run it again to resume from step {step + 1}$"
    with monkeypatch.context() as patch:
        send_sigterm_after(step, patch)
        with pytest.raises(SystemExit, match=message):
            train.main()
    train.main()


def interrupt(*arguments: Any) -> None:
    raise KeyboardInterrupt


def test_a_run_killed_after_its_last_step_takes_no_further_step(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Step 3 lies within an epoch, which has four steps: after its last step none would be left.
    set_train(ready, max_steps=3, scheduler="constant")
    train.main()
    uninterrupted = hash_outputs(ready)
    assert metrics(ready, "train")["run"]["steps"] == 3
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "write_figures", interrupt)
        train.main()
    shutil.rmtree(ready / "models/adapter")
    passes = count_passes(monkeypatch)
    train.main()
    assert passes == []
    assert hash_outputs(ready) == uninterrupted


def test_a_run_stopped_between_two_lines_of_the_log_draws_the_same_curve(
    ready: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_train(ready, max_steps=4, eval_steps=2, save_steps=2, log_steps=2)
    train.main()
    uninterrupted = hash_outputs(ready)
    stop_and_resume(0, monkeypatch)
    assert "resuming from step 1\n" in capsys.readouterr().out
    assert hash_outputs(ready) == uninterrupted


def test_a_run_killed_halfway_resumes_to_the_same_adapter(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train.main()
    uninterrupted = hash_outputs(ready)
    log = trainer.AnswerTrainer.log

    def kill_after_four_steps(self: Any, *args: Any, **kwargs: Any) -> None:
        log(self, *args, **kwargs)
        if self.state.global_step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer.AnswerTrainer, "log", kill_after_four_steps)
        train.main()
    assert len(list((ready / ".bula/checkpoints").glob("*/checkpoint-3"))) == 1
    passes = count_passes(monkeypatch)
    train.main()
    # Steps 4 to 6 have two passes each; a run that starts over would write the same adapter.
    assert passes == [3, 3, 4, 4, 5, 5]
    assert hash_outputs(ready) == uninterrupted


def write_checkpoint(folder: Path, step: int) -> Path:
    """Write a checkpoint without a marker."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in ("adapter_model.safetensors", "trainer_state.json"):
        content = f"{name} of {step}"
        (path / name).write_text(content, encoding="utf-8")
    return path


def test_an_incomplete_checkpoint_is_not_resumed(tmp_path: Path) -> None:
    complete = write_checkpoint(tmp_path, 3)
    checkpoints.mark_complete(complete)
    # Checkpoint 6 has no marker, and a file of checkpoint 9 is shorter than its marker states.
    write_checkpoint(tmp_path, 6)
    truncated = write_checkpoint(tmp_path, 9)
    checkpoints.mark_complete(truncated)
    (truncated / "trainer_state.json").write_text("{", encoding="utf-8")
    assert checkpoints.last_checkpoint(tmp_path) == str(complete)
    assert list(tmp_path.iterdir()) == [complete]


def test_a_missing_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoints.last_checkpoint(tmp_path / "missing") is None


def test_a_marker_and_its_files_are_on_the_disk_when_mark_complete_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def fsync(opened: int) -> None:
        synced.append(Path(f"/proc/self/fd/{opened}").resolve().name)

    monkeypatch.setattr(os, "fsync", fsync)
    checkpoints.mark_complete(write_checkpoint(tmp_path, 3))
    files = ["adapter_model.safetensors", "trainer_state.json"]
    marker = f"{checkpoints.COMPLETE_MARKER}.tmp"
    # The bytes of the marker precede its name, and the directories come last.
    assert synced == [*files, marker, "checkpoint-3", tmp_path.name]


def test_an_interrupted_deletion_leaves_no_checkpoint_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    for step in (3, 6):
        checkpoints.mark_complete(write_checkpoint(folder, step))
    rmtree = shutil.rmtree

    def killed(path: Path, **kwargs: Any) -> None:
        rmtree(path / "checkpoint-3")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        checkpoints.delete_checkpoints(folder)
    assert checkpoints.last_checkpoint(folder) is None
    assert not list(tmp_path.iterdir())


def test_a_second_run_on_one_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with (
        checkpoints.exclusive_run(folder),
        pytest.raises(UserError, match="run: another run trains in this folder"),
        checkpoints.exclusive_run(folder),
    ):
        pass


def test_a_folder_is_free_again_after_its_run(tmp_path: Path) -> None:
    for _ in range(2):
        with checkpoints.exclusive_run(tmp_path / "run"):
            pass
    assert not list(tmp_path.iterdir())


def test_a_run_waits_for_a_run_that_is_exiting(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def enter() -> None:
        with checkpoints.exclusive_run(folder):
            pass

    with ThreadPoolExecutor(1) as pool:
        with checkpoints.exclusive_run(folder):
            checkpoints.announce_exit(folder)
            later = pool.submit(enter)
            with pytest.raises(TimeoutError):
                later.result(timeout=0.5)
        later.result(timeout=30)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["_save_optimizer_and_scheduler", "save_model"])
def test_a_full_disk_leaves_the_previous_checkpoint_usable(
    part: str, ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(trainer.AnswerTrainer, part)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(self: Any, output_dir: str, **kwargs: Any) -> None:
        if output_dir.endswith("checkpoint-6"):
            # torch and safetensors raise their own errors for a write that the system refuses.
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            original(self, output_dir, **kwargs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(trainer.AnswerTrainer, part, full)
    message = r"checkpoint-6: the checkpoint cannot be written \(.*\)\. .* resumes from step 3\.$"
    with pytest.raises(UserError, match=message):
        train.main()
    folder = next(path for path in (ready / ".bula/checkpoints").iterdir() if path.is_dir())
    assert (folder / "checkpoint-6").exists()
    assert checkpoints.last_checkpoint(folder) == str(folder / "checkpoint-3")
    assert not (folder / "checkpoint-6").exists()


def test_an_older_checkpoint_is_deleted_after_the_new_one_is_marked(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_train(ready, max_steps=4, eval_steps=1, save_steps=1)
    seen: list[list[str]] = []

    def record(checkpoint: Path) -> None:
        siblings = checkpoint.parent.glob("checkpoint-*")
        complete = [path.name for path in siblings if checkpoints.is_complete(path)]
        seen.append(sorted(complete))
        checkpoints.mark_complete(checkpoint)

    monkeypatch.setattr(trainer, "mark_complete", record)
    train.main()
    # Before each marker the newest complete checkpoint is that of the previous step.
    assert [names[-1:] for names in seen] == [
        [],
        ["checkpoint-1"],
        ["checkpoint-2"],
        ["checkpoint-3"],
    ]
    assert max(map(len, seen)) == 2


def test_the_rows_that_the_template_makes_are_measured(finished: Path) -> None:
    tokenizer = load_tokenizer(finished / "models/base")
    examples = read_examples(finished / "data/clean/train.jsonl")
    encoded = [encode(tokenizer, item) for item in examples]
    supervised = sum(len(item.completion) for item in encoded)
    tokens = sum(len(item.input_ids) for item in encoded)
    columns = zip(*(item.input_ids for item in encoded), strict=False)
    shared = next(place for place, ids in enumerate(columns) if len(set(ids)) > 1)
    figures = metrics(finished, "template")
    del figures["sample_sha256"]
    assert figures.pop("supervised_share") == pytest.approx(supervised / tokens, rel=1e-5)
    assert figures == {
        "rows": len(examples),
        "shared_tokens": shared,
        "bos_tokens_at_start": 1,
        "rows_truncated": 0,
        "rows_without_supervised_token": 0,
        "end_of_turn_supervised": True,
        "pad_is_end_of_turn": False,
    }


ITEM = example("Dói muito?", "Não.")


@pytest.fixture
def row(tiny: Path) -> Encoded:
    """Return a row that is fit for training."""
    return encode(load_tokenizer(tiny), ITEM)


def measure_template(tiny: Path, ids: list[int], labels: list[int]) -> None:
    """Measure a data set of one row."""
    rows = Dataset.from_dict({"input_ids": [ids], "labels": [labels]})
    report.template_figures(load_tokenizer(tiny), rows, [ITEM])


def test_a_row_without_its_end_of_turn_is_refused(tiny: Path, row: Encoded) -> None:
    ids = row.input_ids[:-1]
    labels = row.labels[:-1]
    with pytest.raises(UserError, match="or the end-of-turn token"):
        measure_template(tiny, ids, labels)


def test_a_row_without_labels_is_refused(tiny: Path, row: Encoded) -> None:
    labels = [-100] * len(row.labels)
    with pytest.raises(UserError, match="some rows lack supervised answer tokens"):
        measure_template(tiny, row.input_ids, labels)


def test_a_row_with_two_bos_tokens_is_refused(tiny: Path, row: Encoded) -> None:
    ids = [row.input_ids[0], *row.input_ids]
    labels = [-100, *row.labels]
    with pytest.raises(UserError, match="rows start with 2 BOS tokens"):
        measure_template(tiny, ids, labels)


def test_a_row_without_its_bos_token_is_refused(tiny: Path, row: Encoded) -> None:
    ids = row.input_ids[1:]
    labels = row.labels[1:]
    with pytest.raises(UserError, match="rows start without the tokenizer's BOS token"):
        measure_template(tiny, ids, labels)


def log_of_losses(train_losses: list[float], dev_losses: list[float]) -> list[report.LogLine]:
    """Return a trainer's log that contains these losses."""
    history: list[report.LogLine] = []
    for loss in train_losses:
        history.append({"train_loss_nats": loss})
    for loss in dev_losses:
        history.append({"eval_loss_nats": loss})
    return history


# Thirds of two steps: their means are 2.5, 1.7 and 1.4 nats.
TRAIN_LOSSES = [3.0, 2.0, 1.8, 1.6, 1.5, 1.3]
DEV_LOSSES = [2.2, 1.45, 1.5]


def test_convergence_figures_equal_figures_computed_by_hand() -> None:
    history = log_of_losses(TRAIN_LOSSES, DEV_LOSSES)
    figures = report.converge(history)
    expected = {
        "train_perplexity_first_third": math.exp(2.5),
        "train_perplexity_last_third": math.exp(1.4),
        "train_perplexity_reduction": 1 - math.exp(1.4 - 2.5),
        "train_bits_per_token_change_last_third": (1.4 - 1.7) / math.log(2),
        "dev_perplexity_reduction": 1 - math.exp(1.5 - 2.2),
        "dev_minus_train_loss_nats": 0.1,
        "dev_above_best_loss_nats": 0.05,
    }
    assert figures.pop("overfitted") is True
    assert figures == pytest.approx(expected)


def test_a_run_whose_last_dev_loss_is_the_lowest_is_not_overfitted() -> None:
    history = log_of_losses(TRAIN_LOSSES, DEV_LOSSES[:-1])
    figures = report.converge(history)
    assert figures["overfitted"] is False


def documented_convergence() -> dict[str, Any]:
    """Return the figures of the worked example in docs/metrics.md."""
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    _, _, after = text.partition("### Convergence\n")
    section, _, _ = after.partition("\n### ")
    section = section.replace("−", "-")
    rows = re.findall(r"^\| `(\w+)` \| .* \| (\S+) \|$", section, re.MULTILINE)
    return {name: json.loads(value) for name, value in rows}


def test_the_worked_example_of_convergence_in_the_docs_is_correct() -> None:
    history = log_of_losses(TRAIN_LOSSES, DEV_LOSSES)
    figures = report.converge(history)
    documented = documented_convergence()
    assert documented.pop("overfitted") is True
    assert figures.pop("overfitted") is True
    assert documented == pytest.approx(figures, rel=1e-4)


def test_merging_before_the_cast_keeps_every_prediction(finished: Path) -> None:
    figures = metrics(finished, "merge")["before_cast"]
    assert figures["greedy_agreement"] == 1.0
    assert figures["logit_difference_largest"] < 1e-3


def test_the_cast_of_merged_weights_is_measured(finished: Path) -> None:
    figures = metrics(finished, "merge")
    before = figures["before_cast"]["logit_difference_largest"]
    assert figures["after_cast"]["logit_difference_largest"] > before


def test_merge_measures_the_precision_in_which_the_model_is_served(finished: Path) -> None:
    figures = metrics(finished, "merge")
    served = compute_dtype("bfloat16")
    assert figures["checked"] == {"dtype": "bfloat16", "compute_dtype": served}
    # A bfloat16 computation adds its own rounding.
    assert (figures["as_served"] == figures["after_cast"]) == (served == "float32")


def test_merge_changes_linear_layers(finished: Path) -> None:
    base = up_projection(finished / "models/base", "float32")
    merged = up_projection(finished / "models/merged", "float32")
    assert not torch.equal(base, merged)


def test_merge_keeps_embeddings(finished: Path) -> None:
    base = load_model(finished / "models/base", "float32")
    merged = load_model(finished / "models/merged", "float32")
    embeddings = base.get_input_embeddings().weight
    assert torch.equal(embeddings, merged.get_input_embeddings().weight)


def test_a_bf16_file_equals_the_merged_weights(finished: Path) -> None:
    figures = metrics(finished, "quantize")["bf16"]
    assert figures["kl_nats"] == 0.0
    assert figures["greedy_agreement"] == 1.0
    assert figures["logit_difference_largest"] == 0.0


def test_every_type_of_params_is_quantized_and_measured(finished: Path) -> None:
    figures = metrics(finished, "quantize")
    assert sorted(figures) == ["bf16", "q8_0"]


def test_the_16_bit_file_is_measured_and_kept_only_on_request(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("models/merged", "models/adapter", "data/clean"):
        shutil.copytree(finished / name, tmp_path / name)
    shutil.copy(finished / "params.yaml", tmp_path)
    edit_params(tmp_path / "params.yaml", lambda params: params["quantize"].update(types=["q8_0"]))
    monkeypatch.chdir(tmp_path)
    quantize.main()
    kept = {path.name for path in (tmp_path / "models/gguf").glob("*.gguf")}
    assert kept == {"adapter.gguf", "q8_0.gguf"}
    assert metrics(tmp_path, "quantize") == metrics(finished, "quantize")
    for name in kept:
        written = (tmp_path / "models/gguf" / name).read_bytes()
        assert written == (finished / "models/gguf" / name).read_bytes()


def test_a_q8_0_file_is_smaller_and_slightly_different(finished: Path) -> None:
    figures = metrics(finished, "quantize")
    q8_0 = figures["q8_0"]
    assert 0 < q8_0["kl_nats"] < 0.05
    assert q8_0["bytes"] < figures["bf16"]["bytes"]
    # Seven linear layers in each of two blocks, and the embedding; norms stay in 32 bit.
    assert q8_0["tensors_q8_0"] == 15
    assert q8_0["tensors_f32"] == 5


def test_keys_of_a_gguf_file_are_read_in_their_original_order(finished: Path) -> None:
    # llama.cpp's rotary embedding needs them permuted in the file.
    weights = [
        load_model(finished / name, "bfloat16").model.layers[1].self_attn.k_proj.weight
        for name in ("models/gguf/bf16.gguf", "models/merged")
    ]
    assert torch.equal(weights[0], weights[1])


def test_a_model_with_broken_weights_is_refused_and_no_file_is_written(
    ready: Path, tiny: Path
) -> None:
    model = load_model(tiny, "bfloat16")
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    save_model(model, load_tokenizer(tiny), ready / "models/merged")
    with pytest.raises(UserError, match="not finite"):
        quantize.main()
    assert not (ready / "models/gguf").exists()


def save_inexact_model(tiny: Path, path: Path) -> None:
    """Save a float32 model whose weights bfloat16 cannot represent."""
    model = load_model(tiny, "float32")
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1 + 0.01 * torch.randn_like(weight))
    save_model(model, load_tokenizer(tiny), path)


def test_quantized_files_are_compared_with_bf16(ready: Path, tiny: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    pad = tokenizer.pad_token_id
    encoded = divergence.sample_validation(ready / "data/clean", tokenizer, 2)
    merged = tmp_path / "merged"
    bf16 = tmp_path / "gguf/bf16.gguf"
    q8_0 = tmp_path / "gguf/q8_0.gguf"
    bf16.parent.mkdir()
    save_inexact_model(tiny, merged)
    gguf_export.export(merged, "bf16", bf16)
    gguf_export.export(merged, "q8_0", q8_0)

    def kl_nats(reference: Path, other: Path) -> Any:
        scores = [
            list(divergence.score_examples(load_model(path, "float32"), encoded, pad))
            for path in (reference, other)
        ]
        return divergence.divergence_metrics(*scores)["kl_nats"]

    figures = quantize.measure(merged, bf16.parent, ["bf16", "q8_0"], encoded, pad)
    assert figures["bf16"]["kl_nats"] == kl_nats(merged, bf16) > 0
    assert figures["q8_0"]["kl_nats"] == kl_nats(bf16, q8_0)
    assert figures["q8_0"]["kl_nats"] != kl_nats(merged, q8_0)


def export_scaled_llama(tiny: Path, folder: Path) -> tuple[Path, Path]:
    """Write a model with Llama 3.2's RoPE scaling, and its GGUF file."""
    config = AutoConfig.from_pretrained(tiny)
    config.max_position_embeddings = 131072
    config.rope_parameters = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    path = folder / "model"
    file = folder / "bf16.gguf"
    save_model(model, load_tokenizer(tiny), path)
    gguf_export.convert(path, "bf16", file)
    return path, file


def test_a_gguf_file_of_llama_3_2_is_scored_with_its_rope_frequencies(
    tiny: Path, tmp_path: Path
) -> None:
    path, file = export_scaled_llama(tiny, tmp_path)
    from_folder = load_model(path, "float32")
    from_file = load_model(file, "float32")
    expected = from_folder.model.rotary_emb.inv_freq
    frequencies = from_file.model.rotary_emb.inv_freq
    torch.testing.assert_close(expected, frequencies, rtol=1e-6, atol=0)
    # The slowest frequency is 32 times slower than without scaling.
    slowest = 500000 ** -(62 / 64) / 32
    assert frequencies[-1].item() == pytest.approx(slowest)
    ids = torch.arange(40)[None]
    expected_logits = from_folder(input_ids=ids).logits
    logits = from_file(input_ids=ids).logits
    torch.testing.assert_close(expected_logits, logits, rtol=1e-4, atol=1e-4)


def test_a_gguf_file_with_rope_scaling_is_refused_as_a_base(tiny: Path, tmp_path: Path) -> None:
    # The file stores the factors, not their rule, and a base without the rule would be Llama 3.0.
    _, file = export_scaled_llama(tiny, tmp_path)
    source = DirectoryModel(kind="directory", path=str(file), license="llama3.2")
    limits = default_params().ingest.limits
    with pytest.raises(
        UserError, match=r"^bf16\.gguf: it scales its rotary frequencies, which a base"
    ):
        ingest_base(source, "bfloat16", tmp_path / "base", limits)
    assert not (tmp_path / "base").exists()


def test_divergence_figures_equal_figures_computed_by_hand() -> None:
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
    q = torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log()
    targets = torch.tensor([1, 0])
    result = divergence.divergence_metrics([(p, targets)], [(q, targets)])
    expected = {
        # First token: 0.5 ln(0.5/0.25) + 0.5 ln(0.5/0.75) = 0.143841; second: 0; mean of two.
        "kl_nats": 0.0719205,
        # -(ln 0.75 + ln 0.9) / 2
        "perplexity": math.exp(0.5 * (0.2876821 + 0.1053605)),
        # A tie goes to the first token in p and q prefers the second: one of two agree.
        "greedy_agreement": 0.5,
        # |ln 0.5 - ln 0.25| = 0.693147, |ln 0.5 - ln 0.75| = 0.405465, 0, 0.
        "logit_difference_largest": 0.693147,
        "logit_difference_mean": (0.693147 + 0.405465) / 4,
        "items": 1,
        "tokens": 2,
    }
    assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_logit_that_is_not_finite_is_refused(bad: float) -> None:
    targets = torch.tensor([0, 1])
    reference = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
    broken = reference.clone()
    broken[1, 1] = bad
    with pytest.raises(UserError, match="not a finite number"):
        divergence.divergence_metrics([(reference, targets)], [(broken, targets)])


def test_a_loss_whose_perplexity_overflows_is_refused() -> None:
    logits = torch.tensor([[0.0, 2000.0]])
    targets = torch.tensor([0])
    scores = [(logits, targets)]
    message = "the loss is 2000 nats per token, so its weights are broken"
    with pytest.raises(UserError, match=message):
        divergence.divergence_metrics(scores, scores)


def test_a_validation_sample_takes_one_example_of_each_set_in_turn(ready: Path) -> None:
    clean = ready / "data/clean"
    tokenizer = load_tokenizer(ready / "models/base")
    firsts = []
    for name in SET_NAMES:
        first = read_examples(clean / f"validation/{name}.jsonl")[0]
        firsts.append(encode(tokenizer, first).input_ids)
    taken = divergence.sample_validation(clean, tokenizer, 6)
    assert [item.input_ids for item in taken[:5]] == firsts
    assert len(taken) == 6


def test_a_zero_adapter_merges_to_the_base_and_a_second_merge_writes_the_same_bytes(
    ready: Path,
) -> None:
    # The second matrix of a fresh adapter is zero.
    set_train(ready, learning_rate=1e-12, max_steps=2, eval_steps=2)
    train.main()
    merge.main()
    base = load_model(ready / "models/base", "bfloat16").state_dict()
    merged = load_model(ready / "models/merged", "bfloat16").state_dict()
    assert all(torch.equal(base[name], merged[name]) for name in base)
    first = sha256_file(ready / "models/merged/model.safetensors")
    merge.main()
    assert sha256_file(ready / "models/merged/model.safetensors") == first


def test_an_adapter_that_would_untie_tied_weights_is_not_merged(ready: Path) -> None:
    # A received adapter may change the embeddings, which are also the head.
    model = load_model(ready / "models/base", "float32")
    config = LoraConfig(
        r=2,
        lora_alpha=1,
        target_modules=["embed_tokens", "q_proj"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        adapted = get_peft_model(model, config)
        adapted.save_pretrained(ready / "models/adapter", save_embedding_layers=False)
        with pytest.raises(UserError, match=r"merged logits differ from base \+ adapter by"):
            merge.main()
    assert not (ready / "models/merged").exists()


def test_a_nan_weight_is_not_a_small_difference() -> None:
    first = torch.nn.Linear(2, 2, bias=False)
    last = torch.nn.Linear(2, 2, bias=False)
    model = torch.nn.Sequential(first, last)
    no_change = (torch.zeros(1, 2), torch.zeros(2, 1), 1.0)
    terms = {
        "0.weight": (first.weight.detach().clone(), *no_change),
        "1.weight": (last.weight.detach().clone(), *no_change),
    }
    assert merging.weight_difference(terms, model) == 0.0
    with torch.no_grad():
        last.weight[0, 0] = math.nan
    difference = merging.weight_difference(terms, model)
    assert math.isnan(difference)


def test_a_missing_base_model_is_reported(ready: Path) -> None:
    (ready / "models/base").unlink()
    with pytest.raises(UserError, match=r"models/base.* does not exist"):
        train.main()
    assert not (ready / "models/adapter").exists()


def test_the_llama_profile_is_valid_and_has_its_own_values() -> None:
    params = load_params(ROOT / "profiles/llama-3.2-1b.yaml")
    assert params.train.max_steps == 6000
    hub_tasks = ["medmcqa", "medqa_4options", "squad_completion"]
    assert params.benchmark.tasks == [*hub_tasks, "bula_contrast"]
    assert params.judge.model == "gpt-4o-mini-2024-07-18"


@pytest.mark.parametrize("has_matmul", [True, False])
def test_trl_computes_in_the_precision_that_the_metrics_name(
    has_matmul: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(hardware, "has_bfloat16_matmul", lambda: has_matmul)
    trl = with_values(default_params(), "train", kernels="trl")
    config = trainer.configure(trl, tmp_path)
    assert config.bf16 is has_matmul


@pytest.mark.parametrize("has_matmul", [True, False])
def test_fused_kernels_train_without_autocast(
    has_matmul: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(hardware, "has_bfloat16_matmul", lambda: has_matmul)
    config = trainer.configure(default_params(), tmp_path)
    assert config.bf16 is False


def train_with_kernels(ready: Path, kernels: str) -> list[dict[str, Any]]:
    """Train in float32 without dropout and return the points of the loss."""

    def edit(params: dict[str, Any]) -> None:
        params["dtype"] = "float32"
        params["train"].update(
            kernels=kernels,
            max_steps=3,
            eval_steps=3,
            learning_rate=0.01,
        )
        params["train"]["lora"]["dropout"] = 0.0

    edit_params(ready / "params.yaml", edit)
    train.main()
    points: list[dict[str, Any]] = read_json(ready / "plots/train/loss.json")
    assert [point["step"] for point in points] == [1, 2, 3, 3]
    return points


def test_both_kernels_train_to_the_same_losses(ready: Path) -> None:
    fused = train_with_kernels(ready, "fused")
    trl = train_with_kernels(ready, "trl")
    for one, other in zip(fused, trl, strict=True):
        assert one["loss_nats"] == pytest.approx(other["loss_nats"], abs=1e-3)


def test_token_accuracies_are_shares(finished: Path) -> None:
    points = read_json(finished / "plots/train/accuracy.json")
    assert all(0 <= point["token_accuracy"] <= 1 for point in points)


@pytest.mark.parametrize(("keep", "kept_step"), [("best", 1), ("last", 3)])
def test_early_stopping_stops_the_run_and_keeps_a_checkpoint(
    keep: str, kept_step: int, ready: Path
) -> None:
    set_train(
        ready,
        # This step is so small that dev loss stays what it was at the first evaluation.
        learning_rate=1e-12,
        warmup_share=0.0,
        scheduler="constant",
        gradient_accumulation=1,
        max_steps=12,
        log_steps=1,
        eval_steps=1,
        save_steps=1,
        patience=2,
        keep=keep,
    )
    train.main()
    dev = logged_losses(ready, "dev")
    figures = metrics(ready, "train")
    run = figures["run"]
    assert dev == [dev[0]] * 3
    assert figures["dev"]["loss_nats"] == pytest.approx(dev[0])
    assert run["steps"] == 3
    assert run["kept_step"] == kept_step


def test_the_kept_adapter_is_that_of_the_best_or_of_the_last_step(ready: Path) -> None:
    set_train(ready, learning_rate=1e-12, max_steps=3, eval_steps=1, save_steps=1)
    hashes = []
    for keep in ("best", "last"):
        set_train(ready, keep=keep)
        train.main()
        hashes.append(hash_adapter(ready))
    assert hashes[0] != hashes[1]


def train_with_tracker(folder: Path, tracker: str) -> str:
    """Train with a tracker and return the hash of the adapter."""
    edit_params(folder / "params.yaml", lambda params: params["compute"].update(tracker=tracker))
    train.main()
    return hash_adapter(folder)


def test_a_tracker_records_the_curve_and_changes_no_byte(ready: Path) -> None:
    set_train(ready, max_steps=2, eval_steps=2, save_steps=2)
    without = train_with_tracker(ready, "none")
    assert train_with_tracker(ready, "tensorboard") == without
    (events,) = (ready / ".bula/tensorboard").rglob("events.out.tfevents.*")
    assert b"train/train_loss_nats" in events.read_bytes()


def test_the_progress_bar_shows_loss_and_speed(
    ready: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    set_train(ready, max_steps=2, eval_steps=2, save_steps=2)
    train.main()
    printed, shown = capfd.readouterr()
    bars = shown.replace("\r", "\n")
    assert re.search(r"2/2 .*loss \d+\.\d+ nats, \d+ tokens/s", bars)
    assert "step 2: dev loss" in printed


def test_the_progress_bar_starts_at_the_resumed_step() -> None:
    state = TrainerState(max_steps=6, global_step=3)
    bar = callbacks.Progress()
    bar.on_train_begin(None, state, None)
    state.global_step = 4
    bar.on_step_end(None, state, None)
    shown = bar.training_bar.format_dict
    assert shown["initial"] == 3
    assert shown["n"] == 4
    assert shown["total"] == 6
    bar.on_train_end(None, state, None)


def test_a_signal_in_the_step_of_early_stopping_names_the_kept_step(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is learnt, so early stopping and the signal both come in step 2.
    set_train(ready, max_steps=6, eval_steps=1, save_steps=1, patience=1, learning_rate=1e-30)
    send_sigterm_after(1, monkeypatch)
    with pytest.raises(SystemExit, match=r"stopped; run it again to resume from step 1$"):
        train.main()


LENGTHS = [5, 3, 9, 1, 2, 8, 7, 6, 4, 10]


def test_an_epoch_contains_complete_steps_only() -> None:
    sampler = trainer.EpochSampler(4, LENGTHS, seed=1)
    order = list(sampler)
    assert len(sampler) == 8
    assert len(order) == 8
    assert len(set(order)) == 8


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_only() -> None:
    sampler = trainer.EpochSampler(4, LENGTHS, seed=1)
    same = trainer.EpochSampler(4, LENGTHS, seed=1)
    first = list(sampler)
    assert list(same) == first
    sampler.set_epoch(1)
    assert list(sampler) != first


def test_an_epoch_with_fewer_rows_than_a_step_contains_all_of_them() -> None:
    sampler = trainer.EpochSampler(4, [1, 1, 1], seed=1)
    assert sorted(sampler) == [0, 1, 2]


def collect_trainable_dtypes(monkeypatch: pytest.MonkeyPatch) -> set[torch.dtype]:
    """Return a set to which later steps add the trained dtypes."""
    dtypes: set[torch.dtype] = set()
    training_step = trainer.AnswerTrainer.training_step

    def seen(self: Any, *args: Any, **kwargs: Any) -> Any:
        for weight in self.model.parameters():
            if weight.requires_grad:
                dtypes.add(weight.dtype)
        return training_step(self, *args, **kwargs)

    monkeypatch.setattr(trainer.AnswerTrainer, "training_step", seen)
    return dtypes


def up_projection(path: Path, dtype: str, **options: Any) -> torch.Tensor:
    """Return a weight of the first layer."""
    model = load_model(path, dtype, **options)
    weight: torch.Tensor = model.model.layers[0].mlp.up_proj.weight
    return weight


@pytest.mark.parametrize("weights", ["nf4", "int8"])
def test_an_adapter_of_a_quantized_base_merges_into_the_full_base(
    weights: str, ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The lock omits it, because every stage would import it and warn without a GPU.
    pytest.importorskip("bitsandbytes")
    set_train(ready, base_weights=weights, max_steps=3, eval_steps=3, learning_rate=0.01)
    dtypes = collect_trainable_dtypes(monkeypatch)
    train.main()
    assert metrics(ready, "train")["parameters"]["trainable"] == TRAINABLE
    quantized = up_projection(ready / "models/base", "bfloat16", weights=weights)
    assert quantized.dtype in (torch.uint8, torch.int8)
    assert dtypes == {torch.float32}
    merge.main()
    merged = up_projection(ready / "models/merged", "float32")
    base = up_projection(ready / "models/base", "float32")
    assert 0 < (merged - base).abs().max() < 0.2
    assert metrics(ready, "merge")["before_cast"]["greedy_agreement"] == 1.0
