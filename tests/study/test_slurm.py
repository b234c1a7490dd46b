"""The same study through a real Slurm gives the same report; `make slurm` starts one on this host."""

import re
import shutil
import subprocess

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("study")]

CLUSTER = """
cluster:
  executor: slurm
  jobs: 2
  options: {slurm-status-command: squeue, slurm-no-account: true, seconds-between-status-checks: 5}
  resources: {slurm_partition: main}
"""


def test_a_study_through_slurm_gives_the_report_of_a_local_one(
    start_study, tmp_path, make_dataset, study_text
):
    if not shutil.which("sinfo") or subprocess.run(["sinfo"], capture_output=True, check=False).returncode:
        pytest.skip("no Slurm answers; run: make slurm")
    make_dataset(tmp_path / "raw", cases=4)
    reports = []
    for work, cluster in (("local", ""), ("slurm", CLUSTER)):
        path = tmp_path / f"{work}.yaml"
        path.write_text(study_text.replace("work: out", f"work: {work}") + cluster)
        process = start_study(path)
        output = process.communicate()[0]
        assert process.returncode == 0, output
        reports.append((tmp_path / work / "reports/study.csv").read_text())
    assert reports[0] == reports[1]
    log = (tmp_path / "slurm/study/logs/snakemake.log").read_text()
    assert len(re.findall(r"submitted with SLURM jobid \d+", log)) == 21
