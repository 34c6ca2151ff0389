"""Classify one clip with a trained model, through transformers alone, as anyone would who was given the folder.

    python recipes/try_model.py runs/demo
    python recipes/try_model.py runs/demo some.wav

Without a file, the first test utterance of the run is taken from the demo corpus.
"""

import sys
from pathlib import Path

from ser_hf.errors import SerError
from ser_hf.training import run


def main() -> None:
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        raise SerError(f"usage: {Path(sys.argv[0]).name} MODEL_FOLDER [FILE]")
    import pandas as pd
    import soundfile
    from transformers import pipeline

    folder, row = Path(sys.argv[1]), {"label": "not given"}
    if not (folder / "config.json").is_file():
        raise SerError(f"{folder}: no model there; train one, for instance with `make demo`")
    if len(sys.argv) == 3:
        file = sys.argv[2]
    else:
        from ser_hf import load_corpus

        predictions = pd.read_parquet(folder / "predictions.parquet")
        row = predictions.iloc[0]
        corpus = load_corpus("demo")
        file = corpus[corpus["id"].index(row["id"])]["audio"]["path"]
    samples, rate = soundfile.read(file, dtype="float32", always_2d=True)

    classify = pipeline("audio-classification", model=str(folder))
    answer = classify({"array": samples.mean(axis=1), "sampling_rate": rate}, top_k=None)

    run.say(f'pipeline("audio-classification", model="{folder}") on {Path(file).name} (labelled {row["label"]}):')
    run.say(*(f"  {entry['label']:<12} {entry['score']:.3f}" for entry in answer))


if __name__ == "__main__":
    run.cli(main)
