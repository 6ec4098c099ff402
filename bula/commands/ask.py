"""Answer one question with a local model.

Run `python -m bula ask "Posso tomar dipirona com ibuprofeno?"`.
"""

from pathlib import Path
from typing import Annotated

import typer

from bula.escaping import terminal
from bula.params import load_params


def ask(
    question: Annotated[str, typer.Argument(help="A question in Portuguese.")],
    model: Annotated[Path, typer.Option(help="A model directory.")] = Path("models/merged"),
) -> None:
    """Print the model's answer to one question, under generate.decoding of params.yaml.

    This is not medical advice.
    """
    # torch is imported here, so that the other commands start without it.
    from bula.generation import generate_batch
    from bula.hardware import prepare_device, seed_everything
    from bula.models import load_model, load_tokenizer
    from bula.prompts import encode_prompt

    params = load_params()
    prepare_device(params.device, params.dtype)
    seed_everything(params.seed)
    tokenizer = load_tokenizer(model)
    loaded = load_model(model, params.dtype)
    prompt = encode_prompt(tokenizer, question)
    limits = params.generate
    [ids] = generate_batch(loaded, tokenizer, [prompt], limits.max_new_tokens, limits.decoding)
    text = tokenizer.decode(ids, skip_special_tokens=True)
    print(terminal(text.strip(), lines=True))
