"""The commands of a night on a cluster: its images, its pipeline, its runs and its schedule."""

from pathlib import Path
from typing import Any

import click

from pipelines.commands.options import PATH, host_option, night_options, set_option
from pipelines.kubeflow.images import SETS

images_option = click.option(
    "--images",
    type=PATH,
    metavar="FILE",
    help="The digests that `nightdrive images` wrote; default: build/images.json.",
)
account_option = click.option(
    "--service-account",
    default="nightdrive-runner",
    show_default=True,
    help="That the steps run as.",
)
run_option = click.option(
    "--run", required=True, metavar="ID", help="Id or name of the run, as `nightdrive pipeline-status` prints it."
)


@click.command(epilog="Example: nightdrive images --registry HOST/TEAM --push")
@click.option("--registry", default="", metavar="HOST/PATH", help="That the names begin with.")
@click.option("--tag", default="", metavar="NAME", help="Default: the commit.")
@click.option(
    "--sets",
    multiple=True,
    type=click.Choice(SETS),
    default=SETS,
    show_default=True,
    help="Dependency sets; may be repeated.",
)
@click.option("--push", is_flag=True, help="Push, so that the file of digests holds the registry's.")
@click.option("--out", type=PATH, metavar="FILE", help="The file of digests; default: build/images.json.")
def images(registry: str, tag: str, sets: tuple[str, ...], push: bool, out: Path | None) -> None:
    """Build one image a dependency set, list what is inside each, and write down their digests."""
    from pipelines.kubeflow.images import DIGESTS_FILE, build_images

    target = out or DIGESTS_FILE
    build_images(sets, registry.rstrip("/"), tag, push=push, out=target)
    print(f"images: {target}")


@click.command(epilog="Example: nightdrive preflight --images build/images.json")
@night_options("nightly")
@images_option
@host_option
@account_option
def preflight(**night: Any) -> int:
    """Say what the cluster lacks for a night, and the command that mends it."""
    from pipelines.kubeflow.preflight import look_first

    return look_first(**night)


@click.command(epilog="Example: nightdrive pipeline-compile --profile nightly --out build/nightdrive.yaml")
@night_options("nightly")
@click.option(
    "--images", type=PATH, metavar="FILE", help="The digests that `nightdrive images` wrote; default: by name."
)
@click.option(
    "--out", type=PATH, default="build/nightdrive.yaml", show_default=True, metavar="FILE", help="The file to write."
)
def pipeline_compile(profile: str, data: str, overrides: list[str], images: Path | None, out: Path) -> None:
    """Write the night as Kubeflow pipeline YAML, the same bytes every time."""
    from pipelines.kubeflow.compile import compile_pipeline

    compile_pipeline(profile, out, overrides, data, images)
    print(f"compiled {profile} into {out}")


@click.command(epilog="Example: nightdrive pipeline-submit --set cluster.stages.train_prune.gpu_count=4 --no-follow")
@night_options("nightly")
@images_option
@host_option
@account_option
@click.option("--preflight/--no-preflight", default=True, show_default=True, help="Look into the cluster beforehand.")
@click.option(
    "--follow/--no-follow", default=True, show_default=True, help="Wait for the run, and end with its exit code."
)
def pipeline_submit(**night: Any) -> int:
    """Compile a night, upload it as a version named by its content, start a run and follow it."""
    from pipelines.kubeflow.submit import submit

    return submit(**night)


@click.command(epilog="Example: nightdrive pipeline-status --run ID")
@click.option("--run", default="", metavar="ID", help="Id or name of the run; default: the latest.")
@click.option("--follow", is_flag=True, help="Tell every change until the run ends.")
@host_option
def pipeline_status(run: str, follow: bool, host: str) -> int:
    """Show what a run on the cluster does."""
    from pipelines.kubeflow import runs
    from pipelines.kubeflow.kfp_api import connect

    server = connect(host)
    run_id = runs.find_run(server, run)
    print(server.run_url(run_id))
    return runs.follow(server, run_id) if follow else runs.status(server, run_id)


@click.command(epilog="Example: nightdrive cancel --run ID")
@run_option
@host_option
def cancel(run: str, host: str) -> None:
    """End a run on the cluster."""
    from pipelines.kubeflow import runs
    from pipelines.kubeflow.kfp_api import connect

    server = connect(host)
    print(runs.cancel(server, runs.find_run(server, run)))


@click.command(epilog="Example: nightdrive pipeline-retry --run ID")
@run_option
@host_option
def pipeline_retry(run: str, host: str) -> None:
    """Try the failed steps of a run on the cluster again; finished ones stay."""
    from pipelines.kubeflow import runs
    from pipelines.kubeflow.kfp_api import connect

    server = connect(host)
    print(runs.retry(server, runs.find_run(server, run)))


@click.command(epilog="Example: nightdrive watch --once")
@click.option("--once", is_flag=True, help="Look once and end; else every ten minutes.")
@host_option
def watch(once: bool, host: str) -> int:
    """Look after nights: try one that lost a pod again, tell one that never said good-bye, notice one that did not start."""
    from pipelines.kubeflow.kfp_api import connect
    from pipelines.kubeflow.watch import watch as look_after

    return look_after(connect(host), once=once)


@click.command(epilog="Example: nightdrive schedule --dry-run")
@click.option("--file", type=PATH, metavar="FILE", help="The declaration; default: schedule.yaml.")
@images_option
@click.option("--dry-run", is_flag=True, help="Show the difference and change nothing.")
@host_option
def schedule(file: Path | None, images: Path | None, dry_run: bool, host: str) -> int:
    """Bring the recurring night in line with schedule.yaml and this checkout."""
    from components.stage.program import EXIT_DONE, EXIT_FAILED
    from pipelines.kubeflow.kfp_api import connect
    from pipelines.kubeflow.schedule import SCHEDULE_FILE, bring_in_line, read_schedule

    wanted = read_schedule(file or SCHEDULE_FILE)
    in_line = bring_in_line(connect(host), wanted, images, dry_run=dry_run)
    return EXIT_DONE if in_line or dry_run else EXIT_FAILED


@click.command(
    epilog="Example: nightdrive test-cluster --set 'common.store=s3://trial/store common.remote=s3://trial/remote ...'"
)
@set_option
@images_option
@host_option
@account_option
def test_cluster(**trial: Any) -> int:
    """Try this version on a cluster in names of its own, print what was expected and seen, and clean up."""
    from pipelines.kubeflow.trial import test_cluster as run_trial

    return run_trial(**trial)
