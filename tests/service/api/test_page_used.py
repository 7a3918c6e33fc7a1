"""The page as people use it, in a real Chromium: readers, those who send, those who run the service."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Browser
from tests.sending import done_case
from tests.servers import find_port
from tests.service.api.conftest import Host, as_zip, hosts_in, make_series
from worker.deliver import Sender

SEG = b"\0" * 128 + b"DICM" + b"a mask"
NUMBERS = itertools.count(1)
HURT = "<img src=x onerror='window.hurt=1'>"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A service whose destination and source are ports where nobody answers."""
    gone = {"name": "gone", "ae_title": "GONE", "host": "127.0.0.1", "port": find_port()}
    with hosts_in(tmp_path_factory.mktemp("page")) as make:
        yield make(destinations=[gone | {"outputs": ["segmentation"], "rejection_notes": True}], sources=[gone])


@pytest.fixture
def page(browser: Browser, served: Host) -> Iterator[Browser]:
    """The list; at the end the browser has nothing to complain of."""
    browser.complaints()
    browser.open(served.server.url)
    yield browser
    assert browser.complaints() == []


def done(host: Host, **elements: object) -> str:
    case_id = host.send(make_series(f"1.2.3.{next(NUMBERS)}", slices=12, size=16, **elements))
    host.finish(case_id)
    return case_id


def look(browser: Browser) -> None:
    """Have the page look at once, as when its tab is brought to the front."""
    browser.run("document.dispatchEvent(new Event('visibilitychange'))")


def open_case(browser: Browser, case_id: str) -> None:
    browser.run("location.hash = arguments[0]", f"case/{case_id}")
    browser.find("#case h2")


def test_what_comes_from_a_scanner_or_a_reader_is_text_and_never_runs(page: Browser, served: Host) -> None:
    case_id = done(served, SeriesDescription=f"{HURT} FLAIR", PatientID=HURT, PatientName=HURT)
    said = {"verdict": "accept", "reader": "<i>A</i>", "comment": HURT}
    assert served.client.post(f"/cases/{case_id}/verdict", json=said).status_code == 200
    look(page)
    page.find("#cases td", HURT)
    page.click(f"#case-{case_id}")
    page.find("#case h2", f"{HURT} FLAIR")
    page.find("#case dd", HURT)
    page.find("#case .verdict", "by <i>A</i>, ")
    page.find("#case .verdict", HURT)
    assert page.run("return window.hurt === undefined && document.querySelectorAll('[onerror]').length === 0")


def test_two_visits_of_a_patient_are_told_apart(page: Browser, served: Host) -> None:
    first, _, unknown = (done(served, PatientID="VISITS", **study) for study in ({"StudyDate": "20260301"}, {"StudyDate": "20260902"}, {}))
    look(page)
    page.type("#filters [name=patient_id]", "VISITS")
    page.click("#filters button", "Show")
    page.until(lambda: len(page.sees("#cases tr")) == 3)
    assert page.sees("#cases [data-label=Study]") == ["–", "Sep 2, 2026", "Mar 1, 2026"]
    open_case(page, first)
    page.find("#case h2", "FLAIR ax study of Mar 1, 2026")
    page.click("#case a", "All cases")
    open_case(page, unknown)
    page.find("#case h2", "study of –")


def test_a_reader_accepts_and_rejects(page: Browser, served: Host) -> None:
    case_id = done(served)
    open_case(page, case_id)
    page.click("#verdict button", "Accept")
    assert served.book.verdicts_of([case_id])[case_id] == [], "nobody says so"
    page.type("[name=reader]", "A. Reader")
    page.click("#verdict button", "Accept")
    page.find("#case .verdict", "Result accepted by A. Reader")
    page.click("#verdict button", "Reject")
    assert page.run("return document.querySelector('[name=comment]').validationMessage") == "Say why it is rejected."
    page.type("[name=comment]", "motion")
    page.click("#verdict button", "Reject")
    page.find("#question", "Reject revision 1?")
    page.find("#question", "A rejection is undone by sending a mask: this one as it is, or a corrected one")
    page.press("escape")
    page.until(lambda: not page.sees("#ask"))
    assert [one.kind for one in served.book.verdicts_of([case_id])[case_id]] == ["accept"]
    page.click("#verdict button", "Reject")
    page.click("#ask button", "Reject")
    page.find("#case .verdict.reject", "Result rejected by A. Reader")
    assert "Accept" not in "".join(page.sees("#verdict button"))
    page.find("#verdict", "where it was rejected by mistake, its own (DICOM SEG or NIfTI, under Results) as it is")
    page.click("#case a", "All cases")
    page.find("#cases .mark", "result rejected")


def test_a_rejection_note_and_a_single_instance_are_named_in_words(page: Browser, served: Host) -> None:
    served.send(make_series(f"1.2.3.{next(NUMBERS)}", slices=1, size=16, PatientID="ONE"))
    case_id = done_case(served.book, served.settings.data_dir, next(NUMBERS))
    served.book.delivered(served.book.deliveries(case_id)[0].id)
    served.client.post(f"/cases/{case_id}/verdict", json={"verdict": "reject", "reader": "A", "comment": "motion"}).raise_for_status()
    (owed,) = served.book.owed_notes(case_id)
    served.book.delivery_dead(owed.delivery_id, "its results are not in the store")
    look(page)
    page.find("#cases tr", "ONE")
    assert "1 instance" in page.sees("#cases [data-label=Series] .soft")
    open_case(page, case_id)
    page.find("#case [data-label=Result]", "Rejection note for this revision")


def test_a_corrected_mask_waits_and_its_refusal_is_told(page: Browser, served: Host, tmp_path: Path) -> None:
    case_id = done(served)
    (tmp_path / "mask.dcm").write_bytes(SEG)
    open_case(page, case_id)
    page.type("[name=reader]", "A. Reader")
    page.type("[name=mask]", str(tmp_path / "mask.dcm"))
    page.click("#verdict button", "Replace by this mask")
    page.find("#case .verdict", "waits for a worker")
    (kept,) = served.book.pending_corrections(case_id)
    assert served.store.path_of(str(kept.path)).read_bytes() == SEG
    served.book.refuse_correction(kept.id, "it is on another grid")
    look(page)
    page.find("#case .verdict", "was refused: it is on another grid")


def test_a_revision_that_comes_meanwhile_is_not_judged_by_mistake(page: Browser, served: Host) -> None:
    uid = f"1.2.3.{next(NUMBERS)}"
    late = make_series(uid, slices=13, size=16)
    case_id = served.send(late[:12])
    served.finish(case_id)
    open_case(page, case_id)
    page.find("#verdict h3", "revision 1")
    served.send(late[12:])
    served.book.queue_case(case_id, "flair")
    served.finish(case_id)
    look(page)
    page.find("#case .box", "Revision 2 has taken the place of revision 1")
    assert page.sees("#verdict") == []
    page.click("#judge")
    page.find("#verdict h3", "revision 2")


def test_what_was_given_up_is_sent_again_and_what_comes_of_it_is_seen(page: Browser, served: Host) -> None:
    case_id = done_case(served.book, served.settings.data_dir, next(NUMBERS))
    (given_up,) = served.book.deliveries(case_id)
    served.book.delivery_dead(given_up.id, "no connection for a week")
    look(page)
    page.find("#cases .mark", "1 result given up")
    page.click(f"#case-{case_id}")
    page.find("#case tr.dead", "no connection for a week")
    page.click("#resend")
    page.find("#case tr.pending", "waits")
    assert page.sees("#resend") == []
    Sender(served.settings, served.book, served.store, "test:1:").deliver(case_id)
    look(page)
    (tried,) = served.book.deliveries(case_id)
    page.find("#case tr.pending", str(tried.last_error))
    assert tried.attempts == 1


def test_a_case_that_is_held_is_looked_at_again(page: Browser, served: Host) -> None:
    slices = make_series(f"1.2.3.{next(NUMBERS)}", slices=14, size=16)
    case_id = served.send(slices[:9] + slices[10:])
    served.book.hold(case_id, "why it was held at first")
    open_case(page, case_id)
    page.find("#case p", "why it was held at first")
    page.click("#retry")
    page.find("#case .told", "it is held now")
    page.find("#case p", "gap after slice 9")


def test_a_case_leaves_the_list_when_it_is_not_like_that_any_more(page: Browser, served: Host) -> None:
    case_id = served.send(make_series(f"1.2.3.{next(NUMBERS)}", slices=12, size=16, PatientID="LEAVES"))
    page.type("[name=patient_id]", "LEAVES")
    page.run("document.querySelector('[name=state]').value = 'queued'")
    page.click("#filters button")
    page.find(f"#case-{case_id}")
    served.finish(case_id)
    look(page)
    page.find("#empty", "No case is like that.")
    assert page.sees("#cases tr") == []


def test_an_identity_is_corrected_after_a_question(page: Browser, served: Host) -> None:
    case_id = done(served)
    open_case(page, case_id)
    page.click("#case summary")
    page.type("[name=patient_id]", "TRUE 1")
    page.type("[name=by]", "A. Clerk")
    page.type("[name=reason]", "wrong at the console")
    page.click("#identity button", "Correct")
    page.find("#question", "ID TRUE 1?")
    page.click("#ask button", "Cancel")
    page.until(lambda: not page.sees("#ask"))
    case = served.book.case(case_id)
    assert case is not None
    assert case.patient_id == "ANON 7/1"
    page.click("#identity button", "Correct")
    page.click("#ask button", "Correct the identity")
    page.find("#case dd", "TRUE 1")
    page.click("#case summary")
    page.find("#corrected td", "A. Clerk")
    page.find("#corrected td", "ANON 7/1 → TRUE 1")
    assert len(page.sees("#corrected tbody tr")) == 1, "what stayed as it was is not shown"


def test_a_folder_is_dropped_and_a_zip_is_chosen(page: Browser, served: Host, tmp_path: Path) -> None:
    (tmp_path / "scan" / "inner").mkdir(parents=True)
    for number, data in enumerate(make_series("1.2.4.1", slices=12, size=16)):
        (tmp_path / "scan" / "inner" / f"{number}").write_bytes(data)
    (tmp_path / "scan" / "notes.txt").write_text("no DICOM")
    page.click("#send summary")
    page.drop("#drop", [tmp_path / "scan"])
    page.find("#upload .told", "notes.txt: ")
    page.find("#upload .told a", "FLAIR ax")
    assert [case.instances for case in served.book.find_cases(series_uid="1.2.4.1").items] == [12]
    (tmp_path / "scan.zip").write_bytes(as_zip({f"{n}": data for n, data in enumerate(make_series("1.2.4.2", slices=12, size=16))}))
    page.type("[name=files]", str(tmp_path / "scan.zip"))
    page.find("#upload .told", "FLAIR ax is queued")
    assert [case.instances for case in served.book.find_cases(series_uid="1.2.4.2").items] == [12]
    (tmp_path / "none.zip").write_bytes(as_zip({"a.txt": b"no DICOM"}))
    page.type("[name=files]", str(tmp_path / "none.zip"))
    page.find("#upload .told.bad", "None of its files is a DICOM instance that can be taken.")


def test_an_upload_shows_how_far_it_is_and_can_be_stopped(page: Browser, served: Host, tmp_path: Path) -> None:
    (tmp_path / "slow.zip").write_bytes(bytes(4 << 20))
    page.devtools("Network.enable")
    slow = {"offline": False, "latency": 1, "downloadThroughput": -1, "uploadThroughput": 500_000}
    page.devtools("Network.emulateNetworkConditions", **slow)
    try:
        page.click("#send summary")
        page.type("[name=files]", str(tmp_path / "slow.zip"))
        page.find("#upload .told", "of 4.2 MB")
        page.until(lambda: 0 < page.run("return document.querySelector('progress').value") < 1)
        page.click("#upload button", "Stop")
        page.find("#upload .told.bad", "Stopped.")
    finally:
        page.devtools("Network.emulateNetworkConditions", **slow | {"latency": 0, "uploadThroughput": -1})
    assert page.run("return document.querySelector('[name=files]').disabled") is False


def test_a_series_is_asked_for_by_name(page: Browser, served: Host) -> None:
    page.click("#send summary")
    page.type("[name=series_uid]", "1.2.5.1")
    page.click("#fetch button")
    page.find("#fetch .told.bad", "With study_uid the series is fetched when it is back.")
    page.type("[name=study_uid]", "1.2.5")
    page.click("#fetch button")
    page.find("#fetch .told", "is receiving")
    page.click("#fetch .told a")
    page.find("#case code", "1.2.5.1")


NAMES_TYPED = "return [...document.querySelectorAll('[name=reader], [name=by]')].map(one => one.value)"
SECRETS = {"viewer": ["read"], "console": ["read", "submit"], "boss": ["admin"]}


def test_a_token_sees_what_it_may_do_and_nothing_is_asked_without_one(browser: Browser, tmp_path: Path) -> None:
    tokens = [{"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), "scopes": scopes} for name, scopes in SECRETS.items()]
    with hosts_in(tmp_path) as make:
        host = make(tokens=tokens)
        host.client.headers["Authorization"] = "Bearer boss"
        case_id = done(host)
        browser.open(host.server.url)
        browser.find("#token", "an API token with the scope read")
        assert browser.sees("#list, #send") == []
        for token, offered in {"wrong": None, "viewer": [False, False], "console": [True, False], "boss": [True, True]}.items():
            browser.type("[name=token]", token)
            browser.press("enter")
            if offered is None:
                browser.find("#news", "does not know this token")
                for _ in range(3):
                    look(browser)
                continue
            browser.find("#who", f"Token {token}: may")
            browser.find(f"#case-{case_id}")
            assert bool(browser.sees("#send")) is offered[0]
            open_case(browser, case_id)
            browser.click("#output-segmentation")
            browser.until((browser.downloads / "segmentation.dcm").is_file)
            (browser.downloads / "segmentation.dcm").unlink()
            assert [bool(browser.sees("#verdict")), bool(browser.sees("#identity, #case summary"))] == offered
            assert browser.run(NAMES_TYPED) == [""] * sum(offered), "nothing of who used the token before"
            if offered[0]:
                browser.type("[name=reader]", f"Dr {token}")
                browser.click("#verdict button", "Accept")
                browser.find("#case .verdict", f"Result accepted by Dr {token}")
            browser.click("#case a", "All cases")
            browser.find("#list")
            browser.click("#who button")
            browser.find("#token")
        host.book.write_audit(all_of_it=True)
        refused = [(one.what, one.count) for one in host.book.audit_trail(limit=500).items if one.outcome == "failure"]
        assert refused == [("no valid token", 1)], "the wrong one, once"
        assert browser.complaints() == []


def test_looking_again_and_again_is_told_to_the_audit_trail_once(page: Browser, served: Host) -> None:
    case_id = done(served)
    look(page)
    page.find(f"#case-{case_id}")
    served.book.write_audit(all_of_it=True)
    before = {entry.id for entry in served.book.audit_trail(limit=500).items}
    open_case(page, case_id)
    for delivery in served.book.deliveries(case_id):
        served.book.delivery_dead(delivery.id, "no connection for a week")
    for _ in range(5):
        look(page)
    page.find("#case tr.dead")
    page.until(lambda: page.run("return performance.getEntriesByName(arguments[0]).length > 5", f"{served.server.url}/cases/{case_id}"))
    served.book.write_audit(all_of_it=True)
    new = [entry for entry in served.book.audit_trail(limit=500).items if entry.id not in before]
    assert sorted((entry.what, entry.count) for entry in new) == [("case read over REST", 1), ("given over REST: preview.png", 1)]


def test_a_service_that_is_away_is_told_and_looked_for(browser: Browser, tmp_path: Path) -> None:
    port = find_port()
    with hosts_in(tmp_path) as make:
        host = make(http_port=port)
        case_id = done(host)
        browser.open(host.server.url)
        browser.find(f"#case-{case_id}")
        host.server.stop()
        look(browser)
        browser.find("#news", "The service does not answer. What is shown is of ")
        browser.find(f"#case-{case_id}")
        make(http_port=port)
        look(browser)
        browser.until(lambda: not browser.sees("#news"))


# Of every visible text the contrast to what is behind it (WCAG 2.2, 1.4.3), of every field that it has a label.
FAINT = """
const light = rgb => { const [r, g, b] = rgb.match(/[\\d.]+/g).map(Number).map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
const behind = one => { while (one && /, 0\\)$/.test(getComputedStyle(one).backgroundColor)) one = one.parentElement;
    return getComputedStyle(one || document.body).backgroundColor; };
return [...document.body.querySelectorAll("*")]
    .filter(one => one.checkVisibility() && [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim()))
    .filter(one => { const [a, b] = [light(getComputedStyle(one).color), light(behind(one))].sort((x, y) => y - x);
        return (a + .05) / (b + .05) < 4.5; }).map(one => one.outerHTML.slice(0, 120));
"""
NAMELESS = """return [...document.querySelectorAll("input, select")].filter(one => !(one.labels || []).length).map(one => one.name)"""
TOO_WIDE = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_it_can_be_read_by_day_and_night_on_a_desk_and_on_a_telephone(page: Browser, served: Host, scheme: str, width: int) -> None:
    case_id = done_case(served.book, served.settings.data_dir, next(NUMBERS))
    served.book.delivery_dead(served.book.deliveries(case_id)[0].id, "no connection for a week" * 5)
    says = {"verdict": "reject", "reader": "A. Reader", "comment": "motion"}
    served.client.post(f"/cases/{case_id}/verdict", json=says).raise_for_status()
    page.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.devtools("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    try:
        look(page)
        page.click("#send summary")
        page.find(f"#case-{case_id}")
        faint = page.run(FAINT)
        assert page.run(TOO_WIDE) == 0
        open_case(page, case_id)
        page.click("#case summary")
        assert faint + page.run(FAINT) + page.run(NAMELESS) == []
        assert page.run(TOO_WIDE) == 0
    finally:
        page.devtools("Emulation.clearDeviceMetricsOverride")
        page.devtools("Emulation.setEmulatedMedia", features=[])


def test_a_case_is_opened_and_left_by_the_keyboard(page: Browser, served: Host) -> None:
    case_id = done(served)
    look(page)
    page.find(f"#case-{case_id}")
    page.run("document.querySelector('#filters button').focus()")
    page.press("tab", "enter")
    page.find("#case h2")
    page.until(lambda: page.run("return document.activeElement.id") == "title")
    look(page)
    page.run("document.querySelector('#case a').focus()")
    page.press("enter")
    page.find(f"#case-{case_id}")
    open_case(page, "nobody")
    page.find("#case p", "No case has this identifier.")
