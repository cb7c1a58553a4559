"""Several runs in one report: curves, differences and their significance; and what a report on one shares with it."""

import statistics
from collections.abc import Sequence

from pocket_resnet.inference.statistics import paired_difference
from pocket_resnet.plots import figures
from pocket_resnet.plots.figures import Curve
from pocket_resnet.plots.style import png
from pocket_resnet.recipe.toml import differences, to_toml
from pocket_resnet.reporting.page import (
    Album,
    Html,
    Picture,
    code,
    element,
    folded,
    remark,
    section,
    side_by_side,
    table,
)
from pocket_resnet.training.metrics import duration
from pocket_resnet.training.result import Result
from pocket_resnet.training.saved_run import FinishedRun, same_images, without_seed

SMALLEST_P = 1e-4


def about_several(runs: Sequence[FinishedRun], album: Album) -> tuple[str, list[Html]]:
    """The title and the content of a page on several runs; its pictures go into the album."""
    title, names = f"{len(runs)} runs compared", _names(runs)
    groups = grouped(runs, names)
    return title, [
        element("h1", title),
        element("p", ", ".join(names), class_="soft"),
        *(remark(f"{name}: {text}") for name, run in zip(names, runs, strict=True) for text in run.remarks),
        _comparison(runs, names),
        _costs(runs, names),
        _recipes(groups),
        side_by_side(_accuracies(runs, names, album), _curves(groups, album)),
        recipe_section(runs, names),
    ]


def _names(runs: Sequence[FinishedRun]) -> list[str]:
    """The runs' folders, or where two have the same name their paths."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def grouped(runs: Sequence[FinishedRun], names: Sequence[str]) -> dict[str, list[FinishedRun]]:
    """Label to runs: those of one recipe, which differ in nothing but seed and hardware, are together."""
    found: list[list[int]] = []
    for index, run in enumerate(runs):
        for group in found:
            if without_seed(runs[group[0]].recipe) == without_seed(run.recipe):
                group.append(index)
                break
        else:
            found.append([index])
    return {
        names[group[0]] + (f" and {len(group) - 1} more" if len(group) > 1 else ""): [runs[index] for index in group]
        for group in found
    }


def _comparison(runs: Sequence[FinishedRun], names: Sequence[str]) -> Html:
    rows = []
    for name, run in zip(names, runs, strict=True):
        accuracy = [f"{run.evaluation.accuracy:.2%}", interval_text(run.evaluation.interval)]
        rows.append([name, *accuracy, *_difference(runs[0], run)])
    lead = (
        f"Validation images, single view, last epoch. Differences are in points of accuracy, to {names[0]}; p is that "
        "of McNemar's exact test on the images that only one of the two got right, not corrected for the number of "
        "rows. It tells two networks apart, not two recipes: another seed gives another network."
    )
    headers = ("run", "accuracy", "95% interval", "difference", "only this one right", "only the first right", "p")
    return section("Comparison", lead, table(headers, rows, "comparison"))


def _difference(first: FinishedRun, run: FinishedRun) -> list[str]:
    """Difference in points, the images that only one got right, and p."""
    if run is first or not same_images(first, run):
        return ["–" if run is first else "other images", "", "", ""]
    pair = paired_difference(run.hit_N, first.hit_N)
    points = f"{100 * (run.evaluation.accuracy - first.evaluation.accuracy):+.2f}".replace("-", "−")
    p = f"{pair.p:.4f}" if pair.p >= SMALLEST_P else f"< {SMALLEST_P}"
    return [points, f"{pair.num_only_first:,}", f"{pair.num_only_second:,}", p]


def _costs(runs: Sequence[FinishedRun], names: Sequence[str]) -> Html:
    rows = []
    for name, run in zip(names, runs, strict=True):
        counts = [f"{run.result.num_params:,}", f"{run.result.num_macs:,}"]
        quality = [f"{run.evaluation.nll:.4f}", f"{run.evaluation.ece:.4f}"]
        rows.append([name, *counts, duration(run.result.seconds), _operations(run.result), *quality])
    headers = ("run", "parameters", "multiply-adds", "training time", "training operations")
    found = table((*headers, "log-likelihood, negative", "calibration error"), rows, "costs")
    return section("Cost, likelihood and calibration", "Calibration error: expected, over 15 bins.", found)


def _recipes(groups: dict[str, list[FinishedRun]]) -> Html:
    """What tells the recipes apart, and the mean over seeds where there are several."""
    first = next(iter(groups.values()))[0]
    rows = []
    for label, runs in groups.items():
        accuracies = [run.evaluation.accuracy for run in runs]
        spread = f" ± {100 * statistics.stdev(accuracies):.2f}" if len(runs) > 1 else ""
        seeds = ("seed: ", "data.seed: ")
        changed = [line for line in differences(first.recipe, runs[0].recipe) if not line.startswith(seeds)]
        told = "; ".join(changed) or ("seed alone" if len(runs) > 1 else "–")
        rows.append([label, f"{runs[0].recipe.name} on {runs[0].source.public_name}", told, str(len(runs))])
        rows[-1].append(f"{statistics.fmean(accuracies):.2%}{spread}")
    headers = ("runs", "recipe", "differs from the first in", "number", "accuracy")
    lead = "Runs that differ in seeds alone are one recipe: mean ± sample standard deviation over them."
    return section("Recipes", lead, table(headers, rows, "recipes", num_texts=3))


def _accuracies(runs: Sequence[FinishedRun], names: Sequence[str], album: Album) -> Html:
    found = [run.evaluation for run in runs]
    rows = [(name, each.accuracy, each.interval) for name, each in zip(names, found, strict=True)]
    caption = "Validation accuracy with its 95% interval (Wilson). The dashed line is the first run's."
    told = "Accuracy of each run; a table has the numbers"
    lead = "Intervals are of each run by itself: they may overlap where the paired test above tells two runs apart."
    return section(
        "Accuracy", lead, album.show(Picture("accuracies", png(figures.run_accuracies(rows)), told, caption))
    )


def _curves(groups: dict[str, list[FinishedRun]], album: Album) -> Html:
    curves = [Curve(label, tuple(run.metrics for run in runs if run.metrics)) for label, runs in groups.items()]
    curves = [curve for curve in curves if curve.runs]
    if not curves:
        return section("Learning curves", "No run recorded an epoch.")
    lead = "Several runs of one recipe are drawn as their mean, with a band of one sample standard deviation."
    return section("Learning curves", lead, album.show(_curves_picture(curves)))


def curves_picture(runs: Sequence[FinishedRun]) -> Picture:
    """The learning curves of one run."""
    return _curves_picture([Curve(run.name, (run.metrics,)) for run in runs])


def _curves_picture(curves: Sequence[Curve]) -> Picture:
    caption = "Loss, accuracy and learning rate at the end of each epoch."
    told = "Learning curves: " + ", ".join(curve.label for curve in curves)
    return Picture("learning", png(figures.learning_curves(curves)), told, caption)


def recipe_section(runs: Sequence[FinishedRun], names: Sequence[str] = ("recipe.toml",)) -> Html:
    """The resolved recipes, shown on request."""
    texts = [folded(name, code(to_toml(run.recipe))) for name, run in zip(names, runs, strict=True)]
    lead = "Resolved: everything that decided the run. It can be trained again as it is."
    return section("Recipe" if len(runs) == 1 else "Recipes in full", lead, *texts)


def cost_facts(result: Result) -> list[tuple[str, str, str]]:
    """Cards on what the network and its training cost."""
    trained = f"{result.steps:,} steps, {result.epochs} epochs, {result.images_per_s:,.0f} images/s"
    return [
        ("Parameters", f"{result.num_params:,}", "weights and biases, trained or frozen"),
        ("Multiply-adds", f"{result.num_macs:,}", "for one image"),
        ("Training time", duration(result.seconds), trained),
        ("Training operations", _operations(result), "all forward and backward passes"),
    ]


def _operations(result: Result) -> str:
    tera = result.train_flops / 1e12
    return f"{tera:.3g} TFLOP" if tera < 1 else f"{tera / 1e3:.3g} PFLOP"


def interval_text(interval: tuple[float, float], joint: str = " to ", decimals: int = 2) -> str:
    """A 95% interval in percent."""
    low, high = interval
    return f"{low:.{decimals}%}{joint}{high:.{decimals}%}"
