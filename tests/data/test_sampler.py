"""Order is a function of the seed and the iteration number, and of nothing else."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from vidgen.data.moving_shapes import MovingShapes
from vidgen.data.request import BatchRequest, ClipRequest
from vidgen.data.sampler import EvaluationSampler, IterationSampler, locate_frames, permutation
from vidgen.errors import UserError

DATASET = MovingShapes(16, 4, num_videos=10, length=7, travel=(0.2, 0.3))


def sampler(batch_size: int = 4, **arguments) -> IterationSampler:
    return IterationSampler(DATASET, batch_size, **arguments)


def clips_of_epoch(made: IterationSampler, epoch: int) -> list[ClipRequest]:
    per_epoch = made._clips.batches_per_epoch
    return [clip for k in range(per_epoch) for clip in made.batch(epoch * per_epoch + k).clips]


def whole(parts: list[tuple[ClipRequest, ...]]) -> list[ClipRequest]:
    """Interleave what the ranks got back into the global batch."""
    return [clip for row in zip(*parts, strict=True) for clip in row]


def message(**arguments) -> str:
    with pytest.raises(UserError) as error:
        sampler(**arguments)
    return str(error.value)


def test_the_order_is_frozen():
    # Numbers written down once: a change would silently change every recipe's training order.
    assert permutation(8, 0, "clips", 0).tolist() == [3, 4, 1, 5, 6, 7, 0, 2]
    assert sampler().batch(0).clips[0] == ClipRequest(3, (0, 1, 2, 3), 16, 4347520478834108719)


def test_an_epoch_draws_each_video_at_most_once():
    for epoch in range(5):
        videos = [clip.video for clip in clips_of_epoch(sampler(batch_size=5), epoch)]
        assert sorted(videos) == list(range(10))
    videos = [clip.video for clip in clips_of_epoch(sampler(batch_size=4), 0)]
    assert len(videos) == len(set(videos)) == 8


def test_epochs_and_seeds_differ_in_order_starts_and_request_seeds():
    orders = [tuple(clips_of_epoch(sampler(batch_size=5, seed=seed), epoch)) for seed in (0, 1) for epoch in range(3)]
    assert len(set(orders)) == 6
    assert len({clip.seed for order in orders for clip in order}) == 60
    assert len({clip.times for order in orders for clip in order}) == 4


def test_clips_per_video_lengthens_the_epoch():
    made = sampler(batch_size=10, clips_per_video=3)
    clips = clips_of_epoch(made, 0)
    assert Counter(clip.video for clip in clips) == dict.fromkeys(range(10), 3)
    assert len({clip.seed for clip in clips}) == 30


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_batch_of_one_process(world_size):
    arguments = {"images_per_batch": 8, "batches_per_iteration": 2, "seed": 5}
    alone = sampler(**arguments)
    ranks = [sampler(**arguments, rank=rank, world_size=world_size) for rank in range(world_size)]
    for number in range(12):
        shared = [made.iteration(number) for made in ranks]
        for index, batch in enumerate(alone.iteration(number)):
            assert whole([element[index].clips for element in shared]) == list(batch.clips)
            assert whole([element[index].images for element in shared]) == list(batch.images)


def test_starting_at_an_iteration_goes_on_as_without_a_break():
    arguments = {"images_per_batch": 6, "batches_per_iteration": 3}
    through = list(islice(sampler(**arguments), 12))
    for start in (1, 5, 11):
        assert list(islice(sampler(**arguments, start_iteration=start), 12 - start)) == through[start:]


def test_batches_per_iteration_groups_the_same_batches():
    single = [batch for element in islice(sampler(), 6) for batch in element]
    grouped = [batch for element in islice(sampler(batches_per_iteration=3), 2) for batch in element]
    assert single == grouped


def test_images_come_from_all_frames_of_all_videos_once_an_epoch():
    made = sampler(images_per_batch=7)
    images = [image for k in range(10) for image in made.batch(k).images]
    assert sorted((image.video, image.times) for image in images) == [(v, (t,)) for v in range(10) for t in range(7)]


def test_images_do_not_change_the_clips():
    assert sampler().batch(3).clips == sampler(images_per_batch=7).batch(3).clips
    assert sampler().batch(3).images == ()


def test_frames_are_counted_over_all_videos():
    videos, frames = locate_frames(np.arange(9), np.array([2, 3, 4]))
    assert videos.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert frames.tolist() == [0, 1, 0, 1, 2, 0, 1, 2, 3]


def test_the_official_count_repeats_the_first_frame_and_never_reaches_the_last():
    videos, frames = locate_frames(np.arange(9), np.array([2, 3, 4]), official=True)
    assert videos.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert frames.tolist() == [0, 0, 1, 0, 1, 2, 0, 1, 2]
    made = sampler(images_per_batch=7, official_frame_index=True)
    drawn = Counter((image.video, image.times) for k in range(10) for image in made.batch(k).images)
    assert drawn[0, (0,)] == 2 and drawn[9, (6,)] == 0


def test_frames_are_counted_once_and_not_for_every_batch(monkeypatch):
    made, counted = sampler(images_per_batch=7), []
    monkeypatch.setattr(np, "cumsum", counted.append)
    assert len(made.batch(0).images) == 7 and not counted


def test_a_batch_that_cannot_be_shared_is_refused():
    assert (
        message(batch_size=3, world_size=2) == "data.batch_size 3 cannot be shared by 2 processes; use a multiple of 2"
    )
    assert message(batch_size=4, images_per_batch=5, world_size=4) == (
        "data.images_per_batch 5 cannot be shared by 4 processes; use a multiple of 4"
    )


def test_a_batch_larger_than_the_data_set_is_refused():
    assert message(batch_size=12) == (
        "data.batch_size 12 is more than the data set has (10 videos); use at most 10 or raise data.clips_per_video"
    )
    assert message(batch_size=32, clips_per_video=3) == (
        "data.batch_size 32 is more than the data set has (10 videos x 3 clips);"
        " use at most 30 or raise data.clips_per_video"
    )
    assert message(images_per_batch=71) == (
        "data.images_per_batch 71 is more than the data set has (70 frames); use at most 70"
    )
    assert message(batch_size=0) == "data.batch_size is 0; it must be at least 1"
    assert message(images_per_batch=-1) == "data.images_per_batch is -1; it must be at least 0"
    assert message(clips_per_video=0) == "data.clips_per_video is 0; it must be at least 1"


def evaluation(batch_size: int, **arguments) -> list[BatchRequest]:
    made = EvaluationSampler(DATASET, batch_size, **arguments)
    batches = list(made)
    assert len(made) == len(batches)
    return batches


def test_evaluation_reads_every_video_once_and_in_order():
    batches = evaluation(4)
    assert [len(batch.clips) for batch in batches] == [4, 4, 2]
    clips = [clip for batch in batches for clip in batch.clips]
    assert [clip.video for clip in clips] == list(range(10))
    assert all(clip.seed is None for clip in clips)
    assert evaluation(4) == batches


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_evaluation_ranks_neither_repeat_nor_drop(world_size):
    alone = [clip for batch in evaluation(4) for clip in batch.clips]
    ranks = [[c for b in evaluation(4, rank=r, world_size=world_size) for c in b.clips] for r in range(world_size)]
    assert all(ranks[i % world_size][i // world_size] == clip for i, clip in enumerate(alone))
    assert sum(map(len, ranks)) == 10


def test_evaluation_of_several_clips_takes_all_videos_before_any_comes_twice():
    clips = [clip for batch in evaluation(8, clips_per_video=2) for clip in batch.clips]
    assert [clip.video for clip in clips] == [*range(10), *range(10)]
    assert len(set(clips)) > 10
