"""Look up the inputs of a plan, and print the plan.

bula/training_cost.py contains the formulas of train, and bula/run_cost.py those of the other
stages.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from ruamel.yaml import YAML

from bula.errors import UserError
from bula.launch import find_configuration, read_configuration
from bula.params import DirectoryModel, HubModel, Params, load_params
from bula.rates import ASSUMPTIONS, GPUS, Gpu, assumed
from bula.records import SET_NAMES

# These modules import torch, and no other command may wait for that.
if TYPE_CHECKING:
    from bula.training_cost import Device, Plan, Rows

# Parts of config.json of models that can be planned before they are fetched, by their hub id.
KNOWN_SHAPES: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-3.2-1B-Instruct": {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
    }
}
# TRL 1.16 selects supervised tokens before the head only where Triton runs.
TRL_ON_CPU_NOTE = "an underestimate: on a CPU TRL's head computes all tokens"


# --- inputs ------------------------------------------------------------------------------------


def locked_params(lock: Path, stage: str) -> dict[str, Any] | None:
    """Return the parameters of a stage's last run from dvc.lock.

    None means that dvc.lock does not contain the stage.
    """
    if not lock.exists():
        return None
    content = YAML(typ="safe").load(lock.read_text(encoding="utf-8")) or {}
    entry = content.get("stages", {}).get(stage, {})
    found: dict[str, Any] | None = entry.get("params", {}).get("params.yaml")
    return found


def base_is_current(params: Params, lock: Path) -> bool:
    """Return whether models/base is the base model of params.yaml.

    The model of another profile stays in place when params.yaml is replaced.
    """
    locked = locked_params(lock, "models")
    if locked is None:
        return True
    # Another chat template gives the same questions other tokens.
    same_template = locked["ingest.chat_template"] == params.ingest.chat_template
    return bool(same_template and locked["ingest.base"] == params.ingest.base.model_dump())


def rows_are_current(params: Params, lock: Path) -> bool:
    """Return whether metrics/preprocess.json counts the rows of params.yaml.

    Its tokens must be those of the base model of params.yaml, too.
    """
    locked = locked_params(lock, "preprocess")
    if locked is None:
        return True
    same_settings = locked["preprocess"] == params.preprocess.model_dump()
    same_sources = locked["ingest.sources"] == params.ingest.model_dump()["sources"]
    return same_settings and same_sources and base_is_current(params, lock)


def config_folders(params: Params, root: Path, model: Path | None) -> list[Path]:
    """Return the folders that may contain the base model's config.json."""
    base = params.ingest.base
    if model:
        return [model]
    if isinstance(base, DirectoryModel):
        return [Path(base.path)]
    if base_is_current(params, root / "dvc.lock"):
        return [Path("models/base")]
    return []


def find_config(params: Params, root: Path, model: Path | None) -> tuple[str, dict[str, Any]]:
    """Return the source and the content of the base model's config.json.

    `model` is the directory of --model. A missing file is a UserError.
    """
    # Imported here, because a reader of GGUF files takes a while to load.
    from bula.model_files import MOST_JSON_BYTES, read_object

    for folder in config_folders(params, root, model):
        file = root / folder / "config.json"
        if file.exists():
            return str(folder / "config.json"), read_object(file, MOST_JSON_BYTES)
    if model:
        file = model / "config.json"
        raise UserError(file, "the file does not exist", "name a model directory by --model")
    base = params.ingest.base
    if isinstance(base, HubModel) and base.id in KNOWN_SHAPES:
        return f"the known shape of {base.id}", KNOWN_SHAPES[base.id]
    what = "the base model of params.yaml does not exist here"
    fix = "run `dvc repro models`, or name a directory with its config.json by --model"
    raise UserError("models/base", what, fix)


def rows_of_options(
    params: Params,
    tokens_per_row: float,
    supervised_share: float | None,
    dev_rows: int | None,
    shared_tokens: int | None,
) -> "Rows":
    """Return the training rows that the command line describes.

    The longest row has preprocess.max_tokens. Without a share, all tokens count as supervised, and
    without a number of shared tokens, rows share none.
    """
    from bula.training_cost import Rows

    return Rows(
        source="--tokens-per-row",
        examples=None,
        tokens_per_row=tokens_per_row,
        tokens_longest=params.preprocess.max_tokens,
        supervised_share=1.0 if supervised_share is None else supervised_share,
        dev_tokens=None if dev_rows is None else dev_rows * tokens_per_row,
        shared_tokens=shared_tokens or 0,
    )


def read_template_figures(root: Path) -> dict[str, Any]:
    """Return metrics/template.json of the last training run, or {} before the first."""
    file = root / "metrics/template.json"
    if not file.exists():
        return {}
    figures: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return figures


def rows_of_metrics(
    params: Params, root: Path, supervised_share: float | None, shared_tokens: int | None
) -> "Rows":
    """Return the training rows that metrics/ describe.

    Before the first training run, all tokens count as supervised, and rows share none.

    Metrics that are missing or belong to other parameters are a UserError.
    """
    from bula.training_cost import Rows

    file = root / "metrics/preprocess.json"
    what = None
    if not file.exists():
        what = "the file does not exist"
    elif not rows_are_current(params, root / "dvc.lock"):
        what = "the file was written for other parameters"
    if what:
        fix = "run `dvc repro preprocess`, or pass --tokens-per-row"
        raise UserError("metrics/preprocess.json", what, fix)
    counts = json.loads(file.read_text(encoding="utf-8"))
    train = counts["train"]
    template = read_template_figures(root)
    if supervised_share is None:
        supervised_share = template.get("supervised_share", 1.0)
    if shared_tokens is None:
        shared_tokens = template.get("shared_tokens", 0)
    return Rows(
        source="metrics/preprocess.json",
        examples=train["examples"],
        tokens_per_row=train["tokens"] / train["examples"],
        tokens_longest=train["tokens_longest"],
        supervised_share=supervised_share,
        dev_tokens=float(counts["dev"]["tokens"]),
        shared_tokens=shared_tokens,
    )


def count_validation_rows(params: Params, root: Path) -> int:
    """Return the rows of the smallest validation set.

    Before preprocess ran, each set is taken to have generate.items_per_set rows.
    """
    file = root / "metrics/preprocess.json"
    if not file.exists() or not rows_are_current(params, root / "dvc.lock"):
        return params.generate.items_per_set
    counts = json.loads(file.read_text(encoding="utf-8"))
    return min(int(counts[name]["examples"]) for name in SET_NAMES)


def find_launch(params: Params, root: Path) -> dict[str, Any]:
    """Return the content of accelerate/NAME.yaml, named by train.launch.

    A file that is missing, broken or for another device is a UserError.
    """
    file = find_configuration(params.train.launch, root / "accelerate")
    return read_configuration(file, params.device)


def check_utilisation(utilisation: float) -> None:
    """Raise a UserError unless the utilisation is a share above 0."""
    if not 0 < utilisation <= 1:
        fix = "pass a share of the device's rate: above 0, at most 1"
        raise UserError("--utilisation", f"{utilisation} is not a share", fix)


def cpu_device(params: Params, gflops: float | None) -> "Device":
    """Return this machine's CPU at the rate of --rate."""
    from bula.training_cost import Device

    if not gflops:
        fix = (
            "pass this machine's GFLOP/s of matmuls, which `python -m bench.train` prints as "
            "product_gflops (with train.kernels trl, as plain_product_gflops)"
        )
        raise UserError("--rate", "the device cpu needs this option", fix)
    note = "by --rate"
    if params.train.kernels == "trl":
        note = f"{note}, {TRL_ON_CPU_NOTE}"
    return Device(gflops * 1e9, None, 0.0, note)


def gpu_device(params: Params, gpu: Gpu) -> "Device":
    """Return a GPU at its rate for the precision of params.yaml."""
    from bula.training_cost import Device

    rate = gpu.bfloat16 if params.dtype == "bfloat16" else gpu.float32
    return Device(rate, gpu.memory, assumed("launch_us") / 1e6, gpu.source)


def choose_devices(
    names: Sequence[str], params: Params, cpu_gflops: float | None
) -> dict[str, "Device"]:
    """Return the devices that --gpus names.

    The UserError for an unknown name lists the known names.
    """
    unknown = [name for name in names if name not in (*GPUS, "cpu")]
    if unknown:
        what = f"unknown device: {', '.join(unknown) or '(empty)'}"
        raise UserError("--gpus", what, f"name some of {', '.join(GPUS)} and cpu")
    devices = {}
    if "cpu" in names:
        devices["cpu"] = cpu_device(params, cpu_gflops)
    devices |= {name: gpu_device(params, GPUS[name]) for name in names if name != "cpu"}
    return {name: devices[name] for name in names}


# --- output ------------------------------------------------------------------------------------


def format_hours(hours: float) -> str:
    """Return hours in the unit that reads best."""
    if hours < 1 / 60:
        return f"{hours * 3600:.3g} s"
    if hours < 1:
        return f"{hours * 60:.3g} min"
    return f"{hours:.3g} h"


def format_epochs(plan: Mapping[str, Any]) -> str:
    """Return the epochs of the run, by tokens.

    Rows are no measure, because a packed row contains several examples.
    """
    rows = plan["rows"]
    examples = rows["examples"]
    if not examples:
        return "epochs unknown"
    epochs = plan["run"]["tokens"] / (examples * rows["tokens_per_row"])
    return f"{epochs:.2f} epochs of {examples:,}"


def format_counts(plan: Mapping[str, Any]) -> list[str]:
    """Return the lines about model, rows and tokens."""
    model = plan["model"]
    rows = plan["rows"]
    run = plan["run"]
    steps = f"{run['steps']:,} steps x {run['rows_per_step']}"
    adapter_share = f"{model['trainable_share']:.2%} of both"
    share = f"{rows['supervised_share']:.1%} supervised"
    dev = "dev                   not counted: pass --dev-rows"
    if rows["dev_tokens"] is not None:
        evaluations = f"{run['dev_evaluations']} evaluations"
        dev = f"dev              {run['dev_tokens']:>16,.0f} tokens in {evaluations}"
    return [
        f"base model       {model['base']:>16,} parameters ({model['source']})",
        f"adapter          {model['trainable']:>16,} parameters, {adapter_share}",
        f"rows             {run['rows']:>16,} = {steps} ({format_epochs(plan)})",
        f"tokens           {run['tokens']:>16,.0f}, {rows['tokens_per_row']:.1f} per row, {share}",
        f"longest row      {rows['tokens_longest']:>16,} tokens",
        f"shared by rows   {rows['shared_tokens']:>16,} tokens",
        dev,
    ]


def format_flops(parts: Mapping[str, float]) -> list[str]:
    """Return the lines about FLOPs."""
    lines = ["", "FLOPs"]
    for name, value in parts.items():
        share = value / parts["total"]
        lines.append(f"  {name:14} {value:>16.4g}  {share:6.1%}")
    return lines


def format_memory(kind: str, parts: Mapping[str, float]) -> list[str]:
    """Return the lines about memory on one kind of device."""
    lines = ["", f"memory, {kind.upper()}, GB per device"]
    for name, value in parts.items():
        lines.append(f"  {name:16} {value / 1e9:>14.3f}")
    return lines


def format_device(name: str, device: Mapping[str, Any]) -> str:
    """Return the line about the hours of train on one device."""
    rate = f"{device['count']} x {device['flops_per_second'] / 1e12:.4g} TFLOP/s"
    hours = format_hours(device["hours"])
    remarks = []
    if device["launch_hours"] > device["compute_hours"]:
        remarks.append(f"waits for launches (FLOPs: {format_hours(device['compute_hours'])})")
    if device["fits"] is not None:
        verdict = "fits" if device["fits"] else "DOES NOT FIT"
        gigabytes = device["memory_bytes"] / 1e9
        remarks.append(f"{verdict}, {device['memory_share']:.0%} of {gigabytes:.0f} GB")
    remarks.append(device["note"])
    return f"  {name:10} {rate:>20} {hours:>10}  {', '.join(remarks)}"


def format_stages(name: str, stages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of all stages on one GPU."""
    bandwidth = GPUS[name].bandwidth / 1e12
    title = f"all stages on one {name} with {bandwidth:g} TB/s"
    lines = ["", f"{title:38}    min  on the GPU"]
    for stage in stages:
        minutes = f"{stage['seconds'] / 60:>10.1f} {stage['card_seconds'] / 60:>11.1f}"
        lines.append(f"  {stage['stage']:26} {minutes}  {stage['reason']}")
    total = sum(stage["seconds"] for stage in stages)
    busy = sum(stage["card_seconds"] for stage in stages)
    minutes = f"{total / 60:>10.1f} {busy / 60:>11.1f}"
    lines.append(f"  {'total':26} {minutes}  kernels run for {busy / total:.0%} of the time")
    return lines


def format_assumptions() -> list[str]:
    """Return one line per assumed rate."""
    lines = ["", "assumptions (bula/rates.py)"]
    lines += [f"  {name:22} {value:>9,g}  {text}" for name, (value, text) in ASSUMPTIONS.items()]
    return lines


def format_preferences(plan: Mapping[str, Any]) -> list[str]:
    """Return the lines about the stage prefer; without an entry there is none.

    The total is that of the longest pairs which preprocess.max_tokens allows.
    """
    lines = []
    kinds = list(plan["memory_bytes"])
    for name, entry in plan["prefer"].items():
        run = "its pairs are not here"
        if entry["pairs"]:
            run = f"{entry['pairs']:,} pairs, {entry['steps']:,} steps, "
            run += f"{entry['flops']['total']:.4g} FLOPs"
        needed = {kind: entry["memory_bytes"][kind]["total"] for kind in kinds}
        memory = [f"{value / 1e9:.3f} GB on {kind.upper()}" for kind, value in needed.items()]
        lines += ["", f"prefer@{name}: {run}; memory {', '.join(memory)}"]
        for device, found in plan["devices"].items():
            size = found["memory_bytes"]
            if size and needed["gpu"] > size:
                lines.append(f"  {device:10} DOES NOT FIT into {size / 1e9:.0f} GB")
    return lines


def format_plan(plan: Mapping[str, Any]) -> list[str]:
    """Return the lines of a plan as a table for people.

    GB is 10^9 bytes.
    """
    lines = format_counts(plan)
    lines += format_flops(plan["flops"])
    for kind, parts in plan["memory_bytes"].items():
        lines += format_memory(kind, parts)
    lines += ["", f"time of train, FLOPs at {plan['utilisation']:.0%} of a device's rate"]
    lines += [format_device(name, device) for name, device in plan["devices"].items()]
    lines += format_preferences(plan)
    for name, stages in plan["stages"].items():
        lines += format_stages(name, stages)
    if plan["stages"]:
        lines += format_assumptions()
    return lines


def plan_stages(
    made: "Plan", params: Params, config: Mapping[str, Any], rows: "Rows", root: Path
) -> dict[str, list[dict[str, Any]]]:
    """Return the time of each stage on each GPU of a plan.

    The other stages use one GPU, whatever the number that train uses.
    """
    from bula.run_cost import Card, Run, stage_times, train
    from bula.training_cost import count_shape

    shape = count_shape(config, params.train)
    validation_rows = count_validation_rows(params, root)
    found = {}
    for name, device in made["devices"].items():
        if name not in GPUS:
            continue
        card = Card(device["flops_per_second"] * made["utilisation"], GPUS[name].bandwidth)
        run = Run(params, shape, rows, validation_rows, card)
        launches = made["run"]["kernel_launches"]
        train_time = train(run, device["hours"] * 3600, device["compute_hours"] * 3600, launches)
        times = stage_times(run, train_time, made["prefer"])
        found[name] = [time._asdict() for time in times]
    return found


def add_stages(
    made: "Plan", params: Params, config: Mapping[str, Any], rows: "Rows", root: Path
) -> None:
    """Add the entries of prefer and the times of all stages to a plan."""
    from bula.preference_cost import plan_preferences
    from bula.training_cost import count_shape

    shape = count_shape(config, params.train)
    made["prefer"] = plan_preferences(params, shape, rows, root)
    made["stages"] = plan_stages(made, params, config, rows, root)


def plan(
    gpus: Annotated[
        str, typer.Option(help="Devices, separated by commas: GPU names or cpu.")
    ] = "h100,a100-80gb,l40s,l4,rtx-4090",
    utilisation: Annotated[
        float, typer.Option(help="Assumed share of its peak FLOP/s that a device reaches.")
    ] = 0.4,
    rate: Annotated[
        float | None, typer.Option(help="Matmul GFLOP/s of this machine; for --gpus cpu.")
    ] = None,
    tokens_per_row: Annotated[
        float | None, typer.Option(help="Mean tokens per training row, instead of metrics/.")
    ] = None,
    supervised_share: Annotated[
        float | None, typer.Option(help="Supervised tokens / all tokens, instead of metrics/.")
    ] = None,
    dev_rows: Annotated[
        int | None, typer.Option(help="Number of dev rows; used with --tokens-per-row.")
    ] = None,
    shared_tokens: Annotated[
        int | None, typer.Option(help="Tokens that begin every row, instead of metrics/.")
    ] = None,
    params: Annotated[Path, typer.Option(help="Parameter file.")] = Path("params.yaml"),
    model: Annotated[
        Path | None, typer.Option(help="Model directory, instead of the base of params.yaml.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Predict FLOPs, memory and hours of training, and each stage's time on each GPU."""
    # No other command waits for the import of torch.
    from bula.training_cost import make_plan

    values = load_params(params)
    root = Path()
    if tokens_per_row is None:
        rows = rows_of_metrics(values, root, supervised_share, shared_tokens)
    else:
        rows = rows_of_options(values, tokens_per_row, supervised_share, dev_rows, shared_tokens)
    check_utilisation(utilisation)
    config = find_config(values, root, model)
    launch = find_launch(values, root)
    devices = choose_devices(gpus.split(","), values, rate)
    made = make_plan(values, config, rows, launch, devices, utilisation)
    add_stages(made, values, config[1], rows, root)
    print(json.dumps(made) if as_json else "\n".join(format_plan(made)))
