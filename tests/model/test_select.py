from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paumer.errors import InputError
from paumer.model.select import select_below, select_in_batch, select_lowest, select_share, selectors
from paumer.pause import BatchShare, PauseConfig, Threshold


def images_of(flat, lengths):
    """The values of each image."""
    return [part.tolist() for part in torch.as_tensor(flat).split(list(lengths))]


def random_scores(lengths, seed):
    return torch.rand(sum(lengths), generator=torch.Generator().manual_seed(seed))


def paused_in_each(selection, lengths):
    """Positions within each image, sorted; checks that paused and kept make up everything."""
    everything = sorted(selection.paused.tolist() + selection.kept.tolist())
    assert everything == list(range(sum(lengths)))
    assert selection.kept.tolist() == sorted(selection.kept.tolist())
    starts = np.cumsum([0, *lengths])
    paused = [
        sorted(p - start for p in selection.paused.tolist() if start <= p < start + n)
        for start, n in zip(starts, lengths, strict=False)
    ]
    assert selection.lengths == tuple(n - len(own) for n, own in zip(lengths, paused, strict=True))
    return paused


def exactly(ratio, number):
    return min(int(Fraction(str(ratio)) * number), number - 1)


LENGTHS = st.lists(st.integers(1, 25), min_size=1, max_size=5).map(tuple)
SEEDS = st.integers(0, 99)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 30), SEEDS, st.data())
def test_a_number_pauses_the_lowest_of_each_image(batch_size, num_tokens, seed, data):
    lengths = (num_tokens,) * batch_size
    scores, number = random_scores(lengths, seed), data.draw(st.integers(0, num_tokens - 1))
    paused = paused_in_each(select_lowest(scores, lengths, number), lengths)
    for own, values in zip(paused, images_of(scores, lengths), strict=True):
        assert own == sorted(np.argsort(values)[:number].tolist())


@settings(max_examples=50, deadline=None)
@given(LENGTHS, SEEDS, st.sampled_from([0.0, 0.29, 0.5, 0.8]))
def test_a_share_is_of_each_image_s_own_tokens(lengths, seed, ratio):
    scores = random_scores(lengths, seed)
    paused = paused_in_each(select_share(scores, lengths, ratio), lengths)
    for own, values in zip(paused, images_of(scores, lengths), strict=True):
        assert own == sorted(np.argsort(values)[: exactly(ratio, len(values))].tolist())


@settings(max_examples=80, deadline=None)
@given(LENGTHS, SEEDS, st.sampled_from([(0.5, 0.0, 0.9), (0.5, 0.3, 0.6), (0.6, 0.6, 0.6), (0.1, 0.0, 0.5)]))
def test_a_share_of_the_batch_pauses_the_lowest_of_all_within_the_bounds(lengths, seed, shares):
    ratio, low, high = shares
    scores = random_scores(lengths, seed)
    paused = paused_in_each(select_in_batch(scores, lengths, BatchShare(ratio, low, high)), lengths)
    # Brute force: the forced ones of each image, then the lowest that are still allowed, one by one.
    chosen = [np.argsort(values)[: exactly(low, len(values))].tolist() for values in images_of(scores, lengths)]
    wanted = exactly(ratio, sum(lengths))
    while sum(map(len, chosen)) < wanted:
        candidates = [
            (value, image, place)
            for image, values in enumerate(images_of(scores, lengths))
            for place, value in enumerate(values)
            if place not in chosen[image] and len(chosen[image]) < exactly(high, len(values))
        ]
        if not candidates:
            break
        _, image, place = min(candidates)
        chosen[image].append(place)
    assert paused == [sorted(own) for own in chosen]


def test_hard_images_keep_more_of_the_batch():
    easy, hard = torch.linspace(0, 0.1, 10), torch.linspace(0.05, 1, 10)
    chosen = select_in_batch(torch.cat([easy, hard]), (10, 10), BatchShare(0.5))
    assert chosen.lengths == (1, 9)  # 9 of 10 at most, so that the easy one does not starve
    chosen = select_in_batch(torch.cat([easy, hard]), (10, 10), BatchShare(0.5, 0.3, 0.7))
    assert chosen.lengths == (3, 7)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), SEEDS, st.sampled_from([0.0, 0.3, 0.6, 0.9]))
def test_a_batch_of_one_image_pauses_as_a_fixed_share_does(num_tokens, seed, ratio):
    scores = random_scores([num_tokens], seed)
    fixed = select_share(scores, (num_tokens,), ratio)
    assert paused_in_each(select_in_batch(scores, (num_tokens,), BatchShare(ratio)), (num_tokens,)) == paused_in_each(
        fixed, (num_tokens,)
    )


@settings(max_examples=80, deadline=None)
@given(LENGTHS, SEEDS, st.sampled_from([(0.0, 0.0, 0.9), (0.4, 0.0, 0.9), (0.4, 0.3, 0.5), (9.0, 0.0, 0.8)]))
def test_a_threshold_pauses_what_is_below_it_within_the_bounds(lengths, seed, values):
    nats, low, high = values
    scores = random_scores(lengths, seed)
    paused = paused_in_each(select_below(scores, lengths, Threshold(nats, low, high)), lengths)
    for own, image in zip(paused, images_of(scores, lengths), strict=True):
        n = len(image)
        number = min(max(sum(value < np.float32(nats) for value in image), exactly(low, n)), exactly(high, n))
        assert own == sorted(np.argsort(image)[:number].tolist())


def test_a_threshold_does_not_look_at_batch_mates():
    scores = random_scores((12, 30, 7), 0)
    together = paused_in_each(select_below(scores, (12, 30, 7), Threshold(0.4)), (12, 30, 7))
    for own, n, part in zip(together, (12, 30, 7), scores.split([12, 30, 7]), strict=True):
        assert [own] == paused_in_each(select_below(part, (n,), Threshold(0.4)), (n,))


def test_a_threshold_that_pauses_everything_keeps_the_floor():
    assert select_below(torch.zeros(30), (20, 10), Threshold(5.0)).lengths == (2, 1)
    assert select_below(torch.zeros(3), (2, 1), Threshold(5.0, 0.0, 0.99)).lengths == (1, 1)


def test_equal_scores_are_split_as_their_number_says():
    for select in (
        lambda s: select_in_batch(s, (6, 6), BatchShare(0.5)),
        lambda s: select_lowest(s, (6, 6), 3),
        lambda s: select_below(s, (6, 6), Threshold(1.0, 0.0, 0.5)),
    ):
        chosen = select(torch.full((12,), 0.5))
        assert len(chosen.paused) == len(set(chosen.paused.tolist())) == 6
        paused_in_each(chosen, (6, 6))


def test_numbers_that_are_known_ahead_are_those_of_the_configuration():
    select = selectors(PauseConfig.parse("2:0.5,4:0.5"), 21, depth=6)
    assert {layer: choose.keywords for layer, choose in select.items()} == {
        2: {"num_paused": 10},
        4: {"num_paused": 5},
    }
    select = selectors(PauseConfig.parse("1:0.5,2:0.4@batch,3:0.5,5:0.2nats"), 21, depth=6)
    assert {layer: choose.func for layer, choose in select.items()} == {
        1: select_lowest, 2: select_in_batch, 3: select_share, 5: select_below,
    }  # fmt: skip
    with pytest.raises(InputError, match=r"after layer 7: this encoder has layers 1\.\.6"):
        selectors(PauseConfig.parse("7:0.4@batch"), 21, depth=6)
