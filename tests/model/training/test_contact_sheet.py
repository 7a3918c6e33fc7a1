from __future__ import annotations

import dataclasses

import numpy as np
import torch
from PIL import Image

from model.training.augment import Painting
from model.training.configuration import Schedule
from model.training.contact_sheet import _most_disease, draw_sheet
from model.training.examples import IGNORE

PAINTING = Painting(lesions=1.0, tumours=1.0)
MIXTURE = {"target": 0.5, "phantom": 0.3, "raw": 0.2}
SCHEDULE = Schedule(steps=1, learning_rate=0.01, mixture=MIXTURE, painting={"target": PAINTING})


def test_the_sheet_has_a_row_for_each_kind_there_is_and_its_seed_decides_it(tmp_path, example, bank):
    examples = [example, dataclasses.replace(example, kind="phantom")]
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        draw_sheet(examples, bank, SCHEDULE, (32, 32, 32), 2, seed, tmp_path / f"{name}.png")
    one, again, other = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB"), int) for name in ("one", "again", "other"))
    assert one.shape[0] > 4 * one.shape[1] / 3
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    red = (one[..., 0] > 180) & (one[..., 1] < 60) & (one[..., 2] < 60)
    orange = (one[..., 0] > 200) & (abs(one[..., 1] - 165) < 40) & (one[..., 2] < 60)
    assert red.any()
    assert orange.any()


def test_the_slice_with_most_lesion_is_shown_then_tumour_then_brain():
    labels = torch.zeros(3, 6, 6, 6, dtype=torch.uint8).numpy()
    labels[2, :, :, 3] = 1
    labels[1, :3, :, 2] = 1
    labels[0, 0, :, 5] = IGNORE
    assert _most_disease(labels, 2) == 2
    labels[0, 1, 1, 4] = 1
    assert _most_disease(labels, 2) == 4
