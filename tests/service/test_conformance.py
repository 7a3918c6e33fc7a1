"""The conformance statement says what the program does."""

from __future__ import annotations

import re
from pathlib import Path

from pydicom.uid import UID

from service import commitment
from service.admission.refusals import MR_IMAGE_CLASSES
from service.admission.rules import RULE_NAMES
from service.api.dicomweb.attributes import GIVEN, MATCHED, Level
from service.api.dicomweb.query import MOST_RESULTS
from service.api.dicomweb.store import FAILURES
from service.contexts import TRANSFER_SYNTAXES
from service.listener import MAXIMUM_PDU, STATUSES
from service.records.resends import FLAGS
from service.settings import Settings
from service.sop_classes import SEGMENTATION_CLASSES
from tests.provider import CLASSES
from worker.encode.segments import LABEL_MAP_STORAGE
from worker.encode.source import PATIENT, STUDY
from worker.segments import CLASSES as CLASSES_READ

ROOT = Path(__file__).resolve().parents[2]
STATEMENT = (ROOT / "deploy" / "conformance.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The table of a section, without its head."""
    section = re.split(r"^#{2,4} ", STATEMENT.split(heading, 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
    return found[2:]


def test_storage_classes() -> None:
    assert {uid: name for name, uid in rows("#### 5.1.1 ")} == MR_IMAGE_CLASSES


def test_classes_of_corrections() -> None:
    assert all(f"{name} ({uid})" in STATEMENT for uid, name in SEGMENTATION_CLASSES.items())
    assert tuple(SEGMENTATION_CLASSES) == CLASSES_READ


def test_transfer_syntaxes_in_their_order() -> None:
    assert [(uid, name) for name, uid in rows("#### 5.1.3 ")] == list(TRANSFER_SYNTAXES.items())


def test_statuses() -> None:
    assert {int(code, 16): (name, meaning) for code, name, meaning in rows("### 5.2 ")} == STATUSES


def test_statuses_of_commitment_reports() -> None:
    told = [row for row in rows("### 5.6 ") if row[0].startswith("0x")]
    assert {int(code, 16): (name, meaning) for code, name, meaning in told} == commitment.STATUSES


def test_rules_in_their_order() -> None:
    assert tuple(name.strip("`") for name, _ in rows("### 5.3 ")) == RULE_NAMES


def test_flags_of_what_came_again() -> None:
    assert set(re.findall(r"flag `([a-z-]+)`", STATEMENT)) == {code for code, _ in FLAGS.values()}


def test_classes_of_what_is_sent() -> None:
    label_map = '`segmentation`, `encoding = "labelmap"`'
    sent = {output: (name, uid) for output, name, uid, _ in rows("### 5.4 ")}
    assert sent.pop(label_map) == ("Label Map Segmentation Storage", LABEL_MAP_STORAGE)  # pydicom does not know its name
    assert {output.strip("`"): uid for output, (_, uid) in sent.items()} == CLASSES
    assert all(UID(uid).name == name for name, uid in sent.values())


def test_largest_pdu() -> None:
    assert f"| {MAXIMUM_PDU} bytes |" in STATEMENT


def test_failures_of_storing_over_the_web() -> None:
    assert {(int(code, 16), why) for code, why in rows("#### 5.8.1 ")} == set(FAILURES.values())


def test_attributes_of_searches() -> None:
    own = {Level.STUDY: (), Level.SERIES: ("StudyInstanceUID",), Level.INSTANCE: ("StudyInstanceUID", "SeriesInstanceUID")}
    for level, (_, matched, given) in zip(Level, rows("#### 5.8.2 "), strict=True):
        assert set(matched.split(", ")) == {keyword for keyword, of in MATCHED.items() if of is level}
        told = {keyword.partition(".")[0] for keyword in (matched + ", " + given).split(", ")}
        assert told == set(GIVEN[level]) - set(own[level])


def test_most_results_of_a_search() -> None:
    assert f"{MOST_RESULTS[Level.STUDY]:,} studies or series, {MOST_RESULTS[Level.INSTANCE]:,} instances in an answer" in STATEMENT


def test_every_heading_of_the_contents_is_there() -> None:
    places = ", ".join(f"{here}, {heading}" for here, heading in rows("## 2 Contents"))
    named = re.findall(r"\d+(?:\.\d+)?", places)
    there = set(re.findall(r"^#{2,4} (\d+(?:\.\d+)*) ", STATEMENT, flags=re.MULTILINE))
    assert len(named) > 20
    assert set(named) <= there
    assert {number for number in there if "." not in number} <= set(re.findall(r"\d+", places))


def test_defaults_of_the_configuration() -> None:
    for name, _, default in rows("## 6 "):
        value: object = Settings()
        for part in name.strip("`").split("."):
            value = getattr(value, part)
        assert str(value) == default.strip("`"), name


def test_attributes_that_are_repeated() -> None:
    assert [tuple(keywords.split(", ")) for _, keywords in rows("## 11 ")] == [PATIENT, STUDY]


def test_every_requirement_has_a_test_that_exists_or_says_that_it_is_not_kept() -> None:
    requirements = [row for chapter in re.findall(r"^### 13\.\d .*$", STATEMENT, flags=re.MULTILINE) for row in rows(chapter)]
    assert len(requirements) > 60
    for promise, shown in requirements:
        tests = re.findall(r"`([\w/]+\.py)::(test_\w+)`", shown)
        if decision := re.fullmatch(r"not needed, decision (\d{4})", shown):
            assert list((ROOT / "deploy" / "decisions").glob(f"{decision[1]}-*.md")), promise
            continue
        assert tests or shown.startswith("not kept"), promise
        assert shown.count("`") == 2 * len(tests), promise
        for file, test in tests:
            assert re.search(rf"^def {test}\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), flags=re.MULTILINE), (file, test)
