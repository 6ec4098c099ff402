"""Find the finished stages, and the checks that only they need.

A stage counts as finished if the stages before it are finished, its outputs exist, and dvc.lock has
its parameters and the MD5 of each file that it reads. Files inside folders are not compared.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bula.params import Params
from bula.preflight.checks import Check, NotCheckedError

# Each stage until the models are complete, with its main outputs.
MODEL_STAGES = {
    "models": ("models/base", "models/judge", "models/encoder"),
    "ingest": ("data/raw", "data/benchmarks"),
    "preprocess": ("data/clean",),
    "train": ("models/adapter",),
    "merge": ("models/merged",),
    "quantize": ("models/gguf",),
}
# Stages that read only files of git and what the stage models fetched.
EARLY_STAGES = ("check", "dry_run", "calibrate")
# Stages of each variant. The last ones read outputs of the first ones.
VARIANT_STAGES = ("likelihood", "generate", "safety", "benchmark")
SCORE_STAGES = ("bertscore", "judge")
# Stages that compute on `device`, apart from those of a variant.
DEVICE_STAGES = ("check", "dry_run", "train", "merge", "quantize", "bertscore_controls")
DEVICE_VARIANT_STAGES = (*VARIANT_STAGES, "bertscore")
# The stage that runs once per entry of the section of its name.
PREFER = "prefer"

Lock = Mapping[str, Any]


def done_stages(file: Path, root: Path) -> set[str]:
    """Return the stages that are finished, with names as in dvc.lock."""
    values = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    lock = _read_lock(root / "dvc.lock")

    def finished(stages: Iterable[str]) -> set[str]:
        return {stage for stage in stages if _is_done(stage, lock, values, root)}

    done = finished(("models", "ingest"))
    if "models" in done:
        done |= finished(EARLY_STAGES)
    if not {"models", "ingest"} <= done:
        return done
    for stage in ("preprocess", "train", "merge", "quantize"):
        if not finished([stage]):
            return done
        done.add(stage)
    variants = list(values["variants"])
    done |= finished(["bertscore_controls", *_per_variant(VARIANT_STAGES, variants)])
    for name in variants:
        if f"generate@{name}" in done:
            done |= finished(_per_variant(SCORE_STAGES, [name]))
    return done


def _per_variant(stages: Iterable[str], variants: Iterable[str]) -> list[str]:
    """Return the name of each stage for each variant."""
    names = list(variants)
    return [f"{stage}@{name}" for stage in stages for name in names]


def _read_lock(file: Path) -> Lock:
    """Return the stages of dvc.lock, or none if there is no file."""
    if not file.exists():
        return {}
    content = YAML(typ="safe").load(file.read_text(encoding="utf-8")) or {}
    stages: Lock = content.get("stages", {})
    return stages


def _is_done(stage: str, lock: Lock, values: Mapping[str, Any], root: Path) -> bool:
    """Return whether outputs exist, and dvc.lock has parameters and files of a stage."""
    if stage not in lock:
        return False
    entry = lock[stage]
    outputs = [out["path"] for out in entry.get("outs", [])]
    outputs += MODEL_STAGES.get(stage, ())
    if not all((root / path).exists() for path in outputs):
        return False
    locked = entry.get("params", {}).get("params.yaml", {})
    if any(_value_at(values, key) != value for key, value in locked.items()):
        return False
    return all(_is_same_file(dependency, root) for dependency in entry.get("deps", []))


def _value_at(values: Mapping[str, Any], key: str) -> Any:
    """Return the value at a dotted key, or None."""
    found: Any = values
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _is_same_file(dependency: Mapping[str, Any], root: Path) -> bool:
    """Return whether a dependency exists, and a file has the locked MD5."""
    path = root / dependency["path"]
    if path.is_dir():
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    return digest == dependency.get("md5")


# --- checks ------------------------------------------------------------------------------------


def skip_finished(checks: list[Check], params: Params, done: set[str]) -> list[Check]:
    """Replace each check of a key that only finished stages use."""
    users = _users(params)
    skipped = {key for key, stages in users.items() if done.issuperset(stages)}
    return [
        check._replace(run=_say_finished, network=False) if check.key in skipped else check
        for check in checks
    ]


def _users(params: Params) -> dict[str, list[str]]:
    """Return the stages that use each server and the device, by key."""
    variants = params.variants
    users = {
        "device": [
            *DEVICE_STAGES,
            *_per_variant(DEVICE_VARIANT_STAGES, variants),
            *_per_variant([PREFER], params.prefer),
        ],
        "judge.base_url": ["calibrate", *_per_variant(["judge"], variants)],
        "judge.second.base_url": ["calibrate"],
        "benchmark.backend.base_url": _per_variant(["benchmark"], variants),
    }
    for name in variants:
        # The stage likelihood reads the folder of weights, and asks no server.
        users[f"variants.{name}.base_url"] = _per_variant(["generate", "safety"], [name])
    return users


def _say_finished() -> str:
    """Raise NotCheckedError, because no stage of the run needs the thing."""
    raise NotCheckedError("its stages are finished")
