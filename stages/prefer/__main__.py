"""Tune the adapter on preference pairs by DPO, and merge it.

TRL's DPOTrainer continues the tuned adapter on the pairs of one entry of `prefer` in params.yaml.
The reference is the tuned adapter. Pairs of some questions are held out and scored. The merged
model is one more model for `variants`. A killed run resumes from its checkpoints, which lie in
.bula/checkpoints/FINGERPRINT, outside DVC's outputs.

    python -m stages.prefer NAME
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from bula.errors import UserError, run_stage
from bula.hardware import prepare_device, seed_everything
from bula.model_cards import Documents
from bula.params import Params, Prefer, load_params
from bula.reports import write_metrics


def entry_of(params: Params, name: str) -> Prefer:
    """Return the entry of `prefer` with this name.

    A UserError for an unknown name lists the names in params.yaml.
    """
    if name not in params.prefer:
        known = ", ".join(params.prefer) or "nothing"
        raise UserError("params.yaml", f"prefer has no {name!r}", f"it names {known}")
    return params.prefer[name]


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Exit with a sentence on SIGTERM, which also arrives when dvc exits."""

    def stop(*_: Any) -> None:
        raise SystemExit("prefer: stopped; run it again to resume from its last checkpoint")

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class Inputs(NamedTuple):
    """The folders that training reads."""

    base: Path
    """Base model."""
    tuned: Path
    """Tuned adapter."""
    clean: Path
    """Folder of validation/."""
    checkpoints: Path
    """Checkpoints of this run; empty or missing at first."""


def tune(params: Params, name: str, inputs: Inputs, adapter: Path) -> dict[str, Any]:
    """Train the adapter, write it, and return the figures of run and held-out pairs."""
    from bula.adapter_files import save_adapter
    from bula.model_cards import describe_base
    from bula.models import load_adapted, load_tokenizer
    from stages.prefer.cards import adapter_documents
    from stages.prefer.figures import preference_figures, score_pairs
    from stages.prefer.pairs import hold_out, read_pairs, validation_keys
    from stages.prefer.trainer import train_pairs

    entry = entry_of(params, name)
    path = Path(entry.pairs)
    tokenizer = load_tokenizer(inputs.base)
    validation = validation_keys(inputs.clean / "validation")
    pairs = read_pairs(path, validation, tokenizer, params.preprocess.max_tokens)
    train, held_out = hold_out(pairs, entry.held_out_share, path)
    model = load_adapted(inputs.base, inputs.tuned, params.dtype)
    before = score_pairs(model, held_out, tokenizer.pad_token_id)
    figures = train_pairs(params, entry, model, tokenizer, train, inputs.checkpoints)
    after = score_pairs(model.eval(), held_out, tokenizer.pad_token_id)
    groups = [pair.group for pair in held_out]
    scored = preference_figures(before, after, groups, entry, params.sampling_seed)
    counts = {"train": len(train), "held_out": len(held_out)}
    found: dict[str, Any] = {"pairs": counts, **figures, "held_out": scored}
    documents = adapter_documents(params, name, found, inputs.base)
    save_adapter(model, describe_base(params.ingest.base), documents, adapter)
    return found


def merge(
    params: Params, name: str, inputs: Inputs, figures: dict[str, Any], output: Path
) -> dict[str, Any]:
    """Merge the adapter in `output`, and return the figures of the merge."""
    from bula.merging import Figures, merge_adapter
    from stages.prefer.cards import merged_documents

    def write_documents(before: Figures) -> Documents:
        return merged_documents(params, name, figures, before, inputs.base)

    adapter = output / "adapter"
    merged = output / "merged"
    return dict(merge_adapter(params, inputs.base, adapter, inputs.clean, merged, write_documents))


def main(
    name: Annotated[str, typer.Argument(help="Name of an entry of prefer.")],
    base: Annotated[Path, typer.Option(help="Base model.")] = Path("models/base"),
    tuned: Annotated[Path, typer.Option(help="Tuned adapter.")] = Path("models/adapter"),
    clean: Annotated[Path, typer.Option(help="Folder of validation/.")] = Path("data/clean"),
    models: Annotated[Path, typer.Option(help="Folder for models.")] = Path("models/prefer"),
    metrics: Annotated[Path, typer.Option(help="Folder for metrics.")] = Path("metrics/prefer"),
) -> None:
    """Train the adapter on pairs, merge it, and check the merged model."""
    from bula.checkpoints import delete_checkpoints, exclusive_run
    from stages.prefer.fingerprint import checkpoint_folder

    params = load_params()
    prepare_device(params.device, params.dtype)
    seed_everything(params.seed)
    entry = entry_of(params, name)
    folder = checkpoint_folder(params, entry, base, tuned)
    inputs = Inputs(base, tuned, clean, folder)
    with exit_on_sigterm(), exclusive_run(folder):
        figures = tune(params, name, inputs, models / name / "adapter")
        figures |= merge(params, name, inputs, figures, models / name)
        write_metrics(metrics / f"{name}.json", figures)
        # The checkpoints are deleted last, so that a kill before this line costs no step.
        delete_checkpoints(folder)
    loss = figures["held_out"]["loss_nats"]
    merged = models / name / "merged"
    print(f"prefer: {name} has a held-out loss of {loss:.4f} nats (0.6931 before), in {merged}")


if __name__ == "__main__":
    smaller = "lower batch_size in the section prefer"
    run_stage(main, less_memory=f"{smaller}, or set gradient_checkpointing: true there")
