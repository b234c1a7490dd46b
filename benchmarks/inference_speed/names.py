"""What the tables call the ways that the bars are about."""

SPARSE = "sparse, OpenVINO f32"
SPARSE_BF16 = "sparse, OpenVINO bf16"
STOCK = "nnU-Net, its defaults: step 0.5, mirroring"
STOCK_FAST = "nnU-Net, step 0.75, no mirroring"

EXPORTED = "sgnet predict, exported model, f32"
TRAINED = "sgnet predict, trained model"
