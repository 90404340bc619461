"""What needs no encoder: floors for emotion and voices from MFCC, judged like the heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from heads.assess import Evaluation
from heads.predictions import Prediction
from heads.scoring import ScoreOptions
from heads.trial_scoring import scored_trials
from heads.verification import all_pairs
from ssl.pooled import MfccFeatures, Pooled, extract
from trunkline.manifest import load_manifest

RATE = 8000
CONTEXT = "full"


def _mfcc(manifest: Path, split: str, pooling: str) -> tuple[np.ndarray, Pooled]:
    cuts = list(load_manifest(manifest).filter(split=split))
    pooled = extract(MfccFeatures(RATE, pooling=pooling), cuts, description=f"MFCC of {split}")
    return pooled.vectors[:, 0].numpy(), pooled


def emotion_floor(manifest: Path) -> Evaluation:
    """Return logistic regression on mean and deviation of MFCC, its penalty chosen on dev."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    parts = {name: _mfcc(manifest, name, "mean+std") for name in ("train", "dev", "test")}
    scale = StandardScaler().fit(parts["train"][0])
    vectors = {name: scale.transform(found) for name, (found, _) in parts.items()}
    labels = {name: [str(cut.label("emotion")) for cut in x.cuts] for name, (_, x) in parts.items()}
    models = [
        LogisticRegression(C=c, max_iter=2000).fit(vectors["train"], labels["train"])
        for c in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    ]
    best = max(models, key=lambda model: model.score(vectors["dev"], labels["dev"]))
    answers, sure = best.predict(vectors["test"]), best.predict_proba(vectors["test"]).max(axis=1)
    rows = [
        Prediction(
            "emotion", "classes", CONTEXT, cut.id, truth, str(answer), float(p),
            call=cut.call_id, speaker=cut.speaker, duration=cut.duration,
        )
        for cut, truth, answer, p in zip(parts["test"][1].cuts, labels["test"], answers, sure, strict=True)
    ]  # fmt: skip
    return Evaluation(rows, [], ScoreOptions())


def voices_floor(manifest: Path) -> Evaluation:
    """Return trials between means of MFCC, each coefficient scaled by its deviation in train."""
    train, _ = _mfcc(manifest, "train", "mean")
    test, pooled = _mfcc(manifest, "test", "mean")
    scaled = (test - train.mean(axis=0)) / train.std(axis=0)
    voices = {cut.id: list(row) for cut, row in zip(pooled.cuts, scaled, strict=True)}
    speakers = {cut.id: str(cut.speaker) for cut in pooled.cuts}
    trials = scored_trials("speaker", CONTEXT, all_pairs(speakers), voices, speakers)
    return Evaluation([], trials, ScoreOptions())
