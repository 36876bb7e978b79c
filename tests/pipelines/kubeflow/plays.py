"""How a run goes on the stand-in, step by step, by the rules of Kubeflow Pipelines 2.17 as they were seen on a real installation.

The API knows tasks by their keys in the pipeline (`gate-ingest`), each try once more (`gate-ingest(0)`), drivers and executors beside
them; it loses exit codes; a cancelled run is CANCELING and then FAILED; what never began stays PENDING for ever. A pod deleted with
notice fails its step, which is not tried again; the run's own retry runs failed steps only, and no farewell. A run above 1 MiB
tells nothing more of its tasks, and above 1.5 MiB cannot be retried. Steps keep records in their night's store as ours do.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.pipelines.edges import settings_of, steps
from tests.pipelines.kubeflow.night_runs import leave_record

ENDED = ("SUCCEEDED", "FAILED")
BLIND_BYTES, TOO_LARGE_BYTES = 1024 * 1024, 1024 * 1024 * 3 // 2
Json = dict[str, Any]


@dataclass
class Step:
    """Hold one step of a run."""

    key: str  # in the pipeline
    name: str  # as people know it
    settings: Mapping[str, Any]  # what it is told; empty: no step of ours
    state: str = "PENDING"
    tries: int = 0
    begun_at: int = 0  # looks at the run until then
    ended_at: int = 0


@dataclass
class Play:
    """Go on by one step at every look."""

    run_id: str
    steps: list[Step]
    farewell: bool  # whether the run has an exit handler
    raw_bytes: int = 0  # of the run as Kubernetes keeps it
    state: str = "PENDING"
    history: list[str] = field(default_factory=lambda: ["PENDING"])
    looks: int = 0

    @classmethod
    def of(cls, run_id: str, spec: Mapping[str, Any]) -> "Play":
        """Return the play of a compiled pipeline."""
        listed = [
            Step(_key(spec, task), name, _settings(task)) for name, task, _, _ in steps(spec) if name != "farewell"
        ]
        return cls(run_id, listed, farewell="farewell" in spec["root"]["dag"]["tasks"])

    @property
    def running(self) -> Step | None:
        """Return the step that runs."""
        return next((step for step in self.steps if step.state == "RUNNING"), None)

    def look(self) -> Json:
        """Go on by one step and return what the API says of the run then."""
        self.looks += 1
        if self.state == "CANCELING":
            self._become("FAILED")
        elif self.state not in ENDED:
            self._go_on()
        return self.told()

    def told(self) -> Json:
        """Return what the API says of the run."""
        told: Json = {"state": self.state, "state_history": [{"state": state} for state in self.history]}
        if self.raw_bytes <= BLIND_BYTES:
            told["run_details"] = {"task_details": [each for step in self.steps for each in self._tasks(step)]}
        return told

    def cancel(self) -> None:
        """End the run: what runs is killed, and the farewell does not run."""
        self._become("CANCELING")
        for step in self.steps:
            step.state = "FAILED" if step.state == "RUNNING" else step.state

    def lose_pod(self) -> None:
        """Delete the pod of the running step with notice: 143 counts as the program's own failure."""
        assert self.running is not None
        self.running.state = "FAILED"
        self._become("FAILED")

    def retry(self) -> tuple[int, str]:
        """Try the failed steps again; return the HTTP status and what the server says."""
        if self.raw_bytes > TOO_LARGE_BYTES:
            return 500, f"Failed to retry run {self.run_id}: etcdserver: request is too large"
        for step in self.steps:
            step.state = "PENDING" if step.state == "FAILED" else step.state
        self.farewell = False
        self._become("RUNNING")
        return 200, ""

    def _go_on(self) -> None:
        running = self.running
        if running is not None:
            verdict, about = judged(running)
            self._record(running, verdict, **about)
            running.state, running.ended_at = ("SUCCEEDED" if verdict == "done" else "FAILED"), self.looks
            if running.state == "FAILED":
                self._become("FAILED")
                return
        following = next((step for step in self.steps if step.state == "PENDING"), None)
        self._become("RUNNING" if following else "SUCCEEDED")
        if following:
            following.state, following.tries, following.begun_at = "RUNNING", following.tries + 1, self.looks
            self._record(following, "running")

    def _become(self, state: str) -> None:
        if self.state != state:
            self.state = state
            self.history.append(state)

    def _record(self, step: Step, status: str, **about: Any) -> None:
        night = step.settings.get("_night")
        if night:
            store, name = Path(night["store"]), step.settings["step"]["task"]
            leave_record(store, self.run_id, name, status, 1000.0 + step.begun_at, **{"attempt": step.tries, **about})

    def _tasks(self, step: Step) -> list[Json]:
        fields: Json = {"state": step.state}
        if step.begun_at:
            fields["start_time"] = _clock(step.begun_at)
        if step.ended_at:
            fields["end_time"] = _clock(step.ended_at)
        if step.state == "FAILED":
            fields["error"] = {"message": "This step is in Failed state with this message: Error (exit code 1)"}
        tries = [{"display_name": f"{step.key}({number})", **fields} for number in range(step.tries)]
        driver = {"display_name": f"{step.key}-driver", "state": "SUCCEEDED"}
        return [{"display_name": step.key, **fields}, *([driver, *tries] if step.tries else [])]


def judged(step: Step) -> tuple[str, Json]:
    """Return how a step of ours ends, and what its record says besides, by what it is told."""
    told = step.settings
    if told.get("revision", "current") != "current":
        return "bad_input", {"message": f"revision {told['revision']}: the registry has no such version"}
    least = told.get("bounds", {}).get("min_frames", 0)
    if step.name == "gate_ingest" and least > 10**6:
        failed = [{"id": "enough_frames", "rule": f"frames at least {least}", "bound": least, "observed": "64"}]
        return "refused", {"message": "1 of 9 rules failed", "failed": failed}
    real = [each for each in told.get("sources", {}).values() if each["domain"] == "real"]
    new = sum(each["drives"] * each["frames_per_drive"] for each in real)
    return "done", {"values": {"new": new}} if step.name == "gather" else {}


def _key(spec: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    dags = [item["dag"] for item in (spec["root"], *spec["components"].values()) if "dag" in item]
    return next(key for dag in dags for key, task in dag["tasks"].items() if task is wanted)


def _settings(task: Mapping[str, Any]) -> Json:
    return settings_of(task) if "settings" in task.get("inputs", {}).get("parameters", {}) else {}


def _clock(looks: int) -> str:
    return f"2026-01-01T{looks // 60:02d}:{looks % 60:02d}:00Z"
