"""What heads are trained and chosen on: cuts of several manifests with a label for each head, or none for some."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from encoder import Context
from heads.config import ContextsConfig, DataConfig, SourceConfig
from heads.frames import KeptFrames, Reader, Variant
from trunkline.batching import item_rng
from trunkline.errors import ConfigError, DataError, nearest
from trunkline.log import get_logger
from trunkline.manifest import Manifest, load_manifest

logger = get_logger(__name__)


class HeadKeys(NamedTuple):
    """Where a head's facts stand in a cut."""

    label: str
    vector: str = ""
    """Key of a vector to fuse with, empty if there is none."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """Cuts that have a label of at least one head.

    Attributes:
        manifests: the sources as they are on disk.
        source: (cuts,) which of them each cut stands in.
        place: (cuts,) its place there.
        ids: unique over all sources.
        durations: (cuts,) seconds.
        labels: one list per head, of raw labels; None where a cut has none.
        vectors: the same for heads that fuse with a vector.
        weights: (cuts,) how often each is drawn, or None for evenly.
    """

    manifests: tuple[Manifest, ...]
    source: np.ndarray
    place: np.ndarray
    ids: tuple[str, ...]
    durations: np.ndarray
    labels: dict[str, list[Any]]
    vectors: dict[str, list[Any]]
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def labelled(self, head: str) -> list[int]:
        """Return the cuts that have the head's label."""
        return [i for i, label in enumerate(self.labels[head]) if label is not None]

    def known(self, head: str) -> list[Any]:
        """Return the head's labels, of the cuts that have one."""
        return [label for label in self.labels[head] if label is not None]

    def select(self, cuts: Sequence[int]) -> Corpus:
        """Return some of the cuts."""
        rows = np.asarray(cuts, dtype=np.int64)
        return Corpus(
            self.manifests,
            self.source[rows],
            self.place[rows],
            tuple(self.ids[i] for i in rows),
            self.durations[rows],
            {name: [labels[i] for i in rows] for name, labels in self.labels.items()},
            {name: [vectors[i] for i in rows] for name, vectors in self.vectors.items()},
            None if self.weights is None else self.weights[rows],
        )


def read_corpora(config: DataConfig, keys: Mapping[str, HeadKeys]) -> tuple[Corpus, Corpus]:
    """Return what to train and what to choose on.

    Dev is `data.dev`, else what the training manifests hold of `data.dev_split`, else calls set aside from training.

    Raises:
        DataError: a head has no labelled cut in train or dev; the message says which labels there are.
    """
    loaded: dict[str, Manifest] = {}
    train = _read(config.sources(), keys, loaded)
    dev_sources = config.dev_sources()
    if dev_sources is None and all(source.split is not None for source in config.sources()):
        found = [
            SourceConfig(source.manifest, config.dev_split)
            for source in config.sources()
            if config.dev_split in loaded[source.manifest].codes("split")[1]
        ]
        dev_sources = tuple(found) or None
    for name, key in keys.items():
        _check_labelled(train, name, key.label, loaded.values(), "train")
    if dev_sources is None:
        train, dev, how = _set_aside(train, config.dev_share, keys)
        logger.info("There is no dev: %d cuts of train serve, chosen %s.", len(dev), how)
    else:
        dev = _read(dev_sources, keys, loaded)
    for name, key in keys.items():
        _check_labelled(dev, name, key.label, loaded.values(), "dev")
    return train, dev


def _read(
    sources: Sequence[SourceConfig], keys: Mapping[str, HeadKeys], loaded: dict[str, Manifest]
) -> Corpus:
    manifests, origin, places, ids, seconds = [], [], [], [], []
    labels: dict[str, list[Any]] = {name: [] for name in keys}
    vectors: dict[str, list[Any]] = {name: [] for name, key in keys.items() if key.vector}
    weights: list[np.ndarray] = []
    for number, source in enumerate(sources):
        manifest = loaded.setdefault(source.manifest, load_manifest(source.manifest))
        manifests.append(manifest)
        chosen = _chosen(manifest, source, keys, labels, vectors)
        names = manifest.ids[chosen].tolist()
        origin.append(np.full(len(chosen), number))
        places.append(chosen)
        ids += names if len(sources) == 1 else [f"{number}:{name}" for name in names]
        seconds.append(manifest.durations[chosen])
        share = 1.0 if source.weight is None else source.weight / max(1, len(chosen))
        weights.append(np.full(len(chosen), share))
    if all(source.weight is None for source in sources):
        drawn = None
    elif any(source.weight is None for source in sources):
        raise ConfigError("data.train: give every source a weight, or none.")
    else:
        drawn = np.concatenate(weights)
    return Corpus(
        tuple(manifests),
        np.concatenate(origin),
        np.concatenate(places),
        tuple(ids),
        np.concatenate(seconds),
        labels,
        vectors,
        drawn,
    )


def _chosen(
    manifest: Manifest,
    source: SourceConfig,
    keys: Mapping[str, HeadKeys],
    labels: dict[str, list[Any]],
    vectors: dict[str, list[Any]],
) -> np.ndarray:
    """Append the labels of a source's cuts, of those that have any; return their places in the manifest."""
    ids = manifest.ids
    if source.split is not None and source.split not in manifest.codes("split")[1]:
        there = [name for name in manifest.codes("split")[1] if name]
        raise DataError(
            f"{manifest.path} has no cut of split {source.split!r}.{nearest(source.split, there)}"
        )
    rows = []
    for place, row in enumerate(manifest.rows()):
        if source.split is None or row["split"] == source.split:
            rows.append((place, [_value(row, key.label) for key in keys.values()], row))
    if source.fraction < 1:
        rows.sort(key=lambda row: _hash(str(ids[row[0]])))
        rows = sorted(rows[: max(1, round(source.fraction * len(rows)))], key=lambda row: row[0])
    places = []
    for place, found, row in rows:
        if all(label is None for label in found):
            continue
        places.append(place)
        for name, label in zip(keys, found, strict=True):
            labels[name].append(label)
        for name in vectors:
            vectors[name].append(_value(row, keys[name].vector))
    if len(places) < len(rows):
        logger.info(
            "%s: %d of %d cuts have no label of any head and are left out.",
            manifest.path.name,
            len(rows) - len(places),
            len(rows),
        )
    return np.array(places, dtype=np.int64)


def _value(row: Mapping[str, Any], key: str) -> Any:
    """Return what `Cut.label` does."""
    return row["labels"].get(key, row.get(key))


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()


def _check_labelled(corpus: Corpus, head: str, key: str, manifests: Any, which: str) -> None:
    if corpus.labelled(head):
        return
    known = {
        name for manifest in manifests for row in manifest.rows() for name in _label_names(row)
    }
    raise DataError(
        f"No cut of {which} has the label {key!r} of head {head!r}.{nearest(key, known)} "
        f"Set heads.{head}.options.label, or leave the head out."
    )


def _label_names(row: Mapping[str, Any]) -> list[str]:
    known = {"id", "audio_filepath", "call_id", "start", "end", "duration", "line", "json"}
    known |= {"tags", "labels", "sampling_rate", "channel", "split"}
    return [
        *row["labels"],
        *(x for x, value in row.items() if value is not None and x not in known),
    ]


def _set_aside(
    corpus: Corpus, share: float, keys: Mapping[str, HeadKeys]
) -> tuple[Corpus, Corpus, str]:
    """Return what stays, what is set aside, and by what it was chosen: call, speaker or cut."""
    calls = [corpus.manifests[s].column("call_id") for s in range(len(corpus.manifests))]
    groups = [f"{s}:{calls[s][p]}" for s, p in zip(corpus.source, corpus.place, strict=True)]
    unit = "call by call"
    learns_speakers = any(key.label == "speaker" for key in keys.values())
    if len(set(groups)) == len(
        corpus
    ):  # every file is a call of its own: nothing is known of calls
        voices = [corpus.manifests[s].column("speaker") for s in range(len(corpus.manifests))]
        named = [voices[s][p] for s, p in zip(corpus.source, corpus.place, strict=True)]
        if not learns_speakers and len({name for name in named if name}) > 1:
            groups, unit = [str(name) for name in named], "speaker by speaker"
        else:
            unit = "cut by cut"
    order = sorted(set(groups), key=_hash)
    wanted, dev, taken = share * len(corpus), set(), 0
    counts = Counter(groups)
    for name in order[:-1]:
        if taken >= wanted:
            break
        dev.add(name)
        taken += counts[name]
    apart = [i for i, name in enumerate(groups) if name in dev]
    rest = [i for i, name in enumerate(groups) if name not in dev]
    return corpus.select(rest), corpus.select(apart), unit


class Item(TypedDict):
    """A cut in one epoch, before its batch."""

    index: int
    copy: int
    draw: float
    """In [0, 1); that of a batch's first item decides its context."""
    features: Tensor | None
    """(features, mels), None where frames are kept."""


class Batch(TypedDict):
    """A padded batch of cuts; of `features` and `frames` one is None."""

    ids: list[str]
    features: Tensor | None
    """(batch, features, mels)."""
    frames: Tensor | None
    """(rows, batch, frames, dim), as `KeptFrames` has them."""
    lengths: Tensor
    """(batch,) features, or frames where they are kept."""
    context: Context
    labels: dict[str, list[Any]]
    vectors: dict[str, list[Any]]
    audio_seconds: float


class Items:
    """The cuts of a corpus as items of training: a `trunkline.batching.Dataset` and its `collate`.

    Args:
        corpus: what to read.
        reader: reads audio.
        kept: one per manifest of the corpus; None computes frames while training.
        contexts: what batches are encoded in.
        augmented: items are augmented: one of `copies` copies of a cut or the original, or anew each epoch if 0.
        seed: with epoch and id, decides everything.
        clean: nothing is augmented, and every batch has the context of dev.
    """

    def __init__(
        self,
        corpus: Corpus,
        reader: Reader,
        kept: Sequence[KeptFrames] | None,
        contexts: ContextsConfig,
        *,
        augmented: bool = False,
        copies: int = 0,
        seed: int = 0,
        clean: bool = False,
    ) -> None:
        self.corpus, self.reader, self.kept, self.contexts = corpus, reader, kept, contexts
        self.augmented, self.copies = augmented, copies
        self.seed, self.clean = seed, clean
        self.ids = corpus.ids

    @property
    def durations(self) -> np.ndarray:
        """(cuts,) seconds."""
        return self.corpus.durations

    def source(self, index: int) -> dict[str, Any]:
        """Say where an item comes from."""
        cut = self._cut(index)
        return {"file": str(cut.audio_filepath), "line": cut.line}

    def _cut(self, index: int) -> Any:
        corpus = self.corpus
        return corpus.manifests[int(corpus.source[index])][int(corpus.place[index])]

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        rng = item_rng(self.seed, epoch, f"{self.ids[index]}\0heads")
        draw, copy = float(rng.random()), 0
        if self.augmented:
            copy = int(rng.integers(self.copies + 1)) if self.copies else epoch + 1
        features = None
        if self.kept is None:
            cut = self._cut(index)
            features = self.reader.features(cut, cut.id, copy)
        return {"index": index, "copy": copy, "draw": draw, "features": features}

    def collate(self, items: list[Item]) -> Batch:
        """Pad items into a batch, reading kept frames in the batch's context."""
        indices = [item["index"] for item in items]
        corpus = self.corpus
        context = self.contexts.of_dev() if self.clean else self.contexts.choose(items[0]["draw"])
        features = frames = None
        if self.kept is None:
            found = [item["features"] for item in items if item["features"] is not None]
            lengths = torch.tensor([len(item) for item in found])
            features = pad_sequence(found, batch_first=True)
        else:
            rows = [
                torch.from_numpy(self._kept(item["index"], Variant(context, item["copy"])))
                for item in items
            ]
            lengths = torch.tensor([row.shape[1] for row in rows])
            padded = pad_sequence([row.transpose(0, 1) for row in rows], batch_first=True)
            frames = padded.permute(2, 0, 1, 3)
        return {
            "ids": [self.ids[i] for i in indices],
            "features": features,
            "frames": frames,
            "lengths": lengths,
            "context": context,
            "labels": {name: [x[i] for i in indices] for name, x in corpus.labels.items()},
            "vectors": {name: [x[i] for i in indices] for name, x in corpus.vectors.items()},
            "audio_seconds": float(corpus.durations[indices].sum()),
        }

    def _kept(self, index: int, variant: Variant) -> np.ndarray:
        assert self.kept is not None
        source = self.kept[int(self.corpus.source[index])]
        return source.read(int(self.corpus.place[index]), variant)
