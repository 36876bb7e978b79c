"""The user's own function that makes pictures anonymous before anything is stored."""

import hashlib
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.errors import InputError


@dataclass(frozen=True)
class PrivacyHook:
    """Hold a function of pictures, (height, width, 3) uint8 RGB, and what is recorded of it with every frame."""

    function: Callable[[NDArray[np.uint8]], Any]
    label: str  # its name and version

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the anonymous picture; raises InputError for a result that is none of the same size."""
        shown = self.function(pixels)
        if not isinstance(shown, np.ndarray) or shown.dtype != np.uint8 or shown.shape != pixels.shape:
            found = f"{shown.dtype} of {shown.shape}" if isinstance(shown, np.ndarray) else type(shown).__name__
            raise InputError(f"privacy {self.label}: gave {found}, must give uint8 of {pixels.shape}; correct it")
        return shown


def load_privacy_hook(name: str) -> PrivacyHook | None:
    """Return the hook that package.module:function names; None for no name.

    Its version is the module's __version__, else the sha256 of the module's source. Raises InputError where there is none.
    """
    if not name:
        return None
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(f"privacy {name}: cannot be imported ({error}); install it or set PYTHONPATH") from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise InputError(f"privacy {name}: {module_name} has no function {function_name}; correct the name")
    version = getattr(module, "__version__", None)
    if version is None:
        version = "sha256:" + hashlib.sha256(inspect.getsource(module).encode()).hexdigest()[:16]
    return PrivacyHook(function, f"{name} {version}")
