"""Charts keep their words inside: seconds and ratios behind every bar can be read."""

import pytest
import table
from measure import charts


@pytest.mark.parametrize("result", table.published(table.read_results(table.ROOT / "benchmarks" / "results")))
def test_words_behind_bars_are_inside_of_their_panel(result, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(charts, "_save", lambda figure, path: figures.append(figure))
    charts.latency(result, tmp_path / "latency.png")
    figures[0].draw_without_rendering()
    for panel in figures[0].axes:
        assert all(text.xy[0] <= panel.get_xlim()[1] for text in panel.texts)  # others are not drawn at all
        assert max(text.get_window_extent().x1 for text in panel.texts) <= panel.get_window_extent().x1
