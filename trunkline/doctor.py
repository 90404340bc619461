"""`trunkline doctor`: versions, threads, devices, optional extras, and what is missing for what."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Sequence
from typing import Any

from trunkline import __version__
from trunkline.command import run
from trunkline.errors import DependencyError

# Distribution -> what the toolkit does with it. The same lists as in pyproject.toml; a test holds them together.
REQUIRED = {
    "torch": "everything that learns",
    "torchaudio": "Kaldi features for reference, SpecAugment, alignment",
    "numpy": "arrays",
    "pyarrow": "manifests, embedding store",
    "faiss-cpu": "k-means, search",
    "gensim": "semantic vectors for rescoring",
    "scikit-learn": "probes",
    "sentencepiece": "BPE and unigram tokenizers",
    "einops": "tensor shapes",
    "jiwer": "word error rates",
    "safetensors": "weights",
    "soundfile": "reading audio",
    "soxr": "resampling",
    "accelerate": "devices, mixed precision, many processes",
    "jsonargparse": "settings",
    "pyyaml": "settings",
    "rich": "progress bars",
    "psutil": "memory in training records",
}
EXTRAS = {
    "media": {"av": "m4a, amr and wma files"},
    "train": {"tensorboard": "training curves in TensorBoard"},
    "lm": {"kenlm": "n-gram language models for rescoring"},
    "scale": {"ray": "export on many machines"},
    "app": {"gradio": "the browser demo"},
    "analysis": {
        "duckdb": "SQL over the store",
        "pandas": "data frames over the store",
        "pillow": "pictures of the store's vectors",
        "polars": "data frames over the store",
    },
    "umap": {"umap-learn": "maps of the store's vectors by UMAP"},
    "demo": {"espeakng-loader": "made-up calls (make demo)"},
    "vad": {"silero-vad": "turns by Silero's voice activity detector"},
    "sweep": {"optuna": "search of the settings of heads"},
}


def make_parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    return argparse.ArgumentParser(
        prog="python -m trunkline.doctor",
        description="Show versions, threads, devices and optional extras, and what is missing for what. "
        "The exit status is 1 when something required is missing or broken.",
        epilog="Example: trunkline doctor --json",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run(examine, make_parser(), argv)


def examine(_: argparse.Namespace | None = None) -> dict[str, Any]:
    """Return what is installed and what works, as a summary for `trunkline.command.run`."""
    required = [_package(name, use) for name, use in REQUIRED.items()]
    extras = [
        {"extra": extra, **_package(name, use)}
        for extra, uses in EXTRAS.items()
        for name, use in uses.items()
    ]
    problems = [
        f"{row['package']} is not installed: no {row['for']}"
        for row in required
        if not row["version"]
    ]
    summary: dict[str, Any] = {
        "trunkline": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "disk_free_gb": round(shutil.disk_usage(os.curdir).free / 1e9, 1),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT"),
    }
    for look in (_torch, _torchaudio, _libsndfile, _ssl):
        found, fault = look()
        summary |= found
        problems += [fault] if fault else []
    return summary | {
        "problems": "; ".join(problems) or "none",
        "tables": {"required packages": required, "optional packages": extras},
        "exit_status": 1 if problems else 0,
    }


def _package(name: str, use: str) -> dict[str, Any]:
    try:
        version: str | None = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = None
    return {"package": name, "version": version, "for": use}


def _torch() -> tuple[dict[str, Any], str]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return {"torch_threads": None, "devices": None}, f"torch does not load: {error}"
    devices = ["cpu"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append(f"cuda:{index} {properties.name} {properties.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return {"torch_threads": torch.get_num_threads(), "devices": devices}, ""


def _torchaudio() -> tuple[dict[str, Any], str]:
    from trunkline import _torchaudio

    try:
        lost = _torchaudio.missing()
    except (DependencyError, ImportError, OSError) as error:
        return {"torchaudio_native": None}, f"torchaudio does not load: {error}"
    native = f"does not load; without it: {', '.join(lost)}" if lost else "loads"
    return {"torchaudio_native": native}, ""


def _libsndfile() -> tuple[dict[str, Any], str]:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        return {"libsndfile": None}, f"soundfile does not load: {error}"
    mp3 = "" if "MP3" in soundfile.available_formats() else " (without MP3)"
    return {"libsndfile": f"{soundfile.__libsndfile_version__}{mp3}"}, ""


def _ssl() -> tuple[dict[str, Any], str]:
    standard = importlib.import_module("ssl")
    if not hasattr(standard, "__path__"):
        fault = "the package ssl is not found: run commands as `trunkline pretrain`"
        return {"ssl_package": None}, fault
    return {"ssl_package": f"{next(iter(standard.__path__))} beside {standard.OPENSSL_VERSION}"}, ""


if __name__ == "__main__":
    raise SystemExit(main())
