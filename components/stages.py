"""Every stage of the night by name, in the order in which a night runs them."""

from components import (
    adapt,
    compare,
    compress,
    curate,
    ensemble,
    evaluate,
    gate,
    gather,
    ingest,
    propose,
    publish,
    report,
    resolve,
    score,
    select,
    train_prune,
)
from components.contract import Stage

_IN_ORDER = (
    resolve,
    ingest,
    gather,
    gate,
    ensemble,
    score,
    select,
    curate,
    publish,
    compare,
    adapt,
    train_prune,
    compress,
    evaluate,
    propose,
    report,
)

STAGES: dict[str, Stage] = {module.STAGE.name: module.STAGE for module in _IN_ORDER}
