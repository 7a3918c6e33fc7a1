"""What was never met in training is told apart by its contrast alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from model import familiar
from model.release import Card

SIZE = 60


def brain(seed: int, fluid: float, grey: float, white: float) -> tuple[np.ndarray, np.ndarray]:
    """A folded ball as the network would see it: fluid, a rim of grey around it, white elsewhere."""
    random = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(random.normal(size=(SIZE,) * 3), 4)
    away = ndimage.distance_transform_edt(field < np.percentile(field, 88))
    image = np.where(away == 0, fluid, np.where(away < 5, grey, white)) + random.normal(0, random.uniform(0.04, 0.08), field.shape)
    axes = np.linspace(-1, 1, SIZE) ** 2
    core = axes[:, None, None] + axes[None, :, None] + axes[None, None, :] < 0.9
    values = image[core]
    return ((image - np.median(values)) / values.std() * core).astype(np.float32), core


def flair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    vary = np.random.default_rng(seed + 100).uniform(-0.05, 0.05, 3)
    return brain(seed, 0.1 + vary[0], 1.2 + vary[1], 1.0 + vary[2])


@pytest.fixture(scope="module")
def known() -> dict[str, list[familiar.Profile]]:
    return {f"patient {seed}": [familiar.take_profile(*flair(seed))] for seed in range(6)}


def test_another_flair_is_familiar_and_other_contrasts_are_not(known: dict[str, list[familiar.Profile]]) -> None:
    contrast = familiar.learn(known)
    assert contrast.volumes == 6 and len(contrast.mean) == len(contrast.features)
    assert familiar.flags(familiar.take_profile(*flair(50)), contrast) == ()
    for fluid, grey, white in ((0.1, 0.7, 1.0), (2.0, 1.2, 1.0)):  # T1 and T2
        (flag,) = familiar.flags(familiar.take_profile(*brain(51, fluid, grey, white)), contrast)
        assert flag.startswith("unfamiliar-contrast: ") and f"up to {contrast.limit:.1f}" in flag


def test_the_limit_is_what_a_left_out_patient_would_need(known: dict[str, list[familiar.Profile]]) -> None:
    contrast = familiar.learn(known)
    apart = [familiar.distance(own[0], familiar.learn({k: v for k, v in known.items() if k != name})) for name, own in known.items()]
    assert contrast.limit == pytest.approx(1.2 * max(apart), rel=1e-2)
    with pytest.raises(ValueError, match="too few"):
        familiar.learn({name: known[name] for name in list(known)[:3]})


def test_a_card_that_says_nothing_of_contrast_flags_nothing(card: Card) -> None:
    assert card.contrast is None
    assert familiar.flags((9.0,) * 7, card.contrast) == ()
