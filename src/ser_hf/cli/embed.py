"""What a pretrained encoder makes of a corpus, as a dataset: one vector an utterance, or one a frame.

    ser-hf embed emodb --data_dir /corpora/emodb --model facebook/wav2vec2-base
    ser-hf embed iemocap --model roberta-base --pooling first --out iemocap_roberta.parquet

Written is a parquet file with the corpus's columns (without its audio) and `embedding`; load it by
datasets.load_dataset("parquet", data_files=FILE). An audio encoder hears the audio, a text encoder reads the text. What
was computed is kept and shared with recipes/fusion_cls.py: only what changed is computed again.
"""

import os
from pathlib import Path
from uuid import uuid4

from ..errors import SerError
from .console import Parser, claim, corpus_arguments, positive

BLOCK = 256  # rows that are in memory at a time


def main(argv: list[str]) -> int:
    """Write the embeddings of one corpus.

    Raises:
        SerError: no such corpus or checkpoint, nothing to encode, or a file that cannot be written.
    """
    parser = Parser("embed", __doc__)
    corpus_arguments(parser)
    parser.add_argument(
        "--model", required=True, help="Hub id or folder of an audio or text encoder, fine-tuned or not"
    )
    parser.add_argument(
        "--level", choices=("utterance", "frames"), default="utterance", help="one vector, or all frames"
    )
    parser.add_argument("--pooling", choices=("mean", "max", "meanmax", "first"), default="mean", help="frames to one")
    parser.add_argument("--layers", choices=("last", "all"), default="last", help="all: a vector for every layer")
    budget = "padded seconds of a batch (default: 36); 0 makes batches of eight clips"
    parser.add_argument("--batch_seconds", type=float, default=36.0, help=budget)
    parser.add_argument("--max_text_length", type=positive, default=64, help="tokens of a text (default: 64)")
    parser.add_argument("--text_cleaning", choices=("none", "unicode", "words"), default="unicode")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the checkpoint")
    parser.add_argument("--out", help="the file; <corpus>_<model>.parquet otherwise")
    args = parser.parse_args(argv)
    if args.level == "frames" and args.layers == "all":
        raise SerError("--layers all: only for --level utterance, frames of all layers would be a hundred times larger")
    out = Path(args.out or f"{Path(args.name).name}_{Path(args.model).name}.parquet")
    claim(out.parent, f"--out {out}")

    from ..data.loading import load_corpus
    from ..training.run import say

    corpus, report = load_corpus(args.name, args.labels, args.data_dir, num_proc=args.num_proc, return_report=True)
    say(*report.lines())
    store, names = _encode(args, corpus)
    count = _write(out, corpus, store, names, args)
    without = f", {len(corpus) - count} utterances have nothing to encode" if count < len(corpus) else ""
    say(f"written: {out} ({count} rows{without}); kept in {store.folder}")
    return 0


def _encode(args, corpus):
    """The store with all states, and the name of each utterance's (None has nothing to encode)."""
    import torch
    import transformers
    from transformers import AutoConfig, AutoFeatureExtractor, AutoTokenizer

    from .. import models  # noqa: F401  (our model types)
    from ..models.encoders import audio_states, describe, layer_count, padding_sensitive, text_states
    from ..models.modeling_fusion import load_audio_encoder, load_text_encoder
    from ..models.pooling import POOLINGS, TEXT_POOLINGS, pool_layers
    from ..training.flags import ClipArguments
    from ..training.states import audio_store, fill_audio, fill_text, text_name, text_store
    from ..training.text_model import check_text_length

    transformers.utils.logging.disable_progress_bar()  # of loading weights
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    every, pooling = args.layers == "all", None if args.level == "frames" else args.pooling
    remote = {"trust_remote_code": args.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(args.model, **remote)
        description = describe(getattr(config, "audio_config", config))
        audio = description is not None and description.reads != "text"
        if not audio:
            check_text_length(args.max_text_length, config)
        encoder = load_audio_encoder(args.model, **remote)[0] if audio else load_text_encoder(args.model, **remote)
        reader = (AutoFeatureExtractor if audio else AutoTokenizer).from_pretrained(args.model, **remote)
    except (OSError, ValueError, AttributeError) as error:
        raise SerError(f"--model {args.model}: {' '.join(str(error).split())}") from None
    if audio and args.pooling == "first":
        raise SerError("--pooling first: of texts, whose first token stands for the whole; choose mean, max or meanmax")
    encoder = encoder.to(device).eval()

    def encode(attention_mask, inputs=None, input_ids=None):
        if audio:
            found = audio_states(encoder, inputs, attention_mask, every)
        else:
            found = text_states(encoder, input_ids, attention_mask, every)
        return found if pooling is None else pool_layers(*found, pooling)

    width = 1 if pooling is None else (POOLINGS | TEXT_POOLINGS)[pooling].width
    shape = layer_count(encoder.config) if every else 1, encoder.config.hidden_size * width
    if audio:
        data = ClipArguments()
        store = audio_store(encoder, shape, pooling, reader, data)
        exact = padding_sensitive(encoder.config)
        budget = args.batch_seconds if args.batch_seconds > 0 else None
        fill_audio(store, corpus, encode, reader, data, device, budget, exact=exact, say="audio encoder")
        return store, corpus["audio_hash"][:]
    texts = corpus["text"][:]
    store = text_store(encoder, shape, pooling, reader, args.max_text_length)
    fill_text(store, texts, args.text_cleaning, encode, reader, args.max_text_length, device, say="text encoder")
    return store, [text_name(text, args.text_cleaning) for text in texts]


def _write(out: Path, corpus, store, names: list[str | None], args) -> int:
    """The parquet file, whole or not at all; returns its rows."""
    import pyarrow.parquet as pq
    from datasets import List, Value

    kept = [row for row, name in enumerate(names) if name is not None]
    if not kept:
        raise SerError(f"{args.name} has nothing that {args.model} can encode: choose an encoder of its audio or text")
    first = store[names[kept[0]]]  # (layers, frames, dim)
    kind = List(Value("float32"), length=first.shape[-1])
    if args.level == "frames":
        kind = List(kind)
    elif args.layers == "all":
        kind = List(kind, length=first.shape[0])
    columns = [name for name in corpus.column_names if name != "audio"]
    rows = corpus.select_columns(columns).select(kept)
    features = rows.features.copy()
    features["embedding"] = kind
    building = out.with_name(f".{out.name}.{uuid4().hex}")
    try:
        with pq.ParquetWriter(building, features.arrow_schema) as writer:
            for start in range(0, len(rows), BLOCK):
                table = rows.with_format("arrow")[start : start + BLOCK]
                tensors = [store[names[row]] for row in kept[start : start + BLOCK]]
                column = _column(tensors, args.level == "frames", args.layers == "all")
                table = table.append_column("embedding", column).cast(features.arrow_schema)
                writer.write_table(table)
        os.replace(building, out)
    finally:
        building.unlink(missing_ok=True)
    return len(kept)


def _column(tensors, frames: bool, layers: bool):
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
