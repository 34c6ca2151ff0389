"""`--dataset user/name`: what `ser-hf push corpus` published loads as the corpus it was, through the Hub's API."""

import subprocess
import sys

from hub_server import hub_server

CODE = """
import sys
from ser_hf import cli, load_corpus, split
flags = ["--labels", "4class", "--data_dir", sys.argv[1], "--repo_id", "tester/e"]
assert not cli.main(["push", "corpus", "emodb", *flags])
own = load_corpus("emodb", "4class", sys.argv[1])
rows, report = load_corpus("tester/e", "4class", return_report=True)
assert rows.column_names == own.column_names, (rows.column_names, own.column_names)
for column in ("id", "label", "speaker", "text", "duration", "audio_hash", "gender"):
    assert rows[column][:] == own[column][:], column
assert rows.features["label"].names == own.features["label"].names
assert report.corpus == "tester/e" and report.per_label["sad"] == list(own["label"]).count(3)
parts = split(rows, "tester/e")
assert len(parts["train"]) + len(parts["validation"]) + len(parts["test"]) == len(own)
print("EQUAL")
"""


def test_a_pushed_corpus_is_a_dataset_again(fake_corpus, tmp_path):
    with hub_server() as hub:
        done = subprocess.run(
            [sys.executable, "-c", CODE, str(fake_corpus("emodb"))],
            env=hub.env(tmp_path / "home"),
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0 and "EQUAL" in done.stdout, done.stderr[-3000:]
