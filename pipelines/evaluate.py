"""`make evaluate`: judge an exported network on any data set of a known format, with nothing but the ONNX file.

The classes are read from the file's metadata, which every night's export writes; TAXONOMY= names them for a file of
another tool. The result is a folder with report.html, evaluation.json, every prediction and the failures found.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.contract import EXIT_BAD_INPUT, EXIT_DONE, log
from components.judging import JudgeParameters, judge
from components.parameters import build_parameters, parse_value
from perception.errors import InputError

RESULT = "evaluation.json"


def evaluate(
    model: Path,
    data: Path,
    out: Path,
    *,
    format: str = "",
    part: str = "",
    taxonomy: str = "",
    champion: Path | None = None,
    given: Mapping[str, Any] | None = None,
) -> Mapping[str, Any]:
    """Judge `model` on the labelled frames of the folder `data` and place the result whole at `out`; return its figures.

    given: values for fields of JudgeParameters. Raises InputError for a file or folder that cannot be used.
    """
    from perception.data.folder_frames import FolderFrames, recognise_format
    from perception.data.loading import LoadSettings
    from perception.data.readers import open_reader
    from perception.data.taxonomies import load_taxonomy
    from perception.reporting.evaluation_page import render_evaluation

    if out.exists() and not (out / RESULT).is_file():
        raise InputError(f"{out}: exists and is no earlier result of this command; remove it or name another with OUT=")
    network = describe_network(model, taxonomy)
    parameters = build_parameters(
        JudgeParameters, {**network, "store": "-", "seed": 0, **(given or {})}, where="evaluate"
    )
    parameters.prepare()
    if not data.is_dir():
        raise InputError(f"DATA={data}: no such folder; give the folder that holds the data set")
    reader = open_reader(format) if format else recognise_format(data, part or None)
    settings = LoadSettings(height_px=parameters.height_px, width_px=parameters.width_px, taxonomy=parameters.taxonomy)
    frames = FolderFrames(reader, list(reader.frames(data, part or None, False)), settings)
    log(f"{model.name} on {len(frames)} labelled frames of {data} ({reader.name})")
    out.parent.mkdir(parents=True, exist_ok=True)
    working = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        figures = judge(frames, frames.about(), model, parameters, working, champion=champion)
        page = render_evaluation(
            figures, load_taxonomy(parameters.taxonomy), working, frames, f"{model.name} on {data.name}", reader.name
        )
        (working / "report.html").write_text(page, encoding="utf-8")
        _place(working, out)
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return figures


def describe_network(model: Path, taxonomy: str) -> dict[str, Any]:
    """Read what an ONNX file tells of its network: taxonomy, height_px and width_px.

    Raises InputError for a file that is missing, no segmentation network of one image input and one output, or silent
    about its classes while none are named.
    """
    from perception.compression.export import open_session, read_metadata
    from perception.data.taxonomies import load_taxonomy, taxonomy_names

    if not model.is_file():
        raise InputError(f"MODEL={model}: no such file; give an exported network")
    try:
        session = open_session(model)
    except Exception as error:  # onnxruntime raises a family of its own
        raise InputError(f"MODEL={model}: onnxruntime cannot open it ({' '.join(str(error).split())[:200]})") from None
    shapes = [session.get_inputs()[0].shape, session.get_outputs()[0].shape]
    if len(session.get_inputs()) != 1 or len(session.get_outputs()) != 1 or {len(shape) for shape in shapes} != {4}:
        raise InputError(
            f"MODEL={model}: must take one image batch and give one batch of logits, takes and gives {shapes}"
        )
    if not all(isinstance(size, int) for size in shapes[0][2:]):
        raise InputError(f"MODEL={model}: its input size {shapes[0]} is free; export it at a fixed height and width")
    told = read_metadata(session)
    name = taxonomy or told.get("taxonomy", "")
    if not name:
        known = ", ".join(taxonomy_names())
        raise InputError(f"MODEL={model}: does not say what its classes are; name them with TAXONOMY=, one of {known}")
    classes = load_taxonomy(name).classes
    if isinstance(shapes[1][1], int) and shapes[1][1] != len(classes):
        raise InputError(f"MODEL={model}: gives {shapes[1][1]} classes, but taxonomy {name} has {len(classes)}")
    listed = tuple(json.loads(told["classes"])) if "classes" in told and not taxonomy else classes
    if listed != classes:
        raise InputError(f"MODEL={model}: was trained on classes {listed}, but taxonomy {name} is now {classes}")
    return {"taxonomy": name, "height_px": shapes[0][2], "width_px": shapes[0][3]}


def _place(working: Path, out: Path) -> None:
    """Put the finished folder in its place; an earlier result is removed only then."""
    working.chmod(0o755)
    if out.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        out.replace(old / "old")
        working.replace(out)
        shutil.rmtree(old)
    else:
        working.replace(out)


def table(figures: Mapping[str, Any], out: Path) -> str:
    """Return the figures as the short table that `make evaluate` prints: IoU to three decimals, as cityscapesScripts."""
    rows = [(name, _three(value)) for name, value in figures["iou_by_class"].items()]
    rows += [(f"category {name}", _three(value)) for name, value in figures["iou_by_category"].items()]
    rows += [("mIoU", _three(figures["miou"]) + _between(figures["miou_interval"]))]
    boundary, calibration = figures["boundary_iou"], figures["calibration"]
    rows += [("boundary mIoU", _three(boundary["mean"])), ("calibration error", _three(calibration["error"]))]
    known = [row for row in figures["slices"] if row["known"]]
    if known:
        rows.append(("worst slice", f"{known[0]['name']}: {_three(known[0]['miou'])}{_between(known[0]['interval'])}"))
    failed = (
        f"{figures['failures']} of {figures['frames']}, at most {figures['failure_rate_upper_95']:.3f} of such frames"
    )
    promotion = figures["promotion"]
    rows += [("failed frames", failed), ("decision", f"{promotion['decision']}: {promotion['reason']}")]
    rows += [("report", str(out / "report.html"))]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _three(value: float | None) -> str:
    return "nan" if value is None else f"{value:5.3f}"


def _between(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"


def main(arguments: Sequence[str]) -> int:
    """Judge a network as the command line asks; print the table; return the exit code."""
    parser = argparse.ArgumentParser(prog="make evaluate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, type=Path, help="the exported network, an ONNX file")
    parser.add_argument("--data", required=True, type=Path, help="folder of the data set")
    parser.add_argument("--format", default="", help="the folder's layout; found out where it is not given")
    parser.add_argument("--part", default="", help="the data set's own name of the part to read, such as val")
    parser.add_argument("--taxonomy", default="", help="the network's classes, for a file that does not tell")
    parser.add_argument("--champion", type=Path, help="another ONNX file to compare with")
    parser.add_argument("--out", type=Path, help="where the result goes; default runs/evaluate/MODEL-DATA")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a field of JudgeParameters")
    options = parser.parse_args(arguments)
    out = options.out or Path("runs/evaluate") / f"{options.model.stem}-{options.data.resolve().name}"
    try:
        if options.champion and not options.champion.is_file():
            raise InputError(f"CHAMPION={options.champion}: no such file; give an exported network")
        given = {}
        for item in options.set:
            name, separator, value = item.partition("=")
            if not separator:
                raise InputError(f"SET={item}: must be NAME=VALUE, such as minimum_frames=5")
            given[name.removeprefix("evaluate.")] = parse_value(value, item)
        figures = evaluate(
            options.model, options.data, out, format=options.format, part=options.part, taxonomy=options.taxonomy,
            champion=options.champion, given=given,
        )  # fmt: skip
    except InputError as error:
        print(f"nightdrive: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    print(table(figures, out))
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
