"""The kinds of segmentation objects a setting chooses: what each holds, as readers that nobody here wrote understand it."""

from __future__ import annotations

from io import BytesIO

import highdicom
import numpy as np
import pydicom
import pytest

from model.volume import Volume
from service.errors import Unavailable
from service.sections import Segmentation
from tests.provider import SEGMENTATION, provider
from tests.worker.encode.cases import CARD, affine, context_of, masks_of, series_of, textured
from tests.worker.encode.decoding import dcmqi_labels, dcmqi_segments
from tests.worker.encode.test_objects import labels_with
from tests.worker.encode.test_seg import PLANES, assert_references_every_frame, errors_of
from worker import measure
from worker.encode import seg, sr
from worker.encode.segments import BRAIN, LABEL_MAP_STORAGE, choose_segments
from worker.measure import label_image
from worker.send import Peer, read_outgoing, send

SHAPE = (26, 23, 15)
LABELS = labels_with(7, SHAPE, tumour=True)
LABELS[0, 0, 0] = 2
BRAIN_MASK = LABELS > 0
BRAIN_MASK[1:-1, 1:, 2:12] = True
BRAIN_MASK[..., 13] = LABELS[..., 13] > 0  # a plane whose whole brain is hyper-intensity
CHOICES = [
    Segmentation(encoding="binary", brain=True),
    Segmentation(encoding="binary", lesion_segments=4, brain=True),
    Segmentation(encoding="binary", lesion_segments=200),
    Segmentation(encoding="labelmap"),
    Segmentation(encoding="labelmap", lesion_segments=4, brain=True),
    Segmentation(encoding="fractional"),
    Segmentation(encoding="fractional", lesion_segments=4, brain=True),
]


def called(chosen):
    return f"{chosen.encoding}-{chosen.lesion_segments}{'-brain' if chosen.brain else ''}"


def probability():
    random = np.random.default_rng(0)
    inside, outside = random.uniform(0.51, 1, SHAPE), random.uniform(0, 0.5, SHAPE) * (random.random(SHAPE) > 0.5)
    return np.where(LABELS == 1, inside, outside).astype(np.float32)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    return series_of(Volume(textured(SHAPE), affine(PLANES["oblique"], (1.0, 1.2, 3.0))), tmp_path_factory.mktemp("in"))


@pytest.fixture(scope="module", params=CHOICES, ids=called)
def made(request, series):
    context = context_of(series, LABELS, brain=BRAIN_MASK, probability=probability(), segmentation=request.param)
    return request.param, context, seg.encode(context), sr.encode(context)


def expected(chosen):
    """Label and mask of every segment, in the order of their numbers, from the lesions as they are numbered everywhere."""
    found = []
    for label in (1, 2):
        parts = label_image(LABELS, label)
        own = min(chosen.lesion_segments, int(parts.max()))
        found += [(label, parts == number) for number in range(1, own + 1)]
        rest = parts > own
        if rest.any() or (label == 1 and chosen.encoding == "fractional"):
            found.append((label, rest))
    if chosen.brain:
        found.append((BRAIN, BRAIN_MASK if chosen.encoding != "labelmap" else BRAIN_MASK & (LABELS == 0)))
    return found


def fractions(chosen, label, mask):
    """What a fractional segment holds: probability in lesions, and around them in the segment that no single lesion has."""
    if label != 1:
        return mask.astype(np.float32)
    own = label_image(LABELS, 1)
    around = (LABELS == 0) & BRAIN_MASK
    rest = not (0 < own[mask].max(initial=0) <= chosen.lesion_segments)
    return np.where(mask | (around & rest), probability(), 0)


def test_highdicom_reads_every_segment(series, made):
    chosen, _, output, _ = made
    wanted = expected(chosen)
    decoded = highdicom.seg.segread(BytesIO(output.data))
    assert decoded.segmentation_type.value == chosen.encoding.upper()
    numbers = [int(item.SegmentNumber) for item in decoded.SegmentSequence if item.SegmentNumber]
    assert numbers == list(range(1, len(wanted) + 1))
    for number, (label, mask) in zip(numbers, wanted, strict=True):
        volume = decoded.get_volume(segment_numbers=[number], combine_segments=False, allow_missing_positions=True)
        found = on_grid(volume, series)
        if chosen.encoding == "fractional":
            np.testing.assert_allclose(found, fractions(chosen, label, mask), atol=0.5 / 255 + 1e-6)
        else:
            assert np.array_equal(found, mask), (number, label)
    overlap = chosen.brain and chosen.encoding != "labelmap"
    assert (output.sop_class_uid == LABEL_MAP_STORAGE, decoded.SegmentsOverlap) == (
        chosen.encoding == "labelmap",
        "YES" if overlap else "NO",
    )


def on_grid(volume, series):
    """A decoded volume's values on the grid of the source, by their places in the patient."""
    array = volume.array[..., 0]
    result = np.zeros(SHAPE, array.dtype)
    to_index = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ series.volume.affine_ras) @ volume.affine
    where = np.argwhere(np.ones(array.shape, bool))
    index = np.rint(where @ to_index[:3, :3].T + to_index[:3, 3]).astype(int)
    result[tuple(index.T)] = array.ravel()
    return result


def test_dcmqi_gives_back_every_mask(series, made, tmp_path):
    chosen, _, output, _ = made
    wanted = [mask for _, mask in expected(chosen)]
    if chosen.encoding == "labelmap":
        labels = dcmqi_labels(output.data, series.volume.affine_ras, SHAPE, tmp_path)
        assert all(np.array_equal(labels == number, mask) for number, mask in enumerate(wanted, start=1))
        return
    found = dcmqi_segments(output.data, series.volume.affine_ras, SHAPE, tmp_path)
    if chosen.encoding == "fractional":  # dcmqi gives what is not zero
        wanted = [fractions(chosen, label, mask) >= 0.5 / 255 for label, mask in expected(chosen)]
    assert len(found) == len(wanted)
    assert all(np.array_equal(one, mask) for one, mask in zip(found, wanted, strict=True))


def test_dciodvfy_finds_no_error_but_what_it_does_not_know_of_label_maps(peer, series, made, tmp_path):
    chosen, context, output, report = made
    program = peer("dciodvfy")
    errors = [*errors_of(program, output.data, tmp_path), *errors_of(program, report.data, tmp_path)]
    if chosen.encoding == "labelmap":  # Debian's does not know the class: a segment numbered 0, and what an SR may refer to
        unknown = ("SegmentNumber not monotonically", "Information Object Not found", "Shall not be present for Referenced SOP Class")
        errors = [error for error in errors if not any(text in error for text in unknown)]
    assert errors == []
    if not context.segments.sparse:
        assert_references_every_frame(output.data, series)


def test_the_report_refers_to_the_segment_of_each_lesion(made):
    chosen, context, output, report = made
    dataset = pydicom.dcmread(BytesIO(output.data))
    tracked = {str(item.TrackingUID): item.SegmentNumber for item in dataset.SegmentSequence if item.SegmentNumber}
    groups = highdicom.sr.srread(BytesIO(report.data)).content.get_volumetric_roi_measurement_groups()
    masks = [mask for _, mask in expected(chosen)]
    for group, lesion in zip(groups, (*context.findings.lesions, *context.findings.tumour_like), strict=True):
        reference = group.referenced_segment[0].ReferencedSOPSequence[0]
        assert (reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID) == (output.sop_class_uid, output.sop_instance_uid)
        centre = label_image(LABELS, 1 if lesion.kind == "lesion" else 2) == lesion.number
        assert masks[reference.ReferencedSegmentNumber - 1][centre].all()
        if lesion.number <= chosen.lesion_segments:
            assert tracked[group.tracking_uid] == reference.ReferencedSegmentNumber


def test_every_choice_has_uids_of_its_own_and_the_same_choice_the_same_bytes(series):
    def encoded(chosen, values):
        return seg.encode(context_of(series, LABELS, brain=BRAIN_MASK, probability=values, segmentation=chosen))

    outputs = [encoded(chosen, probability()) for chosen in CHOICES]
    assert len({output.sop_instance_uid for output in outputs}) == len(CHOICES)
    assert encoded(CHOICES[-1], probability()).data == outputs[-1].data
    other = np.clip(probability() - np.float32(0.005), 0, 1)
    assert encoded(CHOICES[-1], other).sop_instance_uid != outputs[-1].sop_instance_uid, "other probabilities, the same mask"


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    labels = labels_with(300, (66, 60, 22))
    return labels, series_of(Volume(textured(labels.shape), affine(PLANES["axial"], (1.0, 1.2, 3.0))), tmp_path_factory.mktemp("many"))


@pytest.mark.parametrize("encoding", ["binary", "labelmap"])
def test_three_hundred_lesions_are_bounded(many, encoding, monkeypatch):
    labels, series = many
    chosen = Segmentation(encoding=encoding, lesion_segments=300)
    context = context_of(series, labels, segmentation=chosen)
    assert sum(one.lesion is not None for one in context.segments.listed) == 300
    dataset = pydicom.dcmread(BytesIO(seg.encode(context).data))
    lit = 300 + 100  # every third lesion is in two planes
    assert dataset.NumberOfFrames == (22 if encoding == "labelmap" else lit)
    monkeypatch.setattr("worker.encode.segments._MOST_PIXELS", 60 * 66 * 100)
    fewer = context_of(series, labels, segmentation=chosen).segments
    assert sum(one.lesion is not None for one in fewer.listed) == (300 if encoding == "labelmap" else 50)  # the largest: two planes each
    assert fewer.listed[-1].others is (encoding != "labelmap")


def test_no_lesion_is_one_empty_segment_of_them(series):
    for chosen in (Segmentation(lesion_segments=3), Segmentation(encoding="labelmap", brain=True)):
        context = context_of(series, np.zeros(SHAPE, np.uint8), brain=BRAIN_MASK, segmentation=chosen)
        dataset = pydicom.dcmread(BytesIO(seg.encode(context).data))
        assert dataset.NumberOfFrames == SHAPE[2]
        labels = [str(item.SegmentLabel) for item in dataset.SegmentSequence if item.SegmentNumber]
        assert labels == ["White-matter hyper-intensity", "Brain without hyper-intensity"][: len(labels)]


def test_more_lesions_than_sixteen_bits_count_are_not_mixed_up():
    labels = np.zeros((82, 82, 82), np.uint8)
    labels[::2, ::2, ::2] = 1
    labels[:2, 0, 0] = labels[-2:, -1, -1] = 1
    masks = masks_of(labels)
    findings = measure.measure(masks, Volume(labels, np.eye(4)), CARD)
    segments = choose_segments(masks, findings, Segmentation(lesion_segments=2), CARD.lesion.connectivity)
    assert len(findings.lesions) > 2**16
    assert np.bincount(segments.numbers.ravel()).tolist() == [int((labels == 0).sum()), 3, 3, int(labels.sum()) - 6]


def test_a_node_is_proposed_the_class_of_the_object(series, tmp_path):
    chosen = Segmentation(encoding="labelmap")
    path = tmp_path / "segmentation.dcm"
    path.write_bytes(seg.encode(context_of(series, LABELS, segmentation=chosen)).data)
    with provider(classes=[LABEL_MAP_STORAGE]) as pacs:
        (answer,) = send(Peer("PACS", "127.0.0.1", pacs.port), read_outgoing([path]))
        assert (answer.category, pacs.associations) == ("Success", [{str(LABEL_MAP_STORAGE)}])
    refused = "not accepted there: Label Map Segmentation Storage"
    with provider(classes=[SEGMENTATION]) as pacs, pytest.raises(Unavailable, match=refused):
        send(Peer("PACS", "127.0.0.1", pacs.port), read_outgoing([path]))
