"""Runs that visitors wait for: ended, replaced, and never those of others."""

import pytest

from psp_runtime.ui.watch import Cancelled, Watch, Watches


def test_a_run_begins_once() -> None:
    watch = Watch()
    assert [watch.begin(lambda *_: None) for _ in range(2)] == [True, False]


def test_a_newer_run_of_a_visitor_replaces_the_older_one() -> None:
    watches = Watches()
    first = watches.new("anna", "psp.onnx")
    older = watches.last("anna", "psp.onnx")
    assert watches.new("anna", "psp.onnx") > first == older.number
    assert older.replaced and not watches.last("anna", "psp.onnx").replaced
    with pytest.raises(Cancelled):
        older.step("on and on")


def test_a_visitor_ends_only_his_own_runs() -> None:
    watches = Watches()
    for visitor in ("anna", "ben"):
        watches.new(visitor, "psp.onnx")
    anna, ben = (watches.last(visitor, "psp.onnx") for visitor in ("anna", "ben"))
    watches.forget("anna")
    with pytest.raises(Cancelled):
        anna.step("working")
    ben.step("working")
