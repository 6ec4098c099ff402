"""The `bula` command for people: ask the tuned model, write the table of results into the README, measure luck, or plan a run.

python -m bula ask "Posso tomar dipirona com ibuprofeno?"
python -m bula results
python -m bula seeds --count 3
python -m bula plan --gpus h100,l4
"""

from pathlib import Path
from typing import Annotated

import typer

from bula.errors import UserError, call
from bula.escaping import terminal
from bula.params import load_params
from bula.records import staged
from bula.seeds import measure_seeds
from bula.table import results_table

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
START, END = "<!-- results: written by `python -m bula results` -->\n", "<!-- end of results -->"


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="A question in Portuguese.")],
    model: Annotated[Path, typer.Option(help="A model directory.")] = Path("models/merged"),
) -> None:
    """Answer one question, greedily, with the tuned model. Not medical advice."""
    # Imported here: the other commands need no torch.
    from bula.models import end_tokens, load_model, load_tokenizer, prepare
    from bula.prompts import encode_prompt

    params = load_params()
    prepare(params.seed)
    tokenizer = load_tokenizer(model)
    loaded = load_model(model, params.dtype)
    ids = (
        loaded.dummy_inputs["input_ids"]
        .new_tensor([encode_prompt(tokenizer, question)])
        .to(loaded.device)
    )
    output = loaded.generate(
        input_ids=ids,
        attention_mask=ids.new_ones(ids.shape),
        do_sample=False,
        max_new_tokens=params.generate.max_new_tokens,
        eos_token_id=end_tokens(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
    )
    text = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    print(terminal(text.strip(), lines=True))


def with_results(readme: str, table: str) -> str:
    """Return the README with the table between its two marks; UserError if a mark is missing."""
    if START not in readme or END not in readme.split(START, 1)[1]:
        fix = f"put the lines {START.strip()!r} and {END!r} where the table belongs"
        raise UserError("README.md", "a mark of the table of results is missing", fix)
    before, rest = readme.split(START, 1)
    return before + START + table + END + rest.split(END, 1)[1]


@app.command()
def results(
    metrics: Annotated[Path, typer.Option(help="Folder of metrics.")] = Path("metrics"),
    readme: Annotated[Path, typer.Option(help="File to write into.")] = Path("README.md"),
) -> None:
    """Write the table of results, from metrics/ alone, into the README."""
    table = results_table(metrics, load_params())
    if not readme.is_file():
        raise UserError(
            readme,
            "the file does not exist",
            "name a file that has the marks of the table, with --readme",
        )
    text = with_results(readme.read_text(encoding="utf-8"), table)
    with staged(readme) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"results: {readme} holds the figures of {metrics}/")


@app.command()
def seeds(
    count: Annotated[int, typer.Option(min=2, help="Seeds, the pipeline's own among them.")],
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/seeds.json"),
) -> None:
    """Train and score with further seeds, and write how far each figure spreads; `dvc repro` then marks the differences."""
    spreads = measure_seeds(count, metrics)
    print(f"seeds: {count} seeds, the spread of {len(spreads)} figures in {metrics}")


@app.command()
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
    """What training will take: parameters, tokens, FLOPs, memory by part, hours on each device."""
    import json

    from bula.plan import find_config, find_launch, find_rows, lines, make_plan

    values, root = load_params(params), Path()
    rows = find_rows(values, root, tokens_per_row, supervised_share, dev_rows)
    config = find_config(values, root, model)
    launch = find_launch(values, root)
    made = make_plan(values, config, rows, launch, gpus.split(","), utilisation, rate)
    print(json.dumps(made) if as_json else "\n".join(lines(made)))


if __name__ == "__main__":
    call(app)
