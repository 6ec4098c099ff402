import json
import math
import os
import re
import resource
import shutil
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file
from transformers import AutoConfig, LlamaForCausalLM, TrainerState

from bench.clones import ROOT, edit_params
from bula import divergence, hardware
from bula.errors import UserError
from bula.files import sha256_file
from bula.hardware import compute_dtype
from bula.lora_kernels import add_answer_head
from bula.models import load_model, load_tokenizer, save_model
from bula.params import DirectoryModel, load_params
from bula.prompts import encode
from bula.records import SET_NAMES, Example, read_examples
from bula.scoring import pad_batch
from stages import merge, quantize
from stages.ingest.models import ingest_base
from stages.train import callbacks, checkpoints, report, trainer
from stages.train import fit as train


def metrics(folder: Path, name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(
        (folder / f"metrics/{name}.json").read_text(encoding="utf-8")
    )
    return loaded


def test_the_loss_of_a_batch_equals_one_worked_out_in_numpy(tiny: Path, tmp_path: Path) -> None:
    tokenizer, model = load_tokenizer(tiny), load_model(tiny, "float32")
    examples = [
        Example(id=f"{n}" * 16, source="s", license="l", split="train", question=q, answer=a)
        for n, (q, a) in enumerate(
            [("Dói?", "Sim, um pouco."), ("Posso tomar sol sem protetor?", "Não.")]
        )
    ]
    encoded = [encode(tokenizer, e) for e in examples]
    batch = pad_batch(encoded, tokenizer.pad_token_id)
    with torch.inference_mode():
        logits = (
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            .logits.double()
            .numpy()
        )
    total, count = 0.0, 0
    for row, labels in zip(logits, batch["labels"].numpy(), strict=True):
        for position in range(1, len(labels)):
            if labels[position] != -100:
                scores = row[position - 1]
                total -= (
                    scores[labels[position]]
                    - np.log(np.exp(scores - scores.max()).sum())
                    - scores.max()
                )
                count += 1
    made = object.__new__(trainer.AnswerTrainer)
    made.sums = {
        "train": torch.zeros(4, dtype=torch.float64),
        "eval": torch.zeros(4, dtype=torch.float64),
    }
    made.model, made.kernels = model, "fused"
    add_answer_head(model)
    loss = made.compute_loss(model, batch).detach()
    assert count == sum(len(e.completion) for e in encoded)
    assert loss.item() == pytest.approx(total / count, abs=1e-5)
    assert made.sums["eval"].tolist()[2:] == [count, int(batch["attention_mask"].sum())]


def test_training_lowers_dev_loss_and_writes_exactly_what_it_promises(ready: Path) -> None:
    edit_params(ready / "params.yaml", lambda p: p["train"].update(learning_rate=0.01))
    train.main()
    assert sorted(p.name for p in (ready / "models/adapter").iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    figures = metrics(ready, "train")
    # Rank 4 on q, k, v, o, gate, up and down of two layers: 4 x (in + out) each, with 256-wide queries, outputs and MLP, 128-wide keys.
    assert figures["parameters"]["trainable"] == 2 * 4 * (5 * (256 + 256) + 2 * (256 + 128))
    assert figures["run"]["steps"] == 6
    assert figures["run"]["compute_dtype"] == compute_dtype("bfloat16")
    points = json.loads((ready / "plots/train/loss.json").read_text(encoding="utf-8"))
    curve = [p for p in points if p["group"] == "train"]
    assert [p["step"] for p in curve] == [1, 2, 3, 4, 5, 6]
    dev = [p["loss_nats"] for p in points if p["group"] == "dev"]
    assert len(dev) == 2
    assert figures["dev"]["loss_nats"] == pytest.approx(min(dev), rel=1e-5)
    assert dev[-1] < curve[0]["loss_nats"]
    examples = read_examples(ready / "data/clean/dev.jsonl")
    assert figures["dev"]["items"] == len(examples)
    assert figures["dev"]["perplexity"] == pytest.approx(
        2 ** figures["dev"]["bits_per_token"], rel=1e-4
    )
    assert not any((ready / ".bula/checkpoints").iterdir())


def test_the_same_seed_gives_the_same_adapter_and_another_seed_another(ready: Path) -> None:
    adapter = ready / "models/adapter"
    hashes = []
    edit_params(ready / "params.yaml", lambda p: p["train"].update(max_steps=2, eval_steps=2))
    for seed in (1, 1, 2):
        edit_params(ready / "params.yaml", lambda p, seed=seed: p.update(seed=seed))  # type: ignore[misc]
        train.main()
        hashes.append(
            [
                sha256_file(adapter / name)
                for name in ("adapter_model.safetensors", "adapter_config.json", "README.md")
            ]
        )
    assert hashes[0] == hashes[1]
    assert hashes[0][0] != hashes[2][0]


def test_checkpoints_are_found_again_only_for_the_same_run(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = load_params()
    files = [ready / "data/clean/train.jsonl", ready / "data/clean/dev.jsonl"]
    before = checkpoints.fingerprint(params, files)
    assert checkpoints.fingerprint(load_params(), files) == before
    other = params.model_copy(
        update={"train": params.train.model_copy(update={"learning_rate": 0.5})}
    )
    assert checkpoints.fingerprint(other, files) != before
    longer = params.model_copy(
        update={"preprocess": params.preprocess.model_copy(update={"max_tokens": 99})}
    )
    assert checkpoints.fingerprint(longer, files) != before
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        assert checkpoints.fingerprint(params, files) != before
    # What accelerate's launcher makes of accelerate/NAME.yaml.
    for name, value in (("ACCELERATE_MIXED_PRECISION", "bf16"), ("FSDP_VERSION", "1")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert checkpoints.fingerprint(params, files) != before
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "version", lambda name: f"{name} of another year")
        assert checkpoints.fingerprint(params, files) != before
    files[0].write_text(files[0].read_text(encoding="utf-8")[1:], encoding="utf-8")
    assert checkpoints.fingerprint(params, files) != before


def count_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one with every forward and backward pass of training from now on."""
    passes, step = [], trainer.AnswerTrainer.training_step

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        passes.append(self.state.global_step)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(trainer.AnswerTrainer, "training_step", counted)
    return passes


def written(ready: Path) -> dict[str, str]:
    """Hash of every file of the adapter, of the curves and of train's metrics but those of speed."""
    files = [
        *(ready / "models/adapter").iterdir(),
        *(ready / "plots/train").iterdir(),
        *(ready / "metrics").glob("*.json"),
    ]
    return {str(file): sha256_file(file) for file in files}


def test_a_run_killed_after_its_last_step_takes_no_further_step(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Within an epoch, which has four steps: at its end there is nothing left to take.
    edit_params(
        ready / "params.yaml", lambda p: p["train"].update(max_steps=3, scheduler="constant")
    )
    train.main()
    whole = written(ready)
    assert metrics(ready, "train")["run"]["steps"] == 3
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        train.main()
    shutil.rmtree(ready / "models/adapter")
    passes = count_passes(monkeypatch)
    train.main()
    assert passes == []
    assert written(ready) == whole


def test_told_to_end_between_two_lines_of_the_log_the_curve_stays_the_same(
    ready: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_params(
        ready / "params.yaml",
        lambda p: p["train"].update(max_steps=4, eval_steps=2, save_steps=2, log_steps=2),
    )
    train.main()
    whole, step = written(ready), trainer.AnswerTrainer.training_step

    def told(self: Any, *args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(trainer.AnswerTrainer, "training_step", told)
    with pytest.raises(SystemExit, match="ended after step 1, which is kept"):
        train.main()
    monkeypatch.setattr(trainer.AnswerTrainer, "training_step", step)
    train.main()
    assert "going on from step 1\n" in capsys.readouterr().out
    assert written(ready) == whole


def test_a_run_stopped_halfway_resumes_to_the_same_adapter(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train.main()
    whole = load_file(ready / "models/adapter/adapter_model.safetensors")
    log = trainer.AnswerTrainer.log

    def stop_after_four_steps(
        self: Any, logs: dict[str, float], start_time: float | None = None
    ) -> None:
        log(self, logs, start_time)
        if self.state.global_step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer.AnswerTrainer, "log", stop_after_four_steps)
    with pytest.raises(KeyboardInterrupt):
        train.main()
    assert len(list((ready / ".bula/checkpoints").glob("*/checkpoint-3"))) == 1
    monkeypatch.setattr(trainer.AnswerTrainer, "log", log)
    passes = count_passes(monkeypatch)
    train.main()
    # Steps 4 to 6 of two passes each: starting over would end in the same adapter.
    assert len(passes) == 6
    resumed = load_file(ready / "models/adapter/adapter_model.safetensors")
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    steps = [
        p["step"]
        for p in json.loads((ready / "plots/train/loss.json").read_text(encoding="utf-8"))
        if p["group"] == "train"
    ]
    assert steps == [1, 2, 3, 4, 5, 6]


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in ("adapter_model.safetensors", "trainer_state.json"):
        (path / name).write_text(f"{name} of {step}", encoding="utf-8")
    return path


def test_a_checkpoint_cut_short_is_not_resumed_from(tmp_path: Path) -> None:
    checkpoints.seal(checkpoint(tmp_path, 3))
    # Killed before its last file, before its seal, and with a file that is shorter than the seal says.
    checkpoint(tmp_path, 6)
    short = checkpoint(tmp_path, 9)
    checkpoints.seal(short)
    (short / "trainer_state.json").write_text("{", encoding="utf-8")
    assert checkpoints.last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-3")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3"]
    assert checkpoints.last_checkpoint(tmp_path / "none") is None


def test_a_seal_is_on_the_disk_before_anything_older_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda opened: written.append(Path(f"/proc/self/fd/{opened}").resolve().name)
    )
    checkpoints.seal(checkpoint(tmp_path, 3))
    files = ["adapter_model.safetensors", "trainer_state.json"]
    # Its own bytes before it gets its name, then the names.
    assert written == [*files, f"{checkpoints.SEAL}.tmp", "checkpoint-3", tmp_path.name]


def test_a_finished_run_killed_while_it_tidies_up_leaves_nothing_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    for step in (3, 6):
        checkpoints.seal(checkpoint(folder, step))
    remove = shutil.rmtree

    def killed(path: Path, **kwargs: Any) -> None:
        remove(path / "checkpoint-3")
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.discard(folder)
    monkeypatch.setattr(shutil, "rmtree", remove)
    assert checkpoints.last_checkpoint(folder) is None
    assert not list(tmp_path.iterdir())


def test_a_second_run_on_one_folder_stops_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    with (
        checkpoints.alone(tmp_path / "run"),
        pytest.raises(UserError, match="run: another run trains there right now"),
        checkpoints.alone(tmp_path / "run"),
    ):
        pass
    with checkpoints.alone(tmp_path / "run"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["_save_optimizer_and_scheduler", "save_model"])
def test_a_full_disk_leaves_the_checkpoint_before_usable(
    part: str, ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, limits = getattr(trainer.AnswerTrainer, part), resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(self: Any, output_dir: str, **kwargs: Any) -> None:
        if output_dir.endswith("checkpoint-6"):
            # What torch and safetensors make of a write that the system refuses.
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            whole(self, output_dir, **kwargs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(trainer.AnswerTrainer, part, full)
    with pytest.raises(
        UserError,
        match=r"checkpoint-6: the checkpoint cannot be written \(.*\)\. .* resumes from step 3\.$",
    ):
        train.main()
    folder = next(path for path in (ready / ".bula/checkpoints").iterdir() if path.is_dir())
    assert (folder / "checkpoint-6").exists()
    assert checkpoints.last_checkpoint(folder) == str(folder / "checkpoint-3")
    assert not (folder / "checkpoint-6").exists()


def test_an_older_checkpoint_goes_only_when_the_new_one_is_sealed(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_params(
        ready / "params.yaml", lambda p: p["train"].update(max_steps=4, eval_steps=1, save_steps=1)
    )
    seen: list[list[str]] = []

    def look(checkpoint: Path) -> None:
        seen.append(
            sorted(
                path.name
                for path in checkpoint.parent.glob("checkpoint-*")
                if checkpoints.is_whole(path)
            )
        )
        checkpoints.seal(checkpoint)

    monkeypatch.setattr(trainer, "seal", look)
    train.main()
    # Before each seal the newest whole one is that of the step before, and at most two are kept.
    assert [names[-1:] for names in seen] == [
        [],
        ["checkpoint-1"],
        ["checkpoint-2"],
        ["checkpoint-3"],
    ]
    assert max(map(len, seen)) == 2


def test_what_the_template_made_of_the_rows_is_measured(ready: Path) -> None:
    train.main()
    figures = metrics(ready, "template")
    examples = read_examples(ready / "data/clean/train.jsonl")
    tokenizer = load_tokenizer(ready / "models/base")
    encoded = [encode(tokenizer, e) for e in examples]
    assert figures["rows"] == len(examples)
    assert figures["supervised_share"] == pytest.approx(
        sum(len(e.completion) for e in encoded) / sum(len(e.input_ids) for e in encoded), rel=1e-5
    )
    assert (
        figures["bos_tokens_at_start"],
        figures["rows_truncated"],
        figures["rows_without_supervised_token"],
    ) == (1, 0, 0)
    assert figures["end_of_turn_supervised"] is True
    assert figures["pad_is_end_of_turn"] is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda ids, labels, eos, bos: (ids[:-1], labels[:-1]),
            "teach nothing, or never teach to stop",
        ),
        (
            lambda ids, labels, eos, bos: (ids, [-100] * len(ids)),
            "teach nothing, or never teach to stop",
        ),
        (
            lambda ids, labels, eos, bos: ([bos, *ids], [-100, *labels]),
            "rows start with 2 BOS tokens",
        ),
        (
            lambda ids, labels, eos, bos: (ids[1:], labels[1:]),
            "rows start without the tokenizer's BOS token",
        ),
    ],
)
def test_rows_that_would_spoil_training_are_refused(change: Any, message: str, tiny: Path) -> None:
    from datasets import Dataset

    tokenizer = load_tokenizer(tiny)
    example = Example(
        id="0" * 16, source="s", license="l", split="train", question="Dói muito?", answer="Não."
    )
    encoded = encode(tokenizer, example)
    ids, labels = change(
        encoded.input_ids, encoded.labels, tokenizer.eos_token_id, tokenizer.bos_token_id
    )
    with pytest.raises(UserError, match=message):
        report.template_figures(
            tokenizer, Dataset.from_dict({"input_ids": [ids], "labels": [labels]}), [example]
        )


def test_convergence_by_hand() -> None:
    losses = [3.0, 2.0, 1.8, 1.6, 1.5, 1.3]
    history: list[dict[str, float]] = [{"train_loss_nats": loss} for loss in losses]
    history += [{"eval_loss_nats": loss} for loss in (2.2, 1.45, 1.5)]
    figures = report.converge(history)
    # Thirds of two steps: means 2.5, 1.7 and 1.4 nats.
    assert figures["train_perplexity_first_third"] == pytest.approx(math.exp(2.5))
    assert figures["train_perplexity_reduction"] == pytest.approx(1 - math.exp(1.4 - 2.5))
    assert figures["train_bits_per_token_change_last_third"] == pytest.approx(
        (1.4 - 1.7) / math.log(2)
    )
    assert figures["dev_perplexity_reduction"] == pytest.approx(1 - math.exp(1.5 - 2.2))
    assert figures["dev_minus_train_loss_nats"] == pytest.approx(0.1)
    assert figures["dev_above_best_loss_nats"] == pytest.approx(0.05)
    assert figures["overfitted"] is True
    assert report.converge(history[:-1])["overfitted"] is False
    # docs/metrics.md works the same figures out.
    section = (
        (ROOT / "docs/metrics.md")
        .read_text(encoding="utf-8")
        .split("### Convergence\n")[1]
        .split("\n### ")[0]
    )
    shown = dict(re.findall(r"^\| `(\w+)` \| .* \| (\S+) \|$", section, re.MULTILINE))
    assert shown.keys() == figures.keys()
    for name, value in figures.items():
        assert (
            float(shown[name].replace("−", "-")) == pytest.approx(value, rel=1e-4)
            if name != "overfitted"
            else shown[name] == "true"
        )


def test_merge_and_quantize_measure_what_they_change(ready: Path) -> None:
    edit_params(ready / "params.yaml", lambda p: p["train"].update(learning_rate=0.01))
    train.main()
    merge.main()
    figures = metrics(ready, "merge")
    assert figures["before_cast"]["greedy_agreement"] == 1.0
    assert figures["before_cast"]["logit_difference_largest"] < 1e-3
    assert (
        figures["after_cast"]["logit_difference_largest"]
        > figures["before_cast"]["logit_difference_largest"]
    )
    # Served in bfloat16 its rounding comes on top.
    assert figures["checked"] == {"dtype": "bfloat16", "compute_dtype": compute_dtype("bfloat16")}
    assert (figures["as_served"] == figures["after_cast"]) == (
        compute_dtype("bfloat16") == "float32"
    )
    base, merged = (
        load_model(ready / "models/base", "float32"),
        load_model(ready / "models/merged", "float32"),
    )
    assert not torch.equal(
        base.model.layers[0].mlp.down_proj.weight, merged.model.layers[0].mlp.down_proj.weight
    )
    assert torch.equal(base.model.embed_tokens.weight, merged.model.embed_tokens.weight)
    quantize.main()
    figures = metrics(ready, "quantize")
    assert sorted(figures) == ["bf16", "q8_0"]
    assert figures["bf16"]["kl_nats"] == 0.0
    assert figures["bf16"]["greedy_agreement"] == 1.0
    # Sixteen bits hold the merged weights as they are.
    assert figures["bf16"]["logit_difference_largest"] == 0.0
    assert 0 < figures["q8_0"]["kl_nats"] < 0.05
    # Seven linear layers in each of two blocks, and the embedding; norms stay in 32 bit.
    assert (figures["q8_0"]["tensors_q8_0"], figures["q8_0"]["tensors_f32"]) == (15, 5)
    assert figures["q8_0"]["bytes"] < figures["bf16"]["bytes"]
    # Keys are permuted in the file, for llama.cpp's rotary embedding, and come back in their own order.
    files = [
        load_model(ready / name, "bfloat16").model.layers[1].self_attn.k_proj.weight
        for name in ("models/gguf/bf16.gguf", "models/merged")
    ]
    assert torch.equal(files[0], files[1])


def test_a_model_with_broken_weights_is_exported_by_a_sentence_and_no_file(
    ready: Path, tiny: Path
) -> None:
    model = load_model(tiny, "bfloat16")
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    save_model(model, load_tokenizer(tiny), ready / "models/merged")
    with pytest.raises(UserError, match="not finite"):
        quantize.main()
    assert not (ready / "models/gguf").exists()


def test_what_16_bits_cost_is_told_once(ready: Path, tiny: Path, tmp_path: Path) -> None:
    tokenizer, model = load_tokenizer(tiny), load_model(tiny, "float32")
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            # Numbers that bfloat16 does not hold.
            weight.mul_(1 + 0.01 * torch.randn_like(weight))
    save_model(model, tokenizer, tmp_path / "merged")
    (tmp_path / "gguf").mkdir()
    for kind in ("bf16", "q8_0"):
        quantize.export(tmp_path / "merged", kind, tmp_path / f"gguf/{kind}.gguf")
    encoded, pad = (
        divergence.sample_validation(ready / "data/clean", tokenizer, 2),
        tokenizer.pad_token_id,
    )
    figures = quantize.measure(
        tmp_path / "merged", tmp_path / "gguf", ["bf16", "q8_0"], encoded, pad
    )
    forms = (tmp_path / "merged", tmp_path / "gguf/bf16.gguf", tmp_path / "gguf/q8_0.gguf")
    merged, sixteen, eight = (
        list(divergence.score_examples(load_model(form, "float32"), encoded, pad)) for form in forms
    )
    assert (
        figures["bf16"]["kl_nats"] == divergence.divergence_metrics(merged, sixteen)["kl_nats"] > 0
    )
    assert (
        figures["q8_0"]["kl_nats"]
        == divergence.divergence_metrics(sixteen, eight)["kl_nats"]
        != divergence.divergence_metrics(merged, eight)["kl_nats"]
    )


def test_a_gguf_file_of_llama_3_2_is_scored_with_its_own_rotary_frequencies(
    tiny: Path, tmp_path: Path
) -> None:
    tokenizer, config = load_tokenizer(tiny), AutoConfig.from_pretrained(tiny)
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
    save_model(LlamaForCausalLM(config).to(torch.bfloat16), tokenizer, tmp_path / "model")
    quantize.convert(tmp_path / "model", "bf16", tmp_path / "bf16.gguf")
    whole, file = (load_model(tmp_path / name, "float32") for name in ("model", "bf16.gguf"))
    frequencies = [model.model.rotary_emb.inv_freq for model in (whole, file)]
    torch.testing.assert_close(frequencies[0], frequencies[1], rtol=1e-6, atol=0)
    # The slowest is 32 times slower than without scaling: 500000 ** -(62 / 64) / 32.
    assert frequencies[1][-1].item() == pytest.approx(500000 ** -(62 / 64) / 32)
    ids = torch.arange(40)[None]
    torch.testing.assert_close(
        whole(input_ids=ids).logits, file(input_ids=ids).logits, rtol=1e-4, atol=1e-4
    )
    # The file keeps the factors, not the rule that made them: a base without the rule would be Llama 3.0.
    source = DirectoryModel(kind="directory", path=str(tmp_path / "bf16.gguf"), license="llama3.2")
    with pytest.raises(
        UserError, match=r"^bf16\.gguf: it scales its rotary frequencies, which a base"
    ):
        ingest_base(source, "bfloat16", tmp_path / "base", load_params().ingest.limits)
    assert not (tmp_path / "base").exists()


def test_fidelity_by_hand() -> None:
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
    q = torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log()
    targets = torch.tensor([1, 0])
    result = divergence.divergence_metrics([(p, targets)], [(q, targets)])
    # First token: 0.5 ln(0.5/0.25) + 0.5 ln(0.5/0.75) = 0.143841; second: 0; mean of two.
    assert result["kl_nats"] == pytest.approx(0.0719205, abs=1e-6)
    # -(ln 0.75 + ln 0.9) / 2
    assert result["perplexity"] == pytest.approx(math.exp(0.5 * (0.2876821 + 0.1053605)), rel=1e-6)
    # A tie goes to the first token in p and q prefers the second: one of two agree.
    assert result["greedy_agreement"] == 0.5
    # |ln 0.5 - ln 0.25| = 0.693147, |ln 0.5 - ln 0.75| = 0.405465, 0, 0.
    assert result["logit_difference_largest"] == pytest.approx(0.693147, abs=1e-6)
    assert result["logit_difference_mean"] == pytest.approx((0.693147 + 0.405465) / 4, abs=1e-6)
    assert (result["items"], result["tokens"]) == (1, 2)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_logit_that_is_no_number_is_no_small_difference(bad: float) -> None:
    targets = torch.tensor([0, 1])
    whole, broken = torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.tensor([[1.0, 2.0], [0.0, bad]])
    with pytest.raises(UserError, match="not a finite number"):
        divergence.divergence_metrics([(whole, targets)], [(broken, targets)])


def test_a_loss_that_no_number_holds_is_a_sentence() -> None:
    logits, targets = torch.tensor([[0.0, 2000.0]]), torch.tensor([0])
    with pytest.raises(
        UserError, match="the loss is 2000 nats per token, so its weights are broken"
    ):
        divergence.divergence_metrics([(logits, targets)], [(logits, targets)])


def test_the_sample_takes_the_sets_in_turn(ready: Path) -> None:
    tokenizer = load_tokenizer(ready / "models/base")
    taken = divergence.sample_validation(ready / "data/clean", tokenizer, 6)
    firsts = [read_examples(ready / f"data/clean/validation/{name}.jsonl")[0] for name in SET_NAMES]
    assert [e.input_ids for e in taken[:5]] == [encode(tokenizer, e).input_ids for e in firsts]
    assert len(taken) == 6


def test_a_zero_adapter_merges_to_the_base_itself_and_merging_twice_changes_nothing(
    ready: Path,
) -> None:
    # A fresh adapter is zero: its second matrix is.
    edit_params(
        ready / "params.yaml",
        lambda p: p["train"].update(learning_rate=1e-12, max_steps=2, eval_steps=2),
    )
    train.main()
    merge.main()
    base, merged = (
        load_model(ready / f"models/{name}", "bfloat16").state_dict() for name in ("base", "merged")
    )
    assert all(torch.equal(base[name], merged[name]) for name in base)
    first = sha256_file(ready / "models/merged/model.safetensors")
    merge.main()
    assert sha256_file(ready / "models/merged/model.safetensors") == first


def test_an_adapter_that_would_tear_tied_weights_is_not_merged(ready: Path) -> None:
    # As somebody else's adapter may be: its embeddings are also the head, and no linear layer shows it.
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
        get_peft_model(model, config).save_pretrained(
            ready / "models/adapter", save_embedding_layers=False
        )
        with pytest.raises(UserError, match=r"merged logits differ from base \+ adapter by"):
            merge.main()
    assert not (ready / "models/merged").exists()


def test_a_weight_that_is_no_number_is_no_small_difference() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    weights = dict(model.named_parameters())
    terms = {
        f"{n}.weight": (
            weights[f"{n}.weight"].detach().clone(),
            torch.zeros(1, 2),
            torch.zeros(2, 1),
            1.0,
        )
        for n in (0, 1)
    }
    assert merge.weight_difference(terms, model) == 0.0
    with torch.no_grad():
        weights["1.weight"][0, 0] = math.nan
    assert math.isnan(merge.weight_difference(terms, model))


def test_a_missing_base_model_is_a_sentence(ready: Path) -> None:
    (ready / "models/base").unlink()
    with pytest.raises(UserError, match=r"models/base.* does not exist"):
        train.main()
    assert not (ready / "models/adapter").exists()


def test_profiles_differ_in_values_and_never_in_keys() -> None:
    params = load_params(ROOT / "profiles/llama-3.2-1b.yaml")
    assert params.train.max_steps == 6000
    assert params.benchmark.tasks == ["medmcqa", "medqa_4options", "squad_completion"]
    assert params.judge.model == "gpt-4o-mini-2024-07-18"


@pytest.mark.parametrize("products", [True, False])
def test_trl_computes_in_the_precision_that_the_metrics_name(
    products: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(hardware, "has_bfloat16_matmul", lambda: products)
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    theirs = params.model_copy(update={"train": params.train.model_copy(update={"kernels": "trl"})})
    assert trainer.configure(theirs, tmp_path).bf16 is products
    assert trainer.configure(params, tmp_path).bf16 is False


def test_both_kernels_train_the_same(ready: Path) -> None:
    curves = []
    for kernels in ("fused", "trl"):

        def edit(params: dict[str, Any], kernels: str = kernels) -> None:
            params["dtype"] = "float32"
            params["train"] |= {
                "kernels": kernels,
                "max_steps": 3,
                "eval_steps": 3,
                "learning_rate": 0.01,
            }
            params["train"]["lora"]["dropout"] = 0.0

        edit_params(ready / "params.yaml", edit)
        train.main()
        curves.append(json.loads((ready / "plots/train/loss.json").read_text(encoding="utf-8")))
    assert (
        [point["step"] for point in curves[0]]
        == [point["step"] for point in curves[1]]
        == [1, 2, 3, 3]
    )
    for one, other in zip(*curves, strict=True):
        assert one["loss_nats"] == pytest.approx(other["loss_nats"], abs=1e-3)
    accuracies = json.loads((ready / "plots/train/accuracy.json").read_text(encoding="utf-8"))
    assert all(0 <= point["token_accuracy"] <= 1 for point in accuracies)


def test_early_stopping_ends_the_run_and_keeps_the_best_or_the_last(ready: Path) -> None:
    # So small a step that no loss of the log sees it: dev loss stays what it was at the first evaluation.
    def edit(params: dict[str, Any]) -> None:
        params["train"] |= {
            "learning_rate": 1e-12,
            "warmup_share": 0.0,
            "scheduler": "constant",
            "max_steps": 12,
            "log_steps": 1,
        }
        params["train"] |= {
            "eval_steps": 1,
            "save_steps": 1,
            "patience": 2,
            "gradient_accumulation": 1,
        }

    edit_params(ready / "params.yaml", edit)
    adapters = []
    for keep in ("best", "last"):
        edit_params(ready / "params.yaml", lambda p, keep=keep: p["train"].update(keep=keep))  # type: ignore[misc]
        train.main()
        figures, points = (
            metrics(ready, "train"),
            json.loads((ready / "plots/train/loss.json").read_text(encoding="utf-8")),
        )
        dev = [point["loss_nats"] for point in points if point["group"] == "dev"]
        assert dev == [dev[0]] * 3
        assert (figures["run"]["steps"], figures["run"]["kept_step"]) == (
            3,
            1 if keep == "best" else 3,
        )
        assert figures["dev"]["loss_nats"] == pytest.approx(dev[0])
        adapters.append(sha256_file(ready / "models/adapter/adapter_model.safetensors"))
    assert adapters[0] != adapters[1]


def set_tracker(folder: Path, tracker: str) -> None:
    edit_params(folder / "params.yaml", lambda p: p["compute"].update(tracker=tracker))


def test_a_tracker_sees_the_curve_and_changes_no_byte(
    ready: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    edit_params(
        ready / "params.yaml", lambda p: p["train"].update(max_steps=2, eval_steps=2, save_steps=2)
    )
    hashes = []
    for tracker in ("none", "tensorboard"):
        set_tracker(ready, tracker)
        train.main()
        hashes.append(sha256_file(ready / "models/adapter/adapter_model.safetensors"))
    assert hashes[0] == hashes[1]
    (events,) = (ready / ".bula/tensorboard").rglob("events.out.tfevents.*")
    assert b"train/train_loss_nats" in events.read_bytes()
    said, shown = capfd.readouterr()
    assert re.search(r"2/2 .*loss \d+\.\d+ nats, \d+ tokens/s", shown.replace("\r", "\n"))
    assert "step 2: dev loss" in said


def test_the_progress_bar_begins_where_the_run_goes_on(tmp_path: Path) -> None:
    state, bar = TrainerState(max_steps=6, global_step=3), callbacks.Progress()
    bar.on_train_begin(None, state, None)
    state.global_step = 4
    bar.on_step_end(None, state, None)
    shown = bar.training_bar.format_dict
    assert (shown["initial"], shown["n"], shown["total"]) == (3, 4, 6)
    bar.on_train_end(None, state, None)


def test_patience_that_ends_in_the_step_of_a_signal_says_which_step_is_kept(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is learnt, so patience ends the run at its second evaluation, in step 2; the signal comes in that step.
    edit_params(
        ready / "params.yaml",
        lambda p: p["train"].update(
            max_steps=6, eval_steps=1, save_steps=1, patience=1, learning_rate=1e-30
        ),
    )
    step = trainer.AnswerTrainer.training_step

    def told(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(trainer.AnswerTrainer, "training_step", told)
    with pytest.raises(SystemExit, match="ended after step 1, which is kept"):
        train.main()


def test_an_epoch_has_whole_steps_in_an_order_of_its_own() -> None:
    sampler = trainer.EpochSampler(4, [5, 3, 9, 1, 2, 8, 7, 6, 4, 10], seed=1)
    first, again = (
        list(sampler),
        list(trainer.EpochSampler(4, [5, 3, 9, 1, 2, 8, 7, 6, 4, 10], seed=1)),
    )
    assert first == again
    assert len(first) == len(sampler) == len(set(first)) == 8
    sampler.set_epoch(1)
    assert list(sampler) != first
    # Fewer rows than a step has: all of them.
    assert sorted(trainer.EpochSampler(4, [1, 1, 1], seed=1)) == [0, 1, 2]


@pytest.mark.parametrize("weights", ["nf4", "int8"])
def test_a_quantized_base_trains_and_its_adapter_merges_into_the_full_one(
    weights: str, ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not in the lock: where it is installed, every stage loads it, and says aloud what it lacks without a GPU.
    pytest.importorskip("bitsandbytes")

    def edit(params: dict[str, Any]) -> None:
        params["train"] |= {
            "base_weights": weights,
            "max_steps": 3,
            "eval_steps": 3,
            "learning_rate": 0.01,
        }

    edit_params(ready / "params.yaml", edit)
    dtypes: set[torch.dtype] = set()
    step = trainer.AnswerTrainer.training_step

    def seen(self: Any, *args: Any, **kwargs: Any) -> Any:
        dtypes.update(weight.dtype for weight in self.model.parameters() if weight.requires_grad)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(trainer.AnswerTrainer, "training_step", seen)
    train.main()
    figures = metrics(ready, "train")
    # As many parameters as without: two weights of 4 bits lie in one byte.
    assert figures["parameters"]["trainable"] == 2 * 4 * (5 * (256 + 256) + 2 * (256 + 128))
    quantized = (
        load_model(ready / "models/base", "bfloat16", weights=weights)
        .model.layers[0]
        .mlp.up_proj.weight
    )
    assert quantized.dtype in (torch.uint8, torch.int8)
    assert dtypes == {torch.float32}
    merge.main()
    merged = load_model(ready / "models/merged", "float32").model.layers[0].mlp.up_proj.weight
    base = load_model(ready / "models/base", "float32").model.layers[0].mlp.up_proj.weight
    assert 0 < (merged - base).abs().max() < 0.2
    assert metrics(ready, "merge")["before_cast"]["greedy_agreement"] == 1.0


def test_a_loss_that_is_no_number_is_a_sentence_with_its_step() -> None:
    history = [{"step": 1, "train_loss_nats": 2.0}, {"step": 2, "train_loss_nats": math.nan}]
    with pytest.raises(UserError, match="training diverged: the loss is nan at step 2"):
        report._refuse_divergence(history)
    report._refuse_divergence([*history[:1], {"step": 3, "eval_loss_nats": 1.0}, {"step": 3}])
