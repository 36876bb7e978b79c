"""The page of an evaluation that stands alone, and the pictures that it shares with a night's report."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from perception.data.taxonomies import Taxonomy
from perception.errors import InputError
from perception.reporting import evaluation_panel, page

Picture = NDArray[np.uint8]
CROPS_A_CLUSTER = 8
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
    table = pd.read_parquet(folder / "frames.parquet")
    number = {frame_id: index for index, frame_id in enumerate(table.frame_id)}
    tested = tested_frames(
        table,
        folder / "predictions",
        lambda frame_id: frames.full_label(number[frame_id]),
        lambda frame_id: frames.full_image(number[frame_id]),
    )
    clusters = failure_clusters(
        pd.read_parquet(folder / "regions.parquet"),
        figures["failure_clusters"],
        lambda frame_id: frames.full_image(number[frame_id]),
    )
    for width_share, picture_bytes in page.PICTURE_LEVELS:
        environment = page.template_environment()
        environment.filters.update(page.picture_filters(taxonomy, width_share, picture_bytes))
        html = environment.get_template("evaluation_page.html").render(
            e=figures,
            title=title,
            format=format,
            taxonomy=taxonomy,
            worst=next((row for row in figures["slices"] if row["known"]), None),
            chart=evaluation_panel.evaluation_charts(figures),
            class_chart=_class_chart(figures),
            clusters=clusters,
            frames=tested,
            limits=evaluation_panel.LIMITS,
        )
        if len(html.encode()) <= page.MAX_PAGE_BYTES:
            return html
    raise InputError(f"report of {title} is above {page.MAX_PAGE_BYTES} bytes without its pictures; judge fewer slices")


def _class_chart(figures: Mapping[str, Any]) -> Any:
    champion = (figures["comparison"] or {}).get("champion_iou_by_class", {})
    return evaluation_panel.class_chart(figures["iou_by_class"], figures["iou_interval_by_class"], champion)


def tested_frames(
    scores: pd.DataFrame, predictions: Path, label: Callable[[str], Picture], image: Callable[[str], Picture | None]
) -> tuple[page.TestedFrame, ...]:
    """Return worst, median and best frames with their predictions.

    scores: frame_id, miou, condition; predictions: the folder of FRAME_ID.png; label, image: by frame_id.
    """
    ordered = scores.dropna(subset=["miou"]).sort_values(["miou", "frame_id"], ignore_index=True)
    middle = len(ordered) // 2
    picks = [("worst", ordered.head(3)), ("median", ordered.iloc[middle : middle + 2]), ("best", ordered.tail(2))]
    shown = []
    for note, rows in picks:
        for row in rows.itertuples():
            pixels = image(row.frame_id)
            assert pixels is not None
            shown.append(
                page.TestedFrame(
                    frame_id=row.frame_id,
                    note=note,
                    image=pixels,
                    label=label(row.frame_id),
                    prediction=np.asarray(Image.open(predictions / f"{row.frame_id}.png")),
                    miou=float(row.miou),
                    conditions=row.condition,
                )
            )
    return tuple(shown)


def failure_clusters(
    regions: pd.DataFrame, clusters: Sequence[Mapping[str, Any]], image: Callable[[str], Picture | None]
) -> tuple[page.FailureCluster, ...]:
    """Return clusters of wrong regions, each with its largest regions cut out; regions: as regions.parquet holds them."""
    shown = []
    for number, cluster in enumerate(clusters):
        rows = regions[regions.cluster == number].head(CROPS_A_CLUSTER)
        crops = []
        for row in rows.itertuples():
            pixels = image(row.frame_id)
            assert pixels is not None
            crops.append(
                page.Crop(frame_id=row.frame_id, image=_cut_out(pixels, (row.x, row.y, row.width, row.height)))
            )
        shown.append(
            page.FailureCluster(
                name=cluster["name"],
                share=cluster["share"],
                regions=cluster["regions"],
                frames=cluster["frames"],
                crops=tuple(crops),
            )
        )
    return tuple(shown)


def _cut_out(image: Picture, box: tuple[int, int, int, int]) -> Picture:
    """Cut a box with some of its surroundings out of an image (height, width, 3), as 3:2, and draw its outline."""
    height, width = image.shape[:2]
    x, y, w, h = box
    wide = min(width, max(1.5 * w, 2.25 * h, width / 5))
    high = min(height, wide / 1.5)
    left = int(np.clip(x + w / 2 - wide / 2, 0, width - wide))
    top = int(np.clip(y + h / 2 - high / 2, 0, height - high))
    marked = image.copy()
    thick = max(1, round(wide / 150))
    for rows, columns in (
        (slice(y, y + thick), slice(x, x + w)), (slice(y + h - thick, y + h), slice(x, x + w)),
        (slice(y, y + h), slice(x, x + thick)), (slice(y, y + h), slice(x + w - thick, x + w)),
    ):  # fmt: skip
        marked[rows, columns] = _OUTLINE
    cut: Picture = marked[top : top + max(1, int(high)), left : left + max(1, int(wide))]
    return cut
