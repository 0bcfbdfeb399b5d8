from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paumer.model.tokens import Tokens, assemble_tokens, split_tokens, take


def random_tokens(batch, num_tokens, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, num_tokens, 3, generator=generator)
    return Tokens(x, torch.arange(num_tokens).expand(batch, -1)), torch.rand(batch, num_tokens, generator=generator)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.data())
def test_assemble_undoes_split(batch, num_tokens, data):
    running, _ = random_tokens(batch, num_tokens, seed=data.draw(st.integers(0, 99)))
    groups, whole = [], running.x
    for seed in range(data.draw(st.integers(0, 3))):
        num_running = running.x.shape[1]
        scores = torch.rand(batch, num_running, generator=torch.Generator().manual_seed(seed))
        paused, running = split_tokens(running, scores, data.draw(st.integers(0, num_running - 1)))
        groups.append(paused)
    assert torch.equal(assemble_tokens([*groups, running]), whole)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.data())
def test_split_pauses_the_lowest_scores_and_keeps_the_order_of_the_rest(batch, num_tokens, data):
    tokens, scores = random_tokens(batch, num_tokens, seed=data.draw(st.integers(0, 99)))
    num_paused = data.draw(st.integers(0, num_tokens))
    paused, running = split_tokens(tokens, scores, num_paused)
    for b in range(batch):
        order = sorted(range(num_tokens), key=lambda i, b=b: scores[b, i].item())
        assert sorted(paused.index[b].tolist()) == sorted(order[:num_paused])
        assert running.index[b].tolist() == sorted(order[num_paused:])
        assert torch.equal(paused.x[b], tokens.x[b, paused.index[b]])
        assert torch.equal(running.x[b], tokens.x[b, running.index[b]])


def test_ties_may_fall_either_way_but_the_paused_scores_are_the_lowest():
    scores = torch.tensor([[0.5, 0.1, 0.5, 0.5, 0.1, 0.5], [2.0] * 6])
    tokens, _ = random_tokens(2, 6)
    paused, running = split_tokens(tokens, scores, 3)
    for b in range(2):
        assert np.sort(scores[b, paused.index[b]]).tolist() == np.sort(scores[b])[:3].tolist()
        assert sorted(paused.index[b].tolist() + running.index[b].tolist()) == list(range(6))


def test_assemble_puts_scattered_groups_into_raster_order():
    generator = torch.Generator().manual_seed(0)
    raster = torch.randn(3, 11, 4, generator=generator)
    index = torch.stack([torch.randperm(11, generator=generator) for _ in range(3)])
    shuffled = take(Tokens(raster, torch.arange(11).expand(3, -1)), index)
    groups = [Tokens(shuffled.x[:, i:j], shuffled.index[:, i:j]) for i, j in ((0, 2), (2, 7), (7, 7), (7, 11))]
    assembled = assemble_tokens(groups)
    for b in range(3):
        for group in groups:
            for token, position in zip(group.x[b], group.index[b].tolist(), strict=True):
                assert torch.equal(assembled[b, position], token)
    assert torch.equal(assembled, raster)


def test_gradients_come_back_to_the_token_they_belong_to():
    tokens, scores = random_tokens(2, 8)
    x = tokens.x.clone().requires_grad_()
    weight = torch.arange(2 * 8 * 3.0).view(2, 8, 3)
    paused, running = split_tokens(Tokens(x, tokens.index), scores, 5)
    (assemble_tokens([paused, running]) * weight).sum().backward()
    assert torch.equal(x.grad, weight)
