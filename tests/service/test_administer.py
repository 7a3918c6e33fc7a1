"""The administrator's commands, as typed: clean-up, tokens, dead letters."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import Result
from sqlalchemy import update
from typer.testing import CliRunner

from service.__main__ import APP
from service.errors import Rejected
from service.records import DeliveryState, utc_now
from service.records.schema import cases
from service.settings import load_settings
from tests.service.casebook import FINDINGS, output, queue
from tests.service.house import House
from tests.service.series import flair_series

PACS = '[[destinations]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 104\n'


@pytest.fixture
def leukoscope(tmp_path: Path) -> Callable[..., Result]:
    """Run a command with settings of one's own."""

    def run(*arguments: str, toml: str = "", typed: str | None = None) -> Result:
        (tmp_path / "leukoscope.toml").write_text(toml)
        environ = {"LEUKOSCOPE_CONFIG": str(tmp_path / "leukoscope.toml"), "LEUKOSCOPE_DATA_DIR": str(tmp_path / "data"), "COLUMNS": "200"}
        return CliRunner().invoke(APP, arguments, env=environ, input=typed)

    return run


def test_a_new_token_is_shown_once_and_its_lines_let_it_in(leukoscope: Callable[..., Result], tmp_path: Path) -> None:
    made = leukoscope("tokens", "new", "radiotherapy", "--scope", "read", "--scope", "submit")
    token, _, lines = made.stdout.partition("\n")
    assert len(token) > 40
    assert token not in lines
    (listed,) = tomllib.loads(lines)["tokens"]
    assert listed == {"name": "radiotherapy", "sha256": hashlib.sha256(token.encode()).hexdigest(), "scopes": ["read", "submit"]}
    (tmp_path / "settings.toml").write_text(lines)
    assert load_settings({"LEUKOSCOPE_CONFIG": str(tmp_path / "settings.toml")}).tokens[0].name == "radiotherapy"
    assert leukoscope("tokens", "check", token, toml=lines).stdout == "radiotherapy: read submit\n"
    assert leukoscope("tokens", "check", toml=lines, typed=token + "\n").stdout == "radiotherapy: read submit\n"
    shown = leukoscope("tokens", "list", toml=lines).stdout
    assert "radiotherapy" in shown
    assert "read submit" in shown
    assert token not in shown
    assert isinstance(leukoscope("tokens", "check", token + "x", toml=lines).exception, Rejected)
    assert leukoscope("tokens", "new", "other").stdout.splitlines()[0] != token


@pytest.mark.parametrize("arguments", [("x", "--scope", "all"), ('a"b',), ("a\nb",), (" ",)])
def test_a_token_that_the_settings_would_not_take_is_not_made(leukoscope: Callable[..., Result], arguments: tuple[str, ...]) -> None:
    made = leukoscope("tokens", "new", *arguments)
    assert isinstance(made.exception, Rejected)
    assert not made.stdout


def old_case(house: House, days: float) -> str:
    (receipt,) = house.send(flair_series(1, SeriesDescription="localizer"), association=f"a{days}")
    then = utc_now() - timedelta(days=days)
    with house.book._writing() as connection:
        connection.execute(
            update(cases).where(cases.c.id == receipt.case_id).values(received_at=then, last_received_at=then, changed_at=then)
        )
    return receipt.case_id


def test_the_clean_up_is_shown_first_and_done_when_asked_for(leukoscope: Callable[..., Result], tmp_path: Path) -> None:
    house = House(tmp_path / "data")
    old, young = old_case(house, 30), old_case(house, 1)
    rules = "[retention]\nkeep_days = 10\n"
    assert "keep everything" in leukoscope("retention").stdout
    shown = leukoscope("retention", toml=rules)
    assert shown.exit_code == 0, shown.output
    assert old in shown.stdout
    assert young not in shown.stdout
    assert "1 cases would go" in shown.stdout
    assert "nothing was removed" in shown.stdout
    assert {case.id for case in house.cases} == {old, young}
    assert "1 cases removed" in leukoscope("retention", "--apply", "--orphans", toml=rules).stdout
    assert {case.id for case in house.cases} == {young}
    assert house.book.counters()["retention_cases", ()] == 1
    house.book.close()


def test_dead_letters_are_sent_again_where_there_is_somebody_to_take_them(leukoscope: Callable[..., Result], tmp_path: Path) -> None:
    settings = tmp_path / "first.toml"
    settings.write_text(PACS + PACS.replace('"pacs"', '"left"'))
    house = House(tmp_path / "data", destinations=load_settings({"LEUKOSCOPE_CONFIG": str(settings)}).destinations)
    case_ids = [queue(house.book, series=f"1.2.{number}", study=f"1.{number}") for number in (1, 2)]
    for case_id in case_ids:
        house.book.finish(house.book.claim(case_id, "w"), outputs=[output()], findings=FINDINGS)
        for delivery in house.book.deliveries(case_id):
            house.book.delivery_dead(delivery.id, "a week is over")
    assert isinstance(leukoscope("resend", "feed", toml=PACS).exception, Rejected)
    assert isinstance(leukoscope("resend", "--destination", "left", toml=PACS).exception, Rejected)
    assert leukoscope("resend", case_ids[0], toml=PACS).stdout == "1 given-up deliveries are due again\n"
    told = leukoscope("resend", toml=PACS).stdout
    assert told.splitlines() == ["1 given-up deliveries are due again", "2 stay given up: their destinations are not in the settings"]
    states = [{one.destination: one.state for one in house.book.deliveries(case_id)} for case_id in case_ids]
    assert states == [{"pacs": DeliveryState.PENDING, "left": DeliveryState.DEAD}] * 2
    house.book.close()
