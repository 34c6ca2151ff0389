"""The fusion model as its users meet it: the processor, both pipelines, and a process that has only the folder.

python -m pytest tests/test_fusion_pipeline.py -k clean
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from test_fusion_model import make
from test_pipeline import LABELS, RATE, as_vector, noise
from test_pipeline import make as audio_model
from test_pipeline import pipe_of as audio_pipe
from transformers import AutoProcessor, AutoTokenizer, BertTokenizer, Wav2Vec2FeatureExtractor, pipeline

import warm
from ser_hf.models import (
    SerFusionConfig,
    SerFusionForClassification,
    SerFusionProcessor,
    SerPipeline,
    SerSpectrogramConfig,
    SerSpectrogramFeatureExtractor,
)
from ser_hf.models.pipeline_ser import TASK
from ser_hf.training.saved_model import save_model

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] i am so happy sad today not a the can ' t believe it".split()
TEXTS = ["I am so happy today!", "sad", "I can\u2019t believe it"]


def make_processor(extractor=None, **options) -> SerFusionProcessor:
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True) if extractor is None else extractor
    return SerFusionProcessor(extractor, tokenizer, **options)


def named(**config) -> SerFusionForClassification:
    return make(id2label=dict(enumerate(LABELS)), num_labels=3, **config)


def with_spectrogram() -> tuple[SerFusionForClassification, SerFusionProcessor]:
    from test_fusion_model import text_config

    torch.manual_seed(0)
    audio = SerSpectrogramConfig(arch="cnn2d_2", rows=16)
    labels = {"id2label": dict(enumerate(LABELS)), "problem_type": "single_label_classification"}
    model = SerFusionForClassification(SerFusionConfig(audio_config=audio, text_config=text_config(), **labels)).eval()
    for name, parameter in model.named_parameters():
        if name.startswith("ser_"):
            torch.nn.init.normal_(parameter, std=0.2)
    return model, make_processor(SerSpectrogramFeatureExtractor(n_mels=16))


def pipe_of(model, processor=None, **options) -> SerPipeline:
    return SerPipeline(model=model, processor=processor or make_processor(), device="cpu", **options)


def by_hand(model, samples=None, text: str | None = None, processor=None) -> np.ndarray:
    """Probabilities of one input without the pipeline."""
    audio = None if samples is None else samples / np.float32(32768)
    inputs = (processor or make_processor())(audio=audio, text=text, sampling_rate=RATE)
    with torch.no_grad():
        return model(**inputs).logits[0].softmax(-1).numpy()


@pytest.fixture(scope="module")
def pipe():
    return pipe_of(named(fusion="gated"))


# ---- the processor


def test_processor_by_hand():
    processor = make_processor(max_text_length=5, text_cleaning="words")
    clips = [noise(0.1) / 32768, None, noise(0.05) / 32768]
    batch = processor(audio=clips, text=["I AM so happy!", "", "sad"], sampling_rate=RATE)
    assert list(batch) == processor.model_input_names
    assert batch["input_ids"].tolist() == [[2, 5, 6, 7, 3], [0, 0, 0, 0, 0], [2, 9, 3, 0, 0]]  # cut at 5 tokens
    assert batch["text_attention_mask"].tolist() == [[1] * 5, [0] * 5, [1, 1, 1, 0, 0]]
    assert batch["input_values"].shape == (3, 1600) and batch["attention_mask"].sum(dim=1).tolist() == [1600, 0, 800]
    first = (clips[0] - clips[0].mean()) / np.sqrt(clips[0].var() + 1e-7)
    assert np.allclose(batch["input_values"][0], first, atol=1e-5) and not batch["input_values"][1].any()
    assert list(processor(text=["sad", None])) == ["input_ids", "text_attention_mask"]
    assert list(processor(audio=[None, clips[0]], sampling_rate=RATE)) == ["input_values", "attention_mask"]
    assert not dict(processor(text=["!!!", None]))  # nothing is left of it
    assert make_processor()(text="!!!")["input_ids"].shape == (1, 5)
    numpy = processor(audio=clips[0], text="sad", sampling_rate=RATE, return_tensors="np")
    assert all(isinstance(values, np.ndarray) and len(values) == 1 for values in numpy.values())


def test_processor_takes_the_arguments_of_all_processors():
    processor, clips = make_processor(), [noise(0.1) / 32768, noise(0.05) / 32768]
    same = processor(audio=clips, text=["sad", "I am so happy"], sampling_rate=RATE)
    parts = {"audio_kwargs": {"sampling_rate": RATE}, "text_kwargs": {"padding": True}}
    by_parts = processor(audio=clips, text=["sad", "I am so happy"], **parts, common_kwargs={"return_tensors": "pt"})
    assert all(torch.equal(same[name], by_parts[name]) for name in same)
    cut = {"audio_kwargs": {"padding": "max_length", "max_length": 1000, "truncation": True}}
    cut |= {"text_kwargs": {"padding": "max_length", "max_length": 4}, "common_kwargs": {"return_tensors": "np"}}
    batch = processor(audio=clips, text=["sad", "I am so happy"], **cut)
    assert all(isinstance(values, np.ndarray) for values in batch.values())
    assert batch["input_values"].shape == (2, 1000) and batch["attention_mask"].sum(axis=1).tolist() == [1000, 800]
    assert batch["input_ids"].shape == (2, 4) and batch["text_attention_mask"].sum(axis=1).tolist() == [3, 4]
    with pytest.raises(ValueError, match="resample them"):
        processor(audio=clips, audio_kwargs={"sampling_rate": 8000})


def test_processor_mistakes():
    processor = make_processor()
    with pytest.raises(ValueError, match="neither audio nor text"):
        processor()
    with pytest.raises(ValueError, match="1 clips and 2 texts: give None"):
        processor(audio=noise(0.1) / 32768, text=["a", "b"], sampling_rate=RATE)
    with pytest.raises(ValueError, match="resample them"):
        processor(audio=noise(0.1) / 32768, sampling_rate=8000)
    with pytest.raises(ValueError, match="text_cleaning 'all'"):
        make_processor(text_cleaning="all")


def test_processor_saves_and_loads(tmp_path):
    processor = make_processor(max_text_length=7, text_cleaning="unicode")
    processor.save_pretrained(tmp_path)
    again = SerFusionProcessor.from_pretrained(tmp_path)
    assert (again.max_text_length, again.text_cleaning) == (7, "unicode")
    assert again(text=TEXTS)["input_ids"].tolist() == processor(text=TEXTS)["input_ids"].tolist()


# ---- SerPipeline


def test_audio_with_text_audio_alone_text_alone(pipe, tmp_path):
    clip, text = noise(1.0), TEXTS[0]
    sf.write(tmp_path / "clip.wav", clip, RATE)
    both, heard, read = by_hand(pipe.model, clip, text), by_hand(pipe.model, clip), by_hand(pipe.model, text=text)
    assert min(np.abs(both - heard).max(), np.abs(both - read).max(), np.abs(heard - read).max()) > 0.01
    samples = clip / np.float32(32768)
    sources = {
        "path": (str(tmp_path / "clip.wav"), None),
        "Path": (tmp_path / "clip.wav", None),
        "bytes": ((tmp_path / "clip.wav").read_bytes(), None),
        "array": (samples, None),
        "dict": ({"array": samples, "sampling_rate": RATE}, "array"),
        "dataset": ({"bytes": None, "path": str(tmp_path / "clip.wav")}, "path"),
    }
    for name, (audio, inner) in sources.items():
        for source in (audio, {"audio": audio}, {"audio": audio, "text": None}, {"audio": audio, "text": " "}):
            assert np.allclose(as_vector(pipe(source)), heard, atol=1e-5), name
        row = {"id": "a", "audio": audio, "text": text, "label": 1}
        for source in (row, {**audio, "text": text} if inner else row):
            assert np.allclose(as_vector(pipe(source)), both, atol=1e-5), name
    for source in ({"text": text}, {"audio": None, "text": text}):
        assert np.allclose(as_vector(pipe(source)), read, atol=1e-5)
    mixed = [{"text": text}, clip, {"audio": clip, "text": text}, {"audio": clip[:8000], "text": TEXTS[1]}]
    expected = [read, heard, both, by_hand(pipe.model, clip[:8000], TEXTS[1])]
    for size in (1, 2, 4):  # whatever shares a batch
        answers = pipe(mixed, batch_size=size)
        assert all(np.allclose(as_vector(a), e, atol=1e-5) for a, e in zip(answers, expected, strict=True)), size


def test_encoders_that_hear_padding_answer_as_alone():
    model = named(audio={"feat_extract_norm": "group", "do_stable_layer_norm": False}, pooling="attentive")
    mixed = [{"audio": noise(0.5), "text": TEXTS[0]}, noise(1.0), {"text": TEXTS[1]}, noise(0.5, 2)]
    answers = pipe_of(model)(mixed, batch_size=4)
    expected = [by_hand(model, noise(0.5), TEXTS[0]), by_hand(model, noise(1.0)), by_hand(model, text=TEXTS[1])]
    for answer, vector in zip(answers, [*expected, by_hand(model, noise(0.5, 2))], strict=True):
        assert np.allclose(as_vector(answer), vector, atol=1e-5)


def test_a_text_goes_with_every_window(pipe):
    clip, text = noise(2.0), TEXTS[2]
    answer = pipe({"audio": clip, "text": text}, window_s=1.0, hop_s=1.0)
    assert [part["start"] for part in answer["segments"]] == [0.0, 1.0]
    for part, samples in zip(answer["segments"], (clip[:RATE], clip[RATE:]), strict=True):
        assert np.allclose(as_vector(part["scores"]), by_hand(pipe.model, samples, text), atol=1e-5)
    alone = pipe({"text": text}, window_s=1.0)
    assert alone["segments"] == []
    assert np.allclose(as_vector(alone["scores"]), by_hand(pipe.model, text=text), atol=1e-5)


def test_transcribing(pipe):
    """What has no text is transcribed, each window by itself; what has one is not."""
    asked = []

    def asr(audio):
        asked.append(len(audio["array"]))
        assert audio["sampling_rate"] == RATE and audio["array"].dtype == np.float32
        audio.pop("array")[:] = 0  # as transformers' own pipeline does
        return {"text": TEXTS[len(asked) % 2]}

    clip = noise(2.0)
    assert np.allclose(as_vector(pipe(clip, asr=asr)), by_hand(pipe.model, clip, TEXTS[1]), atol=1e-5)
    assert asked == [2 * RATE]
    pipe([{"audio": clip, "text": TEXTS[0]}, {"text": TEXTS[0]}], asr=asr)
    assert asked == [2 * RATE]
    answer = pipe_of(pipe.model, asr=asr)({"audio": clip}, window_s=1.0, hop_s=1.0)
    assert asked == [2 * RATE, RATE, RATE]
    for part, samples, text in zip(answer["segments"], (clip[:RATE], clip[RATE:]), TEXTS[:2], strict=True):
        assert np.allclose(as_vector(part["scores"]), by_hand(pipe.model, samples, text), atol=1e-5)
    told = pipe(clip, asr=lambda audio: {"text": f"<|startoftranscript|><|en|> {TEXTS[1]}<|1.20|><|endoftext|>"})
    assert np.allclose(as_vector(told), by_hand(pipe.model, clip, TEXTS[1]), atol=1e-6)  # nobody says those tokens
    silent = pipe(clip, asr=lambda audio: {"text": ""})
    assert np.allclose(as_vector(silent), by_hand(pipe.model, clip), atol=1e-5)


def test_transcribing_with_a_pipeline_of_transformers(pipe, tmp_path):
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2ForCTC
    from transformers.pipelines import AutomaticSpeechRecognitionPipeline

    from conftest import TINY

    words = dict(enumerate(WORDS[5:13], start=2))  # a vocabulary of words, so that what it says is in ours
    vocabulary = {"<pad>": 0, "|": 1, **{word: index for index, word in words.items()}}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), unk_token="<pad>")
    torch.manual_seed(3)
    asr = AutomaticSpeechRecognitionPipeline(
        model=Wav2Vec2ForCTC(Wav2Vec2Config(**TINY, vocab_size=10)).eval(),
        tokenizer=tokenizer,
        feature_extractor=Wav2Vec2FeatureExtractor(),
        device="cpu",
    )
    clip = noise(1.0)
    text = asr({"array": clip / np.float32(32768), "sampling_rate": RATE})["text"]
    assert text  # of a random model, but something
    assert np.allclose(as_vector(pipe(clip, asr=asr)), by_hand(pipe.model, clip, text), atol=1e-5)


def test_mistakes(pipe):
    clip = noise(0.5)
    cases = {
        "input 0 (dict): neither audio nor text": {"audio": None, "text": ""},
        "input 0 (NoneType): neither": {"text": None},
        "gone.wav: unreadable audio (no such file)": {"audio": "gone.wav", "text": "sad"},
    }
    for message, source in cases.items():
        with pytest.raises(ValueError) as error:
            pipe([source, clip])
        assert message.replace("NoneType", "dict") in str(error.value)
        answers = pipe([source, clip], on_error="return")
        assert message.replace("NoneType", "dict") in answers[0]["error"] and len(answers[1]) == 3
    for source in ({"audio": clip, "text": 5}, {"audio": 5, "text": "sad"}, {"audio": clip, "text": ["a"]}, None):
        with pytest.raises(TypeError, match="input 0 "):
            pipe([source])
    with pytest.raises(ValueError, match="processor is missing"):
        SerPipeline(model=pipe.model, feature_extractor=Wav2Vec2FeatureExtractor())
    hears = audio_pipe(audio_model(pooling="max"))
    with pytest.raises(ValueError, match="SerForAudioClassification takes no text"):
        hears({"text": "sad"})
    with pytest.raises(ValueError, match="asr: SerForAudioClassification takes no text"):
        hears(clip, asr=lambda audio: {"text": "sad"})
    for text in (None, "sad", 5):  # a row of a dataset may have a transcript
        assert hears({"audio": clip, "text": text}) == hears({"audio": clip}) == hears(clip)


def test_embeddings_and_problem_types(pipe):
    answer = pipe({"audio": noise(0.5), "text": TEXTS[0]}, return_embeddings=True)
    assert answer["embedding"].shape == (8,)
    with torch.no_grad():
        logits = pipe.model.ser_classifier(torch.from_numpy(answer["embedding"]))
    assert np.allclose(as_vector(answer["scores"]), logits.softmax(-1), atol=1e-5)
    multi = named(problem_type="multi_label_classification")
    multi.config.thresholds = dict.fromkeys(LABELS, 0.5)
    entries = pipe_of(multi)({"text": TEXTS[0]})
    assert [entry["label"] for entry in entries] == list(LABELS)
    assert [entry["predicted"] for entry in entries] == [entry["score"] >= 0.5 for entry in entries]


# ---- in a process that has only the folder

CLEAN = """
import json, sys, torch
sys.modules["ser_hf"] = None  # importing this project is an error in this process
from transformers import AutoModelForAudioClassification, AutoProcessor, pipeline
clips, texts = torch.load(sys.argv[1], weights_only=True), json.loads(sys.argv[2])
results = {}
for folder in sys.argv[3:]:
    for load in (AutoModelForAudioClassification.from_pretrained, AutoProcessor.from_pretrained):
        try:
            load(folder, trust_remote_code=False)
        except ValueError as error:
            assert "trust_remote_code" in str(error), error
        else:
            raise AssertionError("code ran without being trusted")
    model = AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    audio, rate = [clip.numpy() for clip in clips], processor.feature_extractor.sampling_rate
    with torch.no_grad():
        logits = model(**processor(audio=[*audio, None], text=[None, *texts], sampling_rate=rate)).logits
    stock = pipeline("audio-classification", model=folder, trust_remote_code=True)
    ours = pipeline("speech-emotion-recognition", model=folder, trust_remote_code=True)
    dicts = [{"array": one, "sampling_rate": rate} for one in audio]
    said = {"text": texts[0]}
    results[folder] = {
        "logits": logits.tolist(),
        "stock": stock(dict(dicts[0]), top_k=None),
        "ours": ours([{"audio": dicts[0]}, {"audio": dicts[0], "text": texts[0]}, {"text": texts[0]}]),
        "asr": ours(dicts[0], asr=lambda audio: said),
        "inferred": type(pipeline(model=folder, trust_remote_code=True)).__name__,
    }
ours.save_pretrained(sys.argv[-1] + "-again")
print("RESULT" + json.dumps(results))
"""


def test_saved_equals_loaded_in_a_clean_process(tmp_path):
    everything = {"pooling": "attentive", "text_pooling": "max", "use_weighted_layer_sum": True}
    models = {
        "concat": (named(), make_processor()),
        "gated": (named(fusion="gated", **everything), make_processor(text_cleaning="words")),
        "cross": (named(fusion="cross_attention", text="roberta", modality_dropout=0.5), make_processor()),
        "spectrogram": with_spectrogram(),
        "group": (named(audio={"feat_extract_norm": "group"}, text="distilbert", pooling="meanmax"), make_processor()),
    }
    clips = [torch.from_numpy(noise(seconds, seed) / np.float32(32768)) for seed, seconds in enumerate((1.0, 0.6))]
    torch.save(clips, tmp_path / "clips.pt")
    for name, (model, processor) in models.items():
        save_model(model, processor, tmp_path / name)
        assert str(tmp_path) not in (tmp_path / name / "config.json").read_text()
    folders = [tmp_path / name for name in models]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    words = (tmp_path / "clips.pt", json.dumps(TEXTS[:2]), *folders)
    done = warm.python("-c", CLEAN, *words, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "not supported for audio-classification" not in done.stdout + done.stderr
    results = json.loads(done.stdout.split("RESULT")[1])
    audio = [clip.numpy() for clip in clips]
    for name, (model, processor) in models.items():
        found, rate = results[str(tmp_path / name)], processor.feature_extractor.sampling_rate
        with torch.no_grad():
            batch = processor(audio=[*audio, None], text=[None, *TEXTS[:2]], sampling_rate=rate)
            expected = model(**batch).logits
            one = [processor(audio=audio[0], sampling_rate=rate), processor(text=TEXTS[0])]
            one.append({**one[0], **one[1]})
            heard, read, both = (model(**inputs).logits[0].softmax(-1) for inputs in one)
        assert (torch.tensor(found["logits"]) - expected).abs().max() < 1e-6, name
        assert (heard - both).abs().max() > 1e-3 and (read - both).abs().max() > 1e-3
        assert np.allclose(as_vector(found["stock"]), heard, atol=1e-5), name  # from audio alone
        for answer, vector in zip(found["ours"], (heard, both, read), strict=True):
            assert np.allclose(as_vector(answer), vector, atol=1e-5), name
        assert np.allclose(as_vector(found["asr"]), both, atol=1e-5) and found["inferred"] == "SerPipeline"
    again = Path(f"{tmp_path / 'group'}-again")  # saved by someone who has only the folder
    assert {"processing_fusion.py", "modeling_fusion.py", "processor_config.json"} <= set(os.listdir(again))


def test_where_ser_hf_is_installed(tmp_path):
    """The classes of this process serve, with no code of the folder run; the tokenizer alone loads too."""
    model, processor = named(fusion="gated"), make_processor(max_text_length=9)
    save_model(model, processor, tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is SerFusionProcessor and loaded.max_text_length == 9
    assert AutoTokenizer.from_pretrained(tmp_path)("sad").input_ids == [2, 9, 3]
    pipe = pipeline(TASK, model=str(tmp_path), pipeline_class=SerPipeline)  # else the folder's, which must be trusted
    assert type(pipe) is SerPipeline and type(pipe.model) is SerFusionForClassification
    source = {"audio": noise(0.5), "text": TEXTS[0]}
    assert np.allclose(as_vector(pipe(source)), as_vector(pipe_of(model)(source)), atol=1e-6)
