"""Backbone directories: the same weights come back, and nothing else is taken for one."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from encoder_backbones import noise, strong_backbone

from encoder import load_backbone, save_backbone
from encoder.load import _fingerprint
from trunkline.checkpoint import sha256_file
from trunkline.errors import CheckpointError, StorageError, TrunklineError

TENSOR = "conformer.layers.1.self_attn.linear_q.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A backbone directory that no test changes."""
    folder = tmp_path_factory.mktemp("backbones") / "saved"
    backbone = strong_backbone()
    backbone.feature_mean.fill_(-3.0)
    backbone.save(folder, card="# Made for a test\n", training={"steps": 3})
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "backbone"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def rewrite(folder: Path, **changes) -> None:
    """Change config.json as another program would that knows the format, fingerprint and all."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    config["fingerprint"] = _fingerprint(config)
    path.write_text(json.dumps(config))


def rewrite_weights(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(safetensors.torch.save(tensors))
    rewrite(folder, weights_sha256=sha256_file(path))


def test_what_was_saved_is_loaded_bit_for_bit(saved):
    backbone, expected = load_backbone(saved), strong_backbone()
    expected.feature_mean.fill_(-3.0)
    assert not backbone.training and backbone.config == expected.config
    assert backbone.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], tensor), name
    waveform = 0.1 * noise(8000)
    assert torch.equal(backbone.encode(waveform).frames, expected.encode(waveform).frames)


def test_saving_again_writes_the_same_bytes(saved, tmp_path):
    backbone = load_backbone(saved)
    fingerprint = backbone.save(
        tmp_path / "again", card="# Made for a test\n", training={"steps": 3}
    )
    assert contents(tmp_path / "again") == contents(saved)
    assert fingerprint == backbone.fingerprint == load_backbone(saved).fingerprint


def test_the_fingerprint_changes_with_one_weight_and_not_with_the_card(saved, tmp_path):
    backbone = load_backbone(saved)
    before = backbone.fingerprint
    assert len(before) == 64
    assert backbone.save(tmp_path / "card", card="Another card.") == before
    with torch.no_grad():
        backbone.get_parameter(TENSOR)[0, 0] += 1e-3
    assert backbone.save(tmp_path / "weight") != before
    assert load_backbone(tmp_path / "weight").fingerprint == backbone.fingerprint


def test_a_directory_holds_no_pickle(saved):
    files = contents(saved)
    assert list(files) == ["README.md", "config.json", "model.safetensors", "training.json"]
    assert json.loads(files["training.json"]) == {"steps": 3}
    assert files["README.md"] == b"# Made for a test\n"
    for name, content in files.items():
        assert content[:1] != b"\x80" and content[:2] != b"PK", (
            f"{name} begins like a pickle or a zip"
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(TENSOR), f"missing {TENSOR}"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "unknown extra"),
        (lambda tensors: tensors.update(old=tensors.pop(TENSOR)), f"missing {TENSOR}; unknown old"),
        (
            lambda tensors: tensors.update({TENSOR: torch.zeros(16, 15)}),
            rf"{TENSOR} has shape \(16, 15\), expected \(16, 16\)",
        ),
        (lambda tensors: tensors.clear(), r"and \d+ more"),
    ],
    ids=["missing", "extra", "renamed", "another shape", "none at all"],
)
def test_weights_that_do_not_fit_are_refused_by_name(folder, change, message):
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    change(tensors)
    rewrite_weights(folder, tensors)
    with pytest.raises(CheckpointError, match=message):
        load_backbone(folder)


@pytest.mark.parametrize("cut", [0, 7, 5000, -1])
def test_truncated_weights_are_refused(folder, cut):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated or altered"):
        load_backbone(folder)


def test_one_altered_bit_of_the_weights_is_refused(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="truncated or altered"):
        load_backbone(folder)


def test_weights_that_are_no_safetensors_are_refused(folder):
    (folder / "model.safetensors").write_bytes(b"\x80\x04K\x01.")
    rewrite(folder, weights_sha256=sha256_file(folder / "model.safetensors"))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_backbone(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_backbone(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"dim": 16', '"dim": 18', "altered: its fingerprint does not match"),
        ('"dropout": 0.1', '"dropout": 0.2', "altered: its fingerprint does not match"),
        (
            '"kind": "trunkline.backbone"',
            '"kind": "other"',
            "does not describe a Trunkline backbone",
        ),
        (
            '"schema": 1',
            '"schema": 2',
            "has schema 2, this version reads up to 1; upgrade trunkline",
        ),
        ('"schema": 1', '"schema": null', "has schema None"),
        ('"weights_sha256"', '"weights"', "lacks 'weights_sha256'"),
        ("{", "", "not valid JSON"),
    ],
)
def test_an_altered_configuration_is_refused(folder, old, new, message):
    path = folder / "config.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(CheckpointError, match=message):
        load_backbone(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dims": 16}, "Unknown key 'dims' in BackboneConfig. Did you mean 'dim'"),
        ({"kernel": 4}, "kernel=4 must be odd"),
        ({"features": None}, "no 'features' section"),
        ({"dim": "16"}, "config.json"),
        ({"layers": 1.5}, "config.json"),
    ],
)
def test_sizes_that_this_version_does_not_know_are_refused(folder, change, message):
    sizes = json.loads((folder / "config.json").read_text())["backbone"]
    rewrite(folder, backbone=sizes | change)
    with pytest.raises(CheckpointError, match=message):
        load_backbone(folder)


def test_what_is_no_directory_is_refused(folder):
    with pytest.raises(CheckpointError, match="is not a directory; give the directory"):
        load_backbone(folder / "config.json")
    with pytest.raises(CheckpointError, match="nowhere is not a directory"):
        load_backbone("nowhere")


def test_an_existing_directory_is_replaced_only_on_request(folder):
    before = contents(folder)
    other = strong_backbone(seed=1)
    with pytest.raises(StorageError, match="exists already"):
        other.save(folder)
    assert contents(folder) == before and other.fingerprint is None
    fingerprint = save_backbone(other, folder, overwrite=True)
    assert load_backbone(folder).fingerprint == fingerprint
    assert [path.name for path in folder.parent.iterdir()] == ["backbone"]


def test_a_full_disk_leaves_the_directory_that_was_there(folder):
    before = contents(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # no file may grow beyond 2000 bytes
    try:
        with pytest.raises(StorageError, match="Cannot write .*backbone"):
            strong_backbone(seed=1).save(folder, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["backbone"]


def test_a_save_killed_halfway_leaves_the_directory_that_was_there(folder):
    """The kernel kills the process at byte 2000 of the weights."""
    before = contents(folder)
    script = (
        "import resource, signal, sys; from encoder import load_backbone\n"
        "backbone = load_backbone(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "backbone.save(sys.argv[1], overwrite=True)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, folder], cwd=Path(__file__).parents[1], check=False
    )
    assert killed.returncode == -signal.SIGXFSZ
    assert contents(folder) == before
    load_backbone(folder)
    strong_backbone(seed=1).save(folder, overwrite=True)
    load_backbone(folder)


def test_an_unwritable_place_is_named(folder):
    with pytest.raises(StorageError, match=r"Cannot write .*config\.json.below"):
        strong_backbone().save(folder / "config.json" / "below")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_are_loaded_as_the_type_asked_for(saved, dtype):
    backbone = load_backbone(saved, dtype=dtype)
    assert {parameter.dtype for parameter in backbone.parameters()} == {dtype}
    assert torch.equal(backbone.feature_mean, torch.full((15,), -3.0)), "normalisation in float32"
    assert backbone.encode(0.1 * noise(8000)).frames.dtype == dtype


def test_the_errors_are_of_the_one_family():
    for wrong in ("nowhere", __file__):
        with pytest.raises(TrunklineError) as caught:
            load_backbone(wrong)
        assert isinstance(caught.value, ValueError)
