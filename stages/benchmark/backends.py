"""Load or serve the model that lm-eval scores."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from lm_eval.models.huggingface import HFLM
from tenacity import RetryError

from bula.api_keys import key_for
from bula.errors import UserError
from bula.hardware import device
from bula.models import end_token_ids, load_model, load_tokenizer
from bula.params import ApiBackend, Backend, Params, VllmBackend
from bula.prompts import DATE
from bula.serving import Endpoint, VllmSettings, serve_vllm

# What aiohttp, tenacity and lm-eval raise over a request that failed or a reply of another shape.
SERVER_ERRORS = (
    OSError,
    aiohttp.ClientError,
    RetryError,
    LookupError,
    TypeError,
    ValueError,
)
# Longest time of one request to the stage's own server.
REQUEST_SECONDS = 600


@contextmanager
def backend(model: Path, params: Params) -> Iterator[dict[str, Any]]:
    """Yield the arguments of simple_evaluate that name the model.

    All arguments are chosen here, so that no text of params.yaml can name another model or make
    lm-eval run code.
    """
    chosen = params.benchmark.backend
    if chosen.kind == "hf":
        yield hf_backend(model, params)
        return
    if chosen.kind == "openai":
        yield {"model": "local-completions", "model_args": api_arguments(model, params, chosen)}
        return
    with serve_vllm(model, vllm_settings(params, chosen)) as [endpoint, *_]:
        end_ids = end_token_ids(load_tokenizer(model))
        yield {
            "model": "local-completions",
            "model_args": vllm_arguments(model, params, chosen, endpoint),
            "gen_kwargs": {"stop_token_ids": end_ids},
        }


def refuse_gguf_file(model: Path, chosen: Backend) -> None:
    """Raise UserError if the backend cannot read a GGUF file."""
    if chosen.kind != "hf" and model.suffix == ".gguf":
        what = f"benchmark.backend {chosen.kind} cannot score the GGUF file {model}"
        raise UserError("params.yaml", what, "set benchmark.backend to {kind: hf}")


def completions_arguments(model: Path, params: Params) -> dict[str, Any]:
    """Return the arguments of lm-eval's client that do not depend on the server.

    The prompt is tokenized here, as the hf backend does it: with the BOS token that the tokenizer
    adds by itself. A chat template writes its own.
    """
    # Loading checks the tokenizer's files before lm-eval opens them.
    tokenizer = load_tokenizer(model)
    adds_bos = tokenizer.bos_token_id in tokenizer("")["input_ids"]
    return {
        "tokenizer": str(model),
        "tokenizer_backend": "huggingface",
        "add_bos_token": adds_bos and not params.benchmark.chat_template,
        "trust_remote_code": False,
        "seed": params.sampling_seed,
    }


def vllm_settings(params: Params, chosen: VllmBackend) -> VllmSettings:
    """Return the settings of the vLLM server that scores."""
    return VllmSettings(
        parallel=params.benchmark.batch_size,
        context_tokens=chosen.max_model_len,
        dtype=params.dtype,
        seed=params.sampling_seed,
        gpu_memory_share=chosen.gpu_memory_utilization,
        gpus=chosen.tensor_parallel_size,
    )


def vllm_arguments(
    model: Path, params: Params, chosen: VllmBackend, endpoint: Endpoint
) -> dict[str, Any]:
    """Return the arguments of lm-eval's client of the vLLM server."""
    return {
        **completions_arguments(model, params),
        "model": model.name,
        "base_url": f"{endpoint.url}/completions",
        "header": {"Authorization": f"Bearer {endpoint.key}"},
        "max_length": chosen.max_model_len,
        # With one request at a time lm-eval uses a client that obeys proxy variables.
        "num_concurrent": 2,
        "timeout": REQUEST_SECONDS,
    }


def api_arguments(model: Path, params: Params, chosen: ApiBackend) -> dict[str, Any]:
    """Return the arguments of lm-eval's client of an OpenAI-compatible server.

    lm-eval reads the key from the environment, so this function sets the key for this host there.
    """
    os.environ["OPENAI_API_KEY"] = key_for(chosen.base_url)
    return {
        **completions_arguments(model, params),
        "model": chosen.model,
        "base_url": f"{chosen.base_url.rstrip('/')}/completions",
        "num_concurrent": chosen.num_concurrent,
        "timeout": chosen.timeout_seconds,
    }


def hf_backend(model: Path, params: Params) -> dict[str, Any]:
    """Return the arguments for a model that this process loads."""
    loaded = load_model(model, params.dtype)
    tokenizer = load_tokenizer(model)
    # lm-eval stops at the end tokens of the model's own settings. A GGUF file stores only one of
    # Llama 3's three.
    loaded.generation_config.eos_token_id = end_token_ids(tokenizer)
    served = HFLM(
        pretrained=loaded,
        tokenizer=tokenizer,
        batch_size=params.benchmark.batch_size,
        device=device(),
        # Without a fixed date, Llama 3.2's chat template writes today's.
        chat_template_args={"date_string": DATE},
    )
    return {"model": served}


@contextmanager
def server_errors(chosen: Backend) -> Iterator[None]:
    """Turn a failed request to a server into a UserError.

    The error does not repeat the server's words, which may contain the key. lm-eval logs every
    reply, so its log is switched off.
    """
    if chosen.kind == "hf":
        yield
        return
    where = "the vLLM server"
    fix = "lower benchmark.batch_size if the GPU's memory is full, and run the stage again"
    if chosen.kind == "openai":
        where = f"the server at {chosen.base_url}"
        fix = "check that it serves this model and supports `echo` with `logprobs`"
    logging.getLogger("lm_eval").setLevel(logging.CRITICAL + 1)
    try:
        yield
    except SERVER_ERRORS as error:
        what = f"a request failed, or its reply has another form ({type(error).__name__})"
        raise UserError(where, what, fix) from None
