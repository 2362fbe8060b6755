"""Some of many, in messages and for a look."""

from __future__ import annotations

from semask_d2.utils.excerpts import evenly, few


def test_few_are_the_first_and_the_number_of_others() -> None:
    assert few([]) == ""
    assert few(["a", 2, "c"]) == "a, 2, c"
    assert few((x for x in "abcde"), "; ") == "a; b; c and 2 more"
    assert few(range(9), count=8) == "0, 1, 2, 3, 4, 5, 6, 7 and 1 more"


def test_even_spread() -> None:
    assert evenly(list(range(10)), 3) == [0, 4, 9]
    assert evenly([1], 3) == [1]
    assert evenly([], 3) == []
