"""The steps of a study: their commands, what they need, what they make and what they cost."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.files import read_json, write_text
from sgnet_nnunet.nnunet import find_masks
from sgnet_nnunet.study.costs import Cost, prediction_cost, preprocessing_cost, training_cost
from sgnet_nnunet.study.runner import CPUS, LOGS, STEPS
from sgnet_nnunet.study.storage import list_images
from sgnet_nnunet.study.study_file import (
    LEAVE_ONE_OUT,
    TEST_CASES,
    Network,
    PredictionSet,
    StudyFile,
    collections_of,
    is_remote,
)

PLAN, SHARDS = "study/plan.json", "study/shards"
DEFAULT_EPOCHS, DEFAULT_ITERATIONS, DEFAULT_VALIDATIONS = 200, 250, 50
DEFAULT_PATCH, DEFAULT_BATCH = (32, 96, 96), 4
_SECOND_DATA = {"data": 1}  # steps that write what all share run one at a time


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of the study, or a few that belong together.

    Paths are relative to the work folder, in which the commands run. `cpus` and what follows do not belong
    to the step's identity: changing them redoes nothing.

    Attributes:
        commands: Arguments of each command; `CPUS` stands for the cores.
        environment: Variables; those of nnU-Net's folders are added.
        accepted: Exit statuses of success.
        needs: Ids of the steps before.
        sources: Files and folders from outside the work folder that are read.
        links: Names, in the work folder, and what they link to.
        fresh: What is deleted before the step starts anew, rather than goes on.
        resume: A folder in which a checkpoint lets the last command go on, with `--c`.
        outputs: Files and folders that later steps read; their checksums tell whether they have changed.
        action: A function of `study.actions`, called after the commands, and its arguments.
    """

    kind: str
    name: str
    commands: list[list[str]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
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

    @property
    def id(self) -> str:
        """Kind and name, the name of its files."""
        return f"{self.kind}/{self.name}"

    def identity(self) -> dict[str, Any]:
        """Return what the step is to do: if it changes, the step is done again."""
        runs = ("cpus", "gpus", "retries", "cost", "limits")
        return {key: value for key, value in asdict(self).items() if key not in runs and value}

    def resources(self) -> dict[str, int]:
        """Return what Snakemake reserves for the step; the time is in minutes, the memory in MB."""
        hours = {"runtime": max(30, round(2 * self.cost.minutes)), "mem_mb": self.cost.memory_mb}
        return hours | self.limits | ({"gpu": self.gpus} if self.gpus else {})


class Plan:
    """Makes the steps of a study."""

    def __init__(self, file: StudyFile, *, device: str, cores: int) -> None:
        """Take the device, `cpu` or `cuda`, and the cores that a step can have at most."""
        self.file, self.study, self.device = file, file.study, device
        self.cores = cores
        data = self.study.data
        self.dataset = Path(str(data.raw)).name if data.raw else f"Dataset{data.id:03d}_{data.name}"
        self.id = self.dataset[7:10].lstrip("0")
        self.raw = f"nnUNet_raw/{self.dataset}"
        self.preprocessed = f"nnUNet_preprocessed/{self.dataset}"
        self.folds = [str(fold) for fold in file.folds]
        self.cases = _count_cases(file)

    def steps(self) -> dict[str, Step]:
        """Return every step by its id, each after those that it needs."""
        found = [*self._data(), *self._plans(), *self._trainings()]
        for seed in self.study.seeds:
            found += [*self._after_training(seed), *self._predictions(seed)]
        found.append(self._report(found))
        return {step.id: self._given(step) for step in found}

    def _given(self, step: Step) -> Step:
        """Return a step with the resources that the study gives its kind."""
        given = self.study.resources.get(step.kind)  # type: ignore[call-overload]
        if given is None:
            return step
        cost = step.cost
        if given.hours is not None:
            cost = replace(cost, minutes=given.hours * 30)  # a job is given twice what is expected
        if given.memory_gb is not None:
            cost = replace(cost, memory_mb=round(given.memory_gb * 1000))
        chosen = {name: getattr(given, name) for name in ("cpus", "retries", "gpus")}
        return replace(
            step, cost=cost, **{name: value for name, value in chosen.items() if value is not None}
        )

    def _step(self, kind: str, name: str, **values: Any) -> Step:  # noqa: ANN401
        environment = self.study.environment | values.pop("environment", {})
        return Step(kind=kind, name=name, environment=environment, **values)

    # --- data and plans ------------------------------------------------------------------------------------

    def _data(self) -> Iterator[Step]:
        data, cores = self.study.data, min(4, self.cores)
        outputs = [self.raw]
        splits = data.splits if data.splits in (None, LEAVE_ONE_OUT) else str(self.file.resolve(data.splits))
        action: dict[str, Any] = {"action": "split", "arguments": {"raw": self.raw, "splits": splits}}
        sources = [] if splits in (None, LEAVE_ONE_OUT) else [splits]
        if data.raw is not None:
            source = str(self.file.resolve(data.raw))
            action["action"] = "adopt"
            action["arguments"]["source"] = source
            yield self._step("convert", "data", sources=[source, *sources], outputs=outputs, **action)
            return
        needs, patients = [], "patients"
        folders = [str(self.file.resolve(folder)) for folder in collections_of(data)]
        if data.phantoms:
            command = ["sgnet", "phantom", patients, "-n", str(data.phantoms), "--seed", "0", "-np", CPUS]
            yield self._step(
                "phantom", "data", commands=[command], outputs=[patients], fresh=[patients], cpus=cores
            )
            needs = ["phantom/data"]
        elif len(folders) == 1:
            patients = folders[0]
        options = {"-d": self.id, "--target": data.target, "--register": data.register, "--split": data.split}
        command = ["sgnet", "convert", patients, *(part for pair in options.items() for part in pair)]
        yield self._step(
            "convert",
            "data",
            commands=[[*command, "-np", CPUS]],
            accepted=[0, 3],
            needs=needs,
            sources=[*folders, *sources],
            links={f"patients/{each.name}": str(each) for each in _patients(folders)},
            outputs=outputs,
            cpus=cores,
            cost=Cost(self.cases * 3 / 60, 2000 * cores, self.cases * 2.1 * 20),
            **action,
        )  # fmt: skip

    def _plans(self) -> Iterator[Step]:
        cores = min(4, self.cores)
        extract = ["nnUNetv2_extract_fingerprint", "-d", self.id, "--verify_dataset_integrity", "--clean"]
        yield self._step(
            "fingerprint",
            "data",
            commands=[[*extract, "-np", CPUS]],
            needs=["convert/data"],
            outputs=[f"{self.preprocessed}/dataset_fingerprint.json"],
            cpus=cores,
            limits=_SECOND_DATA,
            cost=Cost(self.cases * 1 / 60 + 0.5, 4000),
        )
        used = {network.plans for network in self.study.networks}
        for name, plan in self.study.plans.items():
            if name not in used:
                continue
            command = ["nnUNetv2_plan_experiment", "-d", self.id, "-pl", plan.planner]
            command += ["-overwrite_plans_name", name]
            if plan.gpu_memory_gb is not None:
                command += ["-gpu_memory_target", f"{plan.gpu_memory_gb:g}"]
            path = f"{self.preprocessed}/{name}.json"
            change = {"patch_size": plan.patch_size, "batch_size": plan.batch_size}
            yield self._step(
                "plan",
                name,
                commands=[command],
                needs=["fingerprint/data"],
                fresh=[path],
                outputs=[path],
                action="change_plan",
                arguments={"path": path, "change": {key: it for key, it in change.items() if it is not None}},
                limits=_SECOND_DATA,
            )
            configurations = sorted({n.configuration for n in self.study.networks if n.plans == name})
            yield self._step(
                "preprocess",
                name,
                commands=[
                    ["nnUNetv2_preprocess", "-d", self.id, "-plans_name", name, "-np", CPUS,
                     "-c", *configurations]
                ],
                needs=[f"plan/{name}"],
                outputs=[path, f"{self.preprocessed}/dataset.json", f"{self.preprocessed}/gt_segmentations"],
                cpus=cores,
                limits=_SECOND_DATA,
                cost=preprocessing_cost(plan.planner, self.cases),
            )  # fmt: skip

    # --- training ------------------------------------------------------------------------------------------

    def _trainings(self) -> Iterator[Step]:
        for seed in self.study.seeds:
            for fold in self.folds:
                yield from (self._training(network, fold, seed) for network in self.study.networks)

    def _training(self, network: Network, fold: str, seed: int) -> Step:
        command = ["nnUNetv2_train", self.id, network.configuration, fold, "-tr", network.trainer]
        command += ["-p", network.plans, "-device", self.device, *(["--npz"] if self.study.ensembles else [])]
        gpus = network.gpus if self.device == "cuda" else 0
        if gpus > 1:
            command += ["-num_gpus", str(gpus)]
        folder = f"{self._results(seed)}/{network.model}/fold_{fold}"
        plan, schedule = self.study.plans[network.plans], self._schedule(network)
        environment = {f"SGNET_{name}": str(value) for name, value in schedule.items() if value}
        environment |= {"SGNET_SEED": str(seed), "SGNET_PATIENCE": "0"}
        environment |= {} if self.study.mirroring else {"SGNET_MIRRORING": "0"}
        return self._step(
            "train",
            f"{network.model}-f{fold}-s{seed}",
            commands=[command],
            environment=environment | _results_variable(seed) | network.environment,
            needs=[f"preprocess/{network.plans}"],
            fresh=[folder],
            resume=folder,
            outputs=[f"{folder}/checkpoint_final.pth", f"{folder}/validation"],
            cpus=min(4, self.cores),
            gpus=gpus,
            retries=2,
            cost=training_cost(
                network.trainer,
                device=self.device,
                epochs=schedule["EPOCHS"] or DEFAULT_EPOCHS,
                iterations=schedule["ITERS"] or DEFAULT_ITERATIONS,
                validations=schedule["VAL_ITERS"] or DEFAULT_VALIDATIONS,
                patch=plan.patch_size or DEFAULT_PATCH,
                batch=plan.batch_size or DEFAULT_BATCH,
                cases=max(1, self.cases // 5),
            ),
        )

    def _schedule(self, network: Network) -> dict[str, int | None]:
        """Return a network's schedule, else the study's, by the names of this package's variables."""
        names = {"EPOCHS": "epochs", "ITERS": "iterations", "VAL_ITERS": "validation_iterations"}
        return {key: getattr(network, name) or getattr(self.study, name) for key, name in names.items()}

    def _results(self, seed: int) -> str:
        return f"results/seed{seed}/{self.dataset}"

    def _trained(self, network: Network, seed: int) -> list[str]:
        return [f"train/{network.model}-f{fold}-s{seed}" for fold in self.folds]

    def _after_training(self, seed: int) -> Iterator[Step]:
        """Yield the best configuration, tuning and comparison of one seed's networks."""
        networks = self.study.networks
        trained = [step for network in networks for step in self._trained(network, seed)]
        if len(networks) > 1:
            groups = groupby(sorted(networks, key=_setting), key=_setting)
            options = ["-f", *self.folds, *([] if self.study.ensembles else ["--disable_ensembling"])]
            yield self._step(
                "best",
                f"s{seed}",
                commands=[
                    ["nnUNetv2_find_best_configuration", self.id, "-p", plans, "-c", configuration,
                     "-tr", *(network.trainer for network in group), "-np", CPUS, *options]
                    for (plans, configuration), group in groups
                ],
                environment=_results_variable(seed),
                needs=trained,
                outputs=[f"{self._results(seed)}/inference_information.json"],
                cost=Cost(2 + self.cases * len(networks) ** 2 / 60, 6000),
            )  # fmt: skip
        for network in networks if self.study.tune else ():
            point = f"{self._results(seed)}/{network.model}/operating_point.json"
            yield self._step(
                "tune",
                f"{network.model}-s{seed}",
                commands=[
                    ["sgnet", "tune", "-d", self.id, "-tr", network.trainer, "-p", network.plans,
                     "-c", network.configuration, "-f", *self.folds, "-device", self.device]
                ],
                environment=_results_variable(seed),
                needs=self._trained(network, seed),
                fresh=[point],
                outputs=[point],
                gpus=int(self.device == "cuda"),
                cpus=min(2, self.cores),
                cost=prediction_cost(network.trainer, self.cases, folds=1),
            )  # fmt: skip
        if len(networks) > 1:
            yield self._step(
                "compare",
                f"s{seed}",
                commands=[
                    ["sgnet", "compare", "-d", self.id, "-f", *self.folds, "--time-cases", "0", "-np", CPUS,
                     "-o", f"reports/validation-s{seed}", "--models", *(each.model for each in networks)]
                ],
                environment=_results_variable(seed),
                needs=trained,
                fresh=[f"reports/validation-s{seed}"],
                outputs=[f"reports/validation-s{seed}/per_case.csv"],
                cpus=min(2, self.cores),
                cost=Cost(1 + self.cases * len(networks) * 2 / 60, 4000),
            )  # fmt: skip

    # --- prediction ----------------------------------------------------------------------------------------

    def _predictions(self, seed: int) -> Iterator[Step]:
        for images in self.study.predictions:
            shards = self._shards(images)
            for network in self.study.networks:
                yield from self._prediction(images, shards, network, seed)

    def _shards(self, images: PredictionSet) -> list[dict[str, list[str]]]:
        """Return the images of each case of each shard; one shard without cases is not known yet.

        Cases stay in the shard that they were in before; new ones make new shards.
        """
        if images.images == TEST_CASES:
            return [{}]
        place = images.images if is_remote(images.images) else str(self.file.resolve(images.images))
        cases = list_images(place)
        if not cases:
            raise InputFileError(place, "holds no image CASE_0000.nii.gz", "give a folder like imagesTs")
        kept = self.file.work / SHARDS / f"{images.name}.json"
        before: dict[str, list[str]] = read_json(kept) if kept.is_file() else {}
        shards = [[name for name in shard if name in cases] for shard in before.values()]
        new, size = sorted(cases.keys() - {name for shard in shards for name in shard}), images.shard_size
        shards += [new[i : i + size] for i in range(0, len(new), size)]
        write_if_changed(kept, json.dumps(dict(enumerate(shards))) + "\n")
        return [{name: cases[name] for name in shard} for shard in shards if shard]

    def _prediction(
        self, images: PredictionSet, shards: list[dict[str, list[str]]], network: Network, seed: int
    ) -> Iterator[Step]:
        """Yield the prediction of each shard by one network, and what is made of them."""
        base, name = f"predictions/{images.name}/s{seed}/{network.model}", f"{network.model}-s{seed}"
        needs = [f"tune/{name}"] if self.study.tune else []
        parts = [f"{base}/part{number:04d}" for number in range(len(shards))]
        steps = []
        for part, cases in zip(parts, shards, strict=True):
            step = self._shard(images, part, cases, network, seed)
            steps.append(replace(step, needs=[*self._trained(network, seed), *needs]))
        yield from steps
        yield self._step(
            "gather",
            f"{images.name}-{name}",
            needs=[step.id for step in steps],
            fresh=[f"{base}/masks"],
            outputs=[f"{base}/lesions.csv"],
            action="gather",
            arguments={"parts": parts, "masks": f"{base}/masks", "table": f"{base}/lesions.csv"},
        )
        here = images.images == TEST_CASES
        if not (here or images.references):
            return
        references = f"{self.raw}/labelsTs" if here else str(self.file.resolve(str(images.references)))
        report = f"reports/{images.name}-{name}"
        command = ["sgnet", "evaluate", f"{base}/masks", references, "-o", report, "-np", CPUS]
        yield self._step(
            "evaluate",
            f"{images.name}-{name}",
            commands=[[*command, "--labels", f"{self.raw}/dataset.json"]],
            needs=[f"gather/{images.name}-{name}"],
            sources=[] if here else [references],
            fresh=[report],
            outputs=[f"{report}/per_case.csv"],
            cpus=min(2, self.cores),
        )

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
        return self._step(
            "predict",
            name,
            commands=[command],
            environment=_results_variable(seed),
            sources=[] if remote else files,
            links={} if remote else {f"{folder}/{Path(file).name}": file for file in files},
            fresh=[part, *([folder] if cases else [])],
            outputs=[part],
            action="tabulate",
            arguments={"masks": part, "images": folder, "fetch": files if remote else [], "store": store},
            gpus=int(self.device == "cuda"),
            cpus=min(2, self.cores),
            cost=prediction_cost(network.trainer, len(cases) or self.cases // 5, folds=len(self.folds)),
        )

    def _report(self, steps: list[Step]) -> Step:
        """Return the step that all others lead to."""
        needed = {need for step in steps for need in step.needs}
        tables = {"validation": [], "test": []}  # type: dict[str, list[list[str]]]
        for step in steps:
            if step.kind in {"compare", "evaluate"}:
                kind = "validation" if step.kind == "compare" else "test"
                seed = step.name.rpartition("s")[2]
                tables[kind].append([step.name, seed, step.outputs[0]])
        return self._step(
            "report",
            "study",
            needs=[step.id for step in steps if step.id not in needed],
            outputs=["reports/study.csv"],
            action="report",
            arguments={"validation": tables["validation"], "test": tables["test"], "folder": "reports"},
        )


def _setting(network: Network) -> tuple[str, str]:
    return network.plans, network.configuration


def _results_variable(seed: int) -> dict[str, str]:
    return {"nnUNet_results": f"results/seed{seed}"}


def _patients(folders: list[str]) -> list[Path]:
    """Return the patients' folders of several collections, which are linked into one."""
    if len(folders) < 2:  # noqa: PLR2004 - one collection is converted where it is
        return []
    return [each for folder in folders for each in sorted(Path(folder).iterdir()) if each.is_dir()]


def _count_cases(file: StudyFile) -> int:
    """Return how many cases there are, roughly, for the estimates."""
    data = file.study.data
    if data.raw:
        return len(find_masks(file.resolve(data.raw) / "labelsTr"))
    folders = map(file.resolve, collections_of(data))
    return data.phantoms or sum(1 for folder in folders for each in folder.iterdir() if each.is_dir())


def write_steps(work: Path, steps: dict[str, Step]) -> None:
    """Write what each step is to do, where that has changed, and the plan of all for the workflow."""
    for step in steps.values():
        write_if_changed(work / STEPS / f"{step.id}.json", json.dumps(step.identity(), indent=1) + "\n")
    plan = {
        step.id: {
            "needs": step.needs, "cpus": step.cpus, "retries": step.retries, "resources": step.resources(),
            "minutes": step.cost.minutes, "disk_mb": step.cost.disk_mb,
            "log": f"{LOGS}/{step.id}.log", "resume": step.resume,
            "epochs": int(step.environment.get("SGNET_EPOCHS", DEFAULT_EPOCHS)),
        }
        for step in steps.values()
    }  # fmt: skip
    write_if_changed(work / PLAN, json.dumps(plan) + "\n")


def write_if_changed(path: Path, text: str) -> None:
    """Write a file, unless it holds the text."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)


def read_plan(work: Path) -> dict[str, dict[str, Any]]:
    """Return the plan that `write_steps` has written."""
    return read_json(work / PLAN, remedy="start the study again, which writes it")
