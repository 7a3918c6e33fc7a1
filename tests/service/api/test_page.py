"""The page: it says what it must, and loads nothing from elsewhere."""

from __future__ import annotations

import re

from tests.service.api.conftest import Host

STATEMENT = (
    "Investigational. FLAIR white-matter hyper-intensity, cause not attributed: treatment effect, oedema, infiltration and other "
    "disease look alike. Not a response assessment (RANO)."
)


def test_the_page_carries_the_statement_and_only_own_files(shared_host: Host) -> None:
    page = shared_host.client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert STATEMENT in page.text
    assert "No irradiated patient was in training or evaluation." in page.text
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


def test_the_page_puts_nothing_in_as_markup(shared_host: Host) -> None:
    script = shared_host.client.get("/page.js").text
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)
