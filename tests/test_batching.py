"""Batches: every clip exactly once, the budget held, equal on any number of processes."""

import numpy as np
import pytest
from datasets import Dataset
from transformers import TrainingArguments, Wav2Vec2FeatureExtractor

from ser_hf.data.audio import read_clip
from ser_hf.data.batching import LengthBatchSampler, cut_by_seconds, evaluation_batches, split_to
from ser_hf.data.collators import SpeechCollator
from ser_hf.training.encoder_states import AudioReader
from ser_hf.training.settings import ClipArguments
from ser_hf.training.trainer import SerTrainer


def padding_factor(durations: np.ndarray, batches: list[np.ndarray]) -> float:
    """Padded seconds divided by real seconds."""
    return sum(durations[batch].max() * len(batch) for batch in batches) / durations[np.concatenate(batches)].sum()


def iemocap_like(clips: int) -> np.ndarray:
    """Log-normal seconds, median 3.4, longest 34, as IEMOCAP's."""
    rng = np.random.default_rng(0)
    return np.clip(np.exp(rng.normal(np.log(3.4), 0.7, clips)), 0.6, 34.0)


def test_cut_by_seconds_by_hand():
    durations = np.array([1.0, 2.0, 3.0, 4.0, 20.0])
    # 1+2: 2 x 2 s = 4 <= 9; with 3 it is 3 x 3 = 9 <= 9; with 4 it would be 16. The clip over the budget is alone.
    assert [b.tolist() for b in cut_by_seconds(durations, np.arange(5), 9.0)] == [[0, 1, 2], [3], [4]]
    assert cut_by_seconds(durations, np.array([], dtype=int), 9.0) == []


def test_split_to_halves_the_heaviest():
    durations = np.array([1.0, 1.0, 5.0, 5.0])
    made = split_to([np.array([0, 1]), np.array([2, 3])], 3, durations)
    assert [b.tolist() for b in made] == [[0, 1], [2], [3]]
    assert len(split_to(made, 9, durations)) == 4  # single clips cannot be halved


@pytest.mark.parametrize("seconds", [36.0, None])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("clips", [3, 11, 270])
def test_every_clip_once_an_epoch_and_ranks_agree(clips, world_size, seconds):
    durations = iemocap_like(clips)
    ranks = [LengthBatchSampler(durations, seconds, 4, 7, rank, world_size) for rank in range(world_size)]
    orders = []
    for epoch in range(3):
        seen = []
        for sampler in ranks:
            sampler.set_epoch(epoch)
            batches = list(sampler)
            assert len(batches) == len(sampler) == len(ranks[0])  # the Trainer counts its steps once
            counted = [batch for batch in batches if batch[0] >= 0]
            repeated = [batch for batch in batches if batch[0] < 0]
            assert len(repeated) <= 1 and batches == counted + repeated
            assert all(clip + clips in sampler.batches(epoch)[0] for batch in repeated for clip in batch)
            seen += [clip for batch in counted for clip in batch]
            if seconds:
                assert all(durations[b].max() * len(b) <= seconds or len(b) == 1 for b in batches)
            else:
                assert all(len(batch) <= 4 for batch in batches)
        assert sorted(seen) == list(range(clips))
        orders.append(seen)
    if clips > 3:
        assert orders[0] != orders[1] != orders[2]


def test_padding_and_largest_batch():
    durations = iemocap_like(6000)
    batches = LengthBatchSampler(durations, 36.0).batches(3)
    seconds = [durations[b].max() * len(b) for b in batches]
    assert padding_factor(durations, batches) <= 1.01
    assert max(seconds) / np.mean(seconds) <= 1.3
    random = np.random.default_rng(0).permutation(6000).reshape(-1, 8)
    assert padding_factor(durations, list(random)) > 2  # what the usual way computes


def test_epochs_mix_batches_with_noise_alone():
    durations = np.full(40, 3.0) + np.linspace(0, 0.01, 40)
    sampler = LengthBatchSampler(durations, 30.0)
    partners = [frozenset(next(b for b in sampler.batches(epoch) if 0 in b).tolist()) for epoch in range(5)]
    assert len(set(partners)) > 1


def test_same_seed_same_batches_and_order_is_a_function_of_the_epoch():
    durations = iemocap_like(100)
    first, second = LengthBatchSampler(durations, 20.0, seed=1), LengthBatchSampler(durations, 20.0, seed=1)
    list(first), list(first)
    first.set_epoch(5), second.set_epoch(5)
    assert list(first) == list(second)
    other = LengthBatchSampler(durations, 20.0, seed=2)
    other.set_epoch(5)
    assert list(other) != list(first)


def test_two_ranks_take_turns_through_one_ranks_batches():
    durations = iemocap_like(64)
    whole = LengthBatchSampler(durations, 20.0, world_size=2).batches(0)
    halves = [list(LengthBatchSampler(durations, 20.0, rank=rank, world_size=2)) for rank in (0, 1)]
    turns = [half[i] for i in range(len(halves[0])) for half in halves]
    assert [b.tolist() for b in whole] == [batch for batch in turns if batch[0] >= 0]


@pytest.mark.parametrize("seconds", [36.0, None])
def test_batches_do_not_depend_on_the_number_of_processes(seconds):
    for durations in (iemocap_like(97), np.full(5, 30.0)):  # of the latter no two fit into 36 s
        one = LengthBatchSampler(durations, seconds)
        for world_size in (2, 3, 4):
            other = LengthBatchSampler(durations, seconds, world_size=world_size)
            assert len(other) == -(-len(one) // world_size)
            for epoch in range(3):
                pairs = zip(one.batches(epoch), other.batches(epoch), strict=True)
                assert all(a.tolist() == b.tolist() for a, b in pairs)


def test_fewer_clips_than_processes_are_repeated_and_not_counted():
    ranks = [list(LengthBatchSampler(np.array([1.0, 2.0]), 10.0, rank=rank, world_size=5)) for rank in range(5)]
    counted = [[batch for batch in batches if batch[0] >= 0] for batches in ranks]
    assert [len(batches) for batches in ranks] == [1] * 5 and sorted(sum(sum(counted, []), [])) == [0, 1]


def test_evaluation_batches_hold_everything_longest_first():
    durations = np.array([1.0, 5.0, 2.0, 5.0, 2.0])
    assert [b.tolist() for b in evaluation_batches(durations, 10.0)] == [[1, 3], [2, 4, 0]]
    assert [b.tolist() for b in evaluation_batches(durations, None, count=3)] == [[1, 3, 2], [4, 0]]
    exact = evaluation_batches(durations, 100.0, exact=True)
    assert [b.tolist() for b in exact] == [[1, 3], [2, 4], [0]]
    assert padding_factor(durations, exact) == 1.0
    assert evaluation_batches(np.array([]), 10.0, exact=True) == []


def test_the_budget_counts_the_seconds_that_are_read(tmp_path):
    """30 s cropped to 2 s are 18 clips of 36 s, 1 s zero-padded to 1.5 s are 24; in training, evaluation, encoding."""
    import soundfile as sf
    import torch

    for name, seconds in (("long", 3.0), ("short", 0.1)):
        sf.write(tmp_path / f"{name}.wav", np.full(round(16000 * seconds), 0.1), 16000)
    paths = [str(tmp_path / f"{name}.wav") for name in ("long", "short")]
    audio = [{"bytes": None, "path": path} for path in paths for _ in range(36)]
    ids, durations = [str(i) for i in range(72)], [30.0] * 36 + [1.0] * 36
    rows = Dataset.from_dict({"id": ids, "audio": audio, "label": [0] * 72, "duration": durations})
    clips = ClipArguments(min_seconds=1.5, max_seconds=2.0)
    assert {len(read_clip(path, 16000, **vars(clips))) for path in paths} == {32000, 24000}
    extractor = Wav2Vec2FeatureExtractor()
    trainer = SerTrainer(
        model=torch.nn.Linear(1, 1),
        args=TrainingArguments(str(tmp_path / "out"), use_cpu=True),
        train_dataset=rows,
        data_collator=SpeechCollator(extractor, **vars(clips)),
        budget=36.0,
        clips=clips,
    )
    batches = list(trainer.get_train_dataloader())
    sizes = sorted(len(batch["labels"]) for batch in batches)
    assert sizes == [12, 12, 12, 18, 18]  # four batches would do; for room, that of 24 is halved
    assert all(batch["input_values"].numel() / 16000 <= 36 for batch in batches)
    assert [len(b) for b in trainer.get_eval_dataloader(rows).batch_sampler] == [18, 18, 24, 12]
    assert AudioReader(extractor, clips).lengths(rows) == [2.0] * 36 + [1.5] * 36
    texts = Dataset.from_dict({"duration": [None] * 100 + [4.0]})
    assert trainer.lengths(texts).tolist() == [0.5] * 100 + [2.0]


def one_by_one(batches: list, count: int, durations: np.ndarray) -> list:
    """`split_to`, looking at all batches for each that it halves."""
    batches = list(batches)
    while len(batches) < count:
        seconds = [durations[batch].max() * len(batch) * (len(batch) > 1) for batch in batches]
        heaviest = int(np.argmax(seconds))
        if not seconds[heaviest]:
            break
        middle = len(batches[heaviest]) // 2
        batches[heaviest : heaviest + 1] = [batches[heaviest][:middle], batches[heaviest][middle:]]
    return batches


def test_the_heaviest_batches_are_halved():
    """Ties too, up to batches of one clip."""
    rng = np.random.default_rng(0)
    for trial in range(60):
        durations = rng.integers(1, 6, 40).astype(float) if trial % 2 else rng.exponential(4, 40)
        batches = cut_by_seconds(durations, rng.permutation(40), rng.uniform(3, 40))
        for count in (len(batches) - 1, len(batches) + 1, len(batches) + 5, 45):
            found = [batch.tolist() for batch in split_to(batches, count, durations)]
            assert found == [batch.tolist() for batch in one_by_one(batches, count, durations)]
