"""What Kubeflow's own pages show of a step: a page as one file, figures and a confusion matrix as metadata."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.stage.declaration import Page
from perception.data.files import replace_file


def show(page: Page, source: Path, target: Path) -> dict[str, Any]:
    """Return the metadata of a page's artifact; of HTML and Markdown write the file itself, in one piece.

    source: the file that the stage gave. target: where Kubeflow takes the artifact from.
    """
    if page.kind == "Metrics":
        return dict(numbers(json.loads(source.read_text())))
    if page.kind == "ClassificationMetrics":
        return confusion(json.loads(source.read_text()))
    replace_file(target, source.read_bytes())
    return {}


def numbers(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number of nested mappings with its dotted name."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", value


def confusion(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a confusion matrix as Kubeflow wants it; content: classes (names) and rows (true class by row, counts)."""
    return {
        "confusionMatrix": {
            "annotationSpecs": [{"displayName": name} for name in content["classes"]],
            "rows": [{"row": row} for row in content["rows"]],
        }
    }
