"""Test the times of all stages against values worked out by hand."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.clones import ROOT
from bula import run_cost
from bula.commands import plan as plan_command
from bula.errors import UserError
from bula.params import Params, SecondJudge, Variant, load_params
from bula.rates import ASSUMPTIONS, GPUS, assumed
from bula.run_cost import Asked, Card, Run, StageTime
from bula.training_cost import Shape, count_shape, make_plan
from tests.test_training_cost import LLAMA, ONE_PROCESS, ROWS

SHAPE = Shape(
    base=1000,
    adapter=10,
    linear=600,
    largest_layer=300,
    head=80,
    first_linear=100,
    first_adapter=5,
    layers=2,
    hidden=8,
    queries=8,
    keys=4,
    heads=2,
    mlp=16,
    vocabulary=10,
    adapted=(),
)
# So slow that neither launches nor Python count.
SLOW = Card(flops=100.0, bandwidth=100.0)
# So fast that only launches and Python count.
FAST = Card(flops=1e30, bandwidth=1e30)


def params_with(**sections: dict[str, Any]) -> Params:
    """Return the GPU profile with other values."""
    params = load_params(ROOT / "profiles/llama-3.2-1b.yaml")
    updates = {
        name: getattr(params, name).model_copy(update=values) for name, values in sections.items()
    }
    return params.model_copy(update=updates)


def run_on(card: Card, **generate: Any) -> Run:
    """Return a run that answers 2 questions per set with 8 tokens."""
    limits = {"items_per_set": 2, "max_new_tokens": 8, **generate}
    return Run(params_with(generate=limits), SHAPE, ROWS, 100, card)


# --- parts -------------------------------------------------------------------------------------


def test_forward_flops_by_hand() -> None:
    # 2 x 600 weights, and 2 x 6 tokens x 8 wide x 2 layers; 2 x 80 for each token of the head.
    assert run_cost.forward_flops(SHAPE, 10, 3, 6) == (1200 + 192) * 10 + 160 * 3


def test_cached_keys_and_values_by_hand() -> None:
    # Keys and values of 2 bytes, 4 wide, in 2 layers.
    assert run_cost.cache_bytes(SHAPE, 5) == 2 * 2 * 4 * 2 * 5


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # A block of Q4_K has 144 bytes for 256 weights, one of Q6_K 210, one of Q8_0 34 for 32.
        ("q4_k_m", 600 * 144 / 256 + 80 * 210 / 256),
        ("q8_0", 680 * 34 / 32),
        ("bf16", 680 * 2),
    ],
)
def test_bytes_of_a_gguf_file_by_hand(kind: str, expected: float) -> None:
    assert run_cost.gguf_bytes(SHAPE, kind) == expected


@pytest.mark.parametrize(
    ("kind", "size"), [("q4_k_m", 807_691_008), ("q8_0", 1_321_079_552), ("bf16", 2_479_592_192)]
)
def test_bytes_of_llamas_files_are_nearly_the_measured_ones(kind: str, size: int) -> None:
    shape = count_shape(LLAMA, params_with().train)
    assert run_cost.gguf_bytes(shape, kind) == pytest.approx(size, rel=0.06)


# --- stages ------------------------------------------------------------------------------------


def test_likelihood_scores_all_rows_or_the_first() -> None:
    run = run_on(SLOW)
    # 5 sets x 100 rows x 6 tokens, half of them supervised.
    flops = (1200 + 192) * 3000 + 160 * 1500
    for items_per_set, worth, share in ((0, 0, 1), (10, 0, 0.1), (10, 5, 0.15), (10, 20, 0.2)):
        limits = {"items_per_set": items_per_set, "worth_items_per_set": worth}
        some = run._replace(params=params_with(likelihood=limits))
        found = run_cost.likelihood(some, "base").card_seconds
        assert found == pytest.approx(flops * share / 100)


def prompt_seconds() -> float:
    """Return the time of 10 prompts of 3 tokens, whose last token has logits, on SLOW."""
    return ((1200 + 2 * 3 * 8 * 2) * 30 + 160 * 10) / 100


def asked(stage: str) -> Asked:
    """Return 10 questions with answers of 8 tokens."""
    return Asked(stage, 10, 8)


def test_vllm_reads_the_weights_once_per_step_of_all_answers() -> None:
    found = run_cost.generate_by_vllm(run_on(SLOW, parallel=4), asked("generate@base"))
    # 10 answers in 3 rounds of 8 steps; a cache holds 3 + 4 tokens of 32 bytes on average.
    step = (2 * 1000 + 4 * 7 * 32) / 60 + 0.003
    assert found.seconds == pytest.approx(90 + prompt_seconds() + 24 * step)
    assert found.card_seconds == pytest.approx(prompt_seconds() + 24 * (step - 0.003))


def test_steps_of_transformers_wait_for_python() -> None:
    found = run_cost.generate_by_transformers(run_on(FAST, batch_size=10), asked("generate@base"))
    # 8 steps of 2 layers of 1.5 ms, in which 2 x 30 kernels of 2 us run.
    assert found.seconds == pytest.approx(20 + 8 * 0.003)
    assert found.card_seconds == pytest.approx(8 * 60 * 2e-6)


@pytest.mark.parametrize(
    ("generate", "token"),
    [
        # 3 layers with the head, 16 kernels of 2 us each; the host needs 1 ms.
        ({"gpu_layers": "all", "gpu_servers": 1}, 0.000096 + 0.001),
        ({"gpu_layers": "all", "gpu_servers": 4}, (0.000096 + 0.001) / 4),
        # The servers take turns on the GPU.
        ({"gpu_layers": "all", "gpu_servers": 64}, 0.000096),
        # 600 bytes at 50 GB/s.
        ({"gpu_layers": 0, "gpu_servers": 8}, 0.001 + 600 / 50e9),
        # One of three layers on the GPU.
        ({"gpu_layers": 1, "gpu_servers": 1}, 0.000032 + 0.001 + 400 / 50e9),
    ],
    ids=["one server", "four servers", "many servers", "on the host", "one layer"],
)
def test_llama_cpp_servers_take_turns_on_the_gpu(generate: dict[str, Any], token: float) -> None:
    run = run_on(FAST, parallel=64, **generate)
    found = run_cost.generate_by_llama_cpp(run, asked("generate@quantized"), 600.0)
    # 10 answers of 8 tokens.
    assert found.seconds == pytest.approx(20 + 80 * token)


def test_the_engine_of_a_variant_selects_the_formula() -> None:
    run = run_on(SLOW)
    model = "models/merged"
    vllm = run_cost.generate(run, "x", Variant(model=model, engine="vllm"))
    assert vllm == run_cost.generate_by_vllm(run, asked("generate@x"))
    slow = run_cost.generate(run, "x", Variant(model=model, engine="transformers"))
    assert slow == run_cost.generate_by_transformers(run, asked("generate@x"))
    file = Variant(model="models/gguf/q8_0.gguf", engine="llama.cpp")
    kept = run.params.quantize.model_copy(update={"types": ["q8_0"]})
    run = run._replace(params=run.params.model_copy(update={"quantize": kept}))
    found = run_cost.generate(run, "x", file)
    assert found == run_cost.generate_by_llama_cpp(run, asked("generate@x"), 680 * 34 / 32)
    elsewhere = run_cost.generate(run, "x", Variant(model=model, engine="openai"))
    assert (elsewhere.stage, elsewhere.seconds) == ("generate@x", 0)
    assert "another machine" in elsewhere.reason


def test_safety_answers_the_questions_of_four_slices() -> None:
    limits = {"items_per_slice": 3, "max_new_tokens": 5}
    params = params_with(safety=limits, generate={"batch_size": 10})
    variant = Variant(model="models/merged", engine="transformers")
    found = run_cost.safety(run_on(FAST)._replace(params=params), "tuned", variant)
    # 12 questions are 2 batches of 5 steps of 2 layers of 1.5 ms.
    assert found.stage == "safety@tuned"
    assert found.seconds == pytest.approx(20 + 2 * 5 * 0.003)


def test_benchmark_counts_the_items_of_known_tasks() -> None:
    tasks = ["medqa_4options", "bula_medmcqa"]
    params = params_with(benchmark={"tasks": tasks, "limit": 10})
    found = run_cost.benchmark(run_on(SLOW)._replace(params=params), "base")
    # 10 items x 4 options x 220 tokens, and one token of the head per request.
    flops = (1200 + 2 * 220 * 8 * 2) * 8800 + 160 * 40
    assert found.card_seconds == flops / 100
    assert found.reason.startswith("medqa_4options: ")


def test_a_variant_of_the_same_model_takes_over_its_benchmark_scores() -> None:
    found = run_cost.benchmark(run_on(SLOW), "prompted")
    start = assumed("start_seconds") + assumed("lm_eval_start_seconds")
    assert found[:3] == ("benchmark@prompted", start, 0.0)
    assert found.reason == "the scores of base"


def test_judge_calls_by_hand() -> None:
    settings = {"items_per_set": 4, "parallel": 6}
    gold = {"items": 12, "attack_items": 6, "repeat_items": 20, "repeats": 3}
    params = params_with(judge=settings, calibrate=gold)
    found = run_cost.judge(run_on(SLOW)._replace(params=params))
    # 4 variants x 5 sets x 4 answers, 12 gold answers three times, and 6 attacks: 122 calls of 3 s,
    # 6 at a time.
    assert (found.seconds, found.card_seconds) == (61, 0)
    second = SecondJudge(
        model="other",
        base_url="http://localhost:1/v1",
        usd_per_million_input=0.0,
        usd_per_million_output=0.0,
        max_usd=0.0,
    )
    params = params_with(judge=settings | {"second": second}, calibrate=gold)
    # The second judge scores the gold answers and attacks only: 42 calls more.
    assert run_cost.judge(run_on(SLOW)._replace(params=params)).seconds == 82


@pytest.mark.parametrize(
    ("kernels", "card"), [(0, 60), (50e6, 100), (200e6, 300)], ids=["FLOPs", "kernels", "all"]
)
def test_the_gpu_idles_while_train_waits_for_launches(kernels: float, card: float) -> None:
    # 300 s, of which FLOPs take 60 s and each kernel at least 2 us.
    found = run_cost.train(run_on(SLOW), 300, 60, kernels)
    assert (found.seconds, found.card_seconds) == (320, card)


def test_a_local_judge_is_not_counted() -> None:
    params = params_with(judge={"base_url": "local"})
    found = run_cost.judge(run_on(SLOW)._replace(params=params))
    assert found == StageTime("judge", 0, 0, "not counted: the judge is local")


def test_quantize_searches_all_types_but_q8_0() -> None:
    run = run_on(SLOW)
    params = params_with(quantize={"types": ["q8_0", "q4_k_m", "q5_k_m"]})
    found = run_cost.quantize(run._replace(params=params))
    # 2 types of 1,000 weights on 8 cores.
    assert found.seconds == pytest.approx(20 + 2000 / 1.5e6 / 8)


# --- the run -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def profile_on_h100() -> list[StageTime]:
    """Return the times of the GPU profile on an H100, at rows of 300 tokens."""
    params = params_with()
    rows = ROWS._replace(tokens_per_row=300.0, supervised_share=0.7, dev_tokens=300_000.0)
    devices = plan_command.choose_devices(["h100"], params, None)
    made = make_plan(params, ("test", LLAMA), rows, ONE_PROCESS, devices, 0.4)
    card = Card(GPUS["h100"].bfloat16 * 0.4, GPUS["h100"].bandwidth)
    run = Run(params, count_shape(LLAMA, params.train), rows, 1000, card)
    device = made["devices"]["h100"]
    launches = made["run"]["kernel_launches"]
    hours = (device["hours"] * 3600, device["compute_hours"] * 3600)
    return run_cost.stage_times(run, run_cost.train(run, *hours, launches))


def test_every_stage_of_the_pipeline_has_a_time(profile_on_h100: list[StageTime]) -> None:
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    planned = {
        name.partition("@")[0] for time in profile_on_h100 for name in time.stage.split(", ")
    }
    # No profile has an entry of prefer (tests/test_preference_cost.py).
    assert planned == set(stages) - {"check", "prefer"}
    for stage in ("likelihood", "generate", "safety", "benchmark"):
        variants = [time for time in profile_on_h100 if time.stage.startswith(f"{stage}@")]
        assert len(variants) == 4


def test_the_profile_takes_at_most_90_minutes_on_paper(profile_on_h100: list[StageTime]) -> None:
    seconds = sum(time.seconds for time in profile_on_h100)
    busy = sum(time.card_seconds for time in profile_on_h100)
    assert seconds <= 90 * 60
    assert busy > 0.5 * seconds
    assert all(time.card_seconds <= time.seconds for time in profile_on_h100)


def test_every_assumption_is_used_and_explained() -> None:
    sources = [ROOT / "bula/run_cost.py", ROOT / "bula/training_cost.py"]
    sources.append(ROOT / "bula/commands/plan.py")
    text = "".join(source.read_text(encoding="utf-8") for source in sources)
    assert [name for name in ASSUMPTIONS if f'"{name}"' not in text] == []
    assert all(assumed(name) > 0 and reason for name, (_, reason) in ASSUMPTIONS.items())


def test_a_gguf_file_from_elsewhere_counts_with_its_own_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = run_on(FAST)
    for name in ("models/received.gguf", "models/gguf/q2_k_s.gguf"):
        with pytest.raises(UserError, match="the file does not exist, so the plan") as raised:
            run_cost.variant_bytes(run, name)
        assert raised.value.where == name
    Path("models").mkdir()
    Path("models/received.gguf").write_bytes(b"GGUF" * 10)
    assert run_cost.variant_bytes(run, "models/received.gguf") == 40.0


@pytest.mark.parametrize(
    ("limit", "train_limit", "rows", "amount"),
    [
        (50, 0, 50, "50 rows"),
        (0, 0, 0, "an unknown number of rows"),
        (0, 700, 700, "700 rows"),
        (50, 700, 50, "50 rows"),
    ],
)
def test_the_limit_of_an_unknown_data_set_stands_for_its_rows(
    limit: int, train_limit: int, rows: int, amount: str
) -> None:
    run = run_on(SLOW)
    source = run.params.ingest.sources[0]
    unknown = source.model_copy(update={"id": "clinic/rows", "limit": limit})
    params = params_with(ingest={"sources": [unknown]}, preprocess={"train_limit": train_limit})
    assert run_cost.hub_rows(params) == rows
    assert run_cost.preprocess(run._replace(params=params)).reason.startswith(f"{amount} on ")
