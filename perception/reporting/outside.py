"""What other systems are told of a night, where the environment names them: people in a channel, MLflow, Prometheus.

An address lets whoever knows it post there, so what is said of a failure names the variable and never the address.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from perception.data.files import replace_file
from perception.errors import InputError
from perception.versioning.nights import Night

WEBHOOK = "NIGHTDRIVE_WEBHOOK"  # of Slack, of Teams, or of whatever takes {"text": ...}
MLFLOW = "MLFLOW_TRACKING_URI"  # MLflow's own; it reads its other variables by itself
METRICS = "NIGHTDRIVE_METRICS"  # a file NAME.prom for node-exporter, or the address of a push gateway
_TEAMS = ("webhook.office.com", "logic.azure.com", "powerplatform.com")  # Workflows there take cards and nothing else
_MLFLOW_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # a night does not wait for it by the minute
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
_TIMEOUT_SECONDS = 10.0


def tell_outside(night: Night | None, notice: str) -> list[str]:
    """Tell every system that the environment names; return why one could not be told.

    night: its row; None where it has none. notice: what people should hear; empty: nothing.
    """
    tellers: dict[str, Callable[[str], None]] = {WEBHOOK: partial(_post, notice)} if notice else {}
    if night is not None:
        tellers |= {MLFLOW: lambda _: log_to_mlflow(night), METRICS: partial(write_metrics, night)}
    problems = []
    for variable in (each for each in tellers if os.environ.get(each)):
        try:
            tellers[variable](os.environ[variable])
        except InputError as error:
            problems.append(str(error))
        except Exception as error:  # a client's own words may hold the address
            problems.append(f"{variable}: could not be told ({type(error).__name__}); correct it")
    return problems


def post_notice(text: str) -> None:
    """Post a line where an address is given; raises InputError, without the address, where that fails."""
    if address := os.environ.get(WEBHOOK, ""):
        _post(text, address)


def _post(text: str, address: str) -> None:
    import urllib3

    try:
        pool = urllib3.PoolManager(timeout=_TIMEOUT_SECONDS, retries=False)  # a retry would log the address
        status = pool.request("POST", address, json=message(f"nightdrive: {text}", address)).status
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        raise InputError(f"{WEBHOOK}: cannot be posted to ({type(error).__name__}); correct it") from None
    if status >= 300:
        raise InputError(f"{WEBHOOK}: answered {status}; correct it")


def message(text: str, address: str) -> dict[str, object]:
    """Return a line as the receiver at an address wants it: a card for Teams, {"text": ...} for Slack and all others."""
    host = urlsplit(address).hostname or ""
    if not any(host == each or host.endswith(f".{each}") for each in _TEAMS):
        return {"text": text}
    block = {"type": "TextBlock", "text": text, "wrap": True}
    card = {"type": "AdaptiveCard", "version": "1.4", "body": [block]}
    return {
        "type": "message",
        "attachments": [{"contentType": "application/vnd.microsoft.card.adaptive", "content": card}],
    }


def numbers(night: Night) -> dict[str, float]:
    """Return every figure of a night that is a number, by its name."""
    return {name: value for name, value in vars(night.figures).items() if isinstance(value, int | float)}


def conditions(night: Night) -> dict[str, float]:
    """Return the mIoU of every condition in which it is known."""
    return {name: miou for name, miou in (night.figures.miou_by_condition or {}).items() if miou is not None}


def log_to_mlflow(night: Night) -> None:
    """Log a night as the run of its name in the experiment nightdrive/PROFILE, in place of what was logged of it before."""
    for setting, value in _MLFLOW_SETTINGS.items():
        os.environ.setdefault(setting, value)
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunTag

    client, name = MlflowClient(), f"nightdrive/{night.profile}"
    experiment = client.get_experiment_by_name(name)
    number = experiment.experiment_id if experiment else client.create_experiment(name)
    known = client.search_runs([number], filter_string=f"tags.night = '{night.night}'", max_results=1)
    run = known[0] if known else client.create_run(number, tags={"night": night.night}, run_name=night.night)
    figures = night.figures
    told = {
        **{each: getattr(night, each) for each in ("status", "date", "base", "version")},
        **{each: getattr(figures, each) for each in ("worst_condition", "verdict", "currency")},
        **{f"used.{each}": value for each, value in vars(night.used).items()},
    }
    values = numbers(night) | {f"miou.{each.replace('=', '.')}": value for each, value in conditions(night).items()}
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(each, float(value), run.info.start_time, 0) for each, value in values.items()],
        tags=[RunTag(each, str(value)) for each, value in told.items() if value is not None],
    )
    client.set_terminated(run.info.run_id, "FINISHED" if night.status in ("done", "nothing_new") else "FAILED")


def write_metrics(night: Night, place: str) -> None:
    """Write a night's figures in Prometheus' text format into a file, or push them to a gateway."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest, push_to_gateway

    registry, gauges = CollectorRegistry(), dict[str, Gauge]()

    def gauge(name: str, about: str, value: float, **labels: str) -> None:
        if name not in gauges:
            gauges[name] = Gauge(name, about, ["profile", *labels], registry=registry)
        gauges[name].labels(night.profile, *labels.values()).set(value)

    for status in ("done", "nothing_new", "refused", "failed"):
        gauge("nightdrive_night_status", "1 of the last night's status", status == night.status, status=status)
    for name, value in numbers(night).items():
        gauge(f"nightdrive_night_{name}", f"{name.replace('_', ' ')} of the last night", value)
    for condition, miou in conditions(night).items():
        gauge("nightdrive_night_miou_by_condition", "mIoU of the last night", miou, condition=condition)
    if place.startswith(("http://", "https://")):
        push_to_gateway(place, "nightdrive", registry, {"profile": night.profile}, timeout=_TIMEOUT_SECONDS)
        return
    if not place.endswith(".prom"):
        raise InputError(
            f"{METRICS}: must be a file that ends in .prom, or http(s)://HOST of a push gateway; correct it"
        )
    replace_file(Path(place), generate_latest(registry))
