"""Every architecture trains, saves, loads elsewhere with the same answers, and takes short and long clips."""

import json
import os

import numpy as np
import pytest
import torch
from transformers import AutoModelForAudioClassification

import warm
from ser_hf import SerError
from ser_hf.models import (
    SerForSpectrogramClassification,
    SerPipeline,
    SerSpectrogramConfig,
    SerSpectrogramFeatureExtractor,
)
from ser_hf.models.cnn_image import IMAGE_NETWORKS
from ser_hf.models.cnn_small import InputNorm
from ser_hf.models.configuration_spectrogram import ARCHS, IMAGE_ARCHS
from ser_hf.training.spectrogram_model import load_imagenet

SMALL = [arch for arch in ARCHS if arch not in IMAGE_ARCHS]
LABELS = {"id2label": {0: "angry", 1: "happy", 2: "sad"}, "label2id": {"angry": 0, "happy": 1, "sad": 2}}
# One case an architecture, and those of one dimension also on means.
CASES = [(arch, None) for arch in ARCHS] + [("cnn1d_3", "time"), ("cnn1d_3", "frequency")]


def extractor_for(arch: str) -> SerSpectrogramFeatureExtractor:
    """40 MFCC for one dimension, 64 mels for two; 16 ms apart."""
    kind = {"kind": "mfcc"} if arch.startswith("cnn1d") else {}
    return SerSpectrogramFeatureExtractor(n_mels=64, n_mfcc=40, hop_length=128, **kind)


def make(arch: str, reduce: str | None = None, **config) -> SerForSpectrogramClassification:
    torch.manual_seed(0)
    rows = extractor_for(arch).feature_size
    config = {**LABELS, "problem_type": "single_label_classification", **config}
    return SerForSpectrogramClassification(SerSpectrogramConfig(arch=arch, rows=rows, reduce=reduce, **config))


def clips(seconds: list[float]) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.normal(size=round(s * 8000)).astype(np.float32) for s in seconds]


CLEAN = """
import json, sys, torch
sys.modules["ser_hf"] = None  # importing this project is an error in this process
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline
values, results = torch.load(sys.argv[1], weights_only=True), {}
for folder in sys.argv[2:]:
    model = AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True).eval()
    extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
    batch = extractor([v.numpy() for v in values], sampling_rate=8000, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits.tolist()
    sound = {"array": values[0].numpy(), "sampling_rate": 8000}
    stock = pipeline("audio-classification", model=model, feature_extractor=extractor)(sound, top_k=None)
    results[folder] = {"logits": logits, "stock": {a["label"]: a["score"] for a in stock}}
sound["array"] = sound["array"].copy()
ours = pipeline("speech-emotion-recognition", model=folder, trust_remote_code=True)
results["windows"] = ours(sound, window_s=0.5, return_embeddings=True)["segments"][0]["embedding"].shape
print("RESULT" + json.dumps(results))
"""


@pytest.mark.slow
def test_trained_saved_and_loaded_in_a_clean_process(tmp_path):
    expected, values = {}, clips([1.0, 0.3])
    torch.save([torch.from_numpy(v) for v in values], tmp_path / "values.pt")
    for arch, reduce in CASES:
        model, extractor = make(arch, reduce), extractor_for(arch)
        batch = extractor(values, sampling_rate=8000, return_tensors="pt")
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        model.train()
        for _ in range(2):
            before = model.ser_classifier.weight.clone()
            loss = model(**batch, labels=torch.tensor([0, 2])).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            assert torch.isfinite(loss) and not torch.equal(before, model.ser_classifier.weight), arch
        folder = tmp_path / f"{arch}-{reduce}"
        model.save_pretrained(folder)
        extractor.save_pretrained(folder)
        with torch.no_grad():
            model.eval()
            alone = extractor(values[0], return_tensors="pt")
            expected[str(folder)] = model(**batch).logits, model(**alone).logits[0].softmax(-1)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    done = warm.python("-c", CLEAN, tmp_path / "values.pt", *expected, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "not supported for audio-classification" not in done.stdout + done.stderr
    results = json.loads(done.stdout.split("RESULT")[1])
    for folder, (logits, scores) in expected.items():
        assert (torch.tensor(results[folder]["logits"]) - logits).abs().max() < 1e-6, folder
        answer = [results[folder]["stock"][label] for label in ("angry", "happy", "sad")]
        assert (torch.tensor(answer) - scores).abs().max() < 1e-5, folder
    assert results["windows"] == [256]


@pytest.mark.parametrize("arch, reduce", CASES)
def test_short_and_long_clips(arch, reduce):
    model, extractor = make(arch, reduce).eval(), extractor_for(arch)
    with torch.no_grad():
        for clip in clips([0.3, 30.0]):
            logits = model(**extractor(clip, return_tensors="pt")).logits
            assert logits.shape == (1, 3) and torch.isfinite(logits).all()


@pytest.mark.parametrize("arch, reduce", [case for case in CASES if case[0] in SMALL])
@pytest.mark.parametrize("pooling", ["mean", "meanmax"])
def test_clip_alone_equals_clip_padded(arch, reduce, pooling):
    model, extractor = make(arch, reduce, pooling=pooling), extractor_for(arch)
    values = clips([1.7, 1.0, 0.02])  # the last is padded up to what the network needs
    batch = extractor(values, return_tensors="pt")
    model.train()
    model(**batch)  # running statistics of their own
    model.eval()
    with torch.no_grad():
        torch.nn.init.normal_(model.ser_classifier.weight)
        together = model(**batch).logits
        for row, clip in zip(together, values, strict=True):
            alone = model(**extractor(clip, return_tensors="pt")).logits[0]
            assert (row - alone).abs().max() < 1e-5 * max(1.0, float(alone.abs().max()))
        unmasked = model(batch["input_features"]).logits
        assert (unmasked[1] - together[1]).abs().max() > 1e-3  # and the test can fail


@pytest.mark.parametrize("arch", IMAGE_ARCHS)
def test_image_networks_pool_real_frames_only(arch):
    """What is behind a clip's end is zero after the first batch norm, whatever stood there."""
    model = make(arch).eval()
    values, mask = torch.randn(2, 200, 64), torch.ones(2, 200, dtype=torch.long)
    mask[1, 120:] = 0
    with torch.no_grad():
        one = model(values, mask).logits
        values[1, 120:] = 1e3
        assert torch.allclose(model(values, mask).logits, one)
        assert not torch.allclose(model(values).logits[1], one[1])


def test_the_stock_trainer_and_the_stock_pipeline(tmp_path):
    """Without our collator, trainer or pipeline, on clips of unequal lengths."""
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, pipeline

    model, extractor, values = make("cnn2d_6"), extractor_for("cnn2d_6"), clips([1.0, 0.4, 0.7, 0.2])
    rows = [{"input_features": extractor(clip)["input_features"][0], "labels": n % 3} for n, clip in enumerate(values)]
    options = {"use_cpu": True, "max_steps": 2, "per_device_train_batch_size": 2, "disable_tqdm": True}
    before = model.ser_classifier.weight.clone()
    training = TrainingArguments(str(tmp_path), learning_rate=1e-2, per_device_eval_batch_size=4, **options)
    trainer = Trainer(model, training, DataCollatorWithPadding(extractor), rows, rows)
    trainer.train()
    assert not torch.equal(before, model.ser_classifier.weight)
    scores = torch.from_numpy(trainer.predict(rows).predictions).softmax(dim=-1)
    classify = pipeline("audio-classification", model=model, feature_extractor=extractor, device="cpu")
    answers = classify([{"array": clip, "sampling_rate": 8000} for clip in values], batch_size=4, top_k=None)
    for row, answer, clip in zip(scores, answers, values, strict=True):
        told = {entry["label"]: entry["score"] for entry in answer}
        alone = model(**extractor(clip, return_tensors="pt")).logits[0].softmax(dim=-1)
        assert [told[label] for label in ("angry", "happy", "sad")] == pytest.approx(row.tolist(), abs=1e-5)
        assert row.tolist() == pytest.approx(alone.tolist(), abs=1e-5)


def test_the_network_freezes_with_its_batch_norm():
    model, given = make("cnn2d_6"), extractor_for("cnn2d_6")(clips([1.0, 0.4]), return_tensors="pt")
    model.freeze_feature_encoder()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    model.train()(**given, labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"ser_classifier.weight", "ser_classifier.bias"}


def test_input_norm_counts_real_frames_only():
    norm = InputNorm(1)
    x = torch.tensor([[[1.0, 3.0, 500.0]], [[5.0, 7.0, 9.0]]])
    out = norm(x, torch.tensor([2, 3]))
    real = torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0])
    by_hand = (real - 5.0) / (real.var(unbiased=False) + 1e-5).sqrt()
    assert torch.allclose(out[0, 0], torch.cat([by_hand[:2], torch.zeros(1)]))
    assert torch.allclose(out[1, 0], by_hand[2:])
    assert float(norm.running_mean) == pytest.approx(0.1 * 5.0)


def test_reduced_features_by_hand():
    """The mean over time is the same however the frames are ordered, and over frequency however the rows are."""
    for reduce, dim in (("time", 1), ("frequency", 2)):
        model = make("cnn1d_3", reduce).eval()
        x = torch.randn(1, 50, 40)
        with torch.no_grad():
            assert torch.allclose(model(x).logits, model(x.flip(dim)).logits, atol=1e-6)
            assert not torch.allclose(model(x).logits, model(x.flip(3 - dim)).logits, atol=1e-4)


@pytest.mark.parametrize(
    "arch, parameters",  # torchvision's documentation of its models
    [("alexnet", 61100840), ("resnet50", 25557032), ("resnext50", 25028904), ("densenet201", 20013928)],
)
def test_published_parameter_counts(arch, parameters):
    with torch.device("meta"):
        network = IMAGE_NETWORKS[arch](in_channels=3, num_classes=1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("arch, first", [("resnet50", "conv1.weight"), ("densenet201", "features.conv0.weight")])
def test_imagenet_weights(arch, first, tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(1)
    source = IMAGE_NETWORKS[arch](in_channels=3, num_classes=1000).eval()
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    model = make(arch).eval()
    load_imagenet(model, str(tmp_path / "model.safetensors"))
    assert model.config.weights == "imagenet"
    x = torch.randn(1, 1, 64, 64)
    with torch.no_grad():  # one channel is answered as three equal ones
        ours, theirs = model.encoder.backbone(x), source(x.expand(-1, 3, -1, -1))
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()
    state = {name: value for name, value in source.state_dict().items() if name != first}
    save_file(state, tmp_path / "holes.safetensors")
    with pytest.raises(SerError, match=f"1 weights are missing, 0 do not fit \\({first}\\)"):
        load_imagenet(model, str(tmp_path / "holes.safetensors"))


def test_imagenet_weights_that_cannot_be_had():
    with pytest.raises(SerError, match="no ImageNet weights as safetensors for alexnet"):
        load_imagenet(make("alexnet"))
    model = make("resnext50")
    with pytest.raises(SerError, match="timm/resnext50_32x4d.tv_in1k cannot be fetched"):  # the tests are offline
        load_imagenet(model)
    assert model.config.weights == "random"


def test_missing_weights_are_an_error_that_names_them(tmp_path):
    from safetensors.torch import load_file, save_file

    make("cnn1d_3").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("ser_classifier")}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="ser_classifier.bias, ser_classifier.weight are missing"):
        AutoModelForAudioClassification.from_pretrained(tmp_path)


def test_problem_types_have_their_losses():
    x = torch.randn(2, 50, 40)
    for problem_type, labels in (
        ("single_label_classification", torch.tensor([1, 2])),
        ("multi_label_classification", torch.tensor([[1.0, 0, 1], [0, 0, 1]])),
        ("regression", torch.randn(2, 3)),
    ):
        out = make("cnn1d_3", problem_type=problem_type).eval()(x, labels=labels)
        logits = out.logits.double()
        if problem_type == "single_label_classification":
            by_hand = -logits.log_softmax(-1)[[0, 1], [1, 2]].mean()
        elif problem_type == "regression":
            by_hand = ((logits - labels) ** 2).mean()
        else:
            by_hand = -(labels * logits.sigmoid().log() + (1 - labels) * (1 - logits.sigmoid()).log()).mean()
        assert abs(out.loss.item() - by_hand.item()) < 1e-5


@pytest.mark.parametrize(
    "wrong, message",
    [({"arch": "vgg"}, "arch 'vgg'"), ({"reduce": "time"}, "only the cnn1d"), ({"pooling": "sum"}, "pooling 'sum'")],
)
def test_wrong_configuration(wrong, message):
    with pytest.raises(ValueError, match=message):
        SerSpectrogramConfig(**wrong)


def test_clips_that_are_trimmed_answer_alike_in_every_batch():
    """Of equal length, but not once the silence at their ends is cut, and alexnet hears padding."""
    pipe = SerPipeline(model=make("alexnet").eval(), feature_extractor=extractor_for("alexnet"), device="cpu")
    assert pipe.feature_extractor.trim_db is not None
    whole = clips([1.5, 1.5, 1.5])
    whole[1][4000:] = 0
    whole[2][:6000] = 0
    alone, together = ([{e["label"]: e["score"] for e in a} for a in pipe(whole, batch_size=n)] for n in (1, 3))
    for one, other in zip(alone, together, strict=True):
        assert all(abs(one[label] - other[label]) < 1e-6 for label in one)
    assert max(abs(alone[0][label] - alone[1][label]) for label in alone[0]) > 1e-4
