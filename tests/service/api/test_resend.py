"""Results that were given up: counted by destination, listed, and sent again by one call."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import httpx
import pytest

from tests.service.api.conftest import Host, make_series

PACS = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}
SECRETS = {"read": "r" * 40, "submit": "s" * 40}


@pytest.fixture
def guarded(make_host: Callable[..., Host]) -> Host:
    """A service with two destinations and two tokens."""
    tokens = [{"name": scope, "sha256": hashlib.sha256(text.encode()).hexdigest(), "scopes": [scope]} for scope, text in SECRETS.items()]
    return make_host(destinations=[PACS, PACS | {"name": "other"}], tokens=tokens)


def call(host: Host, scope: str, method: str, address: str) -> httpx.Response:
    return host.client.request(method, address, headers={"Authorization": f"Bearer {SECRETS[scope]}"})


def test_what_was_given_up_is_counted_listed_and_sent_again(guarded: Host) -> None:
    answer = guarded.client.post(
        "/cases",
        files=[("files", (f"{number}", data, "application/dicom")) for number, data in enumerate(make_series())],
        headers={"Authorization": f"Bearer {SECRETS['submit']}"},
    )
    case_id = answer.json()["items"][0]["id"]
    guarded.finish(case_id)
    resend = f"/cases/{case_id}/resend"
    assert call(guarded, "submit", "POST", resend).status_code == 409, "nothing was given up"
    dead = next(one for one in guarded.book.deliveries(case_id) if one.destination == "pacs")
    guarded.book.delivery_dead(dead.id, "refused for a week")
    metrics = call(guarded, "read", "GET", "/metrics").text
    assert 'leukoscope_deliveries_dead{destination="pacs"} 1.0' in metrics
    assert 'leukoscope_deliveries_dead{destination="other"} 0.0' in metrics
    (listed,) = call(guarded, "read", "GET", "/cases?delivery_state=dead").json()["items"]
    assert [(one["output"], one["last_error"]) for one in listed["deliveries"] if one["state"] == "dead"] == [
        (dead.output, "refused for a week")
    ]
    assert call(guarded, "read", "GET", "/cases?delivery_state=committed").json()["items"] == []
    assert call(guarded, "read", "POST", resend).status_code == 403
    answer = call(guarded, "submit", "POST", resend)
    assert answer.status_code == 202
    assert {one["state"] for one in answer.json()["deliveries"]} == {"pending"}
    assert call(guarded, "read", "GET", "/cases?delivery_state=dead").json()["items"] == []
    assert call(guarded, "submit", "POST", "/cases/nope/resend").status_code == 404
