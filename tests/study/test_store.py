"""Images and masks on an S3-compatible store, here a moto server on loopback, through Snakemake's plug-in."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.study.actions import list_images
from sgnet_nnunet.study.runner import STEPS, run_step

pytestmark = pytest.mark.slow

NAMES = {"ENDPOINT_URL": "http://127.0.0.1:{}", "ACCESS_KEY": "key", "SECRET_KEY": "secret"}


@pytest.fixture(scope="module")
def server():
    """Return the port of a server."""
    pytest.importorskip("moto")
    pytest.importorskip("snakemake_storage_plugin_s3")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL
    ) as process:
        for _ in range(300):
            with socket.socket() as client:
                if not client.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.2)
        yield port
        process.kill()


@pytest.fixture
def bucket(server, monkeypatch, tmp_path):
    """Return a bucket, for which the settings of the plug-in are set, and work in a folder of its own."""
    import boto3  # noqa: PLC0415 - of the extra

    for name, value in NAMES.items():
        monkeypatch.setenv(f"SNAKEMAKE_STORAGE_S3_{name}", value.format(server))
    monkeypatch.chdir(tmp_path)
    store = boto3.resource(
        "s3", endpoint_url=f"http://127.0.0.1:{server}", aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    )  # fmt: skip
    return store.create_bucket(Bucket=tmp_path.name.lower().replace("_", "-"))


def test_images_are_predicted_from_a_store_and_the_masks_written_to_it(bucket, make_dataset, tmp_path):
    raw = make_dataset(tmp_path / "raw", cases=3)
    for path in (raw / "imagesTr").iterdir():
        bucket.upload_file(str(path), f"in/{path.name}")
    for key in ("in/other/case9_0000.nii.gz", "in2/case9_0000.nii.gz"):
        bucket.put_object(Key=key, Body=b"")
    cases = list_images(f"s3://{bucket.name}/in/")
    assert list(cases) == ["case0", "case1", "case2"]
    assert cases["case1"] == [f"s3://{bucket.name}/in/case1_{channel:04d}.nii.gz" for channel in range(2)]
    code = (
        "import shutil, pathlib; out = pathlib.Path('out'); out.mkdir(exist_ok=True);"
        f"[shutil.copy({str(raw / 'labelsTr')!r} + '/' + p.name.replace('_0000', ''), out)"
        " for p in pathlib.Path('images').glob('*_0000.nii.gz')]"
    )
    step = Path(STEPS, "predict/a.json")
    step.parent.mkdir(parents=True)
    files = [file for case in ("case0", "case2") for file in cases[case]]
    arguments = {"masks": "out", "images": "images", "fetch": files, "store": f"s3://{bucket.name}/masks"}
    content = {"commands": [[sys.executable, "-c", code]], "action": "tabulate", "arguments": arguments}
    step.write_text(json.dumps(content))
    assert run_step("predict/a", cpus=1, gpus=0) == 0
    assert [each.key for each in bucket.objects.filter(Prefix="masks/")] == [
        f"masks/case{i}.nii.gz" for i in (0, 2)
    ]
    assert not Path("images").exists()  # a shard takes space only while it is predicted
    assert Path("out/lesions.csv").read_text().splitlines()[1].startswith("case0,")
    body = bucket.Object("masks/case0.nii.gz").get()["Body"].read()
    assert body == (raw / "labelsTr/case0.nii.gz").read_bytes()


def test_a_store_that_is_not_there_is_named(bucket, monkeypatch):
    monkeypatch.setenv("SNAKEMAKE_STORAGE_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(SGNetError, match="s3://nowhere/in: the store cannot be used"):
        list_images("s3://nowhere/in")
