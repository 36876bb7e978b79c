"""The commands that look after what Nightdrive depends on."""

import click


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
