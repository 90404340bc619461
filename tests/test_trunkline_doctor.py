"""`trunkline doctor` tells what is installed, what works, and what is missing for what."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from trunkline import doctor
from trunkline.errors import DependencyError

ROOT = Path(__file__).parent.parent


def test_the_doctor_knows_every_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = {name.partition("[")[0] for name in project["dependencies"]}
    extras = {
        name: set(wanted)
        for name, wanted in project["optional-dependencies"].items()
        if name != "dev"
    }
    assert set(doctor.REQUIRED) == required
    assert {name: set(uses) for name, uses in doctor.EXTRAS.items()} == extras


def test_the_report_tells_versions_threads_and_devices(capsys):
    doctor.main(["--json"])
    report = json.loads(capsys.readouterr().out)
    packages = {row["package"]: row for row in report["tables"]["required packages"]}
    assert packages["torch"]["version"] == importlib.metadata.version("torch")
    assert "cpu" in report["devices"][0]
    assert report["torch_threads"] >= 1
    assert report["OMP_WAIT_POLICY"] == os.environ["OMP_WAIT_POLICY"]
    assert report["ssl_package"].startswith(str(ROOT / "ssl"))


def test_a_missing_extra_is_listed_with_its_use_and_is_no_problem(capsys, monkeypatch):
    monkeypatch.setitem(doctor.EXTRAS, "lm", {"no-such-package": "n-gram language models"})
    doctor.main(["--json"])
    report = json.loads(capsys.readouterr().out)
    row = next(row for row in report["tables"]["optional packages"] if row["extra"] == "lm")
    assert row == {
        "extra": "lm",
        "package": "no-such-package",
        "version": None,
        "for": "n-gram language models",
    }
    assert "no-such-package" not in report["problems"]


def test_a_missing_requirement_is_a_problem_and_the_exit_status(capsys, monkeypatch):
    monkeypatch.setitem(doctor.REQUIRED, "no-such-package", "everything")
    assert doctor.main([]) == 1
    assert "no-such-package is not installed: no everything" in capsys.readouterr().out


# A torchaudio as its wheel behaves beside another torch: the native part raises when the package is imported.
EXTENSION = 'raise OSError("libcudart.so.13: cannot open shared object file")\n'
PACKAGE = """
from . import _extension
from . import functional
"""
FUNCTIONAL = """
from torchaudio._extension import fail_if_no_align

@fail_if_no_align
def forced_align(): return "aligned"

def resample(): return "resampled"
"""
LOOK = """
from trunkline import _torchaudio
from trunkline.errors import DependencyError
torchaudio = _torchaudio.load()
print(torchaudio.functional.resample())
print("forced_align" in str(_torchaudio.missing()), "libcudart" in _torchaudio.reason())
try:
    torchaudio.functional.forced_align()
except DependencyError as error:
    print(error)
"""


def test_torchaudio_works_without_its_native_part_and_says_what_is_missing(tmp_path):
    folder = tmp_path / "torchaudio"
    folder.mkdir()
    (folder / "_extension.py").write_text(EXTENSION, encoding="utf-8")
    (folder / "__init__.py").write_text(PACKAGE, encoding="utf-8")
    (folder / "functional.py").write_text(FUNCTIONAL, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    result = subprocess.run(
        [sys.executable, "-c", LOOK], env=environment, capture_output=True, text=True
    )
    lines = result.stdout.splitlines()
    assert lines[:2] == ["resampled", "True True"], result.stderr
    assert "install the torchaudio that was built for this torch" in lines[2]


def test_the_installed_torchaudio_resamples():
    torch = pytest.importorskip("torch")
    from trunkline import _torchaudio

    try:
        torchaudio = _torchaudio.load()
    except DependencyError:
        pytest.skip("torchaudio is not installed")
    assert torchaudio.functional.resample(torch.zeros(1, 8000), 8000, 16000).shape == (1, 16000)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, ("PASSIVE", "3000")),
        ({"GOMP_SPINCOUNT": "7"}, ("PASSIVE", "7")),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ("ACTIVE", None)),
    ],
)
def test_threads_wait_as_the_user_says_or_spin_briefly(given, wanted):
    """Sleeping at once makes small layers slow on two threads, spinning for long ruins shared cores."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {k: v for k, v in os.environ.items() if k not in names} | given
    program = f"import json, os, trunkline; print(json.dumps([os.environ.get(x) for x in {names}]))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == list(wanted)
