"""Tests of the plan of train for rows that share a prefix, and for masked or packed rows."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.clones import ROOT
from bula import hardware, training_cost
from bula.params import Params
from bula.shared_prefix import find_shared_prefix
from tests import test_training_cost as unshared
from tests.test_training_cost import ONE_PROCESS, ROWS, TINY, TINY_ADAPTER, TINY_LAYER, tiny_params

# Rows of 40 tokens that begin with the same 20.
SHARED_ROWS = ROWS._replace(tokens_per_row=40.0, tokens_longest=40, shared_tokens=20)
WEIGHTS = 2 * (TINY_LAYER + TINY_ADAPTER)


@pytest.fixture
def bfloat16_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU have a bfloat16 matmul."""
    monkeypatch.setattr(hardware, "has_bfloat16_matmul", lambda: True)
    monkeypatch.setattr(training_cost, "matmul_dtype", lambda dtype, place: torch.bfloat16)


def flops(
    params: Params, rows: training_cost.Rows, on_cpu: bool, totals: dict[str, float]
) -> dict[str, float]:
    """Return the FLOPs by part of the tiny model."""
    shape = training_cost.count_shape(TINY, params.train)
    return training_cost.flops(shape, params.train, rows, totals, on_cpu)


# --- shared prefix -----------------------------------------------------------------------------


def test_a_shared_prefix_is_computed_once_per_batch() -> None:
    params = tiny_params(eval_batch_size=4)
    totals = {"tokens": 1600.0, "supervised_tokens": 800.0, "dev_tokens": 160.0}
    found = flops(params, SHARED_ROWS, True, totals)
    # Two rows are 20 + 2 x 20 = 60 tokens instead of 80. Four dev rows are 100 instead of 160.
    computed = 1600 * 60 / 80
    dev_computed = 160 * 100 / 160
    # 4 x 20 pairs x 8 wide x 2 layers, for each token of the complete rows.
    attention = 1280
    expected = {
        "base": (4 * 2 * TINY_LAYER - 2 * 128) * computed,
        "adapter": (6 * 2 * TINY_ADAPTER - 2 * 48) * computed,
        "attention": 3.5 * attention * 1600,
        "head": 4 * 80 * 800,
        "recomputed": 0,
        "dev": 2 * WEIGHTS * dev_computed + (attention + 2 * 80 * 0.5) * 160,
    }
    assert found == expected | {"total": sum(expected.values())}


def test_recomputation_computes_the_prefix_once_too() -> None:
    params = tiny_params(gradient_checkpointing=True)
    totals = {"tokens": 80.0, "supervised_tokens": 40.0, "dev_tokens": 0.0}
    found = flops(params, SHARED_ROWS, True, totals)
    assert found["recomputed"] == 2 * WEIGHTS * 60 + 1280 * 80


@pytest.mark.parametrize(
    ("train", "on_cpu", "shared_tokens"),
    [
        ({}, False, 20),
        ({"kernels": "trl"}, True, 20),
        ({"packing": True}, True, 20),
        ({"batch_size": 1}, True, 20),
        # A shorter prefix is not shared.
        ({}, True, 15),
    ],
    ids=["GPU", "trl", "packing", "one row", "short"],
)
def test_the_prefix_is_computed_for_each_row(
    train: dict[str, Any], on_cpu: bool, shared_tokens: int
) -> None:
    params = tiny_params(**train)
    rows = SHARED_ROWS._replace(shared_tokens=shared_tokens)
    totals = {"rows": 2.0, "tokens": 80.0, "supervised_tokens": 40.0, "dev_tokens": 0.0}
    found = flops(params, rows, on_cpu, totals)
    assert found == flops(params, rows._replace(shared_tokens=0), on_cpu, totals)
    assert found["base"] == (4 * 2 * TINY_LAYER - 2 * 128) * 80
    shape = training_cost.count_shape(TINY, params.train)
    memory = training_cost.memory(shape, params, rows, ONE_PROCESS, on_cpu)
    without = rows._replace(shared_tokens=0)
    assert memory == training_cost.memory(shape, params, without, ONE_PROCESS, on_cpu)


@pytest.mark.usefixtures("bfloat16_cpu")
def test_memory_of_a_shared_prefix_by_hand() -> None:
    params = tiny_params()
    shape = training_cost.count_shape(TINY, params.train)
    found = training_cost.memory(shape, params, SHARED_ROWS, ONE_PROCESS, on_cpu=True)
    # Norms, gate and up, the adapters' inputs with their masks, low-rank values.
    values = 2 * 8 + 2 * 16 + 2 * (8 + 8 + 8 + 16) + 7 * 2
    # Two norms keep a float32 number each.
    around_attention = 2 * values + 2 * 4
    # Queries, keys, values and output; a float32 number per head.
    attention = 2 * (8 + 4 + 4 + 8) + 2 * 4
    # 60 tokens are computed, and attention has 80.
    assert found["activations"] == 2 * (around_attention * 60 + attention * 80)
    # The gradients of the last MLP exceed the head's 40 x 10 logits and hidden states.
    assert found["head_and_scratch"] == 60 * 2 * (3 * 16 + 8)


def shared_batch(padding: int = 0) -> dict[str, torch.Tensor]:
    """Return two rows of 40 tokens of which the first 18 are equal; 20 are supervised."""
    ids = torch.randint(0, 100, (2, 40))
    ids[:, :18] = ids[0, :18]
    ids[:, 18] = torch.tensor([1, 2])
    labels = ids.masked_fill(torch.arange(40) < 20, -100)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def test_torch_counts_the_flops_of_a_shared_prefix() -> None:
    params = unshared.changed(lora={"r": 4}, kernels="fused", batch_size=2)
    model = unshared.make_model(params, 2, torch.float32)
    batch = shared_batch()
    layout = find_shared_prefix(batch)
    assert layout is not None
    # torch's counter does not know addmm_, nor the CPU's attention, which is left out below.
    in_place = {torch.ops.aten.addmm_: unshared.addmm_flops}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        loss, _, count = model(**batch, answer_head=True)
        loss.backward()
    shape = training_cost.count_shape(unshared.small_config(2), params.train)
    rows = SHARED_ROWS._replace(shared_tokens=layout.length)
    totals = {"tokens": 80.0, "supervised_tokens": float(count), "dev_tokens": 0.0}
    parts = training_cost.flops(shape, params.train, rows, totals, on_cpu=True)
    assert counter.get_total_flops() == parts["base"] + parts["adapter"] + parts["head"]


@pytest.mark.usefixtures("bfloat16_cpu")
@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]], ids=["all", "q-v"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_autograd_keeps_the_bytes_of_the_plan_for_a_shared_prefix(
    dropout: float, targets: Any, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unshared, "make_batch", shared_batch)
    params = unshared.changed(
        lora={"r": 4, "dropout": dropout, "target_modules": targets},
        dtype=dtype,
        kernels="fused",
        batch_size=2,
    )
    # The difference is one layer, without embeddings and head.
    measured = unshared.kept_bytes(params, 3, 0) - unshared.kept_bytes(params, 2, 0)
    shape = training_cost.count_shape(unshared.small_config(1), params.train)
    planned = training_cost.activation_bytes(shape, params, 40, on_cpu=True, shared=18)
    assert planned == measured


# --- masks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "attention"),
    [
        # All pairs of a packed row of 640 tokens: 4 x 640 x 8 wide x 2 layers.
        ({"packing": True, "batch_size": 1}, 40_960),
        # Half of the pairs of an example of 6 tokens.
        ({"packing": True, "attention": "flash_attention_2"}, 192),
        # All pairs of a row, because TRL's batches have a mask of their padding.
        ({"kernels": "trl"}, 384),
        ({"kernels": "trl", "batch_size": 1}, 192),
        ({"kernels": "trl", "attention": "flash_attention_2"}, 192),
    ],
)
def test_sdpa_computes_the_masked_pairs_too(train: dict[str, Any], attention: int) -> None:
    totals = {"rows": 4.0, "tokens": 2560.0, "supervised_tokens": 0.0, "dev_tokens": 0.0}
    found = flops(tiny_params(**train), ROWS, False, totals)
    assert found["attention"] == 3.5 * attention * 2560


@pytest.mark.parametrize("kernels", ["fused", "trl"])
def test_dev_rows_of_a_packed_run_have_no_mask(kernels: str) -> None:
    params = tiny_params(packing=True, kernels=kernels, eval_batch_size=4)
    totals = {"rows": 1.0, "tokens": 640.0, "supervised_tokens": 0.0, "dev_tokens": 100.0}
    found = flops(params, ROWS, False, totals)
    assert found["dev"] == (2 * WEIGHTS + 192 + 2 * 80 * 0.5) * 100


def test_memory_of_a_packed_mask_by_hand() -> None:
    params = tiny_params(packing=True, batch_size=1)
    shape = training_cost.count_shape(TINY, params.train)
    found = training_cost.memory(shape, params, ROWS, ONE_PROCESS, on_cpu=False)
    # Keys and values are repeated for both heads, and a token has a row of the mask.
    attention = 4 * 8 + 640
    around_attention = 2 * 8 + 2 * 16 + 2 * (8 + 8 + 8 + 16) + 7 * 2
    # Two norms and two heads keep a float32 number each.
    assert found["activations"] == 2 * (2 * (attention + around_attention) + 4 * 4) * 640


def packed_batch(padding: int = 0) -> dict[str, torch.Tensor]:
    """Return two packed rows of 40 tokens, with two examples each."""
    ids = torch.randint(0, 100, (2, 40))
    positions = torch.cat((torch.arange(25), torch.arange(15))).expand(2, 40)
    labels = ids.masked_fill(positions < 10, -100)
    return {"input_ids": ids, "position_ids": positions, "labels": labels}


@pytest.mark.usefixtures("bfloat16_cpu")
@pytest.mark.parametrize("kernels", ["fused", "trl"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_autograd_keeps_the_bytes_of_the_plan_for_packed_rows(
    kernels: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unshared, "make_batch", packed_batch)
    params = unshared.changed(
        lora={"r": 4, "dropout": 0.0}, dtype=dtype, kernels=kernels, batch_size=2, packing=True
    )
    measured = unshared.kept_bytes(params, 3, 0) - unshared.kept_bytes(params, 2, 0)
    shape = training_cost.count_shape(unshared.small_config(1), params.train)
    assert training_cost.activation_bytes(shape, params, 40, on_cpu=True) == measured


# --- the command -------------------------------------------------------------------------------


@pytest.fixture
def cpu_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with the CPU profile and a tiny base model."""
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", tmp_path / "params.yaml")
    shutil.copytree(ROOT / "accelerate", tmp_path / "accelerate")
    unshared.write_json(tmp_path / "models/base/config.json", TINY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(*options: str) -> Any:
    """Return the plan for the CPU and an H100."""
    code, output = unshared.call("--json", "--gpus", "cpu,h100", "--rate", "100", *options)
    assert code == 0, output
    return json.loads(output)


@pytest.mark.usefixtures("cpu_run")
def test_only_the_cpu_saves_work_by_shared_tokens() -> None:
    length = ("--tokens-per-row", "300")
    alone = plan(*length)
    shared = plan(*length, "--shared-tokens", "56")
    assert (alone["rows"]["shared_tokens"], shared["rows"]["shared_tokens"]) == (0, 56)
    # A batch of 4 rows is 56 + 4 x 244 of 1,200 tokens.
    ratio = shared["flops"]["base"] / alone["flops"]["base"]
    assert ratio == pytest.approx(1032 / 1200)
    kept = [made["memory_bytes"]["cpu"]["activations"] for made in (alone, shared)]
    assert kept[1] < kept[0]
    cpu_hours = [made["devices"]["cpu"]["compute_hours"] for made in (alone, shared)]
    assert cpu_hours[1] / cpu_hours[0] == shared["flops"]["total"] / alone["flops"]["total"]
    assert shared["devices"]["h100"] == alone["devices"]["h100"]


def test_the_shared_tokens_of_the_last_training_run_are_read(cpu_run: Path) -> None:
    train = {"examples": 10, "tokens": 3000, "tokens_longest": 400}
    sets = {name: {"examples": 8} for name in "ABCDE"}
    counts = {"train": train, "dev": {"tokens": 500}, **sets}
    unshared.write_json(cpu_run / "metrics/preprocess.json", counts)
    assert plan()["rows"]["shared_tokens"] == 0
    unshared.write_json(cpu_run / "metrics/template.json", {"shared_tokens": 56})
    assert plan()["rows"]["shared_tokens"] == 56
    assert plan("--shared-tokens", "30")["rows"]["shared_tokens"] == 30
