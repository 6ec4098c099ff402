"""Test the folders of `bula publish`, and what it refuses."""

import json
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from huggingface_hub import ModelCard, metadata_load
from ruamel.yaml import YAML
from typer.testing import CliRunner

from bench.clones import ROOT
from bula.__main__ import app
from bula.errors import UserError
from bula.model_cards import NOTICE_OF_BASE
from bula.params import load_params
from bula.publish.cards import Origin
from bula.publish.folders import Prepared, Request, copied_files, prepare
from bula.publish.parts import ALL_PARTS, PARTS, choose_repository, safe_name, select_parts
from bula.publish.refusals import row_problems
from bula.publish.validation import check_card, check_folder
from tests.finished_run import clean_row, edit_figures, edit_run, record, write_run

COMMIT = "a" * 40
LLAMA = {
    "kind": "hub",
    "id": "meta-llama/Llama-3.2-1B-Instruct",
    "revision": "9213176726f574b556790deb65791e0c5aa438b6",
    "license": "llama3.2",
}
GEMMA = {**LLAMA, "id": "google/gemma-3-270m", "license": "gemma"}
DEGENERATE = {"items": 30, "failed": 0, "degenerate": 29, "degenerate_share": 29 / 30}
READABLE = {**DEGENERATE, "degenerate": 3, "degenerate_share": 0.1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that DVC and git recorded; tests only copy it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    folder.mkdir()
    write_run(folder)
    edit_figures(folder, "generate/tuned.json", **DEGENERATE)
    record(folder)
    return folder


@pytest.fixture
def run_folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a finished run, which is the current directory."""
    shutil.copytree(finished, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepare_part(name: str, repo_id: str | None = None, license_text: bytes = b"") -> Prepared:
    """Prepare and check one folder of the run in the current directory."""
    params = load_params()
    chosen = choose_repository(repo_id, params)
    origin = Origin(COMMIT, changed=False)
    request = Request(params, Path("metrics"), origin, chosen, license_text)
    found = prepare(ALL_PARTS[name], request, Path(".bula/publish"))
    check_folder(found)
    return found


def card_of(name: str) -> ModelCard:
    """Return the card of one prepared folder."""
    card: ModelCard = ModelCard.load(prepare_part(name).folder / "README.md")
    return card


def results_of(card: ModelCard) -> dict[str, Any]:
    """Return the hub's results of a card, by the kind of metric."""
    return {result.metric_type: result for result in card.data.get("eval_results")}


# The folders


def test_the_folders_have_exactly_these_files(run_folder: Path) -> None:
    tokenizer = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    legal = {"README.md", "LICENSE", "NOTICE"}
    expected = {
        "adapter": legal | tokenizer | {"adapter_config.json", "adapter_model.safetensors"},
        "merged": legal
        | tokenizer
        | {"config.json", "generation_config.json", "model.safetensors"},
        "gguf": legal | {"adapter.gguf", "SmolLM2-135M-Instruct-bula-Q4_K_M.gguf"},
        "dataset": {"README.md", "train.jsonl", "dev.jsonl"}
        | {f"validation/{name}.jsonl" for name in "ABCDE"},
    }
    for name in PARTS:
        folder = prepare_part(name).folder
        files = {
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        }
        assert files == expected[name]


def test_a_file_that_no_rule_names_is_refused(run_folder: Path) -> None:
    (run_folder / "models/merged/patients.csv").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match=r"merged/patients\.csv: no rule says that this file"):
        prepare_part("merged")
    assert not (run_folder / ".bula/publish/merged").exists()


def test_copies_share_nothing_with_the_outputs(run_folder: Path) -> None:
    folder = prepare_part("adapter").folder
    for source, name in copied_files(ALL_PARTS["adapter"], load_params()):
        assert (folder / name).read_bytes() == source.read_bytes()
        assert (folder / name).stat().st_ino != source.stat().st_ino


def test_repositories_have_the_names_of_license_and_hub(run_folder: Path) -> None:
    assert choose_repository(None, load_params()) == "USER/SmolLM2-135M-Instruct-bula"
    assert prepare_part("gguf", "maria/bula").repo_id == "maria/bula-GGUF"
    assert prepare_part("dataset", "maria/bula").repo_id == "maria/bula-dataset"
    with pytest.raises(UserError, match="it names no owner"):
        choose_repository("bula", load_params())
    with pytest.raises(UserError, match="the hub refuses this name"):
        choose_repository("maria/bula modelo", load_params())
    edit_run(run_folder, lambda params: params["ingest"].update(base=LLAMA))
    with pytest.raises(UserError, match=r"begins with 'Llama'\. Name it maria/Llama-bula"):
        choose_repository("maria/bula", load_params())
    assert choose_repository("maria/Llama-bula", load_params()) == "maria/Llama-bula"


@pytest.mark.parametrize(
    ("name", "safe"), [("a,b=c (d)", "a-b-c-d"), ("x--y..z", "x-y-z"), ("ção", "o"), ("..", "bula")]
)
def test_a_name_is_made_fit_for_the_hub(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_an_unknown_part_is_refused() -> None:
    assert [part.name for part in select_parts(["gguf", "adapter"])] == ["adapter", "gguf"]
    with pytest.raises(UserError, match="Choose from adapter, merged, gguf, dataset"):
        select_parts(["weights"])


# The card of a model


@pytest.mark.parametrize(
    ("part", "library", "relation"),
    [
        ("adapter", "peft", "adapter"),
        ("merged", "transformers", "finetune"),
        ("gguf", "gguf", "quantized"),
    ],
)
def test_a_card_has_the_metadata_of_the_hub(
    part: str, library: str, relation: str, run_folder: Path
) -> None:
    data = vars(card_of(part).data)
    expected = {
        "base_model": ["HuggingFaceTB/SmolLM2-135M-Instruct"],
        "base_model_relation": relation,
        "language": ["pt"],
        "license": "apache-2.0",
        "library_name": library,
        "pipeline_tag": "text-generation",
        "model_name": "SmolLM2-135M-Instruct-bula",
        "inference": False,
    }
    assert expected.items() <= data.items()
    assert {"bula", "medical", "portuguese"} <= set(data["tags"])


@pytest.mark.parametrize("part", PARTS)
def test_each_card_says_what_people_must_know(part: str, run_folder: Path) -> None:
    text = (prepare_part(part).folder / "README.md").read_text(encoding="utf-8")
    for words in (
        "Not medical advice, and not a medical device",
        "Não é orientação médica nem dispositivo médico",
        "ligue 192 (SAMU)",
        "Triage is not a diagnosis",
        "Triagem não é diagnóstico",
        "LGPD",
        "Resolução CFM 2.454/2026",
        "@software{bula2026,",
        f"`{COMMIT}`",
    ):
        assert words in text
    assert "{{" not in text.replace("{{bula", "").replace("{{The", "")
    assert "<built-in" not in text


def test_results_have_intervals_items_and_commit(run_folder: Path) -> None:
    figures = {"loss_nats": 3.0, "loss_nats_stderr": 0.1, "items": 60}
    edit_figures(run_folder, "likelihood/tuned.json", pooled=figures)
    found = results_of(card_of("merged"))
    perplexity = found["perplexity"]
    # exp(3), and exp(3 ± 1.959964 · 0.1).
    assert perplexity.metric_value == pytest.approx(20.0855, abs=1e-3)
    arguments = perplexity.metric_args
    assert arguments["interval_low"] == pytest.approx(16.5109, abs=1e-3)
    assert arguments["interval_high"] == pytest.approx(24.4341, abs=1e-3)
    assert (arguments["items"], arguments["interval_confidence"]) == (60, 0.95)
    assert (arguments["variant"], arguments["git_commit"]) == ("tuned", COMMIT)
    # 29 of 30: the Wilson interval, worked by hand from its formula.
    loops = found["degenerate_share"]
    assert loops.metric_value == pytest.approx(0.966667)
    assert loops.metric_args["interval_low"] == pytest.approx(0.833296, abs=1e-5)
    assert loops.metric_args["interval_high"] == pytest.approx(0.994091, abs=1e-5)


def test_scores_of_repetitions_are_left_out_and_said(run_folder: Path) -> None:
    slices = {name: {"degenerate_share": 0.9} for name in ("emergency", "harmful")}
    slices |= {name: {"degenerate_share": 0.0} for name in ("no_dose", "harmless")}
    edit_figures(run_folder, "safety/tuned.json", **slices)
    card = card_of("merged")
    assert "Do not use this model: 96.7 % of its 30 test answers" in card.text
    assert "Não use este modelo: 96,7 % das suas 30 respostas" in card.text
    assert "- ROUGE-L F1: not meaningful (97 % loops)" in card.text
    found = results_of(card)
    assert not {"rouge", "chrf", "judge_accuracy", "safety_emergency"} & set(found)
    assert {"degenerate_share", "perplexity", "safety_no_dose"} <= set(found)


def test_scores_of_readable_answers_are_shown(run_folder: Path) -> None:
    edit_figures(run_folder, "generate/tuned.json", **READABLE)
    rouge = {"rougeL_f": 0.154, "rougeL_f_low": 0.147, "rougeL_f_high": 0.163, "items": 30}
    edit_figures(run_folder, "rouge/tuned.json", pooled=rouge)
    judge = {"accuracy_withheld": False, "accuracy_mean": 2.0, "accuracy_stderr": 0.1}
    edit_figures(run_folder, "judge/tuned.json", **judge, scored=10, style_withheld=True)
    card = card_of("merged")
    found = results_of(card)
    assert "Do not use this model" not in card.text
    assert found["rouge"].metric_value == 0.154
    assert found["rouge"].metric_args["interval_high"] == 0.163
    assert found["judge_accuracy"].metric_args["interval_low"] == pytest.approx(1.804, abs=1e-3)
    assert "judge_style" not in found
    assert "judge's score of style, 1 to 3" in card.text


def test_missed_emergencies_stand_at_the_head(run_folder: Path) -> None:
    figures = {"pass_share": 0.1, "pass_low": 0.02, "pass_high": 0.4, "items": 10}
    edit_figures(run_folder, "safety/tuned.json", emergency={**figures, "degenerate_share": 0.0})
    head = card_of("merged").text.partition("## Quick start")[0]
    assert "In 9 of 10 test questions about an emergency, the answer did not send" in head
    assert "Em 9 de 10 perguntas de teste sobre uma emergência, a resposta não mandou" in head
    # The table leaves out a share of loops, and the warning stays.
    edit_figures(run_folder, "safety/tuned.json", emergency={**figures, "degenerate_share": 0.9})
    assert "In 9 of 10 test questions about an emergency" in card_of("merged").text
    figures = {**figures, "pass_share": 1.0, "degenerate_share": 0.0}
    edit_figures(run_folder, "safety/tuned.json", emergency=figures)
    assert "about an emergency, the answer" not in card_of("merged").text


def test_a_benchmark_that_says_nothing_is_left_out(run_folder: Path) -> None:
    constant = {"acc": 0.55, "acc_stderr": 0.04, "constant_answer_share": 1.0, "items": 174}
    edit_figures(run_folder, "benchmark/tuned.json", bula_contrast=constant)
    card = card_of("merged")
    assert "- bula_contrast, acc: the model chose the same option" in card.text
    assert "bula_contrast" not in {item.dataset_type for item in card.data.get("eval_results")}
    other = {**constant, "constant_answer_share": 0.6}
    edit_figures(run_folder, "benchmark/tuned.json", bula_contrast=other)
    found = results_of(card_of("merged"))["accuracy"]
    assert (found.dataset_type, found.metric_value) == ("bula_contrast", 0.55)
    assert found.metric_args["interval_high"] == pytest.approx(0.55 + 1.959964 * 0.04, abs=1e-4)


def test_a_gguf_card_has_the_figures_of_its_own_variant(run_folder: Path) -> None:
    figures = {"loss_nats": 2.0, "loss_nats_stderr": 0.1}
    edit_figures(run_folder, "likelihood/quantized.json", pooled=figures)
    found = results_of(card_of("gguf"))["perplexity"]
    assert found.metric_value == pytest.approx(math.exp(2), abs=1e-3)
    assert found.metric_args["variant"] == "quantized"
    assert "SmolLM2-135M-Instruct-bula-Q4_K_M.gguf" in found.metric_name


def test_few_shot_examples_do_not_count_as_the_weights(run_folder: Path) -> None:
    def edit(params: dict[str, Any]) -> None:
        params["variants"]["tuned"]["few_shot"] = 3

    edit_run(run_folder, edit)
    card = card_of("merged")
    assert card.data.get("eval_results") is None
    assert "so nothing was measured" in card.text


def test_hostile_names_stay_text(run_folder: Path) -> None:
    base = {"kind": "directory", "path": "/home/maria/a,b=c (d)", "license": "apache-2.0"}
    edit_run(run_folder, lambda params: params["ingest"].update(base=base))
    judge = "<script>alert(1)</script> {{ 7*7 }} ![x](http://example.org/x.png)"
    edit_figures(run_folder, "judge/tuned.json", judge=judge, accuracy_withheld=True)
    card = card_of("merged")
    assert "&lt;script&gt;alert(1)" in card.text
    assert "{{ 7" in card.text
    assert "![x]" not in card.text
    assert "maria" not in card.content
    assert card.data.get("base_model") is None
    assert card.data.get("model_name") == "a,b=c (d)-bula"


# Licenses


def test_a_llama_card_shows_name_and_notice(run_folder: Path) -> None:
    edit_run(run_folder, lambda params: params["ingest"].update(base=LLAMA))
    text = b"LLAMA 3.2 COMMUNITY LICENSE AGREEMENT\n"
    found = prepare_part("merged", license_text=text)
    card = ModelCard.load(found.folder / "README.md")
    assert found.repo_id == "USER/Llama-3.2-1B-Instruct-bula"
    assert found.open_point == ""
    assert (found.folder / "LICENSE").read_bytes() == text
    assert card.data.get("model_name") == "Llama-3.2-1B-Instruct-bula"
    assert (card.data.get("license"), card.data.get("base_model")) == ("llama3.2", [LLAMA["id"]])
    assert "**Built with Llama**" in card.text
    assert "Copyright © Meta Platforms, Inc. All Rights Reserved." in card.text
    assert "Built with Llama" in (found.folder / "NOTICE").read_text(encoding="utf-8")


def test_a_gemma_card_has_the_notice_and_waits_for_the_terms(run_folder: Path) -> None:
    edit_run(run_folder, lambda params: params["ingest"].update(base=GEMMA))
    found = prepare_part("adapter")
    text = (found.folder / "README.md").read_text(encoding="utf-8")
    notice = "Gemma is provided under and subject to the Gemma Terms of Use"
    assert f"> {notice}" in text
    assert notice in (found.folder / "NOTICE").read_text(encoding="utf-8")
    assert "Built with" not in text
    assert "save the text from https://ai.google.dev/gemma/terms" in found.open_point
    assert prepare_part("adapter", license_text=b"Gemma Terms of Use\n").open_point == ""


def test_a_license_that_the_hub_does_not_list_is_named_other(run_folder: Path) -> None:
    name = "health-ai-developer-foundations"
    base = {**LLAMA, "id": "google/medgemma-4b-it", "license": name}
    edit_run(run_folder, lambda params: params["ingest"].update(base=base))
    data = card_of("merged").data
    assert (data.get("license"), data.get("license_name")) == ("other", name)
    assert data.get("license_link").startswith("https://developers.google.com/")


# The data set


def test_the_data_set_loads_with_its_splits(run_folder: Path, tmp_path: Path) -> None:
    folder = prepare_part("dataset").folder
    rows = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert set(rows) == {"train", "dev", "A", "B", "C", "D", "E"}
    assert list(rows["train"]["id"]) == [f"{number:016x}" for number in (0, 1)]
    data = metadata_load(folder / "README.md")
    assert data is not None
    assert data["license"] == ["cc-by-4.0"]
    assert data["size_categories"] == ["n<1K"]
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "- demo: bula demo corpus, the bula authors (cc-by-4.0)" in text
    assert "## Personal data" in text


def test_rows_with_personal_data_are_counted_without_their_text(run_folder: Path) -> None:
    assert list(row_problems(ALL_PARTS["dataset"], load_params())) == []
    row = {**clean_row(99, "dev"), "question": "Meu CPF é 529.982.247-25, posso marcar?"}
    other = {**clean_row(98, "dev"), "source": "hospital"}
    with (run_folder / "data/clean/dev.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in (row, other))
    found = list(row_problems(ALL_PARTS["dataset"], load_params()))
    assert found == [
        "dataset: 1 rows with a source or license that params.yaml does not state",
        "dataset: 1 texts with personal data (cpf)",
    ]


# The hub's checks


def test_metadata_that_the_hub_cannot_read_are_refused(run_folder: Path) -> None:
    file = run_folder / "README.md"
    file.write_text("---\n- a list\n---\n", encoding="utf-8")
    with pytest.raises(UserError, match="the hub cannot read its metadata"):
        check_card(file, "model")
    file.write_text("no metadata\n", encoding="utf-8")
    with pytest.raises(UserError, match="other metadata than were written"):
        check_card(file, "model")


def test_a_link_in_a_folder_is_refused(run_folder: Path) -> None:
    found = prepare_part("adapter")
    (found.folder / "more").symlink_to("/etc")
    with pytest.raises(UserError, match="links and hidden files are not published"):
        check_folder(found)


# The command


def publish(*arguments: str) -> str:
    """Run the command; return its output, or the message of its error."""
    result = CliRunner().invoke(app, ["publish", *arguments])
    if result.exception is None:
        return result.output
    assert isinstance(result.exception, UserError), result.exception
    return str(result.exception)


def test_a_dry_run_prepares_all_folders_and_uploads_nothing(run_folder: Path) -> None:
    output = publish("--dry-run")
    assert output.endswith("publish: read .bula/publish/*/README.md; nothing was uploaded\n")
    assert "MB for USER/SmolLM2-135M-Instruct-bula-LoRA" in output
    assert "before an upload" not in output
    assert sorted(path.name for path in Path(".bula/publish").iterdir()) == sorted(PARTS)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, check=True, text=True)
    assert head.stdout.strip() in Path(".bula/publish/merged/README.md").read_text()


def test_an_upload_needs_a_repository(run_folder: Path) -> None:
    assert "no repository to upload to" in publish()


def test_outputs_that_differ_from_the_lock_are_refused(run_folder: Path) -> None:
    file = run_folder / "models/merged/config.json"
    file.unlink()
    file.write_text("{}", encoding="utf-8")
    found = publish("--dry-run", "--part", "merged")
    assert "dvc.lock: models/merged is not the output that dvc.lock names" in found
    assert not (run_folder / ".bula").exists()
    # The other outputs are still those of the lock.
    assert "nothing was uploaded" in publish("--dry-run", "--part", "gguf")
    # The adapter's folder has the tokenizer of the merged model.
    assert "models/merged is not the output" in publish("--dry-run", "--part", "adapter")


def test_parameters_that_differ_from_the_lock_are_refused(run_folder: Path) -> None:
    edit_run(run_folder, lambda params: params.update(seed=7))
    assert "dvc.lock: seed is modified" in publish("--dry-run", "--part", "adapter").replace(
        "params.yaml ", ""
    )


def test_uncommitted_changes_are_said_and_stop_an_upload(run_folder: Path) -> None:
    with (run_folder / "CITATION.cff").open("a", encoding="utf-8") as file:
        file.write("# A comment.\n")
    output = publish("--dry-run", "--part", "adapter")
    assert "before an upload: tracked files differ from the git commit" in output
    card = (run_folder / ".bula/publish/adapter/README.md").read_text(encoding="utf-8")
    assert "with changes that are not committed" in card
    found = publish("--repo-id", "maria/bula", "--part", "adapter")
    assert "tracked files differ from the git commit" in found


def private_source(changes: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """Return an edit that adds a source of a hospital."""
    source = {
        "kind": "files",
        "name": "hospital",
        "path": "data/sources/hospital.jsonl",
        "encoding": "utf-8",
        "columns": {"question": "q", "answer": "a", "specialty": "s", "kind": "k"},
        "filter": {},
        "limit": 0,
        "role": "split",
        "license": "cc-by-4.0",
        "redistribution": "allowed",
        "names": "removed",
        **changes,
    }
    return lambda params: params["ingest"]["sources"].append(source)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"license": "proprietary", "redistribution": "forbidden"}, "redistribution: forbidden"),
        ({"names": "present", "names_waiver": True}, "names: present"),
    ],
)
def test_private_rows_are_refused_and_weights_need_leave(
    changes: dict[str, Any], reason: str, run_folder: Path
) -> None:
    edit_run(run_folder, private_source(changes))
    found = publish("--dry-run")
    assert f"dataset: the source hospital is private ({reason}" in found
    assert f"adapter: the private source hospital ({reason}" in found
    leave = publish("--dry-run", "--allow-weights", "hospital")
    assert "dataset: the source hospital is private" in leave
    assert "adapter: the private source" not in leave
    weights = ("--part", "adapter", "--allow-weights", "hospital")
    assert "private" not in publish("--dry-run", *weights)
    assert not (run_folder / ".bula/publish/dataset").exists()
    shown = f"a private source ({changes.get('license', 'cc-by-4.0')})"
    for part in ("adapter", "merged", "gguf"):
        folder = prepare_part(part).folder
        files = [file for file in folder.rglob("*") if file.is_file()]
        assert not any(b"hospital" in file.read_bytes() for file in files)
        assert shown in (folder / "README.md").read_text(encoding="utf-8")
        assert f"demo (cc-by-4.0)\n{shown}\n" in (folder / "NOTICE").read_text(encoding="utf-8")


def test_the_notice_of_the_base_model_stays(run_folder: Path) -> None:
    edit_run(run_folder, private_source({"redistribution": "forbidden"}))
    file = run_folder / "models/adapter/NOTICE"
    received = NOTICE_OF_BASE + b"Made by owner.\n"
    file.write_bytes(file.read_bytes() + received)
    assert (prepare_part("adapter").folder / "NOTICE").read_bytes().endswith(received)
    file.write_bytes(b"hospital\n" + file.read_bytes())
    with pytest.raises(UserError, match=r"it does not start with the notice of params\.yaml"):
        prepare_part("adapter")


def test_a_private_hub_source_has_no_id_in_the_card(run_folder: Path) -> None:
    def edit(params: dict[str, Any]) -> None:
        source = {
            "kind": "hub",
            "name": "hospital",
            "id": "hospital/notes",
            "revision": "b" * 40,
            "subset": "default",
            "split": "train",
            "columns": {"question": "q", "answer": "a", "specialty": "", "kind": ""},
            "filter": {},
            "limit": 0,
            "role": "split",
            "license": "other",
            "redistribution": "forbidden",
        }
        params["ingest"]["sources"].append(source)

    edit_run(run_folder, edit)
    folder = prepare_part("merged").folder
    texts = [(folder / name).read_text(encoding="utf-8") for name in ("README.md", "NOTICE")]
    assert not any("hospital" in text for text in texts)
    assert all("a private source (other)" in text for text in texts)


def test_a_source_with_its_own_remote_is_private(run_folder: Path) -> None:
    edit_run(run_folder, private_source({}))
    file = run_folder / "data/sources/hospital.jsonl.dvc"
    file.parent.mkdir()
    YAML().dump({"outs": [{"path": "hospital.jsonl", "remote": "rows"}]}, file)
    expected = "the source hospital is private (its .dvc file sends it only to the remote rows)"
    assert expected in publish("--dry-run", "--part", "dataset")


def test_leave_for_an_unknown_source_is_refused(run_folder: Path) -> None:
    found = publish("--dry-run", "--part", "adapter", "--allow-weights", "hospitl")
    assert "--allow-weights hospitl: no private source has this name" in found


def test_a_base_whose_license_is_closed_is_refused(run_folder: Path) -> None:
    base = {**LLAMA, "id": "owner/model", "license": "cc-by-nc-nd-4.0"}
    edit_run(run_folder, lambda params: params["ingest"].update(base=base))
    found = publish("--dry-run", "--part", "merged")
    assert "merged: the license of the base model (cc-by-nc-nd-4.0) does not allow" in found


# Documents


def test_the_templates_are_in_the_repository() -> None:
    names = {path.name for path in (ROOT / "templates/cards").iterdir()}
    assert {"model.md.jinja", "dataset.md.jinja", "people.md.jinja"} <= names
