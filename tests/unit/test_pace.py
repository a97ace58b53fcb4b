"""How much at once: turns, complaints, memory, and the server's clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from cloudpush.transfer.signed.pace import LONGEST_PAUSE, Budget, Pace, ServerClock


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(story(), 10)

    asyncio.run(bounded())


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_no_more_than_the_limit_fly_and_who_came_first_goes_first() -> None:
    async def story() -> None:
        pace, order = Pace(most=2, start=2), list[int]()

        async def one(number: int) -> None:
            await pace.enter()
            order.append(number)

        tasks = [asyncio.create_task(one(n)) for n in range(5)]
        await settle()
        assert (order, pace.flying) == ([0, 1], 2)
        pace.leave(well=False)
        await settle()
        assert order == [0, 1, 2]
        for _ in range(2):
            pace.leave(well=False)
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3, 4]

    run(story)


def test_the_limit_grows_by_one_for_each_full_round_and_never_beyond_the_most() -> None:
    async def story() -> None:
        pace = Pace(most=6, start=4)
        for expected in (5, 6, 6):
            flying = int(pace.limit)
            for _ in range(flying):
                await pace.enter()
            for _ in range(flying):
                pace.leave(well=True)
                await pace.enter()
            for _ in range(flying):
                pace.leave(well=False)
            assert int(pace.limit + 0.2) == expected

    run(story)


def test_who_does_not_use_the_limit_does_not_raise_it() -> None:
    async def story() -> None:
        pace = Pace(most=64, start=4)
        for _ in range(100):
            await pace.enter()
            pace.leave(well=True)
        assert pace.limit == 4

    run(story)


def test_complaints_about_one_round_halve_the_limit_once_and_later_ones_again_down_to_one() -> None:
    async def story() -> None:
        now = [100.0]
        pace = Pace(most=64, start=16, now=lambda: now[0])
        began = [await pace.enter() for _ in range(16)]
        now[0] += 1
        for one in began:
            pace.slower(one)
        assert pace.limit == 8
        for _ in range(10):
            now[0] += 1
            pace.slower(now[0])
        assert pace.limit == 1

    run(story)


def test_a_pause_keeps_everybody_until_it_is_over_but_never_for_ever() -> None:
    async def story() -> None:
        now = [100.0]
        pace = Pace(most=4, start=4, now=lambda: now[0])
        began = await pace.enter()
        pace.slower(began, 100_000)
        pace.leave(well=False)
        waiting = asyncio.create_task(pace.enter())
        await settle()
        assert not waiting.done()
        now[0] += LONGEST_PAUSE
        pace._wake()  # what the alarm does
        await waiting
        assert pace.flying == 1

    run(story)


def test_after_a_pause_the_waiting_are_woken_by_the_alarm() -> None:
    async def story() -> None:
        pace = Pace(most=1)
        pace.slower(await pace.enter(), 0.02)
        pace.leave(well=False)
        await pace.enter()

    run(story)


def test_who_stops_waiting_leaves_its_turn_to_the_next() -> None:
    async def story() -> None:
        pace = Pace(most=1)
        await pace.enter()
        first, second = asyncio.create_task(pace.enter()), asyncio.create_task(pace.enter())
        await settle()
        pace.leave(well=False)  # the first has its turn, and does not know it yet
        first.cancel()
        await second
        assert pace.flying == 1

    run(story)


def test_memory_is_given_in_order_and_given_back() -> None:
    async def story() -> None:
        budget, order = Budget(10), list[str]()
        go = asyncio.Event()

        async def one(name: str, count: int) -> None:
            async with budget.hold(count):
                order.append(name)
                await go.wait()

        tasks = [asyncio.create_task(one(name, count)) for name, count in (("a", 6), ("b", 6), ("c", 1))]
        await settle()
        assert order == ["a"]  # c has room, but does not overtake
        go.set()
        await asyncio.gather(*tasks)
        assert (order, budget._left) == (["a", "b", "c"], 10)

    run(story)


def test_more_memory_than_there_is_counts_as_all_of_it() -> None:
    async def story() -> None:
        budget = Budget(10)
        async with budget.hold(1_000):
            assert budget._left == 0
        assert budget._left == 10

    run(story)


def test_who_stops_waiting_for_memory_blocks_nobody() -> None:
    async def story() -> None:
        budget = Budget(10)
        async with budget.hold(6):
            big = asyncio.create_task(budget.hold(9).__aenter__())
            await settle()
            small = asyncio.create_task(budget.hold(4).__aenter__())
            await settle()
            big.cancel()
            await small
        assert budget._left == 6

    run(story)


NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("date", "skew"),
    [
        ("Sun, 01 Mar 2026 12:00:00 GMT", 0.0),
        ("Sun, 01 Mar 2026 12:00:01 GMT", 1.5),
        ("Sun, 01 Mar 2026 12:10:00 GMT", 600.5),
        ("Sun, 01 Mar 2026 11:50:00 GMT", -599.5),
        ("Sun, 01 Mar 2026 11:50:00", 0.0),
        ("yesterday", 0.0),
        ("", 0.0),
    ],
)
def test_the_servers_clock_is_read_from_its_date(date: str, skew: float) -> None:
    clock = ServerClock(lambda: NOON)
    clock.learn(date)
    assert (clock.skew, clock.now()) == (skew, NOON + timedelta(seconds=skew))


def test_one_date_that_is_off_does_not_set_the_clock() -> None:
    clock = ServerClock(lambda: NOON)
    for date in ["Sun, 01 Mar 2026 12:10:00 GMT"] * 20 + ["Sun, 01 Mar 2026 14:10:00 GMT"]:
        clock.learn(date)
    assert clock.skew == pytest.approx(600.5 + 0.2 * 7200)


@pytest.mark.parametrize(
    "date",
    [
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Mon, 01 Jan 0001 00:00:00 GMT",
        "Mon, 02 Mar 2026 12:00:01 GMT",
        "Sat, 28 Feb 2026 11:59:58 GMT",
        f"Sun, 01 Mar 2026 12:10:00 +{'9' * 30}",
        f"Sun, 01 Mar {'9' * 5_000} 12:10:00 GMT",
        f"{'9' * 5_000}, 01 Mar 2026 {'9' * 5_000}:00:00 GMT",
    ],
)
def test_a_date_that_cannot_be_meant_teaches_nothing(date: str) -> None:
    """More than a day is no clock that is off."""
    clock = ServerClock(lambda: NOON)
    clock.learn(date)
    assert (clock.skew, clock.now()) == (0.0, NOON)


def test_what_was_learned_of_a_clock_grows_old() -> None:
    """By a clock that nobody sets: theirs is mended, ours as well."""
    ticks = [5.0]
    clock = ServerClock(lambda: NOON, lambda: ticks[0])
    clock.learn("Sun, 01 Mar 2026 12:10:00 GMT")
    ticks[0] += 899
    assert clock.skew == 600.5
    ticks[0] += 1
    assert (clock.skew, clock.now()) == (0.0, NOON)
    clock.learn("Sun, 01 Mar 2026 12:20:00 GMT")
    assert clock.skew == 1200.5


@pytest.mark.parametrize(
    ("date", "earliest", "earliest_but_300", "latest"),
    [("Sun, 01 Mar 2026 12:10:00 GMT", 0.0, 300.0, 600.5), ("Sun, 01 Mar 2026 11:50:00 GMT", -599.5, -599.5, 0.0)],
)
def test_two_clocks_disagree_in_favour_of_sending(
    date: str, earliest: float, earliest_but_300: float, latest: float
) -> None:
    clock = ServerClock(lambda: NOON)
    clock.learn(date)
    times = (clock.earliest(), clock.earliest(300), clock.latest())
    assert times == tuple(NOON + timedelta(seconds=s) for s in (earliest, earliest_but_300, latest))


def test_memory_is_others_while_its_holder_waits_and_is_taken_again_afterwards() -> None:
    async def story() -> None:
        budget, brought = Budget(10), asyncio.get_running_loop().create_future()

        async def holder() -> str:
            async with budget.hold(10) as held:
                return str(await held.without(brought))

        waiting = asyncio.create_task(holder())
        await settle()
        async with budget.hold(10):
            brought.set_result("fresh")
            await settle()
            assert not waiting.done()
        assert (await waiting, budget._left) == ("fresh", 10)

    run(story)


@pytest.mark.parametrize("how", ["fails", "is stopped"])
def test_memory_is_given_back_once_by_who_waited_in_vain(how: str) -> None:
    async def story() -> None:
        budget, brought = Budget(10), asyncio.get_running_loop().create_future()

        async def holder() -> None:
            async with budget.hold(4) as held:
                await held.without(brought)

        waiting = asyncio.create_task(holder())
        await settle()
        if how == "fails":
            brought.set_exception(ValueError)
        else:
            waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert (waiting.cancelled(), budget._left) == (how == "is stopped", 10)

    run(story)
