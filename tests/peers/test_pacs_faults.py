"""Orthanc fails or is slow while it is sent to: nothing is called sent that it does not have, and afterwards it has everything once."""

from __future__ import annotations

import socket
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import generate_uid

from service import calling
from service.records import DeliveryState
from service.sections import Destination, WebDestination
from tests.flow.test_commitment import later
from tests.peers.conftest import WEB_PLUGIN, Orthanc
from tests.provider import CLASSES, MR, SEGMENTATION, Provider, provider
from tests.relay import Relay, relay
from tests.sending import Sending, part10, sending, states
from tests.servers import find_port
from tests.service.house import eventually
from worker import commitment
from worker import send as sending_module

KINDS = ("segmentation", "rtstruct", "structured-report")
OUTPUTS = (*KINDS, "resampled.zip")
SIZE = 200_000


@dataclass(frozen=True)
class Site:
    """Orthanc behind a relay and a good node are sent a case of three results, one of them with a series beside it."""

    orthanc: Orthanc
    script: Path
    relay: Relay
    good: Provider
    made: Sending
    images: list[str]
    way: str
    patch: pytest.MonkeyPatch

    def start(self):
        self.orthanc.start()
        self.introduce()

    def start_with(self, script):
        """What decides which instances it takes is read at its start."""
        self.orthanc.kill()
        self.script.write_text(script)
        self.start()

    def introduce(self):
        """Let Orthanc know whom it reports to; it forgets that when it ends."""
        modality = {"AET": "LEUKOSCOPE", "Host": "127.0.0.1", "Port": self.made.port}
        self.orthanc.client.put("/modalities/leukoscope", json=modality).raise_for_status()

    @property
    def deliveries(self):
        return [one for one in self.made.book.deliveries(self.made.case_id) if one.destination == "pacs"]

    @property
    def states(self):
        return {one.output: one.state.value for one in self.deliveries}

    @property
    def all_of_it(self):
        return sorted([one.sop_instance_uid for one in self.deliveries if one.sop_instance_uid] + self.images)

    def tried(self):
        """Wait until each was, and give what failed."""
        assert eventually(lambda: all(one.attempts for one in self.deliveries), 30.0), self.deliveries
        return [one for one in self.deliveries if one.state is DeliveryState.PENDING]

    def uids_of(self, delivery):
        return self.images if delivery.output == "resampled.zip" else [delivery.sop_instance_uid]

    def send_again(self):
        """What is due later is due now."""
        with self.made.book._writing() as connection:
            connection.exec_driver_sql("UPDATE deliveries SET next_attempt_at = created_at WHERE next_attempt_at IS NOT NULL")
        self.made.sender.deliver_due()

    def assert_it_ends_well(self):
        """Judged by what Orthanc says it has."""
        end = "committed" if self.way == "C-STORE" else "sent"
        assert eventually(lambda: self.states == dict.fromkeys(OUTPUTS, end), 60.0), self.deliveries
        assert self.orthanc.held() == self.all_of_it
        assert self.orthanc.client.get("/statistics").json()["CountInstances"] == len(self.all_of_it)


@pytest.fixture
def site(request, peer, tmp_path, monkeypatch):
    way = getattr(request, "param", "C-STORE")
    if way == "STOW-RS" and not WEB_PLUGIN.exists():
        pytest.skip("orthanc-dicomweb is not installed (make peers installs it where apt-get is there)")
    monkeypatch.setattr(commitment, "STAY_S", 0.05)
    script = tmp_path / "filter.lua"
    script.touch()
    orthanc = Orthanc(peer("Orthanc"), tmp_path / "orthanc", find_port(), find_port(), LuaScripts=[str(script)])
    images = [generate_uid() for _ in range(3)]
    common = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "EncapsulatedDocument": bytes(SIZE)}
    series = [part10(uid, MR, **common) for uid in images]
    target = orthanc.dicom_port if way == "C-STORE" else orthanc.client.base_url.port
    with relay(target) as between, provider(classes=(*CLASSES.values(), MR)) as good:
        nodes = (pacs(way, between.port), Destination(name="good", ae_title="PACS", host="127.0.0.1", port=good.port, outputs=KINDS))
        with sending(tmp_path / "data", *nodes, listening=True, kinds=KINDS, images=series, **common) as made:
            one = Site(orthanc, script, between, good, made, images, way, monkeypatch)
            one.introduce()
            yield one
            orthanc.kill()
            orthanc.client.close()


def pacs(way, port):
    if way == "STOW-RS":
        return WebDestination(name="pacs", url=f"http://127.0.0.1:{port}/dicom-web", outputs=KINDS)
    return Destination(name="pacs", ae_title="ORTHANC", host="127.0.0.1", port=port, outputs=KINDS, storage_commitment=True)


def kill_once_it_has_one(site):
    """Its answers are lost from now on."""
    site.relay.mute = True

    def kill():
        assert eventually(lambda: site.orthanc.find("Instance", {}), 30.0)
        site.orthanc.kill()
        site.relay.mute = False

    threading.Thread(target=kill, daemon=True).start()


def freeze(site):
    site.orthanc.freeze()
    site.patch.setattr(calling, "_CONNECT_S", 1.0)


def thaw(site):
    site.patch.undo()
    site.patch.setattr(commitment, "STAY_S", 0.05)
    site.orthanc.freeze(frozen=False)


# After how many bytes what happens, and what mends it
FAULTS = {
    "out of room": (SIZE * 3 // 2, lambda site: site.orthanc.fill(), lambda site: site.orthanc.fill(full=False)),
    "killed while it is asked": (40, lambda site: site.orthanc.kill(), Site.start),
    "killed in the second object": (SIZE * 3 // 2, lambda site: site.orthanc.kill(), Site.start),
    "killed before its answer": (SIZE // 2, kill_once_it_has_one, Site.start),
    "stands still": (SIZE * 3 // 2, freeze, thaw),
}
OVER_THE_WEB = ("out of room", "killed in the second object", "killed before its answer")
STRUCK = [("C-STORE", fault) for fault in FAULTS] + [("STOW-RS", fault) for fault in OVER_THE_WEB]


@pytest.mark.parametrize(("site", "fault"), STRUCK, indirect=["site"])
def test_everything_is_there_once_when_it_is_well_again(site, fault):
    after, strike, mend = FAULTS[fault]
    site.relay.at(after, lambda: strike(site))
    if fault == "stands still":
        site.patch.setattr(sending_module, "associate", impatient)
    site.made.sender.deliver_due()
    assert eventually(lambda: sorted(site.good.got) == site.all_of_it, 30.0), "another destination waited"
    failed = site.tried()
    assert failed, "nothing was struck"
    assert all(one.last_error for one in failed)
    mend(site)
    claimed = {uid for one in site.deliveries if one not in failed for uid in site.uids_of(one)}
    assert claimed <= set(site.orthanc.held())
    site.send_again()
    site.assert_it_ends_well()


def impatient(peer, contexts):
    return calling.associate(peer, contexts, answer_s=1.0 if peer.ae_title == "ORTHANC" else 60.0)


def test_a_slow_way_to_it_keeps_no_other_destination_waiting(site):
    site.relay.pause_s = 0.5  # as if it took a minute
    site.made.sender.deliver_due()
    assert eventually(lambda: sorted(site.good.got) == site.all_of_it, 30.0)
    assert len(site.orthanc.held()) < len(site.all_of_it)
    site.relay.pause_s = 0.0
    site.assert_it_ends_well()
    assert {one.attempts for one in site.deliveries} == {1}


def test_what_it_drops_without_a_word_is_dead_after_a_week_and_everything_else_is_committed(site, monkeypatch):
    """Orthanc answers what its filter takes out with success; only the commitment tells."""
    site.start_with(f"function ReceivedInstanceFilter(dicom) return dicom.SOPClassUID ~= '{SEGMENTATION}' end")
    site.made.sender.deliver_due()
    rest = dict.fromkeys(OUTPUTS, "committed")
    assert eventually(lambda: site.states == rest | {"segmentation": "pending"}, 60.0), site.deliveries
    (dropped,) = site.tried()
    assert dropped.last_error == "not committed: failure reason 0x0112 (no such object instance)"
    with monkeypatch.context() as after_a_week:
        later(after_a_week, days=8)
        site.made.sender.deliver_due()
        assert eventually(lambda: site.states == rest | {"segmentation": "dead"}, 60.0), site.deliveries
    assert site.orthanc.held() == [uid for uid in site.all_of_it if uid != dropped.sop_instance_uid]
    site.start_with("")
    assert site.made.book.resend(site.made.case_id) == 1
    site.made.sender.deliver_due()
    site.assert_it_ends_well()


def test_what_it_did_not_report_on_before_it_was_killed_is_asked_for_again(site, monkeypatch):
    site.orthanc.client.delete("/modalities/leukoscope").raise_for_status()
    site.made.sender.deliver_due()
    assert eventually(lambda: {one.last_error for one in site.deliveries} == {None} and site.tried() == [], 60.0)
    site.orthanc.kill()
    site.start()
    with monkeypatch.context() as the_next_day:
        later(the_next_day, hours=25)
        site.made.sender.deliver_due()
        site.assert_it_ends_well()
    assert {one.attempts for one in site.deliveries} == {1}


def test_dcmtk_that_takes_no_segmentation_gets_the_others_and_the_case_says_so(peer, tmp_path):
    taken = [uid for kind, uid in CLASSES.items() if kind != "segmentation"]
    contexts = "\n".join(f"PresentationContext{number} = {uid}\\Plain" for number, uid in enumerate(taken, start=1))
    syntaxes = "[[TransferSyntaxes]]\n[Plain]\nTransferSyntax1 = LittleEndianExplicit\n"
    profile = "[[Profiles]]\n[Default]\nPresentationContexts = Few\n"
    (tmp_path / "few.cfg").write_text(f"{syntaxes}[[PresentationContexts]]\n[Few]\n{contexts}\n{profile}")
    arrived, port = tmp_path / "arrived", find_port()
    arrived.mkdir()
    command = [peer("storescp"), "-od", str(arrived), "-xf", str(tmp_path / "few.cfg"), "Default", str(port)]
    node = Destination(name="pacs", ae_title="STORESCP", host="127.0.0.1", port=port, outputs=tuple(CLASSES))
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as receiver, sending(tmp_path / "data", node, kinds=tuple(CLASSES)) as made:
        try:
            assert eventually(lambda: answers(port), 20.0)
            made.sender.deliver(made.case_id)
        finally:
            receiver.terminate()
        assert states(made.book, made.case_id) == dict.fromkeys(CLASSES, "sent") | {"segmentation": "pending"}
        refused = made.book.deliveries(made.case_id)[0]
    assert "not accepted there" in refused.last_error
    assert sorted(str(pydicom.dcmread(path).SOPClassUID) for path in arrived.iterdir()) == sorted(taken)


def answers(port):
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
