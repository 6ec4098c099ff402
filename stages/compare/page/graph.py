"""List the boxes of the pipeline as the page draws them."""

from typing import NamedTuple

from bula.params import Params
from stages.compare.page.words import Both


class Box(NamedTuple):
    """Stages that share a box."""

    stages: tuple[str, ...]
    purpose: Both


# Each box reads from the same or an earlier column. A test compares the columns with
# dvc.yaml.
COLUMNS = (
    (
        Box(("check",), Both("checks the parameters", "verifica os parâmetros")),
        Box(("models", "dry_run"), Both("fetches the models", "busca os modelos")),
    ),
    (Box(("ingest",), Both("reads the data", "lê os dados")),),
    (Box(("preprocess",), Both("cleans and splits", "limpa e divide")),),
    (
        Box(("train",), Both("tunes an adapter", "ajusta um adaptador")),
        Box(("controls", "bertscore_controls"), Both("simple rivals", "rivais simples")),
    ),
    (
        Box(("prefer",), Both("tunes by preferences", "ajusta por preferências")),
        Box(("merge", "quantize"), Both("merges and compresses", "funde e compacta")),
    ),
    (
        Box(("generate", "safety"), Both("answers questions", "responde perguntas")),
        Box(("likelihood",), Both("predicts references", "prevê as referências")),
        Box(("benchmark",), Both("answers tests", "responde testes")),
    ),
    (
        Box(("rouge", "bertscore"), Both("compares the texts", "compara os textos")),
        Box(("calibrate", "judge"), Both("a model rates answers", "um modelo dá notas")),
        Box(("labels",), Both("counts people's labels", "conta as notas de pessoas")),
    ),
    (Box(("compare",), Both("writes this page", "escreve esta página")),),
)


def read_columns(params: Params) -> list[list[Box]]:
    """Return the boxes of a run, without preference tuning if it is off."""
    absent = () if params.prefer else ("prefer",)
    return [[box for box in column if box.stages != absent] for column in COLUMNS]
