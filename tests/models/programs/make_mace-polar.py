"""Write a small MACE-POLAR for hydrogen and oxygen with random weights; it runs in its environment: OUT."""

import sys

import torch
from mace.modules import interaction_classes  # before e3nn, which it makes loadable with today's torch
from mace.modules.extensions import PolarMACE
from mace.tools import torch_tools

from e3nn import o3  # isort: skip

interaction = interaction_classes["RealAgnosticResidualNonLinearInteractionBlock"]
torch.manual_seed(0)
with torch_tools.default_dtype("float64"):
    model = PolarMACE(
        r_max=4.0,
        num_bessel=4,
        num_polynomial_cutoff=5,
        max_ell=1,
        interaction_cls=interaction,
        interaction_cls_first=interaction,
        num_interactions=2,
        num_elements=2,
        hidden_irreps=o3.Irreps("8x0e + 8x1o"),
        MLP_irreps=o3.Irreps("8x0e"),
        atomic_energies=torch.tensor([-13.0, -2000.0]),
        avg_num_neighbors=3.0,
        atomic_numbers=[1, 8],
        correlation=1,
        gate=torch.nn.functional.silu,
        radial_MLP=[16, 16],
        radial_type="bessel",
        kspace_cutoff_factor=1.0,
        atomic_multipoles_max_l=1,
        atomic_multipoles_smearing_width=1.5,
        field_feature_max_l=1,
        field_feature_widths=[1.5],
        field_feature_norms=[1.0, 1.0],
        num_recursion_steps=1,
        field_si=False,
        include_electrostatic_self_interaction=False,
        add_local_electron_energy=True,
        field_dependence_type="AgnosticEmbeddedOneBodyVariableUpdate",
        final_field_readout_type="OneBodyMLPFieldReadout",
        return_electrostatic_potentials=False,
        heads=["Default"],
        field_norm_factor=1.0,
        fixedpoint_update_config={
            "type": "AgnosticEmbeddedOneBodyVariableUpdate",
            "potential_embedding_cls": "AgnosticChargeBiasedLinearPotentialEmbedding",
            "nonlinearity_cls": "MLPNonLinearity",
        },
        field_readout_config={"type": "OneBodyMLPFieldReadout"},
    )
torch.save(model, sys.argv[1])
