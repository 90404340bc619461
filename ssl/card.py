"""The model card of a backbone that pretraining exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from encoder import Backbone, Context
from encoder.conformer import count_parameters
from ssl.config import PretrainConfig
from trunkline.manifest import Manifest
from trunkline.prepare.licence import NOT_STATED, describe


def licence_of(config: PretrainConfig, manifest: Manifest) -> str:
    """Return the licence of the data: as the settings state it, else as the manifest's cuts do."""
    if config.licence != NOT_STATED:
        return config.licence
    return describe(manifest) or NOT_STATED


def model_card(config: PretrainConfig, backbone: Backbone, training: dict[str, Any]) -> str:
    """Return the model card of an exported backbone, in Markdown."""
    metrics = training["metrics"]
    shown = [
        name
        for name in ("masked_loss", "masked_accuracy", "unmasked_accuracy", "audio_hours")
        if name in metrics
    ]
    contexts = ", ".join(str(tuple(Context(*context))) for context in config.objective.contexts)
    lines = [
        "# Trunkline backbone",
        "",
        f"A {config.model.preset} Conformer encoder ({count_parameters(backbone) / 1e6:.1f} M parameters, "
        f"{backbone.num_layers} layers, width {backbone.d_model}, one frame each {backbone.frame_shift * 1000:.0f} ms) "
        f"for {backbone.sample_rate} Hz speech.",
        "",
        f"- Data: `{Path(config.data.manifest).name}`, split {config.data.split or 'all'}, unlabelled",
        f"- Licence of the data: {training['licence']}",
        f"- Trained by: {config.objective_kind}, round {training['iteration']}, {training['steps']} updates, "
        f"targets {json.dumps(training['targets']['source'])}",
        f"- Contexts (chunk, left, right in frames): full in {config.objective.full_context:.0%} of the batches, "
        f"else {contexts}",
        *(f"- {name} at the end: {metrics[name]:.4g}" for name in shown),
        f"- Made by: {training['made_by']}",
        "",
        "```python",
        "from encoder import load_backbone",
        "",
        'frames = load_backbone("THIS_FOLDER").encode("call.wav", channel="customer").frames',
        "```",
        "",
    ]
    return "\n".join(lines)
