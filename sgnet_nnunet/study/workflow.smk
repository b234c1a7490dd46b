# The study as a workflow of Snakemake: one rule a kind of step. `sgnet study` writes what each step is to do,
# which is its input, and runs this file. A step's output lists the checksums of what it has made.
import json
import shlex
import sys

with open("study/plan.json", encoding="utf-8") as file:
    PLAN = json.load(file)
PYTHON = shlex.quote(sys.executable).replace("{", "{{").replace("}", "}}")  # Snakemake formats commands


def of_step(kind, value):
    return lambda wildcards: value(PLAN[f"{kind}/{wildcards.name}"])


def resource(kind, name):
    return of_step(kind, lambda step: step["resources"].get(name, 0))


rule all:
    input:
        "study/done/report/study.json",


for kind in dict.fromkeys(name.partition("/")[0] for name in PLAN):

    rule:
        name:
            kind
        input:
            step=f"study/steps/{kind}/{{name}}.json",
            needs=of_step(kind, lambda step: [f"study/done/{need}.json" for need in step["needs"]]),
        output:
            f"study/done/{kind}/{{name}}.json",
        threads: of_step(kind, lambda step: step["cpus"])
        retries: max(step["retries"] for name, step in PLAN.items() if name.startswith(f"{kind}/"))
        resources:
            runtime=resource(kind, "runtime"),
            mem_mb=resource(kind, "mem_mb"),
            gpu=resource(kind, "gpu"),
            data=resource(kind, "data"),
        params:
            step=f"{kind}/{{name}}",
        shell:
            f"exec {PYTHON} -m sgnet_nnunet.study.runner . " + "{params.step} {threads} {resources.gpu}"
