"""What the cells of table dpe say: accuracies, paired differences, calibration, the sweep, 20 % against 100 %."""

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.results import markdown_table
from benchmarks.tables.dpe.plan import EXPONENTIAL, LINEAR_8, Arm, Plan, arm_name, cell_name
from benchmarks.tables.results import Report, plot_by_share
from benchmarks.tables.runner import Found, Request
from benchmarks.tables.statistics import mean_and_spread
from perception.metrics.differences import paired_difference
from perception.uncertainty.dpe import EnsembleLoss

PUBLISHED = {"random": (80.60, 86.80, 91.08), "ensemble": (82.41, 90.05, 94.13), "dpe": (82.88, 90.15, 94.33)}
NOT_DONE = "–"
ByPercent = Mapping[int, dict[str, list[float]]]  # labelled share in per cent → figure → a value a seed
Row = tuple[str, str]  # kind of committee, strategy
Table2 = Mapping[Row, ByPercent]
DRAWN = (("single", "random"), ("ensemble", "random"), ("dpe", "random"), ("ensemble", "k_centre"), ("dpe", "k_centre"))
DIFFERENCES = (
    (("ensemble", "k_centre"), ("ensemble", "random")),
    (("ensemble", "top_n"), ("ensemble", "random")),
    (("dpe", "k_centre"), ("dpe", "random")),
    (("dpe", "random"), ("ensemble", "random")),
    (("dpe", "k_centre"), ("ensemble", "k_centre")),
)


def report(
    request: Request, plan: Plan, results: Mapping[str, Found], arms: Sequence[Arm], loss: EnsembleLoss, seeds: int
) -> Report:
    """Write the section; loss the DPE loss of its arms, seeds how many every arm is done in."""
    found = {arm: _rounds(results, arm, seeds) for arm in arms}
    table2 = {arm[:2]: by_percent for arm, by_percent in found.items() if arm[2] == EXPONENTIAL}
    parts = [_set_up(plan, loss if any(arm[0] == "dpe" for arm in arms) else None, seeds)]
    parts += [_accuracies(table2), _differences(table2), _trust(table2)]
    parts += [_sweep(results, seeds)] if any(name.startswith("sweep-") for name in results) else []
    parts += [_twenty(found)] if any(20 in rounds for rounds in found.values()) else []
    if request.data_kind == "cifar10":
        parts.append(_published())
    figures = {arm_name(arm): by_percent for arm, by_percent in found.items()}
    curves = {
        _name(arm): {percent: each["accuracy"] for percent, each in table2[arm].items()}
        for arm in DRAWN
        if arm in table2
    }
    return Report(
        title="Selection by disagreement against random selection",
        body="\n\n".join(parts),
        figures={"arms": figures, "beta": loss.beta, "direction": loss.direction, "seeds": seeds},
        plot=plot_by_share(curves, EXPONENTIAL, EXPONENTIAL, "test accuracy, %"),
    )


def _rounds(results: Mapping[str, Found], arm: Arm, seeds: int) -> dict[int, dict[str, list[float]]]:
    """Return the figures of those of an arm's rounds that are done in every seed, by per cent of labels."""
    found = {}
    for percent in arm[2]:
        names = [cell_name(arm, seed, percent) for seed in range(seeds)]
        if all(name in results for name in names):
            keys = ("accuracy", "ece", "aurc", "log_loss")
            found[percent] = {key: [results[name][key] for name in names] for key in keys}
    return found


def _spread(by_percent: ByPercent, percent: int, key: str) -> str:
    return mean_and_spread(by_percent[percent][key]) if percent in by_percent else NOT_DONE


def _paired(table2: Table2, pairs: Iterable[tuple[Row, Row]], columns: Sequence[tuple[int, str]]) -> list[list[str]]:
    """Write a row for the difference of each pair that has been measured; columns: labelled shares and figures."""

    def difference(first: Row, second: Row, percent: int, key: str) -> str:
        if not all(percent in table2[row] for row in (first, second)):
            return NOT_DONE
        return paired_difference(*(table2[row][percent][key] for row in (first, second))).words()

    return [
        [f"{_name(first)} - {_name(second)}", *(difference(first, second, *column) for column in columns)]
        for first, second in pairs
        if first in table2 and second in table2
    ]


def _set_up(plan: Plan, loss: EnsembleLoss | None, seeds: int) -> str:
    recipe = plan.recipe
    network = recipe.network if recipe.channels == 64 else f"{recipe.network} from {recipe.channels} channels on"
    origin = "fixed beforehand" if plan.loss else "the least log loss of the sweep"
    dpe = f"DPE with beta {loss.beta:g}, direction {loss.direction}, {origin}. " if loss else ""
    return (
        f"A pool of {plan.pool_frames:,} images; {network}, committees of {recipe.members}; "
        f"{recipe.steps(plan.pool_frames * 4 // 100)} to {recipe.steps(plan.pool_frames * 32 // 100)} steps of "
        f"{recipe.batch_frames} images with {recipe.optimiser}, cosine from {recipe.learning_rate:g}, from scratch each "
        f"round. Selection by ensemble entropy; k_centre weighs it with the distance between the members' answers. "
        f"{dpe}Mean ± standard deviation over {seeds} seeds; differences are paired by seed, with the 95 % interval; "
        f"{NOT_DONE}: not measured."
    )


def _accuracies(table2: Table2) -> str:
    rows = [
        [f"{kind}, {strategy}", *(_spread(by_percent, percent, "accuracy") for percent in EXPONENTIAL)]
        for (kind, strategy), by_percent in table2.items()
    ]
    header = ["committee, selection", *(f"{percent} %" for percent in EXPONENTIAL)]
    return "### Test accuracy, %\n\n" + markdown_table(header, rows)


def _differences(table2: Table2) -> str:
    rows = _paired(table2, DIFFERENCES, [(percent, "accuracy") for percent in EXPONENTIAL[1:]])
    header = ["paired difference, points", *(f"{percent} %" for percent in EXPONENTIAL[1:])]
    return "### Differences\n\n" + markdown_table(header, rows)


def _name(arm: tuple[str, str]) -> str:
    return f"{arm[0]}, {arm[1]}"


def _trust(table2: Table2) -> str:
    columns = [(percent, key) for key in ("ece", "aurc") for percent in (16, 32)]
    rows = [[_name(arm), *(_spread(table2[arm], *column) for column in columns)] for arm in DRAWN if arm in table2]
    pairs = ((("dpe", strategy), ("ensemble", strategy)) for strategy in ("random", "k_centre"))
    rows += _paired(table2, pairs, columns)
    header = ["committee, selection", "ECE 16 %", "ECE 32 %", "rejection 16 %", "rejection 32 %"]
    return (
        "### Calibration and the ranking of its own errors\n\nExpected calibration error (15 bins, lower is better) and "
        "area under the rejection curve (mean accuracy of what is kept, higher is better), in per cent.\n\n"
        + markdown_table(header, rows)
    )


def _sweep(results: Mapping[str, Found], seeds: int) -> str:
    begun = {name.rsplit("-seed", 1)[0] for name in results if name.startswith("sweep-")}
    points = sorted((p for p in begun if all(f"{p}-seed{seed}" in results for seed in range(seeds))), key=_point)
    rows = []
    for point in points:
        direction, beta = _point(point)
        values = [results[f"{point}-seed{seed}"] for seed in range(seeds)]
        label = "plain ensemble, L2" if beta == 0 else f"{direction}, beta {beta:g}"
        keys = {"accuracy": 2, "log_loss": 4, "ece": 2, "aurc": 2}  # with their decimals
        rows.append([label, *(mean_and_spread([value[key] for value in values], n) for key, n in keys.items())])
    header = ["penalty", "accuracy, %", "log loss, nats", "ECE, %", "rejection, %"]
    return "### Sweep of beta and direction\n\nOn validation images, 16 % labelled at random.\n\n" + markdown_table(
        header, rows
    )


def _point(name: str) -> tuple[str, float]:
    _, direction, beta = name.split("-", 2)
    return ("", 0.0) if float(beta) == 0 else (direction, float(beta))


def _twenty(found: Mapping[Arm, ByPercent]) -> str:
    lines: list[list[str]] = []
    for label, few in (
        ("single, core-set linear-8", ("single", "core_set", LINEAR_8)),
        ("single, random", ("single", "random", (4, 20))),
        ("DPE, random", ("dpe", "random", (4, 20))),
        ("single, k_centre linear-8", ("single", "k_centre", LINEAR_8)),
        ("DPE, k_centre linear-8", ("dpe", "k_centre", LINEAR_8)),
    ):
        if 20 not in found.get(few, {}):
            continue
        part, whole = found[few][20]["accuracy"], found.get((few[0], "random", (100,)), {}).get(100, {}).get("accuracy")
        ratio = [100 * first / second for first, second in zip(part, whole, strict=True)] if whole else []
        lines.append([label, *(mean_and_spread(values) if values else NOT_DONE for values in (part, whole, ratio))])
    header = ["method", "20 %", "100 %", "ratio"]
    return "### 20 % against 100 % of the labels\n\n" + markdown_table(header, lines)


def _published() -> str:
    rows = [[name, *(f"{value:.2f}" for value in values)] for name, values in PUBLISHED.items()]
    return "### Published, CIFAR-10, ResNet-18, ensembles of 8\n\n" + markdown_table(
        ["sampling", "8 %", "16 %", "32 %"], rows
    )
