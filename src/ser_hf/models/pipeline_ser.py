"""The pipeline `speech-emotion-recognition`. Ships to the Hub.

from transformers import pipeline

recognize = pipeline("speech-emotion-recognition", model="you/your-model", trust_remote_code=True)
recognize("clip.wav")  # [{"label": "happy", "score": 0.91}, {"label": "sad", "score": 0.05}, ...]
recognize("interview.mp3", window_s=4.0)["segments"]  # [{"start": 0.0, "end": 4.0, "scores": [...]}, ...]
recognize({"audio": "clip.wav", "text": "I can't believe it"})  # a fusion model also reads
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import nullcontext
from itertools import chain, islice, pairwise

import numpy as np
import torch
import torch.nn.functional as F
from transformers.models.auto import modeling_auto
from transformers.pipelines.base import ChunkPipeline
from transformers.utils import logging

from .audio_blocks import AudioInputError, read, windows
from .common import check_choice
from .encoders import check_extractor, describe, extract, longest_clip, padding_sensitive, shortest_input
from .text_cleaning import without_control_tokens

logger = logging.get_logger(__name__)

TASK = "speech-emotion-recognition"
REST_S = 1e-3  # audio that is no window of its own: a converted rate may give a sample more or less
LONG_S = 60.0  # attention grows with the square of the length: above this a warning advises windows
UNSURE = "unsure"  # the label of an answer that abstains
AUDIO_KEYS = {"array", "raw", "bytes", "path"}  # one of them is in every dict that is audio
# The layer after the pooling in our two heads, and in the stock classes.
AFTER_POOLING = ("ser_dense", "ser_classifier", "classifier")
# Without this the stock pipeline prints "The model is not supported for audio-classification" and then works.
modeling_auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES.update(
    ser="SerForAudioClassification",
    ser_spectrogram="SerForSpectrogramClassification",
    ser_functionals="SerForFunctionalsClassification",
    ser_fusion="SerFusionForClassification",
)


class SerPipeline(ChunkPipeline):
    """Emotions of speech: of a clip, or along a recording of any length.

    Inputs are a path, the `bytes` of a file, a file that is open in binary mode (or `io.BytesIO`), an array or tensor
    at the model's rate (`(samples,)`, `(channels, samples)` or `(samples, channels)`), a dict `{"array",
    "sampling_rate"}`, `{"bytes"}` or `{"path"}`, a dict with one of these as `audio` (a row of a dataset), a list of
    these (gives a list), or a generator or torch dataset of these (gives an iterator). For fusion models a dict may
    have a `text`, also alone; None or empty is missing.

    Args, at construction or in the call:
        window_s: Seconds of a window, each normalised on its own as a clip is. None takes the whole input at once.
        hop_s: Seconds from one window to the next; defaults to half a window.
        window_last: Audio after the last whole window: `pad`, `shift` or `drop`, see `audio_blocks.spans`.
        batch_size: Windows, or clips, that go through the model together; the answers do not depend on it.
        batch_seconds: In place of `batch_size`, seconds of padded audio that go through the model together. Where clips
            come sorted by length this is fastest, with the pipeline's `fast_batch`.
        top_k: Only the k most probable labels. None returns all.
        abstain_below: For single-label models: where no label has this probability, the answer begins with the label
            `unsure`, whose score is the probability that the next one is wrong.
        label_sets: For single-label models that were calibrated when they were trained: adds `in_set` to each label.
            Of clips like those of training's validation part, 1 - `alpha` (see the configuration's `label_sets`) have
            their label in the set, on average.
        return_embeddings: Adds the pooled vector of each clip (for fusion models, of audio and text) as a numpy array;
            with windows, also their mean.
        asr: For fusion models: transcribes each clip or window without a text, `pipeline("automatic-speech-
            recognition")` or any function of `{"array", "sampling_rate"}` that returns `{"text"}`. A text in the input
            goes with every window.
        on_error: `raise` a ValueError that names the input, or `return` `{"error": ...}` in its place and continue.

    Returns:
        `[{"label", "score"}, ...]` for each input: probabilities, highest first, for single-label models; in the
        model's order independent probabilities for multi-label models (with `predicted` by the configuration's
        thresholds, if it has any) and raw values for regression. With windows, a dict of `scores` (the mean over the
        windows) and `segments`, a list of `{"start", "end", "scores"}` in seconds (none for a text alone). With
        embeddings, a dict of `scores` and `embedding`, and an embedding in each segment.
    """

    _load_feature_extractor = True
    _load_processor = None  # if there is one: fusion models have
    _load_tokenizer = _load_image_processor = _load_video_processor = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.feature_extractor is None:
            raise ValueError("feature_extractor is missing: it holds the model's sampling rate and normalisation")
        if self.takes_text and self.processor is None:
            raise ValueError("processor is missing: it holds the fusion model's tokenizer")
        if not self.takes_text:
            self.task = "audio-classification"  # which it does, too: `evaluate.evaluator` asks for this name
        self.model.eval()
        audio = getattr(self.model.config, "audio_config", self.model.config)
        # Only clips of equal length share a batch of a padding-sensitive encoder, and none where they are trimmed.
        self._padding_sensitive = padding_sensitive(audio)
        self._trims = getattr(self.feature_extractor, "trim_db", None) is not None
        self._shortest_input = shortest_input(audio)  # stock classes refuse less
        self._encoder, self._longest = describe(audio), longest_clip(audio)
        if self._encoder is not None and self._encoder.reads != "text":
            check_extractor(self.feature_extractor, audio)

    def __call__(self, inputs, **kwargs):
        if isinstance(inputs, Sequence) and not isinstance(inputs, str | bytes | bytearray | memoryview):
            return list(self((entry for entry in inputs), **kwargs))  # a list, a column of a dataset
        if isinstance(inputs, Iterator) and not hasattr(inputs, "read"):  # an open file is an iterator over lines
            inputs = (entry for entry in inputs)  # transformers streams generators only
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, local_files_only=None, **options):
        windows = ("window_s", "hop_s", "window_last", "on_error", "asr")
        answers = ("top_k", "abstain_below", "label_sets")
        steps = (windows, ("return_embeddings", "batch_seconds"), ("window_s", "on_error", *answers))
        names = dict.fromkeys(name for step in steps for name in step)
        if unknown := set(options) - set(names):
            raise TypeError(f"unknown argument {', '.join(sorted(unknown))}; there are {', '.join(names)}, batch_size")
        check_choice("on_error", options.get("on_error", "raise"), ("raise", "return"))
        check_choice("window_last", options.get("window_last", "pad"), ("pad", "shift", "drop"))
        if options.get("top_k") is not None and (options["top_k"] < 1 or self.problem_type == "regression"):
            raise ValueError(f"top_k {options['top_k']}: must be at least 1, and the model must have classes")
        if options.get("batch_seconds") is not None and not options["batch_seconds"] > 0:
            raise ValueError(f"batch_seconds {options['batch_seconds']}: must be above 0")
        abstain_below, classes = options.get("abstain_below"), self.problem_type.startswith("single")
        if abstain_below is not None and not (classes and 0 <= abstain_below <= 1):
            raise ValueError(f"abstain_below {abstain_below}: must be from 0 to 1, and the model single-label")
        sets = getattr(self.model.config, "label_sets", None)
        least = sets.get("threshold") if isinstance(sets, dict) else None
        if options.get("label_sets") and not (classes and isinstance(least, float | int)):
            raise ValueError("label_sets: the model's configuration has none; train it with a validation part")
        if options.get("asr") is not None and not self.takes_text:
            raise ValueError(f"asr: {type(self.model).__name__} takes no text")
        return tuple({name: options[name] for name in step if name in options} for step in steps)

    @property
    def fast_batch(self) -> float:
        """`batch_seconds` for its device: on a CPU a larger batch leaves the cache, and its clips alone are faster."""
        return 8.0 if self.device.type == "cpu" else 36.0

    @property
    def takes_text(self) -> bool:
        return hasattr(self.model.config, "text_config")

    @property
    def problem_type(self) -> str:
        config = self.model.config
        return config.problem_type or ("regression" if config.num_labels == 1 else "single_label_classification")

    # ---- one input to windows, windows to logits, logits to an answer

    def preprocess(self, source, window_s=None, hop_s=None, window_last="pad", on_error="raise", asr=None):
        """Windows `{"samples", "text", "start", "end"}` of one input; the last may be an `{"error"}` instead. A text
        alone is one window without times."""
        rate = self.feature_extractor.sampling_rate
        size, hop = self._samples(window_s, hop_s)
        try:
            audio, text = self._parts(source)
            if audio is None and text is not None:
                pieces = [(None, None)]
            elif size is None:
                whole = np.concatenate(list(read(audio, rate)))
                if self._longest and len(whole) > self._longest * rate:
                    why = f"{len(whole) / rate:.1f} s, and the encoder reads {self._longest:g} s"
                    raise AudioInputError(f"{why}: give windows, such as window_s=4.0")
                if len(whole) > LONG_S * rate:
                    logger.warning_once(f"{len(whole) / rate:.0f} s at once take much memory: use window_s=4.0")
                pieces = [(0, whole)]
            else:
                pieces = windows(read(audio, rate), size, hop, window_last, rest=round(REST_S * rate))
            for first, samples in pieces:
                times = (None, None) if first is None else (first / rate, (first + len(samples)) / rate)
                words = text
                if asr is not None and words is None:
                    words = without_control_tokens(asr({"array": samples.copy(), "sampling_rate": rate})["text"])
                yield {"samples": samples, "text": words, "start": times[0], "end": times[1]}
        except AudioInputError as error:
            if on_error == "raise":
                raise
            yield {"error": str(error)}

    def _parts(self, source) -> tuple:
        """The audio and the text of one input, None where there is none."""
        if not isinstance(source, dict) or not {"audio", "text"} & set(source):
            return source, None
        itself = source if AUDIO_KEYS & set(source) else None  # {"array", "sampling_rate", "text"}
        audio = source["audio"] if source.get("audio") is not None else itself
        text = source.get("text") if self.takes_text or audio is None else None  # ignore the transcript of a row
        if text is not None and not isinstance(text, str):
            raise TypeError(f'"text" must be a string, got {type(text).__name__}')
        if text and not self.takes_text:
            raise AudioInputError(f"{type(self.model).__name__} takes no text: give audio")
        if self.takes_text and not self.processor(text=text or ""):
            text = None  # cleaning left nothing
        if audio is None and text is None:
            raise AudioInputError("neither audio nor text")
        return audio, text

    def _samples(self, window_s, hop_s) -> tuple[int | None, int | None]:
        if window_s is None and hop_s is None:
            return None, None
        seconds = window_s or 0, (window_s or 0) / 2 if hop_s is None else hop_s
        size, hop = (round(value * self.feature_extractor.sampling_rate) for value in seconds)
        if not 0 < hop <= size:
            raise ValueError(f"window_s {window_s}, hop_s {hop_s}: must be above 0, and a hop at most a window")
        if self._longest and seconds[0] > self._longest:
            raise ValueError(f"window_s {window_s}: the encoder reads {self._longest:g} s; give shorter windows")
        return size, hop

    def _forward(self, pieces, return_embeddings=False):
        """Logits, and embeddings if asked for, of `{"samples": [array or None, ...], "text": [...]}`, in that order."""
        clips, texts, groups = pieces["samples"], pieces["text"], defaultdict(list)
        for index, clip in enumerate(clips):  # a group goes through the model together
            size = None if clip is None else index if self._trims else len(clip)
            groups[clip is None, size if self._padding_sensitive else None].append(index)
        out, hook = defaultdict(list), nullcontext()  # out has one entry per group
        if return_embeddings:
            layer = next((layer for name in AFTER_POOLING if (layer := getattr(self.model, name, None))), None)
            if layer is None:
                raise ValueError(f"return_embeddings: {type(self.model).__name__} has no layer called {AFTER_POOLING}")
            hook = layer.register_forward_pre_hook(lambda _layer, inputs: out["embeddings"].append(inputs[0]))
        with hook:
            for group in groups.values():
                inputs = {} if clips[group[0]] is None else self._batch([clips[index] for index in group])
                if self.takes_text:
                    inputs |= self.processor(text=[texts[index] for index in group]).to(self.device)
                out["logits"].append(self.model(**inputs).logits)
        back = torch.tensor([index for group in groups.values() for index in group]).argsort()
        return {name: torch.cat(parts).float().cpu()[back] for name, parts in out.items()}

    def _batch(self, clips: list[np.ndarray]) -> dict[str, torch.Tensor]:
        """The feature extractor's output for clips, padded with a mask where their lengths differ."""
        if self._encoder is not None and self._encoder.reads == "log-mel":
            batch = extract(self.feature_extractor, clips, self._encoder.least)
            return {name: v.to(self.device, self.dtype if v.is_floating_point() else None) for name, v in batch.items()}
        lengths, least = [len(clip) for clip in clips], self._shortest_input
        options = {"sampling_rate": self.feature_extractor.sampling_rate, "return_tensors": "pt"}
        if min(lengths) < max(lengths):
            options |= {"padding": True, "return_attention_mask": True}
        batch = dict(self.feature_extractor(clips, **options))
        if min(lengths) < least:  # zero-pad; these zeros count as real, as in our own model, alone and in a batch alike
            batch = {name: F.pad(values, (0, max(0, least - max(lengths)))) for name, values in batch.items()}
            if "attention_mask" in batch:
                batch["attention_mask"][:, :least] = 1
        return {name: v.to(self.device, self.dtype if v.is_floating_point() else None) for name, v in batch.items()}

    def postprocess(self, pieces, window_s=None, on_error="raise", **options):
        """The answer to one input from its windows in order, each with its `logits`; `options` as in `_scores`."""
        if "error" in pieces[-1]:
            return {"error": pieces[-1]["error"]}
        values = torch.stack([piece["logits"] for piece in pieces]).double()  # (windows, labels)
        if not values.isfinite().all():
            problem = "the model's scores are NaN or infinite: its weights are, or they are too large for this input"
            if on_error == "raise":
                raise ValueError(problem)
            return {"error": problem}
        if self.problem_type != "regression":
            values = values.sigmoid() if self.problem_type.startswith("multi") else values.softmax(dim=-1)

        def entry(rows: list[int]) -> dict:
            scores = {"scores": self._scores(values[rows].mean(dim=0).tolist(), **options)}
            if "embeddings" not in pieces[0]:
                return scores
            return scores | {"embedding": torch.stack([pieces[row]["embeddings"] for row in rows]).mean(dim=0).numpy()}

        answer = entry(list(range(len(pieces))))
        if window_s is not None:
            times = [{"start": piece["start"], "end": piece["end"]} for piece in pieces]
            answer["segments"] = [t | entry([row]) for row, t in enumerate(times) if t["start"] is not None]
        return answer if len(answer) > 1 else answer["scores"]

    def _scores(
        self, values: list[float], top_k: int | None = None, abstain_below: float | None = None, label_sets=False
    ) -> list[dict]:
        config, problem_type = self.model.config, self.problem_type
        entries = [{"label": config.id2label[index], "score": value} for index, value in enumerate(values)]
        if problem_type.startswith("multi") and (thresholds := getattr(config, "thresholds", None)):
            for entry in entries:
                entry["predicted"] = entry["score"] >= thresholds[entry["label"]]
        if top_k is not None or problem_type.startswith("single"):
            entries.sort(key=lambda entry: -entry["score"])
        if label_sets:  # never empty
            least = min(config.label_sets["threshold"], entries[0]["score"])
            entries = [entry | {"in_set": entry["score"] >= least} for entry in entries]
        sure = abstain_below is None or entries[0]["score"] >= abstain_below
        return [*([] if sure else [{"label": UNSURE, "score": 1 - entries[0]["score"]}]), *entries[:top_k]]

    def save_pretrained(self, save_directory, **kwargs):
        """As in transformers, and the processor of a fusion model."""
        super().save_pretrained(save_directory, **kwargs)
        if self.takes_text:
            self.processor.save_pretrained(save_directory)

    # ---- many inputs

    def get_iterator(self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params):
        """Answers in the order of the inputs, each as soon as its last window is scored. Windows of several inputs
        share a batch; no more than a batch of them is held, and `num_workers` is not needed."""
        if isinstance(inputs, Sized):  # torch datasets have only a length and items
            inputs = map(inputs.__getitem__, range(len(inputs)))
        answered, seconds = [], forward_params.pop("batch_seconds", None)
        pieces = self._pieces(inputs, preprocess_params)
        for batch in self._batches(pieces, batch_size if seconds is None else None, seconds):
            usable = [piece for piece, _ in batch if "error" not in piece]
            if usable:
                parts = {name: [piece.pop(name) for piece in usable] for name in ("samples", "text")}
                for name, values in self.forward(parts, **forward_params).items():
                    for piece, value in zip(usable, values, strict=True):
                        piece[name] = value
            for piece, last in batch:
                answered.append(piece)
                if last:
                    yield self.postprocess(answered, **postprocess_params)
                    answered = []

    @staticmethod
    def _batches(pieces: Iterator[tuple], most: int | None, seconds: float | None) -> Iterator[list[tuple]]:
        """Windows in batches of `most`, or of at most `seconds` of padded audio; a longer one is alone."""
        if seconds is None:
            while batch := list(islice(pieces, most)):
                yield batch
            return
        batch, longest = [], 0.0
        for piece in pieces:
            length = max(
                (piece[0].get("end") or 0.0) - (piece[0].get("start") or 0.0), 0.1
            )  # a text alone has no times
            longest = max(longest, length)
            if batch and longest * (len(batch) + 1) > seconds:
                yield batch
                batch, longest = [], length
            batch.append(piece)
        if batch:
            yield batch

    def _pieces(self, inputs: Iterable, parameters: dict) -> Iterator[tuple[dict, bool]]:
        """Windows of all inputs, and whether each is the last of its input."""
        for number, source in enumerate(inputs):
            path = source.get("audio", source) if isinstance(source, dict) else source
            path = path.get("path") if isinstance(path, dict) else path
            name = str(path) if isinstance(path, str | os.PathLike) else f"input {number} ({type(source).__name__})"
            try:
                for piece, following in pairwise(chain(self.preprocess(source, **parameters), [None])):
                    if "error" in piece:
                        piece["error"] = f"{name}: {piece['error']}"
                    yield piece, following is None
            except (AudioInputError, TypeError) as error:
                raise type(error)(f"{name}: {error}") from error
