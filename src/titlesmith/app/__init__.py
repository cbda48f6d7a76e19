"""The web page of a run's model: ``titlesmith app RUN``."""

from titlesmith.app.serve import serve
