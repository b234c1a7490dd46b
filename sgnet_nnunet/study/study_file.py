"""`study.yaml`: its schema, and checks that name the line and what would be right."""

import copy
import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct

from sgnet_nnunet.dataset.collection import scan_collection
from sgnet_nnunet.errors import InputFileError, needs_extra
from sgnet_nnunet.files import read_bytes
from sgnet_nnunet.nnunet import ALL, DEFAULT_CONFIGURATION, DEFAULT_PLANS, SPLITS, find_masks, read_splits
from sgnet_nnunet.study.costs import Gpu

LEAVE_ONE_OUT = "leave_one_out"
TEST_CASES = "imagesTs"
"""As `images` of a prediction set: the test cases that the conversion has set aside."""

DATA_IDENTIFIER = "data_identifier"
"""nnU-Net's name of the folder of a configuration's preprocessed images, `PLAN_CONFIGURATION`."""

SCHEDULE = {"epochs": 200, "iterations": 250, "validation_iterations": 50}
"""Of this package's trainers, whose settings of these names the study can change."""

_FOLDS = 5  # that nnU-Net and `sgnet convert` make

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Numbers = Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=1)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]
Word = Annotated[str, Meta(pattern=r"^\w+$")]
Share = Annotated[float, Meta(gt=0, le=1e6)]


class Data(Struct, forbid_unknown_fields=True):
    """The training data: a collection to convert, phantoms to make, or a raw data set of nnU-Net."""

    collection: str | list[str] | None = None
    phantoms: Count | None = None
    raw: str | None = None
    id: Annotated[int, Meta(ge=1, le=999)] = 501
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+$")] = "BrainMetsLung"
    target: Literal["whole", "core", "regions"] = "whole"
    register: Literal["none", "rigid"] = "none"
    split: Literal["cv", "paper"] = "cv"
    splits: str | None = None  # leave_one_out, or a file like nnU-Net's splits_final.json


class Plan(Struct, forbid_unknown_fields=True):
    """How a plan is made; patch and batch replace the planner's, settings those of its configurations."""

    planner: Word = "SGNetPlanner"
    gpu_memory_gb: Share | None = None
    patch_size: tuple[Count, Count, Count] | None = None  # z, y, x in voxels
    batch_size: Count | None = None
    settings: dict[Word, Any] = {}  # nested keys are merged


class Network(Struct, forbid_unknown_fields=True):
    """What is trained on each fold from each seed; settings that are left out are the study's."""

    trainer: Word
    plans: Word = DEFAULT_PLANS
    configuration: Word = DEFAULT_CONFIGURATION
    epochs: Count | None = None
    iterations: Count | None = None
    validation_iterations: Count | None = None
    gpus: Annotated[int, Meta(ge=1, le=64)] = 1
    environment: dict[str, str] = {}

    @property
    def model(self) -> str:
        """nnU-Net's name of the folder of the training."""
        return f"{self.trainer}__{self.plans}__{self.configuration}"


class PredictionSet(Struct, forbid_unknown_fields=True):
    """Images to predict with every network: a folder as nnU-Net's imagesTs, or a prefix of an S3 store."""

    name: Name
    images: str
    references: str | None = None
    shard_size: Count = 500
    output: str | None = None  # an S3 prefix that the masks are copied to


class Resources(Struct, forbid_unknown_fields=True):
    """What a kind of step gets; what is left out is estimated."""

    cpus: Count | None = None
    memory_gb: Share | None = None
    hours: Share | None = None
    retries: Annotated[int, Meta(ge=0, le=100)] | None = None
    gpus: Annotated[int, Meta(ge=0, le=64)] | None = None


class Cluster(Struct, forbid_unknown_fields=True):
    """How Snakemake starts the steps; the options are its own, such as `slurm-logdir: logs`."""

    executor: str = "local"
    jobs: Count | None = None
    options: dict[str, str | int | bool] = {}
    resources: dict[str, str | int] = {}  # of every step, such as slurm_partition


Kind = Literal[
    "phantom", "convert", "fingerprint", "plan", "preprocess", "train", "best", "tune", "predict", "gather",
    "evaluate", "compare", "report",
]  # fmt: skip


class Study(Struct, forbid_unknown_fields=True):
    """A study; `work` and every other path are relative to the folder of the file."""

    data: Data
    networks: Annotated[list[Network], Meta(min_length=1)]
    work: str = "study_output"
    plans: dict[Word, Plan] = msgspec.field(default_factory=lambda: {DEFAULT_PLANS: Plan()})
    folds: Numbers | Literal["all"] = msgspec.field(default_factory=lambda: [0, 1, 2, 3, 4])
    seeds: Numbers = msgspec.field(default_factory=lambda: [0])
    epochs: Count | None = None
    iterations: Count | None = None
    validation_iterations: Count | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gpu: Gpu = "A100"  # that the times are estimated for
    mirroring: bool = True
    ensembles: bool = True
    tune: bool = True
    predictions: list[PredictionSet] = []
    resources: dict[Kind, Resources] = {}
    cluster: Cluster = msgspec.field(default_factory=Cluster)
    environment: dict[str, str] = {}
    notify: str | None = None
    """A shell command that is run at the end, with SGNET_STUDY_STATUS, _DONE, _FAILED and _WORK set."""


_PARTS: dict[str, type[Struct]] = {
    "data": Data, "plans": Plan, "networks": Network, "predictions": PredictionSet, "resources": Resources,
    "cluster": Cluster,
}  # fmt: skip
"""What the parts of a study are made of, by their names."""


@dataclass(frozen=True)
class StudyFile:
    """A study that was read, where it was read from, the line of each of its fields, and its folds."""

    path: Path
    study: Study
    lines: Mapping[str, int]
    folds: tuple[int, ...] = ()

    @property
    def work(self) -> Path:
        """Folder that the study works in."""
        return self.resolve(self.study.work)

    @property
    def collections(self) -> list[Path]:
        """Folders of patients, none for phantoms and raw data."""
        given = self.study.data.collection
        return [self.resolve(each) for each in ([given] if isinstance(given, str) else given or [])]

    @property
    def patients(self) -> list[Path]:
        """Folders of the patients of all collections, sorted in each."""
        return [each for root in self.collections for each in sorted(root.iterdir()) if each.is_dir()]

    def resolve(self, path: str) -> Path:
        """Return a path of the file as an absolute one."""
        return (self.path.parent / Path(path).expanduser()).absolute()

    def require(self, right: object, field: str, problem: str, remedy: str) -> None:
        """Raise the error of a field such as `networks[1].trainer`, with its line, unless it is right."""
        if not right:
            raise InputFileError(_place(self.path, self.lines, field), f"{field}: {problem}", remedy)


def _place(path: Path, lines: Mapping[str, int], field: str) -> str:
    """Return file and line of a field, or of what it is in."""
    while field and field not in lines:
        field = re.sub(r"(\.[^.\[]+|\[\d+\]|^[^.\[]+)$", "", field)
    return f"{path}:{lines.get(field, 1)}"


def read_study(path: Path) -> StudyFile:
    """Return a study that can be run, as far as that can be known before its first step.

    Raises:
        InputFileError: If the file cannot be read, or a field of it cannot be; names the line.
    """
    content, lines = _parse(path)
    try:
        study = msgspec.convert(content, Study)
    except msgspec.ValidationError as error:
        field, problem, remedy = _explain(content, str(error))
        raise InputFileError(_place(path, lines, field), f"{field}: {problem}", remedy) from error
    file = StudyFile(path.absolute(), study, lines)
    _check_data(file)
    _check_networks(file)
    _check_predictions(file)
    return replace(file, folds=_folds(file))


def _parse(path: Path) -> tuple[object, dict[str, int]]:
    with needs_extra("study"):
        import yaml  # noqa: PLC0415
    remedy = "correct it; docs/how-to.md has examples"
    try:
        text = read_bytes(path).decode()
        return yaml.safe_load(text), dict(_lines(yaml.compose(text, Loader=yaml.SafeLoader), ""))
    except OSError as error:
        raise InputFileError(path, f"cannot be read ({error.strerror})", "name a study file") from error
    except UnicodeDecodeError as error:
        raise InputFileError(path, "is not text in UTF-8", remedy) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # no date, an alias in itself
        mark = getattr(error, "problem_mark", None)
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        place = f"{path}:{mark.line + 1}" if mark else path
        raise InputFileError(place, f"is not YAML ({problem})", remedy) from error


def _lines(node: Any, place: str) -> Iterator[tuple[str, int]]:  # noqa: ANN401 - a node of PyYAML
    """Yield each field of a YAML node with its line, from 1."""
    if node is None:
        return
    yield place, node.start_mark.line + 1
    for number, child in enumerate(node.value if isinstance(node.value, list) else ()):
        if isinstance(child, tuple):
            name = f"{place}.{child[0].value}".lstrip(".")
            yield from _lines(child[1], name)
            yield name, child[0].start_mark.line + 1  # the key's line, not that of its value
        else:
            yield from _lines(child, f"{place}[{number}]")


def _explain(content: object, message: str) -> tuple[str, str, str]:
    """Return field, problem and remedy of msgspec's error, which names no key of a mapping."""
    problem, _, place = message.replace("`", "").partition(" - at ")
    of_key = place.startswith("key in ")
    field = place.removeprefix("key in ").lstrip("$").lstrip(".") + "[...]" * of_key
    before, several, after = field.partition("[...]")
    if several:
        field = f"{before}.{_culprit(content, before, message)}{after}".strip(".")
    kind = _PARTS.get(re.split(r"[.\[]", field)[0], Study)
    if unknown := re.fullmatch(r"Object contains unknown field (\w+)", problem):
        remedy = _closest(unknown[1], kind.__struct_fields__)
        return f"{field}.{unknown[1]}".lstrip("."), "is no setting", remedy
    if wrong := re.fullmatch(r"Invalid enum value '?(.*?)'?", problem):
        hint = Kind if of_key else get_type_hints(kind)[field.rpartition(".")[2]]
        return field, f"cannot be {wrong[1]}", _closest(wrong[1], _choices(hint))
    quoted = re.fullmatch(r"Expected str, got (int|float|bool)", problem)
    remedy = "put it in quotes" if quoted else "correct it"
    return field or "the file", problem[0].lower() + problem[1:], remedy


def _culprit(content: object, mapping: str, message: str) -> str:
    """Return the key of a mapping, given by its place, that alone makes the same error."""
    changed: Any = copy.deepcopy(content)
    found = changed
    for part in re.findall(r"\w+", mapping):
        found = found[int(part) if isinstance(found, list) else part]
    items = dict(found)
    for key, value in items.items():
        found.clear()
        found[key] = value
        try:
            msgspec.convert(changed, Study)
        except msgspec.ValidationError as error:
            if str(error) == message:
                return str(key)
    return ""


def _choices(hint: object) -> list[str]:
    """Return the texts that a type allows."""
    return [name for part in get_args(hint) for name in ([part] if isinstance(part, str) else _choices(part))]


def _closest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    return f"did you mean {found[0]}?" if found else f"give one of {', '.join(names)}"


def _check_data(file: StudyFile) -> None:
    data, require = file.study.data, file.require
    given = [name for name in ("collection", "phantoms", "raw") if getattr(data, name) is not None]
    found = " and ".join(given) or "none of them"
    require(len(given) == 1, "data", f"has {found}", "give one of collection, phantoms and raw")
    for number, folder in enumerate(file.collections):
        field = f"data.collection[{number}]" if isinstance(data.collection, list) else "data.collection"
        require(folder.is_dir(), field, f"there is no folder {folder}", "give the collection's")
    names = Counter(each.name for each in file.patients)
    for name, number in names.items():
        problem, remedy = f"{number} patients are called {name}", "rename the folder of one of them"
        require(number == 1, "data.collection", problem, remedy)
    if data.raw is not None:
        raw, remedy = file.resolve(data.raw), "give a raw data set of nnU-Net, such as Dataset501_NAME"
        require((raw / "dataset.json").is_file(), "data.raw", f"{raw} holds no dataset.json", remedy)
        named = re.fullmatch(r"Dataset\d{3}_.+", raw.name)
        require(named, "data.raw", f"{raw.name} is no name of a data set", remedy)
        within = raw.is_relative_to(file.work)
        require(
            not within, "data.raw", f"is in {file.work}, which the study writes to", "name another `work`"
        )
    if data.splits not in (None, LEAVE_ONE_OUT):
        splits, remedy = file.resolve(str(data.splits)), f"give {LEAVE_ONE_OUT}, or a file like {SPLITS}"
        require(splits.is_file(), "data.splits", f"there is no file {splits}", remedy)


def _check_networks(file: StudyFile) -> None:
    study, seen = file.study, dict[str, int]()
    trainers, planners = classes_of_nnunet("training/nnUNetTrainer"), classes_of_nnunet("experiment_planning")
    for name, plan in study.plans.items():
        field, problem = f"plans.{name}.planner", f"nnU-Net finds no planner {plan.planner}"
        file.require(plan.planner in planners, field, problem, _closest(plan.planner, planners))
        _check_settings(file, name, plan)
    for number, network in enumerate(study.networks):
        place, trainer = f"networks[{number}]", network.trainer
        found = trainer in trainers or "nnUNet_extTrainer" in study.environment
        linked = any(name.startswith("SGNet") for name in trainers)
        remedy = _closest(trainer, trainers) if linked else "run: sgnet link"
        file.require(found, f"{place}.trainer", f"nnU-Net finds no trainer {trainer}", remedy)
        remedy = f"add it to `plans`, or give one of {', '.join(sorted(study.plans))}"
        planned = network.plans in study.plans
        file.require(planned, f"{place}.plans", f"there is no plan {network.plans}", remedy)
        planner = study.plans[network.plans].planner
        made = not planner.startswith("SGNet") or network.configuration == DEFAULT_CONFIGURATION
        problem = f"{planner} makes no configuration {network.configuration}"
        file.require(made, f"{place}.configuration", problem, f"give {DEFAULT_CONFIGURATION}")
        own = [name for name in SCHEDULE if getattr(network, name) and trainer.startswith("nnUNetTrainer")]
        remedy = "leave it out; nnUNetTrainer_100epochs and the like have another number of epochs"
        file.require(not own, f"{place}.{''.join(own[:1])}", f"{trainer} has a schedule of its own", remedy)
        problem = f"is {network.model}, as networks[{seen.get(network.model)}]"
        remedy = "give it once; a plan of another name makes another model"
        file.require(network.model not in seen, place, problem, remedy)
        seen[network.model] = number


def _check_settings(file: StudyFile, name: str, plan: Plan) -> None:
    place = f"plans.{name}.settings"
    for key, value in plan.settings.items():
        problem, remedy = (
            "is no value of JSON",
            "give texts, numbers, true, false, lists and mappings of texts",
        )
        file.require(_is_json(value), f"{place}.{key}", problem, remedy)
        own = key in Plan.__struct_fields__
        file.require(not own, f"{place}.{key}", "is a setting of the plan itself", f"move it to plans.{name}")
    if DATA_IDENTIFIER in plan.settings:
        owner = file.study.plans.get(other := data_owner(file.study, name))
        trained = {network.plans for network in file.study.networks}
        made = (
            other in trained
            and owner
            and owner.planner == plan.planner
            and not owner.settings.get(DATA_IDENTIFIER)
        )
        problem = f"no trained plan of {plan.planner} makes the data {plan.settings[DATA_IDENTIFIER]}"
        remedy = f"give another plan's, PLAN_{DEFAULT_CONFIGURATION}, or leave it out"
        file.require(made, f"{place}.{DATA_IDENTIFIER}", problem, remedy)


def data_owner(study: Study, name: str) -> str:
    """Return the plan that makes the preprocessed images of a plan: itself, or that of its identifier."""
    given = study.plans[name].settings.get(DATA_IDENTIFIER)
    return name if given is None else str(given).removesuffix(f"_{DEFAULT_CONFIGURATION}")


def _is_json(value: object) -> bool:
    """Return whether a value of YAML, which knows dates, NaN and keys of any type, can be one of JSON."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(each) for key, each in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and isfinite(value))


def classes_of_nnunet(folder: str) -> set[str]:
    """Return the names that nnU-Net finds in a folder of its package; its modules are not imported."""
    spec = find_spec("nnunetv2")
    pattern = re.compile(r"^class (\w+)\(|^from sgnet_nnunet\S* import (.+?)(?:#|$)", re.MULTILINE)
    names: set[str] = set()
    for path in (Path(str(spec.origin)).parent / folder if spec else Path()).rglob("*.py"):
        for own, ours in pattern.findall(path.read_text(encoding="utf-8")):
            names |= {own} if own else {each.strip() for each in ours.split(",")}
    return names


def _check_predictions(file: StudyFile) -> None:
    data, names = file.study.data, set[str]()
    for number, one in enumerate(file.study.predictions):
        place = f"predictions[{number}]"
        new = one.name not in names
        file.require(new, f"{place}.name", f"{one.name} is given twice", "give each set its own name")
        names.add(one.name)
        if one.images == TEST_CASES:
            problem = f"{TEST_CASES}: the split cv sets no test cases aside"
            remedy = "give a folder, or data.split: paper"
            file.require(data.raw or data.split == "paper", f"{place}.images", problem, remedy)
        for name in ("images", "references"):
            given = getattr(one, name)
            if given and given != TEST_CASES and not (name == "images" and is_remote(given)):
                folder, remedy = file.resolve(given), "give a folder, or for images s3://BUCKET/PREFIX"
                file.require(folder.is_dir(), f"{place}.{name}", f"there is no folder {folder}", remedy)
        remote, remedy = is_remote(one.output or "s3://"), "give s3://BUCKET/PREFIX"
        file.require(remote, f"{place}.output", f"{one.output} is no S3 prefix", remedy)


def is_remote(path: str) -> bool:
    """Whether a path is that of an S3 store."""
    return path.startswith("s3://")


def _folds(file: StudyFile) -> tuple[int, ...]:
    """Return the folds to train; one that the splits lack is an error."""
    number, origin = _count_folds(file)
    if file.study.folds == ALL:
        return tuple(range(number))
    chosen = [int(fold) for fold in file.study.folds]
    for place, fold in enumerate(chosen):
        remedy = "it has fold 0" if number == 1 else f"it has the folds 0 to {number - 1}"
        file.require(fold < number, f"folds[{place}]", f"{origin} has no fold {fold}", remedy)
    return tuple(dict.fromkeys(chosen))


def _count_folds(file: StudyFile) -> tuple[int, str]:
    data, raw = file.study.data, file.resolve(file.study.data.raw or "")
    splits = file.resolve(data.splits) if data.splits not in (None, LEAVE_ONE_OUT) else raw / SPLITS
    if data.splits != LEAVE_ONE_OUT and (data.splits or data.raw) and splits.is_file():
        return len(read_splits(splits)), str(splits)
    if data.raw:
        patients = len(find_masks(raw / "labelsTr"))
    else:
        found = {each.patient for root in file.collections for each in scan_collection(root)}
        patients = data.phantoms or len(found)
    if data.splits == LEAVE_ONE_OUT:
        return patients, f"leaving out each of {patients} patients"
    if data.split == "paper" and not data.raw:
        return 1, "the split paper"
    return min(_FOLDS, patients), f"cross-validation of {patients} patients"
