"""Tune a two-layer model's adapter on preference pairs."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from ruamel.yaml import YAML

from bench.clones import ROOT, clone_tree, edit_params
from bula.adapter_files import save_adapter
from bula.commands.deps import closure
from bula.errors import UserError
from bula.files import sha256_file
from bula.lora import lora_config
from bula.model_cards import describe_base
from bula.models import load_adapted, load_model, load_tokenizer
from bula.named_inputs import named_inputs
from bula.params import Prefer, load_params
from bula.prompts import SYSTEM_PROMPT, Encoded
from stages.prefer import __main__ as stage
from stages.prefer.figures import LogLikelihoods, preference_figures, score_pairs
from stages.prefer.fingerprint import CODE, checkpoint_folder
from stages.prefer.pairs import (
    MOST_LINES,
    Pair,
    Validation,
    hold_out,
    read_pairs,
    validation_keys,
)
from stages.prefer.trainer import PairTrainer, make_trainer, train_pairs
from tests.conftest import (
    make_workspace,
    run,
    user_environment,
    write_jsonl,
    write_validation_sets,
)

NAME = "preferred"
LN2 = math.log(2)
ENTRY: dict[str, Any] = {
    "pairs": "data/labels/pairs.jsonl",
    "held_out_share": 0.25,
    "beta": 0.1,
    "epochs": 4,
    "learning_rate": 0.01,
    "scheduler": "constant",
    "warmup_share": 0.0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "save_steps": 3,
    "batch_size": 4,
    "gradient_accumulation": 1,
    "gradient_checkpointing": False,
    "resamples": 50,
    "confidence": 0.95,
}
TOPICS = ("dengue", "gripe", "asma", "enxaqueca", "gastrite", "alergia", "anemia", "sinusite")


def row(question: str, chosen: str, rejected: str, **fields: Any) -> dict[str, Any]:
    """Return a preference pair as chat messages."""
    return {
        "prompt": [{"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        **fields,
    }


def separable_rows() -> list[dict[str, Any]]:
    """Return pairs whose chosen answers all share words that no rejected answer has."""
    return [
        row(
            f"O que devo fazer quando tenho {topic}?",
            f"Procure um médico se a {topic} durar mais de dois dias.",
            f"Tome antibióticos fortes contra {topic} sem receita nenhuma.",
        )
        for topic in TOPICS
    ]


def write_adapter(tiny: Path, path: Path, seed: int = 0) -> None:
    """Write an adapter with random matrices, in the place of the tuned one."""
    torch.manual_seed(seed)
    params = load_params()
    model = get_peft_model(load_model(tiny, "float32"), lora_config(params.train.lora))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    save_adapter(model, describe_base(params.ingest.base), {}, path)


def set_entry(folder: Path, **changes: Any) -> None:
    """Write the entry of one DPO run into params.yaml."""

    def edit(params: dict[str, Any]) -> None:
        params["prefer"] = {NAME: ENTRY | changes}

    edit_params(folder / "params.yaml", edit)


def write_inputs(folder: Path, tiny: Path) -> None:
    """Write base, validation sets, pairs and params.yaml into the current directory."""
    (folder / "models/base").symlink_to(tiny)
    write_validation_sets(folder)
    write_jsonl(folder / ENTRY["pairs"], separable_rows())
    set_entry(folder)


@pytest.fixture
def unprepared(workspace: Path, tiny: Path) -> Path:
    """Return a workspace without a tuned adapter, which is the current directory."""
    write_inputs(workspace, tiny)
    return workspace


@pytest.fixture
def prepared(unprepared: Path, tiny: Path) -> Path:
    """Return a workspace before the stage, which is the current directory."""
    write_adapter(tiny, unprepared / "models/adapter")
    return unprepared


@pytest.fixture(scope="module")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace after the stage; tests only read it."""
    folder = tmp_path_factory.mktemp("finished")
    make_workspace(folder, tiny)
    with contextlib.chdir(folder):
        write_inputs(folder, tiny)
        write_adapter(tiny, folder / "models/adapter")
        stage.main(NAME)
    return folder


def read_figures(folder: Path) -> dict[str, Any]:
    """Return the figures that the stage wrote."""
    text = (folder / f"metrics/prefer/{NAME}.json").read_text(encoding="utf-8")
    figures: dict[str, Any] = json.loads(text)
    return figures


def encoded_pairs(folder: Path) -> list[Pair]:
    """Return all pairs of the workspace."""
    tokenizer = load_tokenizer(folder / "models/base")
    validation = validation_keys(folder / "data/clean/validation")
    return read_pairs(folder / ENTRY["pairs"], validation, tokenizer, 640)


def refusal(folder: Path, rows: list[dict[str, Any]], max_tokens: int = 640) -> str:
    """Return the message with which rows are refused."""
    write_jsonl(folder / ENTRY["pairs"], rows)
    tokenizer = load_tokenizer(folder / "models/base")
    validation = validation_keys(folder / "data/clean/validation")
    with pytest.raises(UserError) as caught:
        read_pairs(folder / ENTRY["pairs"], validation, tokenizer, max_tokens)
    return str(caught.value)


# Training


def test_the_loss_before_the_first_step_is_ln_2_because_the_reference_is_the_tuned_adapter(
    prepared: Path, tmp_path: Path
) -> None:
    params = load_params()
    entry = params.prefer[NAME]
    model = load_adapted(Path("models/base"), Path("models/adapter"), "float32")
    tokenizer = load_tokenizer(Path("models/base"))
    pairs = encoded_pairs(prepared)
    trainer = make_trainer(params, entry, model, tokenizer, pairs, tmp_path / "run")
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        loss = float(trainer.compute_loss(trainer.model, batch))
    assert loss == pytest.approx(LN2, abs=1e-6)
    # Without its copy of the adapter, TRL takes the base for the reference.
    model.delete_adapter("ref")
    with torch.no_grad():
        other = float(trainer.compute_loss(trainer.model, batch))
    assert abs(other - LN2) > 1e-3


def test_training_separates_the_held_out_pairs(finished: Path) -> None:
    figures = read_figures(finished)
    assert figures["pairs"] == {"train": 6, "held_out": 2}
    # 6 pairs in batches of 4 are 2 steps per epoch.
    assert figures["run"]["steps"] == 8
    assert figures["run"]["first_loss_nats"] == pytest.approx(LN2, abs=1e-4)
    held_out = figures["held_out"]
    assert (held_out["items"], held_out["questions"]) == (2, 2)
    assert held_out["reward_accuracy"] == 1
    assert held_out["reward_margin"] > 0.5
    assert held_out["loss_nats"] < 0.6
    difference = held_out["reward_chosen"] - held_out["reward_rejected"]
    assert held_out["reward_margin"] == pytest.approx(difference, rel=1e-4)
    assert figures["train"]["reward_margin"] > 0.5


def test_the_merge_of_the_preferred_adapter_is_measured(finished: Path) -> None:
    figures = read_figures(finished)
    assert figures["weights"]["matrices"] == 14
    assert 0 < figures["before_cast"]["logit_difference_relative"] < 1e-5
    assert {"checked", "after_cast", "as_served"} <= figures.keys()
    merged = load_model(finished / f"models/prefer/{NAME}/merged", "float32")
    assert len(list(merged.parameters())) > 0


def test_the_written_adapter_has_the_scored_rewards(finished: Path) -> None:
    params = load_params(finished / "params.yaml")
    base = finished / "models/base"
    output = finished / f"models/prefer/{NAME}"
    _, held_out = hold_out(encoded_pairs(finished), 0.25, Path("pairs"))
    tuned = load_adapted(base, finished / "models/adapter", params.dtype)
    preferred = load_adapted(base, output / "adapter", params.dtype)
    found = preference_figures(
        score_pairs(tuned, held_out, 2),
        score_pairs(preferred, held_out, 2),
        [pair.group for pair in held_out],
        params.prefer[NAME],
        0,
    )
    expected = read_figures(finished)["held_out"]["reward_margin"]
    assert found["reward_margin"] == pytest.approx(expected, rel=1e-5)


def test_the_outputs_are_one_adapter_and_cards_that_name_the_training(finished: Path) -> None:
    output = finished / f"models/prefer/{NAME}"
    files = {file.name for file in (output / "adapter").iterdir()}
    weights = {"adapter_config.json", "adapter_model.safetensors"}
    # TRL's frozen copy of the tuned adapter is no part of the output.
    assert files == weights | {"README.md", "LICENSE", "NOTICE"}
    for folder in ("adapter", "merged"):
        card = (output / folder / "README.md").read_text(encoding="utf-8")
        assert "trained further on preference pairs by DPO" in card


def test_the_same_seed_writes_the_same_adapter_and_keeps_the_tuned_one(
    finished: Path, prepared: Path
) -> None:
    tuned = prepared / "models/adapter/adapter_model.safetensors"
    before = sha256_file(tuned)
    stage.main(NAME)
    for name in ("adapter/adapter_model.safetensors", "merged/model.safetensors"):
        file = f"models/prefer/{NAME}/{name}"
        assert sha256_file(prepared / file) == sha256_file(finished / file)
    assert sha256_file(tuned) == before
    assert read_figures(prepared) == read_figures(finished)


def test_options_that_save_memory_keep_the_loss(prepared: Path, tmp_path: Path) -> None:
    params = load_params()
    tokenizer = load_tokenizer(Path("models/base"))
    pairs = encoded_pairs(prepared)

    def train(**changes: Any) -> dict[str, Any]:
        entry = params.prefer[NAME].model_copy(update={"epochs": 1, **changes})
        model = load_adapted(Path("models/base"), Path("models/adapter"), "float32")
        folder = tmp_path / str(changes)
        return train_pairs(params, entry, model, tokenizer, pairs, folder)

    plain = train()
    for changes in (
        {"gradient_checkpointing": True},
        {"batch_size": 2, "gradient_accumulation": 2},
    ):
        other = train(**changes)
        assert other["run"]["steps"] == plain["run"]["steps"] == 2
        assert other["train"]["loss_nats"] == pytest.approx(plain["train"]["loss_nats"], rel=0.02)


def hash_outputs(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each output of the stage."""
    output = folder / f"models/prefer/{NAME}"
    files = [file for file in output.rglob("*") if file.is_file()]
    files.append(folder / f"metrics/prefer/{NAME}.json")
    return {str(file.relative_to(folder)): sha256_file(file) for file in sorted(files)}


def record_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each later pass adds its step."""
    passes: list[int] = []
    training_step = PairTrainer.training_step

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        passes.append(self.state.global_step)
        return training_step(self, *args, **kwargs)

    monkeypatch.setattr(PairTrainer, "training_step", counted)
    return passes


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the stage, and send SIGTERM in the pass that follows a step."""
    training_step = PairTrainer.training_step

    def signalled(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return training_step(self, *args, **kwargs)

    message = rf"prefer: stopped; run it again to resume from step {step + 1}$"
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match=message):
        patch.setattr(PairTrainer, "training_step", signalled)
        stage.main(NAME)


# An epoch has two steps: the first stop is within one, the second between two, the last at the end.
@pytest.mark.parametrize("step", [2, 3, 7])
def test_a_stopped_run_resumes_to_the_same_adapter(
    step: int, finished: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(step, monkeypatch)
    assert not Path(f"models/prefer/{NAME}").exists()
    [folder] = [path for path in Path(".bula/checkpoints").iterdir() if path.is_dir()]
    assert [path.name for path in folder.glob("checkpoint-*")] == [f"checkpoint-{step + 1}"]
    passes = record_passes(monkeypatch)
    stage.main(NAME)
    # A run that starts over would write the same adapter.
    assert passes == list(range(step + 1, 8))
    assert hash_outputs(prepared) == hash_outputs(finished)
    assert not list(Path(".bula/checkpoints").iterdir())


def test_a_run_stopped_between_accumulated_batches_resumes_to_the_same_adapter(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 6 pairs in batches of 1 are steps of 2, 2 and 2 batches.
    set_entry(prepared, batch_size=1, gradient_accumulation=2, scheduler="cosine", epochs=2)
    stage.main(NAME)
    uninterrupted = hash_outputs(prepared)
    stop_after(1, monkeypatch)
    passes = record_passes(monkeypatch)
    stage.main(NAME)
    assert passes == [2, 2, 3, 3, 4, 4, 5, 5]
    assert hash_outputs(prepared) == uninterrupted


def interrupt(*arguments: Any, **options: Any) -> None:
    """Stop the stage at once, as a kill would."""
    raise KeyboardInterrupt


def test_a_killed_run_resumes_from_the_interval_of_save_steps(
    finished: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training_step = PairTrainer.training_step

    def killed(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 5:
            interrupt()
        return training_step(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PairTrainer, "training_step", killed)
        stage.main(NAME)
    passes = record_passes(monkeypatch)
    stage.main(NAME)
    assert passes == [3, 4, 5, 6, 7]
    assert hash_outputs(prepared) == hash_outputs(finished)


def test_a_run_killed_while_it_merges_takes_no_further_step(
    finished: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("bula.merging.merge_adapter", interrupt)
        stage.main(NAME)
    passes = record_passes(monkeypatch)
    stage.main(NAME)
    assert passes == []
    assert hash_outputs(prepared) == hash_outputs(finished)


def test_a_checkpoint_of_other_pairs_is_not_resumed(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_entry(prepared, epochs=1)
    stop_after(0, monkeypatch)
    write_jsonl(prepared / ENTRY["pairs"], separable_rows()[::-1])
    passes = record_passes(monkeypatch)
    stage.main(NAME)
    assert passes == [0, 1]


def folder_of_run() -> Path:
    """Return the folder for the checkpoints of the workspace's run."""
    params = load_params()
    entry = params.prefer[NAME]
    return checkpoint_folder(params, entry, Path("models/base"), Path("models/adapter"))


def test_runs_with_other_inputs_have_other_checkpoints(prepared: Path, tiny: Path) -> None:
    found = [folder_of_run(), folder_of_run()]
    assert found[0] == found[1]
    set_entry(prepared, learning_rate=0.02)
    found.append(folder_of_run())
    edit_params(prepared / "params.yaml", lambda params: params.update(seed=params["seed"] + 1))
    found.append(folder_of_run())
    write_jsonl(prepared / ENTRY["pairs"], separable_rows()[::-1])
    found.append(folder_of_run())
    write_adapter(tiny, prepared / "models/adapter", seed=1)
    found.append(folder_of_run())
    assert len(set(found)) == 5


def test_the_fingerprint_covers_all_code_that_shapes_the_adapter() -> None:
    # Documents, figures, checks and the merge shape no weight of the adapter.
    without_effect = {
        "bula/adapter_files.py",
        "bula/divergence.py",
        "bula/escaping.py",
        "bula/files.py",
        "bula/gguf_files.py",
        "bula/merging.py",
        "bula/model_cards.py",
        "bula/model_files.py",
        "bula/model_licenses.py",
        "bula/older_configs.py",
        "bula/stats.py",
        "bula/weight_checks.py",
    }
    covered = {str(file.relative_to(ROOT)) for file in CODE}
    assert closure(ROOT, "prefer") - covered == without_effect


def test_a_loss_that_is_not_finite_stops_before_a_checkpoint_is_written(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_entry(prepared, save_steps=1)
    compute_loss = PairTrainer.compute_loss

    def broken(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = compute_loss(self, *args, **kwargs)
        return loss * math.nan if self.state.global_step == 1 else loss

    monkeypatch.setattr(PairTrainer, "compute_loss", broken)
    message = r"the loss is not a finite number in step 2\. Lower learning_rate in the section"
    with pytest.raises(UserError, match=message):
        stage.main(NAME)
    checkpoints = list(Path(".bula/checkpoints").glob("*/checkpoint-*"))
    assert [path.name for path in checkpoints] == ["checkpoint-1"]


def test_sigterm_ends_the_stage_with_a_sentence_and_without_output(prepared: Path) -> None:
    set_entry(prepared, epochs=256)
    command = [sys.executable, "-m", "stages.prefer", NAME]
    environment = user_environment() | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=prepared, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        # The progress bar shows that training has begun.
        if "margin" in line:
            break
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "prefer: stopped; run it again to resume from step" in errors
    assert "Traceback" not in errors
    assert not Path(f"models/prefer/{NAME}").exists()


def test_an_unknown_name_lists_the_entries(unprepared: Path) -> None:
    with pytest.raises(UserError, match=r"prefer has no 'other'\. It names preferred"):
        stage.main("other")


# Figures


def test_the_figures_of_two_pairs_equal_the_numbers_worked_by_hand() -> None:
    entry = Prefer.model_validate(ENTRY)
    tuned = [LogLikelihoods(-10.0, -10.0), LogLikelihoods(-20.0, -30.0)]
    preferred = [LogLikelihoods(-5.0, -15.0), LogLikelihoods(-20.0, -20.0)]
    # Beta is 0.1: the rewards are 0.5 and -0.5, then 0 and 1. The margins are 1 and -1.
    figures = preference_figures(tuned, preferred, ["a", "b"], entry, 0)
    assert (figures["items"], figures["questions"]) == (2, 2)
    assert figures["reward_chosen"] == pytest.approx(0.25)
    assert figures["reward_rejected"] == pytest.approx(0.25)
    assert figures["reward_margin"] == pytest.approx(0)
    assert figures["reward_accuracy"] == 0.5
    # -ln(sigmoid(1)) = 0.313262 and -ln(sigmoid(-1)) = 1.313262.
    assert figures["loss_nats"] == pytest.approx(0.813262, abs=1e-6)
    assert figures["reward_accuracy_stderr"] == pytest.approx(0.5)


def test_equal_likelihoods_have_a_loss_of_ln_2_and_no_accuracy() -> None:
    entry = Prefer.model_validate(ENTRY)
    same = [LogLikelihoods(-10.0, -12.0)]
    figures = preference_figures(same, same, ["a"], entry, 0)
    assert figures["loss_nats"] == pytest.approx(LN2)
    assert (figures["reward_accuracy"], figures["reward_margin"]) == (0, 0)


def test_a_likelihood_that_is_not_finite_is_refused_with_advice() -> None:
    entry = Prefer.model_validate(ENTRY)
    tuned = [LogLikelihoods(-10.0, -12.0)]
    broken = [LogLikelihoods(math.nan, -12.0)]
    with pytest.raises(UserError, match=r"(?i)lower learning_rate in the section prefer"):
        preference_figures(tuned, broken, ["a"], entry, 0)


def test_intervals_need_twenty_questions() -> None:
    entry = Prefer.model_validate(ENTRY)
    same = [LogLikelihoods(-10.0, -12.0)] * 20
    groups = [str(number) for number in range(20)]
    with_interval = preference_figures(same, same, groups, entry, 0)
    assert with_interval["loss_nats_low"] == pytest.approx(LN2)
    without = preference_figures(same, same, [*groups[:19], "0"], entry, 0)
    assert "loss_nats_low" not in without


# Rows


def test_a_pair_has_the_prompt_that_training_and_scoring_use(unprepared: Path) -> None:
    first = encoded_pairs(unprepared)[0]
    tokenizer = load_tokenizer(Path("models/base"))
    text = tokenizer.decode(first.chosen.prompt)
    assert SYSTEM_PROMPT in text
    assert first.chosen.prompt == first.rejected.prompt
    end = tokenizer.decode(first.rejected.completion)
    assert end == "Tome antibióticos fortes contra dengue sem receita nenhuma.<|im_end|>"


def test_a_system_message_and_other_fields_are_dropped_and_earlier_turns_are_kept(
    unprepared: Path,
) -> None:
    prompt = [
        {"role": "system", "content": "Fale inglês."},
        {"role": "user", "content": "Estou com tosse."},
        {"role": "assistant", "content": "Há quanto tempo?"},
        {"role": "user", "content": "Há dois dias."},
    ]
    found = row("", "Beba água e descanse.", "Não sei.", rater="R1") | {"prompt": prompt}
    write_jsonl(unprepared / ENTRY["pairs"], [found])
    [pair] = encoded_pairs(unprepared)
    text = load_tokenizer(Path("models/base")).decode(pair.chosen.prompt)
    assert "Fale inglês." not in text
    places = [text.index(word) for word in ("Estou com tosse", "Há quanto tempo", "Há dois dias")]
    assert places == sorted(places)


def test_a_system_prompt_in_the_first_question_is_not_repeated(unprepared: Path) -> None:
    first = separable_rows()[0]
    [message] = first["prompt"]
    # A model without a system role has the system prompt there.
    written = f"{SYSTEM_PROMPT}\n\n{message['content']}"
    write_jsonl(unprepared / ENTRY["pairs"], [first | {"prompt": [message | {"content": written}]}])
    [pair] = encoded_pairs(unprepared)
    text = load_tokenizer(Path("models/base")).decode(pair.chosen.prompt)
    assert text.count(SYSTEM_PROMPT) == 1


def test_all_rows_that_cannot_be_used_are_listed_with_their_lines(unprepared: Path) -> None:
    good = separable_rows()
    bad = [
        good[0],
        row("O que é febre?", "Calor no corpo.", "Calor no  corpo. "),
        {"prompt": "texto", "chosen": [], "rejected": good[0]["rejected"]},
        row("O que é tosse?", "Um sintoma.", "") | {"chosen": [{"role": "user", "content": "a"}]},
        row("Pergunta 1 de B?", "Uma resposta.", "Outra resposta."),
        row("O que é gripe?", "Beba água, e repouse!", "Nada."),
        {"chosen": good[0]["chosen"], "rejected": good[0]["rejected"]},
        row("O que é dor?", "Uma sensação.", "Nada.")
        | {"prompt": [{"role": "assistant", "content": "Oi."}]},
    ]
    message = refusal(unprepared, bad)
    assert "7 rows cannot be used:" in message
    for line, what in [
        (2, "chosen and rejected are the same answer"),
        (3, "prompt: Input should be a valid array"),
        (4, "rejected.0.content: String should have at least 1 character"),
        (5, "its question is in the validation sets, which score the model"),
        (6, "an answer is a reference answer of the validation sets"),
        (7, "prompt: Field required"),
        (8, "in prompt, user and assistant must alternate"),
    ]:
        assert f"  line {line}: {what}" in message
    assert "line 1:" not in message
    # A row may be of a patient, so no message repeats its text.
    assert "texto" not in message
    assert message.endswith("Correct or remove these rows.")


def test_a_paraphrase_of_a_validation_question_is_refused(unprepared: Path) -> None:
    message = refusal(unprepared, [row("de B, PERGUNTA 1", "Uma resposta.", "Outra resposta.")])
    assert "line 1: its question is in the validation sets" in message


def test_a_question_of_an_earlier_turn_is_refused_too(unprepared: Path) -> None:
    found = row("E depois?", "Descanse.", "Corra.")
    history = [
        {"role": "user", "content": "Pergunta 2 de E?"},
        {"role": "assistant", "content": "Espere."},
    ]
    found["prompt"] = [*history, *found["prompt"]]
    assert "line 1: its question is in the validation sets" in refusal(unprepared, [found])


def test_a_pair_that_is_too_long_is_refused_and_never_cut(unprepared: Path) -> None:
    message = refusal(unprepared, separable_rows()[:1], max_tokens=20)
    assert "tokens, more than preprocess.max_tokens (20)" in message


def test_damaged_json_and_wrong_bytes_are_reported_with_their_lines(unprepared: Path) -> None:
    path = unprepared / ENTRY["pairs"]
    path.write_bytes(b'{"prompt": \n\n\xff\xfe\n[1]\n')
    tokenizer = load_tokenizer(Path("models/base"))
    with pytest.raises(UserError) as caught:
        read_pairs(path, Validation(set(), set()), tokenizer, 640)
    message = str(caught.value)
    assert "line 1: not JSON\n  line 3: not JSON\n  line 4: the row: " in message


def test_a_long_list_of_bad_rows_is_cut(unprepared: Path) -> None:
    rows: list[dict[str, Any]] = [{} for _ in range(MOST_LINES + 5)]
    message = refusal(unprepared, rows)
    assert f"{MOST_LINES + 5} rows cannot be used" in message
    assert "  and 5 more" in message
    assert len(message.splitlines()) == MOST_LINES + 3


def test_an_empty_file_is_refused(unprepared: Path) -> None:
    assert "the file has no row" in refusal(unprepared, [])


def test_a_missing_file_is_refused_by_check_and_by_the_stage(unprepared: Path) -> None:
    (unprepared / ENTRY["pairs"]).unlink()
    with pytest.raises(UserError, match=r"pairs\.jsonl: the file does not exist"):
        stage.main(NAME)
    items = {item.key: item for item in named_inputs(load_params())}
    assert items[f"prefer.{NAME}.pairs"].path == ENTRY["pairs"]


def made_pair(group: str) -> Pair:
    """Return a pair whose token ids do not matter."""
    item = Encoded(prompt=[1], completion=[2])
    return Pair(group, item, item)


def test_pairs_of_a_question_stay_on_one_side_whatever_the_order_of_the_file() -> None:
    pairs = [made_pair(str(number % 10)) for number in range(30)]
    train, held_out = hold_out(pairs, 0.25, Path("pairs"))
    groups = {pair.group for pair in held_out}
    # A quarter of ten questions is rounded up.
    assert (len(groups), len(held_out), len(train)) == (3, 9, 21)
    assert groups.isdisjoint({pair.group for pair in train})
    _, again = hold_out(pairs[::-1], 0.25, Path("pairs"))
    assert {pair.group for pair in again} == groups


def test_one_question_cannot_be_divided() -> None:
    with pytest.raises(UserError, match="all rows have one question"):
        hold_out([made_pair("a")] * 3, 0.5, Path("pairs"))


# The pipeline


def stages_of(folder: Path) -> list[str]:
    """Return the stages that DVC finds in a repository."""
    result = run(["dvc", "stage", "list", "--name-only"], folder)
    assert result.returncode == 0, result.stderr
    return str(result.stdout).split()


def test_without_an_entry_dvc_has_no_such_stage_and_with_one_it_has(tmp_path: Path) -> None:
    clone_tree(tmp_path)
    names = stages_of(tmp_path)
    assert "merge" in names
    assert not [name for name in names if name.startswith("prefer")]

    def add(params: dict[str, Any]) -> None:
        params["prefer"] = {NAME: ENTRY}
        model = f"models/prefer/{NAME}/merged"
        params["variants"][NAME] = {"model": model, "engine": "transformers"}
        params["compare"]["pairs"].append({"variant": NAME, "baseline": "tuned"})

    edit_params(tmp_path / "params.yaml", add)
    names = stages_of(tmp_path)
    assert {f"prefer@{NAME}", f"likelihood@{NAME}", f"judge@{NAME}"} <= set(names)
    params = load_params(tmp_path / "params.yaml")
    assert params.compare.pairs[-1].name == f"{NAME}_minus_tuned"
    pipeline = (tmp_path / "dvc.yaml").read_text(encoding="utf-8")
    # compare reads the scores of the new variant.
    assert f"    - data/likelihood/{NAME}.jsonl\n" in pipeline


def test_the_example_of_the_docs_is_valid(workspace: Path) -> None:
    text = (ROOT / "docs/usage.md").read_text(encoding="utf-8")
    section = text.partition("\n## Preference pairs\n")[2]
    [block] = [part for part in section.split("```") if part.startswith("yaml\nprefer:")]
    example = YAML(typ="safe").load(block.removeprefix("yaml\n"))

    def add(params: dict[str, Any]) -> None:
        params["prefer"] = example["prefer"]
        params["compare"]["pairs"] += example["compare"]["pairs"]
        params["variants"] |= example["variants"]

    edit_params(workspace / "params.yaml", add)
    params = load_params()
    assert params.variants[NAME].model == f"models/prefer/{NAME}/merged"


def test_a_variant_of_a_run_that_no_entry_makes_is_refused(unprepared: Path) -> None:
    def edit(params: dict[str, Any]) -> None:
        params["variants"]["a"] = {"model": "models/prefer/b/merged", "engine": "transformers"}

    edit_params(unprepared / "params.yaml", edit)
    with pytest.raises(UserError, match="needs models/prefer/b/merged, which no entry of prefer"):
        load_params()
