"""Write random weights for orb-v3-conservative-inf-omat; it runs in ORB's environment: OUT."""

import sys

import torch
from orb_models.forcefield.pretrained import orb_v3_conservative_architecture

torch.manual_seed(0)
torch.save(orb_v3_conservative_architecture(device="cpu").state_dict(), sys.argv[1])
