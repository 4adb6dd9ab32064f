"""The balance of requests between servers, by a clock that the test holds."""

import random

from captioner.engine.server.balancer import Balancer


def make_balancer(*windows: int, patience: float = 300.0) -> Balancer:
    return Balancer(list(windows), patience=patience, draw=random.Random(0))


def choose_all(balancer: Balancer, now: float = 0.0) -> list[int]:
    chosen = []
    while (index := balancer.choose(now)) is not None:
        chosen.append(index)
    return chosen


def test_least_in_flight_up_to_each_window() -> None:
    balancer = make_balancer(3, 2)
    assert choose_all(balancer) == [0, 1, 0, 1, 0]
    balancer.succeed(1)
    assert choose_all(balancer) == [1]


def test_a_slow_server_gets_less() -> None:
    balancer = make_balancer(4, 4)
    choose_all(balancer)
    taken = []
    for _ in range(6):
        balancer.succeed(1)
        taken += choose_all(balancer)
    assert taken == [1] * 6


def test_servers_alike_take_turns_when_little_is_to_do() -> None:
    balancer = make_balancer(4, 4, 4)
    taken = []
    for _ in range(6):
        index = balancer.choose(0.0)
        assert index is not None
        taken.append(index)
        balancer.succeed(index)
    assert taken == [0, 1, 2, 0, 1, 2]


def test_rests_double_up_to_half_a_minute_and_one_request_tries() -> None:
    balancer, now, rests = make_balancer(8), 0.0, []
    for number in range(12):
        assert balancer.choose(now) == 0
        # Only one at a time, once it has failed.
        assert number == 0 or balancer.choose(now) is None
        assert balancer.fail(0, now, reason="gone") is (number == 0)
        wait = balancer.count_seconds(now)
        assert wait is not None and balancer.choose(now + wait * 0.99) is None
        rests.append(wait)
        now += wait
    for rest, longest in zip(rests, [0.5, 1, 2, 4, 8, 16, *[30] * 6], strict=True):
        assert longest / 2 <= rest <= longest
    assert len(set(rests)) == 12
    balancer.choose(now)
    assert balancer.succeed(0) is True
    assert choose_all(balancer, now) == [0] * 8 and balancer.succeed(0) is False


def test_many_requests_that_fall_together_are_one_failure() -> None:
    balancer = make_balancer(64)
    choose_all(balancer)
    for _ in range(64):
        balancer.fail(0, 5.0, reason="gone")
    assert balancer.choose(5.5) == 0


def test_a_request_that_must_be_alone_gets_the_least_busy_server_once_it_is_empty() -> None:
    balancer = make_balancer(2, 2)
    assert [balancer.choose(0.0) for _ in range(3)] == [0, 1, 0]
    # The second is kept for it, and gets nothing else until it has answered.
    assert balancer.choose(0.0, alone=True) is None and balancer.choose(0.0) is None
    balancer.succeed(1)
    assert balancer.choose(0.0, alone=True) == 1
    assert balancer.choose(0.0, alone=True) is None and balancer.choose(0.0) is None
    balancer.succeed(1)
    assert choose_all(balancer) == [1, 1]


def test_a_server_that_rests_is_not_kept() -> None:
    balancer = make_balancer(1, 1)
    balancer.choose(0.0)
    assert balancer.choose(0.0, alone=True) == 1
    balancer.fail(1, 0.0, reason="gone")
    assert balancer.choose(0.0, alone=True) is None
    balancer.succeed(0)
    assert balancer.choose(0.0, alone=True) == 0


def test_a_pause_that_was_asked_for_is_kept_even_after_a_late_success() -> None:
    balancer = make_balancer(8, 8)
    choose_all(balancer)
    balancer.fail(0, 1.0, reason="busy", pause=20.0)
    balancer.succeed(0)
    balancer.succeed(1)
    assert choose_all(balancer, 20.9) == [1]
    assert choose_all(balancer, 21.2) == [0, 0]
    assert balancer.count_seconds(22.0) is None


def test_patience_ends_when_all_have_failed_for_so_long_and_nothing_is_in_flight() -> None:
    balancer = make_balancer(1, 1, patience=100.0)
    assert choose_all(balancer) == [0, 1]
    balancer.fail(0, 0.0, reason="first")
    assert balancer.find_timeout(1000.0) is None  # the other may be about to answer
    balancer.fail(1, 50.0, reason="second")
    assert balancer.find_timeout(149.0) is None
    assert balancer.find_timeout(150.0) == "second"
    # A rest longer than the patience is not slept through.
    assert balancer.choose(60.0) == 0
    balancer.fail(0, 60.0, reason="busy", pause=5000.0)
    assert balancer.choose(60.0) == 1
    balancer.fail(1, 60.0, reason="busy", pause=5000.0)
    assert balancer.count_seconds(60.0) == 90.0
    assert balancer.choose(6000.0) is not None
    balancer.succeed(0)
    assert balancer.find_timeout(9000.0) is None
