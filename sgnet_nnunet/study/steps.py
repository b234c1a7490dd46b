"""The steps of a study: their commands, what they need, what they make and what they cost."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.files import make_folder, read_json, write_text
from sgnet_nnunet.nnunet import FOLDER_VARIABLES, find_masks
from sgnet_nnunet.study.actions import list_images
from sgnet_nnunet.study.costs import CASE_MB, Cost, prediction_cost, preprocessing_cost, training_cost
from sgnet_nnunet.study.runner import CPUS, LOGS, STEPS
from sgnet_nnunet.study.study_file import (
    LEAVE_ONE_OUT,
    SCHEDULE,
    TEST_CASES,
    Network,
    PredictionSet,
    StudyFile,
    data_owner,
    is_remote,
)

PLAN = "study/plan.json"
DEFAULT_PATCH, DEFAULT_BATCH = (32, 96, 96), 4
_VARIABLES = {
    "epochs": "SGNET_EPOCHS",
    "iterations": "SGNET_ITERS",
    "validation_iterations": "SGNET_VAL_ITERS",
}
_FIND_BEST = """
import json, sys
from nnunetv2.evaluation.find_best_configuration import find_best_configuration
models, folds, ensembles, processes = map(json.loads, sys.argv[2:])
find_best_configuration(int(sys.argv[1]), models, ensembles, processes, folds=tuple(folds))
"""
"""nnUNetv2_find_best_configuration, whose command line takes only models of every trainer with every plan."""

_ONE_AT_A_TIME = {"data": 1}  # steps that write what all share


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of the study, or a few that belong together.

    Paths are relative to the work folder, in which the commands run. `cpus` and what follows do not belong
    to the step's identity: changing them redoes nothing.

    Attributes:
        commands: Arguments of each command; `CPUS` stands for the cores.
        environment: Variables.
        folders: Variables of nnU-Net's folders.
        accepted: Exit statuses of success.
        needs: Ids of the steps before.
        sources: Files and folders from outside the work folder that are read.
        links: Names, in the work folder, and what they link to.
        fresh: What is deleted before the step starts from the beginning.
        resume: A folder in which a checkpoint lets the last command go on, with `--c`.
        outputs: Files and folders that later steps read; their checksums tell whether they have changed.
        action: A function of `study.actions`, called after the commands, and its arguments.
    """

    kind: str
    name: str
    commands: list[list[str]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    accepted: list[int] = field(default_factory=lambda: [0])
    needs: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)
    resume: str = ""
    outputs: list[str] = field(default_factory=list)
    action: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    cpus: int = 1
    gpus: int = 0
    retries: int = 1
    cost: Cost = field(default_factory=Cost)
    limits: dict[str, int] = field(default_factory=dict)
    epochs: int = 0

    @property
    def id(self) -> str:
        """Kind and name, the name of its files."""
        return f"{self.kind}/{self.name}"

    def identity(self) -> dict[str, Any]:
        """Return what the step is to do: if it changes, the step is done again."""
        runs = ("cpus", "gpus", "retries", "cost", "limits", "epochs")
        return {key: value for key, value in asdict(self).items() if key not in runs and value}

    def planned(self) -> dict[str, Any]:
        """Return what Snakemake and the status need; the runtime is in minutes, the memory in MB."""
        hours = {"runtime": max(30, round(2 * self.cost.minutes)), "mem_mb": self.cost.memory_mb}
        return {
            "needs": self.needs, "cpus": self.cpus, "retries": self.retries, "minutes": self.cost.minutes,
            "resources": {**hours, **self.limits, "gpu": self.gpus}, "log": f"{LOGS}/{self.id}.log",
            "resume": self.resume, "epochs": self.epochs,
        }  # fmt: skip


class Steps:
    """Makes the steps of a study."""

    def __init__(self, file: StudyFile, *, device: str, cores: int) -> None:
        """Take the device, `cpu` or `cuda`, and the cores that a step can have at most."""
        self.file, self.study, self.device = file, file.study, device
        self.two, self.four = min(2, cores), min(4, cores)
        data = self.study.data
        self.dataset = Path(str(data.raw)).name if data.raw else f"Dataset{data.id:03d}_{data.name}"
        self.id = self.dataset[7:10].lstrip("0")
        self.raw, self.preprocessed = f"nnUNet_raw/{self.dataset}", f"nnUNet_preprocessed/{self.dataset}"
        self.folds = [str(fold) for fold in file.folds]
        if data.raw:
            self.cases = len(find_masks(file.resolve(data.raw) / "labelsTr"))
        else:
            self.cases = data.phantoms or len(file.patients)

    def make(self) -> dict[str, Step]:
        """Return every step by its id, each after those that it needs."""
        steps = [*self._data(), *self._plans()]
        for seed in self.study.seeds:
            steps += [self._training(network, f, seed) for f in self.folds for network in self.study.networks]
        for seed in self.study.seeds:
            steps += [*self._after_training(seed), *self._predictions(seed)]
        needed = {need for step in steps for need in step.needs}
        last = [step.id for step in steps if step.id not in needed]
        tables = [step.arguments for step in steps if step.kind in {"compare", "evaluate"}]
        arguments = {"tables": tables, "folder": "reports"}
        steps.append(
            Step(kind="report", name="study", needs=last, outputs=["reports/study.csv"], action="report",
                 arguments=arguments)
        )  # fmt: skip
        return {step.id: self._as_given(step) for step in steps}

    def _as_given(self, step: Step) -> Step:
        """Return a step with the environment of the study, and the resources that it gives the kind."""
        folders = {name: name for name in FOLDER_VARIABLES} | step.folders
        step = replace(step, environment=self.study.environment | step.environment, folders=folders)
        if not (given := self.study.resources.get(step.kind)):  # type: ignore[call-overload]
            return step
        cost = replace(
            step.cost,
            minutes=given.hours * 30 if given.hours else step.cost.minutes,  # a job is given twice of it
            memory_mb=round(given.memory_gb * 1000) if given.memory_gb else step.cost.memory_mb,
        )
        chosen = {name: getattr(given, name) for name in ("cpus", "retries", "gpus")}
        return replace(step, cost=cost, **{name: it for name, it in chosen.items() if it is not None})

    # --- data and plans ------------------------------------------------------------------------------------

    def _data(self) -> Iterator[Step]:
        data, folders = self.study.data, self.file.collections
        splits = data.splits if data.splits in (None, LEAVE_ONE_OUT) else str(self.file.resolve(data.splits))
        sources = [] if splits in (None, LEAVE_ONE_OUT) else [str(splits)]
        arguments = {"raw": self.raw, "splits": splits}
        if data.raw is not None:
            source = str(self.file.resolve(data.raw))
            yield Step(
                kind="convert", name="data", sources=[source, *sources], outputs=[self.raw], action="split",
                arguments=arguments | {"source": source},
            )  # fmt: skip
            return
        if data.phantoms:
            command = ["sgnet", "phantom", "patients", "-n", str(data.phantoms), "--seed", "0", "-np", CPUS]
            yield Step(
                kind="phantom", name="data", commands=[command], outputs=["patients"], fresh=["patients"],
                cpus=self.four,
            )  # fmt: skip
        options = ["-d", self.id, "--target", data.target, "--register", data.register, "--split", data.split]
        several = self.file.patients if len(folders) > 1 else []
        command = ["sgnet", "convert", str(folders[0]) if len(folders) == 1 else "patients", "-np", CPUS]
        yield Step(
            kind="convert", name="data", commands=[[*command, *options]], accepted=[0, 3],
            needs=["phantom/data"] if data.phantoms else [],
            sources=[*map(str, folders), *sources],
            links={f"patients/{each.name}": str(each) for each in several},
            fresh=["patients"] if several else [],
            outputs=[self.raw], action="split", arguments=arguments, cpus=self.four,
            cost=Cost(self.cases * 3 / 60, 2000 * self.four, self.cases * CASE_MB["raw"]),
        )  # fmt: skip

    def _plans(self) -> Iterator[Step]:
        extract = ["nnUNetv2_extract_fingerprint", "-d", self.id, "--verify_dataset_integrity", "--clean"]
        yield Step(
            kind="fingerprint", name="data", commands=[[*extract, "-np", CPUS]], needs=["convert/data"],
            outputs=[f"{self.preprocessed}/dataset_fingerprint.json"],
            cpus=self.four, limits=_ONE_AT_A_TIME, cost=Cost(self.cases / 60 + 0.5, 4000),
        )  # fmt: skip
        for name in sorted({network.plans for network in self.study.networks}):
            plan, path = self.study.plans[name], f"{self.preprocessed}/{name}.json"
            command = ["nnUNetv2_plan_experiment", "-d", self.id, "-pl", plan.planner]
            command += ["-overwrite_plans_name", name]
            if plan.gpu_memory_gb is not None:
                command += ["-gpu_memory_target", f"{plan.gpu_memory_gb:g}"]
            change = {"patch_size": plan.patch_size, "batch_size": plan.batch_size}
            change = {key: it for key, it in change.items() if it is not None}
            arguments = {"path": path, "change": change | plan.settings}
            yield Step(
                kind="plan", name=name, commands=[command], needs=["fingerprint/data"], fresh=[path],
                outputs=[path], action="change_plan", arguments=arguments, limits=_ONE_AT_A_TIME,
            )  # fmt: skip
            if data_owner(self.study, name) != name:
                continue
            configurations = sorted({n.configuration for n in self.study.networks if n.plans == name})
            command = ["nnUNetv2_preprocess", "-d", self.id, "-plans_name", name, "-np", CPUS, "-c"]
            yield Step(
                kind="preprocess", name=name, commands=[[*command, *configurations]], needs=[f"plan/{name}"],
                outputs=[path, f"{self.preprocessed}/dataset.json", f"{self.preprocessed}/gt_segmentations"],
                cpus=self.four, limits=_ONE_AT_A_TIME, cost=preprocessing_cost(plan.planner, self.cases),
            )  # fmt: skip

    # --- training ------------------------------------------------------------------------------------------

    def _training(self, network: Network, fold: str, seed: int) -> Step:
        command = ["nnUNetv2_train", self.id, network.configuration, fold, "-tr", network.trainer]
        command += ["-p", network.plans, "-device", self.device, *(["--npz"] if self.study.ensembles else [])]
        gpus = network.gpus if self.device == "cuda" else 0
        if gpus > 1:
            command += ["-num_gpus", str(gpus)]
        folder = f"{self._results(seed)}/{network.model}/fold_{fold}"
        plan = self.study.plans[network.plans]
        given = {name: getattr(network, name) or getattr(self.study, name) for name in SCHEDULE}
        epochs, iterations, validations = (given[name] or default for name, default in SCHEDULE.items())
        if network.trainer.startswith("nnUNetTrainer"):
            own = re.search(r"_(\d+)epochs?(_|$)", network.trainer)
            epochs, iterations, validations = int(own[1]) if own else 1000, 250, 50
        environment = {_VARIABLES[name]: str(value) for name, value in given.items() if value}
        environment |= {"SGNET_SEED": str(seed), "SGNET_PATIENCE": "0"}
        environment |= {} if self.study.mirroring else {"SGNET_MIRRORING": "0"}
        return Step(
            kind="train", name=f"{network.model}-f{fold}-s{seed}", commands=[command],
            environment=environment | network.environment, folders=_folders(seed),
            needs=self._planned(network.plans), fresh=[folder], resume=folder,
            outputs=[f"{folder}/checkpoint_final.pth", f"{folder}/validation"],
            cpus=self.four, gpus=gpus, retries=2, epochs=epochs,
            cost=training_cost(
                network.trainer, device=self.device, gpu=self.study.gpu,
                iterations=epochs * (iterations + validations / 3), cases=max(1, self.cases // 5),
                patch=plan.patch_size or DEFAULT_PATCH, batch=plan.batch_size or DEFAULT_BATCH,
            ),
        )  # fmt: skip

    def _planned(self, plans: str) -> list[str]:
        """Return the steps that make a plan and its preprocessed images."""
        owner = data_owner(self.study, plans)
        return [f"preprocess/{owner}"] if owner == plans else [f"preprocess/{owner}", f"plan/{plans}"]

    def _results(self, seed: int) -> str:
        return f"results/seed{seed}/{self.dataset}"

    def _trained(self, networks: list[Network], seed: int) -> list[str]:
        return [f"train/{network.model}-f{fold}-s{seed}" for network in networks for fold in self.folds]

    def _after_training(self, seed: int) -> Iterator[Step]:
        """Yield the best configuration, tuning and comparison of one seed's networks."""
        networks, number = self.study.networks, len(self.study.networks)
        for network in networks if self.study.tune else ():
            point = f"{self._results(seed)}/{network.model}/operating_point.json"
            command = ["sgnet", "tune", "-d", self.id, "-tr", network.trainer, "-p", network.plans]
            command += ["-c", network.configuration, "-f", *self.folds, "-device", self.device]
            yield Step(
                kind="tune", name=f"{network.model}-s{seed}", commands=[command], folders=_folders(seed),
                needs=self._trained([network], seed), fresh=[point], outputs=[point],
                gpus=int(self.device == "cuda"), cpus=self.two,
                cost=prediction_cost(network.trainer, self.cases, folds=1),
            )  # fmt: skip
        if number > 1:
            models = [
                {"trainer": each.trainer, "plans": each.plans, "configuration": each.configuration}
                for each in networks
            ]
            command = ["python", "-c", _FIND_BEST, self.id, json.dumps(models), json.dumps(self.file.folds)]
            yield Step(
                kind="best", name=f"s{seed}", folders=_folders(seed),
                commands=[[*command, json.dumps(self.study.ensembles), CPUS]],
                needs=self._trained(networks, seed),
                outputs=[f"{self._results(seed)}/inference_information.json"],
                cost=Cost(2 + self.cases * number**2 / 60, 6000),
            )  # fmt: skip
        report = f"reports/validation-s{seed}"
        command = ["sgnet", "compare", "-d", self.id, "-f", *self.folds, "--time-cases", "0", "-np", CPUS]
        command += ["-o", report, "--models", *(network.model for network in networks)]
        yield self._reported(
            "compare", f"s{seed}", command, report, seed=seed, images="validation",
            folders=_folders(seed), needs=self._trained(networks, seed),
            cost=Cost(1 + self.cases * number * 2 / 60, 4000),
        )  # fmt: skip

    def _reported(
        self, kind: str, name: str, command: list[str], report: str, *, seed: int, images: str,
        model: str = "", **values: Any,  # noqa: ANN401
    ) -> Step:  # fmt: skip
        """Return a step that writes a report, of which the study's report takes the table."""
        table = {"path": f"{report}/per_case.csv", "images": images, "seed": seed}
        arguments = table | ({"model": model} if model else {})
        return Step(
            kind=kind, name=name, commands=[command], fresh=[report], outputs=[f"{report}/per_case.csv"],
            arguments=arguments, cpus=self.two, **values,
        )  # fmt: skip

    # --- prediction ----------------------------------------------------------------------------------------

    def _predictions(self, seed: int) -> Iterator[Step]:
        for images in self.study.predictions:
            shards = self._shards(images)
            for network in self.study.networks:
                yield from self._prediction(images, shards, network, seed)

    def _shards(self, images: PredictionSet) -> dict[int, dict[str, list[str]]]:
        """Return the images of each case of each shard, by number; one without cases is not known yet.

        Cases stay in the shard that they were in before; new ones make new shards.
        """
        if images.images == TEST_CASES:
            return {0: {}}
        place = images.images if is_remote(images.images) else str(self.file.resolve(images.images))
        cases = list_images(place)
        if not cases:
            raise InputFileError(place, "holds no image CASE_0000.nii.gz", "give a folder like imagesTs")
        kept = self.file.work / f"study/shards/{images.name}.json"
        before: dict[str, list[str]] = read_json(kept) if kept.is_file() else {}
        shards = [[name for name in shard if name in cases] for shard in before.values()]
        new, size = sorted(cases.keys() - {name for shard in shards for name in shard}), images.shard_size
        shards += [new[i : i + size] for i in range(0, len(new), size)]
        write_if_changed(kept, json.dumps(dict(enumerate(shards))) + "\n")
        return {i: {name: cases[name] for name in shard} for i, shard in enumerate(shards) if shard}

    def _prediction(
        self, images: PredictionSet, shards: dict[int, dict[str, list[str]]], network: Network, seed: int
    ) -> Iterator[Step]:
        """Yield the prediction of each shard by one network, and what is made of them."""
        model, base = f"{network.model}-s{seed}", f"predictions/{images.name}/s{seed}/{network.model}"
        name, masks = f"{images.name}-{model}", f"{base}/masks"
        steps = [
            self._shard(images, f"{base}/part{i:04d}", shard, network, seed) for i, shard in shards.items()
        ]
        yield from steps
        yield Step(
            kind="gather", name=name, needs=[step.id for step in steps], fresh=[masks],
            outputs=[f"{base}/lesions.csv"], action="gather",
            arguments={"parts": [step.outputs[0] for step in steps], "masks": masks,
                       "table": f"{base}/lesions.csv"},
        )  # fmt: skip
        sources = [str(self.file.resolve(images.references))] if images.references else []
        if sources or images.images == TEST_CASES:
            report, references = f"reports/{name}", sources[0] if sources else f"{self.raw}/labelsTs"
            command = ["sgnet", "evaluate", masks, references, "-o", report, "-np", CPUS]
            yield self._reported(
                "evaluate", name, [*command, "--labels", f"{self.raw}/dataset.json"], report, seed=seed,
                images=images.name, model=network.model, needs=[f"gather/{name}"], sources=sources,
            )  # fmt: skip

    def _shard(
        self, images: PredictionSet, part: str, cases: dict[str, list[str]], network: Network, seed: int
    ) -> Step:
        """Return the prediction of the cases of a shard, given by their images, into the folder `part`."""
        name = f"{images.name}-{network.model}-s{seed}-{Path(part).name}"
        remote = is_remote(images.images)
        folder = f"study/images/{name}" if cases else f"{self.raw}/imagesTs"
        files = [file for group in cases.values() for file in group]
        command = ["sgnet", "predict", "-m", f"{self._results(seed)}/{network.model}", "-i", folder]
        command += ["-o", part, "-f", *self.folds, "-device", self.device, "--continue_prediction"]
        store = f"{images.output.rstrip('/')}/{network.model}-s{seed}" if images.output else ""
        tuned = [f"tune/{network.model}-s{seed}"] if self.study.tune else []
        return Step(
            kind="predict", name=name, commands=[command], folders=_folders(seed),
            needs=[*self._trained([network], seed), *tuned],
            sources=[] if remote else files,
            links={} if remote else {f"{folder}/{Path(file).name}": file for file in files},
            fresh=[part, *([folder] if cases else [])], outputs=[part], action="tabulate",
            arguments={"masks": part, "images": folder, "fetch": files if remote else [], "store": store},
            gpus=int(self.device == "cuda"), cpus=self.two,
            cost=prediction_cost(network.trainer, len(cases) or self.cases // 5, folds=len(self.folds)),
        )  # fmt: skip


def _folders(seed: int) -> dict[str, str]:
    return {FOLDER_VARIABLES[-1]: f"results/seed{seed}"}


def write_steps(work: Path, steps: dict[str, Step]) -> None:
    """Write what each step is to do, where that has changed, and the plan of all for the workflow."""
    for step in steps.values():
        write_if_changed(work / STEPS / f"{step.id}.json", json.dumps(step.identity(), indent=1) + "\n")
    write_if_changed(work / PLAN, json.dumps({step.id: step.planned() for step in steps.values()}) + "\n")


def write_if_changed(path: Path, text: str) -> None:
    """Write a file, unless it holds the text."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        make_folder(path.parent)
        write_text(path, text)
