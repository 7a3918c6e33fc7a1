"""The page: it says what it must, and loads nothing from elsewhere."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

from service.api.page import WEB
from service.presence import Counts, Presence
from tests.service.api.conftest import Host

STATEMENT = (
    "Investigational. FLAIR white-matter hyper-intensity, cause not attributed: treatment effect, oedema, infiltration and other "
    "disease look alike. Not a response assessment (RANO)."
)


def test_the_page_carries_the_statement_and_only_own_files(shared_host: Host) -> None:
    page = shared_host.client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert STATEMENT in page.text
    assert "tumour not confirmed" in page.text
    for word in ("progress", "respons"):
        assert word not in page.text.replace(STATEMENT, "").lower()
    for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        if not address.startswith("data:"):
            answer = shared_host.client.get(address)
            assert answer.status_code == 200
            assert "://" not in answer.text
    assert "<style" not in page.text
    assert not re.search(r"<script(?![^>]*src=)", page.text)


def test_the_page_says_what_the_serving_releases_say_of_irradiated_patients(make_host: Callable[..., Host]) -> None:
    host = make_host()
    page = host.client.get("/")
    assert "no inference worker is alive" in page.text and "o irradiated patient was" not in page.text
    sentences = ("No irradiated patient was in training or evaluation of this release.", "9 irradiated patients & no more.")
    for kind, told in (("inference", sentences[0]), ("inference", sentences[1]), ("inference", sentences[0]), ("delivery", "Nothing.")):
        Presence(host.book, Counts(), {kind: lambda told=told: {"evidence": told}}).beat()
    assert re.findall(r'<p class="statement">(.*)</p>', host.client.get("/").text) == [
        "9 irradiated patients &amp; no more. No irradiated patient was in training or evaluation of this release."
    ]
    host.book.close()
    (host.settings.data_dir / "leukoscope.sqlite").unlink()
    (host.settings.data_dir / "leukoscope.sqlite").mkdir()
    assert "not known" in host.client.get("/").text and host.client.get("/").status_code == 200


def test_the_page_puts_nothing_in_as_markup_and_its_files_are_open(shared_host: Host) -> None:
    scripts = sorted(WEB.glob("*.js"))
    assert len(scripts) > 1
    for file in scripts:
        script = shared_host.client.get(f"/{file.name}")
        assert script.headers["content-type"] == "text/javascript; charset=utf-8"
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(", script.text)
        assert "://" not in script.text


def test_the_page_is_told_what_a_token_may_do(make_host: Callable[..., Host]) -> None:
    scopes = {"viewer": ["read"], "console": ["submit", "read"], "boss": ["admin"]}
    tokens = [{"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), "scopes": given} for name, given in scopes.items()]
    host = make_host(tokens=tokens, sources=[{"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}])

    def offered(token: str | None) -> object:
        return host.client.get("/page.json", headers={"Authorization": f"Bearer {token}"} if token else {}).json()

    nothing = {"locked": True, "token": None, "scopes": [], "sources": []}
    assert offered(None) == nothing
    host.book.write_audit(all_of_it=True)
    assert host.book.audit_trail(limit=10).items == (), "nobody tried anything"
    assert offered("wrong") == nothing
    assert offered("viewer") == {"locked": True, "token": "viewer", "scopes": ["read"], "sources": []}
    assert offered("console") == {"locked": True, "token": "console", "scopes": ["read", "submit"], "sources": ["pacs"]}
    assert offered("boss") == {"locked": True, "token": "boss", "scopes": ["admin", "read", "submit"], "sources": ["pacs"]}
    host.book.write_audit(all_of_it=True)
    assert [(one.what, one.outcome) for one in host.book.audit_trail(limit=10).items] == [("no valid token", "failure")]


def test_a_service_without_tokens_offers_everything(shared_host: Host) -> None:
    assert shared_host.client.get("/page.json").json() == {
        "locked": False,
        "token": None,
        "scopes": ["admin", "read", "submit"],
        "sources": [],
    }
