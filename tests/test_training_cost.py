"""Tests of bula/training_cost.py and of the command plan, which uses it."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from bench.clones import ROOT, edit_params
from bench.llama import CONFIG
from bula import hardware, training_cost
from bula.__main__ import app
from bula.commands import plan as plan_command
from bula.errors import UserError
from bula.hardware import compute_dtype
from bula.model_kernels import add_answer_head, use_kernels
from bula.params import Params, load_params
from bula.scoring import unwrap_adapter

LLAMA = plan_command.KNOWN_SHAPES["meta-llama/Llama-3.2-1B-Instruct"]
TINY = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "vocab_size": 10,
    "tie_word_embeddings": True,
}
# A Llama large enough to train on.
SMALL = TINY | {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 100,
}
ONE_PROCESS = {"distributed_type": "NO", "num_processes": 1}
ROWS = training_cost.Rows(
    source="test",
    examples=None,
    tokens_per_row=6.0,
    tokens_longest=12,
    supervised_share=0.5,
    dev_tokens=None,
)
# Weights of a TINY layer: q, o 8 x 8, k, v 8 x 4, gate, up, down 8 x 16.
TINY_LAYER = 2 * 64 + 2 * 32 + 3 * 128
# Parameters of its adapter with r = 2: q, o (8 + 8) x 2, k, v (8 + 4) x 2, the others (8 + 16) x 2.
TINY_ADAPTER = 2 * 32 + 2 * 24 + 3 * 48


def changed(
    profile: str = "smollm2-135m",
    lora: dict[str, Any] | None = None,
    dtype: str = "bfloat16",
    **train: Any,
) -> Params:
    """Return a profile's parameters with other values for train and its adapter."""
    params = load_params(ROOT / f"profiles/{profile}.yaml")
    adapter = params.train.lora.model_copy(update=lora or {})
    changed_train = params.train.model_copy(update={"lora": adapter, **train})
    return params.model_copy(update={"dtype": dtype, "train": changed_train})


def tiny_params(**train: Any) -> Params:
    settings: dict[str, Any] = {
        "batch_size": 2,
        "kernels": "fused",
        "gradient_checkpointing": False,
    }
    settings.update(train)
    return changed(lora={"r": 2}, **settings)


def make_plan(params: Params, rows: training_cost.Rows) -> training_cost.Plan:
    """Return the plan of the tiny model on one H100."""
    devices = plan_command.choose_devices(["h100"], params, None)
    return training_cost.make_plan(params, ("test", TINY), rows, ONE_PROCESS, devices, 0.4)


# --- parameters --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("r", "targets", "trainable"),
    [(16, "all-linear", 11_272_192), (8, ["q_proj", "v_proj"], 851_968)],
    ids=["all-linear", "q and v"],
)
def test_parameters_of_llama_3_2_1b_are_those_of_the_reference_work(
    r: int, targets: Any, trainable: int
) -> None:
    params = changed(lora={"r": r, "target_modules": targets})
    shape = training_cost.count_shape(LLAMA, params.train)
    assert (shape.base, shape.adapter) == (1_235_814_400, trainable)


def test_the_known_shape_of_llama_is_that_of_the_dry_run() -> None:
    assert {name: CONFIG[name] for name in LLAMA} == LLAMA


def test_parameters_of_smollm2_by_hand(smollm2: Path) -> None:
    config = json.loads((smollm2 / "config.json").read_text(encoding="utf-8"))
    shape = training_cost.count_shape(config, changed().train)
    # A layer: q, o 576 x 576, k, v 576 x 192, MLP 3 x 576 x 1536, and norms 2 x 576.
    layer = 2 * 576**2 + 2 * 576 * 192 + 3 * 576 * 1536
    embeddings = 49152 * 576
    assert shape.linear == 30 * layer
    assert shape.base == 30 * (layer + 2 * 576) + 576 + embeddings == 134_515_008
    # 16 x (in + out): q, o 1152 each, k, v 768 each, gate, up, down 2112 each.
    assert shape.adapter == 30 * 16 * (2 * 1152 + 2 * 768 + 3 * 2112) == 4_884_480


def test_other_architectures_are_refused() -> None:
    with pytest.raises(UserError, match="only knows the Llama architecture"):
        training_cost.count_shape({"model_type": "gpt2"}, changed().train)


# --- FLOPs -------------------------------------------------------------------------------------


def test_shape_of_a_tiny_model_by_hand() -> None:
    shape = training_cost.count_shape(TINY, tiny_params().train)
    assert (shape.linear, shape.head) == (2 * TINY_LAYER, 80)
    assert shape.adapter == 2 * TINY_ADAPTER
    # q, k and v of the first layer, and their A.
    assert (shape.first_linear, shape.first_adapter) == (64 + 32 + 32, 3 * 16)


def test_rows_and_tokens_of_a_run_by_hand() -> None:
    params = tiny_params(max_steps=10, eval_steps=5, gradient_accumulation=3)
    rows = ROWS._replace(dev_tokens=100.0)
    # 10 steps x 2 rows x 3 x 4 processes are 240 rows of 6 tokens.
    assert training_cost.run_totals(params, rows, processes=4) == {
        "rows_per_step": 24,
        "rows": 240,
        "tokens": 1440,
        "supervised_tokens": 720,
        "dev_evaluations": 2,
        "dev_tokens": 200,
    }


def test_flops_of_a_tiny_model_by_hand() -> None:
    params = tiny_params()
    shape = training_cost.count_shape(TINY, params.train)
    totals = {"tokens": 1440.0, "supervised_tokens": 720.0, "dev_tokens": 200.0}
    found = training_cost.flops(shape, params.train, ROWS, totals)
    # 2 matmuls x 2 x 6 tokens x 8 wide, half of them masked, x 2 layers; backward takes 2.5 times
    # as much.
    attention = 192
    expected = {
        "base": (4 * 2 * TINY_LAYER - 2 * 128) * 1440,
        "adapter": (6 * 2 * TINY_ADAPTER - 2 * 48) * 1440,
        "attention": 3.5 * attention * 1440,
        "head": 4 * 80 * 720,
        "recomputed": 0,
        "dev": (2 * 2 * TINY_LAYER + 2 * 2 * TINY_ADAPTER + attention + 2 * 80 * 0.5) * 200,
    }
    assert found == expected | {"total": sum(expected.values())}


def test_dev_is_scored_after_the_last_step_too() -> None:
    params = tiny_params(max_steps=10, eval_steps=4)
    totals = training_cost.run_totals(params, ROWS._replace(dev_tokens=100.0), 1)
    # After steps 4, 8 and 10.
    assert totals["dev_tokens"] == 300


def test_epochs_of_packed_rows_count_tokens() -> None:
    params = tiny_params(max_steps=10, eval_steps=5, gradient_accumulation=1, packing=True)
    plan = make_plan(params, ROWS._replace(examples=64))
    # 10 steps x 2 rows with the most tokens that preprocess allows; an example has 6 tokens.
    epochs = 20 * params.preprocess.max_tokens / (64 * 6)
    assert plan_command.format_epochs(plan) == f"{epochs:.2f} epochs of 64"


def test_epochs_of_plain_rows_count_rows() -> None:
    plan = make_plan(tiny_params(max_steps=16, gradient_accumulation=2), ROWS._replace(examples=64))
    assert plan_command.format_epochs(plan) == "1.00 epochs of 64"


def flops_of_100_tokens(**train: Any) -> dict[str, float]:
    """Return the FLOPs of 100 tokens, 50 of them supervised."""
    params = tiny_params(**train)
    shape = training_cost.count_shape(TINY, params.train)
    totals = {"tokens": 100.0, "supervised_tokens": 50.0, "dev_tokens": 0.0}
    return training_cost.flops(shape, params.train, ROWS, totals)


def test_checkpointing_adds_a_forward_pass() -> None:
    found = flops_of_100_tokens(gradient_checkpointing=True)
    weights = 2 * (TINY_LAYER + TINY_ADAPTER)
    assert found["recomputed"] == (2 * weights + 192) * 100


def test_trl_computes_its_logits_twice() -> None:
    found = flops_of_100_tokens(kernels="trl")
    assert found["head"] == 6 * 80 * 50


# --- beside a real model -----------------------------------------------------------------------


def small_config(layers: int) -> dict[str, Any]:
    return SMALL | {"num_hidden_layers": layers}


def make_model(params: Params, layers: int, dtype: torch.dtype) -> Any:
    """Return a small Llama with its adapter, as the trainer makes it."""
    config = AutoConfig.for_model(**small_config(layers))
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    lora = params.train.lora
    targets = lora.target_modules
    settings = LoraConfig(
        r=lora.r,
        lora_dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, settings).train()
    if params.train.kernels == "fused":
        use_kernels(adapted)
        add_answer_head(unwrap_adapter(adapted))
    return adapted


def make_batch(padding: int = 0) -> dict[str, torch.Tensor]:
    """Return two rows of 40 tokens, 20 of them supervised."""
    ids = torch.randint(0, 100, (2, 40))
    mask = torch.ones_like(ids)
    mask[0, 40 - padding :] = 0
    labels = ids.masked_fill(torch.arange(40) < 20, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def addmm_flops(out: Any, a: Any, b: Any, **_: Any) -> int:
    """Return the FLOPs of out += a b from the shapes."""
    return int(2 * a[0] * a[1] * b[1])


def test_torch_counts_the_flops_of_the_plan() -> None:
    params = changed(lora={"r": 4}, kernels="fused", gradient_checkpointing=False)
    model = make_model(params, 2, torch.float32)
    # torch's counter does not know addmm_, nor the CPU's attention, which is left out below.
    in_place = {torch.ops.aten.addmm_: addmm_flops}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        loss, _, count = model(**make_batch(), answer_head=True)
        loss.backward()
    shape = training_cost.count_shape(small_config(2), params.train)
    totals = {"tokens": 80.0, "supervised_tokens": float(count), "dev_tokens": 0.0}
    parts = training_cost.flops(shape, params.train, ROWS, totals)
    assert counter.get_total_flops() == parts["base"] + parts["adapter"] + parts["head"]


def run_forward(model: Any, params: Params, inputs: dict[str, torch.Tensor]) -> None:
    """Run a forward pass as train does, for TRL without the head."""
    if params.train.kernels == "fused":
        model(**inputs, answer_head=True)
        return
    del inputs["labels"]
    in_bfloat16 = compute_dtype(params.dtype, "cpu") == "bfloat16"
    with torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
        unwrap_adapter(model).model(**inputs, use_cache=False)


def kept_bytes(params: Params, layers: int, padding: int) -> int:
    """Return the bytes that autograd really keeps.

    Parameters are left out, and each storage counts once.
    """
    dtype = getattr(torch, compute_dtype(params.dtype, "cpu"))
    model = make_model(params, layers, dtype)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    # The tensors stay alive so that no address is used twice.
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            kept[address] = tensor
        return tensor

    inputs = make_batch(padding)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run_forward(model, params, inputs)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("kernels", ["fused", "trl"])
@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]], ids=["all", "q-v"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_autograd_keeps_the_bytes_of_the_plan(
    kernels: str, dropout: float, targets: Any, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A CPU with slow bfloat16 keeps the same bytes.
    monkeypatch.setattr(hardware, "has_bfloat16_matmul", lambda: True)
    params = changed(
        lora={"r": 4, "dropout": dropout, "target_modules": targets},
        dtype=dtype,
        kernels=kernels,
        batch_size=2,
        gradient_checkpointing=False,
        activation_offload=False,
        base_weights="full",
    )
    padding = 5 if kernels == "trl" else 0
    # The difference is one layer, without embeddings and head.
    measured = kept_bytes(params, 3, padding) - kept_bytes(params, 2, padding)
    shape = training_cost.count_shape(small_config(1), params.train)
    assert training_cost.activation_bytes(shape, params, 40, on_cpu=True) == measured


# --- memory ------------------------------------------------------------------------------------


def memory_parts(
    params: Params,
    launch: dict[str, Any] = ONE_PROCESS,
    on_cpu: bool = False,
    config: dict[str, Any] = TINY,
) -> dict[str, float]:
    shape = training_cost.count_shape(config, params.train)
    return training_cost.memory(shape, params, ROWS, launch, on_cpu)


def test_memory_of_weights_and_optimizer_by_hand() -> None:
    found = memory_parts(tiny_params())
    # Embeddings 80, two layers with norms 2 x 8, the last norm 8.
    assert found["base_weights"] == 2 * (80 + 2 * (TINY_LAYER + 16) + 8)
    assert found["adapter"] == 4 * 2 * TINY_ADAPTER
    assert found["gradients"] == 4 * 2 * TINY_ADAPTER
    assert found["adamw_moments"] == 8 * 2 * TINY_ADAPTER
    assert found["total"] == sum(value for name, value in found.items() if name != "total")


def test_memory_of_activations_by_hand() -> None:
    found = memory_parts(tiny_params())
    norms = 2 * 8
    # Queries, keys, values and output.
    attention = 8 + 4 + 4 + 8
    gate_and_up = 2 * 16
    # The inputs of q, o, gate and down after dropout, with their masks.
    inputs_and_masks = 2 * (8 + 8 + 8 + 16)
    low_rank = 7 * 2
    values = norms + attention + gate_and_up + inputs_and_masks + low_rank
    # Two norms and two heads keep a float32 number each.
    assert found["activations"] == 2 * (values * 2 + 4 * 4) * 24
    assert found["heap"] == 0


def test_memory_of_head_and_scratch_by_hand() -> None:
    found = memory_parts(tiny_params())
    # 12 of 24 tokens are supervised: 12 x 10 logits of 2 + 4 bytes, and the hidden states.
    head = 12 * 10 * 6 + (24 + 2 * 12) * 8 * 2
    mlp_gradients = 24 * 2 * (3 * 16 + 8)
    assert found["head_and_scratch"] == max(head, mlp_gradients)


@pytest.mark.parametrize(("has_bfloat16", "factor"), [(True, 1), (False, 2)])
def test_numbers_take_4_bytes_on_a_cpu_without_bfloat16_matmuls(
    has_bfloat16: bool, factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu = memory_parts(tiny_params())
    monkeypatch.setattr(hardware, "has_bfloat16_matmul", lambda: has_bfloat16)
    found = memory_parts(tiny_params(), on_cpu=True)
    assert found["heap"] == 0.5 * found["activations"]
    assert found["base_weights"] == on_gpu["base_weights"] * factor


@pytest.fixture
def float32_matmuls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU compute matmuls of bfloat16 numbers in float32."""
    monkeypatch.setattr(hardware, "has_bfloat16_matmul", lambda: True)
    monkeypatch.setattr(training_cost, "matmul_dtype", lambda dtype, place: torch.float32)


@pytest.mark.usefixtures("float32_matmuls")
def test_wider_matmuls_copy_the_mlps_gradients_and_a_weight() -> None:
    found = memory_parts(tiny_params(), on_cpu=True)
    # Gradients of gate and up, their input and its gradient for 24 tokens, and one weight.
    copies = 4 * (24 * 2 * (16 + 8) + 16 * 8)
    assert found["head_and_scratch"] == 24 * 2 * (3 * 16 + 8) + copies


@pytest.mark.usefixtures("float32_matmuls")
@pytest.mark.parametrize(
    ("vocabulary", "expected"),
    [
        (10, 24 * 2 * (3 * 16 + 8)),
        # 12 rows of logits, the hidden states and a copy of the head.
        (1000, 12 * 1000 * 4 + 768 + 4 * 8 * 1000),
    ],
)
def test_without_adapters_on_gate_and_up_the_mlp_has_no_copies(
    vocabulary: int, expected: int
) -> None:
    params = changed(lora={"r": 2, "target_modules": ["q_proj"]}, batch_size=2, kernels="fused")
    found = memory_parts(params, on_cpu=True, config=TINY | {"vocab_size": vocabulary})
    assert found["head_and_scratch"] == expected


def test_nf4_weights_take_half_a_byte_and_constants() -> None:
    found = memory_parts(tiny_params(base_weights="nf4"))
    # A block of 64 weights has 8 + 32 / 256 bits of constants. Embeddings and norms take 2 bytes.
    linear_bytes = 0.5 + (8 + 32 / 256) / 64 / 8
    expected = 2 * (80 + 2 * 16 + 8) + 2 * TINY_LAYER * linear_bytes
    assert found["base_weights"] == pytest.approx(expected)


def test_checkpointing_keeps_one_layer_and_the_inputs_of_all() -> None:
    found = memory_parts(tiny_params(gradient_checkpointing=True))
    # 348 bytes per token of one layer, and 8 values of 2 bytes for each of two layers.
    assert found["activations"] == (348 + 2 * 8 * 2) * 24


def test_fsdp_shares_weights_and_optimizer() -> None:
    plain = memory_parts(tiny_params())
    shared = memory_parts(tiny_params(), {"distributed_type": "FSDP", "num_processes": 2})
    # The embedding and one layer are gathered.
    gathered = 2 * (80 + TINY_LAYER)
    assert shared["base_weights"] == plain["base_weights"] / 2 + gathered
    assert shared["adamw_moments"] == plain["adamw_moments"] / 2


def test_ddp_doubles_the_gradients() -> None:
    plain = memory_parts(tiny_params())
    ddp = memory_parts(tiny_params(), {"distributed_type": "MULTI_GPU", "num_processes": 2})
    assert ddp["gradients"] == 2 * plain["gradients"]


# --- the command -------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with the GPU profile, without models."""
    shutil.copy(ROOT / "profiles/llama-3.2-1b.yaml", tmp_path / "params.yaml")
    (tmp_path / "accelerate").mkdir()
    for file in (ROOT / "accelerate").glob("*.yaml"):
        shutil.copy(file, tmp_path / "accelerate")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> tuple[int, str]:
    """Return exit code and output of `python -m bula plan`."""
    result = CliRunner().invoke(app, ["plan", *arguments])
    # The wrapper in bula/errors.py prints this sentence.
    error = str(result.exception) if isinstance(result.exception, UserError) else ""
    return result.exit_code, result.output + error


@pytest.fixture
def llama_plan(here: Path) -> Any:
    """Return the plan of Llama 3.2 1B before anything was fetched."""
    rows = ("--tokens-per-row", "250", "--supervised-share", "0.6", "--dev-rows", "1000")
    code, output = call("--json", *rows, "--gpus", "h100,l4")
    assert code == 0
    return json.loads(output)


def test_llama_is_planned_before_it_is_fetched(llama_plan: Any) -> None:
    assert llama_plan["model"]["base"] == 1_235_814_400
    run = llama_plan["run"]
    # 6,000 steps of 8 rows, 12 evaluations.
    assert (run["rows"], run["tokens"], run["dev_tokens"]) == (48_000, 12e6, 12 * 250_000)


def test_a_fast_gpu_waits_for_the_launches_of_small_batches(llama_plan: Any) -> None:
    # 6,000 steps x 2 micro-batches of 274 x 16 kernels. 12 evaluations of 1,000 rows are 1,500
    # batches, with a third of the kernels.
    launches = 274 * 16 * (12_000 + 1_500 / 3)
    assert llama_plan["run"]["kernel_launches"] == pytest.approx(launches)
    h100 = llama_plan["devices"]["h100"]
    compute_hours = llama_plan["flops"]["total"] / (989e12 * 0.4) / 3600
    assert h100["compute_hours"] == pytest.approx(compute_hours)
    assert h100["hours"] == h100["launch_hours"] == pytest.approx(launches * 5e-6 / 3600)
    assert h100["hours"] > compute_hours
    l4 = llama_plan["devices"]["l4"]
    assert l4["hours"] == l4["compute_hours"] > l4["launch_hours"]


def test_devices_have_memory_share_and_source(llama_plan: Any) -> None:
    h100 = llama_plan["devices"]["h100"]
    share = llama_plan["memory_bytes"]["gpu"]["total"] / 80e9
    assert h100["fits"]
    assert h100["memory_share"] == pytest.approx(share)
    assert h100["note"] == "NVIDIA H100 data sheet, SXM"


def test_recomputation_launches_the_forward_kernels_again() -> None:
    totals = {"rows_per_step": 2.0, "dev_tokens": 0.0}
    plain = tiny_params(max_steps=30, gradient_accumulation=1)
    again = tiny_params(max_steps=30, gradient_accumulation=1, gradient_checkpointing=True)
    shape = training_cost.count_shape(TINY, plain.train)
    # 274 kernels x 2 layers x 30 batches, and a third of them.
    assert training_cost.kernel_launches(shape, plain, ROWS, totals) == 16_440
    assert training_cost.kernel_launches(shape, again, ROWS, totals) == 16_440 * 4 / 3


@pytest.mark.parametrize(
    "text",
    [
        "1,235,814,400 parameters",
        "11,272,192 parameters, 0.90%",
        "48,000 = 6,000 steps x 8",
        "dev                   not counted",
        plan_command.TRL_ON_CPU_NOTE,
        "memory, GPU",
        "memory, CPU",
        "NVIDIA L4 data sheet",
        "time of train, FLOPs at 40% of a device's rate",
        "all stages on one l4 with 0.3 TB/s",
        "generate@quantized",
        "assumptions (bula/rates.py)",
    ],
)
def test_the_table_contains(text: str, here: Path) -> None:
    code, output = call("--tokens-per-row", "250", "--gpus", "l4,cpu", "--rate", "200")
    assert code == 0
    assert text in output


def test_the_example_of_docs_gpu_is_the_output_of_plan(here: Path) -> None:
    text = (ROOT / "docs/gpu.md").read_text(encoding="utf-8")
    found = re.search(r"\$ python -m bula plan --params \S+ (.*)\n([^`]*)```", text)
    assert found
    arguments, shown = found.groups()
    code, output = call(*arguments.split())
    assert code == 0
    assert output.rstrip() == shown.rstrip()


@pytest.mark.parametrize(("name", "verdict"), [("l4", "DOES NOT FIT"), ("h100", "fits")])
def test_a_run_fits_only_into_enough_memory(name: str, verdict: str, here: Path) -> None:
    edit_params(here / "params.yaml", lambda params: params["train"].update(batch_size=16))
    code, output = call("--tokens-per-row", "250", "--gpus", "l4,h100")
    assert code == 0
    line = next(line for line in output.splitlines() if line.startswith(f"  {name} "))
    assert re.findall("DOES NOT FIT|fits", line) == [verdict]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--gpus", "h100,b9000"],
            "--gpus: unknown device: b9000. Name some of h100, a100-80gb, ",
        ),
        # A T4 emulates bfloat16, and the stages refuse it.
        (["--gpus", "t4"], "--gpus: unknown device: t4."),
        (["--gpus", "cpu"], "--rate: the device cpu needs this option. Pass"),
        (["--utilisation", "40"], "--utilisation: 40.0 is not a share"),
        (
            ["--model", "elsewhere"],
            "elsewhere/config.json: the file does not exist. Name a model directory by --model.",
        ),
    ],
)
def test_wrong_options_are_explained(here: Path, arguments: list[str], sentence: str) -> None:
    code, output = call("--tokens-per-row", "250", *arguments)
    assert code == 1
    assert sentence in output
    assert "Traceback" not in output


def test_missing_rows_are_explained(here: Path) -> None:
    code, output = call()
    assert code == 1
    fix = "Run `dvc repro preprocess`, or pass --tokens-per-row."
    assert f"metrics/preprocess.json: the file does not exist. {fix}" in output


def test_a_missing_base_is_explained(here: Path) -> None:
    def name_another_base(params: dict[str, Any]) -> None:
        params["ingest"]["base"]["id"] = "someone/else"

    edit_params(here / "params.yaml", name_another_base)
    code, output = call("--tokens-per-row", "250")
    assert code == 1
    assert "Run `dvc repro models`" in output


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_lock(revision: str | None = None, template: str | None = None) -> None:
    """Write the dvc.lock of a run with params.yaml.

    `revision` replaces that of the base model, and `template` the file of the chat template.
    """
    params = load_params()
    ingest = params.ingest.model_dump()
    if revision:
        ingest["base"]["revision"] = revision
    if template:
        ingest["chat_template"] = template
    values = {
        "models": {
            "ingest.base": ingest["base"],
            "ingest.chat_template": ingest["chat_template"],
        },
        "preprocess": {
            "preprocess": params.preprocess.model_dump(),
            "ingest.sources": ingest["sources"],
        },
    }
    stages = {name: {"params": {"params.yaml": value}} for name, value in values.items()}
    write_json(Path("dvc.lock"), {"stages": stages})


@pytest.fixture
def run_before(here: Path) -> None:
    """Write a base model and metrics/, as a run leaves them."""
    write_json(here / "models/base/config.json", TINY)
    train = {"examples": 10, "tokens": 2500, "tokens_longest": 400}
    sets = {name: {"examples": 8} for name in "ABCDE"}
    counts = {"train": train, "dev": {"tokens": 500}, **sets}
    write_json(here / "metrics/preprocess.json", counts)
    write_json(here / "metrics/template.json", {"supervised_share": 0.6})


@pytest.mark.usefixtures("run_before")
def test_base_and_metrics_of_the_same_parameters_are_used() -> None:
    write_lock()
    found = json.loads(call("--json")[1])
    assert found["model"]["source"] == "models/base/config.json"
    assert found["rows"] == {
        "source": "metrics/preprocess.json",
        "examples": 10,
        "tokens_per_row": 250.0,
        "tokens_longest": 400,
        "supervised_share": 0.6,
        "dev_tokens": 500.0,
        "shared_tokens": 0,
    }


@pytest.mark.usefixtures("run_before")
def test_the_rows_of_the_smallest_validation_set_are_scored(here: Path) -> None:
    write_lock()
    counts = json.loads((here / "metrics/preprocess.json").read_text(encoding="utf-8"))
    sizes = zip("ABCDE", (7, 9, 8, 7, 9), strict=True)
    counts |= {name: {"examples": size} for name, size in sizes}
    write_json(here / "metrics/preprocess.json", counts)
    stages = json.loads(call("--json", "--gpus", "h100")[1])["stages"]["h100"]
    [base] = [stage for stage in stages if stage["stage"] == "likelihood@base"]
    # 5 sets x 7 rows x 250 tokens, each after its own question and after another one.
    assert base["reason"].startswith("17,500 tokens")


@pytest.mark.usefixtures("run_before")
def test_metrics_of_another_profile_are_refused() -> None:
    """After `cp profiles/X.yaml params.yaml`, metrics/ are still those of the old profile."""
    write_lock(revision="0" * 40)
    _, output = call("--json")
    assert "metrics/preprocess.json: the file was written for other parameters" in output


@pytest.mark.usefixtures("run_before")
def test_the_base_of_another_profile_is_not_used() -> None:
    write_lock(revision="0" * 40)
    found = json.loads(call("--json", "--tokens-per-row", "250")[1])
    assert found["model"]["source"].startswith("the known shape of meta-llama/")


@pytest.mark.usefixtures("run_before")
def test_metrics_of_another_chat_template_are_refused() -> None:
    write_lock(template="templates/other.jinja")
    _, output = call("--json")
    assert "metrics/preprocess.json: the file was written for other parameters" in output


def test_a_launch_for_another_device_cannot_be_planned(here: Path) -> None:
    edit_params(here / "params.yaml", lambda params: params["train"].update(launch="cpu"))
    code, output = call("--tokens-per-row", "250")
    assert code == 1
    assert "train.launch is cpu, whose file takes the CPU, but device is cuda" in output
