"""The demo's PACS: the very configuration and routing script of the Compose file, in a real Orthanc."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest
from pydicom.data import get_testdata_file
from pynetdicom import AE, evt
from pynetdicom.sop_class import MRImageStorage

PASSWORD = "only-for-this-test"


@pytest.fixture
def service():
    """A node in the place of the listener; gives its port, what it got, and an event for each."""
    got, arrived = [], threading.Event()

    def keep(event):
        got.append((event.assoc.requestor.ae_title.strip(), event.assoc.acceptor.ae_title, str(event.request.AffectedSOPInstanceUID)))
        arrived.set()
        return 0x0000

    entity = AE(ae_title="LEUKOSCOPE")
    entity.add_supported_context(MRImageStorage)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    yield server.server_address[1], got, arrived
    server.shutdown()


@pytest.fixture
def pacs(peer, root, tmp_path, free_port, service):
    """Orthanc with the demo's configuration; only folders, ports and patience are the test's."""
    configuration = json.loads((root / "deploy/compose/orthanc.json").read_text())
    configuration |= {"StorageDirectory": str(tmp_path / "db"), "IndexDirectory": str(tmp_path / "db"), "StableAge": 1, "Plugins": []}
    configuration |= {"HttpPort": free_port(), "DicomPort": free_port(), "LuaScripts": [str(root / "deploy/compose/autoroute.lua")]}
    configuration["DicomModalities"]["leukoscope"] |= {"Host": "127.0.0.1", "Port": service[0]}
    (tmp_path / "orthanc.json").write_text(json.dumps(configuration))
    environment = os.environ | {"ORTHANC_PASSWORD": PASSWORD}
    with (tmp_path / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([peer("Orthanc"), str(tmp_path / "orthanc.json")], env=environment, stdout=log, stderr=log)
    client = httpx.Client(base_url=f"http://127.0.0.1:{configuration['HttpPort']}", auth=("demo", PASSWORD), timeout=20.0)
    deadline = time.monotonic() + 30
    while True:
        try:
            client.get("/system").raise_for_status()
            break
        except httpx.TransportError:
            assert process.poll() is None, (tmp_path / "orthanc.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
    yield client
    client.close()
    process.kill()  # it has nothing to keep, and its orderly end takes seconds
    process.wait(20)


def test_a_series_stored_in_the_demo_pacs_is_sent_on_and_the_page_wants_the_password(pacs, service, tmp_path):
    _, got, arrived = service
    assert httpx.get(str(pacs.base_url) + "/system").status_code == 401
    instance = Path(get_testdata_file("MR_small.dcm", download=False))
    pacs.post("/instances", content=instance.read_bytes()).raise_for_status()
    assert arrived.wait(30), (tmp_path / "orthanc.log").read_text()[-2000:]
    calling, called, sent = got[0]
    assert (calling, called) == ("ORTHANC", "LEUKOSCOPE")
    assert sent == pacs.get("/instances?expand").json()[0]["MainDicomTags"]["SOPInstanceUID"]
