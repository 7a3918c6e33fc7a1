"""Real peers on free ports: a PACS and a broker."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest

WEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class Orthanc:
    """A running Orthanc that takes everything, and its REST face. It can be killed, started again, frozen, and be out of room."""

    def __init__(self, program, folder, dicom_port, http_port, **more):
        self.command, self.log, self.dicom_port = [program, str(folder / "orthanc.json")], folder / "orthanc.log", dicom_port
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{http_port}", timeout=30.0)
        folder.mkdir(parents=True, exist_ok=True)
        configuration = {
            "Name": "peer",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "HttpServerEnabled": True,
            "DicomServerEnabled": True,
            "DicomAet": "ORTHANC",
            "DicomPort": dicom_port,
            "DicomCheckCalledAet": False,
            "UnknownSopClassAccepted": True,
            "Plugins": [str(WEB_PLUGIN)] if WEB_PLUGIN.exists() else [],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        } | more
        (folder / "orthanc.json").write_text(json.dumps(configuration))
        self.start()

    def start(self):
        """With the storage and the ports it had."""
        with self.log.open("ab") as log:  # SIGXFSZ stays ignored: a write beyond the limit is an error, as on a full disk
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, restore_signals=False)
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(httpx.TransportError):
                self.client.get("/system").raise_for_status()
                return
            assert time.monotonic() < deadline, self.log.read_text()[-2000:]
            time.sleep(0.1)

    def find(self, level, query):
        answer = self.client.post("/tools/find", json={"Level": level, "Query": query, "Expand": True})
        return answer.raise_for_status().json()

    def wait_for(self, level, query, limit_s=60.0):
        deadline = time.monotonic() + limit_s
        while not (found := self.find(level, query)):
            assert time.monotonic() < deadline, f"Orthanc never got {query}"
            time.sleep(0.1)
        return found

    def file(self, instance):
        return self.client.get(f"/instances/{instance['ID']}/file").raise_for_status().content

    def held(self):
        """SOP Instance UIDs of all it has, each as often as it has it."""
        instances = self.client.get("/instances?expand").raise_for_status().json()
        return sorted(one["MainDicomTags"]["SOPInstanceUID"] for one in instances)

    def fill(self, full=True):
        """Let no byte of its files and its index be written any more, or again."""
        most = 0 if full else resource.RLIM_INFINITY
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    def freeze(self, frozen=True):
        self.process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait(20)

    def stop(self):
        self.client.close()
        self.process.terminate()
        self.process.wait(20)


def demand_web_plugin():
    """Without Orthanc's DICOM web services the test skips with the reason, and with CI=true it fails."""
    if not WEB_PLUGIN.exists():
        reason = "orthanc-dicomweb is not installed (make peers installs it where apt-get is there)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def dicom_web(orthanc):
    """Give the address of Orthanc's DICOM web services."""
    demand_web_plugin()
    return f"{orthanc.client.base_url}/dicom-web"


@pytest.fixture
def orthanc(peer, tmp_path, free_port):
    pacs = Orthanc(peer("Orthanc"), tmp_path / "orthanc", free_port(), free_port())
    yield pacs
    pacs.stop()
