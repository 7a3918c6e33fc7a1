"""The report for machines: every number of the case with its unit, its definition and who computed it.

`Report.model_json_schema()` is its documentation; `schema` changes when a field changes its meaning or goes away, not when one is added.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from model.postprocess import TUMOUR_LIKE
from worker.encode.context import Context, Output
from worker.encode.structures import Structures
from worker.encode.wording import HEADLINE_UNCONFIRMED, STATEMENT, irradiated_sentence, sentence
from worker.measure import Findings
from worker.measure import Lesion as Measured

KIND = "report.json"

# A tenth of a microlitre and a hundredth of a millimetre are below anything a voxel can say
Millilitres = Annotated[float, AfterValidator(lambda value: round(value, 4))]
Millimetres = Annotated[float, AfterValidator(lambda value: round(value, 2))]
Percent = Annotated[float, AfterValidator(lambda value: round(value, 4))]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Headline(_Frozen):
    """The number to read first, never without its label."""

    label: str
    volume_ml: Millilitres


class Subject(_Frozen):
    """Whom and what was imaged, as the source series says (normalised; empty where it does not)."""

    patient_id: str
    issuer_of_patient_id: str
    patient_name: str
    patient_birth_date: str = Field(description="DA, YYYYMMDD")
    patient_sex: str
    study_uid: str
    study_date: str = Field(description="DA, YYYYMMDD")
    study_description: str
    accession_number: str
    series_uid: str
    series_number: str
    series_description: str
    slices: int


class Maker(_Frozen):
    """What computed it."""

    product_version: str
    release_name: str
    release_version: str
    release_sha256: str
    engine: str
    precision: str


class Definition(_Frozen):
    """What counts as a lesion; the same for every output of this release."""

    probability_threshold: float
    peak_probability_threshold: float = Field(description="a component counts only if a voxel of it is more probable than this")
    tumour_probability_threshold: float
    smallest_mm3: float
    connectivity: int
    smallest_tumour_mm3: float = Field(description="smaller components of the tumour class do not count")
    tumour_touch_fraction: float = Field(description="a component with at least this share of voxels in or beside tumour is tumour-like")


class Grid(_Frozen):
    """The voxel grid of the source series, which every mask is on."""

    shape: tuple[int, int, int] = Field(description="voxels along i (columns), j (rows), k (slices)")
    spacing_mm: tuple[float, float, float]
    voxel_ml: float
    affine_ras: tuple[tuple[float, ...], ...] = Field(description="voxel index (i, j, k, 1) to patient millimetres, RAS")


class Lesion(_Frozen):
    """One connected component."""

    number: int = Field(description="1 = largest of its kind")
    kind: Literal["lesion", "tumour-like"]
    volume_ml: Millilitres
    centroid_ras_mm: tuple[Millimetres, Millimetres, Millimetres]
    centroid_ijk: tuple[Millimetres, Millimetres, Millimetres] = Field(description="voxel index, fractional")
    side: Literal["left", "right", "midline"]
    touches_edge: bool = Field(description="reaches the edge of the field of view: part of it may not have been imaged")


class Numbers(_Frozen):
    """The findings; tumour-like hyper-intensity is counted apart and never inside the lesion volume."""

    lesion_count: int
    lesion_volume_ml: Millilitres
    largest_lesion_ml: Millilitres
    tumour_like_count: int
    tumour_like_volume_ml: Millilitres
    total_hyperintensity_ml: Millilitres
    brain_volume_ml: Millilitres
    lesion_share_of_brain_percent: Percent | None
    touches_edge: bool
    lesions: tuple[Lesion, ...]
    tumour_like: tuple[Lesion, ...]


class VolumeEstimates(_Frozen):
    """The lesion volume two ways; far apart means that the threshold decides much of it."""

    by_threshold_ml: Millilitres = Field(description="voxels of the lesion mask")
    by_probability_ml: Millilitres = Field(description="lesion probability summed over the brain without what is tumour-like, no threshold")
    probability_is_calibrated: bool = Field(
        description="the release card says that this sum was right on patients the network never saw; only then people are shown it"
    )


class RoiVolume(_Frozen):
    """What became of a mask's volume on its way to contours and back."""

    roi: str = Field(description="ROI Name in the structure set")
    mask_ml: Millilitres = Field(description="voxels of the mask on the source grid, as in findings")
    grid_ml: Millilitres = Field(description="voxels of the mask on the grid of the contours")
    rasterised_ml: Millilitres = Field(description="voxels of that grid whose centre the contours enclose")
    change_percent: Percent | None = Field(description="from mask_ml to rasterised_ml; none where nothing was found")
    dice_on_grid: Percent = Field(description="of the mask on that grid and the rasterised contours, 0 to 1")


class Contours(_Frozen):
    """The contours of the structure set, filled again as they are written."""

    planes: Literal["source", "resampled"] = Field(description="the source's slices, or those of the axial MR series made beside them")
    shape: tuple[int, int, int] = Field(description="voxels of the grid of the contours along columns, rows and planes")
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres]
    rois: tuple[RoiVolume, ...]


class Flag(_Frozen):
    """One thing about the input that limits the result."""

    flag: str
    sentence: str


class Report(_Frozen):
    """The whole report."""

    schema_: Literal["leukoscope-report/1"] = Field(default="leukoscope-report/1", alias="schema")
    statement: str
    evidence: str
    headline: Headline
    revision: int
    segmentation_uid: str | None = Field(description="SOP Instance UID of the DICOM segmentation, none for NIfTI input")
    subject: Subject | None = Field(description="none for NIfTI input")
    made_by: Maker
    lesion_definition: Definition
    grid: Grid
    findings: Numbers
    volume_estimates: VolumeEstimates
    contours: Contours | None = Field(description="of the DICOM RT Structure Set, none for NIfTI input")
    quality: tuple[Flag, ...]
    intended_use: str
    limits: tuple[str, ...]


def encode(context: Context) -> Output:
    """Encode the report; without a clock in it, so that the same case gives the same bytes."""
    plain = report(context).model_dump(mode="json", by_alias=True)
    data = json.dumps(plain, ensure_ascii=False, indent=1, allow_nan=False).encode() + b"\n"
    return Output(KIND, "application/json", KIND, data)


def report(context: Context) -> Report:
    """Put the case into the report's form."""
    card = context.release.card
    findings = context.findings
    return Report(
        statement=STATEMENT,
        evidence=irradiated_sentence(card),
        headline=Headline(label=HEADLINE_UNCONFIRMED, volume_ml=findings.total_hyperintensity_ml),
        revision=context.revision,
        segmentation_uid=context.identity.uid("segmentation") if context.series else None,
        subject=_subject(context) if context.series else None,
        made_by=_maker(context),
        lesion_definition=Definition(
            probability_threshold=card.lesion.threshold,
            peak_probability_threshold=card.lesion.peak_threshold,
            tumour_probability_threshold=card.lesion.tumour_threshold,
            smallest_mm3=card.lesion.smallest_mm3,
            connectivity=card.lesion.connectivity,
            smallest_tumour_mm3=card.lesion.smallest_tumour_mm3,
            tumour_touch_fraction=card.lesion.tumour_touch_fraction,
        ),
        grid=_grid(context),
        findings=_numbers(findings),
        volume_estimates=_estimates(context),
        contours=_contours(context.structures) if context.structures else None,
        quality=tuple(Flag(flag=flag, sentence=sentence(flag)) for flag in context.quality),
        intended_use=card.intended_use,
        limits=card.limits,
    )


def _subject(context: Context) -> Subject:
    get = context.header.get
    return Subject(
        patient_id=get("PatientID"),
        issuer_of_patient_id=get("IssuerOfPatientID"),
        patient_name=get("PatientName"),
        patient_birth_date=get("PatientBirthDate"),
        patient_sex=get("PatientSex"),
        study_uid=get("StudyInstanceUID"),
        study_date=get("StudyDate"),
        study_description=get("StudyDescription"),
        accession_number=get("AccessionNumber"),
        series_uid=get("SeriesInstanceUID"),
        series_number=get("SeriesNumber"),
        series_description=get("SeriesDescription"),
        slices=context.volume.shape[2],
    )


def _maker(context: Context) -> Maker:
    card = context.release.card
    return Maker(
        product_version=context.product_version,
        release_name=card.name,
        release_version=card.version,
        release_sha256=card.sha256,
        engine=context.engine_name,
        precision=context.precision,
    )


def _grid(context: Context) -> Grid:
    volume = context.volume
    i, j, k = (round(float(step), 6) for step in volume.spacing_mm)
    affine = tuple(tuple(round(float(value), 6) + 0.0 for value in row) for row in volume.affine_ras)
    return Grid(shape=volume.shape, spacing_mm=(i, j, k), voxel_ml=round(volume.voxel_ml, 9), affine_ras=affine)


def _numbers(findings: Findings) -> Numbers:
    return Numbers(
        lesion_count=findings.lesion_count,
        lesion_volume_ml=findings.lesion_volume_ml,
        largest_lesion_ml=findings.largest_lesion_ml,
        tumour_like_count=len(findings.tumour_like),
        tumour_like_volume_ml=findings.tumour_like_volume_ml,
        total_hyperintensity_ml=findings.total_hyperintensity_ml,
        brain_volume_ml=findings.brain_volume_ml,
        lesion_share_of_brain_percent=findings.lesion_share_of_brain_percent,
        touches_edge=findings.touches_edge,
        lesions=tuple(map(_lesion, findings.lesions)),
        tumour_like=tuple(map(_lesion, findings.tumour_like)),
    )


def _lesion(lesion: Measured) -> Lesion:
    values: dict[str, Any] = {"centroid_ras_mm": lesion.centroid_ras, "centroid_ijk": lesion.centroid_ijk}
    return Lesion(
        number=lesion.number,
        kind=lesion.kind,
        volume_ml=lesion.volume_ml,
        side=lesion.side,
        touches_edge=lesion.touches_edge,
        **values,
    )


def _estimates(context: Context) -> VolumeEstimates:
    masks = context.masks
    counted = masks.brain & (masks.labels != TUMOUR_LIKE)
    probable = float(np.sum(masks.lesion_probability, where=counted, dtype=np.float64)) * context.volume.voxel_ml
    calibration = context.release.card.calibration
    return VolumeEstimates(
        by_threshold_ml=context.findings.lesion_volume_ml,
        by_probability_ml=probable,
        probability_is_calibrated=calibration is not None and calibration.acceptable,
    )


def _contours(structures: Structures) -> Contours:
    grid = structures.grid
    i, j, k = (float(step) for step in np.linalg.norm(grid.affine_ras[:3, :3], axis=0))
    return Contours(
        planes="resampled" if grid.resampled else "source",
        shape=grid.shape,
        spacing_mm=(i, j, k),
        rois=tuple(
            RoiVolume(
                roi=roi.name,
                mask_ml=roi.mask_ml,
                grid_ml=roi.grid_ml,
                rasterised_ml=roi.rasterised_ml,
                change_percent=100.0 * (roi.rasterised_ml / roi.mask_ml - 1.0) if roi.mask_ml else None,
                dice_on_grid=roi.dice,
            )
            for roi in structures.rois
        ),
    )
