"""Where the masks to be judged come from: nnU-Net's result folders, or any two folders of masks."""
