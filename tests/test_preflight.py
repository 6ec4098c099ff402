"""Check that `bula preflight` finds faults of files and machine, and lists all at once."""

import hashlib
import json
import shutil
import time
from collections import namedtuple
from functools import partial
from pathlib import Path

import pytest
from dvc.data_cloud import DataCloud
from ruamel.yaml import YAML

from bench.clones import ROOT, edit_params, git
from bula.commands.preflight_done import (
    DEVICE_STAGES,
    DEVICE_VARIANT_STAGES,
    MODEL_STAGES,
    PREFER,
    done_stages,
)
from bula.commands.preflight_plan import output_bytes
from bula.commands.preflight_remotes import remote_checks
from bula.errors import UserError
from bula.params import load_params
from bula.preflight import machine
from bula.preflight.checks import Check, NotCheckedError, run_checks
from tests.conftest import run
from tests.preflight_folder import (
    Params,
    closed_port,
    edit,
    faults,
    make_folder,
    point_judge_to,
    preflight,
    set_key,
)

GB = 10**9
# A shape that both sides of a comparison know: 1,024 weights in base, 256 in the decoder's layers.
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 1000,
    "tie_word_embeddings": True,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small repository as the current directory."""
    return make_folder(tmp_path, monkeypatch)


# --- faults of files and names -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "key", "message"),
    [
        (
            "calibrate.gold",
            "data/demo/golds.jsonl",
            "calibrate.gold",
            "data/demo/golds.jsonl: it does not exist. correct calibrate.gold in params.yaml",
        ),
        (
            "safety.labels",
            "data/demo/none.jsonl",
            "safety.labels",
            "data/demo/none.jsonl: it does not exist. correct safety.labels",
        ),
        (
            "variants.tuned.model",
            "models/mergd",
            "variants.tuned.model",
            "models/mergd: it does not exist. no stage writes it: name models/base, ",
        ),
        (
            "ingest.base",
            {"kind": "directory", "path": "elsewhere", "license": "mit"},
            "ingest.base",
            "elsewhere: it does not exist",
        ),
        (
            "train.launch",
            "many",
            "train.launch",
            "accelerate/many.yaml: the file does not exist. set train.launch",
        ),
        (
            "train.launch",
            "gpu",
            "train.launch",
            "whose file takes a GPU, but device is cpu",
        ),
    ],
)
def test_a_path_that_leads_nowhere_is_a_fault(
    folder: Path, path: str, value: object, key: str, message: str
) -> None:
    edit(partial(set_key, path, value))
    found = faults("--offline")
    assert list(found) == [key]
    assert message in found[key]


def test_the_judge_of_the_stage_models_may_be_a_variant(folder: Path) -> None:
    edit(lambda params: set_key("variants.quantized.model", "models/judge/judge.gguf", params))
    assert not [key for key in faults("--offline") if key.endswith(".model")]


def test_a_task_with_a_typing_error_is_a_fault(folder: Path) -> None:
    def change(params: Params) -> None:
        params["benchmark"]["tasks"][1] = "bula_medqa_4option"

    edit(change)
    message = "benchmark.tasks names bula_medqa_4option, neither in tasks/ nor a reviewed task"
    assert message in faults("--offline")["benchmark.tasks"]


def test_reviewed_tasks_of_lm_eval_are_known(folder: Path) -> None:
    edit(partial(set_key, "benchmark.tasks", ["medmcqa", "bula_contrast"]))
    assert faults("--offline") == {}


def test_items_that_ingest_does_not_write_are_a_fault(folder: Path) -> None:
    def change(params: Params) -> None:
        del params["ingest"]["benchmarks"][0]

    edit(change)
    assert "writes the items of bula_medmcqa" in faults("--offline")["benchmark.tasks"]


def test_terms_without_consent_are_a_fault_in_one_language(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BULA_ACCEPT_GEMMA_TERMS", raising=False)
    base = {"kind": "hub", "id": "google/gemma-3-270m", "revision": "0" * 40, "license": "gemma"}
    edit(partial(set_key, "ingest.base", base))
    text = faults("--offline")["ingest.base"]
    start = "google/gemma-3-270m: its license asks for your consent: Gemma Terms of Use\n"
    assert text.startswith(start)
    assert "passes on these restrictions" in text
    assert "repassa" not in text
    assert "set BULA_ACCEPT_GEMMA_TERMS=1" in text


def test_a_gate_on_no_figure_is_a_fault(folder: Path) -> None:
    def change(params: Params) -> None:
        params["review"]["gates"][0]["figure"] = "tuned.bits_per_char"

    edit(change)
    message = "no such figure as tuned.bits_per_char (did you mean tuned.bits_per_character?)"
    assert message in faults("--offline")["review.gates"]


def test_variants_that_dvc_yaml_does_not_list_are_a_fault(folder: Path) -> None:
    text = (folder / "dvc.yaml").read_text(encoding="utf-8")
    edit(lambda params: params["variants"].pop("quantized") and params["compare"]["pairs"].pop())
    (folder / "dvc.yaml").write_text(text, encoding="utf-8")
    assert "run `python -m bula deps --write`" in faults("--offline")["variants"]
    shutil.copy(folder / "params.yaml", folder / "profile.yaml")
    assert faults("--offline", "--params", "profile.yaml") == {}


def test_a_bad_value_stops_before_any_check(folder: Path) -> None:
    edit(partial(set_key, "train.learning_rate", -1))
    result = preflight()
    assert isinstance(result.exception, UserError)
    assert "train.learning_rate: Input should be greater than 0" in str(result.exception)


def test_a_profile_is_checked_by_its_name(folder: Path) -> None:
    (folder / "profiles").mkdir()
    (folder / "params.yaml").rename(folder / "profiles/mine.yaml")
    edit_params(
        folder / "profiles/mine.yaml", lambda params: params["calibrate"].update(gold="none.jsonl")
    )
    assert "calibrate.gold" in faults("--profile", "mine", "--offline")
    wrong = preflight("--profile", "other")
    assert wrong.exit_code != 0
    assert isinstance(wrong.exception, UserError)
    assert "name one of mine" in str(wrong.exception).lower()


def test_two_faults_are_listed_at_once_with_their_fixes(folder: Path) -> None:
    edit(partial(set_key, "calibrate.gold", "data/demo/golds.jsonl"))
    edit(partial(set_key, "variants.base.model", "models/bases"))
    result = preflight("--offline")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0] == "  1. variants.base.model: models/bases: it does not exist"
    assert lines[2] == "  2. calibrate.gold: data/demo/golds.jsonl: it does not exist"
    assert lines[3] == "     Correct calibrate.gold in params.yaml, or run `dvc pull`."
    assert lines[4].startswith("preflight: 2 faults, ")


# --- time limits ----------------------------------------------------------------------------------


def test_slow_hosts_cost_one_time_limit_together() -> None:
    def wait() -> str:
        time.sleep(30)
        return "too late"

    def answer() -> str:
        return "here"

    checks = [Check(f"slow {number}", "host", wait, True, 2.0) for number in range(5)]
    checks.insert(2, Check("quick", "host", answer, True, 2.0))
    started = time.monotonic()
    outcomes = run_checks(checks)
    # In turn they cost five limits.
    assert time.monotonic() - started < 8
    assert [outcome.state for outcome in outcomes] == [*["fault"] * 2, "passed", *["fault"] * 3]
    assert outcomes[0].text == "host: no answer in 2 s"


def test_a_bug_in_a_check_is_no_fault_of_the_user() -> None:
    def fail() -> str:
        raise ZeroDivisionError

    for network in (True, False):
        with pytest.raises(ZeroDivisionError):
            run_checks([Check("key", "bug", fail, network)])


def test_an_unknown_thing_is_neither_passed_nor_a_fault() -> None:
    def skip() -> str:
        raise NotCheckedError("not here yet")

    [outcome] = run_checks([Check("key", "thing", skip)])
    assert (outcome.state, outcome.text) == ("not checked", "not here yet")


# --- the machine -------------------------------------------------------------------------------


def test_a_package_that_an_option_needs_is_a_fault(folder: Path) -> None:
    edit(partial(set_key, "compute.tracker", "wandb"))
    found = faults("--offline")
    assert found == {"compute.tracker": "wandb: the package is not installed. install it with pip"}


@pytest.fixture
def fetched(folder: Path) -> Path:
    """Return the folder after the stage models, as dvc.lock records it."""
    (folder / "models/base").mkdir(parents=True)
    (folder / "models/base/config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    for name in ("judge", "encoder"):
        (folder / "models" / name).mkdir()
    lock(folder, "models", ("ingest.base", "ingest.judge", "ingest.chat_template", "dtype"))
    return folder


def lock(folder: Path, stage: str, keys: tuple[str, ...], *files: str) -> None:
    """Record in dvc.lock that a stage ran with the present parameters and files."""
    values = YAML(typ="safe").load(folder / "params.yaml")
    recorded = {}
    for key in keys:
        found = values
        for part in key.split("."):
            found = found[part]
        recorded[key] = found
    file = folder / "dvc.lock"
    content: Params = {"schema": "2.0", "stages": {}}
    if file.exists():
        content = YAML(typ="safe").load(file)
    content["stages"][stage] = {
        "deps": [{"path": name, "md5": md5_of(folder / name)} for name in files],
        "params": {"params.yaml": recorded},
    }
    YAML(typ="safe").dump(content, file)


def md5_of(file: Path) -> str:
    """Return the MD5 of a file."""
    return hashlib.md5(file.read_bytes()).hexdigest()


@pytest.fixture
def finished(fetched: Path) -> Path:
    """Return the folder after a run on a GPU with two judges at an address."""
    point_judge_to("https://api.openai.com/v1")
    prices = {"usd_per_million_input": 0.0, "usd_per_million_output": 0.0, "max_usd": 0.0}
    second = {"model": "judge-2", "base_url": "https://api.openai.com/v1"}
    edit(partial(set_key, "judge.second", {**second, **prices}))
    edit(partial(set_key, "device", "cuda"))
    edit(partial(set_key, "train.launch", "gpu"))
    for stage, paths in MODEL_STAGES.items():
        lock(fetched, stage, ("dtype",))
        for path in paths:
            (fetched / path).mkdir(parents=True, exist_ok=True)
    for stage in ("check", "dry_run", "bertscore_controls"):
        lock(fetched, stage, ("device",))
    lock(fetched, "calibrate", ("judge",), "data/demo/gold.jsonl")
    for name in ("base", "tuned", "quantized"):
        for stage in ("likelihood", "generate", "safety", "benchmark", "bertscore"):
            lock(fetched, f"{stage}@{name}", ("device", f"variants.{name}"))
        lock(fetched, f"judge@{name}", ("judge",))
    return fetched


def open_keys() -> tuple[set[str], set[str]]:
    """Return the keys of faults, and those whose stages are finished."""
    found = json.loads(preflight("--json", "--offline").stdout)
    skipped = [item for item in found["not_checked"] if item["text"] == "its stages are finished"]
    return {item["key"] for item in found["faults"]}, {item["key"] for item in skipped}


def test_finished_stages_need_neither_judge_nor_gpu(finished: Path) -> None:
    judges = {"judge.base_url", "judge.second.base_url"}
    assert open_keys() == (set(), {"device", *judges})
    # Another judge scores the answers again, but needs no GPU.
    edit(partial(set_key, "judge.model", "judge-3"))
    assert open_keys() == (judges, {"device"})


def test_answers_without_verdicts_need_only_the_first_judge(finished: Path) -> None:
    content = YAML(typ="safe").load(finished / "dvc.lock")
    del content["stages"]["judge@tuned"]
    YAML(typ="safe").dump(content, finished / "dvc.lock")
    assert open_keys() == ({"judge.base_url"}, {"device", "judge.second.base_url"})


def test_changed_gold_answers_need_the_judges(finished: Path) -> None:
    with (finished / "data/demo/gold.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n")
    assert open_keys() == ({"judge.base_url", "judge.second.base_url"}, {"device"})


def test_device_stages_are_those_of_dvc_yaml() -> None:
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    listed = {
        name for name, stage in stages.items() if "device" in stage.get("do", stage)["params"]
    }
    # The stage compare only writes the device into the report.
    assert listed - {"compare"} == {*DEVICE_STAGES, *DEVICE_VARIANT_STAGES, PREFER}


def test_fetched_models_need_no_index(fetched: Path) -> None:
    assert faults() == {}


def test_a_machine_without_a_gpu_is_a_fault(fetched: Path) -> None:
    edit(partial(set_key, "device", "cuda"))
    edit(partial(set_key, "train.launch", "gpu"))
    found = json.loads(preflight("--json").stdout)
    [fault] = found["faults"]
    assert fault["text"].startswith("device is cuda, but torch")
    assert [item["text"] for item in found["not_checked"]] == ["torch finds no GPU"]


def test_another_model_is_asked_for_again(fetched: Path) -> None:
    edit(partial(set_key, "ingest.base.version", "0.1.1"))
    assert set(faults()) == {"ingest.base", "ingest.judge"}


def test_too_little_memory_is_a_fault(fetched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda: GB // 10)
    monkeypatch.setattr("bula.commands.preflight_plan.free_memory", lambda: GB // 10)
    message = faults()["train"]
    assert "GB of memory by `bula plan`, and 0.1 GB are free" in message
    assert "lower train.batch_size" in message


@pytest.mark.parametrize(("tokens", "is_fault"), [(2047, False), (2048, True)])
def test_an_answer_that_fills_the_context_is_a_fault(
    fetched: Path, tokens: int, is_fault: bool
) -> None:
    config = {**CONFIG, "max_position_embeddings": 2048}
    (fetched / "models/base/config.json").write_text(json.dumps(config), encoding="utf-8")
    edit(partial(set_key, "generate.max_new_tokens", tokens))
    message = "an answer may have 2048 tokens, and question and answer together 2048"
    assert (message in faults().get("generate.max_new_tokens", "")) == is_fault


def test_a_measure_with_a_typing_error_is_a_fault(folder: Path) -> None:
    edit(partial(set_key, "compare.primary", ["rougel"]))
    assert "compare.primary has 'rougel'" in faults("--offline")["compare.primary"]


def test_a_finished_training_needs_no_memory(
    fetched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bula.commands.preflight_plan.free_memory", lambda: 0)
    for path in ("data/raw", "data/benchmarks", "data/clean", "models/adapter"):
        (fetched / path).mkdir(parents=True)
    lock(fetched, "ingest", ("ingest.sources",))
    lock(fetched, "preprocess", ("preprocess",))
    lock(fetched, "train", ("train",))
    done = done_stages(fetched / "params.yaml", fetched)
    assert done == {"models", "ingest", "preprocess", "train"}
    assert "train" not in faults()
    edit(partial(set_key, "train.learning_rate", 0.5))
    assert done_stages(fetched / "params.yaml", fetched) == {"models", "ingest", "preprocess"}
    assert "train" in faults()


def test_a_full_disk_is_a_fault(fetched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10_000))
    message = faults()["quantize.types"]
    assert "the run writes about 0.0 GB, and 0.0 GB are free" in message
    assert "make room (`dvc gc --workspace`" in message


def test_the_bytes_of_outputs_are_counted_with_the_copies_of_dvc(fetched: Path) -> None:
    from bula.training_cost import count_shape

    params = load_params()
    shape = count_shape(CONFIG, params.train)
    # Per layer: attention 64 x (64 + 32 + 32 + 64), MLP 3 x 64 x 128, two norms of 64.
    layer = 64 * (64 + 32 + 32 + 64) + 3 * 64 * 128 + 2 * 64
    base = 64 * 1000 + 2 * layer + 64
    assert shape.base == base
    # 16-bit weights in models/base and models/merged; the GGUF file has 144 bytes per 256 weights
    # (q4_k), and its head, which is the embedding, has 210 (q6_k). DVC copies all of them. The
    # stage quantize deletes a 16-bit file of matrices.
    linear = 2 * (layer - 2 * 64)
    head = 64 * 1000
    kept = linear * 144 / 256 + head * 210 / 256
    deleted = 2 * (linear + head)
    assert output_bytes(params, shape, set()) == pytest.approx(2 * (4 * base + kept) + deleted)
    done = {"models", "ingest", "preprocess", "train", "merge"}
    assert output_bytes(params, shape, done) == pytest.approx(2 * kept + deleted)


def test_the_limit_of_a_container_is_a_limit_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "MEMORY_LIMIT", tmp_path / "memory.max")
    unlimited = machine.free_memory()
    assert unlimited > GB // 10
    (tmp_path / "memory.max").write_text("max\n", encoding="ascii")
    assert machine.free_memory() > GB // 10
    (tmp_path / "memory.max").write_text("1000\n", encoding="ascii")
    assert machine.free_memory() == 1000


# --- DVC remotes -------------------------------------------------------------------------------


def test_dvc_remotes_are_asked_only_on_demand(folder: Path) -> None:
    point_judge_to("https://api.openai.com/v1")
    git(folder, "init", "--quiet")
    port = closed_port()
    assert run(["dvc", "init", "--quiet"], folder).returncode == 0
    for name, url in (("good", folder / "store"), ("web", f"http://127.0.0.1:{port}/x")):
        assert run(["dvc", "remote", "add", name, str(url)], folder).returncode == 0
    offline = json.loads(preflight("--json", "--offline").stdout)
    assert not [item for item in offline["not_checked"] if "remote" in item["name"]]
    result = json.loads(preflight("--json", "--remote").stdout)
    remotes = [item for item in result["faults"] if item["key"] == "--remote"]
    assert [item["name"] for item in remotes] == ["DVC remote web"]
    assert "remote web: it cannot be reached" in remotes[0]["text"]
    assert not [file for file in (folder / "store").rglob("*") if file.is_file()]


def test_remotes_that_are_asked_at_once_open_the_index_of_dvc_in_turn(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(folder, "init", "--quiet")
    assert run(["dvc", "init", "--quiet"], folder).returncode == 0
    for name in ("one", "two", "three"):
        store = str(folder / "store")
        assert run(["dvc", "remote", "add", name, store], folder).returncode == 0
    inside: list[str] = []
    most = 0
    open_remote = DataCloud.get_remote_odb

    def slow_open(cloud: DataCloud, name: str, *arguments: str) -> object:
        nonlocal most
        inside.append(name)
        most = max(most, len(inside))
        time.sleep(0.05)
        found = open_remote(cloud, name, *arguments)
        inside.remove(name)
        return found

    monkeypatch.setattr(DataCloud, "get_remote_odb", slow_open)
    outcomes = run_checks(remote_checks(folder))
    assert [outcome.state for outcome in outcomes] == ["passed"] * 3
    assert most == 1


def test_a_remote_that_stores_nothing_is_a_fault(folder: Path) -> None:
    git(folder, "init", "--quiet")
    assert run(["dvc", "init", "--quiet"], folder).returncode == 0
    assert run(["dvc", "remote", "add", "full", str(folder / "store")], folder).returncode == 0
    # Root may write to every folder, but no file replaces a folder.
    target = folder / "store/files/bula-write-check"
    target.mkdir(parents=True)
    [check] = remote_checks(folder)
    with pytest.raises(UserError, match=r"remote full: it refuses to store an object \("):
        check.run()
    target.rmdir()
    assert check.run() == "it stores objects"
    assert not target.exists()
