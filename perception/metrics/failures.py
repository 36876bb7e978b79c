"""Find where a network fails: the largest wrong regions of its worst frames, gathered into clusters, and asked for again."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from perception.data.taxonomies import IGNORE

MAX_WEIGHT = 3.0
_LEAST_SHARE = 0.3  # a value that fewer of a cluster's frames have says nothing of the cluster
_LEAST_LIFT = 1.2  # a condition is asked for when failures have it this much more often than the test set


@dataclass(frozen=True, eq=False, kw_only=True)
class Region:
    """Hold one connected region of wrong pixels: its box (x, y, width, height) in pixels and what was taken for what."""

    frame_id: str
    box: tuple[int, int, int, int]
    pixels: int
    share: float  # of the frame's judged pixels
    label: int  # class id that most of its pixels have
    predicted: int  # class id that most of its pixels were taken for
    features: NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Cluster:
    """Gather regions that look alike; regions: the largest first."""

    name: str
    regions: tuple[Region, ...]
    label: int
    predicted: int
    share: float  # of the wrong pixels in all regions found


def wrong_regions(
    frame_id: str,
    image: NDArray[np.uint8],
    label: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    classes: int,
    *,
    most: int = 3,
    least_share: float = 0.002,
) -> list[Region]:
    """Find the largest regions of wrong pixels in a frame, of one true class and one predicted class each.

    image: (height, width, 3) uint8; label, prediction: (height, width) uint8, 255 in label = not judged. A region's
    least share of the judged pixels is `least_share`; at most `most` come back, the largest first. Features describe
    what it is, what it was taken for, where it lies and how it looks: (feature,) float64.
    """
    judged = label != IGNORE
    wrong = judged & (label != prediction)
    if not wrong.any():
        return []
    pairs = label.astype(np.int64)[wrong] * classes + prediction[wrong]
    found = []
    for pair, _ in Counter(pairs.tolist()).most_common(2 * most):
        truth, guess = divmod(pair, classes)
        mask = (wrong & (label == truth) & (prediction == guess)).astype(np.uint8)
        _, marks, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        for number in np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")[:most] + 1:
            pixels = int(stats[number, cv2.CC_STAT_AREA])
            if pixels >= max(1.0, least_share * judged.sum()):
                x, y, w, h = (int(value) for value in stats[number, :4])
                features = _features(image, marks == number, (x, y, w, h), truth, guess, classes)
                found.append(
                    Region(
                        frame_id=frame_id, box=(x, y, w, h), pixels=pixels, share=pixels / int(judged.sum()),
                        label=truth, predicted=guess, features=features,
                    )
                )  # fmt: skip
    return sorted(found, key=lambda region: (-region.pixels, region.box))[:most]


def _features(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], box: tuple[int, ...], truth: int, guess: int, classes: int
) -> NDArray[np.float64]:
    """Describe a region in numbers of about the same weight: both classes, place, size, colour, contrast, sharpness."""
    height, width = mask.shape
    x, y, w, h = box
    kinds = np.zeros(2 * classes)
    kinds[truth], kinds[classes + guess] = 1.0, 1.0
    pixels = image[mask].astype(np.float64) / 255
    grey = cv2.cvtColor(image[y : y + h, x : x + w], cv2.COLOR_RGB2GRAY)
    edges = float(np.log1p(cv2.Laplacian(grey, cv2.CV_64F).var())) / 10
    place = [(x + w / 2) / width, (y + h / 2) / height, np.sqrt(w * h / (width * height))]
    return np.concatenate([kinds, place, pixels.mean(axis=0), pixels.std(axis=0), [edges]])


def cluster_regions(regions: Sequence[Region], classes: Sequence[str], most: int = 6) -> list[Cluster]:
    """Gather regions into at most `most` clusters by Ward's linkage on their features, those with most pixels first."""
    if not regions:
        return []
    points = np.stack([region.features for region in regions])
    marks = fcluster(linkage(points, "ward"), most, "maxclust") if len(regions) > 1 else np.array([1])
    total = sum(region.pixels for region in regions)
    clusters = []
    for mark in np.unique(marks):
        members = sorted((r for r, m in zip(regions, marks, strict=True) if m == mark), key=lambda r: -r.pixels)
        pairs: Counter[tuple[int, int]] = Counter()
        for region in members:
            pairs[region.label, region.predicted] += region.pixels
        (truth, guess), _ = pairs.most_common(1)[0]
        share = sum(region.pixels for region in members) / total
        name = f"{classes[truth]} taken for {classes[guess]}"
        clusters.append(Cluster(name=name, regions=tuple(members), label=truth, predicted=guess, share=share))
    return sorted(clusters, key=lambda cluster: (-cluster.share, cluster.name))


def failure_queries(clusters: Sequence[Cluster], frames: pd.DataFrame, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Turn clusters into queries for tomorrow's selection: the condition that sets their frames most apart, and a weight.

    frames: one row a test frame with frame_id and `columns`. A cluster whose frames are no different from the others in
    any condition asks for nothing. The weight is the condition's lift among the failures (its share there over its share
    in the test set, less 1) times the root of the cluster's share of wrong pixels, at most MAX_WEIGHT.
    """
    about = frames.set_index("frame_id")
    queries = []
    for cluster in clusters:
        members = about.loc[sorted({region.frame_id for region in cluster.regions})]
        lifts = (_lift(members, about, column) for column in columns)
        lift, column, value = max(lifts, default=(0.0, "", ""), key=lambda each: each[0])
        if lift >= _LEAST_LIFT:
            weight = min(MAX_WEIGHT, (lift - 1.0) * float(np.sqrt(cluster.share)))
            text = f"{cluster.name}: {len(cluster.regions)} regions, {lift:.1f} times as often in {column} {value}"
            queries.append({"where": {column: value}, "weight": round(weight, 4), "about": text})
    return queries


def _lift(members: pd.DataFrame, everything: pd.DataFrame, column: str) -> tuple[float, str, str]:
    """Give how much more often the members have their most over-represented value than all frames do."""
    best = (0.0, column, "")
    for value, count in members[column].value_counts().items():
        usual = float((everything[column] == value).mean())
        # Two frames as usual are added to the members, so that a cluster of one or two frames cannot shout.
        share = (count + 2 * usual) / (len(members) + 2)
        if count / len(members) >= _LEAST_SHARE:
            best = max(best, (share / usual, column, str(value)))
    return best
