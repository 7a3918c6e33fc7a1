"""A structure set of a source that is not axial, and the MR series it refers to: together, the series first."""

from __future__ import annotations

import errno
import threading
import zipfile
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import BytesIO

import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread
from pydicom.uid import KeyObjectSelectionDocumentStorage

from service.records import VerdictKind, notes, outbox
from service.sections import Destination, WebDestination
from tests.provider import CLASSES, MR, Committing, provider
from tests.sending import part10, sending, states
from tests.service.api.conftest import hosts_in, make_series
from tests.webservice import webservice
from worker import rejection

IMAGES = [f"2.25.9{number}" for number in range(3)]
KINDS = ("segmentation", "rtstruct")
UIDS = {"StudyInstanceUID": "1.2.77.900", "SeriesInstanceUID": "1.2.78"}
ALL = dict.fromkeys(("segmentation", "rtstruct", "resampled.zip"))


def planning(port, **more):
    return Destination(name="planning", ae_title="PACS", host="127.0.0.1", port=port, outputs=KINDS, **more)


def series():
    return [part10(uid, MR) for uid in IMAGES]


def test_the_series_goes_before_its_structure_set_over_the_same_association(tmp_path):
    with provider(classes=[MR, *CLASSES.values()]) as node, sending(tmp_path, planning(node.port), kinds=KINDS, images=series()) as made:
        made.sender.deliver(made.case_id)
        assert states(made.book, made.case_id) == dict.fromkeys(ALL, "sent")
        assert node.got == ["2.25.1", *IMAGES, "2.25.11"]
        assert len(node.associations) == 1


@pytest.mark.parametrize("how", ["refuses", "hangs up at", "has no context for"])
def test_an_image_that_fails_takes_its_series_with_it_and_nothing_else(tmp_path, how):
    classes = list(CLASSES.values()) if how == "has no context for" else [MR, *CLASSES.values()]
    with provider(classes=classes) as node, sending(tmp_path, planning(node.port), kinds=KINDS, images=series()) as made:
        node.hang_up_at = MR if how == "hangs up at" else None
        node.refused = IMAGES[1] if how == "refuses" else None
        made.sender.deliver(made.case_id)
        assert states(made.book, made.case_id) == {"segmentation": "sent", "resampled.zip": "pending", "rtstruct": "sent"}
        assert {one.attempts for one in made.book.deliveries(made.case_id)} == {1}
        node.hang_up_at, node.refused = None, None
        if how == "refuses":
            with made.book._writing() as connection:
                connection.exec_driver_sql("UPDATE deliveries SET next_attempt_at = created_at WHERE state = 'pending'")
            made.sender.deliver(made.case_id)
            assert states(made.book, made.case_id) == dict.fromkeys(ALL, "sent")
            assert set(node.got) == {"2.25.1", "2.25.11", *IMAGES}


def test_a_series_is_committed_when_every_image_is(tmp_path):
    with provider(Committing, classes=[MR, *CLASSES.values()]) as node:
        with sending(tmp_path, planning(node.port, storage_commitment=True), kinds=KINDS, images=series()) as made:
            node.lost[IMAGES[2]] = 0x0110
            made.sender.deliver(made.case_id)
            assert node.asked[0][1] == ["2.25.1", *IMAGES, "2.25.11"]
            assert states(made.book, made.case_id) == {"segmentation": "committed", "resampled.zip": "pending", "rtstruct": "committed"}


def test_over_the_web_it_goes_in_the_same_request(tmp_path):
    with webservice() as service:
        node = WebDestination(name="planning", url=service.url, outputs=KINDS)
        with sending(tmp_path, node, kinds=KINDS, images=series()) as made:
            made.sender.deliver(made.case_id)
            assert states(made.book, made.case_id) == dict.fromkeys(ALL, "sent")
            (archive,) = [one.path for one in made.book.deliveries(made.case_id) if one.output == "resampled.zip"]
            with zipfile.ZipFile(tmp_path / archive) as opened:
                assert [service.got[uid] for uid in IMAGES] == [opened.read(name) for name in opened.namelist()]
        assert list(service.got) == ["2.25.1", *IMAGES, "2.25.11"]
        assert len(service.requests) == 1


def test_our_own_service_takes_the_series_and_gives_it_back_byte_for_byte(tmp_path):
    images = make_series("1.2.77")
    with hosts_in(tmp_path / "other") as make:
        other = make()
        node = WebDestination(name="other", url=f"{other.server.url}/dicomweb", outputs=KINDS)
        with sending(tmp_path / "data", node, kinds=KINDS, images=images, **UIDS) as made:
            made.sender.deliver(made.case_id)
            found = {one.output: (one.state.value, one.last_error) for one in made.book.deliveries(made.case_id)}
        assert found["resampled.zip"] == ("sent", None)
        assert found["rtstruct"] == found["segmentation"] == ("pending", "status 0x0122"), "it takes MR images only, and says so"
        client = DICOMwebClient(node.url)
        got = {str(one.SOPInstanceUID): one for one in client.retrieve_study("1.2.77.900")}
        assert got == {str(one.SOPInstanceUID): one for one in map(dcmread, map(BytesIO, images))}
        raw = other.client.get("/dicomweb/studies/1.2.77.900/series/1.2.77/instances/1.2.77.5", headers={"Accept": "application/dicom"})
        assert data_set(raw.content) == data_set(images[4])


NOTE = "rejection-note-rejected.planning"
NAMED = {"StudyInstanceUID": "1.2.77.900", "Modality": "SEG"}


@contextmanager
def rejected(folder):
    """A result and its axial series, both sent and then rejected by a reader; another case is due."""
    images = [part10(uid, MR, SeriesInstanceUID="1.2.79", **NAMED | {"Modality": "MR"}) for uid in IMAGES]
    with provider(classes=[MR, *CLASSES.values(), KeyObjectSelectionDocumentStorage]) as node:
        with sending(
            folder, planning(node.port, rejection_notes=True), kinds=KINDS, images=images, SeriesInstanceUID="1.2.78", **NAMED
        ) as made:
            made.sender.deliver(made.case_id)
            made.book.judge(made.case_id, VerdictKind.REJECT, "A. Reader")
            made.another()
            node.got.clear()
            yield node, made


def delivered_due(node, made):
    """What has arrived when all that is due was sent."""
    made.sender.deliver_due()
    for thread in threading.enumerate():
        if thread.name == "deliver":
            thread.join(20)
    return list(node.got)


def note_of(made):
    return next((one for one in made.book.deliveries(made.case_id) if one.output == NOTE), None)


def test_a_note_names_every_image_of_the_series(tmp_path):
    with rejected(tmp_path) as (node, made):
        assert len(delivered_due(node, made)) == 2
        note = dcmread(tmp_path / note_of(made).path)
        named = [one for series in note.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence for one in series[0x00081199]]
        assert {str(one.ReferencedSOPInstanceUID) for one in named} == {"2.25.1", "2.25.11", *IMAGES}


@pytest.mark.parametrize("what", ["cut short", "an entry that is none", "not to be read", "away"])
def test_a_result_that_cannot_be_read_puts_off_its_note_and_nothing_else(tmp_path, monkeypatch, what):
    monkeypatch.setattr(outbox, "FIRST_PAUSE_S", 60.0)
    with rejected(tmp_path) as (node, made):
        (path,) = [tmp_path / one.path for one in made.book.deliveries(made.case_id) if one.output == "resampled.zip"]
        whole = path.read_bytes()
        with monkeypatch.context() as broken:
            if what == "cut short":
                path.write_bytes(whole[:-100])
            elif what == "an entry that is none":
                path.write_bytes(whole.replace(b"DICM", b"MCID", 1))
            elif what == "not to be read":
                broken.setattr(rejection, "dcmread", failing)
            else:
                (tmp_path / "instances").rename(tmp_path / "away")
                path.unlink()
            assert delivered_due(node, made) == ["2.25.2"]
            assert made.book.owed_notes() == [], "not at every sweep"
        if what == "away":
            (tmp_path / "away").rename(tmp_path / "instances")
        path.write_bytes(whole)
        for module in (notes, outbox):
            monkeypatch.setattr(module, "utc_now", lambda: datetime.now(UTC) + timedelta(minutes=15))
        assert len(delivered_due(node, made)) == 2
        assert note_of(made).state.value == "sent"


def failing(*_arguments, **_options):
    raise OSError(errno.EIO, "Input/output error")


def test_a_note_about_what_is_gone_is_given_up_and_seen_until_it_is_back(tmp_path):
    with rejected(tmp_path) as (node, made):
        (path,) = [tmp_path / one.path for one in made.book.deliveries(made.case_id) if one.output == "resampled.zip"]
        whole = path.read_bytes()
        path.unlink()
        assert delivered_due(node, made) == ["2.25.2"]
        note = note_of(made)
        assert (note.state.value, note.path, note.last_error) == ("dead", None, "a result that is to be withdrawn is not in the store")
        path.write_bytes(whole)
        assert made.book.resend(made.case_id) == 1
        assert note_of(made) is None, "it is to be written"
        assert len(delivered_due(node, made)) == 2
        assert note_of(made).state.value == "sent"


def data_set(file):
    """What comes after the file meta information, which every archive writes itself (PS3.10 7.1)."""
    return file[144 + int.from_bytes(file[140:144], "little") :]
