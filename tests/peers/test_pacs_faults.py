"""Orthanc fails or is slow while it is sent to: nothing is called sent that it does not have, and afterwards it has everything once."""

from __future__ import annotations

import socket
import subprocess
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import generate_uid

from service import calling
from service.records import DeliveryState
from service.sections import Destination, WebDestination
from tests.flow.test_commitment import later
from tests.peers.conftest import Orthanc, demand_web_plugin
from tests.provider import CLASSES, MR, SEGMENTATION, Provider, provider
from tests.relay import Relay, relay
from tests.sending import Sending, done_case, part10, sending, states
from tests.servers import find_port
from tests.service.house import eventually
from worker import commitment
from worker import send as sending_module

KINDS = ("segmentation", "rtstruct", "structured-report")
OUTPUTS = (*KINDS, "resampled.zip")
SIZE = 200_000


@dataclass(frozen=True)
class Stand:
    """Orthanc behind a relay, and a good node, as the destinations of one sender."""

    way: str
    orthanc: Orthanc
    script: Path
    relay: Relay
    good: Provider
    made: Sending

    def start(self):
        """Let it know whom it reports to, which it forgets when it ends."""
        self.orthanc.start()
        modality = {"AET": "LEUKOSCOPE", "Host": "127.0.0.1", "Port": self.made.port}
        self.orthanc.client.put("/modalities/leukoscope", json=modality).raise_for_status()

    def start_with(self, script=""):
        """What decides which instances it takes is read at its start."""
        self.orthanc.kill()
        self.script.write_text(script)
        self.start()


@dataclass(frozen=True)
class Site:
    """A stand with a case of three results, one of them with a series beside it."""

    stand: Stand
    case_id: str
    images: list[str]
    patch: pytest.MonkeyPatch

    @property
    def deliveries(self):
        return [one for one in self.stand.made.book.deliveries(self.case_id) if one.destination == "pacs"]

    @property
    def states(self):
        return {one.output: one.state.value for one in self.deliveries}

    @property
    def all_of_it(self):
        return sorted(uid for one in self.deliveries for uid in self.uids_of(one))

    def uids_of(self, delivery):
        return self.images if delivery.output == "resampled.zip" else [delivery.sop_instance_uid]

    @property
    def held(self):
        """What Orthanc has of it, each as often as it has it."""
        return [uid for uid in self.stand.orthanc.held() if uid in self.all_of_it]

    def send(self):
        """What is due later is due now."""
        with self.stand.made.book._writing() as connection:
            connection.exec_driver_sql("UPDATE deliveries SET next_attempt_at = created_at WHERE next_attempt_at IS NOT NULL")
        self.stand.made.sender.deliver_due()

    def tried(self):
        """Wait until each was, and give what failed."""
        assert eventually(lambda: all(one.attempts for one in self.deliveries), 30.0), self.deliveries
        return [one for one in self.deliveries if one.state is DeliveryState.PENDING]

    def good_has_all(self):
        return eventually(lambda: [uid for uid in sorted(self.stand.good.got) if uid in self.all_of_it] == self.all_of_it, 30.0)

    def assert_it_ends_well(self):
        """Judged by what Orthanc says it has."""
        end = "committed" if self.stand.way == "C-STORE" else "sent"
        assert eventually(lambda: self.states == dict.fromkeys(OUTPUTS, end), 60.0), self.deliveries
        assert self.held == self.all_of_it
        count = self.stand.orthanc.client.get("/statistics").json()["CountInstances"]
        assert count == len(self.stand.orthanc.held())


@pytest.fixture(scope="module")
def stands(peer, tmp_path_factory):
    """One for each way, made when it is asked for."""
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(commitment, "STAY_S", 0.05)
        yield cache(lambda way: stack.enter_context(stand_of(way, peer("Orthanc"), tmp_path_factory.mktemp("stand"))))


@contextmanager
def stand_of(way, program, folder):
    script = folder / "filter.lua"
    script.touch()
    orthanc = Orthanc(program, folder / "orthanc", find_port(), find_port(), LuaScripts=[str(script)])
    target = orthanc.dicom_port if way == "C-STORE" else orthanc.client.base_url.port
    try:
        with relay(target) as between, provider(classes=(*CLASSES.values(), MR)) as good:
            nodes = (pacs(way, between.port), Destination(name="good", ae_title="PACS", host="127.0.0.1", port=good.port, outputs=KINDS))
            with sending(folder / "data", *nodes, listening=True, kinds=()) as made:
                yield Stand(way, orthanc, script, between, good, made)
    finally:
        orthanc.kill()
        orthanc.client.close()


@pytest.fixture
def site(request, stands, monkeypatch):
    way = getattr(request, "param", "C-STORE")
    if way == "STOW-RS":
        demand_web_plugin()
    stand = stands(way)
    stand.start_with()
    stand.relay.pause_s, stand.relay.mute = 0.0, False
    images = [generate_uid() for _ in range(3)]
    common = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "EncapsulatedDocument": bytes(SIZE)}
    series = [part10(uid, MR, **common) for uid in images]
    case_id = done_case(stand.made.book, stand.made.folder, 10 + next(stand.made.numbers), KINDS, series, **common)
    return Site(stand, case_id, images, monkeypatch)


def pacs(way, port):
    if way == "STOW-RS":
        return WebDestination(name="pacs", url=f"http://127.0.0.1:{port}/dicom-web", outputs=KINDS)
    return Destination(name="pacs", ae_title="ORTHANC", host="127.0.0.1", port=port, outputs=KINDS, storage_commitment=True)


def kill_once_it_has_one(site):
    """Its answers are lost from now on."""
    site.stand.relay.mute = True

    def kill():
        assert eventually(lambda: site.held, 30.0)
        site.stand.orthanc.kill()
        site.stand.relay.mute = False

    threading.Thread(target=kill, daemon=True).start()


def freeze(site):
    site.stand.orthanc.freeze()
    site.patch.setattr(calling, "_CONNECT_S", 1.0)


def thaw(site):
    site.patch.undo()
    site.stand.orthanc.freeze(frozen=False)


def start(site):
    site.stand.start()


# After how many bytes what happens, and what mends it
FAULTS = {
    "out of room": (SIZE * 3 // 2, lambda site: site.stand.orthanc.fill(), lambda site: site.stand.orthanc.fill(full=False)),
    "killed while it is asked": (40, lambda site: site.stand.orthanc.kill(), start),
    "killed in the second object": (SIZE * 3 // 2, lambda site: site.stand.orthanc.kill(), start),
    "killed before its answer": (SIZE // 2, kill_once_it_has_one, start),
    "stands still": (SIZE * 3 // 2, freeze, thaw),
}
OVER_THE_WEB = ("out of room", "killed in the second object", "killed before its answer")
STRUCK = [("C-STORE", fault) for fault in FAULTS] + [("STOW-RS", fault) for fault in OVER_THE_WEB]


@pytest.mark.parametrize(("site", "fault"), STRUCK, indirect=["site"])
def test_everything_is_there_once_when_it_is_well_again(site, fault):
    after, strike, mend = FAULTS[fault]
    site.stand.relay.at(after, lambda: strike(site))
    if fault == "stands still":
        site.patch.setattr(sending_module, "associate", impatient)
    site.send()
    assert site.good_has_all(), "another destination waited"
    failed = site.tried()
    assert failed, "nothing was struck"
    assert all(one.last_error for one in failed)
    mend(site)
    claimed = {uid for one in site.deliveries if one not in failed for uid in site.uids_of(one)}
    assert claimed <= set(site.held)
    site.send()
    site.assert_it_ends_well()


def impatient(peer, contexts):
    return calling.associate(peer, contexts, answer_s=1.0 if peer.ae_title == "ORTHANC" else 60.0)


def test_a_slow_way_to_it_keeps_no_other_destination_waiting(site):
    site.stand.relay.pause_s = 0.5  # as if it took a minute
    site.send()
    assert site.good_has_all()
    assert len(site.held) < len(site.all_of_it)
    site.stand.relay.pause_s = 0.0
    site.assert_it_ends_well()
    assert {one.attempts for one in site.deliveries} == {1}


def test_what_it_drops_without_a_word_is_dead_after_a_week_and_everything_else_is_committed(site, monkeypatch):
    """Orthanc answers what its filter takes out with success; only the commitment tells."""
    site.stand.start_with(f"function ReceivedInstanceFilter(dicom) return dicom.SOPClassUID ~= '{SEGMENTATION}' end")
    site.send()
    rest = dict.fromkeys(OUTPUTS, "committed")
    assert eventually(lambda: site.states == rest | {"segmentation": "pending"}, 60.0), site.deliveries
    (dropped,) = site.tried()
    assert dropped.last_error == "not committed: failure reason 0x0112 (no such object instance)"
    with monkeypatch.context() as after_a_week:
        later(after_a_week, days=8)
        site.stand.made.sender.deliver_due()
        assert eventually(lambda: site.states == rest | {"segmentation": "dead"}, 60.0), site.deliveries
    assert site.held == [uid for uid in site.all_of_it if uid != dropped.sop_instance_uid]
    site.stand.start_with()
    assert site.stand.made.book.resend(site.case_id) == 1
    site.send()
    site.assert_it_ends_well()


def test_what_it_did_not_report_on_before_it_was_killed_is_asked_for_again(site, monkeypatch):
    site.stand.orthanc.client.delete("/modalities/leukoscope").raise_for_status()
    site.send()
    assert eventually(lambda: {one.last_error for one in site.deliveries} == {None} and site.tried() == [], 60.0)
    site.stand.orthanc.kill()
    site.stand.start()
    with monkeypatch.context() as the_next_day:
        later(the_next_day, hours=25)
        site.stand.made.sender.deliver_due()
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
