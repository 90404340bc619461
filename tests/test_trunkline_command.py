"""Every command ends the same way: a summary on stdout, errors in one line on stderr, a meaningful exit status."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trunkline import log
from trunkline.command import format_summary, run
from trunkline.errors import ConfigError, DataError, StorageError, UsageError


def call(function, *argv: str) -> int:
    parser = argparse.ArgumentParser(prog="test")
    parser.add_argument("config", nargs="?")
    parser.add_argument("overrides", nargs="*")
    return run(function, parser, list(argv))


def raising(error: BaseException):
    def function(_: argparse.Namespace) -> None:
        raise error

    return function


def test_the_summary_is_a_table_or_json(capsys):
    def function(_):
        return {
            "frames": np.int64(3),
            "loss": 0.123456,
            "paths": [Path("a"), Path("b")],
            "probe": {"wer": float("nan")},
        }

    assert call(function) == 0
    assert (
        capsys.readouterr().out
        == "frames     3\nloss       0.1235\npaths      a, b\nprobe.wer  -\n"
    )
    assert call(function, "--json") == 0
    expected = {"frames": 3, "loss": 0.123456, "paths": ["a", "b"], "probe": {"wer": None}}
    assert json.loads(capsys.readouterr().out) == expected


def test_tables_follow_the_summary_and_a_faulty_result_sets_the_exit_status(capsys):
    tables = {
        "faults": [{"line": 7, "what": "silent"}, {"line": 12, "file": "x.wav"}],
        "others": [],
    }
    assert call(lambda _: {"checked": 2, "tables": tables, "exit_status": 1}) == 1
    expected = "checked  2\n\nfaults\nline  what    file\n7     silent  -\n12    -       x.wav\n\nothers\n(none)\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    ("error", "status"),
    [(UsageError("no"), 2), (ConfigError("no"), 2), (DataError("no"), 1), (StorageError("no"), 1)],
)
def test_an_expected_error_is_one_line_and_its_kind_sets_the_status(capsys, error, status):
    assert call(raising(error)) == status
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "error: no\n")


def test_an_unexpected_error_is_named_and_debug_shows_where(capsys):
    assert call(raising(KeyError("k"))) == 1
    assert (
        capsys.readouterr().err
        == "error: KeyError: 'k' (run again with --debug for the traceback)\n"
    )
    assert call(raising(KeyError("k")), "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_control_c_is_130(capsys):
    assert call(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_options_may_stand_between_config_and_overrides():
    seen = []
    assert call(lambda args: seen.append(args), "a.yaml", "--quiet", "x=1", "y=2") == 0
    assert (seen[0].config, seen[0].overrides, seen[0].quiet) == ("a.yaml", ["x=1", "y=2"], True)


@pytest.mark.parametrize(
    "argv", [["--debug", "check", "x"], ["check", "--debug", "x"], ["check", "x", "--debug"]]
)
def test_common_options_work_before_and_after_a_subcommand(argv):
    parser = argparse.ArgumentParser()
    check = parser.add_subparsers(dest="what", required=True).add_parser("check")
    check.add_argument("manifest")
    seen = []
    assert run(lambda args: seen.append(args), parser, argv) == 0
    assert (seen[0].manifest, seen[0].debug, seen[0].json) == ("x", True, False)


def test_only_the_first_process_of_a_distributed_run_prints(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert call(lambda _: {"steps": 3}) == 0
    assert capsys.readouterr().out == ""


def test_a_reader_that_goes_away_is_no_traceback():
    code = (
        "import argparse; from trunkline.command import run\n"
        "raise SystemExit(run(lambda a: (input(), None)[1] or {'frames': 3}, argparse.ArgumentParser()))"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe
    ) as process:
        assert (
            process.stdin is not None and process.stdout is not None and process.stderr is not None
        )
        process.stdout.close()
        process.stdin.write(b"go\n")
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_messages_go_to_stderr_and_quiet_keeps_warnings(capsys):
    def function(_):
        log.get_logger("ssl.pretrain").info("step 1")
        log.get_logger("ssl.pretrain").warning("slow disk")

    call(function)
    captured = capsys.readouterr()
    assert (
        captured.out == "" and "INFO step 1" in captured.err and "WARNING slow disk" in captured.err
    )
    call(function, "--quiet")
    assert "step 1" not in (quiet := capsys.readouterr().err) and "slow disk" in quiet


def test_progress_is_silent_without_a_terminal(capsys):
    assert list(log.progress([1, 2, 3], description="reading", unit="files")) == [1, 2, 3]
    with log.progress(total=2) as bar:
        bar.advance(2)
    assert capsys.readouterr().err == ""


def test_an_empty_summary_prints_nothing():
    assert format_summary({}) == ""


def test_messages_go_to_the_stderr_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr("sys.stderr", first)
    log.setup()
    first.close()
    monkeypatch.setattr("sys.stderr", second)
    log.get_logger("encoder").warning("still here")
    assert "still here" in second.getvalue()
