"""One case from start to end: values only move forward, and nothing here knows of states, queues or folders."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from model import familiar, postprocess, predict, preprocess
from model.engine import Engine
from model.postprocess import LESION, Masks
from model.release import Release
from model.volume import Volume
from service.errors import Rejected
from service.sections import RTStruct, Segmentation
from worker import convert, measure
from worker.convert import Series
from worker.encode import Context, Corrected, Output, Predecessor, encode_all
from worker.encode.identity import identify
from worker.encode.segments import choose_segments
from worker.encode.source import read_header
from worker.encode.structures import draw
from worker.frames import Limits
from worker.measure import Findings
from worker.reader_mask import CORRECTION_FLAG, Correction, read_mask

PRODUCT_VERSION = version("leukoscope")
Input = Sequence[Path] | Volume


@dataclass(frozen=True, eq=False)
class Result:
    """What a case gives.

    Attributes
    ----------
    quality : what limits the result, from the input's headers, its pixels and the mask
    stages : stage -> (start in seconds since the epoch, duration in seconds); in no output, they are never the same twice
    """

    outputs: tuple[Output, ...]
    findings: Findings
    quality: tuple[str, ...]
    engine: str
    precision: str
    stages: dict[str, tuple[float, float]]
    corrected: Corrected | None = None


@dataclass(frozen=True, eq=False)
class Found:
    """What was found in one volume, and what the volume and its masks show that limits it."""

    masks: Masks
    findings: Findings
    quality: tuple[str, ...]


@dataclass(frozen=True)
class Clock:
    """Times the stages and says which one begins."""

    on_stage: Callable[[str], None] | None = None
    stages: dict[str, tuple[float, float]] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; one that ends in an exception is not recorded."""
        if self.on_stage:
            self.on_stage(name)
        start, begun = time.time(), time.perf_counter()
        yield
        self.stages[name] = (start, time.perf_counter() - begun)


def run(
    source: Input,
    release: Release,
    engine: Engine,
    *,
    revision: int = 1,
    series_shift: int = 0,
    segmentation: Segmentation = Segmentation(),
    rtstruct: RTStruct = RTStruct(),
    predecessor: Predecessor | None = None,
    correction: Correction | None = None,
    identity: Mapping[str, str] | None = None,
    limits: Limits = Limits(),
    on_stage: Callable[[str], None] | None = None,
) -> Result:
    """Segment one series, or one volume that came as NIfTI (which gives no DICOM).

    Parameters
    ----------
    source : the DICOM files of one series in any order, or a volume
    revision : of the case; every revision has UIDs of its own
    series_shift : how far the Series Numbers of the outputs are moved on
    segmentation, rtstruct : how the segmentation is encoded and the structure set drawn
    predecessor : the structured report of the revision that this one takes the place of
    correction : a reader's mask, which everything is made from instead of the release's own
    identity : of the patient, by DICOM keyword, where it was corrected by hand
    limits : what a series may be at most, and must be at least
    on_stage : told the name of each stage as it begins

    Raises
    ------
    Rejected, UnusableVolume
        The input cannot be segmented; the message says why. Never retried.
    """
    clock = Clock(on_stage)
    with clock.stage("convert"):
        series, volume = _read(source, limits)
    found, corrected = segment(volume, release, engine, clock), None
    if correction is not None and series is not None:
        with clock.stage("correct"):
            found, corrected = correct(found, correction, series, release)
    with clock.stage("encode"):
        flags = join_flags(series.quality if series else (), found.quality)
        context = make_context(
            series,
            volume,
            found,
            release,
            engine,
            flags,
            revision,
            series_shift,
            segmentation=segmentation,
            rtstruct=rtstruct,
            predecessor=predecessor,
            corrected=corrected,
            identity_by_hand=identity,
        )
        outputs = encode_all(context)
    return Result(outputs, found.findings, context.quality, engine.name, engine.precision, clock.stages, corrected)


def segment(volume: Volume, release: Release, engine: Engine, clock: Clock) -> Found:
    """Find and measure, without encoding anything: what a case and a measurement of the release share.

    Raises
    ------
    Rejected, UnusableVolume
        The volume cannot be segmented; the message says why. Never retried.
    """
    with clock.stage("preprocess"):
        inputs = preprocess.prepare(volume, release.card.input)
    with clock.stage("predict"):
        tile = predict.choose_tile(inputs, engine, release.card)
        probability = predict.probability(inputs, engine, release.card, tile)
    with clock.stage("postprocess"):
        masks = postprocess.masks(probability, inputs, release.card)
        measure.demand_brain(masks)
        unfamiliar = familiar.flags(inputs.profile, release.card.contrast)
        seen = (*inputs.quality, *unfamiliar, *predict.tile_flags(inputs, tile))
        del probability, inputs  # the network's grid is done with; measuring needs the room
    with clock.stage("measure"):
        findings = measure.measure(masks, volume, release.card)
    return Found(masks, findings, (*seen, *measure.brain_flags(masks, findings)))


def correct(found: Found, correction: Correction, series: Series, release: Release) -> tuple[Found, Corrected | None]:
    """Put a reader's mask in place of the release's and measure it; one that does not fit the series (any more) is told in a flag."""
    try:
        mask = read_mask(correction.path, series, grown=True).with_later(series, correction.seen, found.masks.labels)
    except Rejected as error:
        flag = f"{CORRECTION_FLAG}: a reader's mask does not fit any more, this is the release's own result ({error.reason})"
        return replace(found, quality=(*found.quality, flag)), None
    # a reader gives no probability: what the mask has is certain, what it leaves out is not there
    masks = replace(found.masks, labels=mask.labels, lesion_probability=(mask.labels == LESION).astype(np.float32))
    findings = measure.measure(masks, series.volume, release.card)
    said = (correction.reader, correction.at, correction.revision, correction.digest)
    return Found(masks, findings, (*found.quality, *mask.flags)), Corrected(*said, mask.algorithm, found.masks, found.findings)


def _read(source: Input, limits: Limits) -> tuple[Series | None, Volume]:
    if isinstance(source, Volume):
        return None, source
    series = convert.read_series(source, limits)
    return series, series.volume


def join_flags(of_series: Sequence[str], of_volume: Sequence[str]) -> tuple[str, ...]:
    """All flags; where headers and volume say the same (thick slices, saturation) the headers say it better. Coverage has several."""
    said = {flag.partition(":")[0] for flag in of_series} - {"coverage"}
    return (*of_series, *(flag for flag in of_volume if flag.partition(":")[0] not in said))


def make_context(
    series: Series | None,
    volume: Volume,
    found: Found,
    release: Release,
    engine: Engine,
    flags: tuple[str, ...],
    revision: int,
    series_shift: int,
    *,
    segmentation: Segmentation,
    rtstruct: RTStruct,
    predecessor: Predecessor | None = None,
    corrected: Corrected | None = None,
    identity_by_hand: Mapping[str, str] | None = None,
) -> Context:
    """Put together what every encoder sees, and derive the identity of the result set from it."""
    header, masks, findings = read_header(series, identity_by_hand), found.masks, found.findings
    quality = tuple(dict.fromkeys((*flags, *header.quality)))
    connectivity = release.card.lesion.connectivity
    segments = choose_segments(masks, findings, segmentation, connectivity) if series else None
    identity = identify(
        header,
        volume,
        masks.labels,
        release,
        engine_name=engine.name,
        precision=engine.precision,
        revision=revision,
        product_version=PRODUCT_VERSION,
        beside_mask=segments.beside_mask if segments else (),
        quality=quality,
        settings=(
            f"rtstruct {rtstruct.model_dump_json()}",
            f"segmentation {segmentation.model_dump_json()}",
            f"series shift {series_shift}",
            *([f"predecessor {predecessor.sop_instance_uid}"] if predecessor else []),
            *([corrected.as_text()] if corrected else []),
        ),
    )
    return Context(
        series=series,
        header=header,
        volume=volume,
        masks=masks,
        findings=findings,
        segments=segments,
        structures=draw(masks, volume, findings, rtstruct, connectivity, header.positions_lps) if series else None,
        release=release,
        engine_name=engine.name,
        precision=engine.precision,
        quality=quality,
        revision=revision,
        series_shift=series_shift,
        identity=identity,
        product_version=PRODUCT_VERSION,
        predecessor=predecessor,
        corrected=corrected,
    )


def read_nifti(path: Path, limits: Limits = Limits()) -> Volume:
    """Read a NIfTI file as a float32 volume.

    Raises
    ------
    Rejected
        It cannot be read, is no single volume, is larger than allowed, or does not say where the patient's left is. Never retried.
    """
    try:
        image = nibabel.Nifti1Image.from_filename(path)
        if not (image.header["sform_code"] or image.header["qform_code"]):
            raise Rejected("neither sform nor qform is set: where the patient's left is cannot be known")
        shape = image.shape + (1,) * (3 - len(image.shape))
        if len(shape) < 3 or any(size != 1 for size in shape[3:]):
            raise Rejected(f"no single volume: {' x '.join(map(str, shape))} voxels")
        if image.get_data_dtype().kind not in "biuf":
            raise Rejected("intensities are not plain numbers")
        largest = (limits.columns, limits.rows, limits.slices)
        if any(size > most for size, most in zip(shape, largest, strict=False)):
            raise Rejected(f"larger than {' x '.join(map(str, largest))} voxels")
        data = np.asanyarray(image.dataobj, dtype=np.float32).reshape(shape[:3])
    except (ImageFileError, HeaderDataError, WrapStructError, OSError, EOFError, ValueError, zlib.error) as error:
        raise Rejected(f"{path.name}: no readable NIfTI file ({error})") from error
    return Volume(data, np.asarray(image.affine, dtype=np.float64))
