"""Checkpoints of s3prl, which hold a head alone: what they compute, as `SerForAudioClassification`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SerError, one_line

if TYPE_CHECKING:
    import torch

# s3prl's task `emotion`: IEMOCAP's four classes in the order of its meta_data files.
S3PRL_LABELS = ["neutral", "happy", "angry", "sad"]
# Its default head, `UtteranceLevel` with `MeanPooling`: the layer before the mean, and the one after it.
S3PRL_HEAD = {
    "projector.weight": "ser_projector.weight",
    "projector.bias": "ser_projector.bias",
    "model.post_net.linear.weight": "ser_classifier.weight",
    "model.post_net.linear.bias": "ser_classifier.bias",
}


def read_pickle(file: Path, model: str) -> dict:
    """A checkpoint of tensors, plain values and the arguments of a command line. SerError: it holds anything else."""
    import torch

    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's restricted reader raises a dozen classes
        raise SerError(f"{model}: cannot be read as weights alone ({one_line(error)[:200]})") from None
    if not isinstance(state, dict):
        raise SerError(f"{model}: holds no weights by name")
    return state


def convert_s3prl(file: Path, encoder: str | None, out: Path, model: str) -> str:
    """Write a checkpoint of s3prl's task `emotion` on a pretrained encoder; returns what was done. SerError: another
    task or head, or the encoder is missing, is not the one that it was trained on, or was trained too."""
    import torch
    from transformers import AutoConfig, Wav2Vec2FeatureExtractor
    from transformers.utils.logging import disable_progress_bar

    from ..models import SerConfig, SerForAudioClassification
    from ..models.encoders import describe_audio, layer_count, load_encoder
    from ..training.saved_model import label_maps, save_model

    state = read_pickle(file, model)
    head, layers, said = state.get("Downstream"), state.get("Featurizer"), state.get("Args")
    if not isinstance(head, dict) or not isinstance(layers, dict) or not isinstance(said, argparse.Namespace):
        raise SerError(f"{model}: no checkpoint of s3prl (Downstream, Featurizer, Args); name one, or a folder")
    upstream = getattr(said, "upstream", "its encoder")
    others = sorted(set(head) - set(S3PRL_HEAD) - {"best_score"})
    pooling = state.get("Config", {}).get("downstream_expert", {}).get("modelrc", {}).get("UtteranceLevel", {})
    problem = None
    if getattr(said, "downstream", None) != "emotion" or len(head.get("model.post_net.linear.bias", ())) != 4:
        problem = f"its task is {getattr(said, 'downstream', 'unknown')!r}, not `emotion` with four classes"
    elif others or pooling.get("pooling", "MeanPooling") != "MeanPooling" or not set(S3PRL_HEAD) <= set(head):
        here = ", ".join(others) or pooling
        problem = f"only s3prl's default head (UtteranceLevel, MeanPooling) is known; here are {here}"
    elif "Upstream" in state:
        problem = "its encoder was trained too, under fairseq's names, which are not known here"
    elif getattr(said, "upstream_feature_normalize", False):
        problem = "its hidden states are layer-normed (--upstream_feature_normalize), ours are not"
    elif encoder is None:
        problem = f"holds no encoder; --encoder names that of transformers which is s3prl's {upstream!r}"
    if problem:
        raise SerError(f"{model}: {problem}")
    disable_progress_bar()
    try:
        audio = AutoConfig.from_pretrained(encoder)
        describe_audio(audio, "waveform")
        mix = _layers(layers, said, layer_count(audio))
        options = {"pooling": "mean", "head": "linear", "head_size": len(head["projector.bias"]), **mix}
        options |= {"problem_type": "single_label_classification", **label_maps(S3PRL_LABELS)}
        converted = SerForAudioClassification(SerConfig(audio_config=audio, **options))
        weights = {ours: head[theirs] for theirs, ours in S3PRL_HEAD.items()}
        if mix["layer_mix"] == "sum":
            weights["ser_layer_sum.weight"] = layers.get("weights", torch.zeros(1))
        converted.encoder = load_encoder(encoder, audio)
        converted.load_state_dict(converted.state_dict() | weights)
    except (OSError, ValueError, RuntimeError) as error:
        raise SerError(f"{model} with --encoder {encoder}: {one_line(error)}") from None
    # In fairseq, encoders with layer norm in the convolutions read normalised samples and those with group norm do not.
    normalise = getattr(audio, "feat_extract_norm", "layer") == "layer"
    save_model(converted.eval(), Wav2Vec2FeatureExtractor(do_normalize=normalise, return_attention_mask=normalise), out)
    samples = "normalised samples" if normalise else "samples as they are"
    return f"the head of s3prl's {upstream} on {encoder} ({samples}; {', '.join(S3PRL_LABELS)})"


def _layers(featurizer: "dict[str, torch.Tensor]", said: argparse.Namespace, count: int) -> dict:
    """Which of `count` hidden states the head reads, as arguments of `SerConfig`. ValueError: it cannot be told."""
    chosen, weights = getattr(said, "upstream_layer_selection", None), featurizer.get("weights")
    kind = getattr(said, "upstream_feature_selection", "hidden_states")
    if weights is not None:
        if len(weights) != count:
            raise ValueError(f"the head weighs {len(weights)} hidden states, the encoder has {count}; name another")
        return {"layer_mix": "sum"}
    if kind == "hidden_states" and isinstance(chosen, int) and -count <= chosen < count:
        return {"layer_mix": "sum", "layers": [chosen % count]}
    if kind == "last_hidden_state":
        return {"layer_mix": "last"}
    raise ValueError(f"the head reads {kind} {chosen}, which no option here does")
