"""Malformed files of a model are named with the field, by every command, and nothing else is raised."""

import copy
import json
import math
import shutil
import subprocess
import sys
from itertools import product

import pytest

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.inference.predictor import predict

COMMANDS = ("predict", "tiled", "export", "gates", "tune", "compare")
SGNET = (sys.executable, "-c", "from sgnet_nnunet.cli.main import main; main()")
DROP = object()
NESTED = [[[[]]]]
NUMBERS = {"negative": -1, "huge": 10**400, "nan": math.nan, "infinite": math.inf}
OTHERS = {"dropped": DROP, "null": None, "nested": NESTED, "text": "x/y", "object": {"a": []}, "number": 7.5}

SETTINGS = ("configurations", "3d_fullres")
PLANS = [
    *product(
        [
            ("transpose_forward",),
            ("transpose_backward",),
            ("image_reader_writer",),
            (*SETTINGS, "spacing"),
            (*SETTINGS, "patch_size"),
            (*SETTINGS, "normalization_schemes"),
            (*SETTINGS, "use_mask_for_norm"),
            (*SETTINGS, "resampling_fn_data"),
            (*SETTINGS, "resampling_fn_probabilities_kwargs"),
        ],
        OTHERS.values(),
    ),
    *product([(*SETTINGS, "spacing", 1), (*SETTINGS, "patch_size", 0)], NUMBERS.values()),
    *product([("transpose_forward", 2)], NUMBERS.values()),
    *product([("configurations",), SETTINGS, (*SETTINGS, "architecture")], (NESTED, "x", 7)),
    *product([(*SETTINGS, "architecture", "network_class_name")], (NESTED, None, "os.system", 7, "", DROP)),
    *product([(*SETTINGS, "architecture", "arch_kwargs")], (NESTED, None, {"a": 1}, {"gate": "none/"}, DROP)),
    *product([(*SETTINGS, "architecture", "arch_kwargs", "features_per_stage", 0)], NUMBERS.values()),
    *product([(*SETTINGS, "architecture", "arch_kwargs", "features_per_stage", 0)], ("x", None, 0)),
    *product([(*SETTINGS, "resampling_fn_data_kwargs", "is_seg")], ("x", None, NESTED, 3)),
    ((*SETTINGS, "resampling_fn_data_kwargs", "mode"), "x"),
    ((*SETTINGS, "resampling_fn_probabilities_kwargs", "order"), 3),
    ((*SETTINGS, "architecture", "_kw_requires_import"), ["features_per_stage"]),
    ((*SETTINGS, "inherits_from"), "3d_fullres"),
    ((*SETTINGS, "inherits_from"), ["3d_fullres"]),
    ((*SETTINGS, "data_identifier"), "../../elsewhere"),
    ((*SETTINGS, "preprocessor_name"), "maybe_mkdir_p"),
    ((*SETTINGS, "previous_stage"), 3),
    (("label_manager",), "os"),
    (("dataset_name",), ["a"]),
    (("dataset_name",), "../other"),
]  # fmt: skip
DATASET = [
    *product([("labels",), ("channel_names",), ("file_ending",)], OTHERS.values()),
    *product([("labels", "whole_tumor")], (*NUMBERS.values(), None, NESTED, "1", 1.5, 2, [], [1, -1])),
    *product([("labels", "background")], (1, None, [0], DROP, True)),
    *product([("labels", "ignore")], (1, 5, [2], "2", None)),
    (("labels",), {"background": 0, "whole": [1, 2], "core": [2]}),
    (("regions_class_order",), "12"),
    (("regions_class_order",), [7]),
    (("channel_names", "0"), 5),
    (("channel_names", "1"), NESTED),
    (("file_ending",), "/../../x.nii.gz"),
    (("file_ending",), ""),
]
POINT = [
    *product([("point",), ("tuned_for",), ("point", "threshold")], OTHERS.values()),
    *product([("point", "threshold"), ("point", "min_lesion_volume_mm3")], NUMBERS.values()),
    *product([("tuned_for", "folds")], (None, "0", [0], NESTED)),
    *product([("version",), ("format",)], (None, "x", 99, NESTED)),
]
EXPORT = [
    *product([("folds",), ("configuration",), ("mirroring_axes",), ("background_head",)], OTHERS.values()),
    *product([("folds", "0", "gates", 0, "dilation"), ("folds", "0", "features", 0)], NUMBERS.values()),
    *product([("folds", "0", "gates", 0, "score_threshold")], (10**400, math.nan, math.inf, -1e9, None)),
    *product([("folds", "0", "background", 0)], (10**400, math.nan, math.inf, -1e9, None)),
    *product([("folds", "0", "channels"), ("folds", "0", "heads")], (*NUMBERS.values(), None, 3)),
    *product([("folds", "0", "gates")], ([], None, [7], NESTED)),
    *product([("mirroring_axes", 0), ("version",), ("format",)], (*NUMBERS.values(), None, "x")),
    (("folds",), {"../0": {}}),
    (("folds",), {}),
    (("files_sha256",), {"../plans.json": "0" * 64}),
    (("files_sha256",), {"fold_0/deep.xml": "x"}),
    (("files_sha256", "fold_0/deep.xml"), "0" * 64),
    (("weights_sha256",), ["x"]),
]  # fmt: skip
SPLITS = [
    *("null", "[1, 2]", "{}", "[[]]", "7", '"all"', "[null]", "", "{", "\x00", "[" * 100_000),
    *('[{"train": []}]', '[{"val": []}]', '[{"train": 1, "val": []}]', '[{"train": [[]], "val": []}]'),
    *(
        '[{"train": [], "val": ' + val + "}]"
        for val in ("null", "[1]", '"a"', '["../a"]', '["a/b"]', "[NaN]")
    ),
]


def mutated(content, place, value):
    content = copy.deepcopy(content)
    *way, last = place
    inner = content
    for key in way:
        inner = inner[key]
    if value is DROP:
        inner.pop(last, None)
    else:
        inner[last] = value
    return content


def named(place, value):
    text = "dropped" if value is DROP else str(value)
    return f"{'.'.join(map(str, place))}={text[:20]}"


def rows(table):
    """Return the rows as parameters; every sixth is among the tests that are not slow."""
    return [
        pytest.param(*row, id=named(*row), marks=[pytest.mark.slow] if number % 6 else [])
        for number, row in enumerate(table)
    ]


def told(function, caplog):
    """Return the error of a function, or the warnings of one that goes on; other exceptions are failures."""
    caplog.clear()
    try:
        function()
    except SGNetError as error:
        return str(error)
    return caplog.text


@pytest.fixture
def written(shared_commands):
    """Return a function that writes a file of the model or the data set, which is restored afterwards."""
    before = {}

    def write(path, content):
        before.setdefault(path, path.read_text() if path.exists() else None)
        path.write_text(content if isinstance(content, str) else json.dumps(content))

    yield write
    for path, text in before.items():
        path.unlink() if text is None else path.write_text(text)


def refused(commands, names, files, caplog):
    """Check that every command refuses a file by name, in one line."""
    for name in names:
        message = told(getattr(commands, name), caplog)
        assert any(file in message for file in files), (name, message)
        assert len(message) < 1000, message


@pytest.mark.parametrize(("place", "value"), rows(PLANS))
def test_plans(shared_commands, written, caplog, place, value):
    path = shared_commands.folder / "plans.json"
    written(path, mutated(json.loads(path.read_text()), place, value))
    refused(shared_commands, COMMANDS, ["plans.json"], caplog)


@pytest.mark.parametrize(("place", "value"), rows(DATASET))
def test_dataset(shared_commands, written, caplog, place, value):
    path = shared_commands.folder / "dataset.json"
    written(path, mutated(json.loads(path.read_text()), place, value))
    refused(shared_commands, COMMANDS, ["dataset.json"], caplog)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "[" * 100_000, '{"a": ' * 100_000, "\x00", "7", "\ud800"]
)
@pytest.mark.parametrize("file", ["plans.json", "dataset.json"])
def test_files_that_are_no_objects(shared_commands, written, caplog, file, text):
    written(shared_commands.folder / file, text.encode("utf-8", "surrogatepass").decode("latin-1"))
    refused(shared_commands, COMMANDS, [file], caplog)


@pytest.mark.parametrize("text", SPLITS)
def test_splits(shared_commands, written, caplog, text):
    written(shared_commands.root / "nnUNet_preprocessed/Dataset501_Tiny/splits_final.json", text)
    refused(shared_commands, ("tune", "compare"), ["splits_final.json"], caplog)


@pytest.mark.parametrize(("place", "value"), POINT, ids=[named(*row) for row in POINT])
def test_operating_point(shared_commands, written, caplog, place, value):
    provenance = {"model": "m", "engine": "sparse", "folds": ["0"], "weights_sha256": "x"}
    content = {
        "format": "sgnet operating point",
        "version": 3,
        "tuned_for": provenance,
        "point": {"threshold": 0.4, "min_lesion_volume_mm3": 3.0},
    }
    written(shared_commands.folder / "operating_point.json", mutated(content, place, value))
    refused(shared_commands, ("predict", "tiled"), ["operating_point.json"], caplog)


@pytest.fixture(scope="module")
def exported(exported_model, tmp_path_factory):
    """Return an exported folder of this file's own."""
    return shutil.copytree(exported_model, tmp_path_factory.mktemp("doors") / "exported")


@pytest.mark.parametrize(("place", "value"), rows(EXPORT))
def test_export(exported, written, images, tmp_path, place, value):
    path = exported / "export.json"
    content = mutated(json.loads(path.read_text()), place, value)
    content = {key: each for key, each in content.items() if key != "content_sha256"}
    written(path, content | ({} if place[0] == "files_sha256" else {"files_sha256": {}}))
    with pytest.raises(SGNetError) as caught:
        predict(images, tmp_path / "masks", model_folders=[exported])
    assert str(exported) in str(caught.value)
    assert "export.json" in str(caught.value) or place[-1] in {"channels", "heads", "configuration"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "file", "text"),
    [
        ("predict", "plans.json", "[]"),
        ("predict", "dataset.json", '{"labels": null}'),
        ("predict", "operating_point.json", "{"),
        ("export", "plans.json", "null"),
        ("export", "dataset.json", ""),
        ("export", "fold_0/checkpoint_final.pth", "no checkpoint"),
        ("gates", "plans.json", '{"configurations": 3}'),
        ("gates", "dataset.json", "[[]]"),
        ("gates", "fold_0/checkpoint_final.pth", ""),
        ("tune", "plans.json", "{}"),
        ("tune", "dataset.json", "7"),
        ("tune", "splits_final.json", "null"),
        ("compare", "splits_final.json", "[[1]]"),
    ],
)
def test_command_line_ends_with_one_line(commands, tmp_path, command, file, text):
    folder = commands.folder
    if file == "splits_final.json":
        folder = commands.root / "nnUNet_preprocessed/Dataset501_Tiny"
    (folder / file).write_text(text)
    run = subprocess.run(
        [*SGNET, command, *commands.arguments(command, tmp_path / "output")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in {1, 2}
    assert run.stderr.strip().count("\n") == 0
    assert file in run.stderr
