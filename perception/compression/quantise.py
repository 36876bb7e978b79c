"""Turn an exported network into one that computes in int8."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from perception.compression.export import INPUT_NAME, ExportReport
from perception.data.files import replacement

_OPERATIONS = ["Conv", "ConvTranspose", "Gemm", "MatMul", "Add"]  # what lies between, resizes and clips, stays as it is


def quantise(report: ExportReport, images: Iterable[NDArray[np.float32]]) -> ExportReport:
    """Write the exported network anew, in its place, in int8; return its report with the new hash and size.

    images: batches (frame, channel, height, width) as the network will see them; activations are cut into 256 steps
    between the least and the largest value that any of these gives, weights into 255 around 0 by output channel. The
    file holds pairs of QuantizeLinear and DequantizeLinear, which a runtime fuses with what lies between as far as its
    machine can. The errors of the report stay those of the float32 network. Equal networks and images give equal bytes.
    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
    CVPR 2018, after training.
    """
    told = onnx.load(str(report.path)).metadata_props
    with replacement(report.path) as temporary:
        quantize_static(
            str(report.path),
            str(temporary),
            _Reader(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_OPERATIONS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        model = onnx.load(str(temporary))
        del model.metadata_props[:]
        model.metadata_props.extend(told)
        onnx.save(model, str(temporary))
        data = temporary.read_bytes()
    return replace(report, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Batches in the form in which onnxruntime asks for them."""

    def __init__(self, images: Iterable[NDArray[np.float32]]) -> None:
        self.batches = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.batches, None)
        return None if batch is None else {INPUT_NAME: batch}
