"""What is done to features behind the targets' back: by as much as set, and to nothing else."""

import math

import pytest
import torch

from encoder.config import FeatureConfig
from encoder.features import LogMel
from ssl.perturb import (
    DECIBEL,
    FLOOR,
    GATE_DB,
    random_gate,
    random_level,
    random_line,
    random_noise,
    random_voice,
    warp_frequencies,
)

MELS = 80


def speech_like(batch: int, time: int = 60) -> torch.Tensor:
    """Return log-mel features (batch, time, mels) of energies over five decades."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, time, MELS, generator=generator) * 3 + 10


def mean_energy(features: torch.Tensor) -> torch.Tensor:
    """Return the mean energy of each item in dB."""
    return features.exp().mean(dim=(1, 2)).log() / DECIBEL


def spoken(hertz: float, config: FeatureConfig) -> torch.Tensor:
    """Return the log-mel features (1, features, mels) of a tone."""
    time = torch.arange(8000) / config.sample_rate
    return LogMel(config)(torch.sin(2 * torch.pi * hertz * time))[None]


def test_level_changes_by_up_to_as_much_as_set_over_a_whole_item():
    changes = random_level(torch.zeros(500, 3, MELS), 6.0)
    assert changes.std(dim=(1, 2)).max() < 1e-6
    limit = 6.0 * math.log(10) / 10
    assert changes.abs().max() <= limit
    assert changes.max() > 0.9 * limit
    assert changes.min() < -0.9 * limit


def test_ten_decibels_are_ten_times_the_energy():
    torch.manual_seed(0)
    wave = torch.randn(8000)
    config = FeatureConfig()
    louder = LogMel(config)(wave * math.sqrt(10.0)) - LogMel(config)(wave)
    torch.testing.assert_close(louder, torch.full_like(louder, 10 * DECIBEL), atol=1e-3, rtol=0)


def test_a_line_colours_every_feature_alike_smoothly_and_within_its_limit():
    torch.manual_seed(0)
    changes = random_line(torch.zeros(300, 4, MELS), 6.0) / DECIBEL
    assert torch.equal(changes[:, :1].expand_as(changes), changes)
    assert 5.5 < changes.abs().max() <= 6.0 + 1e-4
    assert changes.diff(dim=2).abs().max() <= 12.0 * 5 / (MELS - 1) + 1e-4
    assert changes.std(dim=0).min() > 1.0


@pytest.mark.parametrize("factor", [0.9, 1.1, 1.25])
def test_a_warped_tone_is_a_tone_of_the_other_frequency(factor):
    config = FeatureConfig()
    warped = warp_frequencies(spoken(1000, config), torch.tensor([factor]), config)
    wanted = spoken(1000 * factor, config)
    assert (warped.argmax(dim=2) - wanted.argmax(dim=2)).abs().max() <= 1
    same = warp_frequencies(wanted, torch.tensor([1.0]), config)
    torch.testing.assert_close(same, wanted, atol=1e-3, rtol=0)


def test_every_item_is_warped_by_its_own_factor():
    config = FeatureConfig()
    torch.manual_seed(0)
    peaks = random_voice(spoken(1000, config).expand(64, -1, -1), 0.2, config)[:, 50].argmax(dim=1)
    low, high = (int(spoken(1000 * f, config)[0, 50].argmax()) for f in (0.8, 1.2))
    assert len(peaks.unique()) > 5
    assert low - 1 <= int(peaks.min()) and int(peaks.max()) <= high + 1


def test_noise_is_as_loud_as_its_ratio_says():
    torch.manual_seed(0)
    features = speech_like(200)
    lengths = torch.full((200,), features.shape[1])
    noisy = random_noise(features, lengths, 1.0, (5.0, 5.0))
    added = (noisy.double().exp() - features.double().exp()).mean(dim=(1, 2)).log() / DECIBEL
    ratios = mean_energy(features).double() - added
    torch.testing.assert_close(ratios, torch.full_like(ratios, 5.0), atol=0.1, rtol=0)


def test_noise_only_adds_energy_to_the_share_of_items_asked_for():
    torch.manual_seed(0)
    features = speech_like(400)
    lengths = torch.full((400,), features.shape[1])
    noisy = random_noise(features, lengths, 0.3, (0.0, 20.0))
    assert (noisy >= features - 1e-5).all()
    share = (noisy != features).flatten(1).any(dim=1).float().mean().item()
    assert share == pytest.approx(0.3, abs=0.08)


def test_padding_is_neither_heard_nor_changed():
    features = speech_like(2)
    lengths = torch.tensor([60, 25])
    features[1, 25:] = 0.0
    torch.manual_seed(3)
    first = random_noise(features, lengths, 1.0, (0.0, 20.0))
    assert torch.equal(first[1, 25:], features[1, 25:])
    assert torch.isfinite(first).all()


def test_an_item_alone_in_its_batch_hears_stationary_noise():
    torch.manual_seed(0)
    features = speech_like(1)
    noisy = random_noise(features, torch.tensor([60]), 1.0, (0.0, 0.0))
    assert mean_energy(noisy).item() == pytest.approx(mean_energy(features).item() + 3.0, abs=0.3)


def test_a_gate_moves_only_what_lies_under_the_speech_either_way():
    torch.manual_seed(0)
    features = speech_like(300)
    lengths = torch.full((300,), features.shape[1])
    gated = random_gate(features, lengths, 1.0)
    mean = features.logsumexp(dim=1, keepdim=True) - math.log(features.shape[1])
    assert torch.equal(gated[features >= mean], features[features >= mean])
    certain = features < mean - GATE_DB * DECIBEL
    assert (gated - features)[certain].abs().min() > 0
    moved = torch.where(certain, gated - features, 0.0).sum(dim=(1, 2))
    assert 0.3 < (moved > 0).float().mean() < 0.5  # slopes below 1, of 0 to 2.5
    torch.testing.assert_close(gated.argsort(dim=1)[:, -5:], features.argsort(dim=1)[:, -5:])


def test_a_gate_leaves_padding_the_other_items_and_digital_silence():
    features = speech_like(200)
    features[:, 10:20] = FLOOR
    lengths = torch.full((200,), 40)
    gated = random_gate(features, lengths, 0.3)
    assert torch.equal(gated[:, 40:], features[:, 40:])
    assert torch.isfinite(gated).all()
    assert gated.min() >= FLOOR
    share = (gated != features).flatten(1).any(dim=1).float().mean().item()
    assert share == pytest.approx(0.3, abs=0.1)


def test_the_same_seed_gives_the_same_perturbations():
    features, lengths = speech_like(8), torch.full((8,), 60)
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append(
            random_line(
                random_noise(random_gate(features, lengths, 0.5), lengths, 0.5, (0.0, 20.0)), 6.0
            )
        )
    assert torch.equal(*found)
