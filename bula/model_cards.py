"""Write the cards, licenses and notices that accompany weights.

The adapter, the merged model and the GGUF files each carry README.md (a model card in the form of
the Hugging Face hub), LICENSE and NOTICE. The texts follow from params.yaml and from metrics that
every run repeats, so that they contain no measured time and no path of this machine.
"""

import re
from collections.abc import Mapping
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from bula.errors import UserError
from bula.escaping import markdown
from bula.model_licenses import ModelLicense, model_license
from bula.params import (
    DataSource,
    HubModel,
    HubSource,
    ModelSource,
    Params,
    WheelModel,
    WheelsModel,
)

# Files that a base model's license asks to pass on.
LEGAL_FILES = re.compile(r"(LICEN[CS]E|NOTICE|USE_POLICY)(\.[a-z]+)?", re.IGNORECASE)
MOST_LEGAL_BYTES = 1_000_000
NOTICE_OF_BASE = b"\nNotice of the base model:\n\n"
# The end of a GGUF file's name that names its quantization.
QUANTIZATION = re.compile(r"[.-](I?Q\d\w*|BF16|F16|F32)$", re.IGNORECASE)
# The text of the Apache License 2.0, which is also this project's license.
APACHE = Path(__file__).resolve().parent.parent / "LICENSE"
# Names of languages for sentences and tags; other languages appear as their codes.
LANGUAGES = {"en": "English", "es": "Spanish", "pt": "Portuguese"}
READABILITY = """\
Some or nearly all answers can be unreadable: the report of the run that made these weights
(`report/index.html`) has the measured share.
"""
DISCLAIMER = """\
This model is not a medical device and gives no medical advice. Its answers can be wrong; a health
professional decides.

Este modelo não é um dispositivo médico e não dá orientação médica. As respostas podem estar
erradas; quem decide é um profissional de saúde.
"""
Figures = Mapping[str, Any]
Documents = dict[str, bytes]


class Kind(NamedTuple):
    """Describe a folder of weights in the hub's words."""

    library: str
    """Library that loads the weights."""
    relation: str
    """Relation to the base model."""
    tags: tuple[str, ...]
    """Tags of the card beside those that every card has."""


ADAPTER = Kind("peft", "adapter", ("lora",))
MERGED = Kind("transformers", "finetune", ())
GGUF = Kind("gguf", "quantized", ("gguf", "llama.cpp"))


class Base(NamedTuple):
    """A base model as other people can find it."""

    name: str
    """Name without owner and folder."""
    hub_id: str
    """Repository on the hub, or an empty text."""
    revision: str | None
    """Commit of that repository, if the weights came from there."""
    reference: str
    """Name in adapter_config.json."""
    origin: str
    """Where the weights came from, for a sentence."""
    terms: ModelLicense
    """License of the weights."""
    license: str
    """Identifier of the license."""


def describe_base(source: ModelSource) -> Base:
    """Return the base model of params.yaml as other people can find it.

    A library takes the reference for a repository of the hub. A base that did not come from the hub
    has a reference with a colon, because no repository can have such a name.
    """
    terms = model_license(source.license)
    if isinstance(source, HubModel):
        name = source.id.partition("/")[2]
        origin = f"{source.id}, revision {source.revision}"
        return Base(name, source.id, source.revision, source.id, origin, terms, source.license)
    if isinstance(source, WheelModel):
        pin = f"{source.package}=={source.version}"
        name = source.hub_id.partition("/")[2] or source.package
        origin = f"the GGUF file with SHA-256 {source.sha256} in the Python package {pin}"
        return Base(name, source.hub_id, None, f"pypi:{pin}", origin, terms, source.license)
    if isinstance(source, WheelsModel):
        package = source.parts[0].package
        name = source.hub_id.partition("/")[2] or package
        origin = f"the GGUF file with SHA-256 {source.sha256} in parts, the first in {package}"
        reference = f"pypi:{package}=={source.parts[0].version}"
        return Base(name, source.hub_id, None, reference, origin, terms, source.license)
    # The folders above it are private, and mean nothing elsewhere.
    name = QUANTIZATION.sub("", PurePosixPath(source.path).name.removesuffix(".gguf")) or "base"
    origin = f"a local directory or file, {name}"
    return Base(name, "", None, f"local:{name}", origin, terms, source.license)


def model_name(base: Base) -> str:
    """Return the name of the tuned model.

    Most of Llama's licenses ask for a name that begins with "Llama".
    """
    name = f"{base.name}-bula"
    prefix = base.terms.name_prefix
    return name if name.startswith(prefix) else f"{prefix}-{name}"


def documents(params: Params, kind: Kind, title: str, body: str, legal: Path) -> Documents:
    """Return README.md, LICENSE and NOTICE for a folder of weights, by name.

    `legal` is the model directory whose legal files are passed on.
    """
    base = describe_base(params.ingest.base)
    texts = legal_files(legal)
    if not any(name.upper().startswith("LICEN") for name in texts):
        texts["LICENSE"] = license_text(base).encode()
    texts["README.md"] = card(params, kind, title, body).encode()
    texts["NOTICE"] = _with_notice_of_base(notice(params).encode(), texts.get("NOTICE", b""))
    return texts


def _with_notice_of_base(own: bytes, received: bytes) -> bytes:
    """Return our notice and, after it, the notice of the base model.

    The Apache License asks for that. The notice of the merged model already begins with ours.
    """
    if not received:
        return own
    return received if received.startswith(own) else own + NOTICE_OF_BASE + received


def legal_files(folder: Path) -> Documents:
    """Return the licenses, notices and use policies of a model directory, by name."""
    if not folder.is_dir():
        return {}
    files = [file for file in sorted(folder.iterdir()) if LEGAL_FILES.fullmatch(file.name)]
    return {
        file.name: file.read_bytes()
        for file in files
        if file.is_file() and file.stat().st_size <= MOST_LEGAL_BYTES
    }


def received_legal_files(folder: Path) -> Documents:
    """Return the legal files of a directory that someone else made.

    Raise a UserError for a link to another place, because its file would be passed on with the
    weights. The hub's cache links from snapshots/REVISION into its own blobs.
    """
    places = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        places.append(folder.resolve().parent.parent / "blobs")
    found = legal_files(folder)
    for name in found:
        target = (folder / name).resolve()
        if not any(target.is_relative_to(place) for place in places):
            what = f"it is a link to {target}, outside the model's directory"
            raise UserError(folder / name, what, "replace the link by the file, or delete it")
    return found


def card(params: Params, kind: Kind, title: str, body: str) -> str:
    """Return a model card: YAML for the hub, then text for people."""
    base = describe_base(params.ingest.base)
    sources = [f"- {markdown(source)}" for source in _sources(params.ingest.sources)]
    languages = " and ".join(_language_names(params))
    parts = [
        f"---\n{_front_matter(params, kind)}---",
        f"# {markdown(title)}",
        f"Fine-tuned to answer health questions in {languages}.",
        READABILITY.strip(),
        DISCLAIMER.strip(),
        body.strip(),
        "## Base model",
        f"{markdown(base.name)}: {markdown(base.origin)}.",
        "## Training data",
        "\n".join(sources),
        "## License",
        _license_section(base),
    ]
    return "\n\n".join(parts) + "\n"


def _language_names(params: Params) -> list[str]:
    """Return the languages of the training rows."""
    return [LANGUAGES.get(code, code) for code in params.preprocess.languages]


def _front_matter(params: Params, kind: Kind) -> str:
    """Return the hub's keys of a model card as YAML.

    llama.cpp's converter copies model_name, license, language, base_model and tags into the
    metadata of a GGUF file.
    """
    ingest = params.ingest
    base = describe_base(ingest.base)
    languages = [name.lower() for name in _language_names(params)]
    fields: dict[str, Any] = {
        "language": list(params.preprocess.languages),
        "license": base.license.lower(),
        "library_name": kind.library,
        "pipeline_tag": "text-generation",
        "model_name": model_name(base),
        "metrics": ["perplexity"],
        "tags": ["bula", "medical", *languages, *kind.tags],
    }
    if base.terms.url:
        fields["license_link"] = base.terms.url
    if base.hub_id:
        fields["base_model"] = [base.hub_id]
        fields["base_model_relation"] = kind.relation
    # The hub takes each name for one of its data sets.
    if data_sets := [source.id for source in ingest.sources if isinstance(source, HubSource)]:
        fields["datasets"] = data_sets
    written = StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(fields, written)
    return written.getvalue()


def _sources(sources: list[DataSource]) -> list[str]:
    """Return each source of rows with its license, for a list."""
    found = []
    for source in sources:
        place = ""
        if isinstance(source, HubSource):
            place = f"{source.id}, revision {source.revision}, "
        found.append(f"{source.name} ({place}{source.license})")
    return found


def _license_section(base: Base) -> str:
    """Return the sentences of a card about the license of the weights."""
    parts = [f"{markdown(base.terms.name)}; see the files LICENSE and NOTICE."]
    if base.terms.duties:
        parts.append(f"{base.terms.duties}\n\n{base.terms.duties_pt}")
    if base.terms.built_with:
        parts.append(f"**{base.terms.built_with}**")
    return "\n\n".join(parts)


def license_text(base: Base) -> str:
    """Return the content of LICENSE where the base model brings none.

    This project has the complete text of one license only, and names any other license.
    """
    if base.license.lower() == "apache-2.0":
        return APACHE.read_text(encoding="utf-8")
    address = base.terms.url or "The base model's own page says where the license stands."
    return f"""\
{model_name(base)} is licensed like its base model.

{base.terms.name}
{address}

This file only names the license. Add a copy of the license before you distribute the weights.
"""


def notice(params: Params) -> str:
    """Return the content of NOTICE: origin, change, license and data."""
    base = describe_base(params.ingest.base)
    lines = [
        model_name(base),
        "",
        f"Modified weights, made by LoRA fine-tuning from {base.origin}.",
        f"License: {base.terms.name} {base.terms.url}".rstrip(),
        base.terms.notice,
        base.terms.built_with,
        "",
        "Training data:",
        *_sources(params.ingest.sources),
        "",
        DISCLAIMER.strip(),
    ]
    text = "\n".join(lines) + "\n"
    return re.sub(r"\n{3,}", "\n\n", text)


# --- The three cards --------------------------------------------------------------------------


def adapter_documents(params: Params, metrics: Figures, base_folder: Path) -> Documents:
    """Return the documents of the adapter; `metrics` are those of training."""
    base = describe_base(params.ingest.base)
    dev = metrics["dev"]
    run = metrics["run"]
    loss = f"{dev['loss_nats']:.6g} nats per token"
    body = f"""
- Trainable parameters: {metrics["parameters"]["trainable"]}
- Optimizer steps: {run["steps"]} (adapter from step {run["kept_step"]})
- Dev loss: {loss}, perplexity {dev["perplexity"]:.6g}, {dev["items"]} items

{_adapter_usage(base)}
"""
    title = f"{model_name(base)}: LoRA adapter for {base.name}"
    return documents(params, ADAPTER, title, body, base_folder)


def _adapter_usage(base: Base) -> str:
    """Return the lines of code that load the adapter."""
    if base.revision:
        return """```python
from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained("path/of/this/folder")
```"""
    return """The base model does not come from the hub, so load it from its own place:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("path/of/the/base/model")
model = PeftModel.from_pretrained(base, "path/of/this/folder")
```"""


def merged_documents(params: Params, figures: Figures, base_folder: Path) -> Documents:
    """Return the documents of the merged model.

    `figures` compare its logits, before the cast, with those of base and adapter.
    """
    base = describe_base(params.ingest.base)
    body = f"""
The LoRA adapter is merged into the weights of the base model.

- Perplexity: {figures["perplexity"]:.6g} on {figures["items"]} validation examples
- Largest difference of a logit from base and adapter: {figures["logit_difference_largest"]:.3g}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/of/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")
```
"""
    return documents(params, MERGED, model_name(base), body, base_folder)


def gguf_documents(params: Params, figures: Mapping[str, Figures], merged: Path) -> Documents:
    """Return the documents of the kept GGUF files; `figures` are those of each type."""
    rows = []
    kept = params.quantize.types
    for kind in (kind for kind in figures if kind in kept):
        found = figures[kind]
        cells = [f"{kind}.gguf", found["bytes"], f"{found['kl_nats']:.3g}"]
        cells += [f"{found['greedy_agreement']:.2%}", f"{found['perplexity']:.6g}"]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    table = "\n".join(rows)
    commands = [f"llama-server --model {kind}.gguf" for kind in kept[:1]]
    commands.append("llama-server --model base.gguf --lora adapter.gguf")
    shown = "\n".join(commands)
    body = f"""
| file | bytes | KL (nats per token) | same most probable token | perplexity |
|---|---|---|---|---|
{table}

A 16-bit file is compared with the merged model, and the other files with the 16-bit file, which is
not always kept. `adapter.gguf` is the LoRA adapter alone, for a GGUF file of the base model:

```
{shown}
```
"""
    base = describe_base(params.ingest.base)
    return documents(params, GGUF, f"{model_name(base)}: GGUF files", body, merged)
