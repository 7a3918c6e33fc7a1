"""docker-compose.yml: valid by the specification's schema, true to the program, safe by default."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import jsonschema
import pytest

from service.settings import SettingsError, load_settings
from tests.deploy.composing import VariableMissing, read_compose, read_env, seconds

SECRETS = {
    "POSTGRES_PASSWORD": "aaaa1111",
    "REDIS_PASSWORD": "bbbb2222",
    "API_TOKENS": json.dumps([{"name": "test", "sha256": "0" * 64, "scopes": ["read"]}]),
}
SCHEMA = jsonschema.Draft201909Validator(json.loads((Path(__file__).parent / "compose-spec.json").read_text()))
OURS = ("migrate", "listener", "api", "worker-inference", "worker-gpu", "worker-delivery")


@pytest.fixture(scope="module")
def path(root):
    return root / "docker-compose.yml"


@pytest.fixture(scope="module")
def compose(path):
    return read_compose(path, SECRETS)


@pytest.fixture
def settings_of(compose, root):
    """The settings with which a service of the file would start."""

    def read(name, **changes):
        environment = compose["services"][name]["environment"] | changes
        (source,) = {entry["source"] for entry in compose["services"][name]["configs"]}
        return load_settings(environment | {"LEUKOSCOPE_CONFIG": str(root / compose["configs"][source]["file"])})

    return read


def test_the_file_fits_the_specifications_schema(compose):
    later = {"name"}  # the schema is older than this key
    SCHEMA.validate({key: value for key, value in compose.items() if key not in later})


def test_a_misspelt_key_does_not_fit_the_schema(compose):
    broken = {"services": {"api": compose["services"]["api"] | {"helthcheck": {}}}}
    with pytest.raises(jsonschema.ValidationError, match="helthcheck"):
        SCHEMA.validate(broken)


@pytest.mark.parametrize("name", OURS)
def test_a_service_runs_a_command_that_exists_with_variables_that_are_settings(compose, name, demand_command, demand_settings):
    demand_command(compose["services"][name]["command"])
    demand_settings(list(compose["services"][name]["environment"]))


@pytest.mark.parametrize("name", OURS)
def test_a_service_would_start_with_the_settings_it_is_given(settings_of, name):
    settings = settings_of(name)
    assert settings.database_url == "postgresql://leukoscope:aaaa1111@postgres:5432/leukoscope"
    assert settings.broker_url == "redis://:bbbb2222@redis:6379/0"
    assert [sender.title for sender in settings.calling_ae] == ["HEALTHCHECK", "ORTHANC"]


def test_only_the_two_doors_are_open_and_each_with_its_lock(settings_of):
    assert {name for name in OURS if settings_of(name).dicom_host != "127.0.0.1"} == {"listener"}
    assert {name for name in OURS if settings_of(name).http_host != "127.0.0.1"} == {"api"}
    with pytest.raises(SettingsError, match="API tokens"):
        settings_of("api", LEUKOSCOPE_TOKENS="")
    with pytest.raises(SettingsError, match="calling_ae"):
        settings_of("listener", LEUKOSCOPE_CALLING_AE="[]")


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_nothing_starts_without_its_secret(path, name):
    with pytest.raises(VariableMissing, match=name):
        read_compose(path, {key: value for key, value in SECRETS.items() if key != name})
    with pytest.raises(VariableMissing, match=name):
        read_compose(path, SECRETS | {name: ""})


def test_the_example_of_an_env_file_names_every_secret_and_gives_none(path, root):
    example = read_env(root / "deploy/compose/example.env")
    assert set(example) == {*SECRETS, "ORTHANC_PASSWORD"}
    assert not any(example.values())
    mentioned = set(re.findall(r"\$\{(\w+)", path.read_text()))
    documented = set(re.findall(r"^#?([A-Z_]+)=", (root / "deploy/compose/example.env").read_text(), flags=re.M))
    assert mentioned - documented <= {"ORTHANC_PORT", "ORTHANC_DICOM_PORT", "GPU_HOST_MEMORY"}
    assert documented <= mentioned


def test_doors_are_published_on_loopback_until_said_otherwise(compose):
    for name, service in compose["services"].items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name}: {port}"


def test_no_service_can_gain_rights_or_write_to_its_image(compose):
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert "privileged" not in service, name
        assert service.get("user", "10001").split(":")[0] not in {"root", "0"}, name


def test_all_parts_share_one_data_volume_and_wait_for_the_migration(compose):
    for name in OURS:
        assert compose["services"][name]["volumes"] == ["data:/data"], name
        waits_for = compose["services"][name]["depends_on"]
        if name != "migrate":
            assert waits_for["migrate"] == {"condition": "service_completed_successfully"}, name
        assert waits_for["postgres"] == {"condition": "service_healthy"}, name
    assert "healthcheck" in compose["services"]["postgres"]


def test_a_worker_is_given_the_time_to_finish_its_case(compose, settings_of):
    for name in ("worker-inference", "worker-gpu"):
        assert seconds(compose["services"][name]["stop_grace_period"]) > settings_of(name).time_limit_s
    for name in ("listener", "api"):  # service.serve ends itself by force after a minute
        assert seconds(compose["services"][name]["stop_grace_period"]) > 60


def test_the_broker_throws_nothing_away(compose):
    command = compose["services"]["redis"]["command"]
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"


def test_the_gpu_worker_has_its_own_target_and_a_device(compose):
    service = compose["services"]["worker-gpu"]
    assert service["build"]["target"] == "gpu"
    assert service["profiles"] == ["gpu"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_the_demo_pacs_and_the_service_know_each_other(compose, root, settings_of):
    orthanc = json.loads((root / "deploy/compose/orthanc.json").read_text())
    (destination,) = settings_of("worker-delivery").destinations
    assert (destination.ae_title, destination.host, destination.port) == (orthanc["DicomAet"], "orthanc", orthanc["DicomPort"])
    modality = orthanc["DicomModalities"]["leukoscope"]
    listener = settings_of("listener")
    assert (modality["AET"], modality["Host"], modality["Port"]) == (listener.ae_title, "listener", listener.dicom_port)
    assert orthanc["RegisteredUsers"] == {"demo": "${ORTHANC_PASSWORD}"}
    mounted = {entry["target"] for entry in compose["services"]["orthanc"]["configs"]}
    assert {"/etc/orthanc/orthanc.json", *orthanc["LuaScripts"]} == mounted


def test_the_demo_pacs_does_not_start_without_a_password(compose, tmp_path):
    service = compose["services"]["orthanc"]
    (tmp_path / "Orthanc").write_text("#!/bin/sh\necho started $1\n")
    (tmp_path / "Orthanc").chmod(0o755)
    command = [*service["entrypoint"], *service["command"]]
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    refused = subprocess.run(command, env=path | service["environment"], capture_output=True, text=True)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "ORTHANC_PASSWORD" in refused.stderr
    started = subprocess.run(command, env=path | {"ORTHANC_PASSWORD": "x"}, capture_output=True, text=True)
    assert started.stdout == "started /etc/orthanc/orthanc.json\n"


def test_every_file_that_is_mounted_is_there(compose, root):
    for name, config in compose["configs"].items():
        assert (root / config["file"]).is_file(), name
