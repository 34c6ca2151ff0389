"""The fusion model's inputs. Ships to the Hub."""

import numpy as np
from transformers import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, Unpack

from .encoders import extract
from .text_cleaning import clean_text


class SerFusionProcessor(ProcessorMixin):
    """Clips and texts, some of them missing, to one padded batch. Clips shorter than `least_samples` are zero-padded
    to it (`Encoder.least`). Texts are cleaned by `clean_text` and truncated to `max_text_length` tokens, including the
    special ones."""

    # ProcessorMixin finds its parts by their parameters' names, and saves the other parameters beside them.
    def __init__(
        self,
        feature_extractor=None,
        tokenizer=None,
        max_text_length=64,
        text_cleaning="none",
        least_samples=1,
        **kwargs,
    ):
        clean_text("", text_cleaning)  # raises for an unknown name
        self.max_text_length, self.text_cleaning = max_text_length, text_cleaning
        self.least_samples = least_samples
        super().__init__(feature_extractor, tokenizer, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        return [self.feature_extractor.model_input_names[0], "attention_mask", "input_ids", "text_attention_mask"]

    def __call__(self, audio=None, text=None, **kwargs: Unpack[ProcessingKwargs]) -> BatchFeature:
        """A batch for `SerFusionForClassification`.

        Args:
            audio: An array of float samples, or a list of them, None where a clip is missing.
            text: A string, or a list of them, None or "" where a text is missing (also when cleaning leaves nothing).
            kwargs: As in all processors, those of the feature extractor and of the tokenizer, together or in
                `audio_kwargs`, `text_kwargs` and `common_kwargs`. `sampling_rate` is the rate of the audio in Hz, which
                must be the feature extractor's; `return_tensors` defaults to `pt`. Masks are always returned.

        Returns:
            The feature extractor's output, `input_values` `(batch, samples)` or `input_features` as that returns
            them, with its `attention_mask`; `input_ids` and `text_attention_mask` `(batch, tokens)`. A mask is 1
            for real input; a missing clip or text is a row of zeros. A modality that no row has is left out.

        Raises:
            ValueError: neither audio nor text, or not as many clips as texts.
        """
        if audio is None and text is None:
            raise ValueError("neither audio nor text: give at least one")
        clips = audio if audio is None or isinstance(audio, list | tuple) else [audio]
        texts = [text] if isinstance(text, str) else text
        if clips is not None and texts is not None and len(texts) != len(clips):
            raise ValueError(f"{len(clips)} clips and {len(texts)} texts: give None for what is missing")
        merged = self._merge_kwargs(ProcessingKwargs, **kwargs)
        of_audio, of_text = merged["audio_kwargs"], merged["text_kwargs"]
        tensors = [part.pop("return_tensors", None) for part in (of_text, of_audio)]
        sampling_rate = of_audio.pop("sampling_rate", None)
        batch = {}
        if rows := [index for index, clip in enumerate(clips or ()) if clip is not None]:
            if sampling_rate not in (None, self.feature_extractor.sampling_rate):
                expected = self.feature_extractor.sampling_rate
                raise ValueError(f"clips at {sampling_rate} Hz: resample them to the feature extractor's {expected} Hz")
            some = [np.asarray(clips[index], dtype=np.float32) for index in rows]  # int16 would become float64
            features = extract(self.feature_extractor, some, self.least_samples, **of_audio)
            batch |= {name: _spread(values.numpy(), rows, len(clips)) for name, values in features.items()}
        cleaned = [clean_text(entry, self.text_cleaning) for entry in (() if texts is None else texts)]
        if rows := [index for index, entry in enumerate(cleaned) if entry.strip()]:
            options = {"padding": True, "truncation": True, "max_length": self.max_text_length, **of_text}
            options |= {"padding_side": "right", "return_attention_mask": True, "return_token_type_ids": False}
            tokens = self.tokenizer([cleaned[index] for index in rows], **options, return_tensors="np")
            batch["input_ids"] = _spread(tokens["input_ids"], rows, len(texts), self.tokenizer.pad_token_id)
            batch["text_attention_mask"] = _spread(tokens["attention_mask"], rows, len(texts))
        return BatchFeature(batch, tensor_type=next(filter(None, tensors), "pt"))


def _spread(values: np.ndarray, rows: list[int], count: int, fill=0) -> np.ndarray:
    """`values` in `rows` of `count` rows, `fill` in the others."""
    spread = np.full((count, *values.shape[1:]), fill, dtype=values.dtype)
    spread[rows] = values
    return spread
