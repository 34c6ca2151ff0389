"""Publish on the Hugging Face Hub.

    ser-hf push corpus emodb --repo_id user/emodb --data_dir /corpora/emodb
    ser-hf push model runs/emodb_wav2vec2_fold0_seed42 --repo_id user/name
    ser-hf push space user/name --repo_id user/name-demo

The repository is private unless you pass --public, which is refused if the licence forbids publishing the audio. The
token is that of `hf auth login`, of HF_TOKEN, or of --hub_token.
"""

import io
import json
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from ..cli.console import Parser, columns_of, corpus_arguments
from ..errors import SerError
from ..evaluation.tables import plain, render
from ..files import is_folder, local_path
from ..training.run import say

if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.corpus import CorpusReport
    from ..data.loading import Source
    from ..data.schema import CorpusCard

# Sample types that FLAC stores exactly, and its names of them. Files of other types are published unchanged.
LOSSLESS = {"PCM_16": "PCM_16", "PCM_24": "PCM_24", "PCM_U8": "PCM_S8", "PCM_S8": "PCM_S8"}
SIZES = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def as_published(audio: dict | None) -> dict | None:
    """An `audio` value with bytes and the file's base name: as FLAC if that is lossless. SerError: the file is gone."""
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
    from ..evaluation.card import HUB_LICENCES

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
    this = Markup(f"`{plain(report.labels)}`")
    parts = re.split("^## Label set ", older, flags=re.MULTILINE)[1:]
    sections = {Markup(name): Markup(text.strip()) for name, _, text in (part.partition("\n") for part in parts)}
    facts = {"card": card, "report": report, "repo_id": repo_id, "has_audio": has_audio}
    return render("dataset_card.md", **facts, sections=sections | {this: ""}, this=this)


def check_licence(card: "CorpusCard", public: bool) -> None:
    """Raises SerError if the corpus may not be published as asked."""
    if public and not card.redistributable:
        problem = f"{card.title} may not be published again (licence: {card.licence})"
        raise SerError(f"--public: {problem}; leave --public out to push it to a private repository")


def check_columns(dataset: "Dataset", root: Path | None = None) -> None:
    """Raises SerError if an id, or another text but a transcript, spells a path of this machine. `root` is the folder
    of the corpus."""
    names = [name for name, kind in dataset.features.items() if getattr(kind, "dtype", "") == "string"]
    for rows in dataset.with_format("arrow").iter(1000):  # the audio may be in memory
        for name in set(names) - {"text"}:
            texts = filter(None, rows[name].unique().to_pylist())
            if found := next(filter(None, (local_path(text, [root]) for text in texts)), None):
                raise SerError(f"the column {name} names the local path {found}: not pushed")
        files = rows["audio"].combine_chunks().field("path").to_pylist()
        for id, file in zip(rows["id"].to_pylist(), files, strict=True):
            if file and os.path.splitext(f"/{id}")[0] == os.path.splitext(file)[0]:
                raise SerError(f"the id {id} spells the path {file}: not pushed; move the files into one folder")


def push_corpus(source: "Source", repo_id: str, public: bool = False, num_proc: int | None = None) -> str:
    """Publish a corpus; returns its address. SerError: licence or Hub forbid it, or a text names a local path."""
    from huggingface_hub import DatasetCard

    from ..data.loading import load
    from ..training.hub import Repository, check_public, claim, hub_requests

    config, card = source.config, source.corpus.CARD
    check_licence(card, public)
    url = claim(Repository(repo_id, private=not public, kind="dataset"), "--repo_id")
    dataset, report = load(source, num_proc=num_proc)
    say(*report.lines())
    has_audio = any(dataset["duration"])
    check_public("the dataset card", card_text(card, report, repo_id, has_audio), [source.root])
    check_columns(dataset, source.root)
    with tempfile.TemporaryDirectory() as folder:
        content = publishable(dataset, Path(folder), num_proc)
        with hub_requests(f"--repo_id {repo_id}"):
            options = {"config_name": config.name, "commit_message": f"{card.title}, label set {config.name}"}
            options |= {"private": not public, "embed_external_files": False}  # no external file is left
            content.push_to_hub(repo_id, **options)
            page = DatasetCard.load(repo_id)
            for key, value in metadata(card, len(dataset), has_audio).items():
                page.data[key] = value
            for entry in page.data["configs"]:  # push_to_hub's set_default fails where the only set is another one
                if entry["config_name"] == source.corpus.DEFAULT_CONFIG_NAME:
                    entry["default"] = True
            page.text = card_text(card, report, repo_id, has_audio, page.text)
            page.push_to_hub(repo_id, commit_message="Dataset card")
    return url


# ---- a Space: the page of `ser-hf demo`

GRADIO = "6.31.0"  # the version that is tested; a Space names one
# What the page consists of, below the package.
SPACE_FILES = ("__init__.py", "errors.py", "files.py", "models/*.py")
SPACE_FILES += ("evaluation/__init__.py", "evaluation/panels.py", "publish/__init__.py", "publish/page.*")
SPACE_NEEDS = ("torch", "transformers", "numpy", "pandas", "matplotlib", "soundfile", "soxr")
SPACE_APP = """from ser_hf.publish.page import page, published, serve

MODEL = {model!r}
serve(page(published(MODEL), MODEL))
"""


def space_files(model: str, model_type: str) -> dict[str, Path | bytes]:
    """The files of a Space with the page of a model on the Hub: names, and files or contents."""
    from importlib.metadata import requires

    package = Path(__file__).parents[1]
    sources = [file for pattern in SPACE_FILES for file in package.glob(pattern)]
    files: dict[str, Path | bytes] = {f"ser_hf/{file.relative_to(package)}": file for file in sources}
    name = re.compile(r"[\w.-]+")
    needs = [line for line in requires("ser-hf") if "extra ==" not in line and name.match(line)[0] in SPACE_NEEDS]
    needs += ["opensmile"] if model_type == "ser_functionals" else []
    card = render("space_card.md", model=Markup(model), gradio=GRADIO)
    texts = {"app.py": SPACE_APP.format(model=model), "README.md": f"{card}\n"}
    texts["requirements.txt"] = "\n".join(["--extra-index-url https://download.pytorch.org/whl/cpu", *needs, ""])
    return files | {file: text.encode() for file, text in texts.items()}


def push_space(model: str, repo_id: str, public: bool = False) -> str:
    """Publish a model's page as a Space; returns its address. SerError: no audio classifier, or the Hub refuses."""
    from huggingface_hub import HfApi, hf_hub_download

    from ..models.pipeline_ser import modeling_auto
    from ..training.hub import Repository, hub_requests, push_files

    if is_folder(model):
        first = f"ser-hf push model {model} --repo_id USER/NAME"
        raise SerError(f"{model}: a Space cannot read this folder; push it first, `{first}`, then name USER/NAME")
    with hub_requests(model):
        private = HfApi().model_info(model).private
        config = json.loads(Path(hf_hub_download(model, "config.json")).read_text())
    audio = config.get("model_type") in modeling_auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES
    if not audio or not any("Classification" in name for name in config.get("architectures") or []):
        raise SerError(f"{model}: no classifier of audio; name a model that `ser-hf push model` has published")
    files = space_files(model, config["model_type"])
    url = push_files(files, Repository(repo_id, not public, kind="space"), ("*.py",), f"Demo of {model}", "--repo_id")
    if private:
        say(f"{model} is private: give the Space a secret HF_TOKEN that may read it, in its settings")
    return url


def main(argv: list[str]) -> int:
    parser = Parser("push", __doc__)
    what = parser.add_subparsers(dest="what", metavar="WHAT", required=True, help="what to publish")
    doc = "Publish a corpus as parquet with its audio (FLAC, lossless) and a dataset card."
    corpus = what.add_parser("corpus", help=doc, doc=doc)
    corpus_arguments(corpus)
    doc = "Publish a finished run, as --push_to_hub true does: model, card, results and the flags that may be public."
    model = what.add_parser("model", help=doc, doc=doc)
    model.add_argument("folder", type=Path, help="the run's --output_dir")
    model.add_argument("--revision", help="branch to push to, which is made if there is none (default: main)")
    doc = "Publish the page of `ser-hf demo` as a Space, for a model that is on the Hub."
    space = what.add_parser("space", help=doc, doc=doc)
    space.add_argument("model", help="the model, user/name on the Hub")
    for push in (corpus, model, space):
        push.add_argument("--repo_id", required=True, help="user/name on the Hub")
        text = "make a new repository public; a corpus's licence decides"
        push.add_argument("--public", action="store_true", help=text)
    args = parser.parse_args(argv)

    if args.what == "model":
        from ..training.hub import Repository, push_model

        say(f"pushed to {push_model(args.folder, Repository(args.repo_id, not args.public, args.revision))}")
        return 0
    if args.what == "space":
        say(f"pushed to {push_space(args.model, args.repo_id, args.public)}")
        return 0

    from ..data.loading import corpus_class, find_source, is_own

    if not is_own(args.name):  # the licence is known without the corpus's folder
        check_licence(corpus_class(args.name).CARD, args.public)
    source = find_source(args.name, args.labels, args.data_dir, columns=columns_of(args))
    say(f"pushed to {push_corpus(source, args.repo_id, args.public, args.num_proc)}")
    return 0
