"""`make test-gpu`: what only a GPU can show, on any machine with one, in at most six minutes; with DEVICE=cpu the same without.

A night of smoke size; trainings killed and resumed; two processes, over gloo where they share a GPU; every step that is
recorded as a CUDA graph. PYTHON is an interpreter that has torch and the packages below; nothing is set up.
"""

import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEEDED = ("torch", "numpy", "pandas", "pyarrow", "pydantic", "yaml", "cv2", "PIL", "scipy", "safetensors", "onnx",
          "onnxruntime", "pycocotools", "blake3")  # fmt: skip
PYTHONS, LEAST_TORCH = ((3, 11), (3, 13)), (2, 11)
SECONDS = 360.0
KILLED = {
    "ensemble": 3,
    "adapt": 45,
}  # after so many steps: adapt in its detector's training, when its first one is done
TOGETHER = ("ensemble", "compare", "adapt", "train_prune")


class Failed(Exception):
    """Say what went wrong on the device."""


def main() -> int:
    """Return 0 where all went well, 1 where not, 2 where it cannot be tried here."""
    device = os.environ.get("NIGHTDRIVE_OPTION_DEVICE") or "cuda"
    problem = _lacking() or _without_device(device)
    if problem:
        print(f"test-gpu: {problem}", file=sys.stderr)
        return 2
    from tests.gpu.night import LEFT_OUT, TASKS

    print(_machine(device), flush=True)
    with tempfile.TemporaryDirectory(prefix="nightdrive-gpu-") as scratch:
        folder, started = Path(scratch) / "night", time.monotonic()
        try:
            _run("a night of smoke size", device, started, [str(folder), str(folder), *TASKS])
            for task, steps in KILLED.items():
                _killed_and_resumed(folder, task, steps, device, started)
            _together(folder, device, started)
        except Failed as failure:
            print(f"test-gpu: {failure}", file=sys.stderr)
            return 1
    for what, why in LEFT_OUT.items():
        print(f"left out: {what}: {why}")
    if device == "cpu":
        print("left out: everything that only a GPU shows: this ran on the processor")
    print(f"test-gpu: good, {time.monotonic() - started:.0f} s")
    return 0


def _lacking() -> str:
    """Name what this interpreter lacks; empty where it lacks nothing."""
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        return f"PYTHON is {platform.python_version()}, must be 3.11 to 3.13; name another one"
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return f"PYTHON={sys.executable} has no {', '.join(missing)}; name one that has, or put them on its PYTHONPATH"
    import torch

    found = tuple(int(part) for part in torch.__version__.split(".")[:2])
    return "" if found >= LEAST_TORCH else f"torch is {torch.__version__}, must be 2.11 or later; name another PYTHON"


def _without_device(device: str) -> str:
    import torch

    if device not in ("cuda", "cpu"):
        return f"DEVICE={device}: must be cuda or cpu; correct it"
    if device == "cuda" and not torch.cuda.is_available():
        return "torch sees no GPU here, so nothing was tried; run it where there is one, or say DEVICE=cpu to try the script"
    return ""


def _machine(device: str) -> str:
    import onnxruntime
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    gpus = f"{torch.cuda.device_count()} x " if device == "cuda" else ""
    return (
        f"{gpus}{name}; Python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda}, onnxruntime "
        f"{onnxruntime.__version__} with {', '.join(onnxruntime.get_available_providers())}"
    )


def _run(
    what: str,
    device: str,
    started: float,
    arguments: Sequence[str],
    *,
    processes: int = 1,
    ends: int = 0,
    more: Mapping[str, str] | None = None,
) -> None:
    """Run tasks in a process of their own, or several; raises Failed where it does not end as it should."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment |= {"OMP_NUM_THREADS": "1", **(more or {})} | ({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})
    left, begun = SECONDS - (time.monotonic() - started), time.monotonic()
    command = [sys.executable, *launch, "-m", "tests.gpu.night", *arguments]
    try:
        code = subprocess.run(command, cwd=ROOT, env=environment, check=False, timeout=max(left, 1.0)).returncode
    except subprocess.TimeoutExpired:
        raise Failed(f"{what}: not done within the {SECONDS:.0f} s of the whole test") from None
    if code != ends:
        raise Failed(f"{what}: ended with {code}, not {ends}")
    print(f"== {what}: {time.monotonic() - begun:.0f} s", flush=True)


def _killed_and_resumed(folder: Path, task: str, steps: int, device: str, started: float) -> None:
    """Kill a training in its middle and let it go on; what it gives must be what it gave undisturbed."""
    from tests.gpu.night import KILL_VARIABLE

    into, state = folder.parent / f"resumed-{task}", folder.parent / f"state-{task}"
    state.mkdir()
    kept = {"NIGHTDRIVE_TRAINING_STATE": str(state)}
    kill = {KILL_VARIABLE: str(steps)}
    arguments = [str(folder), str(into), task]
    _run(f"{task}, killed at step {steps}", device, started, arguments, ends=-signal.SIGKILL, more=kept | kill)
    if not list(state.iterdir()):
        raise Failed(f"{task}: was killed at step {steps} and had kept no state")
    _run(f"{task}, resumed", device, started, arguments, more=kept)
    _same(folder, into, "resumed", exact=device == "cpu")


def _together(folder: Path, device: str, started: float) -> None:
    """Train in two processes: each sees half of every batch, and what they learn is what one process learns."""
    into = folder.parent / "together"
    _run("trainings in two processes", device, started, [str(folder), str(into), *TOGETHER], processes=2)
    _same(folder, into, "two processes", exact=False)


def _same(expected: Path, found: Path, how: str, *, exact: bool) -> None:
    """Compare losses with those of the undisturbed night, and networks byte by byte where nothing may round otherwise."""
    for file in ("adaptation/adaptation.json", "network/network.json"):
        if (found / file).exists():
            ours, theirs = (json.loads((place / file).read_text())["loss"] for place in (found, expected))
            pairs = [(ours, theirs)] if isinstance(ours, list) else [(ours[name], theirs[name]) for name in ours]
            furthest = max(abs(a / b - 1) for pair in pairs for a, b in zip(*pair, strict=True))
            print(f"   {how}: losses in {file} are within {furthest:.2%} of the night's")
            if furthest > 0.05:
                raise Failed(f"{how}: losses in {file} differ by {furthest:.1%} from the night's, must be within 5%")
    for network in sorted(found.glob("*/*.safetensors")) if exact else []:
        if network.read_bytes() != (expected / network.relative_to(found)).read_bytes():
            raise Failed(f"{how}: {network.relative_to(found)} is not the undisturbed night's")


if __name__ == "__main__":
    sys.exit(main())
