"""Publish on the Hugging Face Hub.

    ser-hf push corpus emodb --repo_id user/emodb --data_dir /corpora/emodb

The repository is private unless --public is said, which a corpus whose licence forbids to publish its audio refuses.
"""

import io
import re
import tempfile
from pathlib import Path

from ..errors import SerError
from ..training.run import say
from .console import Parser, corpus_arguments

# Kinds of samples that FLAC holds exactly, and how it calls them. Others are published as the files they are.
LOSSLESS = {"PCM_16": "PCM_16", "PCM_24": "PCM_24", "PCM_U8": "PCM_S8", "PCM_S8": "PCM_S8"}
SIZES = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def as_published(audio: dict | None) -> dict | None:
    """An `audio` value with its bytes and the file's base name: as FLAC where that is lossless, else unchanged.

    Raises:
        SerError: the file is gone.
    """
    import numpy as np
    import soundfile as sf

    if audio is None:
        return None
    name = Path(audio["path"] or "audio")
    try:
        data = audio["bytes"] if audio["bytes"] is not None else name.read_bytes()
    except OSError as error:
        raise SerError(f"{name}: cannot be read ({error.strerror}); the corpus changed meanwhile, push again") from None
    try:
        with sf.SoundFile(io.BytesIO(data)) as file:
            if file.format == "FLAC" or file.subtype not in LOSSLESS:
                return {"bytes": data, "path": name.name}
            rate, subtype = file.samplerate, LOSSLESS[file.subtype]
            samples = file.read(dtype="int32", always_2d=True)
        flac = io.BytesIO()
        sf.write(flac, samples, rate, format="FLAC", subtype=subtype)
        read, read_rate = sf.read(io.BytesIO(flac.getvalue()), dtype="int32", always_2d=True)
    except sf.LibsndfileError:  # a rate or a number of channels that FLAC does not have
        return {"bytes": data, "path": name.name}
    if rate != read_rate or not np.array_equal(read, samples):
        return {"bytes": data, "path": name.name}
    return {"bytes": flac.getvalue(), "path": name.with_suffix(".flac").name}


def _publish_table(table):
    import pyarrow as pa

    column = table.schema.get_field_index("audio")
    values = [as_published(value) for value in table["audio"].to_pylist()]
    return table.set_column(column, "audio", pa.array(values, type=table.schema.field("audio").type))


def publishable(dataset, folder: Path, num_proc: int | None = None):
    """A corpus with its audio inside it and without this machine's paths; kept in `folder` while it is used."""
    arrow = dataset.with_format("arrow")  # decoded rows would need torchcodec (shared/PLATFORM.md 4.4)
    arrow = arrow.map(
        _publish_table,
        batched=True,
        batch_size=100,
        num_proc=num_proc,
        cache_file_name=str(folder / "audio.arrow"),
        desc="reading audio",
    )
    return arrow.with_format(None)


def metadata(card, utterances: int, has_audio: bool) -> dict:
    """YAML of a dataset card; `configs` and `dataset_info` are push_to_hub's."""
    from ..evaluation.report import HUB_LICENCES

    data = {
        "pretty_name": card.title,
        "language": list(card.languages),
        "license": HUB_LICENCES.get(card.licence.lower(), "other"),
        "task_categories": ["audio-classification" if has_audio else "text-classification"],
        "size_categories": [next((name for limit, name in SIZES if utterances < limit), "n>1M")],
        "tags": ["speech-emotion-recognition", "ser_hf"],
    }
    if data["license"] == "other":
        name = re.sub("[^a-z0-9.]+", "-", card.licence.partition(" (")[0].lower())  # the full name is in the text
        data |= {"license_name": name, "license_link": card.homepage}
    return data


SECTION = "## Label set "
FORBIDDEN = """
**The licence does not allow to publish this corpus again: keep this repository private.**
"""
READ_AUDIO = """import io

import soundfile as sf
from datasets import load_dataset

corpus = load_dataset("{repo_id}", "{labels}", split="train")
samples, rate = sf.read(io.BytesIO(corpus[0]["audio"]["bytes"]))"""
READ_TEXT = """from datasets import load_dataset

corpus = load_dataset("{repo_id}", "{labels}", split="train")"""
ABOUT_AUDIO = """`audio` holds the file's bytes: FLAC, bit-equal to the original samples;
files that FLAC cannot hold exactly are unchanged. With torchcodec, `corpus.cast_column("audio", datasets.Audio())`
decodes them. `audio_hash` is equal for equal audio, and `speaker` is the real speaker: keep both apart between training
and test."""


def card_text(card, report, repo_id: str, has_audio: bool, older: str = "") -> str:
    """Markdown of a dataset card: what the corpus is, how to read it, and a section for each label set that was pushed.

    Args:
        card: The `CorpusCard`.
        report: `CorpusReport` of what is pushed.
        repo_id: The repository.
        has_audio: False for a corpus of texts.
        older: The card that the repository has, whose sections on other label sets stay.
    """
    from ..evaluation.report import escape

    rows = [f"{'  - ' if line.startswith('    ') else '- '}{escape(line)}" for line in report.lines()]
    if report.per_label:
        rows += ["", "| label | utterances | officially |", "|---|---|---|"]
        rows += [
            f"| {escape(name)} | {number} | {report.official_per_label.get(name, '-')} |"
            for name, number in report.per_label.items()
        ]
    else:
        rows += ["", f"`label` is a list of numbers ({report.problem_type}): {', '.join(report.label_names)}."]
    section = "\n".join([f"`{report.labels}`", "", *rows])
    sections = {part.partition("\n")[0]: part for part in re.split(f"^{SECTION}", older, flags=re.MULTILINE)[1:]}
    sections[f"`{report.labels}`"] = section
    parts = "\n\n".join(SECTION + sections[name].strip() for name in sorted(sections))
    return f"""
# {escape(card.title)}

{card.notes}
{"" if card.redistributable else FORBIDDEN}
Licence: {escape(card.licence)}. Homepage: {card.homepage}

Cite: {escape(card.citation)}

```python
{(READ_AUDIO if has_audio else READ_TEXT).format(repo_id=repo_id, labels=report.labels)}
```

All utterances are in one split: folds belong to a protocol. Left out are unusable clips, and utterances without a label
of the label set. {ABOUT_AUDIO if has_audio else "`audio` is empty: this corpus has texts only."}

{parts}
"""


def login(repo_id: str) -> None:
    """See that the Hub takes this machine's token, before anything slow.

    Raises:
        SerError: malformed repository name, no or wrong token, Hub not reachable.
    """
    from huggingface_hub import HfApi

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise SerError(f"--repo_id {repo_id}: must be user/name")
    try:
        HfApi().whoami()
    except Exception as error:  # whatever it is, it would fail again after the corpus was read
        raise SerError(f"the Hub does not accept this machine ({_reason(error)}); run `hf auth login`") from None


def _reason(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def claim_repository(repo_id: str, public: bool) -> str:
    """Make the dataset repository if need be; returns its address.

    Raises:
        SerError: it may not be made, or it exists and is not as private (or public) as asked.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        url = api.create_repo(repo_id, repo_type="dataset", private=not public, exist_ok=True)
        private = api.repo_info(repo_id, repo_type="dataset").private
    except HfHubHTTPError as error:
        raise SerError(f"--repo_id {repo_id}: {_reason(error)}") from None
    if private and public:
        raise SerError(f"--public: {repo_id} exists and is private; make it public on the Hub, or leave --public out")
    if not private and not public:
        raise SerError(f"{repo_id} exists and is public: choose another --repo_id, or make it private on the Hub")
    return str(url)


def push_corpus(args) -> str:
    """`ser-hf push corpus`; returns the repository's address."""
    from ..data.loading import corpus_class, find_corpus, label_config, load_corpus

    config, corpus = label_config(args.name, args.labels), corpus_class(args.name)
    card = corpus.CARD
    if args.public and not card.redistributable:
        raise SerError(
            f"--public: {card.title} may not be published again (licence: {card.licence}); "
            "leave --public out to push it to a private repository"
        )
    root = find_corpus(args.name, args.data_dir)
    login(args.repo_id)
    url = claim_repository(args.repo_id, args.public)
    dataset, report = load_corpus(args.name, config.name, args.data_dir, num_proc=args.num_proc, return_report=True)
    say(*report.lines())

    from huggingface_hub import DatasetCard
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    try:
        with tempfile.TemporaryDirectory() as folder:
            publishable(dataset, Path(folder), args.num_proc).push_to_hub(
                args.repo_id,
                config_name=config.name,
                private=not args.public,
                embed_external_files=False,  # there are none any more
                commit_message=f"{card.title}, label set {config.name}",
            )
        has_audio = any(dataset["duration"])
        page = DatasetCard.load(args.repo_id)
        for key, value in metadata(card, len(dataset), has_audio).items():
            page.data[key] = value
        for entry in page.data["configs"]:  # push_to_hub's set_default fails where the only label set is another one
            if entry["config_name"] == corpus.DEFAULT_CONFIG_NAME:
                entry["default"] = True
        page.text = card_text(card, report, args.repo_id, has_audio, page.text)
        if str(root) in str(page):
            raise SerError(f"the dataset card names the local path {root}: not pushed")
        page.push_to_hub(args.repo_id, commit_message="Dataset card")
    except (HfHubHTTPError, EntryNotFoundError) as error:
        raise SerError(f"the Hub refused {args.repo_id}: {_reason(error)}") from None
    return url


def main(argv: list[str]) -> int:
    parser = Parser("push", __doc__)
    what = parser.add_subparsers(dest="what", metavar="WHAT", required=True, help="what to publish")
    doc = "Publish a corpus as parquet with its audio (FLAC, lossless) and a dataset card."
    corpus = what.add_parser("corpus", help=doc, doc=doc)
    corpus_arguments(corpus)
    corpus.add_argument("--repo_id", required=True, help="user/name on the Hub")
    corpus.add_argument("--public", action="store_true", help="for everybody, where the licence allows it")
    args = parser.parse_args(argv)
    say(f"pushed to {push_corpus(args)}")
    return 0
