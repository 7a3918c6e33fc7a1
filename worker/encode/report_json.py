"""The report for machines: every number of the case with its unit, its definition and who computed it, in the form of `report_form`."""

from __future__ import annotations

import json
from datetime import UTC
from typing import Any

import numpy as np

from model.postprocess import TUMOUR_LIKE
from worker.encode.context import Context, Corrected, Output
from worker.encode.report_form import (
    Contours,
    Correction,
    Definition,
    Flag,
    Grid,
    Headline,
    Lesion,
    Maker,
    Numbers,
    Report,
    RoiVolume,
    Subject,
    VolumeEstimates,
)
from worker.encode.structures import Structures
from worker.encode.wording import HEADLINE_UNCONFIRMED, STATEMENT, corrected_sentence, irradiated_sentence, sentence
from worker.measure import Findings
from worker.measure import Lesion as Measured

KIND = "report.json"


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
            edge_fraction=card.lesion.edge_fraction,
            tumour_probability_threshold=card.lesion.tumour_threshold,
            smallest_mm3=card.lesion.smallest_mm3,
            connectivity=card.lesion.connectivity,
            smallest_tumour_mm3=card.lesion.smallest_tumour_mm3,
            tumour_touch_fraction=card.lesion.tumour_touch_fraction,
        ),
        grid=_grid(context),
        findings=_numbers(findings),
        correction=_correction(context.corrected) if context.corrected else None,
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
    own = context.corrected or context
    masks = own.masks
    counted = masks.brain & (masks.labels != TUMOUR_LIKE)
    probable = float(np.sum(masks.lesion_probability, where=counted, dtype=np.float64)) * context.volume.voxel_ml
    calibration = context.release.card.calibration
    return VolumeEstimates(
        by_threshold_ml=own.findings.lesion_volume_ml,
        by_probability_ml=probable,
        probability_is_calibrated=calibration is not None and calibration.acceptable,
    )


def _correction(corrected: Corrected) -> Correction:
    made: Any = corrected.algorithm
    return Correction(
        reader=corrected.reader,
        at=corrected.at.astimezone(UTC).isoformat(timespec="seconds"),
        revision=corrected.revision,
        made=made,
        release_lesion_count=corrected.findings.lesion_count,
        release_lesion_volume_ml=corrected.findings.lesion_volume_ml,
        release_tumour_like_volume_ml=corrected.findings.tumour_like_volume_ml,
        sentence=corrected_sentence(corrected),
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
