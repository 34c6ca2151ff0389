"""Configuration of the spectrogram models. Ships to the Hub beside the weights: imports nothing of this project."""

from transformers import PreTrainedConfig

# Width of the vector each architecture makes of a frame, and so of a clip by mean or max pooling.
WIDTHS = {
    "cnn1d_3": 256,
    "cnn1d_5": 256,
    "cnn1d_8": 256,
    "cnn2d_2": 256,
    "cnn2d_6": 128,
    "cnn_lstm": 256,
    "cnn_lstm_attention": 256,
    "alexnet": 4096,
    "resnet50": 2048,
    "densenet201": 1920,
    "resnext50": 2048,
}
ARCHS = tuple(WIDTHS)
IMAGE_ARCHS = ("alexnet", "resnet50", "densenet201", "resnext50")


class SerSpectrogramConfig(PreTrainedConfig):
    """A convolutional network over `(rows, frames)` features, and a linear head.

    Args:
        arch: One of `ARCHS`.
        rows: Rows of the features: mel bands or coefficients.
        reduce: Of the 1-D architectures: `time` gives them the mean over time, a sequence of coefficients; `frequency`
            the mean over rows, a sequence of frames; None all rows as channels of a sequence of frames.
        pooling: Frames to one vector: `mean`, `max` or `meanmax` (both, concatenated). AlexNet has its own pooling to
            six by six, and `cnn_lstm_attention` learned weights: these take no notice of it.
        dropout: Before the head, and within the networks where they have any.
        weights: `random` or `imagenet`: what the training began with. Said, not done: loading never fetches anything.
    """

    model_type = "ser_spectrogram"

    arch: str = "cnn2d_6"
    rows: int = 128
    reduce: str | None = None
    pooling: str = "mean"
    dropout: float = 0.3
    weights: str = "random"

    def __post_init__(self, **kwargs):
        # In every saved config.json: where pipeline("speech-emotion-recognition") finds its code (PLATFORM.md 2.5).
        task = {"impl": "pipeline_ser.SerPipeline", "pt": ["AutoModelForAudioClassification"]}
        kwargs.setdefault("custom_pipelines", {"speech-emotion-recognition": task})
        super().__post_init__(**kwargs)
        for name, value, choices in (
            ("arch", self.arch, ARCHS),
            ("reduce", self.reduce, (None, "time", "frequency")),
            ("pooling", self.pooling, ("mean", "max", "meanmax")),
            ("weights", self.weights, ("random", "imagenet")),
        ):
            if value not in choices:
                raise ValueError(f"{name} {value!r}: choose one of {', '.join(map(str, choices))}")
        if self.reduce is not None and not self.arch.startswith("cnn1d"):
            raise ValueError(
                f"reduce {self.reduce!r}: only the cnn1d architectures read one dimension, not {self.arch}"
            )
        own = self.arch in ("alexnet", "cnn_lstm_attention")
        self.hidden_size = WIDTHS[self.arch] * (2 if self.pooling == "meanmax" and not own else 1)
