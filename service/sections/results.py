"""The tables of the settings file that say what results are like: structure set, segmentation, readers' corrections."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from service.sections.section import AETitle, Section


class RTStruct(Section):
    """How the structure set for radiotherapy planning is drawn.

    Attributes
    ----------
    holes : "keyhole" leads a cut from a hole to the outline, one contour; "xor" gives holes contours of their own (CLOSEDPLANAR_XOR)
    lesion_rois : so many of the largest lesions have an ROI of their own beside that of all; so many tumour-like ones too
    """

    holes: Literal["keyhole", "xor"] = "keyhole"
    lesion_rois: Annotated[int, Field(ge=0, le=200)] = 0


class Segmentation(Section):
    """How the segmentation object is encoded, and which segments it has.

    Attributes
    ----------
    encoding : "binary"; "labelmap", one frame a plane for all segments, which then cannot overlap; "fractional", lesions as probability
    lesion_segments : so many of the largest lesions are segments of their own, beside the rest as one; so many tumour-like ones too
    brain : the brain is a segment too
    """

    encoding: Literal["binary", "labelmap", "fractional"] = "binary"
    lesion_segments: Annotated[int, Field(ge=0, le=500)] = 0
    brain: bool = False


class Corrections(Section):
    """From whom a segmentation that comes over DICOM counts as a reader's correction of our result; by default from nobody.

    Attributes
    ----------
    calling_ae : titles of nodes whose segmentations about a series of ours are corrections
    http : those that come over STOW-RS or `POST /cases` are too
    """

    calling_ae: tuple[AETitle, ...] = ()
    http: bool = False
