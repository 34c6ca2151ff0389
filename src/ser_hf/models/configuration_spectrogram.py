"""Configuration of the spectrogram models. Ships to the Hub."""

from .common import PipelineConfig, check_choice
from .pooling import POOLINGS

# Width of each architecture's output frames, and so of a clip's vector after mean or max pooling.
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
OWN_POOLING = ("alexnet", "cnn_lstm_attention")  # pools to six by six; pools by learned weights


class SerSpectrogramConfig(PipelineConfig):
    """A convolutional network over `(rows, frames)` features, and a linear head.

    Args:
        arch: One of `ARCHS`.
        rows: Rows of the features: mel bands or coefficients.
        reduce: Input of the 1-D architectures: `time` is the mean over time, a sequence of coefficients; `frequency`
            the mean over rows, a sequence of frames; None all rows as channels of a sequence of frames.
        pooling: A name of `POOLINGS` without parameters. The architectures of `OWN_POOLING` ignore it.
        dropout: Dropout before the head, and within the networks where they have any.
        weights: `random` or `imagenet`: the weights that the training began with. A record: loading fetches nothing.
    """

    model_type = "ser_spectrogram"

    arch: str = "cnn2d_6"
    rows: int = 128
    reduce: str | None = None
    pooling: str = "mean"
    dropout: float = 0.3
    weights: str = "random"

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        check_choice("arch", self.arch, ARCHS)
        check_choice("reduce", self.reduce, (None, "time", "frequency"))
        check_choice("pooling", self.pooling, [name for name, entry in POOLINGS.items() if entry.parameters is None])
        check_choice("weights", self.weights, ("random", "imagenet"))
        if self.reduce is not None and not self.arch.startswith("cnn1d"):
            raise ValueError(
                f"reduce {self.reduce!r}: only the cnn1d architectures read one dimension, {self.arch} reads two"
            )
        self.hidden_size = WIDTHS[self.arch] * (1 if self.arch in OWN_POOLING else POOLINGS[self.pooling].width)

    @property
    def padding_sensitive(self) -> bool:
        """Whether padding changes the output even with a mask: image networks know no mask."""
        return self.arch in IMAGE_ARCHS
