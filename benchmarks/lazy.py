"""Commands that are loaded when they are asked for."""

from collections import UserDict
from importlib import import_module
from typing import Any

import click


class LazyCommands(UserDict[str, Any]):
    """Hold commands by name, each as `module:attribute` until it is looked up."""

    def __getitem__(self, name: str) -> click.Command:
        module, _, attribute = self.data[name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command
