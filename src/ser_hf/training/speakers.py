"""Speaker normalisation: whose features it needs, whose clips are whose where that is unknown, and what a report says
of it. No label is read. scikit-learn is imported where speakers are estimated: every training imports this module."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset

from ..errors import SerError
from .record import RELATIVE_TO
from .settings import ClipArguments

FEWEST = 2  # clips of a known speaker whose mean is used: one clip minus its own mean is nothing
# Clips that sound alike whose mean is used. UAR on held-out actors of RAVDESS in groups of 1 to 5 clips: .13, .61, .67,
# .72, .74; as of an average speaker .71.
FEWEST_ALIKE = 4
# Estimated speakers; chosen on RAVDESS's training actors (recipes/README.md).
COMPONENTS = 200  # of the principal component analysis, at most half the clips
SHRINKAGE = 0.1  # of the scatter within speakers
PARTS = 4  # of the training speakers, held out in turn to find the distance between speakers


def check_speakers(parts: Mapping[str, Dataset]) -> None:
    """Raises SerError if an utterance has no speaker."""
    speakers = [speaker for rows in parts.values() for speaker in rows["speaker"][:]]
    if None in speakers:
        count = f"{speakers.count(None)} of {len(speakers)} utterances have no speaker"
        raise SerError(f"--speaker_norm: {count}; --speaker_norm false goes without")


def check_whole_clips(speaker_norm: bool, clips: ClipArguments, windowed: bool) -> None:
    """Raises SerError: `speaker_norm` with clips that are cut or padded, whose mean is not that of whole clips."""
    changed = [flag for flag in ("max_seconds", "min_seconds") if getattr(clips, flag)]
    changed += ["window_seconds"] if windowed else []
    if speaker_norm and changed:
        raise SerError(f"--{changed[0]}: the means of --speaker_norm are those of whole clips; leave one of them out")


@dataclass(frozen=True)
class SpeakerMap:
    """Where clips of one speaker lie together, also of speakers that it was not fitted to."""

    weight: np.ndarray  # `(speakers - 1, dim)`, of a clip's vector `(dim,)`
    distance: float  # Ward's, beyond which groups of clips are different speakers


def fit_map(vectors: np.ndarray, speakers: Sequence[str]) -> SpeakerMap:
    """The map for vectors `(clips, dim)` of known speakers: linear discriminant analysis of their principal components.
    The distance is that of the best agreement (adjusted Rand index) on training speakers that were held out in turn.
    Raises SerError: as `learnable`."""
    from scipy.cluster.hierarchy import fcluster, ward
    from sklearn.metrics import adjusted_rand_score

    names, trees = np.random.default_rng(0).permutation(learnable(speakers)), []
    used = np.isin(speakers, names)
    vectors, speakers = vectors[used], np.asarray(speakers)[used]
    parts = min(PARTS, len(names) // 2)  # two speakers or more in each
    for part in range(parts):
        held = np.isin(speakers, names[part::parts])
        weight = _discriminant(vectors[~held], speakers[~held])
        trees.append((ward(vectors[held] @ weight.T), speakers[held]))
    distances = np.geomspace(0.02, 1.0, 100) * max(tree[-1, 2] for tree, _ in trees)
    agreement = [
        np.mean([adjusted_rand_score(true, fcluster(tree, distance, "distance")) for tree, true in trees])
        for distance in distances
    ]
    best = np.flatnonzero(np.isclose(agreement, max(agreement)))
    return SpeakerMap(_discriminant(vectors, speakers), float(distances[best[len(best) // 2]]))


def learnable(speakers: Iterable[str]) -> list[str]:
    """The training speakers, by the speaker of each clip, that show how clips of one speaker differ: those with two
    clips or more. Raises SerError: fewer than four."""
    names = sorted(name for name, clips in Counter(speakers).items() if clips >= 2)
    if len(names) < 4:
        why = f"four training speakers with two clips or more are needed, there are {len(names)}"
        raise SerError(f"--estimate_speakers: {why}; leave it out")
    return names


def _discriminant(vectors: np.ndarray, speakers: np.ndarray) -> np.ndarray:
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    components = min(COMPONENTS, len(vectors) // 2, vectors.shape[1])
    scaler, pca = StandardScaler(), PCA(components, whiten=True, random_state=0)
    lda = LinearDiscriminantAnalysis(solver="eigen", shrinkage=SHRINKAGE)
    make_pipeline(scaler, pca, lda).fit(vectors, speakers)
    axes = lda.scalings_[:, : len(lda.classes_) - 1].T @ (pca.components_ / np.sqrt(pca.explained_variance_)[:, None])
    return axes / scaler.scale_  # offsets change no distance


def group(speaker_map: SpeakerMap, vectors: np.ndarray) -> list[int]:
    """The estimated speaker, from 1, of each vector `(clips, dim)`: Ward's clustering, cut at the map's distance."""
    from scipy.cluster.hierarchy import fcluster, ward

    if len(vectors) < 2:
        return [1] * len(vectors)
    return fcluster(ward(vectors @ speaker_map.weight.T), speaker_map.distance, "distance").tolist()


def means_by(pairs: Iterable[tuple[Hashable, torch.Tensor]]) -> dict[Hashable, torch.Tensor]:
    """The mean of the tensors of each key.

    >>> means_by([("ann", torch.tensor(1.0)), ("ben", torch.tensor(5.0)), ("ann", torch.tensor(2.0))])
    {'ann': tensor(1.5000), 'ben': tensor(5.)}
    """
    sums, counts = {}, Counter()
    for key, value in pairs:
        sums[key] = sums.get(key, 0) + value
        counts[key] += 1
    return {key: total / counts[key] for key, total in sums.items()}


def alone(sizes: Iterable[int], fewest: int) -> str:
    """How many utterances are of speakers with fewer than `fewest`, whose mean is not used; empty for none."""
    few = sum(size for size in sizes if size < fewest)
    return f" ({few} in groups of fewer than {fewest}, as of an average speaker)" if few else ""


def estimated_remark(estimated: Mapping[str, str], test: Dataset) -> str:
    """A line on the speakers of test that were estimated, and where the true ones are known, how well."""
    sizes = Counter(estimated.values()).values()
    agreement = ""
    if None not in (true := test["speaker"][:]):
        from sklearn.metrics import adjusted_rand_score

        index = adjusted_rand_score(true, [estimated[name] for name in test["id"][:]])
        agreement = f"; of {len(set(true))} true ones, adjusted Rand index {index:.2f}"
    return (
        f"SPEAKERS ESTIMATED: test clips are relative to the mean of those that sound like one speaker: {len(sizes)} "
        f"of {min(sizes)} to {max(sizes)} utterances{alone(sizes, FEWEST_ALIKE)}{agreement}; do not compare with "
        "systems that read one clip alone"
    )


def speaker_remark(splits: Mapping[str, Dataset], model_type: str) -> str:
    """A line on the number of utterances by which test speakers are normalised."""
    utterances = Counter(speaker for rows in splits.values() for speaker in rows["speaker"][:])
    counts = [utterances[speaker] for speaker in set(splits["test"]["speaker"][:])]
    return (
        f"SPEAKER-NORMALISED: features are relative to each speaker's {RELATIVE_TO[model_type]}, in test of "
        f"{min(counts)} to {max(counts)} utterances{alone(counts, FEWEST)}; do not compare with systems that read one "
        "clip of an unknown speaker"
    )
