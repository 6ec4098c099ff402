"""Write the cards of the preferred adapter and of its merged model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bula.model_cards import (
    ADAPTER,
    MERGED,
    Documents,
    describe_base,
    documents,
    model_name,
)
from bula.params import Params

Figures = Mapping[str, Mapping[str, Any]]


def _training(name: str, figures: Figures) -> str:
    """Return the sentences about the training on pairs."""
    held_out = figures["held_out"]
    return f"""
The tuned LoRA adapter was trained further on preference pairs by DPO (run `{name}`). A preference
is an opinion of its raters, and a preferred answer can be wrong.

- Pairs: {figures["pairs"]["train"]} for training, {held_out["items"]} held out
- Loss on held-out pairs: {held_out["loss_nats"]:.6g} nats (ln 2 = 0.693147 before training)
- Held-out pairs whose chosen answer has the higher reward: {held_out["reward_accuracy"]:.1%}
""".strip()


def adapter_documents(params: Params, name: str, figures: Figures, base_folder: Path) -> Documents:
    """Return the documents of the preferred adapter."""
    base = describe_base(params.ingest.base)
    title = f"{model_name(base)}: LoRA adapter for {base.name}, with preferences"
    return documents(params, ADAPTER, title, _training(name, figures), base_folder)


def merged_documents(
    params: Params, name: str, figures: Figures, before: Mapping[str, float], base_folder: Path
) -> Documents:
    """Return the documents of the merged model; `before` are its figures before the cast."""
    base = describe_base(params.ingest.base)
    body = f"""
{_training(name, figures)}
- Perplexity: {before["perplexity"]:.6g} on {before["items"]} validation examples

The adapter is merged into the weights of the base model.
"""
    title = f"{model_name(base)}, with preferences"
    return documents(params, MERGED, title, body, base_folder)
