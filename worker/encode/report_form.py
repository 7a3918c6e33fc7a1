"""The form of the report for machines: its fields with their units and what they mean.

`Report.model_json_schema()` is its documentation; `schema` changes when a field changes its meaning or goes away, not when one is added.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

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
    edge_fraction: float = Field(description="a lesion ends at this share of its brightness above what surrounds it; 0: at the threshold")
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


class Correction(_Frozen):
    """That a reader corrected the mask; `findings` are of that mask, whatever the size of a lesion in it."""

    reader: str
    at: str = Field(description="when it came, ISO 8601, UTC")
    revision: int = Field(description="of the case, the one that was corrected")
    made: Literal["MANUAL", "SEMIAUTOMATIC"]
    release_lesion_count: int = Field(description="what the release itself found")
    release_lesion_volume_ml: Millilitres
    release_tumour_like_volume_ml: Millilitres
    sentence: str


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
    correction: Correction | None = Field(description="none where the mask is the release's own")
    volume_estimates: VolumeEstimates = Field(description="of the release itself, also where a reader corrected its mask")
    contours: Contours | None = Field(description="of the DICOM RT Structure Set, none for NIfTI input")
    quality: tuple[Flag, ...]
    intended_use: str
    limits: tuple[str, ...]
