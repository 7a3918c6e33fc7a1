"""Which series are taken: by name, by timing, by an installation's own rules, and on real series of many vendors."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from service.admission import Hold, Refuse, Run, examine, rank
from service.admission.rules import RULE_NAMES, judge
from service.headers import Header, Unreadable, read_file
from service.settings import Settings
from tests.service.series import flair_series, part10

NOT_FLAIR = {
    "dcm_qa_cs_dl_philips_T1w": {"t1", "gradient-echo"},
    "dcm_qa_enh_siemensXA_philips/Philips": {"phase"},
    "dcm_qa_enh_siemensXA_philips/Siemens": {"several-echoes"},
    "dcm_qa_nih_siemens_mosaic_ge_epi/20180918GE": {"not-flair"},
    "dcm_qa_nih_siemens_mosaic_ge_epi/20180918Si": {"mosaic"},
    "dcm_qa_xa30_siemens_enhanced/14_DWI_dir80_PA": {"colour"},
    "dcm_qa_xa30_siemens_enhanced/5_anat-T1w_acq-tfl": {"t1"},
    "dcm_qa_xa30_siemens_enhanced/6_anat-T1w_acq-tfl": {"t1"},
    "dcm_qa_xa30_siemens_enhanced/8_gre_field_mapping": {"map"},
    "dcm_qa_xa30_siemens_enhanced/9_gre_field_mapping": {"phase"},
    "dcm_qa_xa30_siemens_enhanced/99_Phoenix_Document": {"not-mr"},
    "dcmjs_siemens_knee_scout_j2k": {"localizer"},
    "heudiconv_siemens_localizers": {"localizer"},
    "papaya_ge_axial_oblique_PD_2d": {"not-flair"},
}
VENDORS = {
    "siemens/anatomical/001": "flair-by-timing",
    "siemens/anatomical/001_implicit": "flair-by-timing",
    "generic/anatomical/001": "flair-by-timing",
    "generic/compressed/001": "flair-by-timing",
    "generic/compressed_j2k/001": "flair-by-timing",
    "generic/compressed_jpeg/001": "flair-by-timing",
    "generic/compressed_jpegls/001": "flair-by-timing",
    "generic/compressed_rle/001": "flair-by-timing",
    "philips/anatomical/001": "flair-by-timing",
    "philips/anatomical/001_implicit": "flair-by-timing",
    "hyperfine/anatomical/001": "flair-by-timing",
    "ge/anatomical/001": "gradient-echo",
    "ge/fmri/001": "not-flair",
    "siemens/fmri/001": "mosaic",
    "philips/fmri/001": "not-flair",
    "philips_enhanced/anatomical/001": "not-flair",
    "philips_enhanced/dti/001": "diffusion",
    "philips_enhanced/fmri/001": "several-echoes",
    "hitachi/anatomical/001": "not-flair",
    "generic/rgb/001": "not-mr",
    "failing/notavolume/001": "not-mr",
    "failing/sliceincrement/001": "not-mr",
    "failing/sliceorientation/001": "several-echoes",
}


def header(**changes: Any) -> Header:
    """The header of one slice."""
    return read_file(BytesIO(part10(flair_series(1, **changes)[0])))[0]


def headers_in(folder: Path) -> dict[str, list[Header]]:
    """The series in a folder, zips opened; what is no DICOM is passed over."""
    found: dict[str, list[Header]] = {}
    contents = [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".zip"]
    for archive in sorted(folder.rglob("*.zip")):
        with ZipFile(archive) as opened:
            contents += [opened.read(name) for name in opened.namelist() if not name.endswith("/")]
    for content in contents:
        try:
            one = read_file(BytesIO(content))[0]
        except Unreadable:
            continue
        found.setdefault(one.series_uid, []).append(one)
    assert found
    return found


@pytest.mark.parametrize("folder", NOT_FLAIR)
def test_real_series_that_are_no_flair_are_refused_for_the_right_reason(shared_data: Path, folder: str) -> None:
    for series in headers_in(shared_data / "dicom" / "not_flair" / folder).values():
        decision = examine(series, Settings(), final=False)
        assert isinstance(decision, Refuse), decision
        assert decision.rule in NOT_FLAIR[folder], decision


@pytest.mark.parametrize("folder", VENDORS)
def test_real_series_of_every_vendor_are_judged_right(shared_data: Path, folder: str) -> None:
    for series in headers_in(shared_data / "dicom" / "vendors" / folder).values():
        decision = examine(series, Settings(minimum_slices=2), final=True)
        assert decision.rule == VENDORS[folder], decision  # type: ignore[union-attr]
        assert isinstance(decision, Run if VENDORS[folder].startswith("flair") else Refuse)


@pytest.mark.parametrize(
    "name",
    [
        "AX T2 FLAIR",
        "t2_flair_sag_p2_iso",
        "3D FLAIR_SPC",
        "t2_space_dark-fluid_sag",
        "T2 Dark Fluid",
        "t2_tirm_tra_dark-fluid",
        "Sag CUBE T2 FLAIR +C",
    ],
)
def test_taken_by_name(name: str) -> None:
    verdict = judge([header(SeriesDescription=name)], Settings())
    assert (verdict.rule, verdict.accept) == ("flair-by-name", True)


@pytest.mark.parametrize("keyword", ["ProtocolName", "SequenceName"])
def test_only_the_description_makes_a_mask(keyword: str) -> None:
    """A protocol or a sequence may be called "seg" for other reasons: segmented k-space, the segment of a study."""
    assert judge([header(**{keyword: "t2_flair_seg"})], Settings()).accept


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"SeriesDescription": "AX T1 FLAIR", "RepetitionTime": "2000", "EchoTime": "9", "InversionTime": "860"}, "t1"),
        ({"SeriesDescription": "T1_FLAIR sag", "RepetitionTime": None, "EchoTime": None, "InversionTime": None}, "t1"),
        ({"SeriesDescription": "FLAIR MPRAGE", "RepetitionTime": "1900", "EchoTime": "2.4", "InversionTime": "900"}, "t1"),
        ({"SeriesDescription": "COR STIR", "RepetitionTime": "4500", "EchoTime": "70", "InversionTime": "160"}, "short-inversion"),
        ({"SeriesDescription": "flair_ROI_manual"}, "mask"),
        ({"SeriesDescription": "FLAIR_seg"}, "mask"),
        ({"SeriesDescription": "lesion mask FLAIR"}, "mask"),
        ({"SeriesDescription": "label FLAIR"}, "mask"),
        ({"SeriesDescription": "FLAIR localizer"}, "localizer"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], "SeriesDescription": "x"}, "diffusion"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "phase"),
        ({"BodyPartExamined": "CSPINE"}, "other-body-part"),
        ({"SeriesDescription": "FLAIR cervical spine"}, "other-body-part"),
        ({"PixelSpacing": [1.0, 1.0]}, "field-of-view"),
        ({"PixelSpacing": [9.0, 9.0]}, "field-of-view"),
        ({"PixelData": None}, "no-pixels"),
        ({"Modality": "CT"}, "not-mr"),
        ({"SeriesDescription": "AX T2", "InversionTime": None, "ScanningSequence": "SE"}, "not-flair"),
        ({"SeriesDescription": "", "EchoTime": "90", "InversionTime": None}, "not-flair"),
    ],
)
def test_refused_by_name_physics_or_place(changes: dict[str, Any], rule: str) -> None:
    verdict = judge([header(**changes)], Settings())
    assert not verdict.accept
    assert verdict.rule == rule
    assert verdict.reason


def test_blank_names_are_taken_by_timing() -> None:
    assert judge([header(SeriesDescription="")], Settings()).rule == "flair-by-timing"


def test_a_name_of_another_weighting_is_not_taken_by_timing() -> None:
    assert not judge([header(SeriesDescription="DIR 3D")], Settings()).accept


def test_the_protocol_of_the_whole_examination_makes_no_flair_of_a_t2() -> None:
    protocol = {"ProtocolName": "BRAIN FLAIR PROTOCOL", "SeriesDescription": "AX T2", "InversionTime": None}
    assert judge([header(**protocol)], Settings()).rule == "not-flair"
    assert judge([header(**protocol | {"SeriesDescription": ""})], Settings()).accept


def test_a_head_scan_with_a_neck_coil_is_a_head_scan() -> None:
    assert judge([header(BodyPartExamined="HEAD_NECK")], Settings()).accept


def test_no_inversion_recovery_in_the_header_is_a_doubt_and_not_a_refusal() -> None:
    verdict = judge([header(InversionTime=None, ScanningSequence="SE")], Settings())
    assert verdict.accept
    assert verdict.quality[0].startswith("timing-unconfirmed: ")


def test_two_echoes_in_one_series_are_refused() -> None:
    verdict = judge([header(), header(EchoTime="90")], Settings())
    assert (verdict.rule, verdict.reason) == ("several-echoes", "2 echo times in one series (90, 120 ms)")


def test_a_volume_beyond_the_caps_is_refused() -> None:
    large = header(Rows=2000, Columns=2, PixelSpacing=[0.1, 100.0], PixelData=bytes(8000))
    assert judge([large], Settings()).rule == "too-large"


def test_own_rules_replace_the_list_and_the_first_match_decides() -> None:
    rules = [
        {"name": "no contrast", "accept": False, "description_matches": r"\+c|post", "reason": "after contrast"},
        {"name": "our 3D", "accept": True, "description_matches": "wip_brain", "echo_time_ms": {"minimum": 100}, "sequence": ["IR"]},
    ]
    settings = Settings.model_validate({"admission": rules})
    assert judge([header(SeriesDescription="WIP_brain_+C")], settings).reason == "after contrast"
    assert judge([header(SeriesDescription="WIP_brain")], settings).rule == "our 3D"
    assert judge([header(SeriesDescription="AX T2 FLAIR")], settings).rule == "no-rule"
    assert judge([header(SeriesDescription="WIP_brain", EchoTime="90")], settings).rule == "no-rule"
    assert judge([header(SeriesDescription="WIP_brain", Modality="CT")], settings).rule == "not-mr"


def test_rank_prefers_3d_then_before_contrast_then_original() -> None:
    def of(**changes: Any) -> tuple[int, ...]:
        return rank([read_file(BytesIO(part10(dataset)))[0] for dataset in flair_series(12, **changes)])

    volume = of(MRAcquisitionType="3D")
    plain, contrast = of(), of(ContrastBolusAgent="Gadovist")
    derived = of(ImageType=["DERIVED", "SECONDARY", "MPR"])
    assert volume > plain > derived > contrast
    assert of(ContrastBolusAgent="NONE") == plain


def test_every_rule_has_one_name() -> None:
    assert len(set(RULE_NAMES)) == len(RULE_NAMES)


def test_a_whole_series_that_is_wanted_runs_and_a_torn_one_is_held() -> None:
    series = [read_file(BytesIO(part10(dataset)))[0] for dataset in flair_series(20)]
    assert isinstance(examine(series, Settings(), final=False), Run)
    assert examine(series[:9] + series[10:], Settings(), final=True) == Hold("flair-by-name", "gap after slice 9: 6.0 mm, expected 3.0 mm")
