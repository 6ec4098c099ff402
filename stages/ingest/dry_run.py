"""Try training and export on a small cut of the base model.

The cut (stages/ingest/cut.py) has the base's architecture, tokenizer and chat template, and random
weights. It goes through everything that the later stages do to the base: template, padding,
adapter, kernels, an optimizer step, merge, and each GGUF file, which transformers and llama.cpp
read back; llama.cpp also reads the adapter's file. A base that fails is refused here, before any
data is read.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from bula.divergence import Scored, divergence_metrics, score_examples
from bula.errors import UserError, is_machine_error
from bula.generation import generate_greedy
from bula.gguf_adapter import write_gguf_adapter
from bula.gguf_export import carries, export
from bula.lora import check_target_modules, lora_config
from bula.model_kernels import add_answer_head, kernel_difference, use_kernels
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
    ModelSource,
    Params,
    WheelsModel,
)
from bula.prompts import FIX as FIX_TEMPLATE
from bula.prompts import SYSTEM_PROMPT, Encoded, encode, encode_turns
from bula.records import Example, Turn
from bula.scoring import Batch, pad_batch, unwrap_adapter
from bula.serving import open_client, serve_llama_cpp
from stages.ingest.cut import build_cut

# The second question is longer than the windows of most models with local attention.
PAIRS = (
    ("Posso tomar sol?", "Sim, com protetor solar."),
    ("Tomo dipirona há dois dias. " * 60 + "Devo parar?", "Pare e procure atendimento."),
    ("Dói?", "Não."),
)
# The first and the last row, which every model has room for.
SHORT_ROWS = 2
ANSWER_TOKENS = 8
# Float32's rounding in two layers stays below 2e-6.
KERNEL_TOLERANCE = 1e-5
# Rounding in float32 stays below 1e-5, as in stages/merge.py.
MERGE_TOLERANCE = 1e-4
# The 16-bit file has the merged weights themselves, so only rounding may differ.
MOST_KL_NATS = 1e-3
# llama.cpp rounds activations to bfloat16, which moves a logit by about 1 % of the logits' spread.
TIE_SHARE = 0.1
# B matrices of this spread move each output visibly; PEFT starts them at zero.
B_SPREAD = 0.05
OTHER_BASE = "use another base model in ingest.base"
FIX_ADAPTER = "set train.lora.target_modules to all-linear, or use another base model"
REASON_CHARACTERS = 300

Figures = dict[str, int | float | str]


class Trial(NamedTuple):
    """The parts that all steps of a dry run share."""

    base: str
    """Name of the base model, for messages."""
    params: Params
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
    except LIBRARY_ERRORS as error:
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
    with tempfile.TemporaryDirectory() as name:
        with step(base, "chat template and padding", FIX_TEMPLATE):
            encoded = encode_trials(tokenizer, config)
        trial = Trial(base, params, tokenizer, encoded, Path(name))
        with step(base, "a cut with random weights", OTHER_BASE):
            save_model(as_saved(trial, build_cut(config)), tokenizer, trial.folder / "cut")
        try_conversation(trial)
        try_training(trial)
        figures = try_merge_and_export(trial)
    print(f"ingest: dry run: all steps, {time.perf_counter() - started:.1f} s", flush=True)
    return figures


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
        item = encode(tokenizer, trial_example(question, answer))
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


def trial_example(question: str, answer: str) -> Example:
    """Return an example with a question and an answer."""
    return Example(
        id="0" * 16,
        source="trial",
        license="none",
        split="dev",
        question=question,
        answer=answer,
    )


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
    example = trial_example(*PAIRS[-1]).model_copy(update={"history": [earlier]})
    with step(trial.base, "a conversation of two turns", OTHER_BASE):
        encode_turns(trial.tokenizer, example)


# --- training ----------------------------------------------------------------------------------


def try_training(trial: Trial) -> None:
    """Try adapter, kernels and an optimizer step, and save the adapter."""
    train = trial.params.train
    with step(trial.base, "target modules", "correct train.lora.target_modules in params.yaml"):
        model = adapted_cut(trial, "float32")
    if train.kernels == "fused":
        with step(trial.base, "the fused kernels", "set train.kernels to trl in params.yaml"):
            check_kernels(model, batch_on(model, trial))
    with step(trial.base, "an optimizer step", OTHER_BASE):
        model = adapted_cut(trial, trial.params.dtype)
        if train.kernels == "fused":
            use_fused(model)
        take_step(model, batch_on(model, trial), train.kernels)
        model.save_pretrained(trial.folder / "adapter")


def adapted_cut(trial: Trial, dtype: str) -> PeftModel:
    """Return the cut with an adapter whose output is not zero."""
    lora = trial.params.train.lora
    model = load_model(trial.folder / "cut", dtype)
    check_target_modules(model, lora)
    adapted = get_peft_model(model, lora_config(lora))
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            # Training keeps adapters in float32, too.
            parameter.data = parameter.data.float()
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=B_SPREAD)
    # Dropout would hide a difference.
    adapted.eval()
    return adapted


def batch_on(model: PeftModel, trial: Trial) -> Batch:
    """Return the short rows as one padded batch on the model's device."""
    batch = pad_batch(trial.short, trial.tokenizer.pad_token_id)
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


def use_fused(model: PeftModel) -> None:
    """Replace the model's functions by the fused kernels."""
    use_kernels(model)
    add_answer_head(unwrap_adapter(model))


def mean_loss(model: PeftModel, batch: Batch, kernels: str) -> Tensor:
    """Return the loss in nats per supervised token."""
    if kernels == "fused":
        total, _, supervised = model(**batch, answer_head=True)
        fused: Tensor = total / supervised
        return fused
    own: Tensor = model(**batch, use_cache=False).loss
    return own


def check_kernels(model: PeftModel, batch: Batch) -> None:
    """Raise UserError if the kernels differ from transformers in float32."""
    loss, gradient = kernel_difference(model, batch["input_ids"], batch["labels"])
    # A comparison with NaN is false.
    if not max(loss, gradient) <= KERNEL_TOLERANCE:
        found = f"loss {loss:.1e} and gradients {gradient:.1e} off"
        what = f"they differ from transformers: {found} (tolerance {KERNEL_TOLERANCE:g})"
        raise UserError("kernels", what, "set train.kernels to trl in params.yaml")


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
            carries(file, trial.tokenizer)
            found = divergence_metrics(reference, score(trial, load_model(file, "float32")))
        if kind == "bf16":
            with step(trial.base, "the bf16 file in transformers and llama.cpp", OTHER_BASE):
                kl_nats = check_divergence(found["kl_nats"])
                tokens = check_answers(trial, merged, file)
    with step(trial.base, "the GGUF file of the adapter", FIX_ADAPTER):
        try_adapter_file(trial)
    return {"gguf_files": len(kinds), "bf16_kl_nats": kl_nats, "tokens_compared": tokens}


def try_adapter_file(trial: Trial) -> None:
    """Write the adapter as a GGUF file, and let llama.cpp answer with it."""
    folder = trial.folder
    write_gguf_adapter(folder / "adapter", folder / "merged", folder / "adapter.gguf")
    export(folder / "cut", "f32", folder / "base.gguf")
    adapted = load_adapted(folder / "cut", folder / "adapter", "float32")
    check_answers(trial, adapted, folder / "base.gguf", [folder / "adapter.gguf"])


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
    if not difference <= MERGE_TOLERANCE:
        what = f"a logit changes by {difference:.1e} of the largest (tolerance {MERGE_TOLERANCE:g})"
        raise UserError("merge", what, OTHER_BASE)
    save_model(as_saved(trial, merged), trial.tokenizer, trial.folder / "merged")


def check_divergence(kl_nats: float) -> float:
    """Return the divergence of the 16-bit file; refuse a large one."""
    if not kl_nats <= MOST_KL_NATS:
        what = f"transformers reads another model from it: KL {kl_nats:.2g} nats per token"
        raise UserError("bf16.gguf", f"{what} (limit {MOST_KL_NATS:g})", OTHER_BASE)
    return kl_nats


# --- answers -----------------------------------------------------------------------------------


def check_answers(
    trial: Trial, model: PreTrainedModel, file: Path, adapters: Sequence[Path] = ()
) -> int:
    """Compare the greedy tokens of llama.cpp and transformers.

    `adapters` are added to the file. Return the number of tokens. Two tokens with nearly equal
    logits count as equal, since rounding then decides. Raise UserError at the first other
    difference.
    """
    prompts = [item.prompt for item in trial.encoded]
    answers = answer_by_llama_cpp(trial, file, prompts, adapters)
    compared = 0
    for prompt, found in zip(prompts, answers, strict=True):
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


def answer_by_llama_cpp(
    trial: Trial, file: Path, prompts: list[list[int]], adapters: Sequence[Path]
) -> list[list[int]]:
    """Return the greedy answers of llama.cpp."""
    context_tokens = max(map(len, prompts)) + ANSWER_TOKENS
    answers = []
    with (
        serve_llama_cpp(file, 1, context_tokens, float32=True, adapters=adapters) as [endpoint],
        open_client(endpoint) as client,
    ):
        url = endpoint.url.removesuffix("/v1") + "/completion"
        for prompt in prompts:
            asked = {"prompt": prompt, "n_predict": ANSWER_TOKENS, "temperature": 0}
            body = {**asked, "return_tokens": True}
            reply: Any = client.post(url, cast_to=object, body=body)
            answers.append(tokens_of(trial.tokenizer, reply))
    return answers


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
    logits = model(input_ids=ids).logits[0, -1]
    gap = float(logits[wanted[place]] - logits[found[place]])
    if gap > TIE_SHARE * float(logits.std()):
        what = f"llama.cpp answers with other tokens than transformers, from token {place + 1} on"
        raise UserError("bf16.gguf", what, OTHER_BASE)


def first_difference(first: list[int], second: list[int]) -> int:
    """Return the first place where two unequal answers differ."""
    places = range(min(len(first), len(second)))
    return next(place for place in places if first[place] != second[place])
