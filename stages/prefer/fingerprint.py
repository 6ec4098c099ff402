"""Find the checkpoints of DPO runs with the same inputs."""

from pathlib import Path

from bula.checkpoints import CHECKPOINTS, code_files, fingerprint
from bula.models import list_model_files
from bula.params import Params, Prefer
from stages.prefer.pairs import refuse_missing_file

CODE = code_files(Path(__file__).parent, ("question_groups", "text"))


def checkpoint_folder(params: Params, entry: Prefer, base: Path, tuned: Path) -> Path:
    """Return the folder for the checkpoints of this run.

    A run with other pairs, parameters, models or code has another folder. Raise a UserError if the
    pairs or a model do not exist.
    """
    settings = [entry.model_dump(), params.preprocess.max_tokens]
    pairs = Path(entry.pairs)
    refuse_missing_file(pairs)
    files = [pairs, *list_model_files(base), *list_model_files(tuned), *CODE]
    return CHECKPOINTS / fingerprint(params, settings, files)
