"""Source ``sample``: papers made up from a small grammar, for trying titlesmith without a network.

They are no real papers and are labelled as made up wherever they show: their ids begin with ``sample.`` and their
categories with ``made-up.``.
"""

import random
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import polars as pl

from titlesmith.harvest.faults import Faults

FIRST_DAY, DAYS = date(2019, 1, 1), 2190
FIELDS = {
    "speech": {
        "task": "Speech Recognition|Speaker Verification|Voice Conversion|Speech Synthesis|Keyword Spotting|"
        "Speech Enhancement|Emotion Recognition|Language Identification|Speaker Diarization|Speech Translation|"
        "Voice Activity Detection|Pronunciation Scoring",
        "data": "Whispered Speech|Telephone Calls|Children's Voices|Low-Resource Languages|Noisy Rooms|"
        "Accented Speech|Far-Field Microphones|Broadcast News|Meetings|Dysarthric Speakers",
        "object": "Speaker Embeddings|Spectrograms|Phoneme Posteriors|Raw Waveforms|Filter Banks|Prosody",
    },
    "music": {
        "task": "Music Generation|Beat Tracking|Chord Recognition|Music Transcription|Source Separation|"
        "Genre Classification|Cover Song Detection|Music Recommendation|Singing Voice Synthesis|Melody Extraction|"
        "Instrument Recognition|Music Tagging",
        "data": "Piano Recordings|Folk Songs|Orchestral Scores|Drum Loops|Jazz Solos|Live Concerts|Choir Singing|"
        "Game Soundtracks|Symbolic Scores|Carnatic Music",
        "object": "Chroma Features|Tempo Curves|Note Onsets|Harmonic Spectra|Lyrics|Timbre",
    },
    "sound": {
        "task": "Sound Event Detection|Acoustic Scene Classification|Audio Captioning|Source Localization|"
        "Audio Retrieval|Bird Call Identification|Echo Cancellation|Audio Coding|Anomaly Detection|"
        "Room Impulse Estimation|Audio Inpainting|Machine Condition Monitoring",
        "data": "Urban Streets|Rain Forests|Factory Floors|Hearing Aids|Underwater Recordings|Weakly Labelled Clips|"
        "Home Assistants|Traffic Noise|Small Microphone Arrays|Hospital Wards",
        "object": "Log-Mel Patches|Reverberation Times|Wavelet Coefficients|Arrival Angles|Scattering Maps|Envelopes",
    },
}
COMMON = {
    "adjective": "Efficient|Robust|Self-Supervised|End-to-End|Adaptive|Hierarchical|Lightweight|Joint|Multi-Task|"
    "Unsupervised|Interpretable|Real-Time|Contrastive|Streaming|Probabilistic|Few-Shot",
    "method": "Neural Networks|Attention Models|Neural Transducers|Variational Autoencoders|Graph Networks|"
    "Recurrent Networks|Diffusion Models|Knowledge Distillation|Transfer Learning|Adversarial Training|"
    "Convolutional Encoders|Mixture Models|Transformers|Meta-Learning|Data Augmentation|Neural Vocoders|"
    "Sparse Coding|Tensor Factorization|Curriculum Learning|Normalizing Flows",
    "aspect": "Generalization|Robustness|Calibration|Complexity|Limits|Stability|Fairness|Scaling Behaviour",
    "study": "Comparison|Study|Survey|Benchmark|Large-Scale Evaluation|Reproducibility Study",
}
TITLES = (
    "{adjective} {method} for {task}",
    "{adjective} {task} with {method}",
    "{method} for {task} in {data}",
    "{adjective} {task} from {object}",
    "{task} in {data} Using {method}",
    "Towards {adjective} {task} for {data}",
    "On the {aspect} of {method} for {task}",
    "A {study} of {method} for {task}",
    "Neural {task} in {data}",
    "Learning {object} with {method} for {task}",
    "{task}: A {study} on {data}",
    "How {adjective} Is {task} in {data}?",
    "{adjective} {method} on {object} for {task}",
    "From {object} to {task}: {adjective} {method}",
)
SENTENCES = (
    "We study {task} in {data}, where labelled examples are scarce.",
    "This paper proposes {adjective} {method} that operate on {object}.",
    "Existing approaches to {task} rely on {method} and break down in {data}.",
    "Experiments on {data} show a relative improvement of {percent} percent over a strong baseline.",
    "We further analyse the {aspect} of the proposed system and release the code.",
    "An ablation shows that {object} account for most of the gain.",
    "The model runs in real time and needs {percent} percent fewer parameters.",
)
SURNAMES = "Abelmann Brookfeld Castellar Dunmore Eskerud Farnleigh Grindle Hollowick Ishikura Jorvald Kestrane Lomvard"


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Makes ``settings["num_papers"]`` papers with distinct titles, the same for the same ``settings["seed"]``."""
    random_state = random.Random(settings["seed"])
    rows: dict[str, dict] = {}
    while len(rows) < settings["num_papers"]:
        field = random_state.choice(list(FIELDS))
        words = {k: v.split("|") for k, v in (COMMON | FIELDS[field]).items()}
        title = random_state.choice(TITLES).format_map({k: random_state.choice(v) for k, v in words.items()})
        if title in rows:
            continue
        subject = {k: random_state.choice(v).lower() for k, v in words.items()}
        subject |= {"task": next((t.lower() for t in words["task"] if t in title), subject["task"])}
        sentences = random_state.sample(SENTENCES, k=random_state.randint(4, 6))
        abstract = " ".join(s.format(percent=random_state.randint(3, 60), **subject) for s in sentences)
        # More papers in later years, as on arXiv: the square root of a uniform number leans towards one.
        published = FIRST_DAY + timedelta(days=int(DAYS * random_state.random() ** 0.5))
        rows[title] = {
            "id": f"sample.{len(rows) + 1:05d}",
            "title": title,
            "abstract": abstract,
            "authors": random_state.sample(SURNAMES.split(), k=random_state.randint(1, 4)),
            "categories": [f"made-up.{field}"],
            "primary_category": f"made-up.{field}",
            "published": published,
            "comments": "Made up by titlesmith's sample grammar; no real paper",
        }
    yield pl.DataFrame(list(rows.values()))
