"""The table of bad input: how each series is made, and what every door has to answer. tests/README.md shows it to people."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import MPEG2MPML, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from model.volume import Volume
from tests.flow.bad_input.charsets import ENCODED, NAMES, PLAIN_DESCRIPTION
from worker.phantom import write_series

SUCCESS, CANNOT_UNDERSTAND = 0x0000, 0xC000
SLICES, CHANGED = 14, 6
UNKNOWN_SYNTAX = "compressed by nothing known here"


@dataclass(frozen=True)
class Bench:
    """Where one row's series is made: the phantom's volume, a folder, and what its UIDs are derived from."""

    volume: Volume
    folder: Path
    seed: str

    def write(self, **arguments: Any) -> list[Path]:
        volume = arguments.pop("volume", self.volume)
        arguments = {"description": "FLAIR", "patient_id": f"P-{self.seed}"} | arguments
        return write_series(volume, self.folder, uid_seed=self.seed, **arguments)


@dataclass(frozen=True)
class Row:
    """One kind of bad input.

    Attributes
    ----------
    make : writes the files
    state : how the case ends, None where nothing is taken and there is none
    reason : a regular expression found in the case's reason, and in what `leukoscope segment` says
    refused : how many of the files are refused
    status, detail : the DIMSE status of those, and what REST says of them
    doors : which doors of the service it is brought to
    stored : whether what is acknowledged is kept (a class nobody wants is recorded and discarded)
    """

    name: str
    make: Callable[[Bench], list[Path]]
    state: str | None
    reason: str = ""
    refused: int = 0
    status: int = CANNOT_UNDERSTAND
    detail: str = ""
    stored: bool = True
    doors: tuple[str, ...] = ("store", "rest")
    also: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


def edit(path: Path, change: Callable[[Dataset], None]) -> None:
    """Change one file's data set."""
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.save_as(path)


def every(files: Sequence[Path], change: Callable[[Dataset], None]) -> list[Path]:
    for path in files:
        edit(path, change)
    return list(files)


def one(bench: Bench, change: Callable[[Dataset], None], at: int = CHANGED) -> list[Path]:
    """A whole series of which one slice is changed."""
    files = bench.write()
    edit(files[at], change)
    return files


def setting(**values: Any) -> Callable[[Dataset], None]:
    """Elements to set; None removes one."""

    def change(dataset: Dataset) -> None:
        for keyword, value in values.items():
            if value is None:
                dataset.pop(keyword, None)
            else:
                setattr(dataset, keyword, value)

    return change


def cut(bench: Bench, keep: int, at: int = CHANGED) -> list[Path]:
    """One slice loses its end; `keep` counts bytes, from the end where it is negative."""
    files = bench.write()
    files[at].write_bytes(files[at].read_bytes()[:keep])
    return files


def rubbish(bench: Bench, content: bytes) -> list[Path]:
    """A file whose meta information is right and whose data set is something else."""
    (path,) = bench.write(order=[0])
    whole = path.read_bytes()
    (length,) = struct.unpack("<I", whole[140:144])
    path.write_bytes(whole[: 144 + length] + content)
    return [path]


def other_syntax(bench: Bench) -> list[Path]:
    """One slice says it is Implicit VR and is Explicit VR."""
    files = bench.write()
    files[CHANGED].write_bytes(
        files[CHANGED].read_bytes().replace(b"1.2.840.10008.1.2.1\x00", str(ImplicitVRLittleEndian).encode() + b"\x00\x00\x00", 1)
    )
    return files


def doubled(bench: Bench) -> list[Path]:
    return bench.write(order=[*range(SLICES), CHANGED])


def turn(dataset: Dataset) -> None:
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def shrink(dataset: Dataset) -> None:
    values = dataset.pixel_array[:-8]
    dataset.Rows, dataset.PixelData = values.shape[0], values.tobytes()


def two_echoes(bench: Bench) -> list[Path]:
    files = bench.write()
    for path in files[::2]:
        edit(path, setting(EchoTime="120"))
    return files


def two_patients(bench: Bench) -> list[Path]:
    return one(bench, setting(PatientID="SOMEBODY-ELSE"))


def shift(dataset: Dataset) -> None:
    x, y, z = dataset.ImagePositionPatient
    dataset.ImagePositionPatient = [x + 1.2, y, z]


def ct(bench: Bench) -> list[Path]:
    return every(bench.write(order=range(4)), setting(SOPClassUID=CTImageStorage, Modality="CT"))


def undecodable(bench: Bench) -> list[Path]:
    def change(dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = MPEG2MPML
        dataset.PixelData = encapsulate([b"\x00\x00\x01\xb3" * 16])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True

    return every(bench.write(), change)


def t1_flair(bench: Bench) -> list[Path]:
    return bench.write(description="AX T1 FLAIR", headers={"EchoTime": "9", "InversionTime": "860", "RepetitionTime": "2000"})


def t1_called_flair(bench: Bench) -> list[Path]:
    headers = {"EchoTime": "12", "InversionTime": None, "RepetitionTime": "600", "ScanningSequence": "SE", "ProtocolName": "Kopf"}
    return bench.write(description="t1_se_tra (FLAIR-Position)", headers=headers)


def filled(bench: Bench, value: int) -> list[Path]:
    return bench.write(volume=Volume(np.full(bench.volume.shape, value, np.uint16), bench.volume.affine_ras))


def mask(bench: Bench) -> list[Path]:
    """Few values, an innocent name."""
    values = np.asarray(bench.volume.data)
    return bench.write(volume=Volume((values > np.percentile(values, 80)).astype(np.uint16), bench.volume.affine_ras))


def single_voxel(bench: Bench) -> list[Path]:
    return bench.write(volume=Volume(np.full((1, 1, 1), 9, np.uint16), np.eye(4)))


def huge(bench: Bench, frames: int) -> list[Path]:
    """1,024 × 1,024 × `frames` as one Enhanced object: the same RLE frame over and over, so that making and sending it is cheap."""
    small = Volume(np.zeros((4, 4, frames), np.uint16), np.diag([0.25, 0.25, 0.5, 1.0]))
    (path,) = bench.write(volume=small, enhanced=True)
    sample = Dataset()
    sample.update({key: value for key, value in pydicom.dcmread(path).items() if key.group == 0x28})
    frame = np.arange(1024 * 1024, dtype=np.uint16).reshape(1024, 1024) // 4096
    sample.Rows = sample.Columns = 1024
    sample.NumberOfFrames = 1
    sample.ensure_file_meta()
    sample.SOPClassUID, sample.SOPInstanceUID, sample.PixelData = "1.2", "1.2", frame.tobytes()
    sample.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    sample.compress(RLELossless, generate_instance_uid=False)
    packed = next(pydicom.encaps.generate_frames(sample.PixelData, number_of_frames=1))

    def change(dataset: Dataset) -> None:
        dataset.Rows = dataset.Columns = 1024
        dataset.PixelData = encapsulate([packed] * frames)
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        dataset.file_meta.TransferSyntaxUID = RLELossless

    edit(path, change)
    return [path]


def floating(dataset: Dataset) -> None:
    values = dataset.pixel_array.astype(np.float32)
    values[3, 4] = np.nan
    del dataset.PixelData
    dataset.FloatPixelData, dataset.BitsAllocated = values.tobytes(), 32
    for keyword in ("BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, keyword)


LOCALIZER = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
NAN = {"RescaleSlope": "NaN", "RescaleIntercept": "0"}
WRONG = {
    "PatientSex": "0000",
    "PatientAge": "999Z",
    "PatientBirthDate": "18990231",
    "StudyDate": "20201332",
    "SeriesDate": "00000000",
    "AcquisitionDate": "99999999",
    "StudyTime": "256199",
}


def name_in(term: str, name: str) -> Row:
    """The patient's name, and a word of the description, in one repertoire."""
    description = "FLAIR" if term in PLAIN_DESCRIPTION else f"FLAIR {name.partition('^')[0]}"
    encoded = ENCODED.get(term, b"")
    headers = {"SpecificCharacterSet": term.split("\\"), "PatientName": "N" * len(encoded) or name, "SeriesDescription": description}

    def make(bench: Bench) -> list[Path]:
        files = bench.write(headers=headers)
        for path in files if encoded else ():
            path.write_bytes(path.read_bytes().replace(b"N" * len(encoded), encoded))
        return files

    doors = ("store", "rest") if term in {"ISO_IR 192", "\\ISO 2022 IR 87"} else ("store",)
    return Row(f"name in {term.removeprefix(chr(92))}", make, "done", doors=doors, also={"name": name, "description": description})


GAP = f"gap after slice {CHANGED}: \\d+\\.\\d mm, expected"
ROWS = (
    Row("truncated in its pixels", lambda b: cut(b, -900), "held", GAP, 1, detail="cut short"),
    Row("truncated in its header", lambda b: cut(b, 700), "held", GAP, 1, detail="missing|cut short"),
    Row("not DICOM", lambda b: rubbish(b, b"Dear colleague, please find attached. " * 40), None, "no DICOM image there", 1, detail="not a"),
    Row("empty data set", lambda b: rubbish(b, b""), None, "no DICOM image there", 1, detail="missing"),
    Row("not in its transfer syntax", other_syntax, "held", GAP, 1, detail="not a DICOM dataset|missing|cut short"),
    Row("no pixels", lambda b: b.write(headers={"PixelData": None}), "rejected", f"{SLICES} of {SLICES} instances have no pixel data"),
    Row("slice missing", lambda b: b.write(order=[k for k in range(SLICES) if k != CHANGED]), "held", GAP),
    Row("slice doubled", doubled, "held", f"two slices at one place \\(slices {CHANGED + 1} and {CHANGED + 2}\\)"),
    Row("slice of another orientation", lambda b: one(b, turn), "held", "slices of more than one orientation"),
    Row("slice of another size", lambda b: one(b, shrink), "held", "slices of 2 sizes"),
    Row("slice beside its place", lambda b: one(b, shift), "held", "to the side of"),
    Row("two patients", two_patients, "held", "^instances of more than one patient in one series$"),
    Row("two echoes", two_echoes, "rejected", r"2 echo times in one series \(120, 390 ms\)"),
    Row("CT", ct, "rejected", "not an MR image: CT Image Storage", stored=False),
    Row("localizer", lambda b: b.write(order=[5, 6, 7], headers=LOCALIZER), "rejected", "a localizer by its image type"),
    Row("T1-FLAIR", t1_flair, "rejected", "T1-weighted inversion recovery, not a T2-weighted FLAIR"),
    Row("T1 with flair in its name", t1_called_flair, "rejected", "T1-weighted"),
    Row("mask by its name", lambda b: b.write(description="FLAIR_lesion_seg"), "rejected", "a mask or region of interest by its name"),
    Row("mask by its few values", mask, "rejected", "only 2 different pixel values: a mask, not a picture"),
    Row("wrong sex and dates", lambda b: b.write(headers=WRONG), "done"),
    *(name_in(term, name) for term, name in NAMES.items()),
    Row("1 × 1 × 1", single_voxel, "rejected", "field of view 1 × 1 mm is not that of a head"),
    Row("1024 × 1024 × 600", lambda b: huge(b, 600), "rejected", "1024 × 1024 × 600 voxels, at most 1024 × 1024 × 512 are taken"),
    Row("1024 × 1024 × 300", lambda b: huge(b, 300), "rejected", "600 MiB decoded, at most 512 MiB are taken"),
    Row("all zero", lambda b: filled(b, 0), "rejected", "all pixels have the value 0"),
    Row("constant", lambda b: filled(b, 7), "rejected", "all pixels have the value 7"),
    Row("NaN in floating-point pixels", lambda b: every(b.write(), floating), "rejected", "floating-point pixels"),
    Row("NaN as rescale slope", lambda b: b.write(headers=NAN), "rejected", "no usable rescale slope"),
    Row(UNKNOWN_SYNTAX, undecodable, "rejected", "unsupported transfer syntax: MPEG2"),
)
