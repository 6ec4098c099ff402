"""Find what a plan needs to know, and print the plan."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from ruamel.yaml import YAML

from bula.errors import UserError
from bula.model_files import MOST_JSON_BYTES, read_object
from bula.params import DirectoryModel, HubModel, Params, load_params

# Shapes of models that a plan may be wanted for before anything was fetched, by their id on the hub: their config.json.
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

if TYPE_CHECKING:
    from bula.training_cost import Rows


def locked(lock: Path, stage: str) -> dict[str, Any] | None:
    """The parameters of a stage's last run, by dvc.lock; None if nothing is known of it."""
    stages = (
        (YAML(typ="safe").load(lock.read_text(encoding="utf-8")) or {}).get("stages", {})
        if lock.exists()
        else {}
    )
    found: dict[str, Any] | None = stages.get(stage, {}).get("params", {}).get("params.yaml")
    return found


def base_is_current(params: Params, lock: Path) -> bool:
    """Whether models/base is the model that params.yaml names: it stays in place when another profile is copied there."""
    found = locked(lock, "ingest")
    return found is None or bool(found["ingest"]["base"] == params.ingest.base.model_dump())


def rows_are_current(params: Params, lock: Path) -> bool:
    """Whether metrics/preprocess.json counts the rows that params.yaml describes, in tokens of its base model."""
    found = locked(lock, "preprocess")
    ours = (params.preprocess.model_dump(), params.ingest.model_dump()["sources"])
    return found is None or (
        (found["preprocess"], found["ingest.sources"]) == ours and base_is_current(params, lock)
    )


def find_config(params: Params, root: Path, model: Path | None) -> tuple[str, dict[str, Any]]:
    """Where the base model's shape was found, and its config.json; UserError says what to do if there is none."""
    source = params.ingest.base
    named = [model] if model else [Path(source.path)] if isinstance(source, DirectoryModel) else []
    if not named and base_is_current(params, root / "dvc.lock"):
        named = [Path("models/base")]
    for folder in named:
        file = root / folder / "config.json"
        if file.exists():
            return str(folder / "config.json"), read_object(file, MOST_JSON_BYTES)
    if model:
        raise UserError(
            model / "config.json", "the file does not exist", "name a model directory by --model"
        )
    if isinstance(source, HubModel) and source.id in KNOWN_SHAPES:
        return f"the known shape of {source.id}", KNOWN_SHAPES[source.id]
    fix = "run `dvc repro ingest`, or name a directory with its config.json by --model"
    raise UserError("models/base", "the base model of params.yaml is not there", fix)


def find_rows(
    params: Params, root: Path, given: float | None, share: float | None, dev_rows: int | None
) -> "Rows":
    """The training rows by metrics/, or as `given` in tokens a row; UserError asks for that where metrics are of another run.

    Without metrics the longest row is preprocess.max_tokens, and every token counts as supervised unless `share` is given.
    """
    from bula.training_cost import Rows

    counts, template = root / "metrics/preprocess.json", root / "metrics/template.json"
    if given is not None:
        dev = None if dev_rows is None else dev_rows * given
        return Rows(
            "--tokens-per-row",
            None,
            given,
            params.preprocess.max_tokens,
            1.0 if share is None else share,
            dev,
        )
    if not counts.exists() or not rows_are_current(params, root / "dvc.lock"):
        why = "was written for other parameters" if counts.exists() else "does not exist"
        raise UserError(
            "metrics/preprocess.json",
            f"it {why}",
            "run `dvc repro preprocess`, or pass --tokens-per-row",
        )
    found = json.loads(counts.read_text(encoding="utf-8"))
    train, dev = found["train"], float(found["dev"]["tokens"])
    if share is None:
        share = (
            json.loads(template.read_text(encoding="utf-8"))["supervised_share"]
            if template.exists()
            else 1.0
        )
    mean = train["tokens"] / train["examples"]
    return Rows(
        "metrics/preprocess.json", train["examples"], mean, train["tokens_longest"], share, dev
    )


def find_launch(params: Params, root: Path) -> dict[str, Any]:
    """accelerate/NAME.yaml as train.launch names it; UserError if there is none."""
    file = root / f"accelerate/{params.train.launch}.yaml"
    if not file.exists():
        raise UserError(
            file,
            "the file does not exist",
            "train.launch names a configuration of accelerate there",
        )
    found: dict[str, Any] = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    return found


def duration(hours: float) -> str:
    """Hours as people say them."""
    return (
        f"{hours * 3600:.3g} s"
        if hours < 1 / 60
        else f"{hours * 60:.3g} min"
        if hours < 1
        else f"{hours:.3g} h"
    )


def lines(plan: dict[str, Any]) -> list[str]:
    """The plan as a table for people. GB is 10^9 bytes."""
    model, rows, run = plan["model"], plan["rows"], plan["run"]
    text = [
        f"base model       {model['base']:>16,} parameters ({model['source']})",
        f"adapter          {model['trainable']:>16,} parameters, {model['trainable_share']:.2%} of both",
        f"rows             {run['rows']:>16,} = {run['steps']:,} steps x {run['rows_per_step']} ({epochs(plan)})",
        f"tokens           {run['tokens']:>16,.0f} at {rows['tokens_per_row']:.1f} a row, {rows['supervised_share']:.1%} supervised",
        f"longest row      {rows['tokens_longest']:>16,} tokens",
        "dev                   not counted: give --dev-rows"
        if rows["dev_tokens"] is None
        else f"dev              {run['dev_tokens']:>16,.0f} tokens in {run['dev_evaluations']} evaluations",
        "",
        "FLOPs",
        *(
            f"  {name:14} {value:>16.4g}  {value / plan['flops']['total']:6.1%}"
            for name, value in plan["flops"].items()
        ),
    ]
    for kind, parts in plan["memory_bytes"].items():
        text += [
            "",
            f"memory, {kind.upper()}, GB a device",
            *(f"  {name:16} {value / 1e9:>14.3f}" for name, value in parts.items()),
        ]
    text += ["", f"time at {plan['utilisation']:.0%} of a device's rate"]
    for name, device in plan["devices"].items():
        fits = (
            ""
            if device["fits"] is None
            else f"{'fits' if device['fits'] else 'DOES NOT FIT'}, {device['memory_share']:.0%} of {device['memory_bytes'] / 1e9:.0f} GB"
        )
        cells = (
            f"{device['count']} x {device['flops_per_second'] / 1e12:.4g} TFLOP/s",
            duration(device["hours"]),
            fits,
            device["note"],
        )
        text.append(
            f"  {name:10} {cells[0]:>20} {cells[1]:>10}  {', '.join(cell for cell in cells[2:] if cell)}"
        )
    return text


def epochs(plan: dict[str, Any]) -> str:
    """How often the run goes through its examples, by their tokens: a packed row holds several of them."""
    examples = plan["rows"]["examples"]
    if not examples:
        return "epochs unknown"
    return f"{plan['run']['tokens'] / (examples * plan['rows']['tokens_per_row']):.2f} epochs of {examples:,}"


def plan(
    gpus: Annotated[
        str, typer.Option(help="Devices, by commas; an unknown name prints the known ones.")
    ] = "h100,a100-80gb,l4,rtx-4090,t4",
    utilisation: Annotated[
        float,
        typer.Option(
            help="Share of its rate that a device reaches: an assumption until you measured it."
        ),
    ] = 0.4,
    rate: Annotated[
        float | None,
        typer.Option(help="GFLOP/s of this machine's matrix products, for the device cpu."),
    ] = None,
    tokens_per_row: Annotated[
        float | None, typer.Option(help="Mean tokens of a training row, in place of metrics/.")
    ] = None,
    supervised_share: Annotated[
        float | None, typer.Option(help="Supervised tokens / all tokens, in place of metrics/.")
    ] = None,
    dev_rows: Annotated[
        int | None, typer.Option(help="Rows of dev, with --tokens-per-row.")
    ] = None,
    params: Annotated[Path, typer.Option(help="File of parameters.")] = Path("params.yaml"),
    model: Annotated[
        Path | None,
        typer.Option(help="A model directory, in place of the base that params.yaml names."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print what training will take: FLOPs, memory and hours on each device."""
    # Imported here because the other commands need no torch.
    from bula.training_cost import make_plan

    values, root = load_params(params), Path()
    rows = find_rows(values, root, tokens_per_row, supervised_share, dev_rows)
    config = find_config(values, root, model)
    launch = find_launch(values, root)
    made = make_plan(values, config, rows, launch, gpus.split(","), utilisation, rate)
    print(json.dumps(made) if as_json else "\n".join(lines(made)))
