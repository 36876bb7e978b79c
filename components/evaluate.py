"""evaluate: judge the network that ships on the frozen test set, whole and by condition, against the champion."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.contract import Needs, Paths, Port, Stage, log, progress_line
from components.learning import FrameParameters, read_frames, write_json
from components.parameters import require

if TYPE_CHECKING:
    import pandas as pd

    from perception.metrics.segmentation import SegmentationScore


@dataclass(frozen=True, kw_only=True)
class EvaluateParameters(FrameParameters):
    """Say when a frame has failed and when a network is worse than the champion."""

    batch_frames: int = 8  # frames in memory at once
    failure_pixel_accuracy: float = 0.5  # a frame with a smaller share of right pixels counts as failed
    regression_margin: float = (
        0.02  # mIoU by which the network may fall behind the champion, overall and in any condition
    )
    least_miou: float = 0.05  # below this, overall or in a condition, the gate refuses
    minimum_frames: int = 10  # conditions with fewer test frames are unknown, and judged neither way

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.batch_frames >= 1, "batch_frames", self.batch_frames, "must be at least 1")
        accuracy = self.failure_pixel_accuracy
        require(0 < accuracy < 1, "failure_pixel_accuracy", accuracy, "must lie in (0, 1)")
        require(self.regression_margin >= 0, "regression_margin", self.regression_margin, "must not be negative")
        require(self.minimum_frames >= 1, "minimum_frames", self.minimum_frames, "must be at least 1")


def run(inputs: Paths, outputs: Paths, parameters: EvaluateParameters) -> None:
    """Write evaluation.json, frames.parquet, the confusion matrix and every prediction of the shipped network."""
    parameters.prepare()
    folder, frames = outputs.one("evaluation"), read_frames(inputs)
    test = frames[frames.split == "test"].reset_index(drop=True)
    shipped = _score(
        test,
        onnx_predictor(inputs.one("compressed") / "model.onnx", parameters.threads),
        parameters,
        "evaluate",
        folder,
    )
    champion_file = inputs.one("base") / "champion.onnx"
    champion = (
        _score(test, onnx_predictor(champion_file, parameters.threads), parameters, "champion")
        if champion_file.exists()
        else None
    )
    figures = _figures(shipped, parameters) | {
        "miou_champion": champion.miou() if champion else None,
        "promotion": decide(shipped, champion, parameters),
    }
    write_json(folder / "evaluation.json", figures)
    _gate_rows(figures, parameters).to_parquet(folder / "gate.parquet", index=False)
    log(
        f"mIoU {figures['miou']:.3f} on {figures['frames']} frames; {figures['promotion']['decision']}: {figures['promotion']['reason']}"
    )


def onnx_predictor(model: Path, threads: int) -> Any:
    """Return the function that gives an exported network's logits for images, run by onnxruntime."""
    from perception.compression.export import open_session

    session = open_session(model, threads)
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def decide(
    shipped: "SegmentationScore", champion: "SegmentationScore | None", parameters: EvaluateParameters
) -> dict[str, str]:
    """Compare with the champion, overall and in every condition that has enough frames: promote, or refuse with the reason."""
    if champion is None:
        return {"decision": "promote", "reason": "there is no champion yet"}
    known = [name for name, count in shipped.frames_by_slice.items() if count >= parameters.minimum_frames]
    ours, theirs = (
        shipped.miou_by_slice() | {"overall": shipped.miou()},
        champion.miou_by_slice() | {"overall": champion.miou()},
    )
    losses = {name: theirs[name] - ours[name] for name in ["overall", *sorted(known)]}
    worst = max(losses, key=lambda name: losses[name])
    if losses[worst] > parameters.regression_margin:
        return {
            "decision": "refuse",
            "reason": f"{worst}: mIoU {ours[worst]:.3f}, champion {theirs[worst]:.3f}, margin {parameters.regression_margin}",
        }
    return {
        "decision": "promote",
        "reason": f"no condition is worse than the champion by more than {parameters.regression_margin}",
    }


def _score(
    test: "pd.DataFrame", predict: Any, parameters: EvaluateParameters, what: str, folder: Path | None = None
) -> "SegmentationScore":
    import numpy as np

    from perception.metrics.segmentation import evaluate_frames

    on_prediction = _keeper(folder / "predictions") if folder else None
    score = evaluate_frames(
        parameters.frame_set(test),
        test,
        predict,
        len(parameters.class_names()),
        batch_frames=parameters.batch_frames,
        on_prediction=on_prediction,
        progress=progress_line(what),
    )
    if folder:
        np.save(folder / "confusion.npy", score.confusion)
        score.frames.to_parquet(folder / "frames.parquet", index=False)
    return score


def _keeper(folder: Path) -> Any:
    """Return the function that writes a frame's prediction into `folder`, for whoever wants to count again."""
    from PIL import Image

    folder.mkdir()
    return lambda frame_id, prediction: Image.fromarray(prediction).save(folder / f"{frame_id}.png")


def _figures(score: "SegmentationScore", parameters: EvaluateParameters) -> dict[str, Any]:
    from perception.metrics.bounds import failure_rate_upper

    failures = int((score.frames.pixel_accuracy < parameters.failure_pixel_accuracy).sum())
    return {
        "miou": score.miou(),
        "iou_by_class": score.iou_by_class(parameters.class_names()),
        "miou_by_condition": score.miou_by_slice(),
        "frames_by_condition": score.frames_by_slice,
        "frames": len(score.frames),
        "failures": failures,
        "failure_rule": f"fewer than {parameters.failure_pixel_accuracy:.0%} of the labelled pixels are right",
        "failure_rate_upper_95": failure_rate_upper(failures, len(score.frames), 0.95),
    }


def _gate_rows(figures: dict[str, Any], parameters: EvaluateParameters) -> "pd.DataFrame":
    """Return the figures that the gate judges: mIoU overall and by condition, and how many frames stand behind each."""
    from perception.quality.metrics_table import metric_rows

    least = parameters.least_miou
    rows = [
        {"stage": "evaluate", "metric": "miou", "value": figures["miou"], "lower": least, "upper": 1.0},
        {
            "stage": "evaluate",
            "metric": "frames",
            "value": float(figures["frames"]),
            "lower": float(parameters.minimum_frames),
        },
        {
            "stage": "evaluate",
            "metric": "failure_rate_upper_95",
            "value": figures["failure_rate_upper_95"],
            "lower": 0.0,
            "upper": 1.0,
        },
    ]
    for name, value in figures["miou_by_condition"].items():
        if figures["frames_by_condition"][name] >= parameters.minimum_frames:
            rows.append(
                {"stage": "evaluate", "metric": "miou", "slice": name, "value": value, "lower": least, "upper": 1.0}
            )
    return metric_rows(rows)


STAGE = Stage(
    name="evaluate",
    summary="Judge the shipped network on the frozen test set, by class and condition, against the champion.",
    inputs=(
        Port(name="frames", kind="frames", about="the night's frames"),
        Port(name="base", kind="version", about="the data version that the night starts from, with the champion"),
        Port(name="compressed", kind="network", about="the exported network"),
    ),
    outputs=(Port(name="evaluation", kind="metrics", about="figures, predictions and the promotion decision"),),
    parameters=EvaluateParameters,
    needs=Needs(image="torch", loads="torch", cpu_cores=2, memory_gib=4, gpu_count=1),
    run=run,
)
