"""What frozen encoders make of utterances, computed once: batched by length, by all processes, kept in a `store.Store`.

An utterance's states are found by what they were made from: the folder is named by the encoder's weights and
configuration and by every setting of the preprocessing, the entry by the audio's hash or the cleaned text. A changed
clip, encoder or flag is computed anew, and nothing else is.
"""

from collections.abc import Callable

import numpy as np
import torch
import xxhash
from accelerate import PartialState
from tqdm.auto import tqdm

from ..data.batching import evaluation_batches
from ..data.cache import Store

# States are written to disk when so many numbers wait: 64 MB in float32, and what an interruption costs.
WAITING = 2**24


def fingerprint(model: torch.nn.Module) -> str:
    """Changes when a weight of a model does, or its configuration (but for where it was loaded from)."""
    digest = xxhash.xxh3_128()
    config = {name: value for name, value in model.config.to_dict().items() if not name.startswith("_")}
    digest.update(repr(sorted(config.items(), key=lambda item: item[0])).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.no_grad()
def fill(
    store: Store,
    names: list[str | None],
    lengths: list[float],
    read: Callable[[list[int]], dict[str, torch.Tensor]],
    encode: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    budget: float | None,
    exact: bool = False,
    half: bool = False,
    say: str | None = None,
) -> int:
    """Compute the states that a store lacks, each distinct name once, this process its share; returns when all have.

    Args:
        store: Where they are kept.
        names: One an utterance; None has nothing to encode.
        lengths: One an utterance, in seconds or characters, for batches of about equal length.
        read: Row numbers to a batch of inputs.
        encode: Inputs to states `(batch, layers, frames, dim)` and their mask `(batch, frames)`, True = real.
        budget: Padded length of a batch; None for eight utterances.
        exact: Only utterances of equal length share a batch (see `batching.evaluation_batches`).
        half: Keep float16: half the disk, and what an encoder under bf16 autocast has to give.
        say: Title of a progress bar; None shows none.

    Returns:
        How many were computed, by all processes.
    """
    process = PartialState()
    known = [i for i, name in enumerate(names) if name is not None]
    todo = [known[i] for i in store.missing([names[i] for i in known])]
    process.wait_for_everyone()  # all have looked before one adds
    lengths = np.array([lengths[i] or 0.0 for i in todo], dtype=np.float64)
    batches = evaluation_batches(lengths, budget, exact=exact)[process.process_index :: process.num_processes]
    waiting, size = {}, 0
    for batch in tqdm(batches, desc=say, disable=say is None or not process.is_main_process, leave=False):
        rows = [todo[i] for i in batch]
        states, mask = encode(**read(rows))
        states = states.to("cpu", torch.float16 if half else torch.float32)
        for row, one, real in zip(rows, states, mask.cpu(), strict=True):
            waiting[names[row]] = one[:, real]  # (layers, frames, dim)
            size += one[:, real].numel()
        if size > WAITING:
            store.add(waiting)
            waiting, size = {}, 0
    store.add(waiting)
    process.wait_for_everyone()
    store.refresh()
    return len(todo)


def pad_states(states: list[torch.Tensor | None], shape: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Stored states to a batch.

    Args:
        states: `(layers, frames, dim)` each; None is missing.
        shape: Layers and dim, for a batch without any.

    Returns:
        `(batch, layers, frames, dim)`, zeros behind the real frames; and `(batch, frames)`, True = real.
    """
    frames = max([1, *(one.shape[1] for one in states if one is not None)])
    batch = torch.zeros(len(states), shape[0], frames, shape[1])
    mask = torch.zeros(len(states), frames, dtype=torch.bool)
    for row, one in enumerate(states):
        if one is not None:
            batch[row, :, : one.shape[1]] = one
            mask[row, : one.shape[1]] = True
    return batch, mask
