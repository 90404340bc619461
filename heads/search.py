"""A learning rate for each head from short trials on kept frames: it matters more than the trunk (s3prl issue #268)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from heads.config import NOTHING, ChooseConfig, ContextsConfig, HeadsConfig, TrunkConfig
from heads.run import HeadsRun, fixed, merged
from trunkline.checkpoint import read_json, write_json
from trunkline.errors import TrainingError
from trunkline.log import get_logger

logger = get_logger(__name__)


def search_rates(config: HeadsConfig) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Try `search.rates` on the frozen trunk without adapters; return the best rate of each head, and all trials.

    Each trial is a small run of its own in `out/lr-search/`, with the heads trained jointly; a head's rate is the one
    with which dev liked this head best. Trials that were made are not made again.

    Raises:
        TrainingError: no rate worked for a head. Others: as a run.
    """
    path = Path(config.out) / "lr-search" / "result.json"
    settings = fixed(replace(config, out=""))
    if path.exists() and (found := read_json(path))["settings"] == settings:
        return found["rates"], found["trials"]
    trials: list[dict[str, Any]] = []
    for rate in config.search.rates:
        try:
            metrics = _trial(config, rate)
        except TrainingError as error:
            if "not finite" not in str(error):
                raise
            logger.warning("rate %g: %s", rate, error)
            metrics = {}
        row: dict[str, Any] = {"rate": rate}
        for name in config.heads:
            key = deciding_metric(config, name, metrics)
            row[name] = None if key is None else metrics[key]
            row["by"] = row.get("by", key)
        trials.append(row)
    rates = {name: _best(config, name, trials) for name in config.heads}
    write_json(path, {"settings": settings, "rates": rates, "trials": trials})
    return rates, trials


def deciding_metric(config: HeadsConfig, head: str, metrics: Mapping[str, float]) -> str | None:
    """Return the metric a head's rate is chosen by: that of `choose`, else its loss, else its equal error rate."""
    wanted = [config.choose.metric] if config.choose.metric.startswith(f"{head}/") else []
    return next((x for x in (*wanted, f"{head}/loss", f"{head}/eer") if x in metrics), None)


def _trial(config: HeadsConfig, rate: float) -> dict[str, float]:
    out = Path(config.out)
    frozen = {"adapter": {"kind": "none"}}
    heads = {
        name: replace(
            head,
            lr=None,
            adapter_lr=None,
            kind=config.kind_of(name),
            options=merged(head.options, frozen),
        )
        for name, head in config.heads.items()
    }
    steps = config.search.steps
    trial = replace(
        config,
        heads=heads,
        out=str(out / "lr-search" / f"lr-{rate:g}"),
        data=replace(
            config.data,
            cache=config.data.cache or str(out / "frames"),
            keep_frames=True,
            workers=0,
        ),
        contexts=ContextsConfig(full=1.0, dev=config.contexts.dev),
        trunk=TrunkConfig(),
        augment=NOTHING,
        copies=0,
        choose=ChooseConfig(config.choose.metric, average=1),
        train=replace(
            config.train,
            steps=steps,
            lr=rate,
            warmup_steps=min(config.train.warmup_steps, steps // 10),
            evaluate_every=0,
            checkpoint_every=steps,
            trackers=(),
        ),
    )
    summary = HeadsRun(trial).run()
    if "tables" not in summary:  # stopped by a signal
        raise KeyboardInterrupt
    rows = summary["tables"]["Heads on dev"]
    return {
        f"{row['head']}/{key}": value
        for row in rows
        for key, value in row.items()
        if isinstance(value, float)
    }


def _best(config: HeadsConfig, head: str, trials: list[dict[str, Any]]) -> float:
    from heads.dev import LOWER_IS_BETTER

    done = [row for row in trials if row[head] is not None]
    if not done:
        raise TrainingError(
            f"No rate of search.rates worked for head {head!r}; try lower ones, or leave --lr-search out."
        )
    key = deciding_metric(config, head, {f"{head}/loss": 0.0, config.choose.metric: 0.0})
    lower = key is None or key.rpartition("/")[2] in LOWER_IS_BETTER
    return float(min(done, key=lambda row: row[head] if lower else -row[head])["rate"])
