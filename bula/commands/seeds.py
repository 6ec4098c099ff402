"""Measure the variance of each metric across training seeds: train and score again under other seeds.

Everything that shapes a run is taken from dvc.lock: inputs, parameters. A seed's run lies in
.bula/seeds/SEED-FINGERPRINT, a folder with its own params.yaml and links to the inputs. What finished there is not done
again, and a run on other data, parameters or code never picks it up.

python -m bula seeds --count 3
"""

import fcntl
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML

from bula.errors import UserError
from bula.files import sha256_values, staged
from bula.item_scores import means, read_item_scores
from bula.params import Params, load_params
from bula.records import append_row, read_rows
from bula.reports import write_metrics

SEEDS = Path(".bula/seeds")
DONE = "done.jsonl"
# What dvc.yaml runs for every stage.
STAGE = Path("stage")
# What stages/merge.py writes: a variant with this model is trained anew by each seed.
MERGED = "models/merged"
# The judge is left out: it may cost money, and one that is not trustworthy would only add its own luck.
SCORING = ("likelihood", "generate", "benchmark", "rouge")
# What stages/generate.py and lm-eval's other backends leave open.
OWN = ("the engine's own", None)
# Stages of dvc.lock by name: cmd, deps, params and outs of each.
Lock = dict[str, dict[str, Any]]


def spread(values: list[float]) -> dict[str, float | int]:
    """Spread of one figure over seeds; `values` begins with the pipeline's own run. ValueError below two values."""
    if len(values) < 2:
        raise ValueError("a spread needs two seeds")
    low, high = min(values), max(values)
    return {
        "seeds": len(values),
        "first": values[0],
        "mean": statistics.fmean(values),
        "lowest": low,
        "highest": high,
        "range": high - low,
        "stdev": statistics.stdev(values),
    }


def trained(params: Params) -> list[str]:
    """The variants that another seed changes and that need no further stage; UserError if there is none."""
    names = [name for name, variant in params.variants.items() if variant.model == MERGED]
    if not names:
        what = f"no variant has the model {MERGED}, so no figure depends on training's seed"
        raise UserError("params.yaml", what, "add such a variant")
    return names


def read_lock(variants: list[str]) -> Lock:
    """Training and scoring of `variants` as dvc.lock holds them, in the order in which they run."""
    lock = YAML(typ="safe").load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"]
    return {
        name: lock[name]
        for name in ("train", "merge", *(f"{stage}@{v}" for v in variants for stage in SCORING))
    }


def inputs(lock: Lock) -> dict[str, str]:
    """Path and hash of every file or folder that these stages read and that none of them writes."""
    made = {out["path"] for stage in lock.values() for out in stage["outs"]}
    return {
        dep["path"]: dep["md5"]
        for stage in lock.values()
        for dep in stage["deps"]
        if dep["path"] not in made
    }


def to_link(paths: Iterable[str]) -> list[str]:
    """The paths that a seed's folder needs links to: no code, which is imported, and nothing below another of them."""
    data = {path for path in paths if not path.endswith(".py")}
    return sorted(
        path for path in data if not data & {str(parent) for parent in Path(path).parents}
    )


def trains_on_cpu(params: Params) -> bool:
    """Whether train's configuration of accelerate keeps it from a GPU that the other stages use (stages/train/__main__.py)."""
    # Imported here: it brings torch, for which no other command of `python -m bula` waits.
    from bula.commands.plan import find_launch

    return bool(find_launch(params, Path()).get("use_cpu"))


def check_precision(dtype: str, train_dtype: str, variants: list[str]) -> None:
    """Raise a UserError if a stage of the pipeline's own run was computed in another precision than this machine's, `dtype`, and for train
    `train_dtype`: then it ran on another kind of machine, and further seeds would differ from it by more than luck.
    """
    metrics = {
        name: json.loads(Path(f"metrics/{name}.json").read_text(encoding="utf-8"))
        for name in ("train", *scored_in(variants))
    }
    told = {
        name: group.get("run", group.get("settings", {})).get("compute_dtype")
        for name, group in metrics.items()
    }
    here = dict.fromkeys(told, dtype) | {"train": train_dtype}
    if other := [
        f"{name} in {told[name]}" for name in told if told[name] not in (here[name], *OWN)
    ]:
        what = (
            f"the pipeline's own run was computed on another kind of machine ({', '.join(other)}; this one "
            f"computes in {dtype}), and rounding would count as seed variance"
        )
        raise UserError("metrics", what, "run `dvc repro --force` on this machine first")


def scored_in(variants: list[str]) -> list[str]:
    """Names of the metrics that tell what a variant's scores were computed in."""
    return [
        f"{stage}/{variant}"
        for variant in variants
        for stage in ("likelihood", "generate", "benchmark")
    ]


def work_folder(lock: Lock, seed: int, dtype: str) -> Path:
    """The folder of one seed, named by a hash of all that shapes its figures: seed, parameters, commands, data, code, and the
    precision of computing, `dtype`.
    """
    settings: list[Any] = [
        [name, stage["params"]["params.yaml"] | {"seed": seed}] for name, stage in lock.items()
    ]
    settings.append(dtype)
    return SEEDS / f"{seed}-{sha256_values(settings, inputs(lock))[:16]}"


def prepare_folder(folder: Path, lock: Lock, seed: int) -> None:
    """Put params.yaml with the other seed and links to the inputs into a seed's folder; code stays where it is."""
    yaml = YAML(typ="safe")
    params = yaml.load(Path("params.yaml").read_text(encoding="utf-8")) | {"seed": seed}
    with staged(folder / "params.yaml") as temporary, temporary.open("w", encoding="utf-8") as file:
        yaml.dump(params, file)
    for path in to_link(inputs(lock)):
        link = folder / path
        link.parent.mkdir(parents=True, exist_ok=True)
        # Made anew, since the repository may have moved.
        link.unlink(missing_ok=True)
        link.symlink_to(Path(path).resolve())


def run_command(command: list[str], cwd: Path, **environment: str) -> int:
    """Run a command with the repository's modules and this interpreter's programs at hand, and give its exit code."""
    paths = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")])
        ),
    }
    with subprocess.Popen(command, cwd=cwd, env=os.environ | paths | environment) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # Ctrl-C reached the command too; training saves its last step before it ends.
            process.wait()
            raise


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; UserError if another run does. The system lets go of it when a process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                folder, "another run works there right now", "wait for it or end it"
            ) from error
        yield


def run_seed(lock: Lock, seed: int, what: str, dtype: str) -> Path:
    """Train and score under one seed, as far as that is not done yet; gives its folder. UserError if a stage fails."""
    folder = work_folder(lock, seed, dtype)
    with _alone(folder):
        done = (
            {row["stage"] for row in read_rows(folder / DONE)}
            if (folder / DONE).exists()
            else set()
        )
        left = [name for name in lock if name not in done]
        if left:
            prepare_folder(folder, lock, seed)
        else:
            print(f"seeds: {what}: done before", flush=True)
        for name in left:
            print(f"seeds: {what}: {name}", flush=True)
            # As dvc does: the stage's name comes by the environment, and the stage ends with this process.
            code = run_command([str(STAGE.resolve())], folder, DVC_STAGE=name)
            if code:
                what = f"{name} under seed {seed} exited with code {code}; what finished is kept"
                raise UserError(folder, what, "read the stage's words above, then run it again")
            append_row(folder / DONE, {"stage": name})
        if (folder / "models").exists():
            # The figures are a few megabytes, the models may be many gigabytes.
            shutil.rmtree(folder / "models")
    return folder


def figures(folder: Path, variants: list[str]) -> dict[str, float]:
    """The headline figures of one run: each measure's mean that compare uses, and the loss on dev."""
    train = json.loads((folder / "metrics/train.json").read_text(encoding="utf-8"))
    found = {
        f"{v}__{name}": mean
        for v in variants
        for name, mean in means(read_item_scores(folder / "data", v)).items()
    }
    return found | {"train__dev_loss_nats": train["dev"]["loss_nats"]}


def measure_seeds(count: int, metrics: Path) -> dict[str, dict[str, float | int]]:
    """Bring the pipeline's own run up to date, run `count` - 1 further seeds, write the spread of each figure.

    UserError says what a user must fix.
    """
    params = load_params()
    variants = trained(params)
    targets = [f"{stage}@{v}" for v in variants for stage in SCORING]
    print(f"seeds: seed {params.seed} (1 of {count}): the pipeline's own", flush=True)
    if run_command(["dvc", "repro", *targets], Path()):
        raise UserError("dvc repro", "the pipeline's own run failed", "read dvc's words above")
    # Imported here: it takes seconds, and no other command of `python -m bula` waits for it.
    from bula.hardware import compute_dtype

    dtype = compute_dtype(params.dtype)
    check_precision(
        dtype, compute_dtype(params.dtype, "cpu") if trains_on_cpu(params) else dtype, variants
    )
    lock = read_lock(variants)
    runs = [figures(Path(), variants)]
    for number in range(1, count):
        seed = (params.seed + number) % 2**32
        runs.append(
            figures(run_seed(lock, seed, f"seed {seed} ({number + 1} of {count})", dtype), variants)
        )
    spreads = {name: spread([run[name] for run in runs]) for name in runs[0]}
    write_metrics(metrics, {"seeds": count, **spreads})
    return spreads


def seeds(
    count: Annotated[int, typer.Option(min=2, help="Seeds, the pipeline's own among them.")],
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/seeds.json"),
) -> None:
    """Train and score with further seeds, and write how far each figure spreads; `dvc repro` then marks the differences."""
    spreads = measure_seeds(count, metrics)
    print(f"seeds: {count} seeds, the spread of {len(spreads)} figures in {metrics}")
