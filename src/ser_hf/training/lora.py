"""LoRA (Hu et al. 2021): small adapters on the attention's projections are trained in place of the encoder, by peft.

What a run saves is the merged model, which any pipeline loads, and in `adapter/` the adapter alone.
"""

import shutil
from pathlib import Path

from ..errors import SerError

# Last names of the layers that make queries and values, by which Hu et al. adapt (their section 7.1), in the encoders
# of transformers; where one layer makes queries, keys and values together, that one.
QUERIES_AND_VALUES = (
    *("q_proj", "v_proj"),  # wav2vec2, HuBERT, WavLM, data2vec, Whisper, CLAP
    *("query", "value"),  # BERT, RoBERTa, XLM-R, ELECTRA, ALBERT
    *("q_lin", "v_lin"),  # DistilBERT
    *("linear_q", "linear_v"),  # w2v-BERT
    *("query_proj", "value_proj"),  # DeBERTa-v2
    *("q", "v"),  # MPNet, T5
    *("Wqkv", "query_key_value", "qkv_proj", "c_attn"),  # ModernBERT, GPT-NeoX, Phi, GPT-2
)


def with_lora(model, args):
    """The model with adapters as the flags ask for, or as it is for `--lora_r 0`.

    Its head is trained in full and saved with the adapter: our modules whose names begin with `ser_`, or of a stock
    class everything outside the encoder, and the encoder's pooler.

    Args:
        model: A `PreTrainedModel`.
        args: `LoraArguments`.

    Raises:
        SerError: no layer has the wanted name, or the encoders are to stay frozen.
    """
    if not args.lora_r:
        return model
    if getattr(args, "freeze_encoders", False):
        raise SerError(f"--lora_r {args.lora_r} adapts the encoders: it needs --freeze_encoders false")
    from peft import LoraConfig, get_peft_model
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    heads = head_modules(model)
    encoders = [name for name in _children(model) if name not in heads]
    last = {
        name.rpartition(".")[2]
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | Conv1D) and name.partition(".")[0] in encoders
    }
    wanted = args.lora_target or [name for name in QUERIES_AND_VALUES if name in last]
    if not wanted or not set(wanted) <= last:
        given = f"--lora_target {' '.join(wanted)}" if args.lora_target else f"--lora_r {args.lora_r}"
        raise SerError(
            f"{given}: no such layer in {type(model).__name__}; choose --lora_target from {', '.join(sorted(last))}"
        )
    config = LoraConfig(
        r=args.lora_r,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        # in the encoders alone: a head may have layers of these names too, and is trained in full
        target_modules=rf"(?:{'|'.join(encoders)})\.(?:.*\.)?(?:{'|'.join(wanted)})",
        modules_to_save=heads,
    )
    return get_peft_model(model, config)


def head_modules(model) -> list[str]:
    """Names of the modules that are trained in full.

    >>> from transformers import AutoConfig, AutoModelForSequenceClassification
    >>> config = AutoConfig.for_model("bert", hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    >>> head_modules(AutoModelForSequenceClassification.from_config(config))
    ['classifier', 'pooler']
    """
    ours = sorted(name for name in _children(model) if name.startswith("ser_"))
    if ours:
        return ours
    pooler = ["pooler"] if any(name.endswith(".pooler") for name, _ in model.named_modules()) else []
    return sorted([name for name in _children(model) if name != model.base_model_prefix] + pooler)


def _children(model) -> list[str]:
    """Names of the model's parts that have weights."""
    return [name for name, module in model.named_children() if next(module.parameters(), None) is not None]


def save_adapter(model, folder: Path, base: str | None):
    """Write `folder/adapter` of a model with adapters and return the merged model; another model is returned as it is.

    Args:
        model: As `with_lora` returned it, trained.
        folder: The run's.
        base: The pretrained checkpoint; its name is written down if it is one of the Hub's, a folder of this machine
            is not.
    """
    if not hasattr(model, "peft_config"):
        return model
    # "", because peft looks a None up in the model, which may know a folder
    model.peft_config["default"].base_model_name_or_path = base if base and not Path(base).exists() else ""
    shutil.rmtree(folder / "adapter", ignore_errors=True)
    model.save_pretrained(folder / "adapter", save_embedding_layers=False)
    (folder / "adapter" / "README.md").unlink(missing_ok=True)  # peft's empty card; the run has its own
    return model.merge_and_unload()
