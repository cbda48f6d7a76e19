"""Launchers, ``torchrun`` and ``accelerate launch``, start a command many times at once, as rank 0, 1, 2 and so on.

Rank 0 runs the notebooks. The other ranks have none: they wait for the training in the kernel of its notebook 03, which
has rank 0's environment, and take part in it (`titlesmith.train.worker`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store

HOSTED = "TORCHELASTIC_USE_AGENT_STORE"  # whether the launcher itself, and not rank 0, has the store


def rank() -> int:
    """The number of this process; 0 without a launcher."""
    return int(os.environ.get("RANK", 0))


def size() -> int:
    """How many processes the launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "MASTER_ADDR" in os.environ else 1


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What a launcher on this machine, with its store at a port, would set for a rank."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", HOSTED: "True"} | {key: str(number) for key, number in numbers.items()}


def overrides() -> tuple[str, ...]:
    """The parameters that the launcher decides."""
    if size() == 1:
        return ()
    # transformers would act on accelerate's variable too, when it reads a model
    sharded = os.environ.pop("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")
    return (f"finetune.processes={size()}", *(["finetune.sharding=full"] if sharded else []))


def store() -> "Store":
    """Where the processes meet: torch's store, at the launcher or, where that has none, in rank 0 which asks first."""
    from torch.distributed import PrefixStore, TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    host = rank() == 0 and os.environ.get(HOSTED) != "True"
    found = TCPStore(address, port, is_master=host, wait_for_workers=False, timeout=timedelta(minutes=5))
    os.environ[HOSTED] = "True"  # for the kernels of rank 0
    return PrefixStore(prefix(), found)


def prefix() -> str:
    """What the names of all that is in the store begin with: another for each restart by the launcher."""
    return f"titlesmith/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"


@contextmanager
def leading() -> Iterator[None]:
    """In rank 0: lets the other ranks end when the block does, whether anything was trained or not."""
    if size() == 1:
        yield
        return
    meeting = store()
    try:
        yield
    finally:
        meeting.set(str(meeting.add("trainings", 1)), "null")
