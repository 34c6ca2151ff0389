"""Rewrite a checkpoint that would load with a random head, or not at all, as one that is loaded whole.

    ser-hf convert harshit345/xlsr-wav2vec-speech-emotion-recognition converted
    ser-hf convert result/downstream/er/dev-best.ckpt converted --encoder facebook/hubert-base-ls960

- The layout of soxan and of audEERING's emotion models (`classifier.dense`, `classifier.out_proj` over Wav2Vec2, HuBERT
  or WavLM; many "wav2vec2 emotion" models on the Hub): stock classes load it with a random head. It becomes this
  project's model with the `mlp` head, with the same logits.
- Checkpoints of s3prl's task `emotion` (SUPERB), which hold a weighted sum of layers and a head for the encoder that
  --encoder names: a stock model, with the same logits. Those that were trained on one layer become this project's.
- Weights in pickle files (`pytorch_model.bin`), of any model: the same model with `model.safetensors`. Only tensors are
  read from them, code in them is never run.

Of a model that loads as it is, such as superb/hubert-base-superb-er with its weighted sum of layers, the command says
so and writes nothing. SpeechBrain's model of IEMOCAP is not converted: it standardises all hidden states of a clip
together, which no head here does, and adds noise to their mean.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..cli.console import Parser
from ..errors import SerError, one_line
from ..files import check_empty, hold, saving
from .toolkits import convert_s3prl

if TYPE_CHECKING:
    import torch

HEAD = ("classifier.dense.weight", "classifier.dense.bias", "classifier.out_proj.weight", "classifier.out_proj.bias")
# soxan's `pooling_mode`; audEERING's models have none and pool by the mean. `sum` grows with the clip's length.
POOLINGS = {None: "mean", "mean": "mean", "max": "max"}
# A checkpoint's files beside its weights that are copied.
COPIED = ("*.json", "*.txt", "*.model", "README.md")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def main(argv: list[str]) -> int:
    parser = Parser("convert", __doc__)
    parser.add_argument("model", help="a folder, or a model on the Hub")
    parser.add_argument("--encoder", help="the pretrained encoder that the head of s3prl was trained on")
    parser.add_argument("out", help="the folder to write, which must be empty or new")
    args = parser.parse_args(argv)
    out = Path(args.out)
    check_empty(out, "")
    source = find(args.model)
    if args.encoder and source.is_dir():
        raise SerError(f"--encoder {args.encoder}: does nothing for {args.model}, which has its encoder; leave it out")
    if source.is_dir() and (source / "hyperparams.yaml").is_file() and not (source / "model.safetensors").is_file():
        why = "it standardises all hidden states of a clip together, which no head here does"
        raise SerError(f"{args.model}: a model of SpeechBrain, not converted: {why}; use it with SpeechBrain")
    config = {} if source.is_file() else read_config(source, args.model)

    from ..models.encoders import ENCODERS

    weights = {} if source.is_file() else read_weights(source, args.model)
    # RoBERTa's head has these names
    ours = config.get("model_type") in ENCODERS and all(name in weights for name in HEAD)
    if not ours and any((source / name).is_file() for name in WEIGHTS[:2]):
        why = "the weights are safetensors and the head is none of these toolkits'"
        print(f"{args.model}: nothing to convert, {why}; use it as it is (nothing was written)")
        return 0
    hold(out, str(out))
    with saving(out) as staging:
        if source.is_file():
            done = convert_s3prl(source, args.encoder, staging, args.model)
        elif ours:
            done = convert_head(source, config, weights, staging, args.model)
        else:
            done = rewrite(source, weights, staging)
    print(f"{args.model}: {done}\nwritten: {out}")
    return 0


def find(model: str) -> Path:
    """The folder or file of a checkpoint, downloaded if it is on the Hub. SerError: no such folder, file or model."""
    if Path(model).exists():
        return Path(model)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=[*COPIED, "*.safetensors", "*.bin", "hyperparams.yaml"]))
    except Exception as error:  # the client raises a dozen classes that all mean: not available
        why = f"no such folder, and no model on the Hub that can be read ({one_line(error)})"
        raise SerError(f"{model}: {why}") from None


def read_config(source: Path, model: str) -> dict:
    """`config.json` as a dict. SerError: there is none."""
    try:
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SerError(f"{model}: no config.json that can be read ({error}); it is no model of transformers") from None
    if not isinstance(config, dict) or "model_type" not in config:
        raise SerError(f"{model}: config.json names no model_type; it is no model of transformers")
    return config


def read_weights(source: Path, model: str) -> "dict[str, torch.Tensor]":
    """All weights of a checkpoint, by name. SerError: there are none, or a file holds more than tensors."""
    import torch
    from safetensors.torch import load_file

    file = next((name for name in WEIGHTS if (source / name).is_file()), None)
    if file is None:
        raise SerError(f"{model}: none of {', '.join(WEIGHTS)} is there; name the folder of a whole model")
    files, weights = [file], {}
    try:
        if file.endswith(".index.json"):
            files = sorted({*json.loads((source / file).read_text())["weight_map"].values()})
        for name in files:
            if name.endswith(".safetensors"):
                weights |= load_file(source / name)
            else:
                weights |= torch.load(source / name, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors and torch's restricted reader raise a dozen classes
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise SerError(f"{model}: {file} cannot be read as weights alone ({reason})") from None
    # Tied weights share their memory, which safetensors refuses.
    return {name: value.clone().contiguous() for name, value in weights.items() if isinstance(value, torch.Tensor)}


def convert_head(source: Path, config: dict, weights: "dict[str, torch.Tensor]", out: Path, model: str) -> str:
    """Write a checkpoint with `HEAD` as `SerForAudioClassification`; returns what was done.
    SerError: its pooling or its encoder is not supported, or weights are missing."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoFeatureExtractor
    from transformers.utils.logging import disable_progress_bar

    from ..models import SerConfig, SerForAudioClassification
    from ..models.encoders import load_encoder
    from ..training.saved_model import save_model

    mode = config.get("pooling_mode")
    if mode not in POOLINGS:
        raise SerError(f"{model}: pools by {mode!r}; only mean and max can be converted")
    if not (source / "preprocessor_config.json").is_file():
        raise SerError(f"{model}: no preprocessor_config.json; copy that of the encoder it was trained from")
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:  # of the encoder: transformers renames weights of older versions
        save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        shutil.copyfile(source / "config.json", Path(folder) / "config.json")
        try:
            extractor = AutoFeatureExtractor.from_pretrained(source)
            audio = AutoConfig.from_pretrained(folder)
            encoder = load_encoder(folder, audio)
            labels = {name: getattr(audio, name) for name in ("id2label", "label2id")}
            values = {*audio.id2label.values()} <= {"arousal", "valence", "dominance"}  # audEERING's do not say it else
            kind = audio.problem_type or ("regression" if values else None)
            dropout = getattr(audio, "final_dropout", 0.0)
            head = {"pooling": POOLINGS[mode], "head": "mlp", "head_dropout": dropout, "problem_type": kind, **labels}
            converted = SerForAudioClassification(SerConfig(audio_config=audio, **head))
        except (OSError, ValueError) as error:
            raise SerError(f"{model}: {one_line(error)}") from None
    converted.encoder = encoder
    ours = {"dense": converted.ser_dense, "out_proj": converted.ser_classifier}
    with torch.no_grad():
        for name in HEAD:
            _, layer, kind = name.split(".")
            target = getattr(ours[layer], kind)
            if target.shape != weights[name].shape:
                shapes = f"{tuple(weights[name].shape)}, not {tuple(target.shape)}"
                raise SerError(f"{model}: {name} is {shapes}: its head is none that can be converted")
            target.copy_(weights[name])
    save_model(converted.eval(), extractor, out)
    return f"{type(encoder).__name__} with {POOLINGS[mode]} pooling and the mlp head ({', '.join(labels['label2id'])})"


def rewrite(source: Path, weights: "dict[str, torch.Tensor]", out: Path) -> str:
    """Write the same checkpoint with its weights in `model.safetensors`; returns what was done."""
    from safetensors.torch import save_file

    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    for pattern in COPIED:
        for file in source.glob(pattern):
            if not file.name.endswith(".index.json"):
                shutil.copyfile(file, out / file.name)
    return f"{len(weights)} weights as model.safetensors, the rest unchanged"
