"""List the corpora: size, label sets, licence, protocols, and which of them are on this machine.

Corpora are looked for in $SER_DATA_DIR, or in --data_dir: the folder that holds them, or one of them.
"""

import json
import os
from pathlib import Path

from ..errors import SerError
from ..evaluation.tables import text_table
from ..training.run import say
from .console import Parser


def inventory(data_dir: str | None = None) -> list[dict]:
    """One dict a corpus: the whole card, `labels`, `protocols`, `generated` (made by the code when used) and `found`
    (the corpus's folder, or None).

    Raises:
        SerError: `data_dir` is no folder.
    """
    from dataclasses import asdict

    from ..data.loading import corpus_class, list_corpora
    from ..data.splits import protocols_of

    base = data_dir if data_dir is not None else os.environ.get("SER_DATA_DIR")
    if data_dir is not None and not Path(data_dir).expanduser().is_dir():
        raise SerError(f"--data_dir {data_dir}: no such folder; give the folder that holds your corpora")
    corpora = []
    for name in list_corpora():
        corpus = corpus_class(name)
        default_first = sorted(corpus.BUILDER_CONFIGS, key=lambda c: c.name != corpus.DEFAULT_CONFIG_NAME)
        corpora.append(
            {
                "name": name,
                **asdict(corpus.CARD),
                "labels": [
                    {
                        "name": config.name,
                        "problem_type": config.problem_type,
                        "label_names": config.label_names,
                        "counts": config.counts,
                    }
                    for config in default_first
                ],
                "protocols": [
                    {"name": p.name, "source": p.source, "speaker_independent": p.speaker_independent}
                    for p in protocols_of(name).values()
                ],
                "generated": "generate" in vars(corpus),
                "found": _find(name, corpus, base),
            }
        )
    return corpora


def _find(name: str, corpus, base: str | None) -> str | None:
    if base is None:
        return None
    folder = Path(base).expanduser().absolute()
    # By its own folder first: the base as a whole is only searched one or two levels deep.
    for place in (*(folder / known for known in dict.fromkeys((name, *corpus.CARD.folders))), folder):
        try:
            if place.is_dir() and (root := corpus.root(place)):
                return str(root)
        except (SerError, OSError):  # damaged or not readable: `ser-hf check` says how
            continue
    return None


def lines(corpora: list[dict]) -> list[str]:
    """The table, and below it where corpora were found."""
    header = ["name", "lang", "utts", "hours", "spk", "labels", "licence", "protocols", "here"]
    rows = []
    for corpus in corpora:
        here = "made" if corpus["generated"] else "yes" if corpus["found"] else "no"
        rows.append(
            [
                corpus["name"],
                " ".join(corpus["languages"]),
                corpus["utterances"],
                "-" if corpus["hours"] is None else f"{corpus['hours']:.2f}",
                corpus["speakers"] or "-",
                " ".join(config["name"] for config in corpus["labels"]),
                corpus["licence"].partition(" (")[0],
                " ".join(p["name"] + "*" * (not p["speaker_independent"]) for p in corpus["protocols"]),
                here,
            ]
        )
    out = text_table(header, rows)
    out += [
        "",
        "utts: utterances, spk: speakers. The first label set and the first protocol are the defaults.",
        "*: a protocol that leaks speakers between train and test.",
    ]
    out += [f"  {corpus['name']}: {corpus['found']}" for corpus in corpora if corpus["found"]]
    if any(corpus["generated"] for corpus in corpora):
        out.append("  made: the code makes it when it is used")
    if not any(corpus["found"] for corpus in corpora):
        base = os.environ.get("SER_DATA_DIR")
        out.append(f"None was found: $SER_DATA_DIR is {base or 'not set'}; it names the folder that holds the corpora.")
    return out


def main(argv: list[str]) -> int:
    parser = Parser("corpora", __doc__)
    parser.add_argument("--data_dir", help="folder that holds the corpora, instead of $SER_DATA_DIR")
    parser.add_argument("--json", action="store_true", help="everything, for machines")
    args = parser.parse_args(argv)
    corpora = inventory(args.data_dir)
    say(json.dumps(corpora, indent=2, ensure_ascii=False)) if args.json else say(*lines(corpora))
    return 0
