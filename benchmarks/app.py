"""Measures parallel requests to the web page of a run: waiting times and failures.

    python benchmarks/app.py [--clients 10] [--seconds 60] [--run RUN]

Trains a small model on made-up papers, or uses a run of this project, and serves it with `titlesmith app`. Each client
requests five texts over HTTP, waits for them, and repeats this until the time is over. A request fails unless its
answer is five texts that begin with this client's prefix.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import psutil
import requests

ROOT = Path(__file__).parents[1]
RUN, COUNT = "sample-titles", 5


def train(folder: Path, steps: int) -> None:
    """Trains a run of made-up papers in a separate project."""
    for name in ("notebooks", "experiments"):
        shutil.copytree(ROOT / name, folder / name)
    command = [sys.executable, "-m", "titlesmith", "run", RUN, "-p", f"finetune.steps={steps}", "--until", "generate"]
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def ask(call: str, name: str, body: dict, until: float) -> list[dict]:
    """Sends requests until the time is over; returns the seconds and the error of each."""
    found = []
    while time.perf_counter() < until:
        start, wrong = time.perf_counter(), ""
        try:
            number = requests.post(f"{call}/v2/{name}", json=body, timeout=300).json()["event_id"]
            answer = requests.get(f"{call}/{name}/{number}", timeout=300)
            answer.encoding = "utf-8"
            event, data = re.findall(r"event: (\w+)\ndata: (.*)", answer.text)[-1]
            texts = json.loads(data)[0]["texts"] if event == "complete" else []
            if len(texts) != COUNT or not all(row["text"].startswith(body["begins_with"]) for row in texts):
                wrong = data[:200]
        except (requests.RequestException, KeyError, IndexError, ValueError) as error:
            wrong = str(error)
        found.append({"seconds": time.perf_counter() - start, "wrong": wrong})
    return found


def measure(run: str, folder: Path, clients: int, seconds: float) -> dict:
    """Serves a run to the clients, and measures."""
    command = [sys.executable, "-m", "titlesmith", "app", run, "--port", "7861"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        try:
            printed = next((line for line in server.stdout if line.startswith("open ")), None)
            if not printed:
                raise SystemExit("titlesmith app did not start; see above")
            call = f"{printed.split()[1]}/gradio_api/call"
            process = psutil.Process(server.pid)
            before, until = process.memory_info().rss, time.perf_counter() + seconds
            bodies = [{"begins_with": f"Study {i}", "count": COUNT} for i in range(clients)]
            with ThreadPoolExecutor(clients) as pool:
                answers = list(pool.map(lambda body: ask(call, "titles_from_a_beginning", body, until), bodies))
            grown = process.memory_info().rss - before
        finally:
            server.terminate()
    every = [answer for of in answers for answer in of]
    wrong = [answer["wrong"] for answer in every if answer["wrong"]]
    waits = [answer["seconds"] for answer in every]
    found = {"clients": clients, "requests": len(every), "failures": len(wrong)}
    found |= {"seconds_median": median(waits), "seconds_worst": max(waits)}
    found |= {"requests_fewest_of_a_client": min(map(len, answers)), "memory_growth_bytes": grown}
    return found | ({"first_failure": wrong[0]} if wrong else {})


def main() -> None:
    """Prints the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--run", help="a run of this project that continues titles; default: made-up papers")
    parser.add_argument("--steps", type=int, default=100, help="of the training on made-up papers")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="titlesmith-") as made:
        folder = Path(os.environ.get("TITLESMITH_ROOT", Path.cwd()) if asked.run else made)
        os.environ["TITLESMITH_ROOT"] = str(folder)
        if not asked.run:
            train(folder, asked.steps)
        found = measure(asked.run or RUN, folder, asked.clients, asked.seconds)
    for key, value in found.items():
        print(f"{key:<28} {value:>14,.2f}" if isinstance(value, float) else f"{key:<28} {value:>14}")
    print("target: no failures")
    if asked.json:
        print(json.dumps(found))
    sys.exit(bool(found["failures"]))


if __name__ == "__main__":
    main()
