"""Steps to scale, and in few enough rows to be read: pure geometry and grouping."""

from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pages.texts import plain, written
from gateway.pages.units import duration
from gateway.pages.waterfall import TICKS_MAX, Axis, Grouping, group_of, grouped, slowest_of
from gateway.timeline import MILLISECOND, SECOND, Step, TraceError
from tests.builders import T0

NAMES = st.lists(st.sampled_from("abc"), max_size=300) | st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 60)), max_size=20
).map(lambda runs: [name for name, count in runs for _ in range(count)])
"""What steps may be called: changing all the time, or alike for a while."""
ROWS = st.integers(2, 20)


def steps_of(durations_ns: list[int], names: str = "a") -> list[Step]:
    at_ns, steps = T0, []
    for index, duration_ns in enumerate(durations_ns):
        at_ns += duration_ns
        name = names[index % len(names)]
        error = TraceError(message="bad") if index % 7 == 3 else None
        steps.append(Step(name, at_ns, duration_ns, index % 3 != 1, {}, error))
    return steps


class TestAxis:
    """Moments between its beginning and its end, from 0 to 100 percent."""

    @given(st.lists(st.integers(0, 10**13), min_size=1, max_size=50))
    def test_bars_lie_inside_and_each_begins_where_the_one_before_ends(self, durations_ns: list[int]) -> None:
        steps = steps_of(durations_ns)
        axis = Axis(T0, steps[-1].marked_at_ns)
        bars = [axis.bar(step.marked_at_ns - step.duration_ns, step.marked_at_ns) for step in steps]

        assert bars[0].x == 0
        for bar in bars:
            assert bar.x >= 0
            assert bar.width >= 0
            assert bar.x + bar.width <= 100 + 1e-9
        for before, after in pairwise(bars):
            assert before.x + before.width == pytest.approx(after.x)
        if axis.length_ns:
            assert bars[-1].x + bars[-1].width == pytest.approx(100)

    @given(st.integers(1, 10**18), st.integers(0, 10**18), st.integers(0, 10**18))
    def test_width_is_to_scale(self, length_ns: int, one: int, other: int) -> None:
        begins_ns, ends_ns = sorted((one % (length_ns + 1), other % (length_ns + 1)))
        bar = Axis(0, length_ns).bar(begins_ns, ends_ns)

        assert bar.width == pytest.approx(100 * (ends_ns - begins_ns) / length_ns, abs=0.002)

    def test_axis_without_length_has_everything_at_its_beginning(self) -> None:
        axis = Axis(T0, T0)

        assert (axis.bar(T0, T0).x, axis.bar(T0, T0).width) == (0, 0)
        assert [tick.x for tick in axis.ticks()] == [0]

    def test_moment_beyond_it_is_drawn_at_its_end(self) -> None:
        assert (Axis(10, 20).at(5), Axis(10, 20).at(25)) == (0, 100)

    @given(st.integers(1, 200 * 366 * 86_400 * SECOND))
    def test_ticks_are_few_and_at_equal_distances(self, length_ns: int) -> None:
        ticks = Axis(T0, T0 + length_ns).ticks()
        distances = {after.after_ns - before.after_ns for before, after in pairwise(ticks)}

        assert len(ticks) <= TICKS_MAX + 1
        assert len(distances) <= 1
        assert all(0 <= tick.x <= 100 for tick in ticks)
        if length_ns >= 1_000:
            assert len(ticks) >= 2
            assert ticks[-1].x > 50

    @pytest.mark.parametrize(
        ("length_ns", "labels"),
        [
            (350_000, ["0 s", "100 µs", "200 µs", "300 µs"]),
            (985 * MILLISECOND, ["0 s", "500 ms"]),
            (7 * SECOND, ["0 s", "2 s", "4 s", "6 s"]),
            (110 * SECOND, ["0 s", "30 s", "1 min", "1 min 30 s"]),
            (9 * 3_600 * SECOND, ["0 s", "3 h", "6 h", "9 h"]),
            (40 * 86_400 * SECOND, ["0 s", "10 d", "20 d", "30 d", "40 d"]),
        ],
    )
    def test_ticks_are_round_in_the_units_that_people_read(self, length_ns: int, labels: list[str]) -> None:
        assert [duration(tick.after_ns / 1e9) for tick in Axis(0, length_ns).ticks()] == labels

    @given(st.integers(1, 200 * 366 * 86_400 * SECOND))
    def test_labels_of_ticks_do_not_touch_on_a_phone(self, length_ns: int) -> None:
        width, character = 308, 6.7
        ends = -1.0
        for tick in Axis(0, length_ns).ticks():
            label_width = len(duration(tick.after_ns / 1e9)) * character
            begins = tick.x * width / 100 - label_width * {"start": 0, "middle": 0.5, "end": 1}[tick.anchor]
            assert begins > ends
            ends = begins + label_width
        assert ends <= width + 16


class TestGrouping:
    """Rows of consecutive steps, each of which leads to smaller ones."""

    @given(NAMES, ROWS)
    def test_groups_have_every_step_once_and_are_few(self, names: list[str], rows_max: int) -> None:
        groups = grouped(names, rows_max)

        assert [index for group in groups for index in group] == list(range(len(names)))
        assert len(groups) <= rows_max
        assert all(len(group) > 0 for group in groups)

    @given(NAMES, ROWS)
    def test_few_steps_stay_alone(self, names: list[str], rows_max: int) -> None:
        few = names[:rows_max]

        assert grouped(few, rows_max) == [range(index, index + 1) for index in range(len(few))]

    @given(NAMES, ROWS)
    def test_group_is_of_one_name_where_names_seldom_change(self, names: list[str], rows_max: int) -> None:
        changes = sum(1 for _ in groupby(names))
        for group in grouped(names, rows_max):
            assert changes > rows_max or len({names[index] for index in group}) == 1

    @given(NAMES, ROWS)
    def test_every_step_is_reached_from_all_of_them(self, names: list[str], rows_max: int) -> None:
        grouping = Grouping(names, rows_max)
        reached, parts = set(), [grouping.whole] if names else []
        while parts:
            part = parts.pop()
            for group in grouping.groups(part):
                if len(group) == 1:
                    reached.add(group.start)
                    assert grouping.part_with(group.start) == part
                else:
                    assert len(group) < len(part)
                    assert grouping.way_to(group) == [*grouping.way_to(part), part]
                    parts.append(group)

        assert reached == set(range(len(names)))

    def test_what_is_long_is_taken_apart(self) -> None:
        names = ["open", *["row"] * 9_000, "commit"]
        groups = grouped(names, 200)

        assert groups[0] == range(1)
        assert groups[-1] == range(9_001, 9_002)
        assert {len(group) for group in groups[1:-2]} == {46}

    def test_part_that_no_link_leads_to_has_a_way_back(self) -> None:
        grouping = Grouping(["a", "b"] * 5_000)

        assert grouping.way_to(range(3, 8)) == [range(10_000), range(50)]
        assert grouping.way_to(range(40, 60)) == [range(10_000)]
        assert grouping.neighbours(range(40, 60)) == (None, None)

    def test_neighbours_lead_through_all_groups(self) -> None:
        grouping = Grouping(["a", "b"] * 5_000)
        part: range | None = grouping.groups(grouping.whole)[0]
        parts: list[range] = []
        while part:
            before, after = grouping.neighbours(part)
            assert before == (parts[-1] if parts else None)
            parts.append(part)
            part = after

        assert parts == grouping.groups(grouping.whole)
        assert grouping.neighbours(grouping.whole) == (None, None)

    @given(st.lists(st.integers(0, 10**12), min_size=1, max_size=200), st.sampled_from(["a", "ab"]), ROWS)
    def test_sums_of_groups_agree_with_their_steps(self, durations_ns: list[int], names: str, rows_max: int) -> None:
        steps = steps_of(durations_ns, names)
        groups = [group_of(steps, part) for part in grouped([step.step_name for step in steps], rows_max)]

        assert sum(group.total_ns for group in groups) == sum(durations_ns)
        assert sum(group.failed for group in groups) == sum(step.error is not None for step in steps)
        assert sum(group.untracked for group in groups) == sum(not step.track_duration for step in steps)
        assert sum(group.untracked_ns for group in groups) == sum(
            step.duration_ns for step in steps if not step.track_duration
        )
        for group in groups:
            members = steps[group.part.start : group.part.stop]
            assert group.slowest_ns == max(step.duration_ns for step in members)
            assert steps[group.slowest].duration_ns == group.slowest_ns
            assert group.is_of_one_name == (len({step.step_name for step in members}) == 1)
        for before, after in pairwise(groups):
            assert before.ends_ns == after.begins_ns

    def test_slowest_come_first_and_of_equal_ones_the_earlier(self) -> None:
        assert slowest_of(steps_of([5, 9, 1, 9, 7]), 3) == [1, 3, 4]


class TestTexts:
    """What clients and collectors say, as it can be shown."""

    @given(st.text())
    def test_no_control_character_is_left_but_lines_and_tabs(self, text: str) -> None:
        assert not any(
            ord(character) < 32 or 127 <= ord(character) < 160 for character in plain(text) if character not in "\n\t"
        )

    def test_control_characters_have_pictures(self) -> None:
        assert plain("a\x00b\x1b[31m\x7f\x85\r\nc\rd\te") == "a\u2400b\u241b[31m\u2421\ufffd\nc\u240dd\te"

    @pytest.mark.parametrize(
        ("value", "text"),
        [("a", "a"), (True, "true"), (3, "3"), (0.5, "0.5"), (["ä", "b"], '["ä", "b"]'), (["\x00"], '["\\u0000"]')],
    )
    def test_values_are_written_as_they_are_or_as_json(self, value: object, text: str) -> None:
        assert written(value) == text
