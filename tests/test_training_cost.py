import json
import re
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
from bula.lora_kernels import add_answer_head, use_kernels
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
ONE = {"distributed_type": "NO", "num_processes": 1}
ROWS = training_cost.Rows("test", None, 6.0, 12, 0.5, None)


def changed(
    profile: str = "smollm2-135m",
    lora: dict[str, Any] | None = None,
    dtype: str = "bfloat16",
    **train: Any,
) -> Params:
    """A profile's parameters with some of train's, and of its adapter's, changed."""
    params = load_params(ROOT / f"profiles/{profile}.yaml")
    adapter = params.train.lora.model_copy(update=lora or {})
    return params.model_copy(
        update={"dtype": dtype, "train": params.train.model_copy(update={"lora": adapter, **train})}
    )


def tiny_params(**train: Any) -> Params:
    return changed(
        lora={"r": 2}, batch_size=2, kernels="fused", gradient_checkpointing=False, **train
    )


# --- parameters ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("r", "targets", "trainable"),
    [(16, "all-linear", 11_272_192), (8, ["q_proj", "v_proj"], 851_968)],
    ids=["all-linear", "q and v"],
)
def test_llama_3_2_1b_has_the_parameters_that_its_makers_and_the_reference_work_count(
    r: int, targets: Any, trainable: int
) -> None:
    shape = training_cost.count(LLAMA, changed(lora={"r": r, "target_modules": targets}).train)
    assert (shape.base, shape.adapter) == (1_235_814_400, trainable)


def test_the_known_shape_is_that_of_the_dry_run() -> None:
    assert {name: CONFIG[name] for name in LLAMA} == LLAMA


def test_smollm2_has_its_parameters(smollm2: Path) -> None:
    config = json.loads((smollm2 / "config.json").read_text(encoding="utf-8"))
    shape = training_cost.count(config, changed().train)
    # A layer: q, o 576 x 576, k, v 576 x 192, MLP 3 x 576 x 1536; norms 2 x 576; the embeddings 49152 x 576, tied.
    layer = 2 * 576**2 + 2 * 576 * 192 + 3 * 576 * 1536
    assert shape.linear == 30 * layer
    assert shape.base == 30 * (layer + 2 * 576) + 576 + 49152 * 576 == 134_515_008
    # 16 x (in + out) of each: q, o 1152 each, k, v 768 each, gate, up, down 2112 each.
    assert shape.adapter == 30 * 16 * (2 * 1152 + 2 * 768 + 3 * 2112) == 4_884_480


def test_another_architecture_is_refused() -> None:
    with pytest.raises(UserError, match="Llama architecture alone"):
        training_cost.count({"model_type": "gpt2"}, changed().train)


# --- FLOPs --------------------------------------------------------------------------------------------------


def test_flops_of_a_model_worked_by_hand() -> None:
    params = tiny_params(max_steps=10, eval_steps=5, gradient_accumulation=3)
    shape = training_cost.count(TINY, params.train)
    # A layer: q, o 8 x 8, k, v 8 x 4, gate, up, down 8 x 16: 64 + 64 + 32 + 32 + 384 = 576; the head 10 x 8.
    assert (shape.linear, shape.head, shape.first_linear) == (2 * 576, 80, 64 + 32 + 32)
    # r = 2: (8+8) x 2 for q, o, (8+4) x 2 for k, v, (8+16) x 2 for three: 32 + 32 + 24 + 24 + 144 = 256.
    assert (shape.adapter, shape.first_adapter) == (2 * 256, 3 * 16)
    rows = ROWS._replace(dev_tokens=100.0)
    done = training_cost.work(params, rows, processes=4)
    # 10 steps x 2 rows x 3 x 4 processes = 240 rows of 6 tokens.
    assert (done["rows"], done["tokens"], done["supervised_tokens"], done["dev_tokens"]) == (
        240,
        1440,
        720,
        200,
    )
    parts = training_cost.flops(shape, params.train, rows, done)
    # Attention forward: 2 products x 2 x 6 tokens x 8 wide, half of them masked, x 2 layers = 192 a token; backward 2.5 times that.
    assert parts["base"] == (4 * 1152 - 2 * 128) * 1440
    assert parts["adapter"] == (6 * 512 - 2 * 48) * 1440
    assert parts["attention"] == 3.5 * 192 * 1440
    assert parts["head"] == 4 * 80 * 720
    assert parts["dev"] == (2 * 1152 + 2 * 512 + 192 + 2 * 80 * 0.5) * 200
    assert parts["total"] == sum(value for name, value in parts.items() if name != "total")


def test_dev_is_scored_after_the_last_step_too() -> None:
    # After steps 4, 8 and 10.
    assert (
        training_cost.work(
            tiny_params(max_steps=10, eval_steps=4), ROWS._replace(dev_tokens=100.0), 1
        )["dev_tokens"]
        == 300
    )


def test_a_packed_row_holds_several_examples() -> None:
    params = tiny_params(max_steps=10, eval_steps=5, gradient_accumulation=1, packing=True)
    rows = ROWS._replace(examples=64)
    # 10 steps x 2 rows of as many tokens as preprocess lets through; the 64 examples have 6 tokens each.
    limit = params.preprocess.max_tokens
    made = training_cost.make_plan(params, ("test", TINY), rows, ONE, ["h100"], 0.4, None)
    assert plan_command.epochs(made) == f"{20 * limit / (64 * 6):.2f} epochs of 64"
    plain = training_cost.make_plan(
        tiny_params(max_steps=16, gradient_accumulation=2),
        ("test", TINY),
        rows,
        ONE,
        ["h100"],
        0.4,
        None,
    )
    assert plan_command.epochs(plain) == "1.00 epochs of 64"


def test_checkpointing_adds_a_forward_pass_and_trl_makes_its_logits_twice() -> None:
    params = tiny_params()
    shape, done = (
        training_cost.count(TINY, params.train),
        {"tokens": 100.0, "supervised_tokens": 50.0, "dev_tokens": 0.0},
    )
    again = training_cost.flops(
        shape, params.train.model_copy(update={"gradient_checkpointing": True}), ROWS, done
    )
    assert again["recomputed"] == (2 * (1152 + 512) + 192) * 100
    assert (
        training_cost.flops(shape, params.train.model_copy(update={"kernels": "trl"}), ROWS, done)[
            "head"
        ]
        == 6 * 80 * 50
    )


# --- beside a real model ------------------------------------------------------------------------------------


def real(params: Params, layers: int, dtype: torch.dtype) -> Any:
    """A Llama of 64 values with its adapter, as the trainer makes it."""
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "head_dim": 16,
    }
    config = TINY | sizes | {"num_key_value_heads": 2, "vocab_size": 100}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**config), dtype=dtype, attn_implementation="sdpa"
    )
    lora = params.train.lora
    targets = (
        lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    )
    settings = LoraConfig(
        r=lora.r, lora_dropout=lora.dropout, target_modules=targets, task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(model, settings).train()
    if params.train.kernels == "fused":
        use_kernels(adapted)
        add_answer_head(unwrap_adapter(adapted))
    return adapted, config


def batch(padding: int = 0) -> dict[str, torch.Tensor]:
    """Two rows of 40 tokens, 20 of them supervised."""
    ids = torch.randint(0, 100, (2, 40))
    mask = torch.ones_like(ids)
    mask[0, 40 - padding :] = 0
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": ids.masked_fill(torch.arange(40) < 20, -100),
    }


def test_torch_counts_the_flops_that_the_plan_counts() -> None:
    params = changed(lora={"r": 4}, kernels="fused", gradient_checkpointing=False)
    model, config = real(params, 2, torch.float32)

    def in_place(out: Any, a: Any, b: Any, **_: Any) -> int:
        """FLOPs of out += a b, by the shapes."""
        return int(2 * a[0] * a[1] * b[1])

    # torch's counter knows neither products in place nor the CPU's attention, which is left out below.
    with FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.addmm_: in_place}
    ) as counter:
        total, _, count = model(**batch(), answer_head=True)
        total.backward()
    shape = training_cost.count(config, params.train)
    done = {"tokens": 80.0, "supervised_tokens": float(count), "dev_tokens": 0.0}
    parts = training_cost.flops(shape, params.train, ROWS, done)
    assert counter.get_total_flops() == parts["base"] + parts["adapter"] + parts["head"]


def kept(params: Params, layers: int, padding: int) -> int:
    """Bytes that autograd really keeps, parameters left out, each storage once."""
    model, _ = real(params, layers, getattr(torch, compute_dtype(params.dtype, "cpu")))
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    inputs, fused = batch(padding), params.train.kernels == "fused"
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        if fused:
            model(**inputs, answer_head=True)
        else:
            del inputs["labels"]
            with torch.autocast(
                "cpu", torch.bfloat16, enabled=compute_dtype(params.dtype, "cpu") == "bfloat16"
            ):
                unwrap_adapter(model).model(**inputs, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


@pytest.mark.parametrize("kernels", ["fused", "trl"])
@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]], ids=["all", "q-v"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_autograd_keeps_the_bytes_that_the_plan_counts(
    kernels: str, dropout: float, targets: Any, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where they are slow they keep the same bytes.
    monkeypatch.setattr(hardware, "has_bfloat16_matmul", lambda: True)
    params = changed(
        lora={"r": 4, "dropout": dropout, "target_modules": targets}, dtype=dtype, kernels=kernels, batch_size=2,
        gradient_checkpointing=False, activation_offload=False, base_weights="full",
    )  # fmt: skip
    padding = 5 if kernels == "trl" else 0
    # What one layer adds; the ends of the model are small.
    measured = kept(params, 3, padding) - kept(params, 2, padding)
    _, config = real(params, 1, torch.float32)
    told = training_cost.activations(
        training_cost.count(config, params.train), params, 40, on_cpu=True
    )
    assert told == measured


# --- memory -------------------------------------------------------------------------------------------------


def parts(params: Params, launch: dict[str, Any] = ONE, on_cpu: bool = False) -> dict[str, float]:
    return training_cost.memory(
        training_cost.count(TINY, params.train), params, ROWS, launch, on_cpu
    )


def test_memory_by_part_worked_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    found = parts(tiny_params())
    # Embeddings 80, layers 2 x (576 + 16 of norms), the last norm 8.
    assert found["base_weights"] == 2 * (80 + 2 * 592 + 8)
    assert (found["adapter"], found["gradients"], found["adamw_moments"]) == (
        4 * 512,
        4 * 512,
        8 * 512,
    )
    # A token of a layer, in values of 2 bytes: norms 2 x 8; q 8, k 4, v 4, output 8; gate and up 2 x 16; inputs after dropout and
    # their masks 2 x (8 + 8 + 8 + 16); low-rank 7 x 2: 16 + 24 + 32 + 80 + 14 = 166. Float32: 2 of norms, 2 of heads.
    assert found["activations"] == 2 * (166 * 2 + 4 * 4) * 24
    # 24 tokens, 12 supervised: a slice of 12 rows x 10 x (2 + 4) bytes, (24 + 2 x 12) x 8 x 2 bytes; the MLP's gradients are more.
    assert found["head_and_scratch"] == max(720 + 768, 24 * 2 * (3 * 16 + 8))
    assert found["heap"] == 0
    # On a CPU without bfloat16 products every number takes 4 bytes.
    for products, factor in ((True, 1), (False, 2)):
        monkeypatch.setattr(hardware, "has_bfloat16_matmul", lambda products=products: products)
        told = parts(tiny_params(), on_cpu=True)
        assert told["heap"] == 0.5 * told["activations"]
        assert told["base_weights"] == found["base_weights"] * factor
    assert found["total"] == sum(value for name, value in found.items() if name != "total")
    # Where products are made in a wider precision: gradients of gate and up, input and its gradient for 24 tokens, one weight's copy.
    monkeypatch.setattr(hardware, "has_bfloat16_matmul", lambda: True)
    monkeypatch.setattr(training_cost, "matmul_dtype", lambda dtype, place: torch.float32)
    told = parts(tiny_params(), on_cpu=True)
    assert told["head_and_scratch"] == 24 * 2 * (3 * 16 + 8) + 4 * (24 * 2 * (16 + 8) + 16 * 8)
    # Where gate and up have no adapter nothing of theirs is copied; of the head, a slice of 12 rows and all its weights.
    params = changed(lora={"r": 2, "target_modules": ["q_proj"]}, batch_size=2, kernels="fused")
    told = training_cost.memory(
        training_cost.count(TINY, params.train), params, ROWS, ONE, on_cpu=True
    )
    assert told["head_and_scratch"] == 24 * 2 * (3 * 16 + 8)
    told = training_cost.memory(
        training_cost.count(TINY | {"vocab_size": 1000}, params.train),
        params,
        ROWS,
        ONE,
        on_cpu=True,
    )
    assert told["head_and_scratch"] == 12 * 1000 * 4 + 768 + 4 * 8 * 1000


def test_options_move_the_part_that_they_are_for() -> None:
    plain = parts(tiny_params())
    nf4 = parts(tiny_params(base_weights="nf4"))
    # Half a byte, and for each 64 weights 8 + 32 / 256 bits of constants; embeddings and norms stay in 2 bytes.
    assert nf4["base_weights"] == pytest.approx(
        2 * (80 + 2 * 16 + 8) + 1152 * (0.5 + (8 + 32 / 256) / 64 / 8)
    )
    again = parts(
        changed(lora={"r": 2}, batch_size=2, kernels="fused", gradient_checkpointing=True)
    )
    # One layer, and 8 values at the door of each.
    assert again["activations"] == (348 + 2 * 8 * 2) * 24
    shared = parts(tiny_params(), {"distributed_type": "FSDP", "num_processes": 2})
    assert shared["base_weights"] == plain["base_weights"] / 2 + 2 * (80 + 576)
    assert shared["adamw_moments"] == plain["adamw_moments"] / 2
    assert (
        parts(tiny_params(), {"distributed_type": "MULTI_GPU", "num_processes": 2})["gradients"]
        == 2 * plain["gradients"]
    )


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the GPU profile as params.yaml, launch configurations, and nothing fetched."""
    (tmp_path / "params.yaml").write_text(
        (ROOT / "profiles/llama-3.2-1b.yaml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    (tmp_path / "accelerate").mkdir()
    for file in (ROOT / "accelerate").glob("*.yaml"):
        (tmp_path / "accelerate" / file.name).write_text(
            file.read_text(encoding="utf-8"), encoding="utf-8"
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> tuple[int, str]:
    """Exit code and output of `python -m bula plan`."""
    result = CliRunner().invoke(app, ["plan", *arguments])
    # What `call` of bula/errors.py prints.
    told = str(result.exception) if isinstance(result.exception, UserError) else ""
    return result.exit_code, result.output + told


def test_a_plan_for_llama_before_anything_was_fetched(here: Path) -> None:
    code, output = call(
        "--json",
        "--tokens-per-row",
        "250",
        "--supervised-share",
        "0.6",
        "--dev-rows",
        "1000",
        "--gpus",
        "h100,t4",
    )
    found = json.loads(output)
    assert code == 0
    assert found["model"]["base"] == 1_235_814_400
    # 6,000 steps of 8 rows, 12 evaluations.
    assert (found["run"]["rows"], found["run"]["tokens"], found["run"]["dev_tokens"]) == (
        48_000,
        12e6,
        12 * 250_000,
    )
    h100 = found["devices"]["h100"]
    assert h100["hours"] == pytest.approx(found["flops"]["total"] / (989e12 * 0.4) / 3600)
    assert h100["fits"] and h100["memory_share"] == pytest.approx(
        found["memory_bytes"]["gpu"]["total"] / 80e9
    )
    assert found["devices"]["t4"]["note"].startswith("no bfloat16")


def test_the_table_says_what_the_json_says(here: Path) -> None:
    code, output = call("--tokens-per-row", "250", "--gpus", "t4,cpu", "--rate", "200")
    assert code == 0
    for text in (
        "1,235,814,400 parameters",
        "11,272,192 parameters, 0.90%",
        "48,000 = 6,000 steps x 8",
        "dev                   not counted",
    ):
        assert text in output
    assert training_cost.ALL_TOKENS in output
    assert "memory, GPU" in output and "memory, CPU" in output and "no bfloat16" in output


def test_the_example_of_docs_gpu_is_what_plan_prints(here: Path) -> None:
    text = (ROOT / "docs/gpu.md").read_text(encoding="utf-8")
    found = re.search(r"\$ python -m bula plan --params \S+ (.*)\n([^`]*)```", text)
    assert found
    arguments, shown = found.groups()
    code, output = call(*arguments.split())
    assert code == 0
    assert output.rstrip() == shown.rstrip()


def test_what_is_too_large_does_not_fit(here: Path) -> None:
    edit_params(here / "params.yaml", lambda params: params["train"].update(batch_size=16))
    code, output = call("--tokens-per-row", "250", "--gpus", "t4,h100")
    assert code == 0
    t4, h100 = (
        next(line for line in output.splitlines() if line.strip().startswith(name))
        for name in ("t4", "h100")
    )
    assert "DOES NOT FIT" in t4 and "fits" in h100 and "NOT" not in h100


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--gpus", "h100,b9000"],
            "--gpus: no GPU called b9000 is known. Name some of h100, a100-80gb, ",
        ),
        (["--gpus", "cpu"], "--rate: the device cpu needs it. Pass"),
        (["--utilisation", "40"], "--utilisation: 40.0 is no share"),
        (
            ["--model", "elsewhere"],
            "elsewhere/config.json: the file does not exist. Name a model directory by --model.",
        ),
    ],
)
def test_what_a_user_must_fix_is_one_sentence(
    here: Path, arguments: list[str], sentence: str
) -> None:
    code, output = call("--tokens-per-row", "250", *arguments)
    assert code == 1
    assert sentence in output and "Traceback" not in output


def test_without_base_or_rows_it_says_what_to_run(here: Path) -> None:
    code, output = call()
    assert (
        code == 1
        and "metrics/preprocess.json: it does not exist. Run `dvc repro preprocess`, or pass --tokens-per-row."
        in output
    )
    edit_params(
        here / "params.yaml", lambda params: params["ingest"]["base"].update(id="someone/else")
    )
    code, output = call("--tokens-per-row", "250")
    assert code == 1 and "Run `dvc repro ingest`" in output


def test_figures_of_another_profile_are_not_taken_for_this_ones(here: Path) -> None:
    """After `cp profiles/llama-3.2-1b.yaml params.yaml` metrics/ and models/base are still those of the default."""
    (here / "models/base").mkdir(parents=True)
    (here / "models/base/config.json").write_text(json.dumps(TINY), encoding="utf-8")
    (here / "metrics").mkdir()
    counts = {
        "train": {"examples": 10, "tokens": 2500, "tokens_longest": 400},
        "dev": {"tokens": 500},
    }
    (here / "metrics/preprocess.json").write_text(json.dumps(counts), encoding="utf-8")
    (here / "metrics/template.json").write_text(
        json.dumps({"supervised_share": 0.6}), encoding="utf-8"
    )
    params = load_params()
    stages: dict[str, Any] = {"ingest": {"ingest": params.ingest.model_dump()}}
    stages["preprocess"] = {
        "preprocess": params.preprocess.model_dump(),
        "ingest.sources": params.ingest.model_dump()["sources"],
    }

    def lock() -> None:
        entries = {name: {"params": {"params.yaml": values}} for name, values in stages.items()}
        (here / "dvc.lock").write_text(json.dumps({"stages": entries}), encoding="utf-8")

    lock()
    found = json.loads(call("--json")[1])
    assert (found["model"]["source"], found["rows"]["source"]) == (
        "models/base/config.json",
        "metrics/preprocess.json",
    )
    assert (
        found["rows"]["tokens_per_row"],
        found["rows"]["tokens_longest"],
        found["rows"]["supervised_share"],
    ) == (250.0, 400, 0.6)
    stages["ingest"]["ingest"]["base"]["revision"] = "0" * 40
    lock()
    assert "metrics/preprocess.json: it was written for other parameters" in call("--json")[1]
    assert json.loads(call("--json", "--tokens-per-row", "250")[1])["model"]["source"].startswith(
        "the known shape of meta-llama/"
    )
