"""Generation: texts of a model that begin with their prefix, are clean, and are new where they must be."""

from titlesmith.generate.backend import Backend, Completion, GenerationSettings
from titlesmith.generate.generator import TextGenerator, is_clean
from titlesmith.generate.nearest import Nearest
from titlesmith.generate.prompts import Request, relevance, requests
from titlesmith.generate.source import backend_for, open_backend, save_backend
from titlesmith.generate.texts import Probe, write_texts
