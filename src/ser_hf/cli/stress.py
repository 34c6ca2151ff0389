"""Stress a model: is it right, does it bear noise, codecs and changes that nobody hears, is it fair?

    ser-hf stress runs/ravdess_wav2vec2_fold0_seed42 --dataset ravdess --data_dir /corpora/RAVDESS
    ser-hf stress superb/wav2vec2-base-superb-er --dataset iemocap --fold 0 --out superb_on_iemocap

The clips are changed (white, pink and babble noise, telephone and codecs, reverberation, tilt, silence; gain, zeros,
dither and filters so small that nobody hears them), and the report says which share of the predictions stays and what
becomes of UAR. Groups of speakers (gender, age, language, pitch, sentences) are compared: a gap counts only beyond what
a random model with the same mistakes reaches by chance (Derington et al., arXiv 2312.06270).

A run of ours is scored on the test speakers of its own fold; on a corpus that it was not trained on, and any other
model, on the whole corpus or on --fold. Written are stress.json, stress.md and figures/stress.png, in the run's folder
or in --out. The same command continues after an interruption: scores are cached.

Exit status 0: every small change keeps 95 % of the predictions; 1: one does not; 2: a mistake in the command.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SerError
from ..files import check_writable, hold, without_path, write
from ..training.run import say
from .console import Parser, check_outside, columns_of, corpus_arguments, natural
from .predict import fingerprint, load

if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.loading import Source

PARTS = ("test", "all")


def main(argv: list[str]) -> int:
    parser = Parser("stress", __doc__)
    parser.add_argument("model", metavar="MODEL", help="the folder of a run, or the Hub id of any audio classifier")
    corpus_arguments(parser, "--dataset")
    parser.add_argument("--part", choices=PARTS, help="all: also what the run was trained on (default: its test fold)")
    parser.add_argument("--protocol", help="whose fold, for a model that was not trained on the corpus")
    parser.add_argument("--fold", type=natural, help="score the test part of this fold alone, for such a model")
    kinds = ("small", "noise", "channel", "room", "tilt", "silence", "none")
    parser.add_argument("--changes", nargs="+", choices=kinds, help="make only these kinds of changes (default: all)")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the model")
    parser.add_argument("--out", metavar="FOLDER", help="write the report there (default: MODEL, if it is a folder)")
    args = parser.parse_args(argv)
    folder = Path(args.model).expanduser()
    if args.out is None and not folder.is_dir():
        raise SerError(f"{args.model}: is no folder of this machine; name a folder for the report by --out")
    out = Path(args.out).expanduser() if args.out else folder
    if args.protocol and args.fold is None:
        raise SerError(f"--protocol {args.protocol}: does nothing without --fold")
    if "none" in (chosen := args.changes or []) and len(chosen) > 1:
        raise SerError("--changes none: makes no change, so that the others do nothing; leave them out")

    from ..data.loading import find_source
    from ..data.loading import load as load_source
    from ..evaluation.perturbations import CHANGES
    from ..evaluation.report import reading
    from ..evaluation.stress import clip_options, files, section, stress
    from ..training.output import read_record, write_record
    from ..training.provenance import results_of

    results, columns = results_of(args.model), columns_of(args)
    source = find_source(args.name, args.labels, args.data_dir, args.protocol, columns)
    own = results.get("corpus", {})
    if args.labels is None and own.get("corpus") == source.shown:
        source = find_source(args.name, own.get("labels"), args.data_dir, args.protocol, columns)
    if args.out:
        check_outside(source, out, "--out")
    with reading(args.model):
        clips = clip_options(results)
    check_writable(out, "--out" if args.out else "MODEL", "stress.json", "stress.md")
    hold(out, f"--out {args.out}" if args.out else args.model)
    pipe = load(args.model, args.trust_remote_code, flag="MODEL")
    corpus, report = load_source(source, num_proc=args.num_proc)
    if corpus["audio_hash"][0] is None:
        raise SerError(f"--dataset {args.name}: has no audio")
    say(*report.lines())
    rows, part = choose(args, source, corpus)
    whole = "all clips" + (", TRAINING CLIPS INCLUDED" if args.part == "all" else "")
    say("scored: " + (whole if part["fold"] is None else f"the test part of {part['protocol']} fold {part['fold']}"))
    changes = [change for change in CHANGES if not chosen or change.kind in chosen]
    found = stress(pipe, rows, corpus, fingerprint(pipe.model), changes, **clips)
    about = {"model": without_path(args.model), "corpus": source.shown, "labels": source.config.name, **part}
    written = files(about, found)
    for file, content in written.items():
        write(out / file, content)
    if record := read_record(out):  # what a run has written is published with it, and removed with it
        sizes = {file: (out / file).stat().st_size for file in written}
        write_record(out, record["trained_on"], record["files"] | sizes)
    say("", section(found), f"written: {', '.join(map(str, (out / file for file in written)))}")
    return 1 if found["reached"] is False else 0


def choose(args: argparse.Namespace, source: "Source", corpus: "Dataset") -> "tuple[Dataset, dict]":
    """The rows to score, and their `protocol`, `fold` and `part`. Raises SerError: a flag that does nothing for this
    model, no such fold, or the run was trained on what would be scored."""
    from ..data.cache import content_hash
    from ..data.loading import find_protocol
    from ..data.splits import folds_of
    from ..training.provenance import corpora_of, trainings_of

    own = [one for one in trainings_of(args.model) if source.shown in corpora_of(one)]
    everything = {"protocol": None, "fold": None, "part": "all"}
    if not own:
        if args.part:
            problem = f"{args.model} was not trained on {source.shown}, as far as is known, and all of it is scored"
            raise SerError(f"--part {args.part}: {problem}; leave it out, or name a --fold")
        if args.fold is None:
            return corpus, everything
        tests = folds_of(corpus, source.protocol)
        if args.fold >= len(tests):
            raise SerError(f"--fold {args.fold}: {source.protocol.name!r} has folds 0 to {len(tests) - 1}")
        return corpus.select(tests[args.fold]), {"protocol": source.protocol.name, "fold": args.fold, "part": "test"}
    if args.fold is not None:
        raise SerError(f"--fold {args.fold}: {args.model} was trained on {source.shown}, its own fold is scored")
    if args.part == "all":
        return corpus, everything
    instead = "--part all scores it all the same"
    if any(source.shown in one["added"] for one in own):
        raise SerError(f"{args.model} was trained on all of {source.shown}; {instead}")
    name, fold, seed = (own[0][key] for key in ("protocol", "fold", "split_seed"))
    rows = corpus.select(folds_of(corpus, find_protocol(source.name, name, corpus), seed)[fold])
    speakers = content_hash(*sorted({str(speaker) for speaker in rows["speaker"][:]}))
    if content_hash(*sorted(rows["id"][:])) != own[0]["test_ids"] and speakers != own[0]["test_speakers"]:
        problem = f"fold {fold} of {name} has other clips and speakers than the test of {args.model}"
        raise SerError(f"--dataset {args.name}: {problem}; give the corpus and --labels of the run; {instead}")
    return rows, {"protocol": name, "fold": fold, "part": "test"}
