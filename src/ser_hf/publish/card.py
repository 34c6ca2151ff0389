"""Make a run's model card again, or compare runs in one table.

    ser-hf card runs/emodb_wav2vec2_fold0_seed42
    ser-hf card --compare runs/ravdess_wav2vec2_fold0_seed42 runs/ravdess_classical_fold0_seed42

The card (README.md) and its figures are made from the files of the run: results.json, predictions.parquet and, after
`ser-hf stress`, stress.json. What was written into the card by hand is lost.

--compare needs runs that were tested on the same utterances (the same corpus, labels, protocol and fold). A difference
is the first run's figure minus another's, with a 95 % interval by paired bootstrap over speakers: one that does not
hold 0 is more than chance. `ser-hf compare` does it for cross-validations.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..cli.console import Parser
from ..errors import SerError, one_line
from ..files import hold, named_file, write
from ..training.run import say

if TYPE_CHECKING:
    import pandas as pd


def main(argv: list[str]) -> int:
    parser = Parser("card", __doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="a finished run: its --output_dir")
    parser.add_argument("--repo_id", help="user/name on the Hub, which the card's code loads (default: as it was)")
    parser.add_argument("--compare", action="store_true", help="compare the runs instead of making a card")
    parser.add_argument("--out", metavar="FILE", help="write the comparison to this .md file (default: the screen)")
    args = parser.parse_args(argv)
    if not args.compare and (args.out or len(args.folders) > 1):
        raise SerError(f"{args.out or args.folders[1]}: one card is made in the run's own folder; or give --compare")
    if args.compare and (args.repo_id or len(args.folders) < 2):
        raise SerError(f"--compare {args.folders[0]}: takes two or more runs, and no --repo_id")
    if len({folder.resolve() for folder in args.folders}) < len(args.folders):
        raise SerError(f"--compare {' '.join(map(str, args.folders))}: a run is there twice; name each once")
    out = named_file(args.out, "--out", ".md") if args.out else None
    if out and out.exists() and not out.read_bytes().startswith(b"| system "):
        raise SerError(f"--out {out}: is there and holds no comparison; choose another file")

    from ..evaluation.report import reading
    from ..evaluation.tables import markdown_table, text_table

    runs = {folder: read(folder) for folder in args.folders}
    with reading(" or ".join(map(str, args.folders))):
        if not args.compare:
            say(f"written: {make(args.folders[0], *runs[args.folders[0]], args.repo_id)}")
            return 0
        header, rows = compare(runs)
    if out:
        write(out, markdown_table(header, rows) + "\n")
    say(*text_table(header, rows), *([f"written: {out}"] if out else []))
    return 0


def read(folder: Path) -> "tuple[dict, pd.DataFrame]":
    """The results and predictions of a run. SerError: there are none, or its stress.json is damaged."""
    from ..evaluation.card import read_stress
    from ..evaluation.report import read_run

    results, table = read_run(folder)
    try:
        stress = read_stress(folder)
    except (OSError, ValueError) as error:
        how = "remove it, or give `ser-hf stress` again"
        raise SerError(f"{folder / 'stress.json'}: is damaged ({one_line(error)}); {how}") from None
    return {"training": None, **results, "stress": stress}, table


def make(folder: Path, results: dict, table: "pd.DataFrame", repo_id: str | None) -> Path:
    """Write the card and the figures of a run as files of the run, which a push publishes; returns the card's path."""
    import yaml
    from huggingface_hub import ModelCard

    from ..evaluation.card import write_card
    from ..training.output import saving_run

    hold(folder, str(folder))
    if repo_id is None and (former := folder / "README.md").is_file():
        with suppress(ValueError, yaml.YAMLError):  # a card that was broken by hand
            repo_id = ModelCard(former.read_text()).data.model_name
    with saving_run(folder) as staging:
        write_card(staging, results, table, repo_id)
        if (picture := folder / "figures" / "stress.png").is_file():
            write(staging / "figures" / picture.name, picture.read_bytes())
    return folder / "README.md"


def compare(runs: "dict[Path, tuple[dict, pd.DataFrame]]") -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table with a row per run: its figures, and the differences from the first one's, with paired
    intervals. SerError: a run was tested on other utterances or labels than the first."""
    from datasets import Dataset

    from ..evaluation.report import comparison_table
    from ..evaluation.scoring import compare as paired
    from ..evaluation.scoring import logits_of, truth_of
    from ..evaluation.tables import rows_of

    (first, (results, table)), *others = runs.items()
    names, kind = results["corpus"]["label_names"], results["test"]["problem_type"]
    table = table.set_index("id")
    part = {"label": truth_of(table, names, kind).tolist(), "speaker": table["speaker"].tolist()}
    logits = {first: logits_of(results, table, names, kind)}
    for folder, (theirs, predictions) in others:
        predictions = predictions.set_index("id")
        if theirs["corpus"]["label_names"] != names or theirs["test"]["problem_type"] != kind:
            raise SerError(f"{folder}: has other labels than {first}; compare runs of the same --labels")
        if set(predictions.index) != set(table.index):
            hint = "the same --dataset, --protocol and --fold"
            raise SerError(f"{folder}: was tested on other utterances than {first}; compare runs of {hint}")
        predictions = predictions.loc[table.index]
        if truth_of(predictions, names, kind).tolist() != part["label"]:
            raise SerError(f"{folder}: was tested with other labels of the same utterances than {first}")
        logits[folder] = logits_of(theirs, predictions, names, kind)
    shown = dict(zip(runs, titles(list(runs)), strict=True))
    compared = paired(Dataset.from_dict(part), logits[first], logits, names, kind)
    now = {key: compared[first][key] for key in ("metrics", "intervals")}  # by this version, as theirs
    test = results["test"] | now
    rows = comparison_table({"test": test, "comparisons": {shown[name]: compared[name] for name, _ in others}})
    header, cells = rows_of(rows, "system")
    return header, [[title, *row[1:]] for title, row in zip(shown.values(), cells, strict=True)]


def titles(folders: list[Path]) -> list[str]:
    """Names of runs: their folders', with as many of those above as it takes to tell them apart.

    >>> titles([Path("runs/a/fold0"), Path("runs/b/fold0")])
    ['a/fold0', 'b/fold0']
    """
    parts = [Path(os.path.abspath(folder)).parts for folder in folders]
    lengths = range(1, max(map(len, parts)) + 1)
    depth = next((n for n in lengths if len({one[-n:] for one in parts}) == len(set(parts))), 1)
    return ["/".join(one[-depth:]) for one in parts]
