"""Settings come from files and overrides, and a mistake in them is named with its place."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from trunkline.errors import ConfigError
from trunkline.settings import (
    describe_settings,
    load_settings,
    read_settings,
    settings_to_dict,
    settings_to_yaml,
)


@dataclass(frozen=True)
class Optimiser:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    schedule: Literal["cosine", "linear"] = "cosine"

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be above 0, got {self.lr}.")


@dataclass(frozen=True)
class Source:
    path: Path
    weight: float = 1.0


@dataclass(frozen=True)
class Run:
    out: Path
    steps: int = 100
    name: str | None = None
    resume: bool = True
    optimiser: Optimiser = field(default_factory=lambda: Optimiser(lr=5e-4))
    teacher: Optimiser | None = None
    batch: float | tuple[tuple[int, float], ...] = 30.0
    sources: tuple[Source, ...] = ()
    labels: dict[str, int] = field(default_factory=dict)


def load(tmp_path: Path, text: str, *overrides: str) -> Run:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return load_settings(Run, path, overrides)


def test_defaults_then_file_then_overrides_decide(tmp_path):
    settings = load(
        tmp_path, "out: runs/a\nsteps: 7\noptimiser:\n  betas: [0.8, 0.9]\n", "steps=9", "name=5"
    )
    assert settings == Run(Path("runs/a"), steps=9, name="5", optimiser=Optimiser(5e-4, (0.8, 0.9)))


def test_numbers_booleans_null_and_lists_are_read_from_the_command_line():
    overrides = [
        "out=x",
        "optimiser.lr=1e-4",
        "resume=false",
        "name=null",
        "batch=[[0, 28], [5, 60]]",
    ]
    settings = load_settings(Run, None, overrides)
    assert settings.optimiser.lr == 1e-4 and settings.resume is False and settings.name is None
    assert settings.batch == ((0, 28.0), (5, 60.0))


def test_an_exponent_in_yaml_is_a_number(tmp_path):
    assert load(tmp_path, "out: x\noptimiser: {lr: 1e-4}\n").optimiser.lr == 1e-4


def test_optional_settings_can_be_switched_on_by_an_override():
    assert load_settings(Run, None, ["out=x", "teacher.lr=2"]).teacher == Optimiser(lr=2.0)
    assert load_settings(Run, None, ["out=x", "teacher={lr: 3}"]).teacher == Optimiser(lr=3.0)
    assert load_settings(Run, None, ["out=x", "teacher.lr=2", "teacher=null"]).teacher is None


def test_lists_of_settings_are_read_and_checked(tmp_path):
    settings = load(tmp_path, "out: x\nsources:\n  - path: a\n  - {path: b, weight: 2}\n")
    assert settings.sources == (Source(Path("a")), Source(Path("b"), 2.0))
    with pytest.raises(
        ConfigError, match=r"run.yaml:4: unknown setting 'sources.0.wait'. Did you mean 'weight'\?"
    ):
        load(tmp_path, "out: x\nsources:\n  - path: a\n    wait: 2\n")


def test_an_unknown_key_names_file_line_and_the_nearest_key(tmp_path):
    with pytest.raises(
        ConfigError, match=r"run.yaml:3: unknown setting 'optimiser.beta'. Did you mean 'betas'\?"
    ):
        load(tmp_path, "out: x\noptimiser:\n  beta: 1\n")


def test_an_unknown_override_names_the_override():
    with pytest.raises(
        ConfigError, match=r"override 'step=3': unknown setting 'step'. Did you mean 'steps'\?"
    ):
        load_settings(Run, None, ["out=x", "step=3"])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("steps: many", "steps must be int, not 'many'"),
        ("steps: 2.5", "steps must be int, not 2.5"),
        ("steps: true", "steps must be int, not True"),
        ("resume: 3", "resume must be bool, not 3"),
        ("name: 12", "name must be str or null, not 12"),
        ("optimiser: 3", "optimiser holds settings of its own"),
        ("optimiser:", "optimiser holds settings of its own"),
        (
            "optimiser: {schedule: cosin}",
            "optimiser.schedule must be one of 'cosine', 'linear', not 'cosin'",
        ),
        ("optimiser: {betas: [1]}", r"optimiser.betas must be tuple\[float, float\]"),
        ("optimiser: {lr: -1}", "lr must be above 0, got -1.0"),
        ("labels: {a: x}", r"labels must be dict\[str, int\]"),
        ("sources: 3", r"sources must be tuple\["),
        ("steps: 1\nsteps: 2", "steps is given twice"),
        ("steps: [1", "not valid YAML"),
        ("steps: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("teacher: {class_path: os.system}", "unknown setting 'teacher.class_path'"),
    ],
)
def test_a_wrong_value_names_file_line_and_what_is_expected(tmp_path, line, expected):
    with pytest.raises(ConfigError, match=rf"run\.yaml:[234]: .*{expected}"):
        load(tmp_path, f"out: x\n{line}\n")


def test_a_refused_override_is_named():
    with pytest.raises(ConfigError, match=r"override 'optimiser.lr=-1': lr must be above 0"):
        load_settings(Run, None, ["out=x", "optimiser.lr=-1"])
    with pytest.raises(ConfigError, match="'steps' is not a setting; write key=value"):
        load_settings(Run, None, ["steps"])


def test_a_required_setting_that_is_missing_is_named():
    with pytest.raises(ConfigError, match="no value for out"):
        load_settings(Run, None, [])


def test_a_missing_or_shapeless_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="Cannot read the settings file .*nowhere.yaml"):
        load_settings(Run, tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="holds no 'key: value' settings"):
        load(tmp_path, "- out\n")


def test_settings_survive_yaml_and_json(tmp_path):
    settings = load_settings(
        Run,
        None,
        ["out=x", "name=ngân", "batch=[[0, 1.5]]", "sources=[{path: a}]", "labels={a: 1}"],
    )
    assert load(tmp_path, settings_to_yaml(settings)) == settings
    assert json.loads(json.dumps(settings_to_dict(settings)))["sources"] == [
        {"path": "a", "weight": 1.0}
    ]


def test_the_help_text_lists_every_setting_with_its_default():
    text = describe_settings(Run)
    assert "out: Path (required)" in text and "optimiser.lr: float = 0.001" in text


@dataclass(frozen=True)
class Part:
    kind: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Whole:
    parts: dict[str, Part] = field(default_factory=dict)


def test_settings_may_hold_named_parts_with_free_options(tmp_path):
    path = tmp_path / "whole.yaml"
    path.write_text("parts:\n  first: {kind: a, options: {width: 3, name: '4', deep: {x: 1}}}\n")
    given = [
        "parts.first.options.width=5",
        "parts.first.options.deep.y=[1, 2]",
        "parts.second.kind=b",
    ]
    parts = load_settings(Whole, path, given).parts
    assert parts["first"] == Part("a", {"width": 5, "name": "4", "deep": {"x": 1, "y": [1, 2]}})
    assert parts["second"] == Part("b")


def test_a_mistake_in_a_named_part_is_named_with_its_place(tmp_path):
    path = tmp_path / "whole.yaml"
    path.write_text("parts:\n  first:\n    kind: a\n    optoins: {}\n")
    with pytest.raises(ConfigError, match=r"whole.yaml:4: .*parts.first.optoins.*'options'"):
        load_settings(Whole, path)
    with pytest.raises(ConfigError, match="parts.first.options holds settings of its own"):
        load_settings(Whole, overrides=["parts.first.kind=a", "parts.first.options=3"])


def test_settings_from_plain_values_say_where_they_stood():
    assert read_settings(Part, {"kind": "a"}, "head 'x'") == Part("a")
    with pytest.raises(ConfigError, match="head 'x': unknown setting 'knid'"):
        read_settings(Part, {"knid": "a"}, "head 'x'")


@dataclass(frozen=True)
class Corpus:
    train: str | tuple[Source, ...]


def test_a_setting_may_be_a_text_or_a_list_of_parts(tmp_path):
    path = tmp_path / "corpus.yaml"
    path.write_text("train:\n  - {path: a, weight: 2}\n  - {path: b}\n")
    assert load_settings(Corpus, path).train == (Source(Path("a"), 2.0), Source(Path("b")))
    assert load_settings(Corpus, path, ["train=calls.jsonl"]).train == "calls.jsonl"
    assert load_settings(Corpus, None, ["train=[{path: a}]"]).train == (Source(Path("a")),)
    with pytest.raises(ConfigError, match=r"corpus.yaml:2: unknown setting 'train.0.wieght'"):
        path.write_text("train:\n  - {path: a, wieght: 2}\n")
        load_settings(Corpus, path)
