"""`study.yaml`: its schema, and checks that name the line and what would be right."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from sgnet_nnunet.dataset.collection import scan_collection
from sgnet_nnunet.errors import InputFileError, needs_extra
from sgnet_nnunet.files import read_bytes
from sgnet_nnunet.nnunet import ALL, DEFAULT_CONFIGURATION, DEFAULT_PLANS, SPLITS, find_masks, read_splits

LEAVE_ONE_OUT = "leave_one_out"
TEST_CASES = "imagesTs"
"""As `images` of a prediction set: the test cases that the conversion has set aside."""

_FOLDS = 5  # that nnU-Net and `sgnet convert` make

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
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
    """How a plan is made; patch and batch replace the planner's."""

    planner: Word = "SGNetPlanner"
    gpu_memory_gb: Share | None = None
    patch_size: tuple[Count, Count, Count] | None = None  # z, y, x in voxels
    batch_size: Count | None = None


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
    folds: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=1)] | Literal["all"] = msgspec.field(
        default_factory=lambda: [0, 1, 2, 3, 4]
    )
    seeds: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [0]
    )
    epochs: Count | None = None
    iterations: Count | None = None
    validation_iterations: Count | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    mirroring: bool = True
    ensembles: bool = True
    tune: bool = True
    predictions: list[PredictionSet] = []
    resources: dict[Kind, Resources] = {}
    cluster: Cluster = msgspec.field(default_factory=Cluster)
    environment: dict[str, str] = {}
    notify: str | None = None
    """A shell command that is run at the end, with SGNET_STUDY_STATUS, _DONE, _FAILED and _WORK set."""


@dataclass(frozen=True)
class StudyFile:
    """A study that was read, where it was read from, and the line of each of its fields."""

    path: Path
    study: Study
    lines: Mapping[str, int]
    folds: tuple[int, ...]

    @property
    def work(self) -> Path:
        """Folder that the study works in."""
        return self.resolve(self.study.work)

    def resolve(self, path: str) -> Path:
        """Return a path of the file as an absolute one."""
        return (self.path.parent / Path(path).expanduser()).absolute()


class _Problems:
    """Raises errors that name a line of the file."""

    def __init__(self, path: Path, lines: Mapping[str, int]) -> None:
        self.path, self.lines = path, lines

    def at(self, field: str, problem: str, remedy: str) -> InputFileError:
        """Return the error of a field such as `networks[1].trainer`."""
        place = field
        while place and place not in self.lines:
            place = re.sub(r"(\.[^.\[]+|\[\d+\]|^[^.\[]+)$", "", place)
        return InputFileError(f"{self.path}:{self.lines.get(place, 1)}", f"{field}: {problem}", remedy)


def read_study(path: Path) -> StudyFile:
    """Return a study that can be run, as far as that can be known before its first step.

    Raises:
        InputFileError: If the file cannot be read, or a field of it cannot be; names the line.
    """
    content, lines = _parse(path)
    problems = _Problems(path, lines)
    try:
        study = msgspec.convert(content, Study)
    except msgspec.ValidationError as error:
        raise _explain(str(error), problems) from error
    file = StudyFile(path.absolute(), study, lines, ())
    _check_data(file, problems)
    _check_networks(study, problems)
    _check_predictions(file, problems)
    return StudyFile(file.path, study, lines, _folds(file, problems))


def _parse(path: Path) -> tuple[object, dict[str, int]]:
    with needs_extra("study"):
        import yaml  # noqa: PLC0415
    remedy = "correct it; docs/how-to.md has examples"
    try:
        text = read_bytes(path).decode()
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = dict(_lines(node, ""))
        return yaml.safe_load(text), lines
    except OSError as error:
        raise InputFileError(path, f"cannot be read ({error.strerror})", "name a study file") from error
    except UnicodeDecodeError as error:
        raise InputFileError(path, "is not text in UTF-8", remedy) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else path
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise InputFileError(place, f"is not YAML ({problem})", remedy) from error


def _lines(node: Any, place: str) -> Iterator[tuple[str, int]]:  # noqa: ANN401 - a node of PyYAML
    """Yield each field of a YAML node with its line, from 1."""
    if node is None:
        return
    yield place, node.start_mark.line + 1
    if isinstance(node.value, list):
        for number, child in enumerate(node.value):
            if isinstance(child, tuple):
                name = f"{place}.{child[0].value}".lstrip(".")
                yield name, child[0].start_mark.line + 1
                yield from ((at, line) for at, line in _lines(child[1], name) if at != name)
            else:
                yield from _lines(child, f"{place}[{number}]")


def _explain(message: str, problems: _Problems) -> InputFileError:
    """Return msgspec's error with the line of the field; an unknown field gets the closest known one."""
    problem, _, place = message.partition(" - at ")
    field = place.strip("`").lstrip("$").lstrip(".")
    problem = problem.replace("`", "")
    unknown = re.fullmatch(r"Object contains unknown field (\w+)", problem)
    if unknown:
        field = f"{field}.{unknown[1]}".lstrip(".")
        known = _known_fields(field.rpartition(".")[0])
        return problems.at(field, "is no setting", _closest(unknown[1], known))
    return problems.at(field or "the file", problem[0].lower() + problem[1:], "correct it")


def _known_fields(place: str) -> list[str]:
    """Return the settings at a place such as `networks[1]`."""
    kinds = {
        "data": Data, "plans": Plan, "networks": Network, "predictions": PredictionSet,
        "resources": Resources, "cluster": Cluster,
    }  # fmt: skip
    kind = kinds.get(re.split(r"[.\[]", place)[0], Study)
    return list(kind.__struct_fields__)


def _closest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {found[0]}?" if found else f"give one of {', '.join(names)}"


def _check_data(file: StudyFile, problems: _Problems) -> None:
    data = file.study.data
    given = [name for name in ("collection", "phantoms", "raw") if getattr(data, name) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise problems.at("data", f"has {found}", "give one of collection, phantoms and raw")
    for number, folder in enumerate(collections_of(data)):
        if not file.resolve(folder).is_dir():
            field = f"data.collection[{number}]" if isinstance(data.collection, list) else "data.collection"
            raise problems.at(field, f"there is no folder {file.resolve(folder)}", "give the collection's")
    if data.raw is not None:
        raw = file.resolve(data.raw)
        if not (raw / "dataset.json").is_file():
            raise problems.at("data.raw", f"{raw} holds no dataset.json", "give a raw data set of nnU-Net")
        if not re.fullmatch(r"Dataset\d{3}_.+", raw.name):
            raise problems.at("data.raw", f"{raw.name} is no name of a data set", "name it Dataset501_NAME")
    if data.splits not in (None, LEAVE_ONE_OUT) and not file.resolve(str(data.splits)).is_file():
        problem = f"there is no file {file.resolve(str(data.splits))}"
        raise problems.at("data.splits", problem, f"give {LEAVE_ONE_OUT}, or a file like nnU-Net's {SPLITS}")


def collections_of(data: Data) -> list[str]:
    """Return the folders of patients, none for phantoms and raw data."""
    if data.collection is None:
        return []
    return [data.collection] if isinstance(data.collection, str) else data.collection


def _check_networks(study: Study, problems: _Problems) -> None:
    trainers, planners = classes_of_nnunet("training/nnUNetTrainer"), classes_of_nnunet("experiment_planning")
    for name, plan in study.plans.items():
        if plan.planner not in planners:
            problem = f"nnU-Net finds no planner {plan.planner}"
            raise problems.at(f"plans.{name}.planner", problem, _closest(plan.planner, planners))
    seen: dict[str, int] = {}
    for number, network in enumerate(study.networks):
        place = f"networks[{number}]"
        if network.trainer not in trainers and "nnUNet_extTrainer" not in study.environment:
            problem = f"nnU-Net finds no trainer {network.trainer}"
            raise problems.at(f"{place}.trainer", problem, _closest(network.trainer, trainers))
        _check_network(study, network, place, problems)
        if network.model in seen:
            problem = f"is {network.model}, as networks[{seen[network.model]}]"
            raise problems.at(place, problem, "give it once; a plan of another name makes another model")
        seen[network.model] = number


def _check_network(study: Study, network: Network, place: str, problems: _Problems) -> None:
    if network.plans not in study.plans:
        problem = f"there is no plan {network.plans}"
        remedy = f"add it to `plans`, or give one of {', '.join(sorted(study.plans))}"
        raise problems.at(f"{place}.plans", problem, remedy)
    planner = study.plans[network.plans].planner
    if planner.startswith("SGNet") and network.configuration != DEFAULT_CONFIGURATION:
        problem = f"{planner} makes no configuration {network.configuration}"
        raise problems.at(f"{place}.configuration", problem, f"give {DEFAULT_CONFIGURATION}")
    own = [name for name in ("epochs", "iterations", "validation_iterations") if getattr(network, name)]
    if own and network.trainer.startswith("nnUNetTrainer"):
        remedy = "leave it out; nnUNetTrainer_100epochs and the like have another number of epochs"
        raise problems.at(f"{place}.{own[0]}", f"{network.trainer} has a schedule of its own", remedy)


def classes_of_nnunet(folder: str) -> set[str]:
    """Return the names that nnU-Net finds in a folder of its package; its modules are not imported."""
    spec = find_spec("nnunetv2")
    root = Path(str(spec.origin)).parent / folder if spec else Path()
    pattern = re.compile(r"^class (\w+)\(|^from sgnet_nnunet\S* import (.+?)(?:#|$)", re.MULTILINE)
    names: set[str] = set()
    for path in root.rglob("*.py"):
        for own, ours in pattern.findall(path.read_text(encoding="utf-8")):
            names |= {own} if own else {each.strip() for each in ours.split(",")}
    return names


def _check_predictions(file: StudyFile, problems: _Problems) -> None:
    names: set[str] = set()
    for number, one in enumerate(file.study.predictions):
        place = f"predictions[{number}]"
        if one.name in names:
            raise problems.at(f"{place}.name", f"{one.name} is given twice", "give each set its own name")
        names.add(one.name)
        if one.images == TEST_CASES:
            if file.study.data.raw is None and file.study.data.split != "paper":
                problem = f"{TEST_CASES}: the split cv sets no test cases aside"
                raise problems.at(f"{place}.images", problem, "give a folder, or data.split: paper")
        elif not is_remote(one.images) and not file.resolve(one.images).is_dir():
            problem = f"there is no folder {file.resolve(one.images)}"
            raise problems.at(f"{place}.images", problem, "give a folder of images, or s3://BUCKET/PREFIX")
        if one.references and not file.resolve(one.references).is_dir():
            problem = f"there is no folder {file.resolve(one.references)}"
            raise problems.at(f"{place}.references", problem, "give a folder of masks")
        if one.output and not is_remote(one.output):
            raise problems.at(f"{place}.output", f"{one.output} is no S3 prefix", "give s3://BUCKET/PREFIX")


def is_remote(path: str) -> bool:
    """Whether a path is that of an S3 store."""
    return path.startswith("s3://")


def _folds(file: StudyFile, problems: _Problems) -> tuple[int, ...]:
    """Return the folds to train; one that the splits lack is an error."""
    number, origin = _count_folds(file)
    if file.study.folds == ALL:
        return tuple(range(number))
    chosen = [int(fold) for fold in file.study.folds]
    for place, fold in enumerate(chosen):
        if fold >= number:
            folds = "fold 0" if number == 1 else f"the folds 0 to {number - 1}"
            raise problems.at(f"folds[{place}]", f"{origin} has no fold {fold}", f"it has {folds}")
    return tuple(dict.fromkeys(chosen))


def _count_folds(file: StudyFile) -> tuple[int, str]:
    data = file.study.data
    if data.splits and data.splits != LEAVE_ONE_OUT:
        path = file.resolve(data.splits)
        return len(read_splits(path)), str(path)
    if data.raw:
        raw = file.resolve(data.raw)
        patients = len(find_masks(raw / "labelsTr"))
        if not data.splits and (raw / SPLITS).is_file():
            return len(read_splits(raw / SPLITS)), str(raw / SPLITS)
    elif data.phantoms:
        patients = data.phantoms
    else:
        roots = map(file.resolve, collections_of(data))
        patients = len({each.patient for root in roots for each in scan_collection(root)})
    if data.splits == LEAVE_ONE_OUT:
        return patients, f"leaving out each of {patients} patients"
    if data.split == "paper" and not data.raw:
        return 1, "the split paper"
    return min(_FOLDS, patients), f"cross-validation of {patients} patients"
