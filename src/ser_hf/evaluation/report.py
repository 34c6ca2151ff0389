"""The report of a run: text on the screen, model card, figures, `results.json`, `predictions.parquet`."""

import json
import re
from pathlib import Path

import pandas as pd
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..files import write
from .figures import FIGURES
from .tables import escape, markdown_table, number, plain, rows_of, shown, text_table, with_interval
from .tasks import TASKS

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    finalize=lambda value: value if isinstance(value, Markup) else escape(value),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
# Calls of a saved model, by the task of its pipeline.
USES = {
    "audio-classification": 'classify({"array": samples, "sampling_rate": rate}, top_k=None)  # mono float32 samples',
    "text-classification": 'classify("What a day!", top_k=None)',
    "speech-emotion-recognition": 'classify({"audio": "clip.wav", "text": "What a day!"})  # or one of them alone',
}
SPEAKER_NORM = "SPEAKER-NORMALISED"
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
}
# Licences of corpora that have an identifier on the Hub (https://huggingface.co/docs/hub/repositories-licenses).
HUB_LICENCES = {
    name.lower(): name.lower()
    for name in ("CC0-1.0", *(f"CC-BY-{kind}4.0" for kind in ("", "SA-", "NC-", "ND-", "NC-SA-", "NC-ND-")))
} | {"odbl-1.0": "odbl", "apache-2.0": "apache-2.0", "mit": "mit"}


def warnings(results: dict) -> list[str]:
    """The keys of `COMPARABLE` that hold for the figures of a run or a cross-validation."""
    named = (results["protocol"]["warning"], SPEAKER_NORM if results["model"].get("speaker_norm") else "")
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
    out += [f"  {line}" for line in window_lines(results)]
    tables = {"": rows_of(test[TASKS[test["problem_type"]].table], "label")}
    if results.get("comparisons"):
        title = "  compared on the same test utterances (this system minus the other, paired bootstrap):"
        tables = {title: rows_of(comparison_table(results), "system")} | tables
    for threshold, table in test.get("thresholds", {}).items():
        tables[f"  present at {threshold} and above:"] = rows_of(table, "label")
    for title, table in tables.items():
        out += ["", *([title] if title else []), *(f"  {line}" for line in text_table(*table))]
    return out + [f"  {line}" for line in test["remarks"]]


def selection_line(results: dict) -> str:
    """How the model was chosen among those of its training."""
    trained = results.get("training")
    if not results["splits"]["validation"]["utterances"]:
        return "There was no validation: nothing was selected"
    if not trained:
        return "The model was not trained here: nothing was selected"
    if trained["selected_by"] == "last epoch":
        return "The model is that of the last epoch: nothing was selected"
    return f"The model was selected on validation, by {shown(trained['selected_by'])}"


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


def licence(results: dict) -> str | None:
    """The licence of a model, by the Hub's identifiers: that of its corpus and its checkpoints if all of them have the
    same one or CC0, which asks for nothing; None where they differ, or one is not known."""
    licences = {HUB_LICENCES.get(results["corpus"]["licence"].lower()), *results["model"].get("licences", [None])}
    binding = licences - {"cc0-1.0"}
    return None if len(binding) > 1 else next(iter(binding or licences))


def card_data(results: dict, name: str) -> ModelCardData:
    """Metadata of the card: `license` where it is known (`licence`), `datasets` where corpora are datasets on the Hub,
    `base_model` where encoders are published."""
    corpus, protocol, model = results["corpus"], results["protocol"], results["model"]
    corpora = [corpus["corpus"], *(results.get("mixed") or {})]
    # the Hub knows its own tasks only; models of our pipeline load in this one too
    tag = model["task"] if model["task"] != "speech-emotion-recognition" else "audio-classification"
    under = ", ".join([f"{protocol['name']} fold {protocol['fold']}", *warnings(results)])
    dependent = [] if protocol["speaker_independent"] else ["speaker-dependent-evaluation"]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=tag,
        language=list(corpus["languages"]),
        license=licence(results) if len(corpora) == 1 else None,
        base_model=model["published_encoders"] or None,
        datasets=[name for name in corpora if re.fullmatch(r"\w[\w.-]*/[\w.-]+", name)] or None,
        tags=["speech-emotion-recognition", "ser_hf", *dependent],
        metrics=[plain(metric) for metric in results["test"]["metrics"]],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=tag,
                task_name="Emotion recognition",
                dataset_type=plain(corpus["corpus"]),
                dataset_name=plain(f"{corpus['corpus']} ({corpus['labels']})"),
                dataset_split="test",
                metric_type=plain(metric),
                metric_name=plain(f"{shown(metric)} ({under})"),
                metric_value=round(value, 4),
            )
            for metric, value in results["test"]["metrics"].items()
            if value is not None
        ],
    )


def render(template: str, **facts: object) -> str:
    """A template of `templates/`: every expression is one line of escaped text (`tables.escape`), whatever comes from
    outside, unless it is `Markup`, which is Markdown or code of our own."""
    return TEMPLATES.get_template(template).render(**facts)


def model_card(results: dict, repo_id: str | None = None) -> str:
    """`README.md` of a run from its `results.json`: what was trained on what, how it was tested, every metric with its
    interval. `repo_id` is the repository it is for; "MODEL" stands for it if None."""
    test, name = results["test"], repo_id or "MODEL"
    data = card_data(results, name)
    spread = {metric: "{:.3f} to {:.3f}".format(*both) for metric, both in test["intervals"].items() if both}
    defined = {metric: value for metric, value in test["metrics"].items() if value is not None}
    tables = {
        "scores": markdown_table(
            ["metric", "value", "95 % interval"],
            [[shown(metric), number(value), spread.get(metric, number(None))] for metric, value in defined.items()],
        ),
        "by_label": markdown_table(*rows_of(test[TASKS[test["problem_type"]].table], "label")),
        "compared": markdown_table(*rows_of(comparison_table(results), "system")) if results.get("comparisons") else "",
    }
    reports = {limit: markdown_table(*rows_of(rows, "label")) for limit, rows in test.get("thresholds", {}).items()}
    code = {
        "use": USES[results["model"]["task"]],
        "command": results["command"],
        "fence": "`" * max(3, *(len(ticks) + 1 for ticks in re.findall("`+", results["command"]) or [""])),
    }
    return render(
        "model_card.md",
        **{key: results[key] for key in ("corpus", "protocol", "splits", "test")},
        **{key: Markup(value) for key, value in (tables | code).items()},
        card_data=Markup(data.to_yaml()),
        model={"speaker_norm": False, **results["model"]},
        name=name,
        selection=selection_line(results),
        subject="Emotion recognition from text" if data.pipeline_tag[:4] == "text" else "Speech emotion recognition",
        cautions=[Markup(COMPARABLE[warning]) for warning in warnings(results)],
        undefined=[shown(metric) for metric in test["metrics"] if metric not in defined],
        remarks=[*test["remarks"], *window_lines(results)],
        reports={limit: Markup(table) for limit, table in reports.items()},
        shown=shown,
        number=number,
    )


def write_report(folder: Path, results: dict, table: pd.DataFrame, repo_id: str | None = None) -> None:
    """`predictions.parquet`, `figures/`, `README.md`, and last `results.json`, which marks the run as finished."""
    write(folder / "predictions.parquet", table.to_parquet(index=False))
    title = f"{results['corpus']['corpus']}, {results['protocol']['name']} fold {results['protocol']['fold']}"
    for name in results["test"]["figures"]:
        write(folder / "figures" / f"{name}.png", FIGURES[name](results, table, title))
    write(folder / "README.md", model_card(results, repo_id))
    write(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
