"""The experiments against tables typed from the reports that they repeat."""

import csv
import inspect

import gpt_2_simple
import pytest

from conftest import ROOT
from titlesmith import sweep
from titlesmith.experiment import Experiment
from titlesmith.sweep.plan import group

SIZES = {"82M": "82M", "117M": "124M", "345M": "355M", "774M": "774M"}  # the reports' names and the catalogue's
# Columns as printed: the value, train loss, valid loss, then train and valid perplexity, or valid perplexity alone
ABLATIONS = {
    "final-accumulation": ("finetune.accumulate", """
        1 3.0095 3.0871 20.2781 21.9143
        2 3.0758 3.1319 21.6677 22.9174
        4 3.1434 3.182 23.1828 24.0938
        8 3.2081 3.2336 24.7326 25.372"""),
    "final-block-size": ("finetune.block_size", """
        512 3.0095 3.0871 20.2781 21.9143
        256 3.0016 3.1042 20.1196 22.2923
        128 3.3092 3.1783 20.8875 24.0068
        64 3.1322 3.3147 22.924 27.5139
        32 3.2962 3.5234 27.0104 33.8991"""),
    "final-weight-decay": ("finetune.weight_decay", """
        0 3.0095 3.0871 20.2781 21.9143
        0.01 3.0089 3.0867 20.2649 21.9037
        0.1 3.0035 3.0826 20.1554 21.8151"""),
    "final-epochs": ("finetune.epochs", """
        3 3.1033 3.151 22.2714 23.3595
        4 3.0516 3.1144 21.1488 22.5199
        5 3.0095 3.0871 20.2781 21.9143
        6 2.9745 3.0659 19.5802 21.4529
        7 2.9438 3.0488 18.9873 21.089"""),
    "final-batch-size": ("finetune.batch_size", """
        8 3.0095 3.0871 20.2781 21.9143
        4 2.947 3.0503 19.0482 21.1207
        2 2.8876 3.0222 17.9502 20.5368
        1 2.8397 3.0118 17.1101 20.3245"""),
    "midterm-accumulation": ("finetune.accumulate", """
        1 3.0831 3.0325 20.7482
        2 3.0807 3.1477 21.7742
        4 3.4063 3.1555 22.9729
        8 3.4366 3.1894 24.2736
        16 3.5676 3.2508 25.8111"""),
    "midterm-block-size": ("finetune.block_size", """
        512 3.2031 3.032 20.7390
        256 3.2037 3.0420 20.9478
        128 3.1040 3.2537 22.2870
        64 3.3570 3.2216 25.0681
        32 3.5237 3.4082 30.2093"""),
    "midterm-weight-decay": ("finetune.weight_decay", """
        0 3.2031 3.0320 20.7390
        0.01 3.2029 3.0316 20.7308
        0.1 3.2006 3.0282 20.6603"""),
    "midterm-epochs": ("finetune.epochs", """
        3 3.2031 3.0320 20.7390
        4 3.1533 2.9936 19.9578
        5 3.1119 2.9644 19.3834
        6 3.0787 2.9413 18.9397
        7 3.0501 2.9222 18.5826"""),
    "midterm-batch-size": ("finetune.batch_size", """
        8 3.2031 3.0320 20.7390
        4 3.1524 2.9900 19.8856
        2 3.1107 2.9534 19.1710
        1 3.0821 2.9306 18.7386"""),
}  # fmt: skip
# Of each size: block, batch, accumulation, learning rate, epochs
TABLE_2 = """
    82M 512 1 1 5e-5 5
    117M 512 1 1 5e-5 5
    345M 512 1 1 2e-5 5
    774M 512 1 1 1e-5 5"""
TABLE_3 = """
    82M 512 8 1 5e-5 3
    117M 512 8 1 5e-5 3
    345M 512 2 1 5e-5 3
    774M 512 1 1 5e-5 3"""
# Losses of train, valid and test, then perplexities
TABLE_8 = """
    82M 2.8394 3.0111 2.9996 17.1063 20.3107 20.0768
    117M 2.6216 2.8779 2.8686 13.7579 17.7773 17.6126
    345M 2.2768 2.7907 2.7825 11.818 16.2921 16.1589
    774M 2.2614 2.7126 2.7041 9.5962 15.0679 14.9413"""
# Losses of train and valid, valid perplexity, hours
TABLE_9 = """
    82M 3.2031 3.0320 20.7390 1
    117M 2.8777 2.8563 17.3945 2
    345M 2.4625 2.5929 13.3630 12
    774M 1.9420 2.4870 12.2430 31"""
COMMON = {"final": {"epochs": 5, "batch_size": 8}, "midterm": {"epochs": 3, "batch_size": 8}}
UNVARIED = {"block_size": 512, "accumulate": 1, "learning_rate": 5e-5, "weight_decay": 0, "warmup_steps": 0}


def rows(table: str) -> list[list[str]]:
    return [line.split() for line in table.split("\n") if line.strip()]


def plan(name: str) -> sweep.Plan:
    return sweep.read(f"sweeps/{name}", remarks=[])


def measured(row: dict) -> dict:
    return {key: value for key, value in row.items() if key not in ("set", "source")}


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_has_the_settings_and_the_results_of_its_table(project, name):
    (key, table), report = ABLATIONS[name], name.partition("-")[0]
    made, expected = plan(name), rows(table)
    assert [point.set for point in made.points] == [{key: float(row[0])} for row in expected]
    columns = ["loss.train", "loss.valid", "perplexity.train", "perplexity.valid"]
    columns = columns if report == "final" else [*columns[:2], columns[3]]
    assert [row["set"] for row in made.file.reference] == [point.set for point in made.points]
    assert [measured(row) for row in made.file.reference] == [
        dict(zip(columns, map(float, row[1:]), strict=True)) for row in expected
    ]
    for point in made.points:
        settings = point.experiment.settings["finetune"] | {"model": "82M"}
        varied = key.partition(".")[2]
        assert {k: v for k, v in settings.items() if k in UNVARIED and k != varied} == {
            k: v for k, v in UNVARIED.items() if k != varied
        }
        assert all(settings[k] == v for k, v in COMMON[report].items() if k != varied)
        assert point.experiment.settings["finetune"]["model"] == "82M"


@pytest.mark.parametrize(
    ("name", "table", "results", "columns"),
    [
        (
            "final-sizes",
            TABLE_2,
            TABLE_8,
            [f"{m}.{s}" for m in ("loss", "perplexity") for s in ("train", "valid", "test")],
        ),
        ("midterm-sizes", TABLE_3, TABLE_9, ["loss.train", "loss.valid", "perplexity.valid", "hours"]),
    ],
)
def test_the_sizes_have_the_settings_and_the_results_of_their_tables(project, name, table, results, columns):
    made = plan(name)
    assert len(made.points) == 4
    for point, (size, *values) in zip(made.points, rows(table), strict=True):
        settings = point.experiment.settings["finetune"]
        assert point.set == {"case": size} and settings["model"] == SIZES[size]
        named = ("block_size", "batch_size", "accumulate", "learning_rate", "epochs")
        assert [settings[key] for key in named] == list(map(float, values))
        assert settings["weight_decay"] == settings["warmup_steps"] == 0
    assert [(row["set"]["case"], measured(row)) for row in made.file.reference] == [
        (size, dict(zip(columns, map(float, values), strict=True))) for size, *values in rows(results)
    ]


def settings(name: str) -> dict:
    return Experiment.read(ROOT / "experiments" / f"{name}.yml", remarks=[]).settings


def test_the_abstracts_have_the_reports_papers_splits_and_prompts(project):
    final, midterm = settings("title-to-abstract"), settings("category-title-to-abstract")
    for own in (final, midterm):
        assert set(own["harvest"]["categories"]) == {"cs.AI", "cs.LG", "cs.CL", "cs.CV"}
        assert own["harvest"]["until"] == "2019-12-31" and own["finetune"]["train_on_prompt"]
    assert final["corpus"]["split"] == [0.9, 0.05, 0.05] and final["corpus"]["order"] == "date"
    assert midterm["corpus"]["split"][0] == 0.9
    assert midterm["corpus"]["template"] == "<|{subject}|> {title} -> {abstract}", "as in figure 1"
    assert len(final["generate"]["prompts"]) == 20 and len(midterm["generate"]["prompts"]) == 12
    assert final["generate"]["prompts"][2]["title"] == "Negated LAMA: Birds cannot fly"
    assert [row["subject"] for row in midterm["generate"]["prompts"]] == [
        s for s in ("AI", "LG", "CL", "CV") for _ in "123"
    ]
    for path in (ROOT / "experiments" / "prompts").glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            assert all(row["title"] and None not in row for row in csv.DictReader(file))


def test_the_titles_of_eess_have_gpt_2_simples_settings(project):
    made = plan("eess-titles")
    theirs, ours = (point.experiment.settings for point in made.points)
    training = {"steps": 500, "sample_every": 25, "save_every": 50, "block_size": 1024, "loss_floor": 0.1}
    defaults = inspect.signature(gpt_2_simple.finetune).parameters
    named = {"batch_size": "batch_size", "accumulate": "accumulate_gradients", "learning_rate": "learning_rate"}
    training |= {key: defaults[name].default for key, name in named.items()} | {"schedule": "constant", "model": "124M"}
    assert theirs["finetune"].items() >= training.items() and training["accumulate"] == 5
    assert theirs["corpus"]["lowercase"] and theirs["corpus"]["delimiters"] == "text"
    assert theirs["generate"]["prefixes"] == ["", "Neural", "Music"] and theirs["generate"]["count"] == 10
    recommended = settings("arxiv-titles")
    for stage in ("corpus", "finetune"):
        assert ours[stage] == recommended[stage]
    assert [measured(row) for row in made.file.reference] == [{"artifact_rate": rate} for rate in (0.4, 0, 0.6)]


def test_chatgentitle_has_its_commands_and_alpaca_loras_defaults(project):
    alone = settings("abstract-to-title")
    training = {"epochs": 3, "learning_rate": 0.0003, "warmup_steps": 100, "quantize": "8bit", "train_on_prompt": True}
    training |= {"lora_rank": 8, "lora_alpha": 16, "lora_dropout": 0.05, "lora_targets": ["q_proj", "v_proj"]}
    assert alone["finetune"].items() >= training.items() and alone["corpus"]["template"] == "chatgentitle"
    assert alone["finetune"]["batch_size"] * alone["finetune"]["accumulate"] == 128
    made = plan("chatgentitle")
    cases = {point.set["case"]: point.experiment.settings["finetune"] for point in made.points}
    for name in ("7B-3", "7B-cs-3", "7B-cs-6", "13B-3"):
        rows, processes = cases[name]["batch_size"], cases[name]["processes"]
        assert rows // processes == 128 and rows * cases[name]["accumulate"] == 1024 and processes == 4
        assert name.partition("-")[0].lower() in cases[name]["model"] and cases[name]["epochs"] == int(name[-1])
        papers = next(p.experiment.settings["harvest"] for p in made.points if p.set["case"] == name)
        assert papers["categories"] == ["cs"] * ("cs" in name)
    for name in ("one-gpu", "qkvo"):
        assert cases[name]["batch_size"] * cases[name]["accumulate"] == 128 and cases[name]["processes"] == 1
    assert (
        cases["qkvo"]["lora_targets"] == ["q_proj", "k_proj", "v_proj", "o_proj"] and cases["qkvo"]["lora_rank"] == 16
    )
    assert [(row["set"]["case"], row["hours"]) for row in made.file.reference] == [
        ("7B-3", 9), ("7B-3", 12.5), ("7B-cs-3", 20.5), ("7B-cs-6", 34), ("13B-3", 26),
    ]  # fmt: skip


def test_the_synopses_have_the_reports_schedule_and_cleaning(project):
    own = settings("synopses")
    assert own["finetune"].items() >= {"epochs": 6, "warmup_steps": 10, "schedule": "linear"}.items()
    assert own["corpus"]["paragraphs"] == "keep" and own["corpus"]["max_characters"] and own["corpus"]["drop"]
    (row,) = plan("synopses-epochs").file.reference
    assert measured(row) == {"loss.train": 1.05, "hours": 0.83} and row["set"] == {"finetune.epochs": 6}


def test_decoding_trains_once_and_papers_are_harvested_once(project):
    first, *others = plan("decoding").points
    groups = group((first, *others))
    assert all(groups[point.name]["finetune"][0] == first.name for point in others), "all link the first run's model"
    assert len({names["generate"][0] for names in groups.values()}) == len(groups)
    papers = group(plan("training-papers").points).values()
    assert len({own["harvest"][0] for own in papers}) == 1 and len({own["corpus"][0] for own in papers}) == len(papers)


def test_the_error_types_of_the_reports_are_in_the_book():
    with (ROOT / "book" / "error-types.csv").open(encoding="utf-8", newline="") as file:
        types = {row["error"]: row for row in csv.DictReader(file) if "report" in row["where a report names it"]}
    own = {"structure", "domain terms", "key terms", "abbreviations", "LaTeX", "grammar", "coherence"}
    assert own <= types.keys() and all(row["what is wrong"] and None not in row for row in types.values())
    assert {name for name in own if types[name]["of"] == "abstracts"} == {"structure", "key terms", "abbreviations"}
