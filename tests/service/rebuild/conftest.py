"""An installation that works on its cases, and loses its case book."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage

from service.rebuild import Tally, rebuild
from service.records import Case, State, open_book, upgrade_book
from service.sections import Destination
from tests.service.casebook import FINDINGS
from tests.service.house import House
from tests.service.series import part10
from worker.encode import Output
from worker.keeping import find_files, keep_outputs, keep_record

PACS = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=104)

FIELDS = (
    *("id", "patient_id", "patient_key", "study_uid", "series_uid", "series_description", "state", "reason", "revision", "instances"),
    *("model", "quality", "findings", "primary", "rule", "series_shift", "rank", "stages"),
)


class Clinic(House):
    """A house whose cases are worked on, and whose case book can be lost."""

    def work(self, *, corrected: bool = False) -> None:
        """Do what was submitted, as a worker does, with results that only name what they were made from."""
        for case_id in dict.fromkeys(self.submitted):
            lease = self.book.claim(case_id, "w")
            if lease is None:
                continue
            self.book.number_series(lease)
            files = find_files(self.book, self.store, case_id)
            data = self.result(case_id, f"revision {lease.revision} of {sorted(path.stem for path in files)}".encode())
            made = (
                Output("segmentation", "application/dicom", "s.dcm", data, "1.2.840.10008.5.1.4.1.1.66.4", f"2.25.{lease.revision}"),
                Output("report.json", "application/json", "r.json", data[::-1]),
            )
            rows = keep_outputs(self.store, lease, made)
            found: dict[str, Any] = {"findings": FINDINGS, "model": {"name": "m"}, "stages": {"convert": {"start": 1.0, "seconds": 2.0}}}
            told: dict[str, Any] = {"identities": self.book.told_identities(case_id), "corrected": corrected}
            rows.append(keep_record(self.book, self.store, lease, files, rows, quality=("after contrast",), **told, **found))
            self.book.finish(lease, outputs=rows, quality=("after contrast",), **found)
        self.submitted.clear()

    def result(self, case_id: str, words: bytes) -> bytes:
        """A DICOM file that names the patient, and in its preamble what it was made from."""
        known = self.book.case(case_id)
        assert known is not None
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        preamble = sha256(words).digest()
        dataset.SOPClassUID, dataset.SOPInstanceUID = SegmentationStorage, f"2.25.{int.from_bytes(preamble[:8])}"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = known.study_uid, f"{known.series_uid}.1"
        dataset.PatientID, dataset.IssuerOfPatientID = known.patient_id, known.patient_issuer
        return preamble + part10(dataset)[len(preamble) :]

    def lose_book(self) -> None:
        """The database is gone; a new, empty one takes its place."""
        self.book.close()
        if self.settings.database_url is None:
            for path in self.store.root.glob("leukoscope.sqlite*"):
                path.unlink()
        self.restart()

    def restart(self) -> None:
        upgrade_book(self.settings)
        self.book = open_book(self.settings)
        self.intake = self.new_intake()

    def rebuild(self, **arguments: Any) -> Tally:
        return rebuild(self.book, self.store, **arguments)

    def done(self, datasets: list[Dataset]) -> Case:
        self.send(datasets)
        self.wait(40)
        self.work()
        case = self.case_of(datasets)
        assert case.state is State.DONE, case
        return case

    def case_of(self, datasets: list[Dataset]) -> Case:
        (found,) = self.book.find_cases(series_uid=datasets[0].SeriesInstanceUID).items
        case = self.book.case(found.id)
        assert case is not None
        return case

    def facts(self) -> dict[str, Any]:
        """What the book says that files can know."""
        return {
            case.id: (
                {name: getattr(case, name) for name in FIELDS},
                self.book.outputs(case.id),
                self.book.instance_paths(case.id),
                [row.header for row in sorted(self.book.headers(case.id), key=lambda row: row.sop_instance_uid)],
            )
            for case in self.book.find_cases(limit=500).items
        }


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    made = Clinic(tmp_path / "data", destinations=(PACS,), minimum_free_mb=0)
    yield made
    made.book.close()


@pytest.fixture
def clinic_on(tmp_path: Path, database: str) -> Iterator[Clinic]:
    """On each kind of database."""
    url = None if database.startswith("sqlite") else database
    made = Clinic(tmp_path / "data", destinations=(PACS,), minimum_free_mb=0, database_url=url)
    yield made
    made.book.close()


def empty(clinic: Clinic) -> None:
    if clinic.settings.database_url:
        with clinic.book._writing() as connection:
            connection.exec_driver_sql("TRUNCATE cases CASCADE")
    else:
        clinic.lose_book()
