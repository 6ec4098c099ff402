"""Define what all steps of a dry run share."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from openai import OpenAIError
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from bula.divergence import Scored, score_examples
from bula.errors import UserError, is_machine_error
from bula.models import LIBRARY_ERRORS
from bula.params import DirectoryModel, HubModel, ModelSource, Params, WheelsModel
from bula.prompts import Encoded
from bula.trial_example import TRIAL

# The second question is longer than the window of a cut (stages/dry_run/cut.py).
PAIRS = (
    (TRIAL.question, TRIAL.answer),
    ("Tomo dipirona há dois dias. " * 30 + "Devo parar?", "Pare e procure atendimento."),
    ("Dói?", "Não."),
)
ANSWER_TOKENS = 8
OTHER_BASE = "use another base model in ingest.base"
REASON_CHARACTERS = 300


class Trial(NamedTuple):
    """The parts that all steps of a dry run share."""

    base: str
    """Name of the base model, for messages."""
    params: Params
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    encoded: list[Encoded]
    folder: Path
    """Folder for the cut and everything made of it."""

    @property
    def short(self) -> list[Encoded]:
        """Return the rows whose logits fit into little memory."""
        return [self.encoded[0], self.encoded[-1]]


def name_of(source: ModelSource) -> str:
    """Return the name of a model for messages."""
    if isinstance(source, DirectoryModel):
        return source.path
    if isinstance(source, HubModel):
        return source.id
    first = source.parts[0] if isinstance(source, WheelsModel) else source
    return f"{first.package}=={first.version}"


@contextmanager
def step(base: str, name: str, fix: str) -> Iterator[None]:
    """Print the seconds of a step, and turn its errors into a UserError.

    The libraries raise many kinds of errors for a model that they cannot process. A full disk and
    too little memory are not the model's fault, and these errors pass.
    """
    started = time.perf_counter()
    try:
        yield
    except UserError as error:
        if is_machine_error(error):
            raise
        raise UserError(base, f"its dry run fails at {name}: {error.what}", fix) from error
    except (*LIBRARY_ERRORS, OpenAIError) as error:
        if is_machine_error(error):
            raise
        message = " ".join(str(error).split())[:REASON_CHARACTERS]
        reason = f"{type(error).__name__}: {message}"
        raise UserError(base, f"its dry run fails at {name} ({reason})", fix) from error
    print(f"dry_run: {name}, {time.perf_counter() - started:.1f} s", flush=True)


def as_saved(trial: Trial, model: PreTrainedModel) -> PreTrainedModel:
    """Return a model in the precision of the saved weights."""
    converted: PreTrainedModel = model.to(getattr(torch, trial.params.dtype))
    return converted


def score(trial: Trial, model: PreTrainedModel) -> list[Scored]:
    """Return the logits of each trial row."""
    return list(score_examples(model, trial.encoded, trial.tokenizer.pad_token_id))
