"""Everything to look at: plots, tables, viewer, live view and pages; each is imported when it is first asked for."""

import importlib

_ROOMS = {
    "browser": ("write_sample_browser",),
    "comparison": ("Comparison", "compare_runs"),
    "evaluation_plots": ("before_after", "forest_plot"),
    "figures": ("style",),
    "learning_plots": ("learning_by_kind", "pass_figure", "ratio_figure"),
    "live": ("count_up", "evaluation_progress", "live_view"),
    "pages": ("Page", "is_interactive"),
    "problem_plots": ("answer_counts", "image_sizes", "problem_grid", "seen_by_model"),
    "report": ("report_link", "write_report"),
    "samples": ("changed_minds", "probe_strips", "show_samples"),
    "standalone": ("ReportError",),
    "training_plots": ("compare_curves", "sweep_figure", "training_overview"),
    "viewer": ("SampleViewer",),
    "coloured": ("differences", "words"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}
__all__ = [*_ROOM_OF, "lesson"]


def __getattr__(name: str):
    if name == "lesson":
        return importlib.import_module("nbhelpers.show.lesson")
    if name not in _ROOM_OF:
        raise AttributeError(f"nbhelpers.show has no {name!r}")
    return getattr(importlib.import_module(f"nbhelpers.show.{_ROOM_OF[name]}"), name)
