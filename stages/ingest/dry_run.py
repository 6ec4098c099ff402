"""Try training and export on a small cut of the base model.

The cut (stages/ingest/cut.py) has the base's architecture, tokenizer and chat template, and random
weights. It goes through everything that the later stages do to the base: template, padding,
adapter, kernels, an optimizer step, merge, and each GGUF file, which transformers and llama.cpp
read back; llama.cpp also reads the adapter's file. A base that fails is refused here, before any
data is read.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from openai import OpenAIError
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from bula.divergence import LOGIT_TOLERANCE, Scored, divergence_metrics, score_examples
from bula.errors import UserError, is_machine_error
from bula.generation import generate_greedy
from bula.gguf_adapter import write_gguf_adapter
from bula.gguf_export import check_chat_metadata, export, refuse_divergent
from bula.lora import check_target_modules, lora_config, targets_in
from bula.model_kernels import ADAPTER_STD, add_answer_head, kernel_difference, use_kernels
from bula.models import (
    LIBRARY_ERRORS,
    end_token_ids,
    load_adapted,
    load_config,
    load_model,
    load_tokenizer,
    save_model,
)
from bula.params import (
    ChatColumns,
    DirectoryModel,
    HubModel,
    Lora,
    ModelSource,
    Params,
    WheelsModel,
)
from bula.prompts import FIX as FIX_TEMPLATE
from bula.prompts import (
    SYSTEM_PROMPT,
    Encoded,
    encode,
    encode_turns,
    has_system_role,
    render_text,
    to_chat,
)
from bula.records import Turn
from bula.scoring import Batch, check_head, pad_batch, unwrap_adapter
from bula.serving import open_client, serve_llama_cpp
from stages.ingest.cut import build_cut, empty_model
from stages.ingest.models import TRIAL

# The second question is longer than the window of a cut (stages/ingest/cut.py).
PAIRS = (
    (TRIAL.question, TRIAL.answer),
    ("Tomo dipirona há dois dias. " * 30 + "Devo parar?", "Pare e procure atendimento."),
    ("Dói?", "Não."),
)
# The first and the last row, which every model has room for.
SHORT_ROWS = 2
ANSWER_TOKENS = 8
# Float32's rounding in two layers stays below 2e-6.
KERNEL_TOLERANCE = 1e-5
# The adapter of the trial; train.lora sets only its modules, so that no other change of train.lora
# fetches the base model again.
RANK = 4
ALPHA = 8
# llama.cpp rounds activations to bfloat16, which moves a logit by about 1 % of the logits' spread.
TIE_SHARE = 0.1
OTHER_BASE = "use another base model in ingest.base"
FIX_KERNELS = {
    "fused": "set train.kernels to trl in params.yaml",
    "trl": "set train.kernels to fused in params.yaml, or use another base model",
}
FIX_ADAPTER = "set train.lora.target_modules to all-linear, or use another base model"
REASON_CHARACTERS = 300

Figures = dict[str, int | float | str]
# Sends a body to a path of a server, and returns the reply.
Ask = Callable[[str, dict[str, Any]], Any]


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
    print(f"ingest: dry run: {name}, {time.perf_counter() - started:.1f} s", flush=True)


def try_base(directory: Path, params: Params) -> Figures:
    """Try training and export of a base model, and return the figures.

    `directory` is the base that ingest wrote. Raise UserError at the first step that fails.
    """
    started = time.perf_counter()
    base = name_of(params.ingest.base)
    tokenizer = load_tokenizer(directory)
    config = load_config(directory)
    refuse_images(base, config)
    with tempfile.TemporaryDirectory() as name:
        with step(base, "chat template and padding", FIX_TEMPLATE):
            encoded = encode_trials(tokenizer, config)
        trial = Trial(base, params, config, tokenizer, encoded, Path(name))
        with step(base, "a cut with random weights", OTHER_BASE):
            save_model(as_saved(trial, build_cut(config)), tokenizer, trial.folder / "cut")
        try_conversation(trial)
        try_training(trial)
        figures = try_merge_and_export(trial)
    print(f"ingest: dry run: all steps, {time.perf_counter() - started:.1f} s", flush=True)
    return figures


def refuse_images(base: str, config: PreTrainedConfig) -> None:
    """Raise UserError if a model also reads images."""
    if getattr(config, "vision_config", None) is not None:
        what = "the model also reads images (vision_config in config.json)"
        raise UserError(base, what, "use a base model in ingest.base that reads only text")


def as_saved(trial: Trial, model: PreTrainedModel) -> PreTrainedModel:
    """Return a model in the precision of the saved weights."""
    converted: PreTrainedModel = model.to(getattr(torch, trial.params.dtype))
    return converted


# --- template ----------------------------------------------------------------------------------


def encode_trials(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> list[Encoded]:
    """Return the trial pairs as the model reads them.

    Raise UserError if the template loses a text, or the padding is a token that ends a turn.
    """
    encoded = []
    for question, answer in PAIRS:
        example = TRIAL.model_copy(update={"question": question, "answer": answer})
        item = encode(tokenizer, example)
        check_texts(tokenizer, item, question, answer)
        encoded.append(item)
    if tokenizer.pad_token_id in {item.completion[-1] for item in encoded}:
        raise UserError("tokenizer", "its padding token ends each turn", "set another pad_token")
    return within_context(encoded, config)


def within_context(encoded: list[Encoded], config: PreTrainedConfig) -> list[Encoded]:
    """Return the rows that fit into the model's context, which must be two or more."""
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if context is None:
        return encoded
    fitting = [item for item in encoded if len(item.input_ids) + ANSWER_TOKENS <= context]
    if len(fitting) < SHORT_ROWS:
        what = f"its context of {context} tokens is too short for a short question"
        raise UserError("config.json", what, OTHER_BASE)
    return fitting


def check_texts(
    tokenizer: PreTrainedTokenizerBase, encoded: Encoded, question: str, answer: str
) -> None:
    """Raise UserError if the rendered chat lacks one of its texts."""
    prompt = tokenizer.decode(encoded.prompt)
    completion = tokenizer.decode(encoded.completion)
    wanted = {
        "the system prompt": SYSTEM_PROMPT in prompt,
        "the question": question.strip() in prompt,
        "the answer": answer.strip() in completion,
    }
    missing = [name for name, is_there in wanted.items() if not is_there]
    if missing:
        what = f"its chat template leaves out {' and '.join(missing)}"
        raise UserError("chat template", what, FIX_TEMPLATE)


def try_conversation(trial: Trial) -> None:
    """Raise UserError if a source has conversations that the template changes."""
    columns = [getattr(source, "columns", None) for source in trial.params.ingest.sources]
    if not any(isinstance(found, ChatColumns) for found in columns):
        return
    question, answer = PAIRS[0]
    earlier = Turn(question=question, answer=answer)
    question, answer = PAIRS[-1]
    changes = {"question": question, "answer": answer, "history": [earlier]}
    example = TRIAL.model_copy(update=changes)
    with step(trial.base, "a conversation of two turns", OTHER_BASE):
        encode_turns(trial.tokenizer, example)


# --- training ----------------------------------------------------------------------------------


def try_training(trial: Trial) -> None:
    """Try adapter, kernels and an optimizer step, and save the adapter."""
    kernels = trial.params.train.kernels
    with step(trial.base, "target modules", "correct train.lora.target_modules in params.yaml"):
        check_target_modules(empty_model(trial.config), trial.params.train.lora)
        model = adapted_cut(trial, "float32")
    with step(trial.base, "the head of the model", OTHER_BASE):
        check_head(model)
    with step(trial.base, f"the {kernels} kernels", FIX_KERNELS[kernels]):
        check_kernels(model, batch_on(model, trial), kernels)
    # Two models would need twice the memory.
    del model
    with step(trial.base, "an optimizer step", OTHER_BASE):
        model = adapted_cut(trial, trial.params.dtype)
        use_trained(model, kernels)
        take_step(model, batch_on(model, trial), kernels)
        model.save_pretrained(trial.folder / "adapter")


def adapted_cut(trial: Trial, dtype: str) -> PeftModel:
    """Return the cut with an adapter whose output is not zero."""
    model = load_model(trial.folder / "cut", dtype)
    targets = targets_in(model, trial.params.train.lora.target_modules)
    lora = Lora(r=RANK, alpha=ALPHA, dropout=0.0, target_modules=targets)
    adapted = get_peft_model(model, lora_config(lora))
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            # Training keeps adapters in float32, too.
            parameter.data = parameter.data.float()
        if "lora_B" in name:
            # PEFT starts B at zero, and no output would depend on the adapter.
            torch.nn.init.normal_(parameter, std=ADAPTER_STD)
    adapted.eval()
    return adapted


def batch_on(model: PeftModel, trial: Trial) -> Batch:
    """Return the short rows as one padded batch on the model's device."""
    batch = pad_batch(trial.short, trial.tokenizer.pad_token_id)
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


def use_trained(model: PeftModel, kernels: str) -> None:
    """Replace the model's functions by those that compute them in training."""
    if kernels == "fused":
        use_kernels(model)
        add_answer_head(unwrap_adapter(model))
        return
    # TRL takes seconds to import.
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(unwrap_adapter(model), outputs=("log_probs", "is_top1"))


def mean_loss(model: PeftModel, batch: Batch, kernels: str) -> Tensor:
    """Return the loss in nats per supervised token, as training computes it."""
    if kernels == "fused":
        total, _, supervised = model(**batch, answer_head=True)
    else:
        output = model(**batch, use_cache=False, fused_lm_head=True)
        total = -output.log_probs.sum()
        supervised = output.label_mask.sum()
    loss: Tensor = total / supervised
    return loss


def check_kernels(model: PeftModel, batch: Batch, kernels: str) -> None:
    """Raise UserError if the kernels differ from transformers in float32.

    The model may have TRL's head afterwards.
    """
    if kernels == "fused":
        loss, gradient = kernel_difference(model, batch["input_ids"], batch["labels"])
    else:
        loss, gradient = trl_difference(model, batch)
    # A comparison with NaN is false.
    if not max(loss, gradient) <= KERNEL_TOLERANCE:
        found = f"loss {loss:.1e} and gradients {gradient:.1e} off"
        what = f"they differ from transformers: {found} (tolerance {KERNEL_TOLERANCE:g})"
        raise UserError("kernels", what, FIX_KERNELS[kernels])


def trl_difference(model: PeftModel, batch: Batch) -> tuple[float, float]:
    """Return the relative differences of TRL's loss and gradients from transformers'."""
    own = model(**batch, use_cache=False).loss
    own_gradients = adapter_gradients(model, own)
    use_trained(model, "trl")
    found = mean_loss(model, batch, "trl")
    apart = (adapter_gradients(model, found) - own_gradients).norm()
    loss_apart = (found - own).detach().abs() / own.detach()
    return float(loss_apart), float(apart / own_gradients.norm())


def adapter_gradients(model: PeftModel, loss: Tensor) -> Tensor:
    """Return the gradients of a loss for all adapters as one vector."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, trained)
    return torch.cat([gradient.flatten() for gradient in gradients])


def take_step(model: PeftModel, batch: Batch, kernels: str) -> None:
    """Take one optimizer step; raise UserError if a number is not finite."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    loss = mean_loss(model, batch, kernels)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    with torch.no_grad():
        after = mean_loss(model, batch, kernels)
    if not (loss.isfinite() and after.isfinite()):
        what = f"the loss is {float(loss)} before the step and {float(after)} after it"
        raise UserError("training", what, OTHER_BASE)


# --- merge and export --------------------------------------------------------------------------


def try_merge_and_export(trial: Trial) -> Figures:
    """Merge the adapter, write all GGUF files, and return the figures."""
    with step(trial.base, "merge", OTHER_BASE):
        merge_cut(trial)
    merged = load_model(trial.folder / "merged", "float32")
    reference = score(trial, merged)
    kinds = ["bf16", *trial.params.quantize.types]
    kl_nats = 0.0
    for kind in kinds:
        with step(trial.base, f"the {kind} GGUF file", fix_of(kind)):
            file = trial.folder / f"{kind}.gguf"
            export(trial.folder / "merged", kind, file)
            check_chat_metadata(file, trial.tokenizer)
            scored = score(trial, load_model(file, "float32"))
            divergence = divergence_metrics(reference, scored)["kl_nats"]
            refuse_divergent(kind, divergence)
        if kind == "bf16":
            reference = scored
            kl_nats = divergence
            with step(trial.base, "the bf16 file's tokenizer", fix_of(kind)):
                check_file_tokenizer(trial, file)
            with (
                step(trial.base, "the bf16 file in llama.cpp", OTHER_BASE),
                open_llama_cpp(trial, file) as ask,
            ):
                check_tokens(trial, ask)
                tokens = check_answers(trial, merged, ask)
    with step(trial.base, "the GGUF file of the adapter", FIX_ADAPTER):
        try_adapter_file(trial)
    return {"gguf_files": len(kinds), "bf16_kl_nats": kl_nats, "tokens_compared": tokens}


def try_adapter_file(trial: Trial) -> None:
    """Write the adapter as a GGUF file, and let llama.cpp answer with it."""
    folder = trial.folder
    write_gguf_adapter(folder / "adapter", folder / "merged", folder / "adapter.gguf")
    export(folder / "cut", "f32", folder / "base.gguf")
    adapted = load_adapted(folder / "cut", folder / "adapter", "float32")
    with open_llama_cpp(trial, folder / "base.gguf", [folder / "adapter.gguf"]) as ask:
        check_answers(trial, adapted, ask)


def fix_of(kind: str) -> str:
    """Return the fix for a GGUF file that cannot be written or read."""
    if kind == "bf16":
        return "use a base model whose architecture and tokenizer llama.cpp's converter knows"
    return f"remove {kind} from quantize.types in params.yaml, or use another base model"


def score(trial: Trial, model: PreTrainedModel) -> list[Scored]:
    """Return the logits of each trial row."""
    return list(score_examples(model, trial.encoded, trial.tokenizer.pad_token_id))


def merge_cut(trial: Trial) -> None:
    """Write the merged cut; raise UserError if its logits change."""
    model = load_adapted(trial.folder / "cut", trial.folder / "adapter", "float32")
    reference = score(trial, model)
    merged = model.merge_and_unload(safe_merge=True)
    figures = divergence_metrics(reference, score(trial, merged))
    difference = figures["logit_difference_relative"]
    if not difference <= LOGIT_TOLERANCE:
        what = f"a logit changes by {difference:.1e} of the largest (tolerance {LOGIT_TOLERANCE:g})"
        raise UserError("merge", what, OTHER_BASE)
    save_model(as_saved(trial, merged), trial.tokenizer, trial.folder / "merged")


def check_file_tokenizer(trial: Trial, file: Path) -> None:
    """Raise UserError if transformers splits text differently by a GGUF file."""
    tokenizer = load_tokenizer(file)
    for pair in PAIRS:
        text = " ".join(pair)
        wanted = trial.tokenizer.encode(text, add_special_tokens=False)
        if tokenizer.encode(text, add_special_tokens=False) != wanted:
            what = f"transformers reads other tokens from it for {text[:40]!r}"
            raise UserError("the tokenizer", what, fix_of("bf16"))


# --- answers -----------------------------------------------------------------------------------


def check_tokens(trial: Trial, ask: Ask) -> None:
    """Raise UserError if llama.cpp splits a chat into other tokens."""
    has_system = has_system_role(trial.tokenizer)
    for question, answer in PAIRS:
        chat = to_chat(question, answer, has_system=has_system)
        text = render_text(trial.tokenizer, chat, prompt=False)
        wanted = trial.tokenizer(text, add_special_tokens=False)["input_ids"]
        body = {"content": text, "add_special": False, "parse_special": True}
        found = ask("/tokenize", body)["tokens"]
        if wanted != found:
            place = first_difference(wanted, found)
            here = trial.tokenizer.decode(wanted[place : place + 1])
            start = f"from token {place + 1} on ({here!r})"
            what = f"llama.cpp splits a chat into other tokens than the tokenizer, {start}"
            raise UserError("bf16.gguf", what, OTHER_BASE)


def check_answers(trial: Trial, model: PreTrainedModel, ask: Ask) -> int:
    """Compare the greedy tokens of llama.cpp and transformers.

    Return the number of tokens. Two tokens with nearly equal
    logits count as equal, since rounding then decides. Raise UserError at the first other
    difference.
    """
    compared = 0
    for prompt in [item.prompt for item in trial.encoded]:
        found = answer(trial, ask, prompt)
        [generated] = generate_greedy(model, trial.tokenizer, [prompt], ANSWER_TOKENS)
        wanted = with_one_end(trial.tokenizer, generated)
        refuse_other_answer(model, prompt, wanted, found)
        compared += len(wanted)
    return compared


def with_one_end(tokenizer: PreTrainedTokenizerBase, answer: list[int]) -> list[int]:
    """Return an answer whose end token, if it has one, is the tokenizer's own."""
    if answer and answer[-1] in end_token_ids(tokenizer):
        return [*answer[:-1], int(tokenizer.eos_token_id)]
    return answer


@contextmanager
def open_llama_cpp(trial: Trial, file: Path, adapters: Sequence[Path] = ()) -> Iterator[Ask]:
    """Yield a function that sends a request to llama.cpp and returns its reply.

    `adapters` are added to the model in `file`.
    """
    context_tokens = max(len(item.prompt) for item in trial.encoded) + ANSWER_TOKENS
    with (
        serve_llama_cpp(file, 1, context_tokens, float32=True, adapters=adapters) as [endpoint],
        open_client(endpoint) as client,
    ):
        address = endpoint.url.removesuffix("/v1")

        def ask(path: str, body: dict[str, Any]) -> Any:
            return client.post(f"{address}{path}", cast_to=object, body=body)

        yield ask


def answer(trial: Trial, ask: Ask, prompt: list[int]) -> list[int]:
    """Return the greedy answer of llama.cpp."""
    body = {
        "prompt": prompt,
        "n_predict": ANSWER_TOKENS,
        "temperature": 0,
        "return_tokens": True,
    }
    return tokens_of(trial.tokenizer, ask("/completion", body))


def tokens_of(tokenizer: PreTrainedTokenizerBase, reply: dict[str, Any]) -> list[int]:
    """Return the tokens of a reply, with an end token that llama.cpp leaves out."""
    ids = list(reply["tokens"])
    if reply["stop_type"] == "limit":
        return ids
    if ids and ids[-1] in end_token_ids(tokenizer):
        ids.pop()
    return [*ids, int(tokenizer.eos_token_id)]


@torch.inference_mode()
def refuse_other_answer(
    model: PreTrainedModel, prompt: list[int], wanted: list[int], found: list[int]
) -> None:
    """Raise UserError unless two answers are equal up to a tie."""
    if wanted == found:
        return
    place = first_difference(wanted, found)
    ids = torch.tensor([prompt + wanted[:place]]).to(model.device)
    if place == min(len(wanted), len(found)):
        what = f"llama.cpp answers with {len(found)} tokens, transformers with {len(wanted)}"
        raise UserError("bf16.gguf", what, OTHER_BASE)
    logits = model(input_ids=ids).logits[0, -1]
    gap = float(logits[wanted[place]] - logits[found[place]])
    limit = TIE_SHARE * float(logits.std())
    # A comparison with NaN is false.
    if not gap <= limit:
        logit = f"its logit is {gap:.2g} below the largest (limit {limit:.2g})"
        what = f"llama.cpp prefers another token than transformers at token {place + 1}: {logit}"
        raise UserError("bf16.gguf", what, OTHER_BASE)


def first_difference(first: list[int], second: list[int]) -> int:
    """Return the number of equal tokens before the first difference."""
    shorter = min(len(first), len(second))
    places = [place for place in range(shorter) if first[place] != second[place]]
    return min(places, default=shorter)
