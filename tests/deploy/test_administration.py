"""The administrator's page, the alerts and the scaling, compared with the program: commands, settings, metrics, reasons, links."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from service.api.identity import Correction
from service.api.metrics import PART_KINDS, HttpCounts, Metrics
from service.api.verdicts import Corrected, Judgement
from service.identity import KEYWORDS
from service.records import Book, DeliveryState, State, upgrade
from service.sections import CallingAE, Destination, DicomTls, Pacs, Retention, Token, WebDestination
from service.settings import PREFIX, Settings
from service.store import Store


@pytest.fixture(scope="module")
def page(root):
    return (root / "deploy/administration.md").read_text()


@pytest.fixture(scope="module")
def exposed(tmp_path_factory):
    """Every sample name that /metrics of a fresh installation can give; of a family without samples, what it will give."""
    folder = tmp_path_factory.mktemp("metrics")
    url = f"sqlite:///{folder / 'book.sqlite'}"
    upgrade(url)
    book = Book(url, destinations=[Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=104)])
    text = Metrics(book, Store(folder), HttpCounts(), "0").expose().decode()
    book.close()
    names = set(re.findall(r"(?m)^(leukoscope_\w+)", text))
    histograms = set(re.findall(r"(?m)^# TYPE (leukoscope_\w+) histogram", text))
    single = set(re.findall(r"(?m)^# TYPE (leukoscope_\w+) (?:counter|gauge)", text))
    return names | single | {name + end for name in histograms for end in ("_bucket", "_sum", "_count")}


def names_of_metrics(text):
    return {name for name in re.findall(r"\bleukoscope_\w+", text) if not name.startswith("leukoscope_data")}


def test_every_metric_the_page_names_is_exposed(page, exposed):
    named = names_of_metrics(page)
    assert len(named) >= 7
    assert named <= exposed


def test_the_alerts_and_the_scaling_ask_for_metrics_that_are_exposed(root, exposed):
    for path in ("monitoring/alerts.yaml", "autoscaling/inference.yaml"):
        text = (root / "deploy/kubernetes/components" / path).read_text()
        named = names_of_metrics(text)
        assert named, path
        assert named <= exposed, path


def test_the_states_and_kinds_asked_for_are_some(page, root):
    known = {state.value for state in (*State, *DeliveryState)}
    texts = [page, *(path.read_text() for path in (root / "deploy/kubernetes/components").rglob("*.yaml"))]
    asked = {state for text in texts for state in re.findall(r'state="(\w+)"', text)}
    assert asked
    assert asked <= known
    kinds = {kind for text in texts for found in re.findall(r'kind=~"([^"]+)"', text) for kind in re.split(r"\\?\|", found)}
    assert kinds
    assert kinds <= set(PART_KINDS)


def test_the_page_has_every_alert_of_the_manifests(page, root):
    (rules,) = yaml.safe_load((root / "deploy/kubernetes/components/monitoring/alerts.yaml").read_text())["spec"]["groups"]
    shown = page.replace("\\|", "|")  # in a table a bar is written so
    for rule in rules["rules"]:
        assert f"`{rule['expr']}`" in shown, rule["alert"]


def test_every_command_on_the_page_is_one(page, demand_command):
    commands = set(re.findall(r"`leukoscope ([a-z][^`]*)`", page))
    assert {"migrate", "demo", "cases"} <= commands
    for command in commands:
        demand_command(command.replace("ID", "0" * 32).split())


def test_the_bodies_on_the_page_are_taken(page):
    bodies = [json.loads(one) for one in re.findall(r"`(\{\"[^`]+\})`", page)]
    verdicts, identities = ([body for body in bodies if name in body] for name in ("verdict", "patient_id"))
    assert [Judgement.model_validate(body).reader for body in verdicts] == ["A. Reader"]
    assert [Correction.model_validate(body).values().keys() for body in identities] == [set(KEYWORDS)]
    (form,) = re.findall(r"curl [^`]+/verdict", page)
    assert set(re.findall(r"-F \"?(\w+)=", form)) - {"file"} <= Corrected.model_fields.keys()


def test_every_setting_on_the_page_is_one(page, demand_settings):
    demand_settings(re.findall(rf"\b{PREFIX}[A-Z_]+", page))
    models = (Settings, CallingAE, Destination, DicomTls, WebDestination, Pacs, Retention, Token)
    known = {name for model in models for name in model.model_fields}
    for name in re.findall(r"`\[\[(\w+)\]\]`|`((?!leukoscope_)[a-z]+(?:_[a-z]+)+)`", page):
        assert (name[0] or name[1]) in known, name


def test_every_reason_on_the_page_is_one_the_service_gives(page, root):
    sources = "".join(path.read_text() for path in (root / "service").rglob("*.py"))
    table = page[page.index("| part | it says | do |") :].split("\n\n")[0]
    reasons = re.findall(r"(?m)^\| \w+ \| `([^`]+)`", table)
    assert len(reasons) >= 5
    for reason in reasons:
        assert reason in sources, reason


def test_every_file_on_the_page_is_there(page, root):
    for path in re.findall(r"`(deploy/[\w./-]+|docker-compose\.yml|constraints\.txt)`|\]\(([\w./-]+)\)", page):
        assert (root / path[0] if path[0] else root / "deploy" / path[1]).exists(), path


def test_the_page_names_the_driver_that_the_image_names(page, root):
    floor = re.search(r'nvidia-driver-minimum="(\d+)"', (root / "Dockerfile").read_text())[1]
    assert f"**{floor} or newer**" in page


def test_the_page_names_the_times_that_the_files_give(page, root):
    assert "11 minutes" in page
    assert "stop_grace_period: 11m" in (root / "docker-compose.yml").read_text()
    assert "terminationGracePeriodSeconds: 660" in Path(root / "deploy/kubernetes/base/inference.yaml").read_text()
