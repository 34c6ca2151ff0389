"""The README's Python, run as it stands but for the names of folders and of the checkpoint."""

import re

from conftest import REPO, TINY


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (REPO / "README.md").read_text(), re.M | re.S)


def test_fifteen_lines_train_without_a_recipe(fake_corpus, tmp_path):
    from transformers import AutoConfig, AutoModel, Wav2Vec2FeatureExtractor

    encoder = AutoModel.from_config(AutoConfig.for_model("wav2vec2", **TINY))
    encoder.save_pretrained(tmp_path / "encoder")
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(tmp_path / "encoder")
    code = next(block for block in blocks() if "SerTrainer" in block)
    for name, here in (
        ("/corpora/emodb", str(fake_corpus("emodb"))),
        ("facebook/wav2vec2-base", str(tmp_path / "encoder")),
        ("runs/mine", str(tmp_path / "run")),
        ("num_train_epochs=15", "num_train_epochs=1, use_cpu=True, disable_tqdm=True"),
    ):
        assert code.count(name) == 1, name
        code = code.replace(name, here)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    metrics = names["trainer"].predict(names["parts"]["test"]).metrics
    assert set(names["parts"]["train"]["speaker"]).isdisjoint(names["parts"]["test"]["speaker"])
    assert 0 <= metrics["test_uar"] <= 1 and metrics["test_loss"] > 0
