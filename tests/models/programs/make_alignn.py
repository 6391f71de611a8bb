"""Write a small ALIGNN force field with random weights; it runs in ALIGNN's environment: FOLDER [KEY=JSON ...]."""

import json
import sys
from pathlib import Path

import torch
from alignn.models.alignn_atomwise_pure import ALIGNNAtomWisePure, ALIGNNAtomWisePureConfig

folder = Path(sys.argv[1])
settings = {
    "name": "alignn_atomwise_pure",
    "alignn_layers": 1,
    "gcn_layers": 1,
    "hidden_features": 24,
    "embedding_features": 16,
    "edge_input_features": 16,
    "triplet_input_features": 8,
    "atom_input_features": 92,
    "calculate_gradient": True,
    "stresswise_weight": 0.1,
    "lg_on_fly": True,
}
settings |= {key: json.loads(value) for key, value in (argument.split("=", 1) for argument in sys.argv[2:])}
torch.manual_seed(0)
model = ALIGNNAtomWisePure(ALIGNNAtomWisePureConfig(**settings))
folder.mkdir(parents=True)
torch.save(model.state_dict(), folder / "best_model.pt")
graph = {
    "neighbor_strategy": "pure_torch",
    "cutoff": 5.0,
    "three_body_cutoff": 3.5,
    "max_neighbors": 1_000_000,
    "atom_features": "cgcnn",
    "use_canonize": False,
    "batch_size": 1,
}
(folder / "config.json").write_text(json.dumps({"model": settings, **graph}))
