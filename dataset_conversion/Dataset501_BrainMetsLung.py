"""nnU-Net's habit: `python dataset_conversion/Dataset501_BrainMetsLung.py ROOT [options]`.

The same as `sgnet convert ROOT [options]`.
"""

import sys

from sgnet_nnunet.cli.main import main

if __name__ == "__main__":
    main(["convert", *sys.argv[1:]])
