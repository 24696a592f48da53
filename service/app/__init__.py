"""Puts the service together from its settings and runs it: the only place that names concrete classes.

What is opened first is closed last; whatever fails on the way, nothing stays open or half written.
"""

from service.app.indexes import rebuild_index
from service.app.opening import open_app
from service.app.running import App, Listening

__all__ = ["App", "Listening", "open_app", "rebuild_index"]
