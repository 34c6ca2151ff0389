"""`ser-hf cv ... --learning_curve speakers`: the folds again on 25, 50 and 75 % of their training speakers, and whether
more speakers would help. Validation and test stay the same; a smaller share is a part of each larger one."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from ..data.splits import Protocol
from ..errors import SerError
from ..evaluation import CLASSES
from ..evaluation.bootstrap import intervals
from ..evaluation.tables import markdown_table, shown, with_interval
from ..evaluation.tasks import TASKS
from ..files import png
from .cv import Request
from .cv_report import Fold, pooled_draws

SHARES = (0.25, 0.5, 0.75)
GAIN = 0.02  # of UAR, mAP or CCC: what is less is no reason to record more speakers


def smaller(request: Request, protocol: Protocol) -> dict[float, Request]:
    """The cross-validations on a share of the speakers, which lie in the folder of the whole one; none unless it is
    asked for. Raises SerError: the protocol does not keep speakers apart."""
    if not request.learning_curve:
        return {}
    if not protocol.speaker_independent:
        raise SerError(f"--learning_curve speakers: {protocol.name} does not keep speakers apart; other --protocol")
    return {
        share: replace(
            request,
            words=[*request.words, "--train_speakers", str(share)],
            overrides={**request.overrides, "train_speakers": share},
            data=replace(request.data, train_speakers=share),
            out=request.out / f"speakers{share:.0%}".replace("%", ""),
            against={},
        )
        for share in SHARES
    }


def curve(
    parts: Mapping[float, Mapping[tuple[int, int], Fold]], label_names: list[str], problem_type: str = CLASSES
) -> dict:
    """The part of `cv.json` from the finished folds of each share, by `(seed, fold)`: a point per share (mean training
    speakers and utterances of a fold; the task's main metric, such as UAR, of the pooled predictions, mean over seeds,
    and its interval over test speakers), the paired difference of the last two, and a conclusion in words."""
    metric, points, draws = TASKS[problem_type].selected_by, [], {}
    for share, runs in sorted(parts.items()):
        value, draws[share] = pooled_draws(runs, label_names, problem_type)
        train = [results["splits"]["train"] for results, _ in runs.values()]
        points.append(
            {
                "share": share,
                "speakers": float(np.mean([part["speakers"] for part in train])),
                "utterances": float(np.mean([part["utterances"] for part in train])),
                metric: value,
                "interval": intervals({metric: draws[share]})[metric],
            }
        )
    *_, before, last = points
    difference = last[metric] - before[metric]
    interval = intervals({metric: draws[last["share"]] - draws[before["share"]]})[metric]
    steps = f"from {before['speakers']:.3g} to {last['speakers']:.3g} training speakers"
    return {
        "by": "speakers",
        "metric": metric,
        "points": points,
        "last_step": {"difference": difference, "interval": interval},
        "conclusion": conclusion(difference, interval, steps, shown(metric)),
    }


def conclusion(difference: float, interval: list[float] | None, steps: str, metric: str = "UAR") -> str:
    """Whether more speakers would help, from the paired difference of the last two points.

    >>> conclusion(0.05, [0.01, 0.09], "from 12 to 16 training speakers")
    'More speakers would probably help: from 12 to 16 training speakers UAR rose by 0.050 [0.010, 0.090].'
    >>> conclusion(0.0, [-0.01, 0.01], "from 6 to 8 speakers")
    'More speakers would hardly help: from 6 to 8 speakers UAR changed by 0.000 [-0.010, 0.010], less than 0.02.'
    """
    by = with_interval(difference, interval)
    if interval is not None and interval[1] < GAIN:
        return f"More speakers would hardly help: {steps} {metric} changed by {by}, less than {GAIN}."
    if interval is not None and interval[0] > 0:
        return f"More speakers would probably help: {steps} {metric} rose by {by}."
    verdict = f"Whether more speakers would help cannot be told: {steps} {metric} changed by {by}"
    return f"{verdict}; more test speakers would narrow the interval."


def section(cv: dict) -> str:
    """The part of `cv.md`."""
    results = cv["learning_curve"]
    rows, metric = [], shown(results["metric"])
    for one in results["points"]:
        sizes = [f"{one['share']:.0%}", f"{one['speakers']:.4g}", f"{one['utterances']:.4g}"]
        rows.append([*sizes, with_interval(one[results["metric"]], one["interval"])])
    table = markdown_table(["share", "training speakers", "utterances", metric], rows)
    about = (
        "Each fold trained on a share of its training speakers, with the same validation and test. Figures are of the\n"
        "pooled predictions, mean over seeds, with 95 % intervals over test speakers. Another draw of the speakers\n"
        "may give another curve. Validation speakers, which classical_cls.py also fits, are not counted."
    )
    image = f"![{metric} against training speakers](learning_curve.png)"
    return "\n\n".join(["\n## Learning curve", about, table, results["conclusion"], image]) + "\n"


def figure(cv: dict) -> bytes:
    """PNG: the main metric against training speakers, with intervals and chance."""
    points, metric = cv["learning_curve"]["points"], cv["learning_curve"]["metric"]
    speakers, values = ([one[name] for one in points] for name in ("speakers", metric))
    low, high = zip(*(one["interval"] or (one[metric], one[metric]) for one in points), strict=True)
    image = Figure(figsize=(5, 3.6), layout="constrained")
    title = f"{cv['corpus']['corpus']} ({cv['corpus']['labels']}), {cv['protocol']['name']}"
    axes = image.add_subplot(title=title, xlabel="training speakers per fold", ylabel=shown(metric))
    axes.fill_between(speakers, low, high, alpha=0.2, linewidth=0, label="95 % interval over test speakers")
    axes.plot(speakers, values, "o-")
    axes.axhline(cv["pooled"][f"chance_{metric}"], color="0.6", linestyle="--", linewidth=1, label="chance")
    axes.set(xlim=(0, None), ylim=(0, 1))
    axes.legend(loc="lower right", frameon=False)
    return png(image)
