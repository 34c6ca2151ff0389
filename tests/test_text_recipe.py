"""recipes/text_cls.py through its command line: classes, labels, values, mixing, equal runs, baselines, mistakes."""

import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file, save_file

from conftest import FIGURES, REPO, run_recipe
from ser_hf import load_corpus
from ser_hf.data.cache import content_hash
from ser_hf.data.splits import split
from ser_hf.experiments import cv, cv_report
from ser_hf.models.text_cleaning import clean_text

TINY_BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
# Weights large enough for gradients above rounding, which Adam would otherwise magnify; no dropout: equal steps are
# equal numbers.
TINY_BERT |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "vocab_size": 200}
TINY_BERT |= {"initializer_range": 0.2}
SHORT = ("--max_steps", "6", "--eval_strategy", "steps", "--save_strategy", "steps", "--eval_steps", "3")
SHORT += ("--save_steps", "3", "--save_total_limit", "5", "--use_cpu", "true", "--disable_tqdm", "true")
SHORT += ("--config", "none", "--learning_rate", "1e-3", "--adam_epsilon", "1e-5")
RANDOM = ("--model_type", "bert", "--config_overrides", json.dumps(TINY_BERT))


def iemocap(fake_corpus, out, *flags: str, model=RANDOM, labels: str = "4class") -> list[str]:
    # six batches an epoch, so that two processes or two accumulation steps come out even
    data = ("--dataset", "iemocap", "--data_dir", fake_corpus("iemocap"), "--labels", labels, "--batch_tokens", "64")
    return list(map(str, (*data, *model, *SHORT, "--output_dir", out, "--class_weights", "balanced", *flags)))


def here(*flags) -> None:
    """The recipe in this process, which has paid for its imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["text_cls.py", *map(str, flags)])
        runpy.run_path(str(REPO / "recipes" / "text_cls.py"), run_name="__main__")


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def assert_equal_runs(first: Path, second: Path, tolerance: float):
    a, b = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name] - b[name]).abs().max() <= tolerance, name
    one, two = (pd.read_parquet(folder / "predictions.parquet") for folder in (first, second))
    assert one["id"].tolist() == two["id"].tolist()
    scores = [column for column in one if column.startswith("score_")]
    assert np.abs(one[scores].to_numpy() - two[scores].to_numpy()).max() <= max(tolerance, 1e-6)


def texts_of(fake_corpus, corpus: str, labels: str | None = None) -> dict[str, str | None]:
    rows = load_corpus(corpus, labels, data_dir=fake_corpus(corpus))
    return dict(zip(rows["id"], rows["text"], strict=True))


@pytest.fixture(scope="module")
def trained(fake_corpus, tmp_path_factory):
    """One process with two accumulation steps; later tests compare with it."""
    folder = tmp_path_factory.mktemp("texts") / "one"
    done = run_recipe("text_cls", *iemocap(fake_corpus, folder, "--gradient_accumulation_steps", "2"))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout


def test_what_a_run_leaves_behind(trained, fake_corpus):
    folder, screen = trained
    left = {str(file.relative_to(folder)) for file in folder.rglob("*") if "checkpoint" not in str(file)}
    assert left == {
        *("README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "results.json"),
        *("predictions.parquet", "run.yaml", "record.json", "figures"),
        *FIGURES,
    }
    results = results_of(folder)
    assert results["model"]["class"] == "BertForSequenceClassification" and results["model"]["stock"]
    assert results["model"]["task"] == "text-classification" and results["protocol"]["speaker_independent"]
    texts = texts_of(fake_corpus, "iemocap")
    missing = sum(not clean_text(text) for text in texts.values())
    assert missing and f"{missing} utterances have no text and are left out (" in screen
    assert sum(part["utterances"] for part in results["splits"].values()) == len(texts) - missing
    whole = sorted(split(load_corpus("iemocap", "4class", data_dir=fake_corpus("iemocap")), "iemocap")["test"]["id"])
    # an audio encoder of this split names the same test set, although some of it has no text
    assert [entry["test_ids"] for entry in results["trained_on"]] == [content_hash(*whole)]
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["pipeline_tag"] == "text-classification"
    for remark in (
        "no text and are left out",
        "also occur in train",
        "clean_text(text, 'unicode')",
        "Majority: the most frequent",
    ):
        assert remark in card, remark
    for text in (card, (folder / "results.json").read_text(), (folder / "config.json").read_text()):
        assert str(fake_corpus("iemocap")) not in text and str(folder) not in text


def test_the_saved_model_answers_in_the_stock_pipeline_as_reported(trained, fake_corpus):
    from transformers import pipeline

    folder, _ = trained
    classify = pipeline("text-classification", model=str(folder))
    assert classify.tokenizer.model_max_length == 64
    table, texts = pd.read_parquet(folder / "predictions.parquet"), texts_of(fake_corpus, "iemocap")
    names = results_of(folder)["corpus"]["label_names"]
    for _, row in table.iterrows():
        answer = classify(clean_text(texts[row["id"]], "unicode"), top_k=None, truncation=True)
        assert {entry["label"] for entry in answer} == set(names)
        for entry in answer:
            assert entry["score"] == pytest.approx(row[f"score_{entry['label']}"], abs=1e-5)


def test_it_is_held_against_baselines_on_the_same_utterances(trained):
    folder, screen = trained
    results, table = results_of(folder), pd.read_parquet(folder / "predictions.parquet")
    assert list(results["comparisons"]) == ["majority", "tfidf"]
    assert set(table["prediction_majority"]) == {"happy"}  # 39 of 96
    for system, found in results["comparisons"].items():
        right = (table["label"] == table[f"prediction_{system}"]).mean()
        assert found["metrics"]["wa"] == pytest.approx(right)
        assert found["difference"]["wa"] == pytest.approx(results["test"]["metrics"]["wa"] - right)
        low, high = found["difference_intervals"]["uar"]
        assert low <= high and re.search(rf"^  {system} ", screen, re.M)


def test_resumed_equals_unbroken(trained, fake_corpus, tmp_path):
    resumed = tmp_path / "resumed"
    shutil.copytree(trained[0] / "checkpoint-3", resumed / "checkpoint-3")
    two = ("--gradient_accumulation_steps", "2", "--resume_from_checkpoint", "true")
    here(*iemocap(fake_corpus, resumed, *two))
    assert results_of(resumed)["training"]["resumed"]
    assert_equal_runs(trained[0], resumed, 1e-6)


def test_a_checkpoint_is_scored_again_and_one_without_its_head_refused(trained, fake_corpus, tmp_path, capsys):
    folder, _ = trained
    score = ("--do_train", "false")
    here(*iemocap(fake_corpus, tmp_path / "scored", *score, model=("--model_name_or_path", folder)))
    assert_equal_runs(folder, tmp_path / "scored", 1e-6)

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    kept = {k: v for k, v in load_file(broken / "model.safetensors").items() if not k.startswith("classifier")}
    save_file(kept, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SystemExit) as stop:
        here(*iemocap(fake_corpus, tmp_path / "out", *score, model=("--model_name_or_path", broken)))
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stop.value.code == 2 and len(error) == 1
    assert "the weights classifier.bias, classifier.weight are missing, it would answer at random" in error[0]

    # without its encoder it is of no use for training either; a new head for other labels is made
    kept = {k: v for k, v in load_file(folder / "model.safetensors").items() if "attention" not in k}
    save_file(kept, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SystemExit):
        here(*iemocap(fake_corpus, tmp_path / "out", model=("--model_name_or_path", broken)))
    assert "attention.output.LayerNorm.bias" in capsys.readouterr().err
    other = iemocap(fake_corpus, tmp_path / "three", model=("--model_name_or_path", folder), labels="3class")
    here(*other)
    assert results_of(tmp_path / "three")["corpus"]["label_names"] == ["angry", "happy", "neutral"]
    assert results_of(tmp_path / "three")["model"]["encoder"] == "random bert fine-tuned on iemocap"  # not its folder


def test_values(fake_corpus, tmp_path):
    flags = iemocap(fake_corpus, tmp_path / "vad", "--loss", "ccc", "--thresholds", "3", labels="vad")
    here(*flags, "--class_weights", "none", "--text_cleaning", "words")
    results = results_of(tmp_path / "vad")
    assert list(results["comparisons"]) == ["mean", "tfidf"] and "ccc" in results["test"]["metrics"]
    assert results["comparisons"]["mean"]["difference"]["ccc"] is None  # a constant has none
    assert set(results["test"]["thresholds"]) == {"3.0"}
    table, texts = pd.read_parquet(tmp_path / "vad" / "predictions.parquet"), texts_of(fake_corpus, "iemocap", "vad")

    from transformers import pipeline

    classify = pipeline("text-classification", model=str(tmp_path / "vad"))
    row = table.iloc[0]
    for entry in classify(clean_text(texts[row["id"]], "words"), top_k=None):
        assert entry["score"] == pytest.approx(row[f"score_{entry['label']}"], abs=1e-5)  # raw: no softmax


def test_several_labels(fake_corpus, tmp_path):
    data = ("--dataset", "cmu_mosei", "--data_dir", fake_corpus("cmu_mosei"), "--labels", "emotions_multi_label")
    here(*data, *RANDOM, *SHORT, "--output_dir", tmp_path / "out", "--class_weights", "balanced")
    results, config = results_of(tmp_path / "out"), json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert config["thresholds"] == results["test"]["decision_thresholds"]
    assert list(results["comparisons"]) == ["frequency", "tfidf"]
    assert "map" in results["comparisons"]["tfidf"]["difference"]


def test_corpora_are_mixed_also_those_without_audio(fake_corpus, tmp_path, monkeypatch, capsys):
    base = tmp_path / "corpora"
    base.mkdir()
    for name in ("iemocap", "cmu_mosei", "smile"):
        (base / name).symlink_to(fake_corpus(name))
    monkeypatch.setenv("SER_DATA_DIR", str(base))
    mixture = ("--dataset", "iemocap+cmu_mosei+smile", "--test_on", "cmu_mosei", "--labels", "4class")
    here(*mixture, *RANDOM, *SHORT, "--output_dir", tmp_path / "out", "--validation_fraction", "0")
    results = results_of(tmp_path / "out")
    assert results["corpus"]["corpus"] == "cmu_mosei"
    assert results["mixed"]["smile"]["utterances"] == 4  # two happy, one angry, one sad
    assert results["mixed"]["iemocap"]["utterances"] == 96
    assert "+ smile: 4 utterances into train" in capsys.readouterr().out
    assert results["splits"]["train"]["utterances"] == 96 - 12 + 4 + 2  # 12 of IEMOCAP have no text; 2 of MOSEI's own


def test_soft_labels_sampling_and_lengths_without_a_budget(fake_corpus, tmp_path):
    flags = ("--soft_labels", "true", "--sampling", "class", "--batch_tokens", "0", "--max_text_length", "5")
    here(*iemocap(fake_corpus, tmp_path / "out", *flags))
    assert "fill the 5 tokens and may be truncated" in (tmp_path / "out" / "README.md").read_text()


MISTAKES = {
    "no tokenizer": (
        ("--model_type", "wav2vec2", "--config_overrides", "{{}}"),
        "wav2vec2: it has no tokenizer",
    ),
    "unknown type": (("--model_type", "berd"), "--model_type berd: transformers has no such model; did you mean bert"),
    "wrong override": (("--config_overrides", '{{"hidden_size": 17}}'), "--config_overrides .*17.*hidden size"),
    "not a checkpoint": (
        ("--model_name_or_path", "{tmp}/empty"),
        "empty: config.json is missing",
    ),
    "length": (("--max_text_length", "9999"), "--max_text_length 9999: bert reads 3 to 512 tokens"),
    "cleaning": (("--text_cleaning", "all"), "--text_cleaning"),
    "audio flag": (("--pooling", "max"), "--pooling: the recipe of text does not use it"),
    "loss": (("--loss", "ccc"), "--loss ccc: not for single_label_classification; choose cross_entropy, focal"),
    "lora target": (("--lora_r", "2", "--lora_target", "q_proj"), "--lora_target q_proj: no such layer in Bert"),
    "sampling": (
        ("--labels", "vad", "--class_weights", "none", "--sampling", "class"),
        "--sampling class: these labels are not classes; choose speaker or none",
    ),
    "soft labels": (
        ("--labels", "vad", "--soft_labels", "true"),
        "--soft_labels true: these labels are not classes; leave it out",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_status_2(mistake, fake_corpus, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    wrong, message = MISTAKES[mistake]
    given = iemocap(fake_corpus, tmp_path / "out")
    if "--model_name_or_path" in wrong:
        del given[given.index("--model_type") : given.index("--model_type") + 4]
    given += [value.format(tmp=tmp_path) for value in wrong]  # the later flag wins
    with pytest.raises(SystemExit) as stop:
        here(*given)
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert stop.value.code == 2 and len(lines) == 1 and "Traceback" not in error, error
    assert re.search(message, lines[0]), lines[0]


def test_a_corpus_without_texts_is_refused(tmp_path, capsys):
    import soundfile as sf

    folder = tmp_path / "own"
    folder.mkdir()
    lines = ["file_name,label,speaker"]
    for i in range(12):
        sf.write(folder / f"{i}.wav", np.random.default_rng(i).normal(0, 0.1, 1600), 16000)
        lines.append(f"{i}.wav,{'happy' if i % 2 else 'sad'},s{i // 2}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(SystemExit):
        here("--dataset", folder, *RANDOM, *SHORT, "--output_dir", tmp_path / "out")
    assert "no utterance of train has a text: a text recipe needs a corpus with transcripts" in capsys.readouterr().err


def test_pooled_folds_are_compared_with_the_pooled_baselines():
    """By hand: over both folds the system has 3 of 4 right; the majority, which never answers happy, has 2."""
    words = ["happy", "sad"]

    def fold(ids, truth, system, majority):
        columns = {"id": ids, "speaker": ids, "label": truth, "prediction": system, "prediction_majority": majority}
        return pd.DataFrame(columns)

    tables = [fold(["a", "b"], words, words, ["sad", "sad"]), fold(["c", "d"], words, ["sad", "sad"], ["sad", "sad"])]
    results = {"test": {}}
    found = cv_report.pool([(results, table) for table in tables], words)["comparisons"]["majority"]
    assert found["metrics"]["uar"] == 0.5 and found["difference"]["uar"] == 0.25
    assert found["metrics"]["macro_f1"] == pytest.approx(1 / 3)
    old = [table.drop(columns="prediction_majority") if table is tables[0] else table for table in tables]
    assert (
        cv_report.pool([(results, table) for table in old], words)["comparisons"] == {}
    )  # a fold run before there were any


@pytest.mark.slow
def test_cross_validation_pools_the_baselines(tmp_path, capsys):
    """Two folds of the demo corpus, which has a YAML of its own: `ser-hf cv` as users start it."""
    from sklearn.metrics import balanced_accuracy_score, f1_score

    from ser_hf import cli

    out = tmp_path / "cv"
    short = ("--num_train_epochs", "1", "--use_cpu", "true", "--disable_tqdm", "true", "--folds", "0", "3")
    recipe = str(REPO / "recipes" / "text_cls.py")
    assert cli.main(["cv", recipe, "--dataset", "demo", *short, "--output_dir", str(out)]) == 0
    pooled = json.loads((out / "cv.json").read_text())["pooled"]["per_seed"][0]
    table = pd.concat([pd.read_parquet(out / f"fold{fold}_seed42" / "predictions.parquet") for fold in (0, 3)])
    for system in ("majority", "tfidf"):
        found, predicted = pooled["comparisons"][system], table[f"prediction_{system}"]
        assert found["metrics"]["uar"] == pytest.approx(balanced_accuracy_score(table["label"], predicted))
        assert found["metrics"]["macro_f1"] == pytest.approx(f1_score(table["label"], predicted, average="macro"))
        expected = pooled["metrics"]["uar"] - found["metrics"]["uar"]
        assert found["difference"]["uar"] == pytest.approx(expected)
    report = (out / "cv.md").read_text()
    assert "## Compared on the pooled predictions" in report and report in capsys.readouterr().out
    assert re.search(r"\| 42 +\| tfidf +\| 0\.\d{3} \[", report)


def test_cv_expects_what_has_a_text(fake_corpus, tmp_path):
    data = ["--dataset", "iemocap", "--data_dir", str(fake_corpus("iemocap")), "--labels", "4class"]
    data += ["--folds", "1", "--output_dir", str(tmp_path / "cv")]
    requests = [cv.parse([str(REPO / "recipes" / f"{name}.py"), *data]) for name in ("text_cls", "wav2vec2_cls")]
    with_text, everything = (cv.load(request).tests[1] for request in requests)
    texts = texts_of(fake_corpus, "iemocap")
    assert with_text == {name for name in everything if clean_text(texts[name])} != everything
