"""Write a small TensorNet for Na and Cl with random weights; it runs in MatGL's environment: FOLDER."""

import sys

import torch
from matgl.apps.pes import Potential
from matgl.models import TensorNet

torch.manual_seed(0)
model = TensorNet(
    element_types=("Na", "Cl", "Cu"),
    units=16,
    nblocks=1,
    num_rbf=8,
    rbf_type="SphericalBessel",
    use_smooth=True,
    max_n=3,
    max_l=3,
    is_intensive=False,
    cutoff=4.5,
)
Potential(model, data_std=3.0, element_refs=[-1.0, -2.0, -4.0]).save(sys.argv[1])
