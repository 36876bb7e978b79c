"""The commands that look after what Nightdrive depends on."""

from pathlib import Path

import click

ROOT = Path(__file__).parents[2]


@click.command(epilog="Example: nightdrive audit")
def audit() -> None:
    """Check that pins are exact, installed files as recorded and licences listed; asks no network."""
    from pipelines.local.audit import check

    check()


@click.command(epilog="Example: nightdrive licences")
def licences() -> None:
    """Write docs/licences.md from what is installed."""
    from pipelines.local.audit import write_page

    print(write_page())


@click.command(epilog="Example: nightdrive parameters")
def parameters() -> None:
    """Write what is derived from the declarations of parameters: docs/parameters.md and docs/params.schema.json."""
    from perception.data.files import replace_file
    from pipelines.nightly import nightly
    from pipelines.reference import page, schema_file

    night = nightly()
    for name, text in (("parameters.md", page(night)), ("params.schema.json", schema_file(night))):
        replace_file(ROOT / "docs" / name, text.encode())
        print(f"written: {ROOT / 'docs' / name}")


@click.command(epilog="Example: nightdrive dag")
def dag() -> None:
    """Write what is derived from the graph of the night: dvc.yaml and its drawing, docs/dag.md."""
    from perception.data.files import replace_file
    from pipelines.drawing import page
    from pipelines.local.dvc_file import dvc_file
    from pipelines.nightly import nightly

    night = nightly()
    for file, text in ((ROOT / "dvc.yaml", dvc_file(night)), (ROOT / "docs" / "dag.md", page(night))):
        replace_file(file, text.encode())
        print(f"written: {file}")
