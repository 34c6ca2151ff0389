"""Calibration by hand and on synthetic data whose probabilities are known; the temperature in the weights of every kind
of model; answers that abstain, and label sets."""

import math

import numpy as np
import pytest
import torch
from test_fusion_model import make as make_fusion
from test_pipeline import make, noise, pipe_of
from transformers import AutoConfig, AutoModelForSequenceClassification

from ser_hf.evaluation import calibration
from ser_hf.evaluation.calibration import calibrate, describe, ece, fit_temperature, label_sets, set_threshold
from ser_hf.evaluation.tasks import softmax
from ser_hf.models import (
    SerForFunctionalsClassification,
    SerForSpectrogramClassification,
    SerFunctionalsConfig,
    SerSpectrogramConfig,
)
from ser_hf.training.lora import add_lora
from ser_hf.training.saved_model import divide_logits, to_stock


def draw(count: int, scale: float = 1.0, seed: int = 0, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Logits, too large by `scale`, of labels that are drawn from the softmax of the right ones."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, classes)) * 1.5
    labels = (softmax(logits).cumsum(axis=1) > rng.random((count, 1))).argmax(axis=1)
    return logits * scale, labels


# --- figures


def test_ece_by_hand():
    # confidences .95, .95 (one right) and .62 (right), in two of 15 bins: (|1 - 1.9| + |1 - .62|) / 3
    probabilities = np.array([[0.95, 0.05], [0.05, 0.95], [0.38, 0.62]])
    assert ece(probabilities, np.array([0, 0, 1])) == pytest.approx((0.9 + 0.38) / 3)
    assert ece(np.eye(3), np.arange(3)) == 0.0 and ece(np.eye(3), np.array([1, 2, 0])) == 1.0
    # a bin is (low, high]: 0.6 = 9 / 15 and 0.55 share one, 0.65 has the next
    bins = calibration.reliability(np.array([[0.6, 0.4], [0.55, 0.45], [0.65, 0.35]]), np.zeros(3, int))
    assert bins["count"].tolist() == [0] * 8 + [2, 1] + [0] * 5


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_temperature_is_how_much_too_large_the_logits_are(scale):
    logits, labels = draw(20000, scale)
    temperature = fit_temperature(lambda t: softmax(logits / t), labels)
    assert temperature == pytest.approx(scale, rel=0.04)
    before, after = (ece(softmax(values), labels) for values in (logits, logits / temperature))
    assert after < 0.012 and (scale == 1 or before > 0.1)


def test_no_temperature_is_fitted_where_none_is_best():
    part = {"label": np.arange(40) % 4, "speaker": ["a"] * 40}
    right = 5 * np.eye(4)[part["label"]]
    fitted = calibrate(lambda t: right / t, part, {"there is no validation": False})
    assert fitted["temperature"] is None and "always right" in fitted["why_not"] and fitted["sets"]["alpha"] == 0.1
    rng = np.random.default_rng(0)
    guesses = 9 * rng.normal(size=(40, 4))
    assert calibrate(lambda t: guesses / t, part, {})["temperature"] is None  # the flatter, the better
    fitted = calibrate(None, part, {"it was not trained": False, "there is no validation": True})
    assert fitted == {"temperature": None, "sets": None, "utterances": 0, "why_not": "there is no validation"}


def test_a_calibrated_model_has_the_error_of_chance():
    logits, labels = draw(300)
    mean, most = calibration.ece_if_calibrated(softmax(logits))
    assert 0.03 < mean < most < 0.12 and ece(softmax(logits), labels) < most
    errors = [ece(softmax(one), truth) for one, truth in (draw(300, seed=seed) for seed in range(20))]
    assert np.mean(errors) == pytest.approx(mean, abs=0.012)


def test_abstaining_by_hand():
    # sorted by confidence: right, wrong, right, wrong, wrong
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6], [0.55, 0.45]])
    labels = np.array([0, 0, 0, 0, 1])
    assert calibration.answered(probabilities, labels, 1.0) == {"uar": (2 / 4 + 0) / 2, "wa": 2 / 5}
    assert calibration.answered(probabilities, labels, 0.8)["wa"] == 3 / 4 - 1 / 4  # .55, the least sure, is left out
    assert calibration.answered(probabilities, labels, 0.2) == {"uar": 1.0, "wa": 1.0}


def test_a_part_is_described():
    logits, labels = draw(400, 3.0)
    part = {"label": labels, "speaker": [f"s{row % 8}" for row in range(400)]}
    fitted = calibrate(lambda t: logits / t, part, {})
    figures = describe(logits, logits / fitted["temperature"], part, fitted["sets"])
    before, after = figures["before"], figures["after"]
    assert after["ece"] < before["ece"] / 2 and after["nll"] < before["nll"]
    for one in (before, after):
        assert one["interval"][0] < one["ece"] < one["interval"][1] and sum(one["bins"]["count"]) == 400
    abstain = figures["abstain"]
    assert abstain["difference"] == abstain["uar"] - abstain["uar_of_all"] > 0 and abstain["interval"][0] > 0
    assert figures["answered"]["0.8"]["uar"] == abstain["uar"] and figures["answered"]["1.0"]["uar"] < abstain["uar"]
    assert figures["sets"]["coverage"] >= 0.9 and 1 < figures["sets"]["size"] < 4


# --- label sets


def test_label_sets_cover_what_they_promise():
    """Over 200 draws of exchangeable data, also of a model that is not calibrated; not by far more than promised."""
    for scale, alpha in ((1.0, 0.1), (4.0, 0.1), (1.0, 0.3)):
        covered = []
        for seed in range(200):
            logits, labels = draw(400, scale, seed)
            probabilities = softmax(logits)
            threshold = set_threshold(probabilities[:200], labels[:200], alpha)
            sets = label_sets(probabilities[200:], threshold)
            covered.append(sets[np.arange(200), labels[200:]].mean())
        assert 1 - alpha - 0.005 < np.mean(covered) < 1 - alpha + 0.03, (scale, alpha)
    assert set_threshold(softmax(draw(8)[0]), draw(8)[1]) == 0.0  # eight utterances cannot promise 90 %


# --- the temperature in the weights


def functionals():
    model = SerForFunctionalsClassification(SerFunctionalsConfig(num_labels=3))
    return model, {"input_features": torch.randn(2, 88)}


def spectrogram():
    config = SerSpectrogramConfig(num_labels=3, arch="cnn1d_3")
    return SerForSpectrogramClassification(config), {"input_features": torch.randn(2, 90, config.rows)}


def text(kind: str, **config):
    config = AutoConfig.for_model(kind, num_labels=3, vocab_size=30, pad_token_id=0, **config)
    model = AutoModelForSequenceClassification.from_config(config)
    return model, {"input_ids": torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])}


def fusion():
    states = {"audio_states": torch.randn(2, 1, 1, 16), "text_states": torch.randn(2, 1, 1, 12)}
    return make_fusion(), states


BERT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 3}  # as many as labels
SMALL = {
    "functionals": functionals,
    "fusion": fusion,
    "spectrogram": spectrogram,
    "ours": lambda: (make(pooling="max"), {"input_values": torch.randn(2, 8000)}),
    "stock": lambda: (to_stock(make()), {"input_values": torch.randn(2, 8000)}),
    "bert": lambda: text("bert", **BERT),
    "roberta": lambda: text("roberta", **BERT),
    "electra": lambda: text("electra", embedding_size=8, **BERT),
    "albert": lambda: text("albert", embedding_size=8, **BERT),
    "deberta-v2": lambda: text("deberta-v2", **BERT),
    "distilbert": lambda: text("distilbert", dim=8, n_layers=1, n_heads=1, hidden_dim=3),
    "xlnet": lambda: text("xlnet", d_model=8, n_layer=1, n_head=1, d_inner=3),
    "gpt2": lambda: text("gpt2", n_embd=8, n_layer=1, n_head=1, n_inner=3),
}


@pytest.mark.parametrize("kind", SMALL)
def test_the_temperature_divides_the_logits_of_every_model(kind):
    torch.manual_seed(0)
    model, inputs = SMALL[kind]()
    with torch.no_grad():
        before = model.eval()(**inputs).logits
        divide_logits(model, 2.5)
        assert torch.allclose(model(**inputs).logits, before / 2.5, atol=1e-6) and before.abs().max() > 1e-3


def test_the_temperature_leaves_a_speaker_map_of_as_many_rows_as_labels_alone():
    torch.manual_seed(0)
    model = make(layer_mix="concat", standardise=True, speaker_norm=True)
    speakers = torch.randn(model.config.num_labels, math.prod(model.audio_shape))
    model.set_speaker_map(speakers, 1.0)
    inputs = torch.randn(2, 8000)
    with torch.no_grad():
        before = model.eval()(inputs).logits
        divide_logits(model, 0.2)
        assert torch.allclose(model(inputs).logits, before * 5, rtol=1e-4)
    assert torch.equal(model.ser_speakers.weight, speakers)


def test_the_temperature_is_in_the_adapter_too(tmp_path):
    from peft import PeftModel

    torch.manual_seed(0)
    base, inputs = text("bert", **BERT)
    base.save_pretrained(tmp_path / "base")
    model = add_lora(base, 2).eval()
    with torch.no_grad():
        before = model(**inputs).logits
        divide_logits(model, 0.5)
        model.save_pretrained(tmp_path / "adapter")
        again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
        again = PeftModel.from_pretrained(again, tmp_path / "adapter").eval()
        assert torch.allclose(again(**inputs).logits, before * 2, atol=1e-6)
        assert torch.allclose(model.merge_and_unload()(**inputs).logits, before * 2, atol=1e-6)


# --- answers


@pytest.fixture(scope="module")
def pipe():
    model = make(pooling="max")
    model.config.label_sets = {"alpha": 0.1, "threshold": 0.3}
    return pipe_of(model)


def test_an_answer_abstains(pipe):
    scores = pipe(noise(1.0))
    least = scores[0]["score"]
    assert pipe(noise(1.0), abstain_below=least) == scores  # it has this probability
    unsure = {"label": "unsure", "score": pytest.approx(1 - least)}
    assert pipe(noise(1.0), abstain_below=least + 1e-6) == [unsure, *scores]
    assert pipe(noise(1.0), abstain_below=1, top_k=1) == [unsure, scores[0]]
    answer = pipe(noise(1.0), abstain_below=1, window_s=0.5)
    assert {one["scores"][0]["label"] for one in (answer, *answer["segments"])} == {"unsure"}


def test_an_answer_has_the_set_of_likely_labels(pipe):
    scores = pipe(noise(1.0), label_sets=True)
    assert [one["in_set"] for one in scores] == [one["score"] >= 0.3 for one in scores]
    assert [{k: v for k, v in one.items() if k != "in_set"} for one in scores] == pipe(noise(1.0))
    pipe.model.config.label_sets["threshold"] = 0.99
    assert [one["in_set"] for one in pipe(noise(1.0), label_sets=True)] == [True, *[False] * (len(scores) - 1)]
    pipe.model.config.label_sets["threshold"] = 0.3


@pytest.mark.parametrize(
    "changes, option, words",
    [
        ({}, {"abstain_below": 1.2}, "from 0 to 1"),
        ({"problem_type": "regression"}, {"abstain_below": 0.5}, "single-label"),
        ({"problem_type": "multi_label_classification"}, {"label_sets": True}, "the model's configuration has none"),
        ({}, {"label_sets": True}, "the model's configuration has none"),
    ],
)
def test_what_cannot_abstain_is_refused(changes, option, words):
    with pytest.raises(ValueError, match=words):
        pipe_of(make(pooling="max", **changes))(noise(0.5), **option)
