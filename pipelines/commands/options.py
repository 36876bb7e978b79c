"""Options that several commands share, and how the text of SET is read."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
PATH = click.Path(path_type=Path)


def split_overrides(text: str) -> list[str]:
    """Return the overrides NAME=VALUE of a text, which has blanks or line breaks between them.

    An override ends where its value is whole YAML and the next NAME= follows: a blank within quotes or brackets ends none.
    """
    found: list[str] = []
    for piece in re.split(r"(?=\s[\w.@-]+=)", text):
        if found and not _is_whole(found[-1]):
            found[-1] += piece
        else:
            found.append(piece)
    return [override.strip() for override in found if override.strip()]


def _is_whole(override: str) -> bool:
    import yaml  # here, so that --help need not wait for it

    try:
        yaml.compose(override.partition("=")[2].strip(), yaml.SafeLoader)
    except yaml.YAMLError:
        return False
    return True


class _WholeText(type(click.STRING)):  # type: ignore[misc]
    """Take a text from the environment as one value, blanks and all."""

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        return [rv]


def _overrides(_context: click.Context, _option: click.Parameter, texts: Sequence[str]) -> list[str]:
    return [override for text in texts for override in split_overrides(text)]


set_option = click.option(
    "--set",
    "overrides",
    envvar="NIGHTDRIVE_OPTION_SET",
    multiple=True,
    type=_WholeText(),
    callback=_overrides,
    metavar="SECTION.NAME=VALUE",
    help="Override a parameter; the value is YAML, and several may follow each other with blanks between.",
)
data_option = click.option("--data", default="", metavar="FOLDER", help="The data set, for profiles that read one.")
host_option = click.option("--host", default="", metavar="URL", help="Kubeflow Pipelines; default: KFP_HOST.")


def night_options(profile: str) -> Decorator:
    """Return the decorator of a command that works on the settings of a night: --profile, --data and --set."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        named = click.option(
            "--profile", default=profile, show_default=True, metavar="NAME", help="A profile of params.yaml."
        )
        return named(data_option(set_option(command)))

    return decorate
