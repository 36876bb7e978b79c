"""evaluate: judge the network that ships on the frozen test set, whole and by condition, against the champion."""

import json
from datetime import date
from typing import Any

from components.evaluate.parameters import JudgeParameters
from components.stage.declaration import FRAMES, Needs, Page, Paths, Port, Stage
from components.stage.learning import fresh_evidence, open_frames, read_frames
from components.stage.records import log
from perception.parameters import Fraction, checked


@checked
class EvaluateParameters(JudgeParameters):
    """Say what is measured, when a network is worse than the champion, and what the gate refuses."""

    least_miou: Fraction = 0.05  # below this, overall or in a condition, the gate refuses


def run(inputs: Paths, outputs: Paths, parameters: EvaluateParameters) -> dict[str, Any]:
    """Write evaluation.json, frames.parquet, the confusion matrix, every prediction, and the query for tomorrow, which val frames and
    fresh footage ask for; tell the verdict.
    """
    import pandas as pd

    from components.evaluate.judging import SINCE, gate_rows, judge
    from perception.data.conditions import as_judged
    from perception.training.setup import set_threads

    set_threads(parameters.threads)
    folder, frames = outputs.one("evaluation"), read_frames(inputs)
    night = date.fromisoformat(json.loads((inputs.one("base") / "night.json").read_text())["date"])
    fresh = as_judged(fresh_evidence(inputs))
    steering = pd.concat([as_judged(frames[frames.split == "val"]), fresh], ignore_index=True)
    test = as_judged(frames[frames.split == "test"]).reset_index(drop=True)
    figures = judge(
        open_frames(test, parameters),
        test,
        inputs.one("compressed") / "model.onnx",
        parameters,
        folder,
        champion=inputs.one("base") / "champion.onnx",
        reference=inputs.one("base") / "reference.onnx",
        night=night,
        store=parameters.store,
        fresh=(open_frames(fresh, parameters), fresh),
        steering=(open_frames(steering, parameters), steering),
    )
    rows = gate_rows(figures, parameters.least_miou, parameters.minimum_frames)
    rows.to_parquet(folder / "gate.parquet", index=False)
    promotion = figures["promotion"]
    log(f"mIoU {figures['miou']:.3f} on {figures['frames']} frames; {promotion['decision']}: {promotion['reason']}")
    return {
        "miou": figures["miou"],
        "miou_by_condition": figures["miou_by_condition"],
        "verdict": promotion["decision"],
        **{f"fresh_{name}": value for name, value in figures["fresh"].items()},
        **{name: promotion.get(name) for name in ("reference", *SINCE)},
    }


STAGE = Stage(
    name="evaluate",
    summary="Judge the shipped network on the frozen test set, by class and condition, against the champion.",
    inputs=(
        FRAMES,
        Port(name="base", about="the data version that the night starts from, with the champion"),
        Port(name="compressed", about="the exported network"),
    ),
    outputs=(
        Port(
            name="evaluation", about="figures, predictions, the promotion decision, tomorrow's query", gate_table=True
        ),
    ),
    pages=(Page(name="confusion", kind="ClassificationMetrics", port="evaluation", file="confusion.json"),),
    parameters=EvaluateParameters,
    needs=Needs(image="torch", loads="torch", cpu_cores=2, memory_gib=4, gpu_count=1),
    run=run,
)
