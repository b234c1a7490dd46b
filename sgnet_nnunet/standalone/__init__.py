"""Everything round an exported network, from files to masks, without PyTorch."""
