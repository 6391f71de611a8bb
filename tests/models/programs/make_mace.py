"""Write a small MACE for Na, Si, Cl and Cu with random weights, in MACE's environment: OUT [SEED [charged|released]].

A charged one reads the charge and the spin of each structure; one like those that are released is as large as they are.
"""

import sys

import numpy as np
import torch
from mace import modules  # before e3nn, which it makes loadable with today's torch
from mace.tools import torch_tools

from e3nn import o3  # isort: skip

out, seed = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
charged, large = {}, "released" in sys.argv
if "charged" in sys.argv:
    charge = {"type": "categorical", "per": "graph", "num_classes": 11, "emb_dim": 4, "offset": 5}
    spin = {"type": "continuous", "per": "graph", "in_dim": 1, "emb_dim": 4}
    charged = {"embedding_specs": {"total_charge": charge, "total_spin": spin}, "use_embedding_readout": True}
torch.manual_seed(seed)
with torch_tools.default_dtype("float32"):
    model = modules.ScaleShiftMACE(
        atomic_numbers=[11, 14, 17, 29],
        num_elements=4,
        atomic_energies=np.array([-1.0, -5.0, -2.0, -4.0]),
        atomic_inter_scale=50.0,  # so that forces are of the usual size
        atomic_inter_shift=0.1,
        r_max=6.0 if large else 4.5,
        num_bessel=10 if large else 6,
        num_polynomial_cutoff=5,
        max_ell=3 if large else 2,
        num_interactions=2,
        interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        hidden_irreps=o3.Irreps("128x0e + 128x1o" if large else "8x0e + 8x1o"),
        MLP_irreps=o3.Irreps("16x0e" if large else "8x0e"),
        radial_MLP=[64, 64, 64] if large else [16, 16],
        radial_type="bessel",
        correlation=3 if large else 2,
        gate=torch.nn.functional.silu,
        avg_num_neighbors=12.0,
        **charged,
    )
torch.save(model, out)
