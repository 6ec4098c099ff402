"""Fetch the encoder of BERTScore, check it, and write it."""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from bula.files import make_readable, staged, write_documents
from bula.model_cards import received_legal_files
from bula.models import library_errors, load_encoder, load_plain_tokenizer
from bula.params import BaseEncoder, Encoder, HubModel, Limits
from stages.models.downloads import MODEL_FILES, locate_model

PICKLE = "pytorch_model.bin"
# Older encoders, such as BERTimbau, have no other weights and no other vocabulary.
ENCODER_FILES = (*MODEL_FILES, "vocab.txt", PICKLE)
BASE_NOTE = "The encoder is the base model in models/base; params.yaml says so.\n"


def fetch_encoder(source: Encoder, path: Path, limits: Limits) -> None:
    """Fetch the encoder, and write it as a directory of safetensors in float32.

    If the encoder is the base model, write only a note. Raise UserError if the encoder cannot be
    fetched or used.
    """
    with tempfile.TemporaryDirectory() as folder, staged(path) as temporary:
        temporary.mkdir()
        if isinstance(source, BaseEncoder):
            (temporary / "README.md").write_text(BASE_NOTE, encoding="utf-8")
            return
        found = locate_model(source, Path(folder), limits, ENCODER_FILES)
        if isinstance(source, HubModel):
            replace_pickle(found)
        load_encoder(found).save_pretrained(temporary)
        load_plain_tokenizer(found).save_pretrained(temporary)
        write_documents(temporary, received_legal_files(found))
        make_readable(temporary)


def replace_pickle(folder: Path) -> None:
    """Replace pickled weights by safetensors, in place.

    torch reads only tensors from the pickle (`weights_only`) and runs no code of it. If there are
    safetensors, the pickle is only deleted. Raise UserError if it is broken.
    """
    pickle = folder / PICKLE
    if not pickle.exists():
        return
    if not list(folder.glob("*.safetensors")):
        with library_errors(pickle):
            weights = torch.load(pickle, map_location="cpu", weights_only=True)
            # safetensors refuses tensors that share memory, such as a tied head.
            copies = {name: weight.clone().contiguous() for name, weight in weights.items()}
            save_file(copies, folder / "model.safetensors", metadata={"format": "pt"})
    pickle.unlink()
