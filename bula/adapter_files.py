"""Write a LoRA adapter with its documents.

The stages train and prefer share this code, so that both name the base model in the same way.
"""

from pathlib import Path
from typing import Any

from peft import PeftModel

from bula.files import make_readable, staged, write_documents
from bula.model_cards import Base, Documents

# PEFT's name of the adapter that is trained and written.
TRAINED = "default"


def save_adapter(
    model: PeftModel,
    base: Base,
    documents: Documents,
    path: Path,
    weights: dict[str, Any] | None = None,
) -> None:
    """Write the adapter TRAINED of a model and its documents to `path`.

    `weights` are those of all shards, where the model has only its own part.
    """
    for config in model.peft_config.values():
        # The order of a set changes from run to run.
        config.target_modules = sorted(config.target_modules)
        config.base_model_name_or_path = base.reference
        config.revision = base.revision
    with staged(path) as temporary:
        # By default PEFT would ask the hub for the base model, to compare vocabularies.
        model.save_pretrained(
            temporary,
            state_dict=weights,
            save_embedding_layers=False,
            selected_adapters=[TRAINED],
        )
        write_documents(temporary, documents)
        make_readable(temporary)
