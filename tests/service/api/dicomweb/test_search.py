"""QIDO-RS: what each level gives, what matches, paging, and nonsense that is refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from dicomweb_client.api import DICOMwebClient

from service.api.dicomweb.attributes import GIVEN, Level, tag_of
from service.api.dicomweb.matching import make_matcher
from tests.service.api.conftest import Host, make_series
from tests.service.api.dicomweb.conftest import FLAIR, ODD, PDF, RESULTS, RLE, SEG, STUDY, Archive, finish, result

NAMES = {uid: name for name, uid in STUDY.items()}
REQUIRED = {
    "studies": "00080020 00080030 00080050 00080056 00080061 00080090 00081190 00100010 00100020 00100030 00100040 0020000D 00200010 "
    "00201206 00201208",
    "series": "00080060 0008103E 00081190 0020000E 00200011 00201209",
    "instances": "00080016 00080018 00080056 00081190 00200013 00280010 00280011 00280100",
}
"""PS3.18 tables 10.6.3-3 to 10.6.3-5, as far as the objects have them; typed from the standard."""


def values(results: list[dict[str, Any]], keyword: str) -> list[Any]:
    return [value for one in results for value in one[tag_of(keyword)]["Value"]]


def studies(archive: Archive, **query: str) -> set[str]:
    return {NAMES[uid] for uid in values(archive.client.search_for_studies(search_filters=query), "StudyInstanceUID")}


def test_a_study_has_what_the_standard_asks_for(archive: Archive) -> None:
    (study,) = archive.client.search_for_studies(search_filters={"StudyInstanceUID": STUDY[FLAIR]})
    assert set(REQUIRED["studies"].split()) <= set(study)
    assert study[tag_of("PatientName")] == {"vr": "PN", "Value": [{"Alphabetic": "Zz^Poirot^Hercule"}]}
    assert study[tag_of("ReferringPhysicianName")]["Value"] == [{"Alphabetic": "Müller^A"}]
    assert study[tag_of("ModalitiesInStudy")]["Value"] == ["DOC", "MR", "SEG"]
    assert (study[tag_of("NumberOfStudyRelatedSeries")]["Value"], study[tag_of("NumberOfStudyRelatedInstances")]["Value"]) == ([3], [8])
    assert study[tag_of("StudyDate")] == {"vr": "DA", "Value": ["20261101"]}


def test_a_study_without_a_date_says_that_it_has_none(archive: Archive) -> None:
    (study,) = archive.client.search_for_studies(search_filters={"PatientID": "Third"})
    assert study[tag_of("StudyDate")] == {"vr": "DA"}


def test_series_are_what_came_in_and_what_went_out(archive: Archive) -> None:
    found = archive.client.search_for_series(STUDY[FLAIR])
    assert values(found, "SeriesInstanceUID") == [FLAIR, f"{RESULTS}.0", f"{RESULTS}.3"]
    assert values(found, "Modality") == ["MR", "SEG", "DOC"]
    assert values(found, "NumberOfSeriesRelatedInstances") == [6, 1, 1]
    assert set(REQUIRED["series"].split()) <= set(found[0])
    assert found[1][tag_of("SeriesDescription")]["Value"] == ["WMH ≥ 3 voxels"]
    assert tag_of("PatientID") not in found[0]


def test_a_relational_search_gives_the_attributes_above_too(archive: Archive) -> None:
    every = archive.client.search_for_series()
    assert len(every) == 5
    assert all(tag_of("PatientID") in one and tag_of("StudyDate") in one for one in every)
    (seg,) = archive.client.search_for_instances(search_filters={"SOPClassUID": SEG})
    assert {tag_of("PatientID"), tag_of("Modality"), tag_of("NumberOfFrames")} <= set(seg)


def test_instances_have_what_the_standard_asks_for(archive: Archive) -> None:
    found = archive.client.search_for_instances(STUDY[FLAIR], FLAIR)
    assert len(found) == 6
    assert all(set(REQUIRED["instances"].split()) <= set(one) for one in found)
    assert values(found, "InstanceNumber") == [1, 2, 3, 4, 5, 6]
    assert values(found, "BitsAllocated") == [16] * 6
    assert {one[tag_of("RetrieveURL")]["vr"] for one in found} == {"UR"}
    place = archive.host.client.get(f"/dicomweb/studies/{STUDY[FLAIR]}/instances").json()[0][tag_of("RetrieveURL")]["Value"][0]
    assert archive.host.client.get(place).status_code == 200


def test_headers_in_every_encoding_are_read(archive: Archive) -> None:
    found = archive.client.search_for_instances(STUDY[ODD])
    assert (values(found, "Rows"), values(found, "InstanceNumber")) == ([16, 16, 16], [1, 2, 3])


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"StudyInstanceUID": f"{STUDY[FLAIR]},{STUDY[ODD]}"}, {FLAIR, ODD}),
        ({"0020000D": STUDY[RLE]}, {RLE}),
        ({"PatientID": "ANON 7/1"}, {FLAIR}),
        ({"PatientID": "anon 7/1"}, set()),
        ({"PatientID": "*"}, {FLAIR, RLE, ODD}),
        ({"PatientID": ""}, {FLAIR, RLE, ODD}),
        ({"PatientID": "?th*r"}, {RLE}),
        ({"PatientName": "zz^poirot*"}, {FLAIR, RLE, ODD}),
        ({"PatientName": "Poirot"}, set()),
        ({"AccessionNumber": "ACC1"}, {FLAIR}),
        ({"AccessionNumber": "A?C[2]"}, {RLE}),
        ({"AccessionNumber": "A*C[12]"}, set()),
        ({"StudyDate": "20261101"}, {FLAIR}),
        ({"StudyDate": "20261101-20261103"}, {FLAIR, RLE}),
        ({"StudyDate": "20261102-"}, {RLE}),
        ({"StudyDate": "-20261102"}, {FLAIR}),
        ({"StudyTime": "10"}, {FLAIR}),
        ({"StudyTime": "101501-"}, set()),
        ({"ModalitiesInStudy": "SEG"}, {FLAIR}),
        ({"ModalitiesInStudy": "CT\\MR"}, {FLAIR, RLE, ODD}),
        ({"ReferringPhysicianName": "Müller^A"}, {FLAIR}),
        ({"StudyDate": "20261101", "PatientID": "Other"}, set()),
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, set) else str(value),
)
def test_studies_match_as_the_standard_says(archive: Archive, query: dict[str, str], found: set[str]) -> None:
    assert studies(archive, **query) == found


def test_series_and_instances_match_by_their_own_attributes(archive: Archive) -> None:
    search = archive.client.search_for_series
    assert values(search(search_filters={"Modality": "SEG"}), "SeriesInstanceUID") == [f"{RESULTS}.0"]
    assert values(search(search_filters={"SeriesInstanceUID": f"{RESULTS}.3,{RLE}"}), "SeriesInstanceUID") == [RLE, f"{RESULTS}.3"]
    assert values(search(search_filters={"SeriesNumber": "9103"}), "Modality") == ["DOC"]
    assert values(search(search_filters={"SeriesDescription": "WMH*"}), "Modality") == ["SEG"]
    assert search(STUDY[FLAIR], search_filters={"StudyInstanceUID": STUDY[RLE]}) == []
    search = archive.client.search_for_instances
    assert values(search(search_filters={"SOPClassUID": PDF}), "SOPInstanceUID") == [f"{RESULTS}.3.1"]
    assert values(search(search_filters={"SOPInstanceUID": f"{RESULTS}.0.1,{FLAIR}.2"}), "Modality") == ["MR", "SEG"]
    assert values(search(STUDY[FLAIR], search_filters={"InstanceNumber": "4"}), "SOPInstanceUID") == [f"{FLAIR}.4"]
    assert values(search(search_filters={"SOPInstanceUID": f"{RLE}.2", "PatientID": "Other"}), "SOPInstanceUID") == [f"{RLE}.2"]


def test_further_attributes_of_an_instance_come_when_they_are_asked_for(archive: Archive) -> None:
    plain, named, every = (
        archive.client.search_for_instances(STUDY[FLAIR], FLAIR, limit=1, fields=fields)[0] for fields in (None, ["EchoTime"], ["all"])
    )
    assert tag_of("EchoTime") not in plain
    assert named[tag_of("EchoTime")]["Value"] == [120]
    assert set(named) - set(plain) == {tag_of("EchoTime")}
    assert {tag_of("EchoTime"), tag_of("ScanningSequence"), tag_of("PatientSex")} <= set(every)
    assert tag_of("PixelData") not in every


def test_pages_are_the_whole_and_the_last_says_nothing_of_more(archive: Archive) -> None:
    client, place = archive.host.client, f"/dicomweb/studies/{STUDY[FLAIR]}/instances"
    pages = [client.get(place, params={"limit": 3, "offset": offset}) for offset in (0, 3, 6, 9)]
    assert [page.status_code for page in pages] == [200, 200, 200, 204]
    assert [len(page.json()) for page in pages[:3]] == [3, 3, 2]
    uids = values([one for page in pages[:3] for one in page.json()], "SOPInstanceUID")
    assert uids == values(client.get(place).json(), "SOPInstanceUID")
    more = [page.headers.get("warning", "").endswith("There are additional results that can be requested") for page in pages]
    assert more == [True, True, False, False]
    assert pages[3].content == b""
    assert client.get(place, params={"limit": 0}).status_code == 204
    assert len(archive.client.search_for_instances(limit=5, get_remaining=True)) == 14


def test_what_is_not_supported_is_said_in_a_warning(archive: Archive) -> None:
    answer = archive.host.client.get("/dicomweb/studies", params={"PatientName": "Poirot", "fuzzymatching": "true"})
    assert answer.status_code == 204
    text = "The fuzzymatching parameter is not supported. Only literal matching has been performed."
    assert answer.headers["warning"] == f"299 {archive.url}: {text}"
    assert "warning" not in archive.host.client.get("/dicomweb/studies?fuzzymatching=false").headers


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("/studies?limit=1&Doe=1", "parameter 2: its name is neither"),
        ("/studies?%3Cscript%3E=1", "parameter 1: its name"),
        ("/studies?Modality=MR", "attribute of series"),
        ("/series?SOPInstanceUID=1.2", "attribute of instances"),
        ("/studies?7FE00010=1", "PixelData: is not an attribute that can be searched by"),
        ("/studies?StudyInstanceUID=DOE", "not a UID"),
        ("/studies?StudyDate=2026-11-01", "StudyDate: is"),
        ("/studies?StudyDate=20261341", "not a date"),
        ("/studies?StudyDate=20261103-20261101", "ends before it begins"),
        ("/studies?StudyDate=-", "StudyDate: is neither a value"),
        ("/studies?StudyTime=2561", "not a time"),
        ("/series?SeriesNumber=three", "not a whole number"),
        ("/studies?limit=-1", "limit: is not a whole number"),
        ("/studies?limit=ten", "limit"),
        ("/studies?offset=1e9", "offset"),
        ("/studies?offset=99999999999999999999", "offset"),
        ("/studies?limit=1&limit=2", "limit: is given twice"),
        ("/studies?PatientID=a&00100020=b", "PatientID: is given twice"),
        ("/studies?includefield=NoSuchThing", "includefield"),
        ("/studies?fuzzymatching=perhaps", "fuzzymatching: is neither true nor false"),
        ("/studies?PatientID=a%00b", "control character"),
        ("/studies?PatientID=" + "*DOE" * 17, "wild cards"),
        ("/studies/DOE/series", "no UID"),
        ("/studies/1.2/series/DOE%20J/instances", "no UID"),
    ],
    ids=str,
)
def test_nonsense_is_refused_with_a_reason_that_repeats_no_value(archive: Archive, place: str, reason: str) -> None:
    answer = archive.host.client.get("/dicomweb" + place)
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert reason in answer.json()["detail"]
    assert "doe" not in answer.text.lower()


def test_the_log_has_the_route_and_nothing_of_a_patient(archive: Archive) -> None:
    archive.host.client.get("/dicomweb/instances", params={"PatientName": "Zz^Poirot*", "includefield": "all"}).raise_for_status()
    archive.host.client.get("/dicomweb/studies/Poirot/series", params={"Poirot": "Poirot"})
    log = archive.host.log.getvalue()
    assert '"route": "/dicomweb/instances"' in log
    assert "poirot" not in log.lower()


def test_a_pattern_of_stars_takes_no_time() -> None:
    matcher = make_matcher("PatientName", "PN", "*o" * 16 + "x")
    assert matcher is not None
    assert not matcher([{"Alphabetic": "o" * 4000}])


def test_xml_is_not_to_be_had(archive: Archive) -> None:
    answer = archive.host.client.get("/dicomweb/studies", headers={"Accept": 'multipart/related; type="application/dicom+xml"'})
    assert (answer.status_code, answer.json()["type"]) == (406, "urn:leukoscope:problem:not-acceptable")
    answer = archive.host.client.get("/dicomweb/studies", headers={"Accept": "application/json"})
    assert (answer.headers["content-type"], len(answer.json())) == ("application/json", 3)


def test_the_levels_name_attributes_of_the_dictionary() -> None:
    assert all(tag_of(keyword) for level in Level for keyword in GIVEN[level])


def test_the_allow_header_names_both_searching_and_storing(archive: Archive) -> None:
    answer = archive.host.client.put("/dicomweb/studies")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")


def test_a_corrected_identity_is_matched_and_given_at_every_level(make_client: Callable[..., tuple[Host, DICOMwebClient]]) -> None:
    host, client = make_client(minimum_slices=3)
    uid = "1.2.3.70"
    study = f"{uid}.900"
    localizer = make_series(f"{uid}.5", 3, 16, "O07", StudyInstanceUID=study, SeriesDescription="localizer", IssuerOfPatientID="OLD")
    host.send(localizer)
    case_id = host.send(make_series(uid, 6, 16, "O07", PatientName="Doe^o07", IssuerOfPatientID="OLD"))
    finish(host, case_id, {})
    said = {"patient_id": "RIGHT-7", "name": "Right^Wěi=右^偉", "birth_date": "19610203", "issuer": "", "by": "b", "reason": "mix-up"}
    assert host.client.post(f"/cases/{case_id}/identity", json=said).status_code == 202
    host.book.queue_case(case_id, "flair")
    right = {"PatientID": "RIGHT-7", "PatientName": "Right^Own", "StudyInstanceUID": study, "SeriesInstanceUID": f"{uid}.77"}
    finish(host, case_id, {"segmentation": result(SEG, 0, SOPInstanceUID=f"{uid}.77.1", Modality="SEG", **right)})
    patient = [tag_of(keyword) for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")]

    def labels(results: list[dict[str, Any]]) -> list[list[Any]]:
        return [[*(one[tag].get("Value", [None])[0] for tag in patient), tag_of("IssuerOfPatientID") in one] for one in results]

    corrected = ["RIGHT-7", {"Alphabetic": "Right^Wěi", "Ideographic": "右^偉"}, "19610203", "O", False]
    own = ["RIGHT-7", {"Alphabetic": "Right^Own"}, None, None, False]
    old = ["O07", {"Alphabetic": "Zz^Poirot^Hercule"}, "19010203", "O", True]
    for query in ({"PatientID": "RIGHT-7"}, {"PatientName": "right^w*"}, {"PatientBirthDate": "19610203"}):
        assert labels(client.search_for_studies(search_filters=query)) == [corrected], query
    assert labels(client.search_for_studies(search_filters={"PatientID": "O07"})) == []
    assert labels(client.search_for_studies(search_filters={"PatientName": "*o07"})) == []
    assert labels(client.search_for_series(search_filters={"PatientID": "RIGHT-7"})) == [corrected, own]
    assert labels(client.search_for_series(search_filters={"PatientName": "Right^O*"})) == [own]
    assert labels(client.search_for_series(search_filters={"PatientID": "O07"})) == [old]
    assert labels(client.search_for_series(search_filters={"IssuerOfPatientID": "OLD"})) == [old]
    assert labels(client.search_for_instances(search_filters={"PatientBirthDate": "19610203"})) == [corrected] * 6
    every = client.search_for_instances(study, uid, limit=1, fields=["all"])
    assert labels(every) == [corrected]
    assert tag_of("EchoTime") in every[0]
    # what came in is given as it came
    assert client.retrieve_series_metadata(study, uid)[0][tag_of("PatientID")]["Value"] == ["O07"]
