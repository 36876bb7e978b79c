"""`make engine`: a TensorRT engine from a night's network."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from perception.errors import InputError


def main(arguments: Sequence[str]) -> int:
    """Build the engine beside the model, or where the command line says; exit code 2 where it cannot be built."""
    parser = argparse.ArgumentParser(prog="make engine", description="Build a TensorRT engine from an ONNX network.")
    parser.add_argument("model", type=Path, help="such as runs/latest/compressed/model.onnx")
    parser.add_argument("--out", type=Path, help="default: the model's name with .engine")
    parser.add_argument("--batch-frames", type=int, default=1, help="largest batch")
    parser.add_argument("--full-precision", action="store_true", help="no float16")
    given = parser.parse_args(arguments)
    from perception.compression.tensorrt import build_engine  # loads torch, which --help need not wait for

    engine = given.out or given.model.with_suffix(".engine")
    try:
        said = build_engine(given.model, engine, largest_batch_frames=given.batch_frames, half=not given.full_precision)
    except InputError as error:
        print(f"nightdrive: {error}", file=sys.stderr)
        return 2
    print(said)
    print(engine)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
