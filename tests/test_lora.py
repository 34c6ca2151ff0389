"""LoRA: trained = merged = reloaded on the base, for every kind of model; through the recipes, resumed and pushed."""

import json
import os
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, Wav2Vec2FeatureExtractor

import warm
from conftest import REPO, TINY, run_recipe, tiny_config, tiny_flags
from hub_server import hub_server
from ser_hf import SerError
from ser_hf.models import SerConfig, SerForAudioClassification, SerFusionConfig, SerFusionForClassification
from ser_hf.models.encoders import ENCODERS, example
from ser_hf.training.lora import add_lora, head_modules, save_adapter, with_lora
from ser_hf.training.saved_model import save_model, to_stock
from ser_hf.training.settings import LoraArguments

TINY_BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SHORT = ("--max_steps", "6", "--eval_strategy", "steps", "--save_strategy", "steps", "--eval_steps", "3")
SHORT += ("--save_steps", "3", "--save_total_limit", "5", "--use_cpu", "true", "--disable_tqdm", "true")
SHORT += ("--config", "none", "--learning_rate", "1e-2", "--adam_epsilon", "1e-5")


def flags(**changes) -> LoraArguments:
    return LoraArguments(**({"lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0} | changes))


def text_model(kind: str, **config):
    config = AutoConfig.for_model(kind, vocab_size=50, num_labels=3, **config)
    return AutoModelForSequenceClassification.from_config(config).eval(), {"input_ids": torch.arange(3, 12)[None]}


def bert():
    return text_model("bert", **TINY_BERT)


def distilbert():
    return text_model("distilbert", dim=16, n_layers=1, n_heads=2, hidden_dim=32)


def mean_pooled(**head):
    config = SerConfig(audio_config=AutoConfig.for_model("wav2vec2", **TINY), head_size=8, num_labels=3, **head)
    return SerForAudioClassification(config).eval(), {"input_values": torch.randn(1, 8000)}


def attentive():
    return mean_pooled(pooling="attentive", head="mlp", layer_mix="sum")


def fusion():
    config = SerFusionConfig(
        audio_config=AutoConfig.for_model("wav2vec2", **TINY),
        text_config=AutoConfig.for_model("bert", **TINY_BERT, vocab_size=50),
        fusion="cross_attention",
        head_size=8,
        num_labels=3,
    )
    inputs = {"input_values": torch.randn(1, 8000), "input_ids": torch.arange(3, 12)[None]}
    return SerFusionForClassification(config).eval(), inputs


KINDS = {
    bert: (["classifier", "pooler"], {"query", "value"}),
    distilbert: (["classifier", "pre_classifier"], {"q_lin", "v_lin"}),
    mean_pooled: (["ser_classifier", "ser_projector"], {"q_proj", "v_proj"}),
    attentive: (None, {"q_proj", "v_proj"}),
    fusion: (["ser_audio", "ser_classifier", "ser_fusion", "ser_text"], {"q_proj", "v_proj", "query", "value"}),
}


@pytest.mark.parametrize("kind", [kind for kind, entry in ENCODERS.items() if entry.lora])
def test_adapters_of_every_encoder_are_trained(kind):
    """WavLM's attention reads weights without calling its layers: adapters on its projections would have no effect."""
    config = SerConfig(audio_config=tiny_config(kind), head_size=8, num_labels=3)
    model = add_lora(SerForAudioClassification(config).eval(), r=2)
    model(**{ENCODERS[kind].input_name: example(config.audio_config, 2)}, labels=torch.tensor([0, 2])).loss.backward()
    adapters = {name: weight.grad for name, weight in model.named_parameters() if "lora_B" in name}
    assert len(adapters) >= 2 and all(grad is not None and grad.abs().max() > 0 for grad in adapters.values())


def head_of_its_own(model):
    """A stock model with another random head: the adapter brings the trained one."""
    for weight in (*model.projector.parameters(), *model.classifier.parameters()):
        torch.nn.init.normal_(weight)
    return model


def test_batch_norm_is_frozen_with_the_encoder(tmp_path):
    """A conformer's statistics are in no adapter: training would leave the adapter alone with others than merged."""
    torch.manual_seed(0)
    config = SerConfig(audio_config=tiny_config("wav2vec2-conformer"), head_size=8, num_labels=3, pooling="max")
    model = SerForAudioClassification(config)
    base = SerForAudioClassification(config)
    base.load_state_dict(model.state_dict())
    model, inputs = add_lora(model, r=2).train(), {"input_values": torch.randn(4, 8000)}
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    for _ in range(3):
        model(**inputs, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        optimizer.step()
    buffers = {name: value for name, value in model.eval().named_buffers() if "running" in name}
    assert buffers and all(set(value.unique().tolist()) <= {0.0, 1.0} for value in buffers.values())
    with torch.no_grad():
        start, trained = base.eval()(**inputs).logits, model(**inputs).logits
        merged = save_adapter(model, tmp_path, None)(**inputs).logits
        alone = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(**inputs).logits
    assert (trained - start).abs().max() > 1e-3
    assert (alone - trained).abs().max() < 1e-5 and (merged - trained).abs().max() < 1e-5


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
@torch.no_grad()
def test_trained_is_merged_is_reloaded(make, tmp_path):
    torch.manual_seed(0)
    model, inputs = make()
    heads, targets = KINDS[make]
    base = type(model)(model.config).eval()
    base.load_state_dict(model.state_dict())
    assert heads is None or head_modules(model) == heads
    model = with_lora(model, flags())
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name in trained if ".lora_" in name}
    assert adapted == targets
    for name in trained - {name for name in trained if ".lora_" in name}:  # and in full the head alone
        assert ".modules_to_save." in name and any(f".{head}" in name for head in head_modules(base)), name
    for name, weight in model.named_parameters():
        if name in trained:
            weight += 0.1 * torch.randn_like(weight)
    logits = model(**inputs).logits
    assert (logits - base(**inputs).logits).abs().max() > 1e-3

    merged = save_adapter(model, tmp_path, str(tmp_path))
    assert type(merged) is type(base) and {*merged.state_dict()} == {*base.state_dict()}
    assert (merged(**inputs).logits - logits).abs().max() < 1e-5
    assert sorted(os.listdir(tmp_path / "adapter")) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "" and str(tmp_path) not in json.dumps(config)
    save_model(merged, Wav2Vec2FeatureExtractor(), tmp_path / "published")
    if make is mean_pooled:  # published as a stock class, whose modules' names the adapter has
        with torch.random.fork_rng():
            base = head_of_its_own(to_stock(base))
        with pytest.raises(ValueError, match="[Tt]arget modules"):  # not in silence without an effect
            PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "published"), tmp_path / "adapter")
    again = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert (again(**inputs).logits - logits).abs().max() < 1e-5


def test_off_is_the_model_itself():
    model, _ = bert()
    assert with_lora(model, flags(lora_r=0)) is model and save_adapter(model, Path("/nowhere"), "x") is model


def test_named_layers_and_layers_that_are_not_there():
    model = with_lora(bert()[0], flags(lora_target=["dense", "key"]))
    names = {name.split(".lora_")[0].rpartition(".")[2] for name, _ in model.named_parameters() if ".lora_" in name}
    assert names == {"dense", "key"}
    assert not any("pooler" in name for name, _ in model.named_parameters() if ".lora_" in name)  # trained in full
    with pytest.raises(
        SerError, match="--lora_target q_proj: no such layer in BertFor.* choose --lora_target from dense"
    ):
        with_lora(bert()[0], flags(lora_target=["q_proj"]))


def iemocap(fake_corpus, out, *more) -> list[str]:
    data = ("--dataset", "iemocap", "--data_dir", fake_corpus("iemocap"), "--labels", "4class", "--batch_tokens", "64")
    return list(map(str, (*data, *SHORT, "--output_dir", out, "--lora_r", "4", "--lora_dropout", "0.1", *more)))


def here(recipe: str, *given) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{recipe}.py", *map(str, given)])
        runpy.run_path(str(REPO / "recipes" / f"{recipe}.py"), run_name="__main__")


LOAD = """
import json, sys
sys.modules["ser_hf"] = None  # importing this project is an error in this process
import torch
from peft import PeftModel
from huggingface_hub import hf_hub_download
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
repo, text = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(repo)
card = open(hf_hub_download(repo, "README.md")).read()
exec(card.split("The LoRA adapter alone")[1].split("```python")[1].split("```")[0])  # as anyone would
adapted = model.eval()
with torch.no_grad():
    scores = adapted(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0].tolist()
answer = {entry["label"]: entry["score"] for entry in pipeline("text-classification", model=repo)(text, top_k=None)}
config = AutoModelForSequenceClassification.from_pretrained(repo).config
print("RESULT" + json.dumps([scores, [answer[config.id2label[i]] for i in range(4)]]))
"""


@pytest.fixture(scope="module")
def base_files(tmp_path_factory):
    """A small BERT without a head, as a checkpoint on the Hub is: file names to bytes."""
    from transformers import AutoModel

    from ser_hf.training.text_model import train_tokenizer

    folder = tmp_path_factory.mktemp("base")
    config = AutoConfig.for_model("bert", **TINY_BERT, initializer_range=0.2)
    config, tokenizer = train_tokenizer(["Synthetic line 0 1 2 3 4 5 6"] * 5, config, 60)
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.slow
def test_text_recipe_resumes_and_pushes_the_adapter(fake_corpus, base_files, tmp_path):
    folder, files = base_files
    home = tmp_path / "home"
    with hub_server() as hub:
        hub.add_repo("someone/tiny-bert", files)
        repo, run = f"{hub.user}/emotion-lora", tmp_path / "whole"
        push = ("--push_to_hub", "true", "--hub_model_id", repo, "--model_name_or_path", "someone/tiny-bert")
        done = run_recipe("text_cls", *iemocap(fake_corpus, run, *push), env=hub.env(home / "pusher"))
        assert done.returncode == 0, done.stderr[-3000:]
        text = "Synthetic line 3."
        done = warm.python("-c", LOAD, repo, text, env=hub.env(home / "stranger"), cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        adapted, merged = json.loads(done.stdout.split("RESULT")[1])
        pushed = hub.files(repo)
        assert not hub.unknown and not hub.errors
    assert adapted == pytest.approx(merged, abs=1e-5)
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "model.safetensors"} <= set(pushed)
    assert not any("checkpoint" in name for name in pushed)
    config = json.loads(pushed["adapter/adapter_config.json"])
    assert config["base_model_name_or_path"] == "someone/tiny-bert"
    assert all(str(tmp_path).encode() not in content for content in pushed.values())

    # the encoder's own weights are the checkpoint's, but for those with an adapter
    before, after = load_file(folder / "model.safetensors"), load_file(run / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[f"bert.{name}"])}
    assert changed and all(".query." in name or ".value." in name or name.startswith("pooler") for name in changed)

    resumed = tmp_path / "resumed"
    shutil.copytree(run / "checkpoint-3", resumed / "checkpoint-3")
    more = ("--resume_from_checkpoint", "true", "--model_name_or_path", folder)
    here("text_cls", *iemocap(fake_corpus, resumed, *more))
    again = load_file(resumed / "model.safetensors")
    for name in after:
        assert (after[name] - again[name]).abs().max() <= 1e-6, name
    one, two = (pd.read_parquet(place / "predictions.parquet").filter(like="score_") for place in (run, resumed))
    assert np.abs(one.to_numpy() - two.to_numpy()).max() <= 1e-6
    config = json.loads((resumed / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == ""  # a folder of this machine is nobody's business


def test_audio_recipe_saves_the_merged_stock_model(fake_corpus, tmp_path):
    import soundfile as sf
    from transformers import pipeline

    data = ("--dataset", "emodb", "--data_dir", fake_corpus("emodb"), "--labels", "4class")
    data += ("--protocol", "speaker-folds", "--max_steps", "4", "--eval_strategy", "steps", "--eval_steps", "2")
    out = ("--save_strategy", "steps", "--save_steps", "2", "--output_dir", tmp_path / "out", "--lora_r", "2")
    here("wav2vec2_cls", *data, *tiny_flags(), *out)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["model"]["stock"]
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["classifier", "projector"] and config["r"] == 2
    table = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    classify = pipeline("audio-classification", model=str(tmp_path / "out"))
    for _, row in table.iloc[:3].iterrows():
        samples, rate = sf.read(fake_corpus("emodb") / "wav" / f"{row['id']}.wav", dtype="float32")
        for entry in classify({"array": samples, "sampling_rate": rate}, top_k=None):
            assert entry["score"] == pytest.approx(row[f"score_{entry['label']}"], abs=1e-4)


def test_fusion_recipe_saves_the_merged_model(fake_corpus, base_files, tmp_path):
    from transformers import AutoModelForAudioClassification, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    Wav2Vec2Model(AutoConfig.for_model("wav2vec2", **TINY)).save_pretrained(tmp_path / "audio")
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(tmp_path / "audio")
    data = ("--dataset", "iemocap", "--data_dir", fake_corpus("iemocap"), "--audio_model", tmp_path / "audio")
    data += ("--text_model", base_files[0], "--freeze_encoders", "false", "--lora_r", "2", "--head_size", "8")
    here("fusion_cls", *data, *SHORT, "--output_dir", tmp_path / "out", "--modality_dropout", "0")
    model = AutoModelForAudioClassification.from_pretrained(tmp_path / "out")
    assert not any("lora" in name for name, _ in model.named_modules())
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "" and "ser_fusion" in config["modules_to_save"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert str(tmp_path) not in card and "fine-tuned by LoRA of rank 2" in card
