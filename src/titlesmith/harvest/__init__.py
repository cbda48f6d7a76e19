"""Papers from arXiv's services, from files of several formats, or from a sample grammar, as one table."""

from titlesmith.harvest.papers import Papers, check, harvest
from titlesmith.harvest.schema import SCHEMA

__all__ = ["SCHEMA", "Papers", "check", "harvest"]
