"""Real peers on free ports: a PACS and a broker."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path

import httpx
import pytest

WEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class Orthanc:
    """A running Orthanc that takes everything, and its REST face."""

    def __init__(self, program, folder, dicom_port, http_port, **more):
        self.dicom_port = dicom_port
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
        with (folder / "orthanc.log").open("wb") as log:
            self.process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(httpx.TransportError):
                self.client.get("/system").raise_for_status()
                return
            assert time.monotonic() < deadline, (folder / "orthanc.log").read_text()[-2000:]
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

    def stop(self):
        self.client.close()
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture
def dicom_web(orthanc):
    """Give the address of Orthanc's DICOM web services; without the plugin the test skips with the reason, and with CI=true it fails."""
    if not WEB_PLUGIN.exists():
        reason = "orthanc-dicomweb is not installed (make peers installs it where apt-get is there)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return f"{orthanc.client.base_url}/dicom-web"


@pytest.fixture
def orthanc(peer, tmp_path, free_port):
    pacs = Orthanc(peer("Orthanc"), tmp_path / "orthanc", free_port(), free_port())
    yield pacs
    pacs.stop()
