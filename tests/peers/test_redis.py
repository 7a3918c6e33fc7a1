"""The same tasks with Redis as the broker."""

from __future__ import annotations

import redis

from tests.running import Running, series_uid


def test_redis_carries_the_case_id_and_nothing_else(redis_url, tmp_path, write_phantom):
    service = Running(tmp_path / "data", quiet_time_s=1.5, broker_url=redis_url).start()
    try:
        files = write_phantom("redis")
        service.push(files)
        case = service.wait_until(series_uid(files), "done")
        assert case["findings"]["lesion_count"] > 0
        assert not (service.data / "broker.sqlite").exists()
    finally:
        assert service.stop() == 0, service.last_words()


def test_a_flushed_broker_loses_no_case(redis_url, tmp_path, write_phantom):
    service = Running(tmp_path / "data", quiet_time_s=1.5, sweep_s=0.5, broker_url=redis_url).start()
    try:
        files = write_phantom("flushed")
        service.push(files)
        case = service.wait_until(series_uid(files), "queued", "running")
        redis.Redis.from_url(redis_url).flushall()
        assert service.wait_until(series_uid(files), "done")["id"] == case["id"]
    finally:
        assert service.stop() == 0, service.last_words()
