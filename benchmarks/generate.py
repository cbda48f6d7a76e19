"""Generates titles with stock gpt-2-simple, titlesmith, its int8 export and transformers, and compares them.

    python benchmarks/generate.py --titles 100 --rounds 1

The weights are GPT-2 124M's in size and layout, and random; every text goes on from one prefix for the same number of
new tokens. Each side has a process of its own, one after the other on the processor, in rounds; what loading and the
first call take is left out on all sides but stock's, whose every call adds to its graph:

stock         `gpt_2_simple.generate`, one call for all titles, ten side by side
titlesmith    `Engine.generate`, one call for all titles behind a first one
int8          the same through `titlesmith export --to ctranslate2`
transformers  `GPT2LMHeadModel.generate` in bfloat16, all titles side by side, behind a first call
repeated      calls of `Engine.generate` for ten titles in a row
quality       perplexity of a model trained on the titles of eess.AS, on its test titles, and that of its export
"""

import sys
import time
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import train
from train import RUN

NEW, PREFIX, SIDE = 24, "Neural", 10  # tokens of each text behind its prefix; titles that stock draws side by side
SETTINGS = {"temperature": 0.7, "top_k": 40, "max_tokens": NEW, "seed": 1}  # random weights hardly ever end a text
TRAINED = "trained"  # the run whose perplexity is told
SUFFIXES = {"stock": "_stock", "titlesmith": "", "int8": "_int8", "transformers": "_transformers"}
BARS = {
    "titles_per_second_ratio_to_stock": 20.0,
    "titles_per_second_ratio_to_transformers": 2.0,
    "int8_ratio_to_stock": 30.0,
    "int8_perplexity_ratio": 1.01,
    "last_call_ratio_to_second": 1.1,
}


def figures(seconds: float, cpu: float, titles: int, **more: object) -> dict:
    """What a side answers."""
    return {"seconds": seconds, "cpu_seconds": cpu, "titles": titles, "peak": train.peak()} | more


def timed(call, titles: int) -> dict:
    """Figures of a call whose result is a list of texts in ids."""
    start, cpu = time.perf_counter(), time.process_time()
    lengths = {len(ids) for ids in call()}
    return figures(time.perf_counter() - start, time.process_time() - cpu, titles, new_tokens=sorted(lengths))


def prepare(folder: Path, size: str, titles: int, calls: int) -> dict:
    """Weights in OpenAI's layout, a run that ends with them as its model, and its export."""
    from titlesmith.engines.gpt2 import GPT2Engine
    from titlesmith.export import export
    from titlesmith.run import Run

    train.prepare(folder, size, 1)
    run, engine = Run(RUN), GPT2Engine.load(folder / "models" / size, resume=False)
    for stage in ("harvest", "corpus"):
        run.finish(stage)
    run.begin("finetune", {})
    engine.keep(run / "model")
    run.finish("finetune")
    if find_spec("ctranslate2"):
        export(run, "ctranslate2")
    return {"prompt": engine.tokenizer.prompt(PREFIX, False)}


def stock(folder: Path, size: str, titles: int, calls: int) -> dict:
    """`gpt_2_simple.generate` as it comes."""
    import gpt_2_simple

    session, fetched = gpt_2_simple.start_tf_sess(), []
    with redirect_stdout(StringIO()):
        gpt_2_simple.load_gpt2(session, model_name=size, model_dir=str(folder / "models"))
    run = session.run
    session.run = lambda *args, **kwargs: fetched.append(run(*args, **kwargs)) or fetched[-1]

    def call():
        gpt_2_simple.generate(
            session, model_name=size, model_dir=str(folder / "models"), prefix=PREFIX, length=NEW, seed=1,
            nsamples=titles, batch_size=SIDE, temperature=SETTINGS["temperature"], top_k=SETTINGS["top_k"],
            return_as_list=True,
        )  # fmt: skip
        return [ids for out in fetched for ids in out]

    return timed(call, titles)


def _engine(exported: bool) -> tuple:
    from titlesmith import engines
    from titlesmith.engines.gpt2 import GPT2Engine
    from titlesmith.run import Run

    run = Run(RUN)
    engine = engines.load(run) if exported else GPT2Engine.load(run / "model", resume=False)
    return engine, [engine.tokenizer.prompt(PREFIX, False)]


def titlesmith(folder: Path, size: str, titles: int, calls: int, exported: bool = False) -> dict:
    """`Engine.generate`."""
    engine, prompt = _engine(exported)
    start = time.perf_counter()
    engine.generate(prompt, SETTINGS | {"count": titles})
    first = time.perf_counter() - start
    found = timed(lambda: [d.ids for d in engine.generate(prompt, SETTINGS | {"count": titles, "seed": 2})[0]], titles)
    return found | {"first": first}


def int8(folder: Path, size: str, titles: int, calls: int) -> dict:
    """The same through the export."""
    return titlesmith(folder, size, titles, calls, True)


def transformers(folder: Path, size: str, titles: int, calls: int) -> dict:
    """`GPT2LMHeadModel.generate`."""
    import torch

    model = train._gpt2(folder, size).to(torch.bfloat16).eval()
    model.config.use_cache = model.generation_config.use_cache = True
    _, prompt = _engine(False)
    asked = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": True, "pad_token_id": 0}
    asked |= {key: SETTINGS[key] for key in ("temperature", "top_k")}

    def call():
        ids = torch.tensor(prompt * titles)
        with torch.inference_mode():
            return model.generate(ids, attention_mask=torch.ones_like(ids), **asked)[:, ids.shape[1] :]

    call()
    return timed(call, titles)


def repeated(folder: Path, size: str, titles: int, calls: int) -> dict:
    """Seconds of calls in a row."""
    engine, prompt = _engine(False)
    seconds = []
    for seed in range(calls):
        start = time.perf_counter()
        engine.generate(prompt, SETTINGS | {"count": SIDE, "seed": seed})
        seconds.append(time.perf_counter() - start)
    return {"calls": seconds}


def quality(folder: Path, size: str, titles: int, calls: int) -> dict:
    """Perplexities on real test titles of a model trained on real titles, and of its export."""
    from titlesmith import corpus, engines
    from titlesmith.engines.gpt2 import GPT2Engine
    from titlesmith.experiment import Experiment
    from titlesmith.export import export
    from titlesmith.harvest import harvest
    from titlesmith.monitor import Monitor
    from titlesmith.run import Run

    steps = 150 if size == "124M" else 2
    every = [f"finetune.{name}_every=0" for name in ("validate", "sample", "save")]
    asked = (f"harvest.path={TITLES}", f"finetune.steps={steps}", *every)
    settings = Experiment.read(ROOT / "experiments" / "archive-titles.yml", asked).settings
    run = Run(TRAINED)
    run.begin("harvest", {})
    harvest(run, settings["harvest"])
    run.begin("corpus", {})
    built = corpus.build(run, settings["corpus"], None, context=SCRATCH["n_ctx"])
    run.begin("finetune", {})
    engine = engines.start(run, "scratch", built, settings["finetune"]["seed"])
    engine.finetune(built, settings["finetune"], Monitor(run, settings["finetune"]))
    run.finish("finetune")
    export(run, "ctranslate2")
    documents = built.documents("test")
    rows = [[engine.tokenizer.end, *document.tolist()] for document in documents]
    nats = np.concatenate(engines.load(run).scores(rows))
    full = GPT2Engine.load(run / "model", resume=False).loss(documents)
    return {"full": float(np.exp(full)), "int8": float(np.exp(-nats.mean())), "titles": len(rows), "steps": steps}
