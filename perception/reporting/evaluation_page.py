"""The page of an evaluation that stands alone, and the pictures that it shares with a night's report."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from perception.data.tables import read_table
from perception.data.taxonomies import Taxonomy
from perception.reporting import evaluation_panel, page

Picture = NDArray[np.uint8]
CROPS_A_CLUSTER = 8
TESTED_COLUMNS = {"frame_id": "text", "miou": "number?", "condition": "text"}  # of frames.parquet
REGION_COLUMNS = {"frame_id": "text", **dict.fromkeys(("cluster", "x", "y", "width", "height"), "whole number")}
_OUTLINE = (232, 93, 70)


class ShownFrames(Protocol):
    """Give image and label of a frame by its number, at their own size."""

    def full_image(self, index: int) -> Picture: ...
    def full_label(self, index: int) -> Picture: ...


def render_evaluation(
    figures: Mapping[str, Any], taxonomy: Taxonomy, folder: Path, frames: ShownFrames, title: str, format: str
) -> str:
    """Render an evaluation as one HTML file that needs nothing else, below 3 MB.

    figures: the content of evaluation.json; folder: where frames.parquet, regions.parquet and predictions/ lie; frames:
    in the order of frames.parquet.
    """
    table = read_table(folder / "frames.parquet", TESTED_COLUMNS)
    number = {frame_id: index for index, frame_id in enumerate(table.frame_id)}

    def image(frame_id: str) -> Picture:
        return frames.full_image(number[frame_id])

    tested = tested_frames(table, folder / "predictions", lambda frame_id: frames.full_label(number[frame_id]), image)
    regions = read_table(folder / "regions.parquet", REGION_COLUMNS)
    clusters = failure_clusters(regions, figures["failure_clusters"], image)
    environment = page.template_environment()
    shown = {"title": title, "format": format, "taxonomy": taxonomy, "e": figures, "clusters": clusters}
    shown |= {"frames": tested}
    shown |= {"worst": next((row for row in figures["slices"] if row["known"]), None), "limits": page.LIMITS}
    shown |= {"chart": evaluation_panel.evaluation_charts(figures)}
    shown |= {"class_chart": evaluation_panel.class_chart(figures)}

    def render(width_share: float, picture_bytes: int) -> str:
        environment.filters |= page.picture_filters(taxonomy, width_share, picture_bytes)
        return environment.get_template("evaluation_page.html").render(**shown)

    return page.fitting(render, f"report of {title}")


def tested_frames(
    scores: pd.DataFrame, predictions: Path, label: Callable[[str], Picture], image: Callable[[str], Picture]
) -> tuple[page.TestedFrame, ...]:
    """Return worst, median and best frames with their predictions.

    scores: frame_id, miou, condition; predictions: the folder of FRAME_ID.png; label, image: by frame_id.
    """
    ordered = scores.dropna(subset=["miou"]).sort_values(["miou", "frame_id"], ignore_index=True)
    middle = len(ordered) // 2
    picks = [("worst", ordered.head(3)), ("median", ordered.iloc[middle : middle + 2]), ("best", ordered.tail(2))]
    return tuple(
        page.TestedFrame(
            frame_id=row.frame_id,
            note=note,
            image=image(row.frame_id),
            label=label(row.frame_id),
            prediction=np.asarray(Image.open(predictions / f"{row.frame_id}.png")),
            miou=float(row.miou),
            conditions=row.condition,
        )
        for note, rows in picks
        for row in rows.itertuples()
    )


def failure_clusters(
    regions: pd.DataFrame, clusters: Sequence[Mapping[str, Any]], image: Callable[[str], Picture]
) -> tuple[Mapping[str, Any], ...]:
    """Return clusters of wrong regions, each with its largest regions cut out; regions: as regions.parquet holds them."""
    shown = []
    for number, cluster in enumerate(clusters):
        rows = regions[regions.cluster == number].head(CROPS_A_CLUSTER)
        crops = tuple(
            page.Crop(frame_id=row.frame_id, image=_cut_out(image(row.frame_id), (row.x, row.y, row.width, row.height)))
            for row in rows.itertuples()
        )
        shown.append({**cluster, "crops": crops})
    return tuple(shown)


def _cut_out(image: Picture, box: tuple[int, int, int, int]) -> Picture:
    """Cut a box with some of its surroundings out of an image (height, width, 3), as 3:2, and draw its outline."""
    height, width = image.shape[:2]
    x, y, w, h = box
    wide = min(width, max(1.5 * w, 2.25 * h, width / 5))
    high = min(height, wide / 1.5)
    left = int(np.clip(x + w / 2 - wide / 2, 0, width - wide))
    top = int(np.clip(y + h / 2 - high / 2, 0, height - high))
    picture = Image.fromarray(image)
    outline = (x, y, x + w - 1, y + h - 1)
    ImageDraw.Draw(picture).rectangle(outline, outline=_OUTLINE, width=max(1, round(wide / 150)))
    cut: Picture = np.asarray(picture)[top : top + max(1, int(high)), left : left + max(1, int(wide))]
    return cut
