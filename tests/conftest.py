"""Every test is offline, with caches of its own, and one thread (two processes test at a time on two cores)."""

import gc
import importlib
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("SER_DATA_DIR", None)

import pytest

import warm

REPO = Path(__file__).parents[1]
OURS = tuple(f"{REPO / name}{os.sep}" for name in ("tests", "src", "recipes", "loading_scripts", "benchmarks"))
sys.path.insert(0, str(REPO / "tests"))

# The smallest encoder that trains: 40 ms frames of 25 ms, no dropout, so that equal steps are equal numbers.
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [16, 16],
    "conv_kernel": [80, 8],
    "conv_stride": [80, 8],
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
}
# What the encoders that read no waveform have instead of TINY's convolutions.
TINY_OF = {
    "whisper": {
        **{"d_model": 16, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "num_mel_bins": 8},
        **{"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "vocab_size": 8},
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
    },
    "wav2vec2-bert": {
        "feature_projection_input_dim": 16,
        "conv_depthwise_kernel_size": 3,
        "conformer_conv_dropout": 0.0,
    },
}


def tiny_config(kind: str, **changes):
    """The configuration of the smallest encoder of a kind of `ENCODERS`."""
    from transformers import AutoConfig

    return AutoConfig.for_model(kind, **{**TINY, **TINY_OF.get(kind, {}), **changes})


@pytest.fixture(scope="session", autouse=True)
def own_caches(tmp_path_factory):
    """No test reads or writes the user's caches."""
    home = tmp_path_factory.mktemp("hf")
    import datasets

    os.environ["HF_HOME"] = str(home)
    os.environ["HF_DATASETS_CACHE"] = str(home / "datasets")
    datasets.config.HF_DATASETS_CACHE = home / "datasets"
    gc.freeze()  # each training collects garbage twice: what was imported is none
    return home


@pytest.fixture(scope="session", autouse=True)
def whole_columns():
    """A `Column` of datasets reads row by row, eight times as slowly as `rows["label"][:]`: no line of the package, the
    recipes and loading scripts may go through one in a test's own process, except for audio, which is decoded so."""
    from datasets.arrow_dataset import Column

    iterate = Column.__iter__

    def checked(column):
        frame = sys._getframe(1)
        while frame.f_back and not frame.f_code.co_filename.startswith(OURS):
            frame = frame.f_back
        place, name = f"{frame.f_code.co_filename}:{frame.f_lineno}", column.column_name
        assert name == "audio" or not place.startswith(OURS[1:]), f"{place}: column {name} row by row"
        return iterate(column)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Column, "__iter__", checked)
        yield


@pytest.fixture(scope="session")
def fake_corpus(tmp_path_factory):
    """`fake_corpus(name)` is the folder of a corpus's synthetic copy, made once a session."""
    made = {}

    def make(name: str) -> Path:
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            importlib.import_module(f"fakes.{name}").make(root)
            made[name] = root
        return made[name]

    return make


def tiny_flags(**overrides) -> list[str]:
    """Flags for a random encoder of TINY's shape with `overrides`."""
    return [
        *("--model_type", "wav2vec2", "--config_overrides", json.dumps({**TINY, **overrides})),
        *("--learning_rate", "1e-3", "--use_cpu", "true"),
        *("--disable_tqdm", "true", "--head_size", "16", "--config", "none"),
    ]


def run_recipe(recipe: str, *flags: str, processes: int = 1, env: dict | None = None, timeout: int = 280):
    """A recipe in a process of its own, as users start it; returns the completed process with its output."""
    start = []
    if processes > 1:
        start += ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", processes]
        start += ["--main_process_port", "0", "--mixed_precision", "no", "--num_machines", "1"]
        start += ["--dynamo_backend", "no"]
    return warm.python(*start, REPO / "recipes" / f"{recipe}.py", *flags, env=env, timeout=timeout)


# Those of a run that has trained a classifier.
FIGURES = {f"figures/{name}.png" for name in ("confusion_matrix", "reliability", "answered", "training_curves")}
RECIPES = ("wav2vec2_cls", "wav2vec2_reg", "spectrogram_cls", "classical_cls", "text_cls", "fusion_cls")


def system_of(recipe: str):
    """The `SYSTEM` of a recipe, by the recipe's file stem."""
    from ser_hf.experiments.cv import load_system

    return load_system(REPO / "recipes" / f"{recipe}.py")


def settings_of(recipe: str, *flags: str):
    """The settings of a recipe on a machine without GPU; `--config none` where `flags` name no YAML."""
    from ser_hf.training.arguments import parse

    config = () if "--config" in flags else ("--config", "none")
    return parse(system_of(recipe), "", [*config, *map(str, flags), "--use_cpu", "true"])


def setup_of(recipe: str, splits: dict, corpus: str = "demo", protocol: str | None = None, **changes):
    """The `Setup` of a run on these parts. `changes`: `label_names`, `problem_type`, and fields of `Setup`."""
    from ser_hf.data.corpus import CorpusReport
    from ser_hf.data.splits import find_protocol
    from ser_hf.training.record import Setup

    names = changes.pop("label_names", ["angry", "happy", "neutral", "sad"])
    kind = changes.pop("problem_type", "single_label_classification")
    fields = {"overrides": {}, "mixed": None, "fold": 0, **changes}
    report = CorpusReport(corpus, "default", names, kind, utterances=0, official=0, hours=0.0, speakers=0)
    return Setup(
        recipe, system_of(recipe), splits=splits, report=report, protocol=find_protocol(corpus, protocol), **fields
    )
