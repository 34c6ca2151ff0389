"""Speech emotion recognition the Hugging Face way. Names load when used, so that `import ser_hf` stays fast."""

import importlib

__version__ = "0.1.0"

_LAZY = {
    "load_corpus": "data.loading",
    "list_corpora": "data.loading",
    "split": "data.splits",
    "check_disjoint": "data.splits",
    "SpeechCollator": "data.collators",
    "SerConfig": "models",
    "SerForAudioClassification": "models",
    "SerPipeline": "models",
    "compute_metrics": "evaluation.scoring",
    "score": "evaluation.scoring",
    "audio_model": "training.audio_model",
    "Loss": "training.losses",
    "SerTrainer": "training.trainer",
    "SerError": "errors",
}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module 'ser_hf' has no attribute {name!r}")
    if _LAZY[name].startswith(("models", "training")):
        importlib.import_module(".torchaudio_cpu", __name__).check()
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
