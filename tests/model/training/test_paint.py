from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from model.training.augment import Painting, draw_crop, find_centres, randomise
from model.training.examples import IGNORE
from model.training.fields import blur, box_of, dilate, jitter_matrix, pull
from model.training.paint import _caps, erase_lesions, paint_lesions, paint_tumour


def _drawn(example, bank, seed):
    torch.manual_seed(seed)
    brain = (example.labels[2] == 1).float()
    forbidden = dilate((example.labels[1] == 1).float(), 3)
    image = example.image.float()
    painted, drawn = paint_lesions(image, brain, forbidden, example.to_mni, bank, example.white)
    return image, painted, drawn, brain, forbidden


def test_painted_lesions_are_bright_inside_the_brain_and_clear_of_the_tumour(example, bank):
    seen = 0
    for seed in range(8):
        image, painted, drawn, brain, forbidden = _drawn(example, bank, seed)
        assert (drawn[brain == 0] == 0).all()
        assert (drawn[forbidden > 0] == 0).all()
        if drawn.any():
            seen += 1
            assert (painted - image)[drawn > 0].mean() > 0.5 * example.white.sd
            far = dilate(drawn, 8) == 0
            assert torch.allclose(painted[far], image[far], atol=0.05)
    assert seen >= 4


def test_painted_tumours_stay_in_the_brain(example):
    torch.manual_seed(2)
    brain = (example.labels[2] == 1).float()
    _, whole = paint_tumour(example.image.float(), brain, example.white)
    assert whole.any()
    assert (whole[brain == 0] == 0).all()


def test_labels_of_a_crop_are_what_was_painted(example, bank):
    for seed in range(6):
        torch.manual_seed(seed)
        crop = draw_crop(example, find_centres(example), (48, 48, 48), 0.5, Painting(lesions=1.0, tumours=1.0), bank)
        assert crop.image.shape == (1, 1, 48, 48, 48)
        assert set(crop.labels.unique().tolist()) <= {0, 1, IGNORE}
        lesion, tumour = crop.labels[0, 0], crop.labels[0, 1]
        assert not ((lesion == 1) & (tumour == 1)).any()
        assert torch.isfinite(crop.image).all()


def test_background_stays_exactly_zero(example):
    torch.manual_seed(3)
    background = example.image == 0
    for _ in range(5):
        assert (randomise(example.image.float(), background)[background] == 0).all()


def test_a_step_is_decided_by_its_seed(example, bank):
    crops = []
    for _ in range(2):
        torch.manual_seed(11)
        crops.append(draw_crop(example, find_centres(example), (32, 32, 32), 0.5, Painting(lesions=0.5, tumours=0.5), bank))
    assert torch.equal(crops[0].image, crops[1].image)
    assert torch.equal(crops[0].labels, crops[1].labels)


def test_pull_reads_where_the_matrix_says():
    volume = torch.arange(4 * 5 * 6, dtype=torch.float32).reshape(1, 4, 5, 6)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    assert torch.allclose(pull(volume, matrix, (2, 2, 2))[0], volume[0, 1:3, 2:4, 3:5], atol=1e-3)


def test_jitter_keeps_the_centre_when_nothing_shifts():
    matrix = jitter_matrix((10.0, 20.0, 30.0), 0.3, 0.2, 0.0)
    centre = torch.tensor([10.0, 20.0, 30.0, 1.0], dtype=torch.float64)
    assert torch.allclose(matrix @ centre, centre)


def test_an_erased_lesion_looks_like_the_tissue_around_it(example):
    image, lesion = example.image.float().clone(), (example.labels[0] == 1).float()
    image[lesion > 0] += 2.0
    brain = (example.labels[2] == 1).float()
    gone = []
    for seed in range(8):
        torch.manual_seed(seed)
        out, filled = erase_lesions(image, lesion, brain, example.white)
        gone.append(bool(filled.any()))
        assert (filled <= lesion).all()
        far = dilate(filled, 5) == 0
        assert torch.allclose(out[far], image[far], atol=0.01)
        if filled.any():
            assert out[filled > 0].mean() < image[filled > 0].mean() - 1.0
            assert abs(out[filled > 0].mean() - example.white.mean) < 2 * example.white.sd
    assert any(gone)


def test_a_blur_is_the_gaussian_it_says():
    torch.manual_seed(0)
    field = torch.randn(20, 24, 17)
    wanted = ndimage.gaussian_filter(field.numpy(), 1.6, mode="nearest", radius=4)
    assert np.allclose(blur(field, 1.6).numpy(), wanted, atol=1e-5)


def test_caps_lie_on_ventricles_but_not_on_thin_fluid_nor_where_lesions_are_rare(example):
    image, brain = torch.zeros(64, 64, 64), (example.labels[2] == 1).float()
    wide, narrow, common = torch.zeros_like(image), torch.zeros_like(image), torch.ones_like(image)
    wide[19:25, 22:36, 28:36] = 1
    narrow[46:47, 22:44, 24:40] = 1
    common[:, 40:] = 0
    common[:17] = 0
    image[wide > 0], image[narrow > 0] = -5.0, -2.0
    for seed in range(4):
        torch.manual_seed(seed)
        caps = _caps(image, brain, common, example.to_mni, example.white) > 0
        assert caps.any()
        assert not (caps & ((wide > 0) | (common == 0))).any()
        assert (dilate(wide, 18) > 0)[caps].all()
        assert not (dilate(narrow, 3) > 0)[caps].any()


def test_only_what_lies_in_the_box_of_the_bank_is_worked_on_and_nothing_outside_it_changes(example, bank):
    box = box_of(bank.extent, example.to_mni, example.image.shape)
    assert not box.empty
    inside = torch.zeros(example.image.shape, dtype=torch.bool)
    box.of(inside).fill_(True)
    assert (pull(bank.prior[None], example.to_mni, (64, 64, 64))[0] > 0)[inside].any()
    assert not (pull(bank.prior[None], example.to_mni, (64, 64, 64))[0] > 0)[~inside].any()
    image, painted, drawn, _, _ = _drawn(example, bank, 4)
    assert torch.equal(painted[~inside], image[~inside])
    assert not drawn[~inside].any()


def test_a_crop_far_from_where_lesions_occur_stays_as_it_is(example, bank):
    far = example.to_mni.clone()
    far[:3, 3] += 500.0
    image, brain = example.image.float(), (example.labels[2] == 1).float()
    out, drawn = paint_lesions(image, brain, torch.zeros_like(brain), far, bank, example.white)
    assert torch.equal(out, image)
    assert not drawn.any()
