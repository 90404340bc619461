"""Folders and files appear whole or not at all, and errors keep their names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trunkline import checkpoint
from trunkline.checkpoint import read_json, sha256_file, write_folder, write_json, write_text
from trunkline.errors import CheckpointError, DependencyError, StorageError


def test_a_folder_that_fails_halfway_leaves_no_trace_and_the_old_one_in_place(
    tmp_path: Path,
) -> None:
    target = tmp_path / "model"
    with write_folder(target) as folder:
        (folder / "a").write_text("first")
    with pytest.raises(ZeroDivisionError), write_folder(target, overwrite=True) as folder:
        (folder / "a").write_text("second")
        raise ZeroDivisionError
    assert (target / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_is_replaced_only_when_asked(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for text in ("first", "second"):
        with write_folder(target, overwrite=text == "second") as folder:
            (folder / "a").write_text(text)
    assert (target / "a").read_text() == "second"
    with pytest.raises(StorageError, match="exists already"), write_folder(target):
        raise AssertionError


@pytest.mark.parametrize("at_once", [True, False])
def test_what_is_replaced_is_whole_before_and_after_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    if not at_once:  # a system without renameat2
        monkeypatch.setattr(checkpoint, "_exchange", lambda first, second: False)
    for number in range(3):
        with write_folder(tmp_path / "run", overwrite=True) as folder:
            write_text(folder / "number", str(number))
        assert (tmp_path / "run" / "number").read_text() == str(number)
        assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux swaps two folders in one step")
def test_a_kill_while_a_folder_is_replaced_never_leaves_its_name_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "run"
    with write_folder(target) as folder:
        write_text(folder / "number", "0")
    rename = Path.rename

    def renamed_then_killed(self: Path, new: Path) -> None:
        rename(self, new)
        if self.is_relative_to(target) or new.is_relative_to(target):
            pytest.fail("The folder was replaced in more than one step.")

    with write_folder(target, overwrite=True) as folder:
        write_text(folder / "number", "1")
        monkeypatch.setattr(Path, "rename", renamed_then_killed)
    assert (target / "number").read_text() == "1"


def test_a_full_disk_is_told_in_a_sentence_that_names_the_folder(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match=r"Cannot write .*model: no space left"),
        write_folder(tmp_path / "model"),
    ):
        raise OSError(28, "No space left on device")


def test_an_error_of_ours_leaves_a_folder_under_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match="install av"), write_folder(tmp_path / "model"):
        raise DependencyError("install av")


def test_a_file_below_a_file_cannot_be_written_and_the_error_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Cannot write"):
        write_text(tmp_path / "file" / "below.txt", "text")


def test_a_file_never_takes_the_place_of_a_device_or_folder(tmp_path: Path) -> None:
    for place in (Path("/dev/null"), tmp_path):
        with pytest.raises(StorageError, match="is no regular file"):
            write_text(place, "text")
    assert not Path("/dev/null").is_file() and tmp_path.is_dir()
    write_text(tmp_path / "a", "text")
    with (
        pytest.raises(StorageError, match="a is no folder"),
        write_folder(tmp_path / "a", overwrite=True),
    ):
        pass
    assert (tmp_path / "a").read_text() == "text"


def test_json_is_read_back_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"tiếng": [1, 2.5, None]})
    assert read_json(path) == {"tiếng": [1, 2.5, None]}
    for damaged in ("{", "[" * 100_000, "9" * 9999):
        path.write_text(damaged)
        with pytest.raises(CheckpointError, match=r"a\.json is not valid JSON"):
            read_json(path)
    with pytest.raises(CheckpointError, match=r"b\.json is missing"):
        read_json(tmp_path / "b.json")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
