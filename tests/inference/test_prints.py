import logging
import sys
import threading

from sgnet_nnunet.nnunet import prints_to_log


def test_prints_go_to_the_log_and_warnings_are_seen(caplog, capsys):
    caplog.set_level(logging.DEBUG, "sgnet_nnunet")
    with prints_to_log():
        sys.stdout.write("There are 2 cases in the source folder\n")
        thread = threading.Thread(target=print, args=("WARNING! Not all images have the same affine",))
        thread.start()
        thread.join()
    sys.stdout.write("afterwards\n")
    assert capsys.readouterr().out == "afterwards\n"
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("DEBUG", "nnU-Net: There are 2 cases in the source folder"),
        ("WARNING", "nnU-Net: WARNING! Not all images have the same affine"),
    ]
