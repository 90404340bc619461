"""Vectors relative to the voice they come from.

Besides what was said, a pooled vector carries who said it and over which line. What the cuts of one voice have in
common can be taken out without any label, as recognisers take out the mean cepstrum of a speaker or of one side of a
call. A probe of vectors treated so asks what is left to tell apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from ssl.pooled import Pooled
from ssl.probing import classes_of
from trunkline.errors import UsageError
from trunkline.manifest import Cut

Voice = tuple[str, ...]

PRIOR_CUTS = 3
"""A voice's mean is trusted by half after so many cuts: what few cuts share may be what they say."""


def voice_of(cut: Cut) -> Voice:
    """Return the voice of a cut: its speaker, or one side of its call where the speaker is not known."""
    if cut.speaker is not None:
        return ("speaker", cut.speaker)
    return ("call", cut.call_id, str(cut.channel))


def known_voices(cuts: Iterable[Cut], label: str) -> int:
    """Return how many voices have several cuts.

    Raises:
        UsageError: there are none, or each of them has one class of `label` only: what is asked for would go with
            the voice.
    """
    classes: dict[Voice, list[str]] = {}
    for cut in cuts:
        classes.setdefault(voice_of(cut), []).extend(classes_of([cut], label))
    several = [names for names in classes.values() if len(names) > 1]
    if not several:
        raise UsageError(
            "--relative-to-voice: no two cuts name the same speaker, or the same call and channel; add 'speaker' or "
            "'call_id' to the manifest, or leave the option out."
        )
    if all(len(set(names)) == 1 for names in several):
        raise UsageError(
            f"--relative-to-voice: every voice has one {label!r} only, which would be taken out with it; leave the "
            "option out."
        )
    return len(several)


def relative_to_voices(parts: Mapping[str, Pooled]) -> dict[str, Pooled]:
    """Take out of every vector how far its voice lies from the mean of "train".

    A voice's mean is over all its cuts in all parts, no label is looked at, and with few cuts it counts for less.
    The vector of a voice's only cut stays as it is.

    Args:
        parts: pooled cuts of "train", "dev" and "test".
    """
    origin = parts["train"].vectors.mean(dim=0)
    rows: dict[Voice, list[tuple[str, int]]] = {}
    for name, part in parts.items():
        for row, cut in enumerate(part.cuts):
            rows.setdefault(voice_of(cut), []).append((name, row))
    vectors = {name: part.vectors.clone() for name, part in parts.items()}
    for places in rows.values():
        if len(places) == 1:
            continue
        own = torch.stack([parts[name].vectors[row] for name, row in places]).mean(dim=0)
        offset = (own - origin) * len(places) / (len(places) + PRIOR_CUTS)
        for name in parts:
            vectors[name][[row for where, row in places if where == name]] -= offset
    return {name: part._replace(vectors=vectors[name]) for name, part in parts.items()}
