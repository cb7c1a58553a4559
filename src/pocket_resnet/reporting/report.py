"""One HTML file, and its pictures, about a finished run; or about several, compared.

It opens from disk, without a network: pictures are inside, and beside it as PNG files in plots/.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from pocket_resnet.errors import UsageError
from pocket_resnet.inference.statistics import calibration_bins
from pocket_resnet.io.files import expanded, write_bytes
from pocket_resnet.plots import figures
from pocket_resnet.plots.network_diagram import network_diagram, parts
from pocket_resnet.plots.style import png
from pocket_resnet.reporting.compare import about_several, cost_facts, curves_picture, interval_text, recipe_section
from pocket_resnet.reporting.exhibits import attention, examples, training_images
from pocket_resnet.reporting.page import (
    Album,
    Html,
    Picture,
    code,
    element,
    facts,
    folded,
    page,
    remark,
    section,
    side_by_side,
    table,
)
from pocket_resnet.torch_settings import own_settings
from pocket_resnet.training.saved_run import FinishedRun, command, opener, read_run

PAGE_NAME, PLOTS_NAME = "report.html", "plots"
MOST_PAIRS, MOST_ROWS_UNFOLDED = 10, 20


@own_settings()
def write_report(
    runs: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    data: str | Path | None = None,
) -> Path:
    """Write the report on the finished runs in these folders, or in one, and return the page's path.

    It goes to `out`; by default to the run's own folder, or of several to `report` beside the first. `data` says where
    the runs' data lie now. Raises PocketError where a run is not finished or damaged, or its data are not there or have
    changed.
    """
    given = [expanded(path) for path in ([runs] if isinstance(runs, str | Path) else runs)]
    paths = list({os.path.realpath(path): path for path in reversed(given)}.values())[::-1]
    if not paths:
        raise UsageError("no runs", mend="name folders of finished runs")
    open_data = opener(data_dir)
    finished = [read_run(path, open_data, data) for path in paths]
    finished[0].hardware.use_threads()
    single, album = len(finished) == 1, Album()
    title, pieces = about_one(finished[0], album) if single else about_several(finished, album)
    folder = expanded(out) if out else (paths[0] if single else paths[0].parent / "report")
    for picture in album.pictures:
        write_bytes(folder / PLOTS_NAME / f"{picture.name}.png", picture.png)
    write_bytes(folder / PAGE_NAME, page(title, *pieces).encode("utf-8", "replace"))
    return folder / PAGE_NAME


def about_one(run: FinishedRun, album: Album) -> tuple[str, list[Html]]:
    """The title and the content of a page on one run; its pictures go into the album."""
    title = f"{run.recipe.name} on {run.source.public_name}, seed {run.recipe.seed}"
    return title, [
        element("h1", title),
        element("p", f"Run {run.name} on {run.result.machine}{_start(run)}", class_="soft"),
        *map(remark, run.remarks),
        _headline(run),
        code(command(run)),
        side_by_side(_learning(run, album), _calibration(run, album)),
        _classes(run, album),
        examples(run, album),
        side_by_side(attention(run, album), training_images(run, album)),
        _network(run, album),
        recipe_section([run]),
    ]


def _start(run: FinishedRun) -> str:
    return f", started from checkpoint {run.card.init_from}" if run.card.init_from else ""


def _headline(run: FinishedRun) -> Html:
    images = f"{run.evaluation.num_images:,} validation images"
    told = f"95%: {interval_text(run.result.interval)}; {images}, single view, last epoch"
    return facts([("Accuracy", f"{run.result.accuracy:.2%}", told), *cost_facts(run.result)])


def _learning(run: FinishedRun, album: Album) -> Html:
    smoothed = ", with label smoothing" if run.recipe.label_smoothing else ""
    chosen = f", the hardest {run.recipe.hardest:.0%} until near the end" if run.recipe.hardest < 1 else ""
    lead = f"Training: cross-entropy on augmented images{chosen}{smoothed}. Validation: negative log-likelihood."
    headers = ("epoch", "step", "training loss", "validation", "training accuracy", "validation", "lr", "seconds")
    rows = []
    for record in run.metrics:
        losses = [f"{record[key]:.4f}" if key in record else "–" for key in ("train_loss", "val_nll")]
        accuracies = [f"{record[key]:.2%}" if key in record else "–" for key in ("train_accuracy", "val_accuracy")]
        rest = [f"{record['lr']:.4g}", f"{record['seconds']:.1f}"]
        rows.append([str(record["epoch"]), str(record["step"]), *losses, *accuracies, *rest])
    if not rows:
        return section("Learning curves", "The run ended before it recorded an epoch.")
    numbers = folded("The numbers", table(headers, rows, "epochs"))
    return section("Learning curves", lead, album.show(curves_picture([run])), numbers)


def _calibration(run: FinishedRun, album: Album) -> Html:
    found, mean = run.evaluation, float(run.confidence_N.double().mean())
    which = "overconfident" if mean > found.accuracy else "underconfident"
    lead = (
        f"Mean confidence {mean:.2%}, accuracy {found.accuracy:.2%}: {which} on the whole. "
        f"Expected calibration error {found.ece:.4f}, negative log-likelihood {found.nll:.4f}."
    )
    drawn = figures.reliability_diagram(calibration_bins(run.confidence_N, run.hit_N), found.ece)
    caption = "Validation images in 15 bins of confidence. Above the diagonal it is right more often than it claims."
    told = f"Reliability diagram; expected calibration error {found.ece:.4f}"
    return section("Calibration", lead, album.show(Picture("reliability", png(drawn), told, caption)))


def _classes(run: FinishedRun, album: Album) -> Html:
    found, pictures = run.evaluation, []
    num_classes = len(found.per_class)
    if num_classes <= figures.MOST_CLASSES_DRAWN:
        caption = "Rows are true classes, columns what they were taken for: the darker, the larger a share of the row."
        drawn = png(figures.confusion_matrix(found))
        pictures.append(Picture("confusion", drawn, "Confusion matrix; a table has the largest mistakes", caption))
    caption = "Accuracy of each class with its 95% interval (Wilson)."
    if num_classes > figures.MOST_BARS:
        caption += f" The {figures.MOST_BARS} least accurate of {num_classes} classes."
    drawn = png(figures.class_accuracies(found.per_class, found.accuracy))
    pictures.append(Picture("classes", drawn, "Accuracy of each class; a table has the numbers", caption))
    rows = [
        [result.name, f"{result.num_images:,}", f"{result.accuracy:.1%}", interval_text(result.interval, "–", 1)]
        for result in found.per_class
        if result.accuracy is not None and result.interval is not None
    ]
    classes = table(("class", "images", "accuracy", "95% interval"), rows, "per-class")
    classes = classes if len(rows) <= MOST_ROWS_UNFOLDED else folded("Every class", classes)
    lead = f"{found.num_images:,} validation images, single view."
    return section("Classes", lead, album.show(*pictures), side_by_side(classes, _pairs(run)))


def _pairs(run: FinishedRun) -> Html:
    """The most frequent mistakes."""
    results = run.evaluation.per_class
    counts = [
        (count, results[true], results[predicted].name)
        for true, row in enumerate(run.evaluation.confusion)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    rows = [
        [true.name, predicted, str(count), f"{count / true.num_images:.1%}"]
        for count, true, predicted in sorted(counts, key=lambda entry: -entry[0])[:MOST_PAIRS]
    ]
    return table(("true class", "taken for", "images", "of the class"), rows, "confusions", num_texts=2)


def _network(run: FinishedRun, album: Album) -> Html:
    spec, rows = run.recipe.model, []
    for part in parts(spec):
        rows.append(
            [
                part.name,
                part.what.replace(" × ", "\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}"),
                f"{part.num_params:,}",
                f"{part.num_macs:,}",
            ]
        )
    rows.append(["in all", "", f"{run.result.num_params:,}", f"{run.result.num_macs:,}"])
    headers = ("part", "consists of", "parameters", "multiply-adds")
    caption = "What each part puts out (channels × height × width), and what it costs."
    picture = Picture("network", png(network_diagram(spec)), "Parts of the network; a table has the numbers", caption)
    lead = f"Parameters, and multiply-adds for one image of {spec.image_size} × {spec.image_size} pixels."
    numbers = table(headers, rows, "network-parts", num_texts=2)
    return section("Network", lead, side_by_side(album.show(picture), numbers))
