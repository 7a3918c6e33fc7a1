"""Destinations with all kinds of trouble beside a good one: it is never delayed, and when the trouble ends everything is there once."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack

from service.records import DeliveryState
from service.sections import Destination, WebDestination
from tests.provider import CLASSES, SEGMENTATION, provider
from tests.sending import done_case, sending
from tests.webservice import webservice
from worker import stow

KINDS = ("segmentation", "structured-report", "preview.dcm")
WRONG = json.dumps({"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["2.25.999"]}}]}}).encode()


class Troubles:
    """Seven destinations in trouble, and a good one."""

    def __init__(self, stack, stopped_port):
        self.slow_until = threading.Event()
        self.nodes = {
            "good": stack.enter_context(provider()),
            "slow": stack.enter_context(provider(answer=self.slow_until)),
            "killed": stack.enter_context(provider(hang_up_at=CLASSES["structured-report"])),
            "warning": stack.enter_context(provider(status=0xB006)),
            "refusing": stack.enter_context(provider(classes=[uid for uid in CLASSES.values() if uid != SEGMENTATION])),
        }
        self.web = {name: stack.enter_context(webservice()) for name in ("wrong", "silent")}
        self.web["wrong"].body = WRONG
        self.web["silent"].hold = threading.Event()
        self.stack, self.stopped_port = stack, stopped_port

    def destinations(self):
        ports = {name: node.port for name, node in self.nodes.items()} | {"stopped": self.stopped_port}
        for name, port in ports.items():
            yield Destination(name=name, ae_title="PACS", host="127.0.0.1", port=port, outputs=KINDS)
        for name, service in self.web.items():
            yield WebDestination(name=name, url=service.url, outputs=KINDS)

    def end(self):
        self.nodes["killed"].hang_up_at = None
        self.nodes["stopped"] = self.stack.enter_context(provider(port=self.stopped_port))
        self.web["wrong"].body = None
        self.web["wrong"].got.clear()
        self.web["silent"].hold.set()


def test_everything_arrives_once_or_says_why_not_and_the_good_one_does_not_wait(tmp_path, monkeypatch, free_port):
    monkeypatch.setattr(stow, "ANSWER_S", 1.0)
    with ExitStack() as stack:
        troubles = Troubles(stack, free_port())
        made = stack.enter_context(sending(tmp_path, *troubles.destinations(), kinds=KINDS))
        cases = [made.case_id, done_case(made.book, tmp_path, 2, KINDS)]
        made.sender.deliver_due()
        wait(lambda: set(found(made, cases, "good")) == {DeliveryState.SENT}, "the good one waited for another")
        assert troubles.nodes["slow"].got == []
        troubles.slow_until.set()
        names = ("slow", "killed", "warning", "refusing", "stopped", "wrong", "silent")
        wait(lambda: all(tried(made, cases, name) for name in names), "not everything was tried")
        troubles.end()
        with made.book._writing() as connection:
            connection.exec_driver_sql("UPDATE deliveries SET next_attempt_at = created_at WHERE state = 'pending'")
        made.sender.deliver_due()
        healed = ("good", "slow", "killed", "warning", "stopped", "wrong", "silent")
        wait(lambda: all(set(found(made, cases, name)) == {DeliveryState.SENT} for name in healed), "not everything arrived")
        uids = {one.sop_instance_uid for case_id in cases for one in made.book.deliveries(case_id)}
        for name in ("good", "slow", "killed", "stopped"):
            assert sorted(troubles.nodes[name].got) == sorted(uids), name
        assert all(set(service.got) == uids for service in troubles.web.values())
        left = [one for case_id in cases for one in made.book.deliveries(case_id) if one.state is not DeliveryState.SENT]
        assert {(one.destination, one.output) for one in left} == {("refusing", "segmentation")}
        assert all("not accepted there" in one.last_error for one in left)


def found(made, cases, name):
    return [one.state for case_id in cases for one in made.book.deliveries(case_id) if one.destination == name]


def tried(made, cases, name):
    return all(one.attempts for case_id in cases for one in made.book.deliveries(case_id) if one.destination == name)


def wait(check, why, limit_s=30.0):
    deadline = time.monotonic() + limit_s
    while not check():
        assert time.monotonic() < deadline, why
        time.sleep(0.05)
