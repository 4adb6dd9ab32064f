"""GPO: sorted, weighted, blind to padding."""

import pytest
import torch

from vse.model.gpo import GPO, find_order, run_on_cpu, run_packed


def make(seed: int = 0) -> GPO:
    torch.manual_seed(seed)
    return GPO().eval()


def mask_of(lengths: list[int], longest: int) -> torch.Tensor:
    return torch.arange(longest)[None, :] < torch.tensor(lengths)[:, None]


def test_is_the_weighted_sum_of_sorted_values() -> None:
    pool = make()
    tokens = torch.tensor([[[1.0, 9.0], [3.0, 7.0], [2.0, 8.0]]])
    lengths = torch.tensor([3])
    weights = pool.weights(lengths, longest=3, like=tokens)[0]
    expected = torch.stack(
        [weights @ torch.tensor([3.0, 2.0, 1.0]), weights @ torch.tensor([9.0, 8.0, 7.0])]
    )
    torch.testing.assert_close(pool(tokens, mask=None, lengths=lengths)[0], expected)


def test_weights_sum_to_one_and_depend_on_the_length_alone() -> None:
    pool = make()
    tokens = torch.randn(3, 7, 4)
    weights = pool.weights(torch.tensor([7, 3, 7]), longest=7, like=tokens)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3))
    assert torch.equal(weights[0], weights[2])
    assert torch.equal(weights[1, 3:], torch.zeros(4))
    alone = pool.weights(torch.tensor([3]), longest=3, like=tokens)
    torch.testing.assert_close(weights[1, :3], alone[0])


def test_masked_tokens_and_padding_do_not_matter() -> None:
    pool = make()
    tokens = torch.randn(2, 6, 4) - 5  # negative, so that a masked zero would sort to the top
    lengths = torch.tensor([6, 4])
    found = pool(tokens, mask=mask_of([6, 4], 6), lengths=lengths)
    alone = pool(tokens[1:, :4], mask=None, lengths=torch.tensor([4]))
    torch.testing.assert_close(found[1:], alone)
    padded = torch.cat((tokens, torch.full((2, 5, 4), 99.0)), dim=1)
    torch.testing.assert_close(pool(padded, mask=mask_of([6, 4], 11), lengths=lengths), found)


def test_a_hole_in_the_mask_counts_like_a_shorter_set() -> None:
    pool = make()
    tokens = torch.randn(1, 5, 3)
    keep = torch.tensor([[True, False, True, True, False]])
    found = pool(tokens, mask=keep, lengths=torch.tensor([3]))
    expected = pool(tokens[:, [0, 2, 3]], mask=None, lengths=torch.tensor([3]))
    torch.testing.assert_close(found, expected)


def test_gradient_is_finite_and_reaches_gru_and_tokens() -> None:
    pool = make().train()
    tokens = torch.randn(2, 5, 3, requires_grad=True)
    out = pool(tokens, mask=mask_of([5, 2], 5), lengths=torch.tensor([5, 2]))
    out.square().sum().backward()
    assert tokens.grad is not None and torch.isfinite(tokens.grad).all()
    assert torch.equal(tokens.grad[1, 2:], torch.zeros(3, 3))
    for parameter in pool.parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()
    assert pool.gru.weight_ih_l0.grad is not None and pool.gru.weight_ih_l0.grad.abs().sum() > 0


@pytest.mark.parametrize("lengths", [[1], [9], [30, 17, 16, 1]])
def test_the_cpu_gru_has_the_states_and_gradients_of_pytorch(lengths: list[int]) -> None:
    pool, each = make(), torch.tensor(lengths)
    code = torch.randn(lengths[0], 32)
    real = mask_of(lengths, lengths[0])
    weight = torch.randn(len(lengths), lengths[0], 32)  # every state has its own gradient
    found = []
    for run in (run_packed, run_on_cpu):
        pool.zero_grad()
        states = run(pool.gru, code, each)[real]
        (states * weight[real]).sum().backward()
        found.append([states, *(p.grad.clone() for p in pool.gru.parameters())])
    for expected, own in zip(*found, strict=True):
        torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-4)


def test_the_cpu_gru_stays_in_float32_under_autocast() -> None:
    pool, lengths = make(), torch.tensor([5, 3])
    like = torch.zeros(1)
    plain = pool.weights(lengths, longest=5, like=like)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = run_on_cpu(pool.gru, torch.randn(5, 32), torch.tensor([5, 3]))
        lower = pool.weights(lengths, longest=5, like=like)
    assert states.dtype == torch.float32
    torch.testing.assert_close(lower, plain, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_order_is_that_of_pytorch_with_masked_tokens_last(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = torch.randperm(200).view(2, 4, 25).sub(100).to(dtype)  # whole numbers, no ties
    mask = torch.rand(2, 25) > 0.3
    order = find_order(values, mask)
    for row, kept, found in zip(values, mask, order, strict=True):
        ordered = row.gather(1, found)[:, : int(kept.sum())]
        assert torch.equal(ordered, row[:, kept].sort(dim=1, descending=True).values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_nan_is_not_sorted_away(dtype: torch.dtype) -> None:
    tokens = torch.tensor([[[1.0], [float("nan")], [2.0], [0.0]]], dtype=dtype)
    mask = torch.tensor([[True, True, True, False]])
    pool = make()
    assert pool(tokens, mask=mask, lengths=torch.tensor([3])).isnan().all()
