"""Random models to train: a small one for CPUs, and the shapes that people fine-tune, for GPUs; what a step keeps."""

import weakref
from collections.abc import Callable

# 4 layers, hidden 128, conv 64 (a small wav2vec2); the rest is wav2vec2-base's.
SMALL = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "conv_dim": [64] * 7,
}
XLSR = {  # facebook/wav2vec2-large-xlsr-53
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "conv_bias": True,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}
SHAPES = {"small": SMALL, "base": {}, "xlsr": XLSR}

# Useful work of one training step a second of real audio, convolutions frozen, clips of 4.5 s.
FLOPS = {"base": 33.1e9, "xlsr": 101e9}
# Dense bf16 peaks from the makers' data sheets, by a part of the device's name.
PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "4090": 165.2}


def build(shape: str):
    """A model of four classes with frozen convolutions, and the feature extractor that goes with it.

    Layers are never dropped: an arm must not win because its dice skipped more of them.
    """
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor

    from ser_hf.models import SerConfig, SerForAudioClassification

    torch.manual_seed(0)
    labels = {i: str(i) for i in range(4)}
    model = SerForAudioClassification(
        SerConfig(
            audio_config=Wav2Vec2Config(layerdrop=0.0, **SHAPES[shape]),
            id2label=labels,
            label2id={name: i for i, name in labels.items()},
            problem_type="single_label_classification",
        )
    )
    model.freeze_feature_encoder()
    return model, Wav2Vec2FeatureExtractor(return_attention_mask=True)


def kept(model, loss: Callable) -> int:
    """Bytes of the tensors that a training step keeps for its backward pass, without the weights. They are counted and
    let go, so that little memory is needed. `loss` computes the model's loss."""
    import torch

    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    seen, total = {}, 0

    def keep(tensor: torch.Tensor) -> None:
        nonlocal total
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place not in weights and (place not in seen or seen[place]() is None):  # None: another one lay there
            seen[place], total = weakref.ref(storage), total + storage.nbytes()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda nothing: nothing):
        loss()
    return total


def mfu(shape: str, audio_per_second: float, device_name: str, peak_tflops: float | None = None) -> float | None:
    """Part of the device's peak that the useful work is, counting real seconds of audio and not padded ones.

    >>> round(mfu("base", 6000.0, "NVIDIA H200"), 3)
    0.201
    >>> mfu("small", 6000.0, "NVIDIA H200") is None
    True
    """
    known = [peak for part, peak in PEAK_TFLOPS.items() if part in device_name]
    peak = peak_tflops or (known[0] if known else None)
    if shape not in FLOPS or peak is None:
        return None
    return audio_per_second * FLOPS[shape] / (peak * 1e12)
