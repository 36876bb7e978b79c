"""Read a night's folders into the plain values that the report page shows; what is not there yet is left out."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.contract import RECORDS_VARIABLE, Paths
from components.report import GATES, ReportParameters
from perception.data.decoding import decode_image, decode_label
from perception.data.manifest import read_manifest
from perception.data.store import Store, open_store
from perception.data.taxonomies import apply_lookup, label_lookup, load_taxonomy
from perception.errors import InputError
from perception.reporting import charts, page
from perception.reporting.summary import (
    AdaptationFigures,
    DataFigures,
    EvaluationFigures,
    GateFigures,
    ModelFigures,
    NightSummary,
    PromotionFigures,
    SelectionFigures,
    StageFigures,
)

VERDICT_WORDS = {"pass": "passed", "warn": "passed", "refuse": "refused"}
SHOWN_CHOSEN, SHOWN_OFFENDERS = 24, 8


def gather_night(inputs: Paths, parameters: ReportParameters) -> page.NightReport:
    """Return everything that the report shows of the night."""
    pictures = _Pictures(inputs, parameters)
    records = _records()
    status, culprit, message = _outcome(records, parameters)
    summary = NightSummary(
        run=parameters.run,
        status=status,
        profile=parameters.profile,
        seconds=round(sum(record["seconds"] for record in records), 1) if records else None,
        stages=tuple(
            StageFigures(name=each["name"], status=each["status"], seconds=each["seconds"], peak_rss_mib=each["peak_rss_mib"])
            for each in records
        ),
        selection=_selection_figures(inputs),
        data=_data_figures(inputs),
        adaptation=_adaptation_figures(inputs),
        model=_model_figures(inputs),
        evaluation=_evaluation_figures(inputs),
        gates=tuple(_gate_figures(name, verdict) for name, verdict in _verdicts(inputs).items()),
        promotion=_promotion(inputs),
    )
    taxonomy = load_taxonomy(parameters.taxonomy)
    return page.NightReport(
        summary=summary,
        taxonomy=page.Taxonomy(classes=taxonomy.classes, colors=taxonomy.colors, foreground=taxonomy.foreground),
        failed_stage=culprit if status == "failed" else None,
        refused_gate=culprit if status == "refused" else None,
        error_lines=(message,) if message else (),
        selection=_selection_panel(inputs, pictures),
        adaptation=_adaptation_panel(inputs, pictures),
        model=_model_panel(inputs),
        evaluation=_evaluation_panel(inputs, pictures),
        reproduce_command=_reproduce_command(inputs, parameters),
        gates=tuple(_gate_panel(name, verdict, pictures) for name, verdict in _verdicts(inputs).items()),
        **_rejected(inputs),
        parameters={},
        lineage=_lineage(inputs),
    )
