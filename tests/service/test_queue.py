"""The queue with real workers in processes of their own: the embedded broker, and Redis."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.broker import Channel, Transport
from service.errors import Unavailable
from service.queue import DELIVER, INFER, make_app, ping, renew_broker, submit, submit_delivery
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]

WORKER = """
import os, sys, time, warnings
from pathlib import Path
from service.queue import make_app
from service.settings import Settings
warnings.filterwarnings("ignore", message=".*superuser.*")
folder = Path(sys.argv[1])
app = make_app(Settings(data_dir=folder, broker_url=sys.argv[2] or None))
def note(kind, case_id):
    with (folder / "log").open("a") as file:
        file.write(f"{kind} {case_id} {os.getpid()} {time.time()}\\n")
    if case_id.startswith("slow"):
        time.sleep(60)
@app.task(name="leukoscope.infer")
def infer(case_id):
    note("infer", case_id)
@app.task(name="leukoscope.deliver")
def deliver(case_id):
    note("deliver", case_id)
worker = app.Worker(queues=sys.argv[3].split(","), pool=sys.argv[4], concurrency=1, without_gossip=True, without_mingle=True,
                    without_heartbeat=True, quiet=True, loglevel="ERROR", hostname=f"w{os.getpid()}@test")
worker.start()
"""


@contextmanager
def workers(folder: Path, broker: str, *queues: str, pool: str = "solo") -> Iterator[list[subprocess.Popen[bytes]]]:
    command = [sys.executable, "-c", WORKER, str(folder), broker]
    started = [subprocess.Popen([*command, queue, pool], cwd=ROOT, start_new_session=True) for queue in queues]
    try:
        yield started
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def seen(folder: Path) -> list[list[str]]:
    path = folder / "log"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition: Callable[[], bool], seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(params=["embedded", "redis"])
def broker(request: pytest.FixtureRequest) -> str:
    return "" if request.param == "embedded" else str(request.getfixturevalue("redis_server").url)


def test_each_message_reaches_one_worker_of_its_queue(tmp_path: Path, broker: str) -> None:
    settings = Settings(data_dir=tmp_path, broker_url=broker or None)
    renew_broker(settings)
    app = make_app(settings)
    ping(app)
    with workers(tmp_path, broker, "inference", "inference", "delivery"):
        for number in range(20):
            submit(app, f"case-{number}")
        submit_delivery(app, "case-0")
        wait_for(lambda: len(seen(tmp_path)) >= 21)
        sent = time.time()
        submit(app, "last")
        wait_for(lambda: len(seen(tmp_path)) >= 22)
        time.sleep(0.3)
    lines = seen(tmp_path)
    assert sorted(case for kind, case, *_ in lines if kind == "infer") == sorted([*(f"case-{n}" for n in range(20)), "last"])
    assert [case for kind, case, *_ in lines if kind == "deliver"] == ["case-0"]
    assert float(lines[-1][3]) - sent < 10
    assert Transport.polling_interval == 0.05  # an idle worker starts at once, not after a second


def test_only_the_case_id_travels(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    app = make_app(settings)
    submit(app, "opaque-1")
    submit_delivery(app, "opaque-2")
    connection = sqlite3.connect(tmp_path / "broker.sqlite")
    rows = [(queue, json.loads(payload)) for queue, payload in connection.execute("SELECT queue, payload FROM message ORDER BY id")]
    connection.close()
    assert [(queue, message["headers"]["task"], message["content-type"]) for queue, message in rows] == [
        ("inference", INFER, "application/json"),
        ("delivery", DELIVER, "application/json"),
    ]
    assert rows[0][1]["headers"]["argsrepr"] == "['opaque-1']"


def test_the_configuration_is_the_one_the_design_asks_for(tmp_path: Path) -> None:
    conf = make_app(Settings(data_dir=tmp_path)).conf
    assert (conf.task_serializer, list(conf.accept_content), conf.result_backend) == ("json", ["json"], None)
    assert (conf.task_acks_late, conf.task_reject_on_worker_lost, conf.worker_prefetch_multiplier) == (True, True, 1)
    far = make_app(Settings(data_dir=tmp_path, broker_url="redis://h:1/0", time_limit_s=700)).conf
    assert far.broker_transport_options["visibility_timeout"] > 700
    assert (far.task_routes, far.task_acks_late) == (conf.task_routes, True)


def test_a_broker_that_is_away_is_unavailable(tmp_path: Path, free_port: Callable[[], int]) -> None:
    app = make_app(Settings(data_dir=tmp_path, broker_url=f"redis://127.0.0.1:{free_port()}/0"))
    began = time.monotonic()
    with pytest.raises(Unavailable, match="the broker"):
        submit(app, "x")
    with pytest.raises(Unavailable, match="the broker"):
        ping(app)
    assert time.monotonic() - began < 15
    gone = make_app(Settings(data_dir=tmp_path / "no" / "such" / "folder"))
    with pytest.raises(Unavailable, match="the broker"):
        submit(gone, "x")


def test_the_embedded_file_is_made_anew(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    submit(make_app(settings), "old")
    renew_broker(settings)
    assert not list(tmp_path.glob("broker.sqlite*"))
    submit(make_app(settings), "new")
    connection = sqlite3.connect(tmp_path / "broker.sqlite")
    assert connection.execute("SELECT count(*) FROM message").fetchone() == (1,)
    connection.close()
    renew_broker(Settings(data_dir=tmp_path, broker_url="redis://h/0"))
    assert (tmp_path / "broker.sqlite").exists()


def test_threads_and_processes_submit_at_once(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    renew_broker(settings)
    app = make_app(settings)
    script = "import sys; from service.queue import make_app, submit; from service.settings import Settings; from pathlib import Path\n"
    script += "app = make_app(Settings(data_dir=Path(sys.argv[1])))\nfor n in range(50): submit(app, f'p{n}')\n"
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT)
    threads = [threading.Thread(target=lambda k=k: [submit(app, f"t{k}.{n}") for n in range(25)]) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert process.wait(60) == 0
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        assert isinstance(channel, Channel)
        assert channel._size("inference") == 150
        assert channel._purge("inference") == 150


def test_a_worker_that_dies_does_not_stop_the_others(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    renew_broker(settings)
    app = make_app(settings)
    with workers(tmp_path, "", "inference", pool="prefork") as (first,):
        submit(app, "slow")
        wait_for(lambda: len(seen(tmp_path)) == 1)
        os.killpg(first.pid, signal.SIGKILL)
    with workers(tmp_path, "", "inference"):
        submit(app, "next")
        wait_for(lambda: any(line[1] == "next" for line in seen(tmp_path)))
