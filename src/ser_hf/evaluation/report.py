"""The report of a run in words: text on the screen, and the lines that it shares with the model card (`card`)."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import UndefinedError

from ..errors import SerError, one_line
from .calibration import BINS
from .tables import number, rows_of, shown, text_table, with_interval
from .tasks import TASKS

PREDICTIONS = "predictions.parquet"
SPEAKER_NORM = "SPEAKER-NORMALISED"
ESTIMATED = "SPEAKERS ESTIMATED"
INCOMPARABLE = " These figures cannot be compared with speaker-independent ones.**"
# What a reader of the figures must know, by the words that mark them (`warnings`).
COMPARABLE = {
    "LEAKS SPEAKERS": "**The protocol puts the same speakers into train and test." + INCOMPARABLE,
    "SPEAKERS UNKNOWN": "**The corpus does not name its speakers: train and test may share speakers." + INCOMPARABLE,
    SPEAKER_NORM: (
        "**Features are speaker-normalised: relative to each speaker's mean over all utterances of the speaker in this "
        "run, test utterances included. The figures hold for known speakers only. They cannot be "
        "compared with those of systems that process one clip of an unseen speaker.**"
    ),
    ESTIMATED: (
        "**Test clips are relative to the mean of those that sound like the same speaker, which is estimated from all "
        "test clips together. The speakers are unknown, but the figures hold only where many clips of each speaker are "
        "classified at once. They cannot be compared with those of systems that process one clip alone.**"
    ),
}


@contextmanager
def reading(place: Path | str) -> Iterator[None]:
    """Reading results that any version has written to `place`: a part that is absent or unexpected is a SerError."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, UndefinedError) as error:
        what = f"{type(error).__name__}: {one_line(error)}"
        raise SerError(f"{place}: results of another version of ser_hf, or damaged ({what}); run it again") from error


def read_run(folder: Path) -> tuple[dict, pd.DataFrame]:
    """`results.json` and predictions of a finished run. SerError: absent or damaged, an utterance twice, no score."""
    try:
        results, table = json.loads((folder / "results.json").read_text()), pd.read_parquet(folder / PREDICTIONS)
    except (OSError, ValueError) as error:
        raise SerError(f"{folder}: holds no finished run ({one_line(error)}); name the --output_dir of one") from None
    if not isinstance(results, dict) or not {"test", "protocol"} <= results.keys():
        raise SerError(f"{folder}: results.json is not that of a run; name the --output_dir of a finished run")
    scores = table.filter(regex="^score_")
    problem = None
    if not len(table) or not {"id", "speaker"} <= {*table.columns}:
        problem = "holds no predictions of ser_hf"
    elif table["id"].duplicated().any():
        problem = f"has the utterance {table['id'][table['id'].duplicated()].iloc[0]} twice"
    elif not np.isfinite(scores.to_numpy(dtype=float)).all():
        problem = "has scores that are no numbers: the training diverged, or the file was changed"
    if problem:
        raise SerError(f"{folder / PREDICTIONS} {problem}; run it again")
    return results, table


def warnings(results: dict) -> list[str]:
    """The keys of `COMPARABLE` that hold for the figures of a run or a cross-validation."""
    speakers = {True: SPEAKER_NORM, "estimated": ESTIMATED}.get(results["model"].get("speaker_norm"))
    named = (results["protocol"]["warning"], speakers)
    return [name for name in named if name]


def lines(results: dict) -> list[str]:
    """The report on the screen."""
    corpus, protocol, test = results["corpus"], results["protocol"], results["test"]
    tested = f"{protocol['name']} fold {protocol['fold']}: {test['utterances']} test utterances"
    speakers = f" of {test['speakers']} unseen speakers" if protocol["speaker_independent"] else ""
    out = ["", f"{corpus['corpus']} ({corpus['labels']}), {tested}{speakers}"]
    if protocol["warning"]:
        out.append(f"  {protocol['warning']}: do not compare with speaker-independent figures")
    out += corpus["lines"][1:]
    for name, value in test["metrics"].items():
        interval = test["intervals"].get(name)
        spread = "   95 % interval {:.3f} to {:.3f}".format(*interval) if interval else ""
        out.append(f"  {shown(name):<18} {number(value)}{spread}")
    chance = f"chance {shown(test['chance']['metric'])} {number(test['chance']['value'])}"
    out.append(f"  (intervals by bootstrap over {test['intervals_over']}; {chance})")
    out += [f"  {line}" for line in [*window_lines(results), *calibration_lines(results)]]
    tables = {"": rows_of(test[TASKS[test["problem_type"]].table], "label")}
    if results.get("comparisons"):
        title = "  compared on the same test utterances (this system minus the other, paired bootstrap):"
        tables = {title: rows_of(comparison_table(results), "system")} | tables
    for threshold, table in test.get("thresholds", {}).items():
        tables[f"  present at {threshold} and above:"] = rows_of(table, "label")
    for title, table in tables.items():
        out += ["", *([title] if title else []), *(f"  {line}" for line in text_table(*table))]
    return out + [f"  {line}" for line in test["remarks"]]


def window_lines(results: dict) -> list[str]:
    """Metrics on single windows beside those on whole utterances, for a run on windows."""
    if "windows" not in results:
        return []
    settings, single, whole = results["windows"], results["test_windows"], results["test"]
    pairs = [
        f"{shown(name)} {number(value)} on windows, {number(whole['metrics'][name])} on utterances"
        for name, value in single["metrics"].items()
    ]
    return [
        f"windows of {settings['seconds']} s every {settings['hop']} s ({single['utterances']} windows of "
        f"{whole['utterances']} utterances), combined by {settings['combine']}: {', '.join(pairs)}"
    ]


def comparison_table(results: dict) -> dict[str, dict]:
    """A row for this system and one for each it is compared with: metrics, and differences with paired intervals."""
    test = results["test"]
    metrics = [name for name in TASKS[test["problem_type"]].compared_by if name in test["metrics"]]
    systems = {"this system": test} | {name.replace("_", " "): other for name, other in results["comparisons"].items()}

    def cell(figures: dict, what: str, intervals: str, name: str) -> str:
        return with_interval(figures[what][name], figures[intervals].get(name)) if what in figures else ""

    keys = {"": ("metrics", "intervals"), "difference_in_": ("difference", "difference_intervals")}
    return {
        system: {prefix + name: cell(figures, *key, name) for name in metrics for prefix, key in keys.items()}
        for system, figures in systems.items()
    }


def calibration_lines(results: dict) -> list[str]:
    """The calibration of a run's probabilities; none for a model that has no single-label classes."""
    found = results.get("calibration")
    if not found:
        return []
    fitted = f"temperature {number(found['temperature'])}, fitted on {found['utterances']} validation utterances"
    if "classifier" in (results.get("training") or {}):
        fitted += " to the answers of the classifier of train alone"
    lines = [f"{fitted} (Guo et al. 2017)" if found["temperature"] else f"no temperature: {found['why_not']}"]
    lines += error_lines(found, results["test"]["metrics"]["wa"])
    if sets := found["sets"]:
        promise = f"label sets for {100 - 100 * sets['alpha']:.0f} % of utterances like those of validation"
        held = f"hold the right label of {100 * sets['coverage']:.1f} % of the test utterances"
        lines.append(f"{promise} {held}, with {sets['size']:.1f} labels each")
    return lines


def error_lines(found: dict, accuracy: float) -> list[str]:
    """The calibration error before and after scaling, why it is not halved if it is not, and what it is worth to
    abstain; `found` is what `calibration.describe` returned, with the `temperature`."""
    before, after, chance, abstain = (found[name] for name in ("before", "after", "if_calibrated", "abstain"))
    error = with_interval(before["ece"], before["interval"])
    if found["temperature"]:
        error += f" before scaling, {with_interval(after['ece'], after['interval'])} after it"
    by_chance = f"{number(chance['mean'])} by chance, 95 % of such models at most {number(chance['most'])}"
    not_halved = []
    if found["temperature"] and after["ece"] > before["ece"] / 2:
        kind = "over" if after["confidence"] > accuracy else "under"
        mean = f"mean confidence {number(after['confidence'])}, accuracy {number(accuracy)}"
        why = {
            "it was no larger than a perfectly calibrated model's before": before["ece"] <= chance["most"],
            "what is left is no larger than a perfectly calibrated model's": after["ece"] <= chance["most"],
            f"the temperature fits validation, and for speakers of test the model is {kind}confident ({mean})": True,
        }
        not_halved = [f"scaling does not halve the error: {next(reason for reason in why if why[reason])}"]
    gain = with_interval(abstain["difference"], abstain["interval"])
    answers = f"UAR is {number(abstain['uar'])} instead of {number(abstain['uar_of_all'])} (difference {gain})"
    return [
        f"expected calibration error ({BINS} bins): {error}; a perfectly calibrated model has {by_chance}",
        *not_halved,
        f"without the least sure {100 * abstain['share']:.0f} %, {answers}",
    ]
