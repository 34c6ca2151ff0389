"""Stress a model: its answers on changed clips (`perturbations`) and to groups of speakers (`fairness`).

`stress.json` is the report as data:

    model, corpus, labels   their names; `protocol` and `fold` (None: all clips) of `part`, `test` or `all`
    clips, speakers         how many were scored
    problem_type, metric    the kind of labels, and the metric of `changes` and `groups` (`uar`, `map`, `ccc`)
    clean                   of the clips as they are: `metrics`, 95 % `intervals`, `intervals_over`, `per_class`, ...
                            as `scoring.score` returns them
    changes                 one each: `name`, `kind` (of `KINDS`), `strength`, `unit`, `kept` (share of clips with the
                            same prediction), `metrics` of the changed clips, `failed` (clips without an answer)
    goal, reached           the share that every small change must keep, and whether all do (None: none was made)
    groups                  by attribute what `fairness.judge` returns, each group with its number of `speakers`
    not_tested              {attribute: why} of attributes that the corpus does not say
    remarks                 what a reader must know
"""

import json
from collections.abc import Sequence

import numpy as np
from datasets import Dataset
from matplotlib.figure import Figure
from tqdm import tqdm

from .. import __version__
from ..data.acoustics import MEASURES, measure_rows
from ..errors import SerError
from ..files import png
from . import CLASSES, LABELS, VALUES, fairness
from .bootstrap import FEW
from .perturbations import BABBLE, CHANGES, KINDS, Change, Voices, rate_of, scores_of, store_of
from .scoring import answerable, answers_of, score
from .tables import escape, markdown_table, number, scored, shown
from .tasks import TASKS

GOAL = 0.95  # of predictions that every small change must keep
SAME_VALUE = 0.05  # of the range of a value's labels: a smaller difference is no change, as in ser-tests
MOST_GROUPS = 12  # that a table shows: those with the largest gaps
PRIVATE = ("speaker", "sentence")  # attributes whose groups a card does not name
ATTRIBUTES = ("gender", "age group", "language", "speaker", "pitch group", "sentence")


# ---- what is reported


def decided(scores: np.ndarray, labels: np.ndarray, kind: str, thresholds: list[float] | None) -> np.ndarray:
    """Predictions `(clips, ...)`: the class, which labels apply, or values relative to the labels' range; NaN: none."""
    if kind == CLASSES:
        return np.where(np.isnan(scores).any(axis=1), np.nan, np.nan_to_num(scores, nan=-1).argmax(axis=1))[:, None]
    if kind == LABELS:
        limits = 0.5 if thresholds is None else np.array(thresholds)
        return np.where(np.isnan(scores), np.nan, scores >= limits)
    return scores / np.maximum(np.ptp(labels, axis=0), 1e-12)


def kept(before: np.ndarray, after: np.ndarray, kind: str) -> float:
    """The share of clips whose prediction is the same, from `decided`; one without an answer is not.

    >>> kept(np.array([[0], [1], [2], [2]]), np.array([[0], [1], [1], [np.nan]]), CLASSES)
    0.5
    """
    same = np.abs(before - after) < SAME_VALUE if kind == VALUES else before == after
    return float(same.all(axis=1).mean())


def stress(
    pipe,
    rows: Dataset,
    corpus: Dataset,
    fingerprint: str,
    changes: Sequence[Change] = CHANGES,
    reading: dict | None = None,
    **options,
) -> dict:
    """The report on a `SerPipeline`: correctness, robustness and fairness on `rows` of a corpus, whose other speakers
    babble comes from. `fingerprint` changes with the model's weights; `reading` is the part of a clip that is scored,
    if not all of it (`audio.prepared`); `options` of the call of the pipeline, such as `window_s`. SerError: the model
    answers none of the labels; a clip cannot be read."""
    kind = pipe.problem_type
    names, limits = answers_of(pipe.model.config)
    labels, known, remarks = answerable(names, kind, rows)
    values = getattr(pipe.feature_extractor, "speaker_values", None)
    if getattr(pipe.model.config, "speaker_norm", False) or values is not None:
        remarks.append("the model was trained with --speaker_norm: here each clip is scored as an average speaker's")
    if reading:
        remarks.append("clips are trimmed, cropped and padded as in the model's test, the saved model does less")
    rows, reading = rows.select(known), reading or {}
    task, voices = TASKS[kind], Voices(corpus, rate_of(pipe))
    store = store_of(pipe, fingerprint, voices, options, reading)
    clean = scores_of(pipe, rows, None, voices, store, options, reading)
    answered = np.flatnonzero(~np.isnan(clean).any(axis=1))
    if not len(answered):
        raise SerError(f"the model answers none of {len(rows)} clips; `ser-hf predict` on one of them says why")
    if len(answered) < len(rows):
        remarks.append(f"{len(rows) - len(answered)} clips without an answer are left out")
        rows, labels, clean = rows.select(answered), labels[answered], clean[answered]
    others = [change for change in changes if change.name != BABBLE]
    clips = zip(rows["id"][:], rows["speaker"][:], strict=True)
    if len(others) < len(changes) and any(not voices.other(id, speaker) for id, speaker in clips):
        changes = others
        remarks.append("no babble noise: the corpus has no other speaker")
    labelled = Dataset.from_dict({"label": labels.tolist(), "speaker": rows["speaker"][:]})
    report = score(labelled, task.logits(clean), names, kind, limits)
    before, outcomes = decided(clean, labels, kind, limits), []
    for change in tqdm(changes, "changes", disable=None):
        scores = scores_of(pipe, rows, change, voices, store, options, reading)
        valid = ~np.isnan(scores).any(axis=1)
        share = kept(before, decided(scores, labels, kind, limits), kind)
        metrics = task.metrics(labels[valid], scores[valid], names, limits) if valid.any() else {}
        row = {name: getattr(change, name) for name in ("name", "kind", "strength", "unit")}
        outcomes.append(row | {"kept": share, "metrics": metrics, "failed": int((~valid).sum())})
    small = [one["kept"] for one in outcomes if one["kind"] == "small"]
    groups, not_tested = {}, {}
    if kind == CLASSES:
        attributes, not_tested = attributes_of(rows)
        for attribute, values in attributes.items():
            judged = fairness.judge(labels, before[:, 0].astype(int), values, names)
            members = {str(value): set() for value in values}
            for value, speaker in zip(values, rows["speaker"][:], strict=True):
                members[str(value)] |= {speaker} - {None}
            with_speakers = [one | {"speakers": len(members[one["group"]])} for one in judged["groups"]]
            groups[attribute] = judged | {"groups": with_speakers}
    else:
        not_tested = dict.fromkeys(ATTRIBUTES, f"groups are judged for classes, these labels are {task.name}")
    return {
        "clips": len(rows),
        "speakers": report["speakers"],
        "label_names": names,
        "problem_type": kind,
        "metric": task.selected_by,
        "clean": report,
        "changes": outcomes,
        "goal": GOAL,
        "reached": min(small) >= GOAL if small else None,
        "groups": groups,
        "not_tested": not_tested,
        "remarks": remarks,
    }


def attributes_of(rows: Dataset) -> tuple[dict[str, list], dict[str, str]]:
    """The group of each clip by attribute, in the order of `ATTRIBUTES`, and why others have none."""
    columns = {key: rows[key][:] for key in ("gender", "age", "language", "speaker", "text") if key in rows.features}
    pitch = measure_rows(rows)[:, list(MEASURES).index("pitch")]
    groups = {
        "gender": columns.get("gender"),
        "age group": [fairness.age_group(years) for years in columns["age"]] if "age" in columns else None,
        "language": columns.get("language"),
        "speaker": columns["speaker"],
        "pitch group": fairness.pitch_groups(pitch, columns["speaker"]),
        "sentence": columns["text"],
    }
    silent = [name for name, values in groups.items() if values is None or not any(v is not None for v in values)]
    said = {name: values for name, values in groups.items() if name not in silent}
    return said, dict.fromkeys(silent, "the corpus does not say")


# ---- the report as Markdown and as a figure


def section(report: dict, level: str = "##", names: bool = True) -> str:
    """The report as a section of Markdown; without `names`, for the model card, no speaker and no sentence is named."""
    metric, clean = report["metric"], report["clean"]
    parts = [
        f"{level} Under stress",
        f"{report['clips']} clips of {report['speakers'] or 'unknown'} speakers, {shown(metric)} "
        f"{scored(clean, metric)} (95 % interval by bootstrap over {clean['intervals_over']}).",
    ]
    if report["changes"]:
        parts += [small_line(report), _changes_table(report), "![stress](figures/stress.png)"]
    if report["groups"]:
        parts += [f"{level}# Groups", _groups_line(report)]
        for attribute, entry in report["groups"].items():
            table = names or attribute not in PRIVATE
            parts.append(_groups_table(attribute, entry) if table else _groups_summary(attribute, entry))
        if names and report["groups"].get("speaker", {"groups": []})["groups"]:
            parts += ["Share of each speaker's clips, labelled / predicted:", _proportions(report)]
    if report["not_tested"]:
        parts.append("Not tested: " + "; ".join(f"{name}, {why}" for name, why in report["not_tested"].items()) + ".")
    parts += [f"{remark[0].upper()}{remark[1:]}." for remark in report["remarks"]]
    return "\n\n".join(parts) + "\n"


def small_line(report: dict) -> str:
    small = [one for one in report["changes"] if one["kind"] == "small"]
    if not small:
        return "No small changes were made."
    below = [one for one in small if one["kept"] < report["goal"]]
    least = min(small, key=lambda one: one["kept"])
    text = f"Small changes, which nobody hears, keep at least {least['kept']:.1%} of the predictions ({key_of(least)})"
    reached = f", and {len(below)} of {len(small)} miss it" if below else ": reached"
    return f"{text}; the goal is {report['goal']:.0%}{reached}."


def key_of(change: dict) -> str:
    """A change of the report in words, as `Change.key`."""
    return f"{change['name']} {change['strength']:g} {change['unit']}"


def _changes_table(report: dict) -> str:
    metric = report["metric"]
    before = report["clean"]["metrics"][metric]
    rows = []
    for one in report["changes"]:
        value = one["metrics"].get(metric)
        difference = None if value is None or before is None else value - before
        share = [one["kept"], one["least"]] if "least" in one else [one["kept"]]
        rows.append([KINDS[one["kind"]], key_of(one), *map(number, [*share, value, difference])])
    shares = ["predictions kept", "in the worst fold"][: len(rows[0]) - 4]
    return markdown_table(["kind", "change", *shares, shown(metric), "difference"], rows)


def over_folds(reports: Sequence[dict]) -> dict:
    """The reports of several folds together: `folds`, `metric`, `goal`, and the changes that all have, each with the
    mean (`kept`) and the `least` share of predictions kept, and the mean metric; `beyond_chance`, the folds in which an
    attribute has a gap beyond chance, of those in which it was judged."""
    metric = reports[0]["metric"]
    clean = np.mean([one["clean"]["metrics"][metric] for one in reports])
    every = [{key_of(change): change for change in one["changes"]} for one in reports]
    changes = []
    for key, change in every[0].items():
        if not all(key in one for one in every):
            continue
        kept_of = [one[key]["kept"] for one in every]
        values = [value for one in every if (value := one[key]["metrics"].get(metric)) is not None]
        row = {name: change[name] for name in ("name", "kind", "strength", "unit")}
        row |= {"kept": float(np.mean(kept_of)), "least": min(kept_of)}
        changes.append(row | {"metrics": {metric: float(np.mean(values)) if values else None}})
    judged = {
        name: [
            any(map(_is_biased, entry["groups"])) for one in reports if not (entry := one["groups"][name])["not_judged"]
        ]
        for name in dict.fromkeys(name for one in reports for name in one["groups"])
        if all(name in one["groups"] for one in reports)
    }
    return {
        "folds": len(reports),
        "metric": metric,
        "goal": reports[0]["goal"],
        "clean": {"metrics": {metric: float(clean)}},
        "changes": changes,
        "beyond_chance": {name: [sum(biased), len(biased)] for name, biased in judged.items() if biased},
    }


def folds_section(report: dict) -> str:
    """`over_folds` as a section of Markdown."""
    metric = report["metric"]
    clean = number(report["clean"]["metrics"][metric])
    parts = ["## Under stress", f"Means of {report['folds']} test folds, {shown(metric)} {clean} as recorded."]
    parts += [small_line(report), _changes_table(report)] if report["changes"] else []
    groups = [f"{name} in {biased} of {folds} folds" for name, (biased, folds) in report["beyond_chance"].items()]
    if groups:
        parts += [f"Gaps between groups beyond chance: {', '.join(groups)}; a fair model has one in a tenth of them."]
    return "\n\n".join(parts) + "\n"


def _groups_line(report: dict) -> str:
    tested = {name: entry["groups"] for name, entry in report["groups"].items() if entry["not_judged"] is None}
    if not tested:
        return "No attribute has two groups that are large enough to be judged."
    alarms = [name for name, groups in tested.items() if any(map(_is_biased, groups))]
    few = [name for name in tested if name != "speaker" and min(one["speakers"] for one in tested[name]) < FEW]
    alarm = f"Beyond chance: {', '.join(alarms)}" if alarms else "No gap is beyond chance"
    text = (
        f"{alarm} ({2 * len(tested)} tests, of UAR and of the classes by {', '.join(tested)}; a fair model fails each "
        "in one of 20). A gap is the group's figure minus that of all clips for the same labels. Its limit is the 95th "
        "percentile of the largest gap that a random model with the same confusion matrix reaches in "
        f"{fairness.DRAWS} draws at this sample size (Derington et al., arXiv 2312.06270)."
    )
    warning = f" Groups of fewer than {FEW} speakers ({', '.join(few)}): a gap may be that of single speakers."
    return text + (warning if few else "")


def _is_biased(group: dict) -> bool:
    return group["biased"] or any(one["biased"] for one in group["classes"])


def _groups_table(attribute: str, entry: dict) -> str:
    """One attribute's groups; the widest gaps of more than `MOST_GROUPS`."""
    widest = sorted(entry["groups"], key=lambda one: (not _is_biased(one), -abs(one["gap"])))[:MOST_GROUPS]
    figures = ("uar", "gap", "limit")
    rows = [
        [
            one["group"],
            one["speakers"],
            one["clips"],
            *(number(one[name]) for name in figures),
            beyond_limit(one) or "-",
        ]
        for one in entry["groups"]
        if one in widest
    ]
    parts = []
    if rows and not entry["not_judged"]:
        parts.append(markdown_table([attribute, "speakers", "clips", "UAR", "gap", "limit", "beyond chance"], rows))
    if (hidden := len(entry["groups"]) - len(rows)) > 0:
        parts.append(f"... and {hidden} more, with smaller gaps.")
    small = entry["too_small"]
    names = ", ".join(f"{escape(name)} ({clips} clips)" for name, clips in small.items())
    names += f" and {more} more" if (more := entry["too_small_groups"] - len(small)) else ""
    if entry["not_judged"]:
        names = f"{entry['not_judged']}" + (f": {names}" if small else "")
    if names:
        parts.append(f"{attribute}, not judged: {names}.")
    return "\n\n".join(parts)


def _groups_summary(attribute: str, entry: dict) -> str:
    if entry["not_judged"]:
        return f"{attribute}, not judged: {entry['not_judged']}."
    widest = max(entry["groups"], key=lambda one: abs(one["gap"]))
    gap, limit = number(widest["gap"]), number(widest["limit"])
    judged, biased = len(entry["groups"]), sum(map(_is_biased, entry["groups"]))
    return f"{attribute}: {judged} groups, widest gap {gap} (limit {limit}), {biased} with a gap beyond chance."


def beyond_limit(group: dict) -> str:
    """What of a judged group is beyond its limit; empty if nothing is."""
    gaps = [f"UAR {group['gap']:+.2f}"] if group["biased"] else []
    for one in group["classes"]:
        if one["limit"] is not None and abs(one["gap"]) > one["limit"]:
            gaps.append(f"recall of {one['class']} {one['gap']:+.2f}")
        elif one["biased"]:
            gaps.append(f"answers {one['class']} {one['share_gap']:+.2f}")
    return "; ".join(gaps)


def _proportions(report: dict) -> str:
    speakers = report["groups"]["speaker"]["groups"][: 2 * MOST_GROUPS]
    rows = [
        [one["group"], *(f"{each['labelled']:.2f} / {each['predicted']:.2f}" for each in one["classes"])]
        for one in speakers
    ]
    return markdown_table(["speaker", *report["label_names"]], rows)


def figure(report: dict, title: str) -> bytes:
    """PNG: for each change the share of predictions kept, and the metric beside that of the clips as they are."""
    changes, metric = report["changes"][::-1], report["metric"]
    drawing = Figure(figsize=(9, 1.5 + 0.22 * len(changes)), layout="constrained")
    left, right = drawing.subplots(1, 2, sharey=True)
    places = np.arange(len(changes))
    colours = {kind: f"C{index}" for index, kind in enumerate(KINDS)}
    colour = [colours[one["kind"]] for one in changes]
    left.scatter([one["kept"] for one in changes], places, c=colour)
    values = [np.nan if (value := one["metrics"].get(metric)) is None else value for one in changes]
    right.scatter(values, places, c=colour)
    left.axvline(report["goal"], color="0.6", linestyle="--", linewidth=1)
    right.axvline(report["clean"]["metrics"][metric] or 0.0, color="0.6", linestyle="--", linewidth=1)
    left.set_yticks(places, [key_of(one) for one in changes])
    left.set(xlabel="predictions kept (dashed: the goal of small changes)", xlim=(0, 1.02))
    right.set(xlabel=f"{shown(metric)} (dashed: as recorded)", xlim=(0, 1.02))
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.3)
    drawing.suptitle(title)
    return png(drawing)


def files(about: dict, report: dict) -> dict[str, str | bytes]:
    """`stress.md`, `stress.json` and `figures/stress.png` by their names, from `stress` and what it is `about`:
    `model`, `corpus`, `labels`, `protocol`, `fold` and `part` (`test` or `all`)."""
    report = {"ser_hf": __version__} | about | report
    content = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    where = "all clips" if about["fold"] is None else f"{about['protocol']} fold {about['fold']}"
    title = f"{about['model']} on {about['corpus']}, {where}"
    drawn = {"figures/stress.png": figure(report, title)} if report["changes"] else {}
    return {**drawn, "stress.md": section(report, "#"), "stress.json": content + "\n"}


def clip_options(results: dict) -> dict:
    """The options of `stress` that read clips as the test of a run did, from its `results.json`: windows, or a part of
    each clip; none if the run's model read whole clips."""
    windows, clips = window_options(results), results.get("clips")
    reading = {name: clips[name] for name in ("trim_db", "min_seconds", "max_seconds")} if clips else None
    return windows or {"reading": reading}


def window_options(results: dict) -> dict:
    """The pipeline's options for the windows that a run was trained on, by its `results.json`; none for clips."""
    windows = results.get("windows")
    return {"window_s": windows["seconds"], "hop_s": min(windows["hop"], windows["seconds"])} if windows else {}
