"""Fold normalisation and write ONNX files that are checked, compared with the network, and equal byte for byte."""

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from perception.compression.expansion import contract_network
from perception.compression.modules import Layer, set_module
from perception.compression.scales import fix_scales
from perception.data.files import replacement
from perception.data.taxonomies import load_taxonomy
from perception.errors import InputError
from perception.models.copies import copied
from perception.training.setup import best_device

OPSET = 17
INPUT_NAME = "image"
OUTPUT_NAME = "logits"
CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"
_FOLDABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class ExportReport:
    """What was written: max_abs_error compares onnxruntime with torch over all outputs, relative_error divides it by
    the largest absolute output. Expanded layers were contracted: how many, and the largest difference that it made to
    the output of any of them."""

    path: Path
    sha256: str
    bytes: int
    opset: int
    max_abs_error: float
    relative_error: float
    contracted_layers: int = 0
    contraction_error: float = 0.0


def require_eval(network: nn.Module) -> None:
    """Raise InputError when any part of `network` is in training mode, where normalisation and dropout differ."""
    for name, module in network.named_modules():
        if module.training:
            raise InputError(
                f"network is in training mode (at {name or type(network).__name__}): call network.eval() before export"
            )


def fold_batchnorm(network: nn.Module) -> nn.Module:
    """Give a copy of `network` in which every batch normalisation right after a convolution or linear layer is folded.

    The arithmetic is done in float64. A layer whose output has a second reader, or that is called twice, and a
    normalisation after anything else (a concatenation, say) stay; all of them do where torch.fx cannot trace the network,
    which onnxruntime then folds. Raises InputError in training mode.
    """
    require_eval(network)
    network = copied(network)
    try:
        graph = fx.Tracer().trace(network)
    except Exception:  # whatever a user's code makes of a value that stands for any
        return network
    modules = dict(network.named_modules(remove_duplicate=False))
    calls = Counter(id(modules[node.target]) for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], _NORMS):
            continue
        norm, source = modules[node.target], node.args[0]
        if source.op != "call_module" or not isinstance(modules[source.target], _FOLDABLE) or len(source.users) > 1:
            continue
        layer = modules[source.target]
        if calls[id(layer)] == calls[id(norm)] == 1 and norm.running_var is not None:
            _fold(layer, norm)
            set_module(network, str(node.target), nn.Identity().eval())
    return network


@torch.no_grad()
def _fold(layer: Layer, norm: Layer) -> None:
    """Write y = gamma (x - mean) / sqrt(var + eps) + beta into the layer that makes x."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * scale
    if norm.weight is not None:
        scale, shift = scale * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
    weight = layer.weight
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):  # (in, out / groups, ...)
        grouped = weight.double().unflatten(0, (layer.groups, -1))
        spread = scale.view(layer.groups, 1, -1, *[1] * (weight.ndim - 2))
        folded = (grouped * spread).flatten(0, 1)
    else:
        folded = weight.double() * scale.view([-1, *[1] * (weight.ndim - 1)])
    bias = layer.bias.double() * scale if layer.bias is not None else torch.zeros_like(scale)
    layer.weight = nn.Parameter(folded.to(weight.dtype), requires_grad=weight.requires_grad)
    layer.bias = nn.Parameter((bias + shift).to(weight.dtype), requires_grad=weight.requires_grad)


def input_metadata(taxonomy: str) -> dict[str, str]:
    """Return what an exported network tells whoever runs it: its taxonomy, its classes and its input."""
    classes = json.dumps(load_taxonomy(taxonomy).classes)
    return {"taxonomy": taxonomy, "classes": classes, "input": "RGB, float32 in [0, 1], frame x 3 x h x w"}


def export_onnx(
    network: nn.Module,
    path: Path,
    height_px: int,
    width_px: int,
    *,
    channels: int = 3,
    seed: int = 0,
    tolerance: float = 1e-4,
    metadata: Mapping[str, str] | None = None,
) -> ExportReport:
    """Write `network` as ONNX (input `image`: (frame, channel, height, width) float32, any number of frames).

    metadata: goes into the file's metadata_props, such as the taxonomy of the classes; see read_metadata.
    Linear expansions are contracted first. The file is checked by onnx.checker and run by onnxruntime on seeded random
    frames in batches of 1 and 3 against the network as it was given. Equal networks give equal bytes. Raises InputError
    for a network in training mode, with rectified expansions, a folder that does not exist, a graph that cannot be
    exported, and outputs whose error exceeds `tolerance` of the largest output.
    """
    require_eval(network)
    if not path.parent.is_dir():
        raise InputError(f"folder {path.parent} does not exist: create it before exporting {path.name}")
    network = copied(network).cpu().float()
    contraction = contract_network(network)
    with replacement(path) as temporary:
        write_onnx(contraction.network, temporary, torch.zeros(1, channels, height_px, width_px))
        if metadata:
            _write_metadata(temporary, metadata)
        frames = np.random.default_rng(seed).random((3, channels, height_px, width_px), dtype=np.float32)
        error, largest = _compare(network, temporary, frames)
        if not error <= tolerance * max(largest, 1e-12):
            raise InputError(
                f"{path.name}: onnxruntime differs from torch by {error:.3g} on outputs up to {largest:.3g}, more than "
                f"the share {tolerance}: look for an operation that ONNX opset {OPSET} computes differently"
            )
        data = temporary.read_bytes()
    return ExportReport(
        path,
        hashlib.sha256(data).hexdigest(),
        len(data),
        OPSET,
        error,
        error / max(largest, 1e-12),
        len(contraction.layers),
        contraction.max_abs_error,
    )


def write_onnx(network: nn.Module, path: Path, example: Tensor) -> None:
    """Write `network` in eval mode as a checked ONNX file whose first dimension is free; `example` gives the rest."""
    try:
        with torch.no_grad():
            count = len(_tensors(network(example)))
    except (RuntimeError, TypeError, IndexError, AssertionError) as error:
        name, line = type(network).__name__, _line(error)
        raise InputError(
            f"network {name} fails on images of shape {tuple(example.shape)}: {line}; correct it"
        ) from error
    if not count:
        raise InputError(f"network {type(network).__name__} gives no tensor; return logits")
    names = [OUTPUT_NAME] if count == 1 else [f"output_{k}" for k in range(count)]
    with warnings.catch_warnings():
        # The TorchScript exporter is marked as the older one; it takes half a second where the other takes eight,
        # needs no network access and repeats its bytes.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                network,
                (example,),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=names,
                dynamic_axes={name: {0: "frames"} for name in [INPUT_NAME, *names]},
            )
        except Exception as error:  # torch's symbolic functions raise what they like on what they do not know
            raise InputError(
                f"network {type(network).__name__} cannot be written as ONNX opset {OPSET}, {_culprit(network, example)}: "
                f"{_line(error)}; replace it by an operation that ONNX has"
            ) from error
    model = onnx.load(str(path))
    fix_scales(model, example.numpy())
    onnx.save(model, str(path))
    onnx.checker.check_model(str(path), full_check=True)


@torch.no_grad()
def _culprit(network: nn.Module, example: Tensor) -> str:
    """Name the first layer that cannot be written by itself, given what it reads of the example."""
    read: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {}
    leaves = [(name, module) for name, module in network.named_modules() if name and not list(module.children())]
    hooks = [
        module.register_forward_pre_hook(
            lambda module, given, name=name: read.setdefault(name, (module, given)) and None
        )
        for name, module in leaves
    ]
    network(example)
    for hook in hooks:
        hook.remove()
    for name, (module, given) in read.items():
        try:
            torch.onnx.export(module, given, "/dev/null", dynamo=False, opset_version=OPSET)
        except Exception:  # as above
            return f"at layer {name} ({type(module).__name__})"
    return "by what its forward does outside its layers"


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _write_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, dict(sorted(metadata.items())))
    onnx.save(model, str(path))


def read_metadata(session: onnxruntime.InferenceSession) -> dict[str, str]:
    """Give what export_onnx wrote into the file beside the network; empty for a file of another tool."""
    return dict(session.get_modelmeta().custom_metadata_map)


def open_session(path: Path, threads: int = 1, provider: str = CPU_PROVIDER) -> onnxruntime.InferenceSession:
    """Open an ONNX file for inference by an execution provider, on the CPU with a fixed number of threads.

    Raises InputError where onnxruntime has taken another provider, which it does by itself when one cannot start.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Multiplications with all bits of float32, as on the CPU.
    settings = {"use_tf32": "0"} if provider == CUDA_PROVIDER else {}
    session = onnxruntime.InferenceSession(str(path), options, providers=[(provider, settings)])
    if session.get_providers()[0] != provider:
        raise InputError(
            f"onnxruntime: {provider} cannot start here, {session.get_providers()[0]} would run; install the CUDA and "
            "cuDNN that this onnxruntime was built for, or the onnxruntime without a GPU"
        )
    return session


def best_provider(device: str) -> str:
    """Return the execution provider for a torch device: CUDA's for a GPU where the installed onnxruntime has it."""
    has_cuda = device.startswith("cuda") and CUDA_PROVIDER in onnxruntime.get_available_providers()
    return CUDA_PROVIDER if has_cuda else CPU_PROVIDER


def onnx_predictor(model: Path, threads: int) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Return the function that gives an exported network's logits for images, run by onnxruntime on a GPU where it can.

    A network that was exported for batches of a fixed size gets its images in such batches, the last one filled up.
    """
    session = open_session(model, threads, best_provider(best_device()))
    entry = session.get_inputs()[0]
    size = entry.shape[0]

    def predict(images: NDArray[np.float32]) -> NDArray[np.float32]:
        if not isinstance(size, int):
            return session.run(None, {entry.name: images})[0]
        filled = np.concatenate([images, np.zeros((-len(images) % size, *images.shape[1:]), images.dtype)])
        parts = [session.run(None, {entry.name: part})[0] for part in np.split(filled, len(filled) // size)]
        return np.concatenate(parts)[: len(images)]

    return predict


def _compare(network: nn.Module, path: Path, frames: np.ndarray) -> tuple[float, float]:
    """Give the largest absolute difference between onnxruntime and torch, and the largest absolute output."""
    session: onnxruntime.InferenceSession = open_session(path)
    error = largest = 0.0
    for batch in (frames[:1], frames):
        with torch.no_grad():
            expected = [tensor.numpy() for tensor in _tensors(network(torch.from_numpy(batch)))]
        for mine, theirs in zip(session.run(None, {INPUT_NAME: batch}), expected, strict=True):
            if mine.shape != theirs.shape:
                raise InputError(
                    f"ONNX output has shape {mine.shape}, torch {theirs.shape}: a size is fixed in forward"
                )
            error = max(error, float(np.abs(mine.astype(np.float64) - theirs).max()))
            largest = max(largest, float(np.abs(theirs).max()))
    return error, largest


def _tensors(output: object, place: str = "its output") -> list[Tensor]:
    """List the tensors of a network's output in the order in which ONNX gives them; raises InputError for other things."""
    if isinstance(output, Tensor):
        return [output]
    if not isinstance(output, dict | list | tuple):
        raise InputError(
            f"network cannot be written as ONNX: {place} is {type(output).__name__}, must be tensors, alone or in lists and "
            "dicts; wrap it in a module that returns these alone"
        )
    parts = output.items() if isinstance(output, dict) else enumerate(output)
    return [tensor for name, part in parts for tensor in _tensors(part, f"{place}[{name!r}]")]
