"""`make evaluate`: judge an exported network on any data set of a known format, with nothing but the ONNX file.

The classes are read from the file's metadata, which every night's export writes; TAXONOMY= names them for a file of
another tool. The result is a folder with report.html, evaluation.json, every prediction and the failures found.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.evaluate.judging import judge
from components.evaluate.parameters import JudgeParameters
from components.stage.execution import place_folder
from components.stage.parameters import build_parameters, parse_value
from components.stage.records import log
from perception.errors import InputError

RESULT = "evaluation.json"
LEFT_OUT_SHOWN = 8  # lines of the printed table


def evaluate_folder(
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
    from perception.training.setup import set_threads

    if out.exists() and not (out / RESULT).is_file():
        raise InputError(f"{out}: exists and is no earlier result of this command; remove it or name another with OUT=")
    if any(parent.exists() and not parent.is_dir() for parent in out.parents):
        raise InputError(f"{out}: a part of this path is a file; name another place with OUT=")
    network = describe_network(model, taxonomy, "MODEL")
    _check_champion(champion, network, taxonomy)
    parameters = build_parameters(
        JudgeParameters, {"store": "-", "seed": 0, **(given or {}), **network}, where="evaluate"
    )
    set_threads(parameters.threads)
    if not data.is_dir():
        raise InputError(f"DATA={data}: no such folder; give the folder that holds the data set")
    settings = LoadSettings(height_px=parameters.height_px, width_px=parameters.width_px, taxonomy=parameters.taxonomy)
    try:
        reader = open_reader(format) if format else recognise_format(data, part or None)
        found = list(reader.frames(data, part or None, False))
        frames, broken = FolderFrames(reader, found, settings).without_broken()
    except OSError as error:
        raise InputError(
            f"{error.filename or data}: {error.strerror}; make it readable, or name another place"
        ) from None
    left_out = [{"path": frame.image_name, "rule": "has no label"} for frame in found if frame.label_path is None]
    left_out += [{"path": str(each.path), "rule": each.rule} for each in broken]
    log(f"{model.name} on {len(frames)} of {len(found)} frames of {data} ({reader.name})")
    working = _working_folder(out)
    try:
        figures = judge(frames, frames.about(), model, parameters, working, champion=champion, left_out=left_out)
        page = render_evaluation(
            figures, load_taxonomy(parameters.taxonomy), working, frames, f"{model.name} on {data.name}", reader.name
        )
        (working / "report.html").write_text(page, encoding="utf-8")
        place_folder(working, out)
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return figures


def judge_fields(overrides: Sequence[str]) -> dict[str, Any]:
    """Return overrides NAME=VALUE as fields of JudgeParameters; raises InputError for what is none."""
    fields = {}
    for override in overrides:
        name, separator, value = override.partition("=")
        if not separator:
            raise InputError(f"SET={override}: must be NAME=VALUE, such as minimum_frames=5")
        fields[name.removeprefix("evaluate.")] = parse_value(value, override)
    return fields


def describe_network(model: Path, taxonomy: str, what: str) -> dict[str, Any]:
    """Read what an ONNX file tells of its network: taxonomy, height_px, width_px and, where it is fixed, the batch size.

    what: the file's name in messages. Raises InputError for a file that is missing, no segmentation network of one colour
    image input and one output, or silent about its classes while none are named.
    """
    from perception.compression.export import open_session, read_metadata

    if not model.is_file():
        raise InputError(f"{what}={model}: no such file; give an exported network")
    try:
        session = open_session(model)
    except Exception as error:  # onnxruntime raises a family of its own
        raise InputError(
            f"{what}={model}: onnxruntime cannot open it ({' '.join(str(error).split())[:200]}); export the network again"
        ) from None
    shapes = _shapes(session, f"{what}={model}")
    name = _taxonomy_of(read_metadata(session), shapes[1][1], taxonomy, f"{what}={model}")
    found = {"taxonomy": name, "height_px": shapes[0][2], "width_px": shapes[0][3]}
    return found | ({"latency_batch_frames": (shapes[0][0],)} if isinstance(shapes[0][0], int) else {})


def _shapes(session: Any, what: str) -> tuple[list[Any], list[Any]]:
    """Return the shapes of the one input and the one output; raise InputError for those of no segmentation network."""
    taken, given = session.get_inputs(), session.get_outputs()
    shapes = [entry.shape for entry in (*taken, *given)]
    if not all(output.type in ("tensor(float)", "tensor(float16)", "tensor(double)") for output in given):
        found = ", ".join(f"{output.type} {output.shape}" for output in given)
        raise InputError(
            f"{what}: gives {found}, must give logits, one a class; export it without the argmax or mask at its end"
        )
    if len(taken) != 1 or len(given) != 1 or {len(shape) for shape in shapes} != {4}:
        raise InputError(
            f"{what}: must take one image batch and give one batch of logits, takes and gives {shapes}; export it with "
            "these alone"
        )
    if taken[0].type != "tensor(float)" or shapes[0][1] != 3:
        raise InputError(
            f"{what}: takes {taken[0].type} of shape {shapes[0]}, must take float32 RGB images (frame, 3, height, width)"
        )
    if not all(isinstance(size, int) for size in shapes[0][2:]):
        raise InputError(f"{what}: its input size {shapes[0]} is free; export it at a fixed height and width")
    return shapes[0], shapes[1]


def _taxonomy_of(told: Mapping[str, str], outputs: Any, named: str, what: str) -> str:
    """Return the taxonomy that is named, or else told by the file, once it fits the network's outputs."""
    from perception.data.taxonomies import load_taxonomy, taxonomy_names

    name = named or told.get("taxonomy", "")
    known = ", ".join(taxonomy_names())
    if not name:
        raise InputError(f"{what}: does not say what its classes are; name them with TAXONOMY=, one of {known}")
    if name not in taxonomy_names():
        said = "TAXONOMY=" if named else f"{what}: its file says taxonomy "
        raise InputError(f"{said}{name!r} is unknown; name its classes with TAXONOMY=, one of {known}")
    classes = load_taxonomy(name).classes
    if isinstance(outputs, int) and outputs != len(classes):
        raise InputError(f"{what}: gives {outputs} classes, but taxonomy {name} has {len(classes)}; name another one")
    if "classes" in told and not named and _listed(told["classes"]) != list(classes):
        raise InputError(
            f"{what}: its file names classes {told['classes'][:200]}, but taxonomy {name} is now {json.dumps(classes)}; "
            f"if they mean the same, say TAXONOMY={name}"
        )
    return name


def _listed(classes: str) -> list[str] | None:
    """Return the list that JSON text holds, None where it holds none."""
    try:
        found = json.loads(classes)
    except ValueError:
        return None
    return found if isinstance(found, list) else None


def _check_champion(champion: Path | None, network: Mapping[str, Any], taxonomy: str) -> None:
    """Raise InputError for a champion that cannot be judged on the frames and classes of the network."""
    if champion is None:
        return
    theirs = describe_network(champion, taxonomy, "CHAMPION")
    for name in ("taxonomy", "height_px", "width_px"):
        if theirs[name] != network[name]:
            raise InputError(
                f"CHAMPION={champion}: its {name} is {theirs[name]}, MODEL's is {network[name]}; only networks of one "
                "size and taxonomy can be compared"
            )


def _working_folder(out: Path) -> Path:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"{out.parent}: {error.strerror}; make it writable, or name another place with OUT=") from None


def figures_table(figures: Mapping[str, Any], out: Path) -> str:
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
        f"{figures['failures']} of {figures['judged']}, at most {figures['failure_rate_upper_95']:.3f} of such frames"
    )
    promotion = figures["promotion"]
    rows += _frame_rows(figures)
    rows += [("failed frames", failed), ("decision", f"{promotion['decision']}: {promotion['reason']}")]
    rows += [("report", str(out / "report.html"))]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _frame_rows(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say how many frames were found, judged and left out, and of the first of those why."""
    left_out = figures["left_out"]
    counted = f"{figures['found']} found, {figures['judged']} judged, {len(left_out)} left out"
    shown = [("left out", f"{each['path']}: {each['rule']}") for each in left_out[:LEFT_OUT_SHOWN]]
    more = len(left_out) - len(shown)
    return [("frames", counted), *shown, *([("", f"and {more} more, all in {RESULT}")] if more else [])]


def _three(value: float | None) -> str:
    return "nan" if value is None else f"{value:5.3f}"


def _between(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"
