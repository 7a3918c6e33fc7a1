"""What a reader may say of a result over HTTP, what is shown of it, and what is refused."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from service.corrections import Corrections
from service.records import VerdictKind
from tests.service.api.conftest import Host, hosts_in, make_series

SEG = b"\0" * 128 + b"DICM" + b"a mask"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """One service, with a case for each test."""
    with hosts_in(tmp_path_factory.mktemp("verdicts")) as make:
        yield make()


@pytest.fixture
def case_id(served: Host, request: pytest.FixtureRequest) -> str:
    """A case that is done."""
    made = served.send(make_series(f"1.2.3.{abs(hash(request.node.name)) % 10**9}", slices=12, size=16))
    served.finish(made)
    return made


def say(host: Host, case_id: str, verdict: str = "accept", **values: Any) -> httpx.Response:
    return host.client.post(f"/cases/{case_id}/verdict", json={"verdict": verdict, "reader": "A. Reader"} | values)


def send_mask(host: Host, case_id: str, data: bytes = SEG, **values: Any) -> httpx.Response:
    return host.client.post(f"/cases/{case_id}/verdict", data={"reader": "A. Reader"} | values, files={"file": ("m.dcm", data)})


def test_a_verdict_is_shown_and_the_same_again_changes_nothing(served: Host, case_id: str) -> None:
    answer = say(served, case_id, comment="plausible")
    assert answer.status_code == 200, answer.text
    shown = answer.json()["verdict"]
    assert {name: shown[name] for name in ("verdict", "reader", "comment", "revision", "made")} == {
        "verdict": "accept",
        "reader": "A. Reader",
        "comment": "plausible",
        "revision": 1,
        "made": None,
    }
    assert say(served, case_id, comment="plausible").json()["verdict"] == shown
    assert served.client.get(f"/cases/{case_id}").json()["verdict"] == shown
    assert "leukoscope-verdict" not in served.client.get(f"/cases/{case_id}/segmentation").headers


def test_what_was_rejected_stays_readable_and_is_marked(served: Host, case_id: str) -> None:
    say(served, case_id, "reject", comment="motion")
    answer = served.client.get(f"/cases/{case_id}/segmentation")
    assert (answer.status_code, answer.headers["leukoscope-verdict"]) == (200, "reject")
    refused = say(served, case_id, "accept")
    assert refused.status_code == 409
    assert refused.json()["detail"] == (
        "Revision 1 was rejected by A. Reader; send a correction instead: its own mask, sent back unchanged, makes a new revision too."
    )


def test_a_rejection_says_why(served: Host, case_id: str) -> None:
    for comment in ("", "  "):
        refused = say(served, case_id, "reject", comment=comment)
        assert refused.status_code == 422
        assert "comment: say why the result is rejected" in refused.text
    assert say(served, case_id, "accept").status_code == 200


def test_what_cannot_be_judged_is_told_why(served: Host, case_id: str) -> None:
    stale = say(served, case_id, revision=3)
    assert (stale.status_code, stale.json()["type"]) == (409, "urn:leukoscope:problem:verdict-refused")
    assert (stale.json()["state"], stale.json()["revision"]) == ("done", 1)
    assert stale.json()["detail"] == "Revision 3 is not the current one: revision 1 is, there is no revision 3."
    queued = served.send(make_series("1.2.77", slices=12, size=16))
    assert say(served, queued).json()["detail"] == "The case is queued: there is no result to judge now."
    assert send_mask(served, queued).status_code == 409
    assert say(served, "nobody").status_code == 404
    assert send_mask(served, "nobody").status_code == 404


@pytest.mark.parametrize(
    "values",
    [
        {"verdict": "shrug"},
        {"verdict": "correct"},
        {"reader": ""},
        {"reader": "  "},
        {"reader": "a\\b"},
        {"reader": "x" * 61},
        {"reader": "a\x07"},
        {"revision": 0},
        {"comment": "x" * 2001},
        {"else": 1},
    ],
)
def test_a_verdict_that_is_none_is_refused(served: Host, case_id: str, values: dict[str, Any]) -> None:
    answer = say(served, case_id, **values)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:leukoscope:problem:invalid-request")
    assert served.book.verdicts_of([case_id]) == {case_id: []}


def test_a_body_of_another_kind_is_refused(served: Host, case_id: str) -> None:
    address = f"/cases/{case_id}/verdict"
    assert served.client.post(address, content=b"x").status_code == 415
    assert served.client.post(address, content=b"{", headers={"content-type": "application/json"}).status_code == 422
    assert served.client.post(address, json={"comment": "x" * (65 << 10)}).status_code == 413
    assert send_mask(served, case_id, b"no mask").json()["detail"] == "file: neither a DICOM file nor NIfTI."
    assert send_mask(served, case_id, verdict="accept").status_code == 422
    assert served.client.post(address, files={"reader": (None, "A")}).json()["detail"].startswith("0 files: send one")


def test_a_mask_waits_for_a_worker_and_is_kept_once(served: Host, case_id: str) -> None:
    answer = send_mask(served, case_id, comment="two were vessels", revision=1)
    assert answer.status_code == 202, answer.text
    assert answer.json()["state"] == "done"
    assert answer.json()["verdict"] is None
    shown = answer.json()["correction"]
    assert (shown["state"], shown["reader"], shown["comment"], shown["revision"]) == ("pending", "A. Reader", "two were vessels", 1)
    assert send_mask(served, case_id).json()["correction"] == shown
    (kept,) = served.book.pending_corrections(case_id)
    assert kept.kind is VerdictKind.CORRECT
    assert kept.path is not None
    assert served.store.path_of(kept.path).read_bytes() == SEG


def test_a_comment_of_several_lines_is_taken_as_a_form_sends_it(served: Host, case_id: str) -> None:
    answer = send_mask(served, case_id, comment="two were vessels,\r\none an artefact")
    assert answer.status_code == 202, answer.text
    assert answer.json()["correction"]["comment"] == "two were vessels,\none an artefact"


def test_large_masks_are_in_memory_one_at_a_time(served: Host, case_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.receiving.LARGE_BYTES", len(SEG) - 1)
    held, most, take = [0], [0], Corrections.take

    def slowly(self: Corrections, *given: Any, **named: Any) -> Any:
        held[0] += 1
        most[0] = max(most[0], held[0])
        time.sleep(0.1)
        held[0] -= 1
        return take(self, *given, **named)

    monkeypatch.setattr(Corrections, "take", slowly)
    with ThreadPoolExecutor(3) as senders:
        answers = list(senders.map(lambda number: send_mask(served, case_id, SEG + bytes([number])), range(3)))
    assert [answer.status_code for answer in answers] == [202] * 3
    assert most == [1]


def test_what_becomes_of_a_correction_is_shown_whatever_others_say_after_it(served: Host, case_id: str) -> None:
    send_mask(served, case_id)
    pending = say(served, case_id, reader="B. Reader").json()
    assert (pending["verdict"]["reader"], pending["correction"]["state"]) == ("B. Reader", "pending")
    (kept,) = served.book.pending_corrections(case_id)
    served.book.refuse_correction(kept.id, "another grid")
    refused = say(served, case_id, reader="C. Reader").json()["correction"]
    assert (refused["reader"], refused["state"], refused["reason"]) == ("A. Reader", "refused", "another grid")


def test_reading_is_not_enough_to_judge(make_host: Callable[..., Host]) -> None:
    secret = "only to be read with"
    host = make_host(tokens=[{"name": "viewer", "sha256": hashlib.sha256(secret.encode()).hexdigest(), "scopes": ["read"]}])
    assert say(host, "nobody").status_code == 401
    host.client.headers["Authorization"] = f"Bearer {secret}"
    assert say(host, "nobody").status_code == 403
