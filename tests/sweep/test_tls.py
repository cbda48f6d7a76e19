"""The TLS commands of the page about clusters, executed as written."""

import os
import re
import subprocess
import sys
import time

import pytest

from conftest import ROOT

pytest.importorskip("distributed")
PAGE = (ROOT / "book" / "cluster.md").read_text("utf-8")
CONNECT = "from distributed import Client; print(Client('{}', timeout=5).submit(sum, [1, 2]).result(60))"


def test_a_scheduler_with_tls_accepts_only_holders_of_a_certificate(tmp_path):
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    (keys,) = [block for block in blocks if "openssl" in block]
    (commands,) = [block for block in blocks if "dask scheduler" in block]
    subprocess.run(["bash", "-e", "-c", keys], cwd=tmp_path, check=True, capture_output=True)
    scheduler, worker, *_ = re.findall(
        r"^dask (.*)$", commands.replace("\\\n", "").replace("10.0.0.5", "127.0.0.1"), re.M
    )
    scheduler = scheduler.replace("8787", "0") + " --port 0 --scheduler-file scheduler.json"
    worker = re.sub(r"tls://\S+", "--scheduler-file scheduler.json", worker).partition("#")[0] + " --no-nanny"
    secured = dict(re.findall(r"export (\w+)=(\S+)", commands))
    processes = []
    try:
        for words in (scheduler, worker):
            command = [sys.executable, "-m", f"distributed.cli.dask_{words.split()[0]}", *words.split()[1:]]
            processes.append(subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL))
            end = time.monotonic() + 60
            while not (tmp_path / "scheduler.json").exists() and time.monotonic() < end:
                time.sleep(0.1)
        address = re.search(r"tls://[\d.:]+", (tmp_path / "scheduler.json").read_text())[0]
        connect = [sys.executable, "-c", CONNECT.format(address)]
        done = subprocess.run(connect, cwd=tmp_path, env=os.environ | secured, capture_output=True, text=True)
        assert done.stdout == "3\n", done.stderr
        for stranger in (connect, [*connect[:2], connect[2].replace("tls:", "tcp:")]):
            assert subprocess.run(stranger, cwd=tmp_path, capture_output=True).returncode
    finally:
        for process in processes:
            process.kill()
            process.wait()
