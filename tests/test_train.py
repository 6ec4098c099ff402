import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from bula.models import load_model, load_tokenizer, pad_batch
from bula.params import load_params
from bula.prompts import encode
from bula.records import Example, read_examples, sha256_file
from stages import merge, quantize, train
from stages.ingest.sources import read_source, read_task
from stages.preprocess import __main__ as preprocess
from tests.conftest import ROOT, edit_params


@pytest.fixture
def ready(workspace: Path, tiny: Path) -> Path:
    """The workspace after ingest and preprocess."""
    from bula.records import write_rows

    (workspace / "models/base").symlink_to(tiny)
    params = load_params()
    for source in params.ingest.sources:
        write_rows(workspace / f"data/raw/{source.name}.jsonl", read_source(source))
    for task in params.ingest.benchmarks:
        write_rows(workspace / f"data/benchmarks/{task.name}.jsonl", read_task(task))
    preprocess.main()
    return workspace


def metrics(folder: Path, name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / f"metrics/{name}.json").read_text(encoding="utf-8"))
    return loaded


def test_the_loss_of_a_batch_equals_one_worked_out_in_numpy(tiny: Path, tmp_path: Path) -> None:
    tokenizer, model = load_tokenizer(tiny), load_model(tiny, "float32")
    examples = [
        Example(id=f"{n}" * 16, source="s", license="l", split="train", question=q, answer=a)
        for n, (q, a) in enumerate([("Dói?", "Sim, um pouco."), ("Posso tomar sol sem protetor?", "Não.")])
    ]
    encoded = [encode(tokenizer, e) for e in examples]
    batch = pad_batch(encoded, tokenizer.pad_token_id)
    with torch.inference_mode():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.double().numpy()
    total, count = 0.0, 0
    for row, labels in zip(logits, batch["labels"].numpy(), strict=True):
        for position in range(1, len(labels)):
            if labels[position] != -100:
                scores = row[position - 1]
                total -= scores[labels[position]] - np.log(np.exp(scores - scores.max()).sum()) - scores.max()
                count += 1
    trainer = object.__new__(train.AnswerTrainer)
    trainer.sums = {"train": torch.zeros(3, dtype=torch.float64), "eval": torch.zeros(3, dtype=torch.float64)}
    trainer.model = model
    trainer.accelerator = type("Accelerator", (), {"unwrap_model": staticmethod(lambda m: m)})()
    loss = trainer.compute_loss(model, batch).detach()
    assert count == sum(len(e.completion) for e in encoded)
    assert loss.item() == pytest.approx(total / count, abs=1e-5)
    assert trainer.sums["eval"].tolist()[2] == count


def test_training_lowers_dev_loss_and_writes_exactly_what_it_promises(ready: Path) -> None:
    edit_params(ready / "params.yaml", lambda p: p["train"].update(learning_rate=0.01))
    train.main()
    assert sorted(p.name for p in (ready / "models/adapter").iterdir()) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    figures = metrics(ready, "train")
    # Rank 4 on q, k, v, o, gate, up and down of two layers: 4 x (in + out) each, with 256-wide queries, outputs and MLP, 128-wide keys.
    assert figures["parameters"]["trainable"] == 2 * 4 * (5 * (256 + 256) + 2 * (256 + 128))
    assert figures["run"]["steps"] == 6
    points = json.loads((ready / "plots/train/loss.json").read_text(encoding="utf-8"))
    curve = [p for p in points if p["group"] == "train"]
    assert [p["step"] for p in curve] == [1, 2, 3, 4, 5, 6]
    dev = [p["loss_nats"] for p in points if p["group"] == "dev"]
    assert len(dev) == 2
    assert figures["dev"]["loss_nats"] == pytest.approx(min(dev), rel=1e-5)
    assert dev[-1] < curve[0]["loss_nats"]
    examples = read_examples(ready / "data/clean/dev.jsonl")
    assert figures["dev"]["items"] == len(examples)
    assert figures["dev"]["perplexity"] == pytest.approx(2 ** figures["dev"]["bits_per_token"], rel=1e-4)
    assert not any((ready / ".bula/checkpoints").iterdir())


def test_the_same_seed_gives_the_same_adapter_and_another_seed_another(ready: Path) -> None:
    adapter = ready / "models/adapter"
    hashes = []
    for seed in (1, 1, 2):
        edit_params(ready / "params.yaml", lambda p, seed=seed: p.update(seed=seed))  # type: ignore[misc]
        train.main()
        hashes.append([sha256_file(adapter / name) for name in ("adapter_model.safetensors", "adapter_config.json", "README.md")])
    assert hashes[0] == hashes[1]
    assert hashes[0][0] != hashes[2][0]


def test_checkpoints_are_found_again_only_for_the_same_run(ready: Path) -> None:
    params = load_params()
    files = [ready / "data/clean/train.jsonl", ready / "data/clean/dev.jsonl"]
    before = train.fingerprint(params, files)
    assert train.fingerprint(load_params(), files) == before
    other = params.model_copy(update={"train": params.train.model_copy(update={"learning_rate": 0.5})})
    assert train.fingerprint(other, files) != before
    files[0].write_text(files[0].read_text(encoding="utf-8")[1:], encoding="utf-8")
    assert train.fingerprint(params, files) != before


def test_a_run_stopped_halfway_resumes_to_the_same_adapter(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train.main()
    whole = load_file(ready / "models/adapter/adapter_model.safetensors")
    log = train.AnswerTrainer.log

    def stop_after_four_steps(self: Any, logs: dict[str, float], start_time: float | None = None) -> None:
        log(self, logs, start_time)
        if self.state.global_step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(train.AnswerTrainer, "log", stop_after_four_steps)
    with pytest.raises(KeyboardInterrupt):
        train.main()
    assert len(list((ready / ".bula/checkpoints").glob("*/checkpoint-3"))) == 1
    monkeypatch.setattr(train.AnswerTrainer, "log", log)
    train.main()
    resumed = load_file(ready / "models/adapter/adapter_model.safetensors")
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    steps = [p["step"] for p in json.loads((ready / "plots/train/loss.json").read_text(encoding="utf-8")) if p["group"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_checkpoint_cut_short_is_not_resumed_from(tmp_path: Path) -> None:
    for name in ("checkpoint-3", "checkpoint-6"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-3/trainer_state.json").write_text("{}", encoding="utf-8")
    assert train.last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-3")
    assert not (tmp_path / "checkpoint-6").exists()
    assert train.last_checkpoint(tmp_path / "none") is None


def test_merge_and_quantize_measure_what_they_change(ready: Path) -> None:
    edit_params(ready / "params.yaml", lambda p: p["train"].update(learning_rate=0.01))
    train.main()
    merge.main()
    figures = metrics(ready, "merge")
    assert figures["before_cast"]["greedy_agreement"] == 1.0
    assert figures["before_cast"]["logit_difference_largest"] < 1e-3
    assert figures["after_cast"]["logit_difference_largest"] > figures["before_cast"]["logit_difference_largest"]
    base, merged = load_model(ready / "models/base", "float32"), load_model(ready / "models/merged", "float32")
    assert not torch.equal(base.model.layers[0].mlp.down_proj.weight, merged.model.layers[0].mlp.down_proj.weight)
    assert torch.equal(base.model.embed_tokens.weight, merged.model.embed_tokens.weight)
    quantize.main()
    figures = metrics(ready, "quantize")
    assert sorted(figures) == ["bf16", "q8_0"]
    assert figures["bf16"]["kl_nats"] == 0.0
    assert figures["bf16"]["top_token_agreement"] == 1.0
    assert 0 < figures["q8_0"]["kl_nats"] < 0.05
    # Seven linear layers in each of two blocks, and the embedding; norms stay in 32 bit.
    assert (figures["q8_0"]["tensors_q8_0"], figures["q8_0"]["tensors_f32"]) == (15, 5)
    assert figures["q8_0"]["bytes"] < figures["bf16"]["bytes"]
    # Keys are permuted in the file, for llama.cpp's rotary embedding, and come back in their own order.
    files = [
        load_model(ready / name, "bfloat16").model.layers[1].self_attn.k_proj.weight for name in ("models/gguf/bf16.gguf", "models/merged")
    ]
    assert torch.equal(files[0], files[1])


def test_kl_divergence_and_agreement_by_hand() -> None:
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
    q = torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log()
    targets = torch.tensor([1, 0])
    result = quantize.fidelity([(p, targets)], [(q, targets)])
    # First token: 0.5 ln(0.5/0.25) + 0.5 ln(0.5/0.75) = 0.143841; second: 0; mean of two.
    assert result["kl_nats"] == pytest.approx(0.0719205, abs=1e-6)
    # -(ln 0.75 + ln 0.9) / 2
    assert result["perplexity"] == pytest.approx(math.exp(0.5 * (0.2876821 + 0.1053605)), rel=1e-6)
    # A tie goes to the first token in p and q prefers the second: one of two agree.
    assert result["top_token_agreement"] == 0.5


def test_merge_reports_differences_by_hand() -> None:
    first = [torch.tensor([[1.0, 2.0], [3.0, 1.0]])]
    second = [torch.tensor([[1.0, 2.5], [1.0, 2.0]])]
    # Differences 0, 0.5, 2, 1; the first token agrees, the second does not.
    assert merge.compare(first, second) == {
        "logit_difference_largest": 2.0,
        "logit_difference_mean": pytest.approx(0.875),
        "greedy_agreement": 0.5,
    }


def test_a_missing_base_model_is_a_sentence(ready: Path) -> None:
    (ready / "models/base").unlink()
    with pytest.raises(SystemExit, match="models/base does not exist; `dvc repro` writes it"):
        train.main()
    assert not (ready / "models/adapter").exists()


def test_profiles_differ_in_values_and_never_in_keys() -> None:
    params = load_params(ROOT / "profiles/llama-3.2-1b.yaml")
    assert params.train.max_steps == 6000
    assert params.benchmark.tasks == ["medmcqa", "medqa_4options", "squad_completion"]
    assert params.judge.model == "gpt-4o-mini-2024-07-18"
