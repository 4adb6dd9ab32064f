"""What a run will take, from a trial: against scripted engines whose true end is known."""

import pytest

from benchmarks.forecast import LATENCIES, try_seed


@pytest.mark.parametrize("latency", LATENCIES)
@pytest.mark.parametrize(("window", "tried"), [(4, 32), (16, 32), (32, 64), (128, 64)])
def test_the_interval_covers_the_true_end(latency: str, window: int, tried: int) -> None:
    """In 90 of 100 runs at least; and it is no wider than it must be where the window was full."""
    covered = tokens_covered = 0
    widths = []
    for seed in range(100):
        (found, true), (tokens, all_tokens) = try_seed(
            seed, LATENCIES[latency], window=window, tried=tried, count=2000
        )
        covered += found.low <= true <= found.high
        tokens_covered += tokens.low <= all_tokens <= tokens.high
        assert found.low <= found.likely <= found.high
        widths.append(found.high / found.low)
    assert covered >= 90 and tokens_covered >= 90
    if latency == "all alike" and tried >= 2 * window:
        assert max(widths) < 1.1
