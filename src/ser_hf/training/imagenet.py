"""ImageNet weights for the image networks among the spectrogram models, from the Hub's safetensors."""

import torch

from ..errors import SerError

# Trained by torchvision (its first weights, IMAGENET1K_V1), published by timm as safetensors under torchvision's names
# of the weights; torchvision's own files are pickles. Of AlexNet there is no such copy.
REPOSITORIES = {
    "resnet50": "timm/resnet50.tv_in1k",
    "resnext50": "timm/resnext50_32x4d.tv_in1k",
    "densenet201": "timm/densenet201.tv_in1k",
}
CLASSIFIERS = ("fc.", "classifier.")


def load(model, file: str | None = None) -> None:
    """Give a model's network the ImageNet weights, and say so in its configuration (`weights="imagenet"`).

    The first convolution reads one channel instead of red, green and blue, whose weights are summed: it answers to a
    spectrogram what it would answer to a grey picture of it. The classifier of the thousand classes is left behind.

    Args:
        model: `SerForSpectrogramClassification` with one of the architectures of `REPOSITORIES`.
        file: A safetensors file instead of the Hub's.

    Raises:
        SerError: there are no such weights, they cannot be fetched, or they do not fit.
    """
    from safetensors.torch import load_file

    arch = model.config.arch
    if file is None:
        file = _fetched(arch)
    own, state = model.encoder.backbone.state_dict(), {}
    for name, weight in load_file(file).items():
        if not name.startswith(CLASSIFIERS):
            rgb = name in own and weight.ndim == 4 and weight.shape[1] == 3 and own[name].shape[1] == 1
            state[name] = weight.sum(dim=1, keepdim=True) if rgb else weight
    # Old files lack the counters of batch norm, which only matter where its momentum is None.
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    wrong = [name for name, weight in state.items() if name not in own or own[name].shape != weight.shape]
    if missing or wrong:
        shown = ", ".join((missing + wrong)[:4])
        raise SerError(
            f"--imagenet: {file} is not {arch}: {len(missing)} weights are missing, {len(wrong)} do not fit ({shown})"
        )
    with torch.no_grad():
        model.encoder.backbone.load_state_dict(state, strict=False)
    model.config.weights = "imagenet"


def _fetched(arch: str) -> str:
    from huggingface_hub import hf_hub_download

    if arch not in REPOSITORIES:
        have = ", ".join(REPOSITORIES)
        raise SerError(f"--imagenet: no ImageNet weights as safetensors for {arch}, only for {have}; leave it out")
    try:
        return hf_hub_download(REPOSITORIES[arch], "model.safetensors")
    except Exception as error:  # offline, no such repository, no permission: the same to the user
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SerError(
            f"--imagenet: {REPOSITORIES[arch]} cannot be fetched ({reason}); leave it out to begin with random weights"
        ) from None
