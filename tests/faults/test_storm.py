"""SIGKILLs at random moments, 1 to 6 seconds apart, while four senders push twelve series."""

from __future__ import annotations

import random
import time

import pytest

from tests.faults.books import assert_balance
from tests.faults.modality import Modality
from tests.faults.sets import on
from tests.faults.storm import kill_everything, kill_something

SEED = 20
KILLS = 8


@pytest.mark.timeout(600)
@on("embedded", soak="full")
def test_after_a_storm_of_kills_of_everything_the_books_balance(make_fragile, write_small):
    weather(make_fragile, write_small, kill_everything)


@pytest.mark.timeout(600)
@on("full", soak="embedded")
def test_after_a_storm_of_kills_of_single_processes_the_books_balance(make_fragile, write_small):
    weather(make_fragile, write_small, kill_something)


def weather(make_fragile, write_small, victim):
    service = make_fragile(time_limit_s=60).start()
    series = write_small(12)
    modality = Modality(service, limit_s=300)
    rng = random.Random(SEED)
    with service.kept_alive():
        senders = modality.push_all(series, senders=4)
        for _ in range(KILLS):
            time.sleep(rng.uniform(1, 6))
            victim(service, rng)
        modality.finish(senders)
        assert_balance(service, series, modality.acknowledged)
