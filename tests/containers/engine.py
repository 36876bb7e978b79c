"""The container engine under kfp.local: DockerRunner's one function, so that a container's exit code is always its own."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import docker
from kfp.local import docker_task_handler

# As a cluster with the `restricted` pod security standard runs them, and with a read-only root file system on top.
CONFINED: dict[str, Any] = {
    "user": "10001:10001",
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "tmpfs": {"/tmp": "rw,exec,size=4g"},
}


@dataclass
class Engine:
    """Run the containers of a night, count them, and kill one where asked."""

    environment: Mapping[str, str]
    kill: Callable[[str, str], bool] = lambda _stage, _log: False  # (stage, log so far): kill its container now
    network: str = "host"
    runs: list[tuple[str, int, float]] = field(default_factory=list)  # stage, exit code, seconds
    log: list[str] = field(default_factory=list)

    def run_container(
        self,
        client: docker.DockerClient,
        image: str,
        command: Sequence[str],
        volumes: Mapping[str, Any],
        **options: Any,
    ) -> int:
        """Run one container to its end and return its exit code; it is removed only when that is known.

        kfp's own function removes it at once and takes a container that it can no longer find for a success.
        """
        stage, started = command[3], time.monotonic()
        options["environment"] = {**dict(self.environment), **options.pop("environment", {})}
        options.pop("auto_remove", None)
        container = client.containers.run(
            image, list(command), detach=True, volumes=dict(volumes), network_mode=self.network, **CONFINED, **options
        )
        try:
            said = ""
            for line in container.logs(stream=True, follow=True):
                text = line.decode(errors="replace")
                said += text
                self.log.append(f"[{stage}] {text.rstrip()}")
                print(self.log[-1], flush=True)
                if self.kill(stage, said):
                    container.kill("SIGKILL")
            code = int(container.wait()["StatusCode"])
        finally:
            container.remove(force=True)
        self.runs.append((stage, code, time.monotonic() - started))
        return code


@contextlib.contextmanager
def engine_in_place(engine: Engine) -> Iterator[None]:
    """Let kfp.local run its containers through `engine`."""
    kept = docker_task_handler.run_docker_container
    docker_task_handler.run_docker_container = engine.run_container
    try:
        yield
    finally:
        docker_task_handler.run_docker_container = kept


def kill_once(stage: str, when_said: str) -> Callable[[str, str], bool]:
    """Return a rule that kills the first container of `stage` as soon as its log says so."""
    killed = threading.Event()

    def rule(running: str, said: str) -> bool:
        if running != stage or when_said not in said or killed.is_set():
            return False
        killed.set()
        return True

    return rule
