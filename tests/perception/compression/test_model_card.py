"""The figures of the model card, and its page."""

from perception.compression.cost import Latency
from perception.compression.model_card import card_markdown, latency_by_batch, neurons_removed_percent

ROWS = [Latency(name, batch, ms, 0.1, ms, 9) for name, batch, ms in
        (("model", 1, 2.0), ("dense", 1, 5.0), ("model", 4, 6.0), ("dense", 4, 18.0))]  # fmt: skip


def test_latency_is_arranged_by_batch() -> None:
    found = latency_by_batch(ROWS)
    assert found["4"]["dense"] == {"median_ms": 18.0, "spread_ms": 0.1, "frames_per_second": 4 / 0.018}
    assert list(found) == ["1", "4"] and set(found["1"]) == {"model", "dense"}


def test_neurons_removed() -> None:
    assert neurons_removed_percent([{"before": 8, "after": 4}, {"before": 24, "after": 20}]) == 25
    assert neurons_removed_percent([]) == 0


def test_page_tells_every_figure() -> None:
    layer = {"layer": "a.conv", "choice": "low_rank", "rank": 3, "full_rank": 16}
    card = {
        "input": [3, 64, 128], "opset": 17, "miou": 0.4321, "data_manifest_sha256": "d1", "code_commit": "c0", "image": None,
        "neurons_removed_percent": 61.5, "closed_branches": ["a", "b.c"],
        "layers": [layer, layer | {"choice": "dense"}], "contracted_layers": 2,
        "contraction_max_abs_error": 3e-7, "device": "on a bench", "precision": "int8",
        "export_max_abs_error": 6e-8, "onnx_sha256": "o1", "weights_sha256": "w1",
        "latency_ms_by_batch": latency_by_batch(ROWS), "parameters": 100, "parameters_dense": 400, "macs": 10,
        "macs_dense": 30, "bytes": 1000, "bytes_dense": 2500,
    }  # fmt: skip
    page = card_markdown(card)
    for text in ("0.4321", "manifest sha256 d1", "61.5 %", "closed: a, b.c", "a.conv low_rank 3/16",
                 "2, largest difference 3.0e-07", "latency: measured on a bench", "precision: int8",
                 "| parameters | 400 | 100 | 4.00 |", "| ms a batch of 1 | 5.00 | 2.00 | 2.50 |",
                 "| ms a batch of 4 | 18.00 | 6.00 | 3.00 |", "sha256 o1", "sha256 w1", "a local run"):  # fmt: skip
        assert text in page
