"""A sweep: trials of heads.train in a study of Optuna that survives being cut off."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from heads.assess import EvaluateOptions, Evaluation, evaluate
from heads.config import HeadsConfig
from heads.dev import LOWER_IS_BETTER
from heads.evaluate import open_heads
from heads.run import HeadsRun
from trunkline.checkpoint import write_json, write_text
from trunkline.errors import ConfigError, DependencyError, TrainingError, UsageError
from trunkline.log import get_logger
from trunkline.settings import load_settings, read_settings, settings_to_dict
from trunkline.training.tracking import locked

logger = get_logger(__name__)

try:
    import optuna  # pyright: ignore[reportMissingImports]  (an extra)
except ImportError as error:
    raise DependencyError(
        "heads.sweep needs Optuna: pip install -c constraints.txt 'trunkline[sweep]'."
    ) from error


@dataclass(frozen=True)
class Dimension:
    """What a setting may be: a number from `low` to `high`, or one of `choices`."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    """Draw evenly in the logarithm, as learning rates are."""
    whole: bool = False
    """Whole numbers only."""
    choices: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        ranged = self.low is not None and self.high is not None
        if ranged == bool(self.choices):
            raise ConfigError("give low and high, or choices.")
        if ranged and not (self.low or 0) < (self.high or 0):
            raise ConfigError(f"low={self.low} must be below high={self.high}.")
        if self.log and not (self.low or 0) > 0:
            raise ConfigError(f"low={self.low} must be more than 0 where log is true.")

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """Return the value that a trial is to have."""
        if self.choices:
            # Optuna stores texts and numbers only: a list is given by its place.
            return self.choices[trial.suggest_categorical(name, list(range(len(self.choices))))]
        assert self.low is not None and self.high is not None
        if self.whole:
            return trial.suggest_int(name, round(self.low), round(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


class Sweep:
    """A folder of trials: `sweep.db`, `trials/` (run folders), `results.csv`, `best.json`."""

    def __init__(
        self,
        config: Path,
        overrides: Sequence[str],
        *,
        space: Path,
        metric: str = "loss",
        out: Path,
        seed: int = 0,
    ) -> None:
        """Read the space and check that its settings are settings.

        Raises:
            ConfigError: an unknown setting, a dimension that is none, or an empty space.
        """
        self.config, self.overrides, self.out, self.metric = config, list(overrides), out, metric
        self.seed = seed
        self.space = read_space(space)
        self._settings({name: _first(x) for name, x in self.space.items()}, out / "trials" / "none")
        self.lower = metric.rpartition("/")[2] in LOWER_IS_BETTER

    def run(self, trials: int) -> dict[str, Any]:
        """Make trials until there are so many; return a summary. Run again to go on."""
        if trials < 1:
            raise UsageError(f"--trials {trials}: at least one is needed.")
        with locked(self.out):
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            study = optuna.create_study(
                storage=f"sqlite:///{self.out / 'sweep.db'}",
                study_name=self._name(),
                direction="minimize" if self.lower else "maximize",
                load_if_exists=True,
            )
            self._take_up(study)
            while len(_finished(study)) < trials:
                # The sampler's draws depend on the trials there are, so that a resumed sweep goes on alike.
                study.sampler = optuna.samplers.TPESampler(seed=self.seed + len(study.trials))
                self._try(study)
                write_text(self.out / "results.csv", self._table(study))
            return self._summary(study)

    def _name(self) -> str:
        """Name the study by all that decides its values, so that another sweep does not mix with it."""
        fixed = settings_to_dict(
            load_settings(HeadsConfig, self.config, [*self.overrides, "out=x"])
        )
        space = {name: settings_to_dict(x) for name, x in self.space.items()}
        text = json.dumps([fixed, space, self.metric], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _take_up(self, study: optuna.Study) -> None:
        """Put trials that were cut off to the front of the queue; their run folders go on where they stopped."""
        for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            if trial.params.keys() == self.space.keys():
                study.enqueue_trial(trial.params)
                logger.info("Trial %d was cut off and is taken up.", trial.number)

    def _try(self, study: optuna.Study) -> None:
        trial = study.ask()
        values = {name: x.suggest(trial, name) for name, x in self.space.items()}
        folder = self._folder(values)
        trial.set_user_attr("folder", folder.name)
        trial.set_user_attr("settings", values)
        logger.info("Trial %d: %s", trial.number, values)
        try:
            summary = HeadsRun(self._settings(values, folder)).run()
        except TrainingError as error:
            logger.warning("Trial %d has no result: %s", trial.number, error)
            trial.set_user_attr("failed", str(error))
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return
        if (
            "tables" not in summary
        ):  # stopped by a signal: the trial stays open and is taken up next time
            raise KeyboardInterrupt
        metrics = dev_metrics(summary)
        if self.metric not in metrics:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            raise ConfigError(
                f"--metric {self.metric!r}: dev gives {', '.join(sorted(metrics)) or 'nothing'}."
            )
        trial.set_user_attr("metrics", metrics)
        study.tell(trial, metrics[self.metric])

    def _folder(self, values: Mapping[str, Any]) -> Path:
        text = json.dumps([self._name(), dict(values)], sort_keys=True)
        return self.out / "trials" / hashlib.sha256(text.encode()).hexdigest()[:12]

    def _settings(self, values: Mapping[str, Any], folder: Path) -> HeadsConfig:
        given = [f"{name}={json.dumps(value)}" for name, value in values.items()]
        config = load_settings(HeadsConfig, self.config, [*self.overrides, *given, f"out={folder}"])
        # Frames depend on no setting of a head, so all trials share them.
        cache = config.data.cache or str(self.out / "frames")
        return replace(config, data=replace(config.data, cache=cache))

    def _table(self, study: optuna.Study) -> str:
        metrics = sorted({k for x in study.trials for k in x.user_attrs.get("metrics", {})})
        file = io.StringIO()
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["trial", "state", "folder", *self.space, *metrics])
        for trial in study.trials:
            values, told = (trial.user_attrs.get(x, {}) for x in ("settings", "metrics"))
            row = [values.get(name) for name in self.space] + [told.get(name) for name in metrics]
            table.writerow(
                [trial.number, trial.state.name.lower(), trial.user_attrs.get("folder", ""), *row]
            )
        return file.getvalue()

    def _summary(self, study: optuna.Study) -> dict[str, Any]:
        done = [x for x in _finished(study) if x.value is not None]
        if not done:
            raise TrainingError(
                f"None of {len(study.trials)} trials came to a result; see {self.out}."
            )
        best = study.best_trial
        folder = self.out / "trials" / best.user_attrs["folder"]
        scores = self._scores(self._settings(best.user_attrs["settings"], folder), folder)
        found = {
            "metric": self.metric,
            "value": best.value,
            "settings": best.user_attrs["settings"],
            "run": str(folder),
            "trials": len(done),
        }
        write_json(self.out / "best.json", {**found, "scores": scores})
        first = [
            {**x.user_attrs["settings"], self.metric: x.value}
            for x in sorted(done, key=lambda x: x.value if self.lower else -(x.value or 0.0))[:10]
        ]
        tables = {"Best trials": first, "The best on dev (95 % intervals)": scores}
        return {**found, "results": str(self.out / "results.csv"), "tables": tables}

    def _scores(self, config: HeadsConfig, folder: Path) -> list[dict[str, Any]]:
        """Return the main score of each head of a run on its dev cuts, with its interval."""
        run = HeadsRun(config)
        trunk, heads = open_heads(folder, None, kinds=_kinds(config))
        context = config.contexts.dev
        options = EvaluateOptions(
            contexts=("full" if context is None else ",".join(map(str, context)),)
        )
        rows = []
        for name, head in heads.items():
            labelled = run.dev.labelled(name)
            parts: list[Evaluation] = []
            for number, manifest in enumerate(run.dev.manifests):
                places = [int(run.dev.place[i]) for i in labelled if run.dev.source[i] == number]
                if places:
                    parts.append(evaluate(trunk, {name: head}, manifest.select(places), options))
            whole = Evaluation(
                [x for part in parts for x in part.predictions],
                [x for part in parts for x in part.trials],
                options.score,
            )
            rows += whole.context_rows()
        return rows


def read_space(path: Path) -> dict[str, Dimension]:
    """Read a space: a mapping of dotted settings to dimensions.

    Raises:
        ConfigError: it is empty, or a dimension is none.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"Cannot read the space {path}: {reason}") from error
    if not isinstance(values, dict) or not values:
        raise ConfigError(
            f"{path} names no settings; write a line such as train.lr: {{low: 1e-4, high: 1e-2}}."
        )
    return {
        str(name): read_settings(Dimension, x if isinstance(x, dict) else {}, f"{path}: {name}")
        for name, x in values.items()
    }


def dev_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the dev metrics of a run's summary by name."""
    found = {
        f"{row['head']}/{key}": float(value)
        for row in summary["tables"]["Heads on dev"]
        for key, value in row.items()
        if isinstance(value, float)
    }
    return found | ({} if summary["loss"] is None else {"loss": float(summary["loss"])})


def _kinds(config: HeadsConfig) -> dict[str, str]:
    from heads.registry import find_head

    named = [config.kind_of(name) for name in config.heads]
    return {find_head(kind).kind: kind for kind in named if ":" in kind}


def _first(dimension: Dimension) -> Any:
    if dimension.choices:
        return dimension.choices[0]
    return round(dimension.low or 0) if dimension.whole else dimension.low


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    states = optuna.trial.TrialState
    return study.get_trials(states=(states.COMPLETE, states.PRUNED))
