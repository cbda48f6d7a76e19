"""A worker: a process that trains with rank 0 and has neither notebook nor files of its own."""

import json
import os
import sys
import threading
import traceback
from itertools import count

import torch
import torch.distributed as dist

from titlesmith import train as engines
from titlesmith.corpus import Corpus
from titlesmith.runs import Run
from titlesmith.train import distributed as processes
from titlesmith.train import launcher


def serve() -> None:
    """Takes part in every training that rank 0 begins, until it says that there will be no more."""
    store, rank = launcher.store(), launcher.rank()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)))
    for number in count(1):
        store.wait([str(number)], processes.FOREVER)
        task = json.loads(store.get(str(number)))
        if not task:
            return
        try:
            _train(task, store, number, rank)
        except Exception as error:
            if not store.check([f"{number}/left"]):  # else it is rank 0 that broke off, and tells why
                said = "".join(traceback.format_exception_only(error)).strip()
                store.set(f"{number}/failed", f"process {rank} failed: {said}")
                raise
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


def _train(task: dict, store: dist.Store, number: int, rank: int) -> None:
    os.environ["TITLESMITH_ROOT"] = task["root"]
    run, settings = Run(task["run"]), task["settings"]
    corpus = Corpus(run)
    engine = engines.start_engine(run, settings["model"], corpus, settings["seed"], settings["quantize"])
    store.set(f"{number}/ready/{rank}", "")
    group = processes.join(
        dist.PrefixStore(f"{number}/group", store), rank, settings["processes"], settings["sharding"]
    )
    engine.work(corpus, settings, group)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()  # until rank 0 is gone
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    serve()
