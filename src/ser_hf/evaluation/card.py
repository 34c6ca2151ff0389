"""The model card of a run, and all that its folder holds beside the model: figures, results, predictions."""

import json
import re
from pathlib import Path

import pandas as pd
from huggingface_hub import EvalResult, ModelCardData
from markupsafe import Markup

from ..files import write
from . import CLASSES, LABELS
from .figures import FIGURES, names_of
from .report import COMPARABLE, calibration_lines, comparison_table, warnings, window_lines
from .stress import section
from .tables import markdown_table, number, plain, render, rows_of, scored, shown
from .tasks import TASKS

# What metrics are, in the words below their table.
MEANINGS = {
    "uar": "UAR is the mean of the recalls of all labels",
    "wa": "WA the share of right answers",
    "macro_f1": "macro F1 the mean of the labels' F1",
    "micro_f1": "micro F1 the F1 of all decisions together",
    "weighted_f1": "weighted F1 their mean by support",
    "map": "mAP the mean of the labels' average precisions",
    "weighted_accuracy": "weighted accuracy the mean of the recalls of what is present and what is absent",
    "ccc": "CCC is the concordance correlation coefficient, 1 at best",
}
# Shares of answered utterances in the card's table.
ANSWERED = ("1.0", "0.9", "0.8", "0.7", "0.5")
MADE_HERE = re.compile("^random |functionals of openSMILE$")  # encoders that are no checkpoint
SEVERAL = "a temperature is fitted for single labels alone"
FEW_SPEAKERS = 20  # tested: others may differ by more than an interval shows
# Licences of corpora that have an identifier on the Hub (https://huggingface.co/docs/hub/repositories-licenses).
HUB_LICENCES = {
    name.lower(): name.lower()
    for name in ("CC0-1.0", *(f"CC-BY-{kind}4.0" for kind in ("", "SA-", "NC-", "ND-", "NC-SA-", "NC-ND-")))
} | {"odbl-1.0": "odbl", "apache-2.0": "apache-2.0", "mit": "mit"}


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


def provenance(results: dict) -> dict[str, object]:
    """What the card says of the model's origin: the licences of `published` checkpoints by their names, `local` ones,
    the corpora that its emotions were `learned` from, and `versions`."""
    model, trained_on = results["model"], results.get("trained_on", [])
    published = dict(zip(model["published_encoders"], model["licences"], strict=False))
    encoders = model["encoder"].split(" + ")
    learned = [f"{one['corpus']} ({one['protocol']} fold {one['fold']})" for one in trained_on]
    commit = f" (commit {results['commit']})" if results.get("commit") else ""
    return {
        "published": published,
        "local": [name for name in encoders if name not in published and not MADE_HERE.search(name)],
        "learned": [*dict.fromkeys(learned), *sorted({name for one in trained_on for name in one["added"]})],
        "versions": {"ser_hf": results["ser_hf"] + commit, **results["versions"]} if "ser_hf" in results else {},
    }


def model_card(results: dict, repo_id: str | None = None) -> str:
    """`README.md` of a run from its `results.json` (and, as `stress`, its `stress.json`): what was trained on what, how
    it was tested, every metric with its interval. `repo_id` is the repository it is for, "MODEL" if None."""
    test, name, corpus, kind = results["test"], repo_id or "MODEL", results["corpus"], results["test"]["problem_type"]
    data, calibration = card_data(results, name), results.get("calibration")
    spread = {metric: "{:.3f} to {:.3f}".format(*both) for metric, both in test["intervals"].items() if both}
    defined = {metric: value for metric, value in test["metrics"].items() if value is not None}
    scores = [[shown(metric), number(value), spread.get(metric, number(None))] for metric, value in defined.items()]
    shares = ANSWERED if calibration else ()
    answered = {f"{100 * float(share):.0f} %": calibration["answered"][share] for share in shares}
    tables = {
        "scores": markdown_table(["metric", "value", "95 % interval"], scores),
        "by_label": markdown_table(*rows_of(test[TASKS[kind].table], "label")),
        "by_gender": markdown_table(*rows_of(gender_table(test), "gender")) if test.get("by_gender") else "",
        "answered": markdown_table(*rows_of(answered, "answered")) if calibration else "",
        "compared": markdown_table(*rows_of(comparison_table(results), "system")) if results.get("comparisons") else "",
    }
    reports = {limit: markdown_table(*rows_of(rows, "label")) for limit, rows in test.get("thresholds", {}).items()}
    command = results["command"]
    fence = "`" * max(3, *(len(ticks) + 1 for ticks in re.findall("`+", command) or [""]))
    subject = "Emotion recognition from text" if data.pipeline_tag[:4] == "text" else "Speech emotion recognition"
    source = json.dumps(name) + ("" if results["model"]["stock"] else ", trust_remote_code=True")
    return render(
        "model_card.md",
        **{key: results[key] for key in ("corpus", "protocol", "splits", "test")},
        **{key: Markup(value) for key, value in tables.items()},
        card_data=Markup(data.to_yaml()),
        model={"speaker_norm": False, "parameters": None, **results["model"]},
        name=name,
        source=Markup(source),  # the first arguments of what loads the model
        answer={CLASSES: "class", LABELS: "labels"}.get(kind, "values"),
        command=Markup(command),
        fence=Markup(fence),
        subject=subject,
        languages=", ".join(corpus["languages"]),
        few_speakers=FEW_SPEAKERS,
        temperature=(calibration or {}).get("temperature"),
        why_not=(calibration or {}).get("why_not") or (SEVERAL if kind == LABELS else None),
        licence=data.license,
        calibration=calibration_lines(results),
        speakers=speaker_line(test),
        **{key: results.get(key) for key in ("training", "machine", "seconds", "seed")},
        **provenance(results),
        curves="training_curves" in names_of(results),
        cautions=[Markup(COMPARABLE[warning]) for warning in warnings(results)],
        undefined=[shown(metric) for metric in test["metrics"] if metric not in defined],
        meanings=", ".join(text for metric, text in MEANINGS.items() if metric in defined),
        remarks=[line[0].upper() + line[1:] for line in (*test["remarks"], *window_lines(results))],
        reports={limit: Markup(table) for limit, table in reports.items()},
        stress=Markup(section(results["stress"], names=False) if results.get("stress") else ""),
        shown=shown,
        number=number,
    )


def gender_table(test: dict) -> dict[str, dict]:
    """A row per gender of a scored part."""
    return {
        gender: {
            "utterances": row["utterances"],
            "speakers": row["speakers"],
            **{name: scored(row, name) for name in row["metrics"]},
        }
        for gender, row in test["by_gender"].items()
    }


def speaker_line(test: dict) -> str:
    """The spread over speakers, none of whom is named."""
    if not (found := test.get("by_speaker")):
        return ""
    names = ("lowest", "lower quartile", "median", "upper quartile", "highest")
    values = dict(zip(names, found["quartiles"], strict=True))
    if found["speakers"] < 5:
        values = {name: values[name] for name in ("lowest", "highest")}
    spread = ", ".join(f"{name} {number(value)}" for name, value in values.items())
    return f"{shown(found['metric'])} of single speakers ({found['speakers']}): {spread}."


def read_stress(folder: Path) -> dict | None:
    """The report of `ser-hf stress` in a folder, for the card; None if there is none."""
    file = folder / "stress.json"
    return json.loads(file.read_text()) if file.is_file() else None


def write_card(folder: Path, results: dict, table: pd.DataFrame, repo_id: str | None = None) -> None:
    """`figures/` and `README.md` from a run's results and predictions."""
    title = f"{results['corpus']['corpus']}, {results['protocol']['name']} fold {results['protocol']['fold']}"
    for name in names_of(results):
        write(folder / "figures" / f"{name}.png", FIGURES[name](results, table, title))
    write(folder / "README.md", model_card(results, repo_id))


def write_report(folder: Path, results: dict, table: pd.DataFrame, repo_id: str | None = None) -> None:
    """`predictions.parquet`, `figures/`, `README.md`, and last `results.json`, which marks the run as finished."""
    write(folder / "predictions.parquet", table.to_parquet(index=False))
    write_card(folder, results | {"stress": read_stress(folder)}, table, repo_id)
    write(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
