from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paumer.model.tokens import Running, Selection, Tokens, assemble_tokens, image_of, patch_rows, prefix_rows

CPU = torch.device("cpu")


def fresh(batch_size, num_tokens, num_prefix=1, width=3):
    """Tokens that tell who they are: (image, position or -1 - prefix, noise)."""
    x = torch.randn(batch_size, num_prefix + num_tokens, width, generator=torch.Generator().manual_seed(0))
    for image in range(batch_size):
        x[image, :, 0] = image
        x[image, :num_prefix, 1] = -1 - torch.arange(num_prefix).float()
        x[image, num_prefix:, 1] = torch.arange(num_tokens).float()
    return Running.all_of(x, num_prefix)


def selection(lengths, pauses):
    """`pauses` holds, for each image, the positions among its running tokens that pause."""
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    paused = [start + i for start, own in zip(starts, pauses, strict=True) for i in own]
    kept = [i for i in range(sum(lengths)) if i not in paused]
    after = tuple(length - len(own) for length, own in zip(lengths, pauses, strict=True))
    return Selection(torch.tensor(paused, dtype=torch.int64), torch.tensor(kept), after)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 20), st.integers(0, 2), st.data())
def test_assembling_undoes_any_pausing(batch_size, num_tokens, num_prefix, data):
    running = fresh(batch_size, num_tokens, num_prefix)
    whole, groups = running.x[:, num_prefix:], []
    for _ in range(data.draw(st.integers(0, 3))):
        pauses = [
            data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n - 1)) if n > 1 else []
            for n in running.lengths
        ]
        chosen = selection(running.lengths, pauses)
        patches = running.patches
        groups.append(Tokens(patches[chosen.paused], running.index[chosen.paused]))
        running = running.keep(chosen)
    assert torch.equal(assemble_tokens([*groups, Tokens(running.patches, running.index)], batch_size), whole)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(2, 12), st.integers(0, 2), st.data())
def test_what_runs_on_keeps_its_order_its_prefix_and_its_place(batch_size, num_tokens, num_prefix, data):
    before = fresh(batch_size, num_tokens, num_prefix)
    pauses = [
        data.draw(st.lists(st.integers(0, num_tokens - 1), unique=True, max_size=num_tokens - 1))
        for _ in range(batch_size)
    ]
    after = before.keep(selection(before.lengths, pauses))
    kept = [[i for i in range(num_tokens) if i not in own] for own in pauses]
    assert after.lengths == tuple(map(len, kept))
    rows = after.x.flatten(0, 1)
    expected = [
        before.x[image, row]
        for image, own in enumerate(kept)
        for row in [*range(num_prefix), *(num_prefix + i for i in own)]
    ]
    assert torch.equal(rows, torch.stack(expected))
    assert after.index.tolist() == [image * num_tokens + i for image, own in enumerate(kept) for i in own]
    assert torch.equal(after.patches[:, 1].long(), torch.tensor([i for own in kept for i in own]))
    if len(set(after.lengths)) == 1:  # as every ViT has it
        assert after.x.shape == (batch_size, num_prefix + after.lengths[0], 3) and not after.is_packed
    else:
        assert after.x.shape[0] == 1 and after.is_packed


def test_packed_tokens_become_rectangular_again():
    packed = fresh(2, 6).keep(selection((6, 6), [[0, 1, 2], [5]]))
    assert packed.is_packed and packed.lengths == (3, 5)
    again = packed.keep(selection((3, 5), [[1], [0, 1, 4]]))
    assert not again.is_packed and again.x.shape == (2, 3, 3)
    assert again.index.tolist() == [3, 5, 6 + 2, 6 + 3]
    assert again.x[:, :, 1].tolist() == [[-1, 3, 5], [-1, 2, 3]]


def test_rows_of_prefix_and_patches_make_up_the_whole():
    lengths = (2, 3)
    assert prefix_rows(lengths, 2, CPU).tolist() == [0, 1, 4, 5]
    assert patch_rows(lengths, 2, CPU).tolist() == [2, 3, 6, 7, 8]
    assert patch_rows(lengths, 0, CPU).tolist() == [0, 1, 2, 3, 4]
    assert image_of(lengths, CPU).tolist() == [0, 0, 1, 1, 1]
    assert image_of((2, 2), CPU).tolist() == [0, 0, 1, 1]


def test_assemble_puts_scattered_groups_into_raster_order():
    generator = torch.Generator().manual_seed(0)
    raster = torch.randn(3 * 11, 4, generator=generator)
    index = torch.randperm(33, generator=generator)
    groups = [Tokens(raster[index[i:j]], index[i:j]) for i, j in ((0, 5), (5, 20), (20, 20), (20, 33))]
    assert torch.equal(assemble_tokens(groups, 3), raster.view(3, 11, 4))


def test_gradients_come_back_to_the_token_they_belong_to():
    running = fresh(2, 8)
    x = running.x.clone().requires_grad_()
    running = Running.all_of(x, 1)
    chosen = selection(running.lengths, [[0, 3, 4], [7]])
    paused = Tokens(running.patches[chosen.paused], running.index[chosen.paused])
    kept = running.keep(chosen)
    weight = torch.arange(2 * 8 * 3.0).view(2, 8, 3)
    (assemble_tokens([paused, Tokens(kept.patches, kept.index)], 2) * weight).sum().backward()
    assert torch.equal(x.grad[:, 1:], weight) and not x.grad[:, 0].any()
