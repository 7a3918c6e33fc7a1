"""Nothing of a patient is in logs, metrics, names of files, command lines, messages and errors, whatever happens to the series."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt

from tests.provider import CLASSES
from tests.running import Running, series_uid
from worker.send import read_outgoing, send

SECRETS = {
    "PatientName": "Quetzalcoatl^Xiomara",
    "PatientID": "ZQX7341",
    "PatientBirthDate": "19370911",
    "AccessionNumber": "ACC99817",
    "SeriesDescription": "FLAIR of Nepomuk",
    "ReferringPhysicianName": "Wolperdinger^V",
    "OtherPatientIDs": "OLDID5566",
}
TRACES = ("quetzalcoatl", "xiomara", "zqx7341", "19370911", "acc99817", "nepomuk", "wolperdinger", "oldid5566")


def traces_in(text: str | bytes) -> set[str]:
    """What of the patient can be read there, in whatever case."""
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogateescape")
    return {trace for trace in TRACES if trace.encode() in text.lower()}


class Indiscreet:
    """A PACS that refuses everything, and names the patient while it does."""

    def __init__(self) -> None:
        entity = AE(ae_title="PACS")
        for sop_class in CLASSES.values():
            entity.add_supported_context(sop_class, [ExplicitVRLittleEndian])
        self.asked = threading.Event()
        self.server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._refuse)])
        self.port = self.server.socket.getsockname()[1]

    def _refuse(self, _event: evt.Event) -> Dataset:
        self.asked.set()
        status = Dataset()
        status.Status, status.ErrorComment = 0xC123, "no patient Quetzalcoatl^Xiomara (ZQX7341)"
        return status


@pytest.fixture
def pacs() -> Iterator[Indiscreet]:
    one = Indiscreet()
    yield one
    one.server.shutdown()


def name_the_patient(files: list[Path], poison: dict[str, tuple[str, str]] | None = None) -> list[Path]:
    """Give a series the patient's data, and elements whose values no number can be made of."""
    for file in files:
        dataset = dcmread(file)
        for keyword, value in SECRETS.items():
            setattr(dataset, keyword, value)
        for keyword, (representation, value) in (poison or {}).items():
            dataset.add_new(keyword, representation, value)
        dataset.save_as(file)
    return files


def talk_nonsense(service: Running) -> list[str]:
    """Call with the patient in every place where a call has room for it; gives every answer but those that show a case."""
    client = service.client
    headers = {"x-patient": "Quetzalcoatl", "authorization": "Bearer ZQX7341"}
    paths = ("/cases/ZQX7341", "/patients/Quetzalcoatl", "/ZQX7341?x=Xiomara", "/cases?cursor=Quetzalcoatl", "/cases?state=ZQX7341")
    answers = [client.get(path, headers=headers).text for path in paths]
    client.get("/cases", params={"patient_id": "ZQX7341"}).raise_for_status()
    part = {"files": ("Quetzalcoatl.dcm", b"PatientName=Quetzalcoatl^Xiomara", "application/dicom")}
    client.post("/cases", files=part)  # its answer names the file to its sender
    answers.append(client.post("/cases", content=b"Xiomara", headers={"content-type": "multipart/form-data; boundary=ZQX7341"}).text)
    answers.append(client.request("XIOMARA", "/cases/ZQX7341").text)
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as line:
        line.sendall(b"GET /Quetzalcoatl HTTP/9.9\r\nZQX7341 Xiomara\r\n\r\n")
        answers.append(line.recv(4096).decode())
    return answers


def store_damaged(service: Running, files: list[Path]) -> None:
    """Send a file that is cut short, and one whose elements are nonsense; neither is taken."""
    whole = files[0].read_bytes()
    folder = files[0].parent.parent / "damaged"
    folder.mkdir()
    (folder / "cut.dcm").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "odd.dcm").write_bytes(whole.replace(b"ZQX7341 ", b"ZQX7341\xff"))
    answers = send(service.node, read_outgoing([folder / "cut.dcm"]))
    assert [answer.category for answer in answers] == ["Failure"]
    send(service.node, read_outgoing([folder / "odd.dcm"]))


def everything_readable(service: Running) -> dict[str, str | bytes]:
    """All that those who run a service see without asking for a case."""
    seen: dict[str, str | bytes] = {
        "log": service.log.read_bytes(),
        "metrics": service.client.get("/metrics").text,
        "readiness": service.client.get("/health/ready").text,
        "names": "\n".join(str(path.relative_to(service.data)) for path in service.data.rglob("*")),
        "command lines": "\n".join(" ".join(one.cmdline()) for one in service.family()),
        "environments": "\n".join("\n".join(one.environ().values()) for one in service.family()),
    }
    for path in (*service.data.glob("*"), *service.data.glob("audit/*")):
        if path.name.startswith("broker") or path.suffix in {".json", ".jsonl"}:
            seen[path.name] = path.read_bytes()
    return seen


def test_the_search_finds_what_it_is_to_find() -> None:
    assert traces_in("A QUETZALCOATL^X") == {"quetzalcoatl"}
    assert traces_in(b"\x00zqx7341\x00") == {"zqx7341"}
    assert not traces_in("nobody")


def test_nothing_of_the_patient_is_seen_by_those_who_run_the_service(tmp_path, write_head, tiny_release, pacs, free_port) -> None:
    nodes = [
        {"name": name, "ae_title": "PACS", "host": "127.0.0.1", "port": port} for name, port in (("pacs", pacs.port), ("gone", free_port()))
    ]
    service = Running(
        tmp_path / "data",
        quiet_time_s=1.0,
        sweep_s=0.5,
        log_level="DEBUG",
        destinations=json.dumps([node | {"empty_segmentation": True} for node in nodes]),
        release=tiny_release,
        engine="onnxruntime-cpu",
    )
    service.start()
    try:
        good = name_the_patient(write_head("good"))
        refused = name_the_patient(write_head("refused"))
        for file in refused:
            dataset = dcmread(file)
            dataset.SeriesDescription = "localizer of Nepomuk"
            dataset.save_as(file)
        poisoned = name_the_patient(write_head("poisoned"), {"RescaleSlope": ("LO", "Quetzalcoatl"), "RescaleIntercept": ("LO", "ZQX7341")})
        incomplete = name_the_patient(write_head("incomplete"))
        for files in (good, refused, poisoned, incomplete[:5] + incomplete[9:]):
            service.push(files)
        store_damaged(service, refused)  # what is odd may pass for a correction, and the good case is to stay as it is
        answers = talk_nonsense(service)
        series = {"good": good, "refused": refused, "poisoned": poisoned, "incomplete": incomplete}
        outcome = {name: service.wait_until(series_uid(files), "done", "rejected", "failed", "held") for name, files in series.items()}
        assert outcome["good"]["state"] == "done", service.last_words()
        assert outcome["refused"]["state"] == "rejected"
        assert outcome["poisoned"]["state"] in {"failed", "rejected"}
        assert outcome["incomplete"]["state"] == "held"
        assert pacs.asked.wait(30)
        service.kill()
        service.start()
        answers += talk_nonsense(service)
        wait_for_a_failed_delivery(service, outcome["good"]["id"])
        seen = everything_readable(service)
    finally:
        service.stop()
    seen["log to the end"] = service.log.read_bytes()
    seen |= {f"answer {number}": text for number, text in enumerate(answers)}
    assert b'"level": "debug"' in seen["log"]
    assert {name: found for name, text in seen.items() if (found := traces_in(text))} == {}


def wait_for_a_failed_delivery(service: Running, case_id: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        case = service.client.get(f"/cases/{case_id}").json()
        errors = {one["destination"]: one["last_error"] for one in case["deliveries"]}
        if all(errors.values()) and errors:
            assert "Quetzalcoatl" in errors["pacs"], "what the PACS said is in the case, for those who may read it"
            return
        assert time.monotonic() < deadline, case["deliveries"]
        time.sleep(0.1)
