"""Publish on the Hugging Face Hub.

    ser-hf push corpus emodb --repo_id user/emodb --data_dir /corpora/emodb

The repository is private unless you pass --public, which is refused if the licence forbids publishing the audio.
"""

import io
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SerError
from ..training.run import say
from .console import Parser, corpus_arguments

if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.corpus import CorpusReport
    from ..data.loading import Source
    from ..data.schema import CorpusCard

# Sample types that FLAC stores exactly, and its names of them. Files of other types are published unchanged.
LOSSLESS = {"PCM_16": "PCM_16", "PCM_24": "PCM_24", "PCM_U8": "PCM_S8", "PCM_S8": "PCM_S8"}
SIZES = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def as_published(audio: dict | None) -> dict | None:
    """An `audio` value with its bytes and the file's base name: as FLAC if that is lossless, else unchanged. SerError:
    the file is gone."""
    import numpy as np
    import soundfile as sf

    from ..data.audio import cut, whole

    if audio is None:
        return None
    file, start, end = whole(audio["path"] or "audio")
    name = Path(file)
    try:
        data = audio["bytes"] if audio["bytes"] is not None else name.read_bytes()
        if start is not None:
            data = cut(name, start, end)
    except OSError as error:
        raise SerError(f"{name}: cannot be read ({error.strerror}); the corpus changed meanwhile, push again") from None
    flac = io.BytesIO()
    try:
        with sf.SoundFile(io.BytesIO(data)) as file:
            if file.format != "FLAC" and file.subtype in LOSSLESS:
                samples, rate = file.read(dtype="int32", always_2d=True), file.samplerate
                sf.write(flac, samples, rate, format="FLAC", subtype=LOSSLESS[file.subtype])
                read, read_rate = sf.read(io.BytesIO(flac.getvalue()), dtype="int32", always_2d=True)
                if rate == read_rate and np.array_equal(read, samples):
                    return {"bytes": flac.getvalue(), "path": name.with_suffix(".flac").name}
    except sf.LibsndfileError:  # a rate or a number of channels that FLAC does not have
        pass
    return {"bytes": data, "path": name.name}


def _publish_table(table):
    import pyarrow as pa

    column = table.schema.get_field_index("audio")
    values = [as_published(value) for value in table["audio"].to_pylist()]
    return table.set_column(column, "audio", pa.array(values, type=table.schema.field("audio").type))


def publishable(dataset: "Dataset", folder: Path, num_proc: int | None = None) -> "Dataset":
    """A corpus with the bytes of its audio instead of this machine's paths. Its table is written to `folder`."""
    arrow = dataset.with_format("arrow")  # `Audio.encode_example` of datasets 5.2 imports torchcodec
    options = {"batch_size": 100, "num_proc": num_proc, "cache_file_name": str(folder / "audio.arrow")}
    return arrow.map(_publish_table, batched=True, desc="reading audio", **options).with_format(None)


def metadata(card: "CorpusCard", utterances: int, has_audio: bool) -> dict:
    """Metadata of a dataset card, without `configs` and `dataset_info`, which push_to_hub writes."""
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


def card_text(card: "CorpusCard", report: "CorpusReport", repo_id: str, has_audio: bool, older: str = "") -> str:
    """Markdown of a dataset card: the corpus, how to read it, and one section per label set of the repository: that of
    `report`, and the others as they are in the repository's present card `older`."""
    from jinja2 import Template

    from ..evaluation.report import TEMPLATE
    from ..evaluation.tables import escape

    this = f"`{report.labels}`"
    parts = re.split("^## Label set ", older, flags=re.MULTILINE)[1:]
    sections = {name: text.strip() for name, _, text in (part.partition("\n") for part in parts)}
    template = Template(TEMPLATE.with_name("dataset_card.md").read_text(), trim_blocks=True, lstrip_blocks=True)
    facts = {"card": card, "report": report, "repo_id": repo_id, "has_audio": has_audio}
    return template.render(facts, sections=sections | {this: ""}, this=this, text=escape)


def check_licence(card: "CorpusCard", public: bool) -> None:
    """Raises SerError if the corpus may not be published as asked."""
    if public and not card.redistributable:
        problem = f"{card.title} may not be published again (licence: {card.licence})"
        raise SerError(f"--public: {problem}; leave --public out to push it to a private repository")


def claim_repository(repo_id: str, public: bool) -> str:
    """Create the dataset repository if it does not exist, before anything slow; returns its address. SerError: as
    `login`; the repository cannot be created, or exists and is public instead of private (or the reverse)."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    from ..training.hub import login, reason

    login(repo_id, "--repo_id")
    api = HfApi()
    try:
        url = api.create_repo(repo_id, repo_type="dataset", private=not public, exist_ok=True)
        private = api.repo_info(repo_id, repo_type="dataset").private
    except HfHubHTTPError as error:
        raise SerError(f"--repo_id {repo_id}: {reason(error)}") from None
    if private and public:
        raise SerError(f"--public: {repo_id} exists and is private; make it public on the Hub, or leave --public out")
    if not private and not public:
        raise SerError(f"{repo_id} exists and is public: choose another --repo_id, or make it private on the Hub")
    return str(url)


def push_corpus(source: "Source", repo_id: str, public: bool = False, num_proc: int | None = None) -> str:
    """Publish a corpus; returns the repository's address. SerError: the licence or the Hub forbids it."""
    from huggingface_hub import DatasetCard
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    from ..data.loading import load
    from ..training.hub import reason

    config, card = source.config, source.corpus.CARD
    check_licence(card, public)
    url = claim_repository(repo_id, public)
    dataset, report = load(source, num_proc=num_proc)
    say(*report.lines())
    try:
        with tempfile.TemporaryDirectory() as folder:
            options = {"config_name": config.name, "commit_message": f"{card.title}, label set {config.name}"}
            options |= {"private": not public, "embed_external_files": False}  # no external file is left
            publishable(dataset, Path(folder), num_proc).push_to_hub(repo_id, **options)
        has_audio = any(dataset["duration"])
        page = DatasetCard.load(repo_id)
        for key, value in metadata(card, len(dataset), has_audio).items():
            page.data[key] = value
        for entry in page.data["configs"]:  # push_to_hub's set_default fails where the only label set is another one
            if entry["config_name"] == source.corpus.DEFAULT_CONFIG_NAME:
                entry["default"] = True
        page.text = card_text(card, report, repo_id, has_audio, page.text)
        if source.root and str(source.root) in str(page):
            raise SerError(f"the dataset card names the local path {source.root}: not pushed")
        page.push_to_hub(repo_id, commit_message="Dataset card")
    except (HfHubHTTPError, EntryNotFoundError) as error:
        raise SerError(f"the Hub refused {repo_id}: {reason(error)}") from None
    return url


def main(argv: list[str]) -> int:
    parser = Parser("push", __doc__)
    what = parser.add_subparsers(dest="what", metavar="WHAT", required=True, help="what to publish")
    doc = "Publish a corpus as parquet with its audio (FLAC, lossless) and a dataset card."
    corpus = what.add_parser("corpus", help=doc, doc=doc)
    corpus_arguments(corpus)
    corpus.add_argument("--repo_id", required=True, help="user/name on the Hub")
    corpus.add_argument("--public", action="store_true", help="make the repository public, where the licence allows it")
    args = parser.parse_args(argv)

    from ..data.loading import corpus_class, find_source, is_own

    if not is_own(args.name):  # the licence is known without the corpus's folder
        check_licence(corpus_class(args.name).CARD, args.public)
    source = find_source(args.name, args.labels, args.data_dir)
    say(f"pushed to {push_corpus(source, args.repo_id, args.public, args.num_proc)}")
    return 0
