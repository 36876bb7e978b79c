"""Files of named tensors with a JSON header: safetensors, checksummed, written whole or not at all, never unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from perception.data.files import replace_file
from perception.errors import InputError

# One key only: safetensors keeps its metadata in a hash map, whose order would differ from file to file.
_METADATA_KEY = "nightdrive"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any], file_format: str) -> str:
    """Write tensors and a JSON header to a file and give its sha256; equal contents give equal bytes.

    Raises InputError when the folder does not exist or cannot be written.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = {**header, "format": file_format, "tensors_sha256": _tensors_sha256(on_cpu)}
    text = json.dumps(content, sort_keys=True)
    data = safetensors_bytes(on_cpu, metadata={_METADATA_KEY: f"{_text_sha256(text)} {text}"})
    if not path.parent.is_dir():
        raise InputError(f"file {path}: cannot be written, its folder does not exist; create it")
    try:
        replace_file(path, data)
    except OSError as error:
        raise InputError(f"file {path}: cannot be written ({error.strerror}); give a folder that may be") from error
    return hashlib.sha256(data).hexdigest()


def read_tensors(path: Path, file_format: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read header and tensors; raises InputError when the file is missing, truncated, altered or of another format."""
    header, tensors = _read(path, file_format, with_tensors=True)
    if _tensors_sha256(tensors) != header["tensors_sha256"]:
        raise InputError(f"file {path}: its tensors differ from the checksum that they were saved with; write it again")
    return header, tensors


def read_header(path: Path, file_format: str) -> dict[str, Any]:
    """Read the header alone; raises InputError as read_tensors does, but does not look at the tensors."""
    return _read(path, file_format, with_tensors=False)[0]


def _read(path: Path, file_format: str, with_tensors: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise InputError(f"file {path}: does not exist; give a {file_format} file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            checksum, text = (file.metadata() or {})[_METADATA_KEY].split(" ", 1)
            tensors = {name: file.get_tensor(name) for name in file.keys()} if with_tensors else {}  # noqa: SIM118
    except (safetensors.SafetensorError, KeyError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"file {path}: truncated or no {file_format} file ({reason}); write it again") from error
    if _text_sha256(text) != checksum:
        raise InputError(f"file {path}: its header was altered; write it again")
    header = json.loads(text)
    if header["format"] != file_format:
        raise InputError(f"file {path}: has format {header['format']}, not {file_format}; give the right file")
    return header, tensors


def _tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash names, types, shapes and values of contiguous CPU tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
