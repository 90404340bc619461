"""The telephone line: its band, its codecs, its lost packets."""

from __future__ import annotations

import functools
import io

import numpy as np
import soundfile
import torch
from torch import Tensor

from trunkline.augment.config import CODECS, CONCEALMENTS
from trunkline.augment.room import fast_length
from trunkline.augment.signal import FRAME, frames_of, resample, within_scale
from trunkline.errors import UsageError, nearest

LINE_RATE = 8000  # Hz
_GSM_BLOCK = 320  # samples that libsndfile's GSM 06.10 codes at once
_FADE = 0.5  # each packet in a row that is made up is this much weaker


def through_band(
    waveform: Tensor, sample_rate: int, low: float = 300.0, high: float = 3400.0, tilt: float = 0.0
) -> Tensor:
    """Return the waveform (samples,) with the band and colour of a telephone.

    The filter has no phase and no delay, so word times hold: full gain from `low` to 200 Hz below
    `high`, none 100 Hz below `low` and from `high` on. At a rate above 8 kHz nothing is left above
    4 kHz, as after a resampling to the line's rate and back. The loudness changes by what is taken
    away.

    Args:
        waveform: (samples,).
        sample_rate: Hz.
        low: Hz.
        high: Hz.
        tilt: colour of the handset: exponent of frequency / 1 kHz.
    """
    size = fast_length(waveform.shape[-1] + round(0.05 * sample_rate))
    frequency = np.fft.rfftfreq(size, 1 / sample_rate)
    gain = np.interp(frequency, (low - 100, low, high - 200, high), (0, 1, 1, 0))
    gain *= (np.maximum(frequency, 100) / 1000) ** tilt
    shape = torch.from_numpy(gain.astype(np.float32)).to(waveform.device)
    filtered = torch.fft.irfft(torch.fft.rfft(waveform, size) * shape, size)
    return filtered[: waveform.shape[-1]].contiguous()


def code(waveform: Tensor, sample_rate: int, name: str) -> Tensor:
    """Return the waveform (samples,) as it comes out of a codec that works at 8 kHz.

    "mulaw" and "alaw" are ITU-T G.711, "gsm" is GSM 06.10 full rate by libsndfile (on the host).
    None of them delays. Another rate goes to 8 kHz and back.

    Raises:
        UsageError: no such codec.
    """
    if name not in CODECS:
        raise UsageError(f"Unknown codec {name!r}.{nearest(name, CODECS)}")
    narrow = within_scale(resample(waveform, sample_rate, LINE_RATE))
    coded = _gsm(narrow) if name == "gsm" else _companded(narrow, name)
    wide = resample(coded, LINE_RATE, sample_rate)[: waveform.shape[-1]]
    return within_scale(torch.nn.functional.pad(wide, (0, waveform.shape[-1] - wide.shape[-1])))


def lose_packets(waveform: Tensor, sample_rate: int, lost: Tensor, concealment: str) -> Tensor:
    """Return the waveform with its lost packets of 20 ms concealed.

    Args:
        waveform: (samples,).
        sample_rate: Hz.
        lost: (packets,) bool; as many as `frames_of` gives.
        concealment: "silence", or "repeat" the last packet that came, half as loud each time.
    """
    if concealment not in CONCEALMENTS:
        raise UsageError(
            f"Unknown concealment {concealment!r}.{nearest(concealment, CONCEALMENTS)}"
        )
    packets = frames_of(waveform, sample_rate)
    if lost.shape != packets.shape[:1]:
        raise UsageError(f"{len(packets)} packets need as many marks, not {tuple(lost.shape)}.")
    number = torch.arange(len(packets), device=waveform.device)
    last = torch.where(lost, -1, number).cummax(dim=0).values  # -1: none has come yet
    fade = _FADE ** (number - last).float() * (last >= 0) * (concealment == "repeat")
    filler = packets[last.clamp_min(0)] * fade[:, None]
    return torch.where(lost[:, None], filler, packets).flatten()[: waveform.shape[-1]]


def draw_losses(rng: np.random.Generator, count: int, loss: float, burst: float) -> np.ndarray:
    """Draw which of `count` packets are lost, (count,) bool, by Gilbert's model of two states.

    Args:
        rng: decides.
        count: packets.
        loss: share of them that are lost on average.
        burst: mean number lost in a row.
    """
    leave = 1 / burst
    enter = min(1.0, leave * loss / (1 - loss)) if loss < 1 else 1.0
    chances = rng.random(count)
    lost = np.zeros(count, dtype=bool)
    state = False
    for index, chance in enumerate(chances.tolist()):
        state = chance >= leave if state else chance < enter
        lost[index] = state
    return lost


def packet_count(length: int, sample_rate: int) -> int:
    """Return how many packets of 20 ms hold `length` samples."""
    return -(-length // max(1, round(FRAME * sample_rate)))


def _companded(waveform: Tensor, name: str) -> Tensor:
    levels, edges = (torch.from_numpy(part).to(waveform.device) for part in _law(name))
    return levels[torch.bucketize(waveform, edges)]


@functools.cache
def _law(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the levels of a G.711 law, rising, and the edges half-way between them."""
    subtype = {"mulaw": "ULAW", "alaw": "ALAW"}[name]
    codes = io.BytesIO(bytes(range(256)))
    values, _ = soundfile.read(
        codes, dtype="float32", samplerate=8000, channels=1, format="RAW", subtype=subtype
    )
    levels = np.unique(values)
    return levels, (levels[1:] + levels[:-1]) / 2


def _gsm(waveform: Tensor) -> Tensor:
    host = waveform.detach().cpu().numpy()
    padded = np.pad(host, (0, -len(host) % _GSM_BLOCK))
    file = io.BytesIO()
    soundfile.write(file, padded, LINE_RATE, format="WAV", subtype="GSM610")
    file.seek(0)
    coded, _ = soundfile.read(file, dtype="float32")
    return torch.from_numpy(coded[: len(host)].copy()).to(waveform.device)
