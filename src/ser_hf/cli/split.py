"""Write the folds of a protocol: `<out>/<corpus>_<protocol>_fold<n>.csv` with id, part, speaker and label.

The files hold no path: you may share them with others who have the corpus. Vector labels have one column for each
of their values, by its name, instead of `label`.
"""

from pathlib import Path

from ..evaluation.tables import text_table
from ..files import claim, write
from ..training.arguments import converter
from ..training.run import say
from .console import Parser, check_outside, columns_of, corpus_arguments, natural


def fold_csv(splits: dict, label_names: list[str]) -> str:
    """One fold (a `DatasetDict`) as csv, in the order train, validation, test; `label_names` in index order."""
    import pandas as pd
    from datasets import ClassLabel

    columns = ["id", "speaker", "label"]
    parts = [rows.select_columns(columns).to_pandas().assign(part=part) for part, rows in splits.items()]
    table = pd.concat(parts, ignore_index=True)
    if isinstance(splits["train"].features["label"], ClassLabel):
        labels = pd.DataFrame({"label": [label_names[label] for label in table["label"]]})
    else:
        labels = pd.DataFrame([vector.tolist() for vector in table["label"]], columns=label_names)
    return table[["id", "part", "speaker"]].join(labels).to_csv(index=False, lineterminator="\n")


def main(argv: list[str]) -> int:
    parser = Parser("split", __doc__)
    corpus_arguments(parser)
    parser.add_argument("--protocol", help="protocol of the corpus (default: its first one)")
    parser.add_argument("--out", default="folds", help="folder to write the csv files to (default: folds)")
    text = "part of train that becomes validation, at least 0 and below 1 (default: 0.2)"
    below_one = converter(float, {"least": 0, "below": 1})
    parser.add_argument("--validation_fraction", type=below_one, default=0.2, help=text)
    text = "seed that draws validation speakers (default: 42)"
    parser.add_argument("--split_seed", type=natural, default=42, help=text)
    args = parser.parse_args(argv)

    from ..data.loading import find_source, load
    from ..data.splits import check_disjoint, find_leaks, folds_of, split

    source = find_source(args.name, args.labels, args.data_dir, args.protocol, columns_of(args))
    protocol = source.protocol
    out = Path(args.out).expanduser()
    check_outside(source, out, "--out")
    claim(out, f"--out {args.out}")

    corpus, report = load(source, num_proc=args.num_proc)
    files, rows, shared = {}, [], set()
    for fold in range(len(folds_of(corpus, protocol, args.split_seed))):
        splits = split(corpus, source.shown, protocol, fold, args.validation_fraction, args.split_seed)
        check_disjoint(splits, protocol.speaker_independent, protocol.validation, protocol.hint)
        shared |= {speaker for leak in find_leaks(splits) for speaker in leak.speakers}
        path = out / f"{source.stem}_{protocol.name}_fold{fold}.csv"
        files[path] = fold_csv(splits, report.label_names)
        sizes = [size for part in splits.values() for size in (len(part), len(set(part["speaker"][:]) - {None}))]
        rows.append([fold, *sizes, path.name])
    for path, text in files.items():  # all of them or none
        write(path, text)
    warnings = []
    if not protocol.speaker_independent and not shared:
        warnings = ["NOT speaker-independent: the speakers are unknown"]
    elif not protocol.speaker_independent:
        warnings = [f"LEAKS SPEAKERS by construction: its parts share {len(shared)} speakers"]
    elif shared:  # checked above: only train and validation do
        warnings = [f"validation shares {len(shared)} speakers with train and holds out their {protocol.validation}"]
    say(
        *report.lines(),
        f"{protocol.name}: {protocol.source}",
        *warnings,
        "",
        *text_table(["fold", "train", "speakers", "validation", "speakers", "test", "speakers", "file"], rows),
        "",
        f"{len(files)} files in {args.out}",
    )
    return 0
