"""Downloads of OpenAI's models: resumed where they broke off, and checked before they count as models.

A file is written to a hidden name that holds which version of it this is, and renamed when it is whole. `checkpoint`,
without which a folder is no model, comes last, after the weights were read through.
"""

import base64
import hashlib
import json
import os
import shutil
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import requests
from filelock import FileLock
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from titlesmith.errors import FetchError, RequestError, RunError
from titlesmith.models import hub
from titlesmith.models.catalogue import GPT2, HYPERPARAMETERS, OPENAI, folder, lacking, place, remedy, shapes
from titlesmith.models.machine import tensorflow
from titlesmith.runs.record import digest, replacing

SERVER = "https://openaipublic.blob.core.windows.net/gpt-2/models"
VARIABLE = "TITLESMITH_MODELS"  # the address of a mirror
SHA256 = {  # the same for all four models
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
SUMS = ".SHA256SUMS"  # hidden, as it is no part of what a run's fingerprint covers; `sha256sum -c` reads it
TIMEOUT = 30  # seconds without an answer, and without a byte
TRIES, PAUSE = 5, 1.0  # of a body that breaks off, without a byte more; seconds before the second, then doubled
CHUNK = 1 << 20  # bytes


def fetch(name: str) -> None:
    """Downloads a model of OpenAI's or of the hub where it is missing; other names are left to `catalogue.folder`."""
    if hub.is_hub(name) and name != "hf:scratch":
        hub.folder(name)
    if name in GPT2 and lacking(place(name)):
        get(name)


def get(name: str) -> Path:
    """Downloads a model of OpenAI's, or checks the one that is here.

    Parameters
    ----------
    name
        One of ``GPT2``. The files come from OpenAI's server, or the one that the environment variable
        ``TITLESMITH_MODELS`` gives, which has ``<name>/hparams.json`` and the others.

    Returns
    -------
    Path
        Its folder.

    Raises
    ------
    RequestError
        There is no such model to download.
    FetchError
        The server cannot be reached, or what it sent is not the model. What is good of it is kept, and the same
        command goes on from there.
    RunError
        The disk is full, or a file that is here is not what was once downloaded.
    """
    if name not in GPT2:
        raise RequestError(f"models get {name}: there is no such model to download. Names: {', '.join(GPT2)}")
    path = place(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{name}.lock")):  # a second process waits, and then finds the model
        known = _sums(path)
        if lacking(path):
            _download(name, path, known)
        elif not known:
            verify(path, GPT2[name])
        for file, known_sum in known.items():
            if digest(path / file) != known_sum:
                raise RunError(
                    f"{path / file} is not what was downloaded: its SHA-256 is no longer {known_sum}. Remove it, "
                    f"and `titlesmith models get {name}` fetches it again"
                )
        if not known:
            _keep_sums(path)
    return folder(name)


def _download(name: str, path: Path, known: dict[str, str]) -> None:
    address = f"{os.environ.get(VARIABLE) or SERVER}/{name}"
    with requests.Session() as session, _told(name, address):
        retry = Retry(total=3, connect=1, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
        session.mount("http", HTTPAdapter(max_retries=retry))
        session.headers["Accept-Encoding"] = "identity"  # lengths are those of the files
        remotes = [Remote.ask(session, f"{address}/{file}", path / file) for file in OPENAI]
        missing = [remote for remote in remotes if not remote.path.is_file()]
        for remote in remotes:
            if remote not in missing and remote.path.stat().st_size != remote.length:
                raise RunError(
                    f"{remote.path} has {remote.path.stat().st_size:,} bytes, {remote.url} has {remote.length:,}. "
                    "Remove it, and the same command fetches it"
                )
        fetched = [remote.path.name for remote in missing]
        have = sum(remote.have for remote in missing)
        room, need = shutil.disk_usage(path.parent).free, sum(remote.length for remote in missing) - have
        if need > room:
            raise RunError(f"{path}: {name} needs {need:,} bytes more there and {room:,} are free. Free the rest")
        path.mkdir(exist_ok=True)
        print(f"downloading {name} from {address}" + (", from where it broke off" if have else ""))
        with tqdm(desc=name, total=need + have, initial=have, unit="B", unit_scale=True, mininterval=0.5) as bar:
            for file, remote in zip(fetched, missing, strict=True):
                if file == OPENAI[-1]:
                    verify(path, GPT2[name], fetched)
                remote.download(session, bar, known.get(file) or SHA256.get(file))
        if OPENAI[-1] not in fetched:  # it was here before, and what it names is new
            verify(path, GPT2[name], fetched)


@contextmanager
def _told(name: str, address: str) -> Iterator[None]:
    """Errors of the network and of the disk in words that say what to do."""
    try:
        yield
    except requests.RequestException as error:
        why = getattr(error.args[0] if error.args else error, "reason", error)
        raise FetchError(f"{address} cannot be reached: {why}. {remedy(name)}. {VARIABLE} sets a mirror") from error
    except OSError as error:  # a full disk foremost
        raise RunError(
            f"{place(name)}: {error.strerror or error}. What was downloaded is kept: free some space, and "
            "the same command goes on from there"
        ) from error


@dataclass(frozen=True)
class Remote:
    """A file on the server.

    Attributes
    ----------
    url, path
        Where it is, and where it goes.
    length
        In bytes.
    version
        A strong ETag, or when it was last modified: what it takes to go on with a part of it. Empty where the server
        says neither; then a broken download starts anew.
    md5
        Where the server gives one, in hexadecimal.
    """

    url: str
    path: Path
    length: int
    version: str
    md5: str

    @classmethod
    def ask(cls, session: requests.Session, url: str, path: Path) -> "Remote":
        """What the server says of a file, before anything is downloaded."""
        answer = session.head(url, timeout=TIMEOUT, allow_redirects=True)
        _check(answer, 200)
        if not int(answer.headers.get("Content-Length", 0)):
            raise FetchError(f"{url}: the server does not say how long it is, so that nobody could tell a part of it")
        tag, date = answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", "")
        md5 = base64.b64decode(answer.headers.get("Content-MD5", "")).hex()
        remote = cls(url, path, int(answer.headers["Content-Length"]), tag if tag.startswith('"') else date, md5)
        for other in path.parent.glob(f".{path.name}.*.partial"):
            if other != remote.partial or not remote.version:
                other.unlink()
        return remote

    @property
    def partial(self) -> Path:
        """Where it lies until it is whole; the name tells versions apart."""
        version = hashlib.sha256(f"{self.version} {self.length}".encode()).hexdigest()[:12]
        return self.path.with_name(f".{self.path.name}.{version}.partial")

    @property
    def have(self) -> int:
        """Bytes that are here of this version."""
        size = self.partial.stat().st_size if self.partial.exists() else 0
        return size if size <= self.length else 0

    def download(self, session: requests.Session, bar: tqdm, sha256: str | None) -> None:
        """Fetches what is missing of it and checks the whole (FetchError)."""
        tries = 0
        while (have := self.have) < self.length:
            try:
                self._read(session, have, bar)
            except (requests.RequestException, HTTPError) as error:  # the connection broke off
                reason = error.args[0]
            else:
                reason = f"the server sent {self.have:,} bytes of {self.length:,}"
            tries = 1 if self.have > have else tries + 1
            if self.have < self.length:
                if tries == TRIES:
                    raise FetchError(
                        f"{self.url} broke off {tries} times at {self.have:,} bytes ({reason}). They are kept: the "
                        "same command goes on from there"
                    )
                time.sleep(PAUSE * 2 ** (tries - 1))
        expected = {"sha256": sha256, "md5": self.md5}
        with self.partial.open("rb") as file:
            for method, value in expected.items():
                file.seek(0)
                if value and hashlib.file_digest(file, method).hexdigest() != value:
                    self.partial.unlink()
                    raise FetchError(
                        f"{self.url} is not what it should be: its {method} is not {value}. It was removed; the same "
                        "command fetches it again"
                    )
        self.partial.replace(self.path)

    def _read(self, session: requests.Session, have: int, bar: tqdm) -> None:
        asked = {"Range": f"bytes={have}-", "If-Range": self.version} if have else {}
        with session.get(self.url, headers=asked, stream=True, timeout=TIMEOUT) as answer:
            _check(answer, 200, 206)
            goes_on = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if answer.status_code == 206 and not goes_on:
                raise FetchError(f"{self.url}: asked from byte {have}, the server sent another part")
            if answer.status_code == 200:  # all of it, asked or not
                bar.update(-have)
            with self.partial.open("ab" if goes_on else "wb") as file:
                while chunk := answer.raw.read1(CHUNK):  # what came before a break is written too
                    bar.update(file.write(chunk))
                    file.flush()


def _check(answer: requests.Response, *expected: int) -> None:
    if answer.status_code not in expected:
        raise FetchError(f"{answer.url}: the server answered {answer.status_code} {answer.reason}, which is no model")
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise FetchError(f"{answer.url}: the server answered with a web page. Is this a network that asks to log in?")


def verify(path: Path, hyperparameters: dict, fetched: Container[str] = ()) -> None:
    """Checks that a folder's files are one model, and reads all weights, which have checksums in the index.

    Parameters
    ----------
    path
        Where `OPENAI`'s files are; `checkpoint` may be missing.
    hyperparameters
        What the model should be.
    fetched
        Files that were downloaded just now: they are removed where they are to blame, so that the next download
        fetches them again. Others are never removed.

    Raises
    ------
    FetchError
        hparams.json is another model's, the vocabulary has another size, or a variable is missing, has another shape
        or is damaged.
    """
    tf = tensorflow()

    def refuse(file: str, why: str) -> NoReturn:
        if file in fetched:
            (path / file).unlink()
        remove = "It was removed: the" if file in fetched else "Remove it, and the"
        raise FetchError(f"{path / file}: {why}. {remove} same command fetches it again")

    for file, key in ((HYPERPARAMETERS, "n_embd"), ("encoder.json", "n_vocab")):
        try:
            found = json.loads((path / file).read_text("utf-8"))
        except ValueError as error:
            refuse(file, f"it is no JSON ({error})")
        if file == HYPERPARAMETERS and found != hyperparameters:
            refuse(file, f"it says {found}, the model has {hyperparameters}")
        if file != HYPERPARAMETERS and len(found) != hyperparameters[key]:
            refuse(file, f"it has {len(found)} entries, the model has {hyperparameters[key]}")
    try:
        reader = tf.train.load_checkpoint(str(path / "model.ckpt"))
        stored = reader.get_variable_to_shape_map()
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        refuse("model.ckpt.index", f"it is damaged ({error})")
    for name, shape in shapes(hyperparameters).items():
        if stored.get(name) != shape:
            refuse("model.ckpt.index", f"{name} is {stored.get(name, 'missing')}, {HYPERPARAMETERS} asks for {shape}")
        try:
            reader.get_tensor(name)
        except (tf.errors.OpError, RuntimeError, ValueError) as error:
            refuse(OPENAI[-2], f"{name} is damaged ({error})")


def _sums(path: Path) -> dict[str, str]:
    lines = (path / SUMS).read_text("utf-8").splitlines() if (path / SUMS).is_file() else []
    return dict(line.split("  ")[::-1] for line in lines)


def _keep_sums(path: Path) -> None:
    with replacing(path / SUMS) as temporary:
        temporary.write_text("".join(f"{digest(path / file)}  {file}\n" for file in OPENAI), "utf-8")
