"""The night, told once, top to bottom: which task takes which artifact of which other.

Every task is the stage of its name, declared in components/NAME.py; the words are those of graph.py. What a task reads outside
the pipeline and whether its result may be reused stand here too. All else is derived: dvc.yaml, which one machine runs
(pipelines/local), the Kubeflow pipeline (pipelines/kubeflow), the drawing in docs/dag.md, and what report and review collect.
"""

from pipelines.graph import FOOTAGE, REGISTRY, Graph


def nightly() -> Graph:
    """Return the graph of a night."""
    night = Graph()
    task, each = night.task, night.each

    # Find the version to start from and list what has arrived; take it in, batch by batch.
    base, arrivals = task("resolve", reads_outside=(REGISTRY, FOOTAGE), reusable=False)
    arrived = each("batch", "ingest", arrivals=arrivals, reads_outside=(FOOTAGE,))
    frames = task("gather", arrived=arrived, base=base, gate="ingest", reads_outside=(REGISTRY,))
    night.only_if_news(frames)

    # An ensemble's disagreement chooses the frames to label.
    ensemble = task("ensemble", frames=frames, base=base)
    scores = each("shard", "score", frames=frames, base=base, ensemble=ensemble)
    selection = task("select", frames=frames, base=base, ensemble=ensemble, scores=scores, gate="select")
    comparison = task("compare", frames=frames, base=base, ensemble=ensemble, selection=selection)

    # They become the next data version.
    curated = task("curate", frames=frames, base=base, selection=selection, gate="curate")
    version = task(
        "publish",
        frames=frames,
        base=base,
        curated=curated,
        reads_outside=(REGISTRY,),
        reusable=False,
        writes_registry=True,
    )

    # The simulator teaches first, labels afterwards; the network shrinks while it learns, and is judged as it ships.
    adaptation = task("adapt", frames=frames, curated=curated, gate="adapt")
    network = task("train_prune", frames=frames, base=base, curated=curated, adaptation=adaptation, gate="train_prune")
    compressed = task("compress", frames=frames, network=network, gate="compress")
    evaluation = task("evaluate", frames=frames, base=base, compressed=compressed, gate="evaluate")

    # Put the version before people, and tell the whole night.
    task(
        "propose",
        base=base,
        version=version,
        selection=selection,
        comparison=comparison,
        compressed=compressed,
        evaluation=evaluation,
        verdicts=night.verdicts,
        reads_outside=(REGISTRY,),
        writes_registry=True,
        at_failure=True,
    )
    task(
        "report",
        frames=frames,
        base=base,
        ensemble=ensemble,
        selection=selection,
        comparison=comparison,
        curated=curated,
        version=version,
        adaptation=adaptation,
        network=network,
        compressed=compressed,
        evaluation=evaluation,
        verdicts=night.verdicts,
        reads_outside=(REGISTRY,),
        at_failure=True,
    )
    return night.check()
