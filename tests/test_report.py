"""The report of a run: card, metadata and figures from results made by hand; text from outside stays text."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from datasets import Dataset
from huggingface_hub import ModelCard

from ser_hf.evaluation.calibration import describe
from ser_hf.evaluation.card import model_card, write_report
from ser_hf.evaluation.figures import confusion_figure, scatter_figure
from ser_hf.evaluation.report import comparison_table, lines
from ser_hf.evaluation.scoring import compare, groups, predictions_table, score
from ser_hf.evaluation.tables import escape, markdown_table, plain, rows_of, shown, text_table
from ser_hf.evaluation.tasks import CLASSES, LABELS, TASKS, VALUES

HOSTILE = "<script>alert(1)</script> ![x](http://evil) [y](z) |a| `b` *c* _d_\n\n# e\n---\n$x$ $y$ </td>"
HOSTILE += " {{ 1 + 1 }} {% raw %} \x1b[31m\r\u2028# f\u202e"


def results_of(
    problem_type: str = CLASSES, names=("angry", "sad"), words: str = "", **changes
) -> tuple[dict, pd.DataFrame]:
    """Results as recipes write them, of four utterances of two speakers; `words` end every text from outside."""
    rng = np.random.default_rng(0)
    names = [name + words for name in names]
    labels = [0, 1, 1, 0] if problem_type == CLASSES else [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 1.0]]
    part = {"label": labels, "speaker": ["a", "a", "b", "b"], "id": [f"{i}{words}" for i in range(4)]}
    part = Dataset.from_dict(part | {"gender": ["female", "female", "male", "male"]})
    logits, others = rng.normal(size=(4, 2)), {"tfidf": rng.normal(size=(4, 2))}
    test = score(part, logits, names, problem_type, None, [0.5]) | groups(part, logits, names, problem_type)
    test["remarks"] += [f"a remark{words}"]
    size = {"utterances": 4, "speakers": 2, "hours": 0.1}
    results = {
        "command": f"accelerate launch recipes/wav2vec2_cls.py --dataset demo{words}",
        "corpus": {
            "corpus": f"demo{words}", "labels": f"4class{words}", "label_names": names, "title": f"Demo corpus{words}",
            "licence": "CC0-1.0", "citation": f"ser_hf (2026){words}", "notes": f"Synthetic.{words}",
            "languages": ["en"],
            "lines": [f"demo: 12 utterances{words}", "  1 clip cannot be used:", f"    x.wav{words}: unreadable"],
        },
        "mixed": None,
        "protocol": {
            "name": f"6fold{words}", "source": f"six folds{words}", "fold": 0, "speaker_independent": True,
            "warning": "",
        },
        "training": {
            "selected_by": TASKS[problem_type].selected_by, "selected_step": 30, "epochs": 3.0, "steps": 30,
            "seconds": 60.0, "resumed": False,
            "curve": [{"epoch": 1.0, "loss": 1.5}, {"epoch": 1.0, "eval_loss": 1.4, "eval_uar": 0.5}],
        },
        "trained_on": [{"corpus": f"demo{words}", "added": [], "protocol": f"6fold{words}", "fold": 0}],
        "machine": {"processor": f"a CPU{words}", "cores": 2, "threads": 1, "accelerator": None},
        "seconds": 75.2,
        "versions": {"python": "3.12"},
        "ser_hf": "1.0",
        "commit": "abc1234",
        "splits": {"train": size, "validation": size, "test": size},
        "model": {
            "class": "Wav2Vec2ForSequenceClassification", "stock": True, "task": "audio-classification",
            "encoder": f"random wav2vec2{words}", "published_encoders": [], "licences": [],
            "details": f"mean pooling, linear head{words}", "parameters": 1234567,
        },
        "test": test,
        "comparisons": compare(part, logits, others, names, problem_type),
    }  # fmt: skip
    if problem_type == CLASSES:
        fitted = {"temperature": 2.0, "sets": {"alpha": 0.1, "threshold": 0.2}, "utterances": 4, "why_not": None}
        results["calibration"] = fitted | describe(2 * logits, logits, part, fitted["sets"])
    for key, value in changes.items():
        results[key] = {**results[key], **value} if isinstance(value, dict) and results[key] else value
    return results, predictions_table(part, logits, names, problem_type)


def front(card: str) -> dict:
    return yaml.safe_load(card.split("\n---\n")[0])


@pytest.mark.parametrize("problem_type", [CLASSES, LABELS, VALUES])
def test_the_card_states_every_figure(problem_type):
    results, _ = results_of(problem_type)
    card = model_card(results, "me/model")
    test = results["test"]
    for kind, value in test["metrics"].items():
        if value is not None and test["intervals"][kind]:
            low, high = test["intervals"][kind]
            assert re.search(rf"\| {value:.3f} +\| {low:.3f} to {high:.3f} +\|", card), kind
    for words in ("# Speech emotion recognition: demo (4class)", "Speaker-independent: **yes**", "fold 0 (six folds)",
                  "Labels: angry, sad.", "A remark.", "Licence of the corpus: CC0-1.0.", "Cite: ser_hf (2026)",
                  "- demo: 12 utterances", "  - x.wav: unreadable", "bootstrap over speakers", "| tfidf ",
                  'model="me/model")', "train 4 utterances of 2 speakers", results["command"],
                  f"validation, by {shown(TASKS[problem_type].selected_by)}; test was scored once"):  # fmt: skip
        assert words in card, words
    assert ("Present at 0.5 and above" in card) == (problem_type == VALUES)
    assert ("Decision thresholds, tuned on validation: angry 0.500, sad 0.500." in card) == (problem_type == LABELS)
    unlicensed = {**results, "model": {**results["model"], "licences": [None], "encoder": "mine + random bert"}}
    for words in ("No licence is stated", "Encoder: mine + random bert (mine: a folder of the machine that trained"):
        assert words in model_card({**unlicensed, "seed": 7}) and words not in card
    assert "linear head; 1,234,567 parameters." in card
    assert "- Seed: 7." in model_card({**unlicensed, "seed": 7})
    assert "UAR is the mean of the recalls of all labels, WA the share" in card or problem_type != CLASSES
    assert "of single speakers (2): lowest" in card and "quartile" not in card
    assert ("not calibrated: a temperature is fitted for single labels alone." in card) == (problem_type == LABELS)
    assert ("figures/confusion_matrix.png" in card) == (problem_type == CLASSES)
    assert not re.search(r"\n\n\n|{{|{%|(?<!=)None", card)
    data = front(card)
    assert (
        data["license"] == "cc0-1.0" and data["language"] == ["en"] and data["pipeline_tag"] == "audio-classification"
    )
    first = data["model-index"][0]["results"][0]
    assert first["dataset"] == {"name": "demo (4class)", "type": "demo", "split": "test"}
    defined = {kind: round(value, 4) for kind, value in test["metrics"].items() if value is not None}
    assert {entry["type"]: entry["value"] for entry in first["metrics"]} == defined
    assert ModelCard(card).data.eval_results[0].metric_name.endswith("(6fold fold 0)")


def test_metadata_is_given_where_it_is_known():
    published = {"encoder": "facebook/wav2vec2-base", "published_encoders": ["facebook/wav2vec2-base"], "stock": False}
    published |= {"licences": [None]}
    results, _ = results_of(model=published, corpus={"corpus": "you/your-corpus"}, mixed={"he/his": {}, "smile": {}})
    card = model_card(results)
    data = front(card)
    assert data["base_model"] == ["facebook/wav2vec2-base"] and data["datasets"] == ["you/your-corpus", "he/his"]
    assert "license" not in data  # the encoder's is not known here
    assert 'model="MODEL", trust_remote_code=True)' in card
    plain_one = front(model_card(results_of(corpus={"licence": "unknown"})[0]))
    assert not {"license", "datasets", "base_model"} & set(plain_one)


@pytest.mark.parametrize(
    "corpus, checkpoints, known",
    [
        ("CC0-1.0", [], "cc0-1.0"),
        ("CC0-1.0", ["apache-2.0"], "apache-2.0"),
        ("CC0-1.0", ["apache-2.0", "cc0-1.0"], "apache-2.0"),
        ("CC-BY-NC-4.0", [], "cc-by-nc-4.0"),
        ("CC-BY-NC-4.0", ["cc-by-nc-4.0"], "cc-by-nc-4.0"),
        ("CC-BY-NC-4.0", ["apache-2.0"], None),  # not for us to say
        ("CC0-1.0", ["apache-2.0", "mit"], None),
        ("CC0-1.0", [None], None),
        ("research only", ["mit"], None),
    ],
)
def test_a_licence_is_stated_where_it_is_known(corpus, checkpoints, known):
    results, _ = results_of(corpus={"licence": corpus}, model={"licences": checkpoints})
    assert front(model_card(results)).get("license") == known
    assert "license" not in front(model_card(results | {"mixed": {"smile": {}}}))


@pytest.mark.parametrize(
    "warning, words",
    [("LEAKS SPEAKERS", "same speakers into train and test"), ("SPEAKERS UNKNOWN", "does not name its speakers")],
)
def test_a_leak_stands_beside_the_figures(warning, words):
    results, _ = results_of(protocol={"speaker_independent": False, "warning": warning}, model={"speaker_norm": True})
    results["splits"]["validation"] = {"utterances": 0, "speakers": 0, "hours": 0.0}
    card, screen = model_card(results), "\n".join(lines(results))
    assert words in card and "Speaker-independent: **NO**" in card and "speaker-normalised" in card
    assert ".adapted(clips)\nsamples, rate = soundfile" in card
    assert "There was no validation: nothing was selected; test was scored once." in card
    data = front(card)
    assert "speaker-dependent-evaluation" in data["tags"]
    names = [entry["name"] for entry in data["model-index"][0]["results"][0]["metrics"]]
    assert all(name.endswith(f"(6fold fold 0, {warning}, SPEAKER-NORMALISED)") for name in names)
    assert f"{warning}: do not compare" in screen and "unseen speakers" not in screen


@pytest.mark.parametrize("problem_type", [CLASSES, LABELS, VALUES])
def test_text_from_outside_stays_text(problem_type, tmp_path):
    """Names of corpora, labels and files cannot bring markup into the card, and two `$` not the figure to fail."""
    results, table = results_of(problem_type, words=HOSTILE)
    write_report(tmp_path, results, table)
    card = (tmp_path / "README.md").read_text()
    fence = "`" * 3
    head, body = card.split("\n---\n", 1)
    body, _, command = body.rpartition("## Reproduce")  # the command is code, in a fence longer than any in it
    assert command.split()[0] == fence and command.rstrip().endswith(fence) and command.count(fence) == 2
    seen = ("<script", "</td", "![x]", "[y](z)", "\n# e", "\n---", "|a|", "`b`", "*c*", " _d_", "\n# f", "\x1b", " $x")
    for markup in seen:
        assert markup not in body.partition("## Use")[0] + body.partition("## Evaluation")[2], markup
    assert "{{ 1 + 1 }} {% raw %}" in body
    for markup in ("<script", "![x]", "[y]", "`b`", "*c*", "\x1b"):
        assert markup not in head, markup
    assert front(card)["model-index"][0]["results"][0]["dataset"]["name"].startswith("demo script")
    columns = {line.count(" | ") for line in body.splitlines() if line.startswith("| angry")}
    header = {line.count(" | ") for line in body.splitlines() if line.startswith("| label")}
    assert columns == header
    for name in results["test"]["figures"]:
        assert (tmp_path / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((tmp_path / "results.json").read_text())["corpus"]["labels"] == f"4class{HOSTILE}"


def test_a_command_cannot_end_its_fence():
    results, _ = results_of(command="accelerate launch x.py --dataset '\n````\n<b>'")
    assert model_card(results).endswith("## Reproduce\n\n`````\naccelerate launch x.py --dataset '\n````\n<b>'\n`````")


def test_many_classes_are_one_figure_of_bounded_size():
    names = [f"class number {i}" for i in range(320)]
    image = confusion_figure(np.eye(320, dtype=int).tolist(), names, "320")
    width, height = (int.from_bytes(image[at : at + 4]) for at in (16, 20))
    assert max(width, height) <= 2500
    table = pd.DataFrame({f"{kind}_{i}": [0.0, 1.0] for kind in ("label", "score") for i in range(8)})
    image = scatter_figure(table, list("01234567"), "two $rows$")
    width, height = (int.from_bytes(image[at : at + 4]) for at in (16, 20))
    assert (width, height) == (6 * 320, 2 * 360)


def test_comparisons_and_the_screen():
    results, _ = results_of()
    table = comparison_table(results)
    other = results["comparisons"]["tfidf"]
    assert list(table) == ["this system", "tfidf"] and table["this system"]["difference_in_uar"] == ""
    low, high = other["difference_intervals"]["uar"]
    assert table["tfidf"]["difference_in_uar"] == f"{other['difference']['uar']:.3f} [{low:.3f}, {high:.3f}]"
    screen = "\n".join(lines(results))
    assert "demo (4class), 6fold fold 0: 4 test utterances of 2 unseen speakers" in screen
    assert "  this system  " in screen and "chance UAR 0.500" in screen and screen.endswith("  a remark")


def test_tables_of_one_source():
    header, rows = rows_of({"a|b": {"recall": None, "f1": 0.5}, "c": {"recall": -0.25, "f1": 1.0}}, "label")
    assert text_table(header, rows) == ["label     recall     F1", "a|b    undefined  0.500", "c         -0.250  1.000"]
    assert markdown_table(header, rows).splitlines()[2:] == [
        "| a\\|b  | undefined | 0.500 |",
        "| c     | -0.250    | 1.000 |",
    ]
    assert rows_of({}, "label") == (["label"], []) and markdown_table(["label"], []).count("\n") == 1


def test_escaping():
    for text in ("crema_d", "1.5 s", "a-b", "Müller & Sons".replace("&", "und"), "10. Januar".replace(". ", ".")):
        assert escape(text) == plain(text) == text
    assert (
        escape("1. x") == "1\\. x"
        and escape("# x") == "\\# x"
        and escape("> x") == "\\> x"
        and escape("___") == "\\_\\_\\_"
    )
