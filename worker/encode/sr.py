"""Structured report: every lesion with its volume and its segment, totals, and what limits them (PS3.3 A.35.13, PS3.16 TID 1500)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from highdicom.sr import (
    AlgorithmIdentification,
    Comprehensive3DSR,
    ContainerContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PersonObserverIdentifyingAttributes,
    ReferencedSegment,
    RelationshipTypeValues,
    SourceSeriesForSegmentation,
    TextContentItem,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from highdicom.sr.utils import find_content_items
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.tag import Tag

from model.postprocess import LESION, TUMOUR_LIKE
from service.series_numbers import FIRST
from worker.encode import seg
from worker.encode.context import Context, Output, Predecessor
from worker.encode.frames import source_objects
from worker.encode.identity import device_uid
from worker.encode.instance import as_output, common_arguments, reference
from worker.encode.segments import BRAIN, Segments
from worker.encode.wording import (
    HEADLINE_UNCONFIRMED,
    NONE_FOUND,
    PRODUCT,
    STATEMENT,
    corrected_sentence,
    irradiated_sentence,
    person_name,
    sentence,
)
from worker.measure import Lesion

KIND = "structured-report"
SERIES_NUMBER = FIRST + 1
_MR_BRAIN = Code("24590-2", "LN", "MR Brain")
_QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
_NUMBER_OF_LESIONS = Code("246206008", "SCT", "Number of lesions")
_CONTENT = Tag("ContentSequence")
_SIDES = {"left": codes.SCT.Left, "right": codes.SCT.Right}


def encode(context: Context) -> Output:
    """Encode the findings as an unverified Comprehensive 3D SR; whoever corrected the mask is an observer, and verified nothing by that.

    One TID 1411 group for each lesion, and for each tumour-like component with the type of its own segment; TID 1501 groups for the
    totals; what is said in words is text under Qualitative Evaluations. Volumes are in mm³, to a tenth. The segmentation is evidence
    only where a lesion refers to it: an empty one may not be sent.

    References
    ----------
    PS3.16 TID 1500, 1411, 1501, 4019; CID 7021
    """
    sources, totals = source_objects(context), _totals(context)
    found = (*context.findings.lesions, *context.findings.tumour_like)
    # highdicom needs longer for one group than everything else for all: it builds one of each kind and side, the others repeat it
    first = {(lesion.kind, lesion.side): lesion for lesion in found[::-1]}
    patterns = {key: _group(context, lesion, sources[0]) for key, lesion in first.items()}
    report = MeasurementReport(
        observation_context=_observer(context),
        procedure_reported=_MR_BRAIN,
        imaging_measurements=[*totals, *patterns.values()],
        title=codes.DCM.ImagingMeasurementReport,
    )
    report[0].ContentSequence.append(_in_words(context))
    dataset = Comprehensive3DSR(
        evidence=[*sources, _segmentation(context, sources[0])] if found else sources,
        content=report,
        is_complete=True,
        **common_arguments(context, KIND, SERIES_NUMBER),
    )
    groups = [_repeat(patterns[lesion.kind, lesion.side][0], context, lesion, sources[0]) for lesion in found]
    (measurements,) = find_content_items(dataset, codes.DCM.ImagingMeasurements)
    _hold(measurements, [*measurements.ContentSequence[: len(totals)], *groups])
    if context.predecessor is not None:
        dataset.PredecessorDocumentsSequence = [_hierarchical(context.predecessor)]
    return as_output(dataset, context, KIND, "structured-report.dcm")


def _observer(context: Context) -> ObservationContext:
    card = context.release.card
    device = DeviceObserverIdentifyingAttributes(
        uid=device_uid(context.release, context.product_version),
        name=PRODUCT,
        manufacturer_name=PRODUCT,
        model_name=f"{card.name} {card.version}",
        serial_number=card.sha256,
    )
    measuring = ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    if context.corrected is None:
        return ObservationContext(observer_device_context=measuring)
    reader = PersonObserverIdentifyingAttributes(name=person_name(context.corrected.reader))
    drawing = ObserverContext(observer_type=codes.DCM.Person, observer_identifying_attributes=reader)
    return ObservationContext(observer_person_context=drawing, observer_device_context=measuring)


def _segmentation(context: Context, source: Dataset) -> Dataset:
    """Say of the segmentation what evidence needs; its object need not be made before."""
    dataset = Dataset()
    dataset.StudyInstanceUID = source.StudyInstanceUID
    dataset.SeriesInstanceUID = context.identity.uid(f"{seg.KIND} series")
    dataset.SOPClassUID, dataset.SOPInstanceUID = _segments(context).sop_class_uid, context.identity.uid(seg.KIND)
    return dataset


def _hierarchical(document: Predecessor) -> Dataset:
    """Name a document with its series and study (PS3.3 C.17.2, Hierarchical SOP Instance Reference Macro)."""
    series, study = Dataset(), Dataset()
    series.SeriesInstanceUID = document.series_uid
    series.ReferencedSOPSequence = [reference(document.sop_class_uid, document.sop_instance_uid)]
    study.StudyInstanceUID, study.ReferencedSeriesSequence = document.study_uid, [series]
    return study


def _group(context: Context, lesion: Lesion, source: Dataset) -> VolumetricROIMeasurementsAndQualitativeEvaluations:
    label = LESION if lesion.kind == "lesion" else TUMOUR_LIKE
    said, card = seg.CLASSES[label], context.release.card
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(context, _name(lesion)),
        finding_category=said.category,
        finding_type=said.property_type,
        finding_sites=[FindingSite(anatomic_location=said.region, laterality=_SIDES.get(lesion.side))],
        algorithm_id=None if context.corrected else AlgorithmIdentification(name=card.name, version=card.version),
        referenced_segment=_segment(context, lesion, source),
        measurements=[_volume(lesion.volume_ml)],
    )


def _segment(context: Context, lesion: Lesion, source: Dataset) -> ReferencedSegment:
    """Refer to the segment that holds the lesion: its own where it has one."""
    segments = _segments(context)
    return ReferencedSegment(
        sop_class_uid=segments.sop_class_uid,
        sop_instance_uid=context.identity.uid(seg.KIND),
        segment_number=segments.of_class(lesion).number,
        source_series=SourceSeriesForSegmentation(source.SeriesInstanceUID),
    )


def _segments(context: Context) -> Segments:
    if context.segments is None:
        raise ValueError("a structured report needs the DICOM series it belongs to")
    return context.segments


def _repeat(pattern: Dataset, context: Context, lesion: Lesion, source: Dataset) -> Dataset:
    """Repeat a group with what is this lesion's own: its name, its UID, its volume and its segment."""
    items = (*_tracking(context, _name(lesion)), *_volume(lesion.volume_ml), *_segment(context, lesion, source))
    own = {_concept(item): item for item in items}
    group = Dataset()
    group.update(pattern)
    _hold(group, [own.get(_concept(item), item) for item in pattern.ContentSequence])
    return group


def _hold(container: Dataset, content: Sequence[Dataset]) -> None:
    """Give a container an element of its own with this content; the one it has may be another's too."""
    container[_CONTENT] = DataElement(_CONTENT, "SQ", content)


def _concept(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue)


def _name(lesion: Lesion) -> str:
    return f"{lesion.kind} {lesion.number}"


def _totals(context: Context) -> list[MeasurementsAndQualitativeEvaluations]:
    found = context.findings
    lesions = [_count(found.lesion_count), _volume(found.lesion_volume_ml, codes.SCT.Total)]
    if found.lesions:
        lesions.append(_volume(found.largest_lesion_ml, codes.SCT.Maximum))
    tumour_like = [_count(len(found.tumour_like)), _volume(found.tumour_like_volume_ml, codes.SCT.Total)]
    abnormal = codes.SCT.MorphologicallyAbnormalStructure
    total = [_volume(found.total_hyperintensity_ml, codes.SCT.Total)]
    groups = [
        _total(context, HEADLINE_UNCONFIRMED, total, finding_category=abnormal, finding_sites=[FindingSite(codes.SCT.Brain)]),
        _class_total(context, LESION, lesions),
        _class_total(context, TUMOUR_LIKE, tumour_like),
    ]
    if found.brain_volume_ml:
        groups.append(_class_total(context, BRAIN, [_volume(found.brain_volume_ml)]))
    return groups


def _class_total(context: Context, label: int, measurements: Sequence[Measurement]) -> MeasurementsAndQualitativeEvaluations:
    said = seg.CLASSES[label]
    sites = [FindingSite(said.region)] if label != BRAIN else None
    return _total(context, said.text, measurements, finding_category=said.category, finding_type=said.property_type, finding_sites=sites)


def _total(context: Context, name: str, measurements: Sequence[Measurement], **finding: Any) -> MeasurementsAndQualitativeEvaluations:
    card = context.release.card
    algorithm = AlgorithmIdentification(
        name=card.name,
        version=card.version,
        family=codes.DCM.ArtificialIntelligence,
        parameters=[f"sha256 {card.sha256}", f"engine {context.engine_name}", f"precision {context.precision}"],
    )
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(context, name),
        algorithm_id=None if context.corrected and name != seg.CLASSES[BRAIN].text else algorithm,  # the brain is always the release's
        measurements=measurements,
        **finding,
    )


def _tracking(context: Context, name: str) -> TrackingIdentifier:
    return TrackingIdentifier(uid=context.identity.uid(f"tracking/{name}"), identifier=f"{PRODUCT} {name}")


def _volume(volume_ml: float, derivation: Code | None = None) -> Measurement:
    return Measurement(codes.SCT.Volume, round(volume_ml * 1000.0, 1), codes.UCUM.CubicMillimeter, derivation=derivation)


def _count(count: int) -> Measurement:
    return Measurement(_NUMBER_OF_LESIONS, count, codes.UCUM.NoUnits)


def _in_words(context: Context) -> ContainerContentItem:
    """The investigational statement first, then what was found, then what limits it."""
    found = context.findings
    said = [STATEMENT, irradiated_sentence(context.release.card), f"{HEADLINE_UNCONFIRMED}: {found.total_hyperintensity_ml:.2f} ml."]
    if context.corrected:
        said.append(corrected_sentence(context.corrected))
    texts = [_text(codes.DCM.Comment, text) for text in said]
    if not found.lesions and not found.tumour_like:
        texts.append(_text(codes.DCM.Finding, NONE_FOUND))
    texts += [_text(codes.DCM.Comment, sentence(flag)) for flag in (*context.quality, *_edge(found.lesions, found.tumour_like))]
    container = ContainerContentItem(_QUALITATIVE_EVALUATIONS, relationship_type=RelationshipTypeValues.CONTAINS)
    container.ContentSequence = ContentSequence(texts)
    return container


def _text(name: Code, text: str) -> TextContentItem:
    return TextContentItem(name, text, relationship_type=RelationshipTypeValues.CONTAINS)


def _edge(*kinds: Sequence[Lesion]) -> list[str]:
    """Name the components of which a part may not have been imaged."""
    names = [_name(lesion) for lesions in kinds for lesion in lesions if lesion.touches_edge]
    return [f"{', '.join(names)}: at the edge of the field of view, part of it may not have been imaged"] if names else []
