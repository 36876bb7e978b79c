"""Build a TensorRT engine from an exported network, where NVIDIA's trtexec is installed."""

import json
import shutil
import subprocess
from functools import partial
from pathlib import Path

import onnx

from perception.compression.export import INPUT_NAME
from perception.data.files import replacement
from perception.errors import InputError


def tensorrt_command(model: Path, engine: Path, *, largest_batch_frames: int = 1, half: bool = True) -> list[str]:
    """Give the trtexec command that builds `engine` for batches of 1 to `largest_batch_frames` and times it.

    half: allow float16. Raises InputError for a missing file or a free height or width.
    """
    if not model.is_file():
        raise InputError(f"no ONNX file at {model}: run a night, or export a network first")
    if largest_batch_frames < 1:
        raise InputError(f"largest_batch_frames {largest_batch_frames}: at least 1")
    (given,) = _loaded(model).graph.input
    sizes = [dimension.dim_value for dimension in given.type.tensor_type.shape.dim[1:]]
    if not all(sizes):
        raise InputError(f"{model}: height and width must be fixed; export it again")
    shape = "x".join(str(size) for size in sizes)
    shapes = {"min": 1, "opt": largest_batch_frames, "max": largest_batch_frames}
    profile = [f"--{name}Shapes={INPUT_NAME}:{batch}x{shape}" for name, batch in shapes.items()]
    precision = ["--fp16"] if half else []
    return ["trtexec", f"--onnx={model}", f"--saveEngine={engine}", *profile, *precision]


def _loaded(model: Path) -> onnx.ModelProto:
    try:
        loaded = onnx.load(str(model))
        onnx.checker.check_model(loaded)
    except Exception as error:  # protobuf raises a family of its own
        said = " ".join(str(error).split())[:200]
        raise InputError(f"{model}: is no ONNX network ({said}); export it again") from None
    if len(loaded.graph.input) != 1:
        raise InputError(
            f"{model}: takes {len(loaded.graph.input)} inputs, must take one batch of images; export it again"
        )
    return loaded


def build_engine(model: Path, engine: Path, *, largest_batch_frames: int = 1, half: bool = True) -> str:
    """Build the engine, whole or not at all, and give what trtexec said. Raises InputError where it is not installed."""
    command = partial(tensorrt_command, model, largest_batch_frames=largest_batch_frames, half=half)
    found = shutil.which("trtexec")
    if found is None:
        raise InputError(
            "trtexec is not on the PATH: it comes with TensorRT; on a machine that has it run "
            + json.dumps(" ".join(command(engine)))
        )
    with replacement(engine) as temporary:
        done = subprocess.run([found, *command(temporary)[1:]], capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stdout + done.stderr).strip().splitlines()[-1:]
            raise InputError(f"trtexec refused {model} (exit code {done.returncode}): {' '.join(last)}")
    return done.stdout
