"""List the corpora: size, label sets, licence, protocols, and which of them are on this machine.

Corpora are searched in $SER_DATA_DIR, or in --data_dir: the folder that holds them, or one of them.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

from ..errors import SerError
from ..evaluation.tables import text_table
from ..training.run import say
from .console import Parser

LABELS = ("name", "problem_type", "label_names", "counts")  # fields of --json
PROTOCOLS = ("name", "source", "speaker_independent")


def inventory(data_dir: str | None = None) -> list[dict]:
    """One dict per corpus: the whole card, `labels`, `protocols`, `generated` (made by the code on first use) and
    `found` (the corpus's folder, or None). SerError: `data_dir` is no folder."""
    from dataclasses import asdict

    from ..data.loading import corpus_class, find_source, list_corpora

    base = data_dir if data_dir is not None else os.environ.get("SER_DATA_DIR")
    if data_dir is not None and not Path(data_dir).expanduser().is_dir():
        raise SerError(f"--data_dir {data_dir}: no such folder; give the folder that holds your corpora")
    corpora = []
    for name in list_corpora():
        corpus = corpus_class(name)
        configs = sorted(corpus.BUILDER_CONFIGS, key=lambda config: config.name != corpus.DEFAULT_CONFIG_NAME)
        facts = {"name": name, **asdict(corpus.CARD)}
        facts["labels"] = [{key: getattr(config, key) for key in LABELS} for config in configs]
        facts["protocols"] = [{key: getattr(p, key) for key in PROTOCOLS} for p in corpus.protocols().values()]
        facts["generated"] = "generate" in vars(corpus)
        facts["found"] = None
        if base is not None:
            with suppress(SerError, OSError):  # not there; or damaged or not readable, and `ser-hf check` says how
                facts["found"] = str(find_source(name, data_dir=base).root)
        corpora.append(facts)
    return corpora


def lines(corpora: list[dict]) -> list[str]:
    """The table, and below it the folders of the corpora on this machine."""
    rows = [
        {
            "name": corpus["name"],
            "lang": " ".join(corpus["languages"]),
            "utts": corpus["utterances"],
            "hours": "-" if corpus["hours"] is None else f"{corpus['hours']:.2f}",
            "spk": corpus["speakers"] or "-",
            "labels": " ".join(config["name"] for config in corpus["labels"]),
            "licence": corpus["licence"].partition(" (")[0],
            "protocols": " ".join(p["name"] + "*" * (not p["speaker_independent"]) for p in corpus["protocols"]),
            "here": "made" if corpus["generated"] else "yes" if corpus["found"] else "no",
        }
        for corpus in corpora
    ]
    out = text_table(list(rows[0]), [list(row.values()) for row in rows])
    out += [
        "",
        "utts: utterances, spk: speakers. The first label set and the first protocol are the defaults.",
        "*: a protocol that leaks speakers between train and test.",
    ]
    out += [f"  {corpus['name']}: {corpus['found']}" for corpus in corpora if corpus["found"]]
    if any(corpus["generated"] for corpus in corpora):
        out.append("  made: the code makes it on first use")
    if not any(corpus["found"] for corpus in corpora):
        base = os.environ.get("SER_DATA_DIR")
        out.append(f"None is here: $SER_DATA_DIR is {base or 'not set'}; set it to the folder that holds the corpora.")
    return out


def main(argv: list[str]) -> int:
    parser = Parser("corpora", __doc__)
    parser.add_argument("--data_dir", help="folder that holds the corpora, instead of $SER_DATA_DIR")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    args = parser.parse_args(argv)
    corpora = inventory(args.data_dir)
    say(json.dumps(corpora, indent=2, ensure_ascii=False)) if args.json else say(*lines(corpora))
    return 0
