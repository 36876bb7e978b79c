"""Cases by name."""

from collections.abc import Iterable

import pytest


def cases(pairs: Iterable[tuple[str, str]]) -> pytest.MarkDecorator:
    """Parametrise a test over (name, variant), each case called by both."""
    listed = [pytest.param(name, variant, id=f"{name}: {variant}") for name, variant in pairs]
    return pytest.mark.parametrize(("name", "variant"), listed)


def each(names: Iterable[str], variant: str) -> pytest.MarkDecorator:
    """Parametrise a test that is about one variant over names."""
    return pytest.mark.parametrize("name", [pytest.param(name, id=f"{name}: {variant}") for name in names])
