"""Write the embeddings of a corpus by a pretrained encoder as a dataset: one vector per utterance, or one per frame.

    ser-hf embed emodb --data_dir /corpora/emodb --model facebook/wav2vec2-base
    ser-hf embed iemocap --model roberta-base --pooling first --out iemocap_roberta.parquet

The parquet file has the corpus's columns (without its audio) and `embedding`; load it by
datasets.load_dataset("parquet", data_files=FILE). An audio encoder encodes the audio, a text encoder the text. Hidden
states are cached and shared with recipes/fusion_cls.py: only what changed is computed again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SerError, one_line
from ..files import check_checkpoint, hold, named_file, staged
from ..training.arguments import converter
from ..training.settings import POOLINGS, TEXT_POOLINGS
from .console import Parser, check_outside, columns_of, corpus_arguments, positive

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from datasets import Dataset
    from transformers import FeatureExtractionMixin, PreTrainedModel, PreTrainedTokenizerBase

    from ..data.cache import Store
    from ..models.encoders import Encoder

BLOCK = 256  # rows that are in memory at a time


def main(argv: list[str]) -> int:
    """Write the embeddings of one corpus.
    Raises SerError if there is nothing to encode, or a file cannot be written."""
    parser = Parser("embed", __doc__)
    corpus_arguments(parser)
    parser.add_argument("--model", required=True, help="audio or text encoder, fine-tuned or not: Hub id or folder")
    levels, poolings = ("utterance", "frames"), dict.fromkeys(POOLINGS + TEXT_POOLINGS)
    parser.add_argument("--level", choices=levels, default="utterance", help="one vector, or all frames")
    parser.add_argument("--pooling", choices=poolings, help="pooling of frames (default: mean)")
    parser.add_argument("--layers", choices=("last", "all"), default="last", help="all: a vector for every layer")
    budget = "budget in padded seconds per batch (default: 36); 0 makes batches of eight clips"
    parser.add_argument("--batch_seconds", type=converter(float, {"least": 0}), default=36.0, help=budget)
    parser.add_argument("--max_text_length", type=positive, default=64, help="tokens of a text (default: 64)")
    parser.add_argument("--text_cleaning", choices=("none", "unicode", "words"), default="unicode")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the checkpoint")
    parser.add_argument("--out", help="the parquet file (default: <corpus>_<model>.parquet)")
    args = parser.parse_args(argv)
    frames, layers = args.level == "frames", args.layers == "all"
    if frames and layers:
        raise SerError("--layers all: only for --level utterance, frames of all layers would be a hundred times larger")
    if frames and args.pooling:
        raise SerError(f"--pooling {args.pooling}: does nothing with --level frames; leave it out")
    out = named_file(args.out or f"{Path(args.name).name}_{Path(args.model).name}.parquet", "--out", ".parquet")
    check_checkpoint(args.model, "--model")

    from ..data.loading import find_source, load
    from ..training.run import say

    source = find_source(args.name, args.labels, args.data_dir, columns=columns_of(args))
    check_outside(source, out, "--out")
    hold(out, f"--out {out}", file=True)

    corpus, report = load(source, num_proc=args.num_proc)
    say(*report.lines())
    store, names = encode_corpus(
        corpus,
        args.model,
        pooling=None if frames else args.pooling or "mean",
        every_layer=layers,
        budget=args.batch_seconds if args.batch_seconds > 0 else None,
        max_text_length=args.max_text_length,
        text_cleaning=args.text_cleaning,
        trust_remote_code=args.trust_remote_code,
    )
    if not any(names):
        raise SerError(f"{args.name} has nothing that {args.model} can encode: choose an encoder of its audio or text")
    count = write_embeddings(out, corpus, store, names, frames=frames, every_layer=layers)
    without = f", {len(corpus) - count} utterances have nothing to encode" if count < len(corpus) else ""
    say(f"written: {out} ({count} rows{without}); cached in {store.folder}")
    return 0


def load_encoder_of(
    model: str, max_text_length: int, trust_remote_code: bool
) -> "tuple[PreTrainedModel, FeatureExtractionMixin | PreTrainedTokenizerBase, Encoder]":
    """The encoder of a checkpoint, its feature extractor or tokenizer, and its description.
    Raises SerError: no such checkpoint, or no encoder of audio or text."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoTokenizer

    from .. import models  # noqa: F401  (our model types)
    from ..models.encoders import describe, load_extractor
    from ..models.modeling_fusion import load_audio_encoder, load_text_encoder
    from ..training.text_model import check_text_length

    remote = {"trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(model, **remote)
        description = describe(getattr(config, "audio_config", config))
        if description is None:
            raise ValueError(f"{config.model_type} is no encoder of audio or text that is supported")
        if description.reads == "text":
            check_text_length(max_text_length, config)
            return load_text_encoder(model, **remote), AutoTokenizer.from_pretrained(model, **remote), description
        encoder, _ = load_audio_encoder(model, **remote)
        return encoder, load_extractor(model, encoder.config, **remote), description
    except (OSError, ValueError, AttributeError, StrictDataclassError) as error:
        raise SerError(f"--model {model}: {one_line(error)}") from None


def encode_corpus(
    corpus: "Dataset",
    model: str,  # Hub id or folder of an audio or text encoder
    *,
    pooling: str | None,  # of frames; None keeps all of them
    every_layer: bool,  # also the layers before the last, and the input of the first
    budget: float | None,  # padded seconds of audio in a batch; None for eight clips
    max_text_length: int,  # in tokens
    text_cleaning: str,
    trust_remote_code: bool,
) -> tuple["Store", list[str | None]]:
    """Encode a corpus, unless it is cached. Returns the cache of hidden states `(layers, frames, dim)`, and each
    utterance's name in it; None if there is nothing to encode.
    Raises SerError: no such checkpoint, no encoder of audio or text, or a pooling that is not for it."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    from ..models import pooling as poolings
    from ..models.encoders import audio_states, layer_count, padding_sensitive, text_states
    from ..training.audio_model import check_lengths
    from ..training.encoder_states import AudioReader, TextReader, fill, open_store
    from ..training.settings import ClipArguments

    disable_progress_bar()  # of loading weights
    encoder, processor, description = load_encoder_of(model, max_text_length, trust_remote_code)
    audio = description.reads != "text"
    if audio:
        check_lengths(encoder.config, {"corpus": corpus}, ClipArguments(), advice="cut them into shorter files")
        exact, least = padding_sensitive(encoder.config), description.least
        reader = AudioReader(processor, ClipArguments(), budget, exact, least)
    else:
        reader = TextReader(processor, text_cleaning, max_text_length)
    table, kind = (poolings.POOLINGS, "an audio") if audio else (poolings.TEXT_POOLINGS, "a text")
    fitting = [name for name, entry in table.items() if entry.parameters is None]
    if pooling not in (None, *fitting):
        why = f"not without training, or not for {kind} encoder"
        raise SerError(f"--pooling {pooling}: {why}; choose {', '.join(fitting)}")

    def encode(
        attention_mask: torch.Tensor, inputs: torch.Tensor | None = None, input_ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        encode_batch, values = (audio_states, inputs) if audio else (text_states, input_ids)
        states = encode_batch(encoder, values, attention_mask, every_layer)
        return states if pooling is None else poolings.pool_layers(*states, pooling)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder.to(device).eval()
    store = open_store(encoder, reader, layer_count(encoder.config) if every_layer else 1, pooling)
    fill(store, corpus, reader, encode, device, title=f"{'audio' if audio else 'text'} encoder")
    return store, [reader.name(row) for row in corpus.select_columns(["audio_hash", "text"]).to_list()]


def write_embeddings(
    out: Path, corpus: "Dataset", store: "Store", names: Sequence[str | None], *, frames: bool, every_layer: bool
) -> int:
    """Write the parquet file, whole or not at all; returns its number of rows. Utterances whose name is None are left
    out; `embedding` is a vector, a list of frames, or a list of layers."""
    import pyarrow.parquet as pq
    from datasets import List, Value

    encoded = [row for row, name in enumerate(names) if name is not None]
    first = store[names[encoded[0]]]  # (layers, frames, dim)
    kind = List(Value("float32"), length=first.shape[-1])
    if frames or every_layer:
        kind = List(kind, length=-1 if frames else first.shape[0])
    rows = corpus.select_columns([name for name in corpus.column_names if name != "audio"]).select(encoded)
    features = rows.features.copy()
    features["embedding"] = kind
    with staged(out) as half, pq.ParquetWriter(half, features.arrow_schema) as writer:
        for start in range(0, len(rows), BLOCK):
            table = rows.with_format("arrow")[start : start + BLOCK]
            tensors = [store[names[row]] for row in encoded[start : start + BLOCK]]
            table = table.append_column("embedding", _column(tensors, frames, every_layer))
            writer.write_table(table.cast(features.arrow_schema))
    return len(encoded)


def _column(tensors: "Sequence[torch.Tensor]", frames: bool, layers: bool) -> "pa.Array":
    """Tensors `(layers, frames, dim)` as an Arrow column of vectors, of lists of frames, or of layers."""
    import numpy as np
    import pyarrow as pa
    import torch

    dim = tensors[0].shape[-1]
    flat = torch.cat([one.float().reshape(-1) for one in tensors]).numpy()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat), dim)
    if frames:
        return pa.ListArray.from_arrays(np.cumsum([0, *(one.shape[1] for one in tensors)], dtype=np.int32), vectors)
    return pa.FixedSizeListArray.from_arrays(vectors, tensors[0].shape[0]) if layers else vectors
