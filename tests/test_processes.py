"""One process, one with accumulated gradients, and two processes: the same training, for every recipe."""

import json
import os
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from test_text_recipe import RANDOM as RANDOM_TEXT
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from conftest import REPO, TINY, run_recipe, tiny_flags
from ser_hf.training.trainer import SerTrainer, in_turn, running_statistics

# Updates of all 11 training clips at once, so that it cannot matter how they are cut into batches; by SGD, because Adam
# makes whole steps of gradients that are rounding alone.
WHOLE = ("--data_dir", "DEMO", "--fold", "1", "--validation_fraction", "0", "--num_train_epochs", "4")
WHOLE += (
    "--optim",
    "sgd",
    "--learning_rate",
    "0.1",
    "--lr_scheduler_type",
    "constant",
    "--save_strategy",
    "no",
    "--eval_strategy",
    "no",
)
WHOLE += ("--use_cpu", "true", "--disable_tqdm", "true", "--config", "none", "--dataset", "demo")
ENCODER = tiny_flags()[:4]
AUDIO = (*ENCODER, "--head_size", "16", "--batch_seconds", "0")
RUNS = {
    "wav2vec2_cls": ("wav2vec2_cls", (*AUDIO, "--class_weights", "balanced")),
    "wav2vec2_reg": ("wav2vec2_reg", (*AUDIO, "--labels", "dimensional", "--loss", "ccc")),
    "text_cls": ("text_cls", (*RANDOM_TEXT, "--batch_tokens", "0", "--class_weights", "balanced")),
    "fusion_cls": ("fusion_cls", ("--audio_model", "SPEECH", "--text_model", "TEXT", "--head_size", "8",
                                  "--modality_dropout", "0", "--head_dropout", "0", "--batch_seconds", "0")),
    "spectrogram_cls": ("spectrogram_cls", ("--arch", "cnn2d_2", "--n_mels", "16", "--dropout", "0",
                                            "--batch_seconds", "0")),
}  # fmt: skip
BATCH_NORM = ("spectrogram_cls",)  # each batch by itself: an update of three batches is not one of one batch


@pytest.fixture(scope="module")
def places(fake_corpus, tmp_path_factory):
    """What stands for the names in capitals above."""
    home = tmp_path_factory.mktemp("encoders")
    Wav2Vec2Model(Wav2Vec2Config(**TINY)).save_pretrained(home / "audio")
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(home / "audio")
    places = {"DEMO": str(fake_corpus("demo")), "SPEECH": str(home / "audio"), "TEXT": str(home / "text")}
    flags = [places.get(flag, flag) for flag in (*WHOLE, *RUNS["text_cls"][1])]
    here("text_cls", *flags, "--output_dir", str(home / "text"), "--num_train_epochs", "1")
    return places


def here(recipe: str, *flags: str) -> None:
    """A recipe in this process, which has paid for its imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{recipe}.py", *flags])
        runpy.run_path(str(REPO / "recipes" / f"{recipe}.py"), run_name="__main__")


def difference(first: Path, second: Path) -> float:
    """The largest of all weights; running statistics, which are no steps of 0.1 but of any size, relative to theirs."""
    a, b = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert a.keys() == b.keys()
    scale = {name: max(1.0, float(a[name].abs().max())) if "running" in name else 1.0 for name in a}
    return max(float((a[name].double() - b[name].double()).abs().max()) / scale[name] for name in a)


@pytest.mark.slow
@pytest.mark.parametrize(("clips", "batches"), [(4, 3), (2, 6)], ids=["odd", "even, one clip left over"])
@pytest.mark.parametrize("name", RUNS)
def test_one_process_is_two_is_accumulation(name, clips, batches, places, tmp_path, monkeypatch):
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "cache"))
    recipe, flags = RUNS[name]
    flags = [places.get(flag, flag) for flag in (*WHOLE, *flags)]

    def sizes(count: int, steps: int, folder: str) -> list[str]:
        more = f"--per_device_train_batch_size {count} --gradient_accumulation_steps {steps} --output_dir"
        return [*flags, *more.split(), str(tmp_path / folder)]

    made = []
    loader = SerTrainer.get_train_dataloader
    monkeypatch.setattr(SerTrainer, "get_train_dataloader", lambda self: made.append(loader(self)) or made[-1])
    here(recipe, *sizes(clips, batches, "accumulated"))
    lengths = sorted(len(batch) for batch in made[0].batch_sampler)
    assert len(lengths) == batches and sum(lengths) == 11 and (lengths[0] == 1) == (clips == 2)
    done = run_recipe(recipe, *sizes(clips, -(-batches // 2), "two"), processes=2, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-3000:]
    others = ["two"]
    if name not in BATCH_NORM:
        here(recipe, *sizes(11, 1, "one"))
        others.append("one")
    results = json.loads((tmp_path / "accumulated" / "results.json").read_text())
    assert results["training"]["steps"] == 4
    for other in others:
        found = json.loads((tmp_path / other / "results.json").read_text())
        if recipe == "wav2vec2_reg":  # of scores themselves, not of decisions
            assert found["test"]["metrics"] == pytest.approx(results["test"]["metrics"], abs=1e-6)
        else:
            assert found["test"] == results["test"] and found.get("comparisons") == results.get("comparisons")
        assert found["training"]["steps"] == 4 and found["training"]["processes"] == 1 + (other == "two")
        apart = difference(tmp_path / "accumulated", tmp_path / other)
        print(f"{name}, {batches} batches, {other}: {apart:.1e}")
        assert apart <= 1e-6, other
        tables = [pd.read_parquet(tmp_path / folder / "predictions.parquet") for folder in ("accumulated", other)]
        assert tables[0]["id"].tolist() == tables[1]["id"].tolist()


def test_running_statistics_of_ranks_are_those_of_their_batches_in_turn():
    """Also where one rank repeats a batch (left out), a norm is frozen, and momenta differ."""
    torch.manual_seed(0)
    start = torch.nn.Sequential(torch.nn.BatchNorm1d(3, momentum=0.1), torch.nn.BatchNorm1d(3, momentum=0.4))
    batches = [torch.randn(5, 3) * (1 + i) + i for i in range(3)]
    state = {name: value.clone() for name, value in start.state_dict().items()}

    def after(*seen) -> torch.Tensor:
        start.load_state_dict(state)
        for batch in seen:
            start(batch)
        return torch.cat([buffer.flatten().double() for buffer, _ in running_statistics(start)])

    shares = torch.cat([torch.full_like(b.flatten(), s, dtype=torch.float64) for b, s in running_statistics(start)])
    ranks = torch.stack([after(batch) for batch in batches])
    counted = torch.tensor([True, True, True])
    assert torch.allclose(in_turn(after(), ranks, shares, counted), after(*batches), rtol=3e-7, atol=1e-7)
    assert in_turn(after(), ranks, shares, counted)[-1] == 3  # batches counted
    counted = torch.tensor([True, False, True])
    assert torch.allclose(in_turn(after(), ranks, shares, counted), after(*batches[::2]), rtol=3e-7, atol=1e-7)
    start[0].eval()
    assert len(running_statistics(start)) == 3
