"""The Dockerfile: read, compared with what is there, and held to what an image of this service must keep."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from deploy.dockerfile import DockerfileError, context_files, read_dockerfile
from service.sections import DicomTls
from service.settings import Settings, load_settings

TARGETS = ("cpu", "gpu")


@pytest.fixture(scope="module")
def dockerfile(root):
    return read_dockerfile(root / "Dockerfile")


@pytest.fixture(scope="module")
def context(root):
    return list(context_files(root))


def test_the_default_target_is_the_one_for_processors(dockerfile):
    assert dockerfile.stages[-1].name == "cpu"
    assert set(TARGETS) <= {stage.name for stage in dockerfile.stages}


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_a_numbered_user_who_is_not_root(dockerfile, target):
    user, _, group = dockerfile.last(target, "USER").text.partition(":")
    assert int(user) > 0
    assert int(group) > 0
    made = " ".join(one.text for one in dockerfile.stage("runtime").instructions if one.name == "RUN")
    assert f"--uid {user} " in made
    assert f"--gid {group} " in made


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_has_a_health_check_and_an_entry_point_in_exec_form(dockerfile, target, demand_command):
    check = dockerfile.last(target, "HEALTHCHECK").exec_form
    assert check[:2] == ["python", "/usr/local/lib/leukoscope/probe.py"]
    entry = dockerfile.last(target, "ENTRYPOINT").exec_form
    assert entry[0] == "/usr/bin/tini"
    assert entry[-1] == "leukoscope"
    demand_command(dockerfile.last(target, "CMD").exec_form)
    assert dockerfile.last(target, "STOPSIGNAL").text == "SIGTERM"


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_keeps_its_doors_on_loopback(dockerfile, target, demand_settings):
    environment = dockerfile.environment(target)
    demand_settings(list(environment))
    settings = load_settings(environment)
    assert (settings.http_host, settings.dicom_host) == ("127.0.0.1", "127.0.0.1")
    assert (settings.tokens, settings.calling_ae) == ((), ())
    assert settings.data_dir == Path(dockerfile.last(target, "VOLUME").text)


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_exposes_the_ports_of_the_settings(dockerfile, target):
    ports = {int(word) for word in dockerfile.last(target, "EXPOSE").arguments}
    plain = {Settings.model_fields[name].default for name in ("http_port", "dicom_port")}
    assert ports == plain | {DicomTls.model_fields["port"].default}


@pytest.mark.parametrize("target", TARGETS)
def test_a_build_that_brings_torch_in_fails(dockerfile, target, root):
    (source,) = {one.flags["from"] for one in dockerfile.stage(target).instructions if one.name == "COPY"}
    steps = " ".join(one.text for one in dockerfile.stage(source).instructions if one.name == "RUN")
    assert "find_spec('torch') is None" in steps
    assert "leukoscope releases verify" in steps
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    served = project["dependencies"] + project["optional-dependencies"][target]
    assert not [name for name in served if re.match(r"torch\b", name)]


def test_what_is_copied_is_in_the_context(dockerfile, context):
    for stage in dockerfile.stages:
        for one in stage.instructions:
            if one.name == "COPY" and "from" not in one.flags:
                for source in one.arguments[:-1]:
                    assert any(path.is_relative_to(Path(source)) for path in context), f"line {one.line}: {source}"


def test_what_is_copied_from_a_stage_comes_from_a_stage_before(dockerfile):
    known: set[str] = set()
    for stage in dockerfile.stages:
        for one in stage.instructions:
            if one.name == "COPY" and "from" in one.flags:
                assert one.flags["from"] in known, f"line {one.line}"
        known.add(stage.name)


def test_the_context_is_the_program_and_nothing_else(context):
    tops = {path.parts[0] for path in context}
    assert tops == {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "service", "worker", "model", "deploy"}
    assert {path.as_posix() for path in context if path.parts[0] == "deploy"} == {"deploy/constraints-gpu.txt", "deploy/probe.py"}
    assert not [path for path in context if path.suffix == ".pyc"]
    assert any(path.name == "weights.onnx" for path in context)


def test_the_versions_named_twice_agree(dockerfile, root):
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    label = dockerfile.last("cpu", "LABEL").pairs["org.opencontainers.image.version"]
    assert label == version
    assert f"VERSION:-{version}" in (root / "docker-compose.yml").read_text()


def test_the_gpu_packages_are_all_pinned_and_for_cuda_13(root):
    pins = [line for line in (root / "deploy/constraints-gpu.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", pin) for pin in pins), pins
    versions = dict(pin.split("==") for pin in pins)
    assert versions["nvidia-cuda-runtime"].startswith("13.")
    wanted = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]["gpu"]
    assert [name for name in wanted if name.startswith("onnxruntime-gpu>=")]
    assert "onnxruntime-gpu" in versions


def test_the_driver_floor_is_named(dockerfile):
    stage = dockerfile.stage("gpu")
    assert stage.last("LABEL").pairs["org.leukoscope.nvidia-driver-minimum"] == "580"
    assert dockerfile.environment("gpu")["NVIDIA_REQUIRE_CUDA"] == "cuda>=13.0"


def test_an_instruction_that_is_not_understood_is_refused_and_not_skipped(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM scratch\nONBUILD RUN true\n")
    with pytest.raises(DockerfileError, match="line 2: ONBUILD"):
        read_dockerfile(tmp_path / "Dockerfile")
