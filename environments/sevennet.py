# /// script
# requires-python = ">=3.10"
# dependencies = [
#     # The first release whose wheel holds four checkpoints under the MIT licence. The lower bound keeps a resolver from
#     # going back to one with other names.
#     "sevenn>=0.13",
#     "ase>=3.25",
#     "torch>=2.4",
#     # For dispersion=True. SevenNet's own D3 runs on CUDA only, and compiles itself.
#     "torch-dftd>=0.5.2",
# ]
#
# [tool.rootstock]
# description = "SevenNet: scalable equivariant graph networks for 89 elements. Energies, forces, stress, energies of atoms."
# family = "SevenNet"
# room = { megabytes = 1600, files = 47000, cuda = { megabytes = 6500 } }
# licence = { code = "MIT", weights = "MIT" }
# training-set = "MPtrj"
# functional = "PBE+U"
# notes = [
#     "A model with several fidelities is named with one of them behind a slash, such as omni/mpa.",
#     "Single precision only.",
#     "The weights of 0, 0-22may2024, l3i5 and mf-0 come with the package; the others are fetched.",
# ]
# all-models-listed = true
# properties = ["energy", "free_energy", "forces", "stress", "energies"]
# extra-properties = { num_edges = "scalar" }
# elements = ["H-Bi", "Ac-Pu"]
# dispersion = "offered"
# bundled = ["0", "0-22may2024", "l3i5", "mf-0/*"]
# warm = ["omni/mpa"]
# # The library looks in its own package, and then here.
# home = [".cache/sevennet"]
# variants = [
#     { models = ["mf-0/*"], training-set = "MPtrj + MP-r2SCAN" },
#     { models = ["omat"], training-set = "OMat24" },
#     { models = ["mf-ompa/*"], training-set = "OMat24 + MPtrj + sAlex" },
#     { models = ["omni*"], training-set = "15 open data sets" },
#     { models = ["mf-0/R2SCAN", "omni*/*r2scan"], functional = "r2SCAN" },
#     { models = ["omni*/matpes_pbe"], functional = "PBE" },
#     { models = ["omni*/oc20"], functional = "RPBE" },
#     { models = ["omni*/qcml"], functional = "PBE0" },
#     { models = ["omni*/pet_mad"], functional = "PBEsol" },
#     # torch-dftd has no parameters for it.
#     { models = ["omni*/spice"], functional = "wB97M", dispersion = "" },
#     { models = ["omni*/odac23"], functional = "PBE-D3", dispersion = "included" },
#     { models = ["omni*/omol25_*"], functional = "wB97M-V", dispersion = "included" },
# ]
#
# [[tool.rootstock.citation]]
# authors = "Park, Yutack and Kim, Jaesun and Hwang, Seungwoo and Han, Seungwu"
# title = "Scalable Parallel Algorithm for Graph Neural Network Interatomic Potentials in Molecular Dynamics Simulations"
# journal = "Journal of Chemical Theory and Computation"
# volume = "20"
# pages = "4857--4868"
# year = 2024
# doi = "10.1021/acs.jctc.4c00190"
#
# [[tool.rootstock.citation]]
# authors = "Kim, Jaesun and Kim, Jisu and Kim, Jaehoon and Lee, Jiho and Park, Yutack and Kang, Youngho and Han, Seungwu"
# title = "Data-Efficient Multifidelity Training for High-Fidelity Machine Learning Interatomic Potentials"
# journal = "Journal of the American Chemical Society"
# volume = "147"
# pages = "1042--1054"
# year = 2024
# doi = "10.1021/jacs.4c14455"
# models = ["mf-*"]
#
# [[tool.rootstock.citation]]
# authors = "Kim, Jaesun and You, Jinmu and Park, Yutack and Lim, Yunsung and Kang, Yujin and Kim, Jisu and Jeon, Haekwan and Ju, Suyeon and Hong, Deokgi and Lee, Seung Yul and Choi, Saerom and Kim, Yongdeok and Lee, Jae W and Han, Seungwu"
# title = "Optimizing Cross-Domain Transfer for Universal Machine Learning Interatomic Potentials"
# journal = "Nature Communications"
# volume = "17"
# pages = "3432"
# year = 2026
# doi = "10.1038/s41467-026-70195-8"
# models = ["omni*"]
#
# [tool.rootstock.models]
# "" = "0"
# "0" = "SevenNet-0 of 11 July 2024, the fastest"
# "0-22may2024" = "SevenNet-0 of 22 May 2024, for old results"
# "l3i5" = "more accurate than 0, and four times as slow"
# "mf-0/PBE" = "the first with several fidelities: energies as in MPtrj"
# "mf-0/R2SCAN" = "the first with several fidelities: energies as in MP-r2SCAN"
# "omat" = "trained on OMat24 alone"
# "mf-ompa/mpa" = "energies as in MPtrj and sAlex"
# "mf-ompa/omat24" = "energies as in OMat24"
# "omni/mpa" = "energies as in MPtrj and sAlex: its authors' choice for most systems"
# "omni/omat24" = "energies as in OMat24"
# "omni/matpes_pbe" = "energies as in MatPES, without U"
# "omni/oc20" = "energies as in OC20, catalysts"
# "omni/oc22" = "energies as in OC22, oxide catalysts"
# "omni/odac23" = "energies as in ODAC23, adsorption in frameworks; dispersion is included"
# "omni/omol25_low" = "energies as in OMol25, low spin"
# "omni/omol25_high" = "energies as in OMol25, high spin"
# "omni/spice" = "energies as in SPICE, organic molecules, without its dispersion"
# "omni/qcml" = "energies as in QCML, small molecules"
# "omni/pet_mad" = "energies as in MAD, diverse structures"
# "omni/mp_r2scan" = "energies as in MP-r2SCAN"
# "omni/matpes_r2scan" = "energies as in MatPES"
# "omni-i8/mpa" = "8 layers; energies as in MPtrj and sAlex: its authors' choice for most systems"
# "omni-i8/omat24" = "8 layers; energies as in OMat24"
# "omni-i8/matpes_pbe" = "8 layers; energies as in MatPES, without U"
# "omni-i8/oc20" = "8 layers; energies as in OC20, catalysts"
# "omni-i8/oc22" = "8 layers; energies as in OC22, oxide catalysts"
# "omni-i8/odac23" = "8 layers; energies as in ODAC23, adsorption in frameworks; dispersion is included"
# "omni-i8/omol25_low" = "8 layers; energies as in OMol25, low spin"
# "omni-i8/omol25_high" = "8 layers; energies as in OMol25, high spin"
# "omni-i8/spice" = "8 layers; energies as in SPICE, organic molecules, without its dispersion"
# "omni-i8/qcml" = "8 layers; energies as in QCML, small molecules"
# "omni-i8/pet_mad" = "8 layers; energies as in MAD, diverse structures"
# "omni-i8/mp_r2scan" = "8 layers; energies as in MP-r2SCAN"
# "omni-i8/matpes_r2scan" = "8 layers; energies as in MatPES"
# "omni-i12/mpa" = "12 layers; energies as in MPtrj and sAlex: its authors' choice for most systems"
# "omni-i12/omat24" = "12 layers; energies as in OMat24"
# "omni-i12/matpes_pbe" = "12 layers; energies as in MatPES, without U"
# "omni-i12/oc20" = "12 layers; energies as in OC20, catalysts"
# "omni-i12/oc22" = "12 layers; energies as in OC22, oxide catalysts"
# "omni-i12/odac23" = "12 layers; energies as in ODAC23, adsorption in frameworks; dispersion is included"
# "omni-i12/omol25_low" = "12 layers; energies as in OMol25, low spin"
# "omni-i12/omol25_high" = "12 layers; energies as in OMol25, high spin"
# "omni-i12/spice" = "12 layers; energies as in SPICE, organic molecules, without its dispersion"
# "omni-i12/qcml" = "12 layers; energies as in QCML, small molecules"
# "omni-i12/pet_mad" = "12 layers; energies as in MAD, diverse structures"
# "omni-i12/mp_r2scan" = "12 layers; energies as in MP-r2SCAN"
# "omni-i12/matpes_r2scan" = "12 layers; energies as in MatPES"
# "/path/to/checkpoint.pth" = "a checkpoint of your own; setup_kwargs={'modal': NAME} if it has several fidelities"
#
# [tool.rootstock.aliases]
# "7net-0" = "0"
# "7net-0_11july2024" = "0"
# "7net-0_22may2024" = "0-22may2024"
# "7net-l3i5" = "l3i5"
# "7net-omat" = "omat"
# "7net-mf-0" = "mf-0/PBE"
# "7net-mf-ompa" = "mf-ompa/mpa"
# "7net-omni" = "omni/mpa"
# "7net-omni-i8" = "omni-i8/mpa"
# "7net-omni-i12" = "omni-i12/mpa"
#
# [tool.rootstock.finite-differences]
# forces = 2e-3
# stress = 5e-4
#
# [[tool.rootstock.references]]
# name = "H2O, bent further"
# source = "SevenNet, tests/unit_tests/test_pretrained.py::test_7net0_11July2024"
# versions = { sevenn = ">=0.13,<0.14" }
# model = "0"
# symbols = "OH2"
# positions = [[0.0, 0.2, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]]
# expected = { energy = -12.782808303833008, forces = [[0.0, -13.619621, 7.5937047], [0.0, 9.3918495, -10.172190], [0.0, 4.2277718, 2.5784855]] }
# tolerance = { energy = 5e-5, forces = 2e-4 }
#
# [[tool.rootstock.references]]
# name = "NaCl, skewed cell of two atoms"
# source = "SevenNet, tests/unit_tests/test_pretrained.py::test_7net0_11July2024"
# versions = { sevenn = ">=0.13,<0.14" }
# model = "0"
# symbols = "NaCl"
# cell = [[1.0, 2.815, 2.815], [2.815, 0.0, 2.815], [2.815, 2.815, 0.0]]
# positions = [[0.0, 0.0, 0.0], [2.815, 0.0, 0.0]]
# [tool.rootstock.references.expected]
# energy = -3.779199
# forces = [[12.666697, 0.04726403, 0.04775861], [-12.666697, -0.04726403, -0.04775861]]
# stress = [-0.6439122, -0.03643947, -0.03643981, 0.00599139, 0.04544507, 0.04543639] # the source has xx, yy, zz, xy, yz, zx, and the other sign
# [tool.rootstock.references.tolerance]
# energy = 5e-5
# forces = 2e-4
# stress = 1e-5
#
# [[tool.rootstock.references]]
# name = "NaCl, rock salt, a = 5.64 A"
# source = "janus-core, tests/test_single_point.py (sevenn 0.11.2.post1)"
# versions = { sevenn = ">=0.13,<0.14" }
# model = "0"
# symbols = "Na4Cl4"
# cell = [5.64, 5.64, 5.64]
# scaled_positions = [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0], [0.5, 0.0, 0.0], [0.5, 0.5, 0.5], [0.0, 0.0, 0.5], [0.0, 0.5, 0.0]]
# expected = { energy = -27.061979293823242 }
# tolerance = { energy = 1e-4 }
#
# [[tool.rootstock.references]]
# name = "Cu, fcc, primitive cell of ase.build.bulk"
# source = "quacc, tests/core/recipes/mlp_recipes/test_core_recipes.py (relative 1e-4)"
# versions = { sevenn = ">=0.13,<0.14" }
# model = "0"
# symbols = "Cu"
# cell = [[0.0, 1.805, 1.805], [1.805, 0.0, 1.805], [1.805, 1.805, 0.0]]
# positions = [[0.0, 0.0, 0.0]]
# expected = { energy = -4.096191883087158 }
# tolerance = { energy = 1e-4 }
#
# [[tool.rootstock.references]]
# name = "H2O, bent further, 0-22may2024"
# source = "SevenNet, tests/unit_tests/test_pretrained.py::test_7net0_22May2024"
# versions = { sevenn = ">=0.13,<0.14" }
# model = "0-22may2024"
# symbols = "OH2"
# positions = [[0.0, 0.2, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]]
# expected = { energy = -12.808363914489746, forces = [[0.0, -13.0241165, 6.93116236], [0.0, 9.28001022, -9.51867390], [0.0, 3.74410582, 2.58751225]] }
# tolerance = { energy = 5e-5, forces = 2e-4 }
#
# [[tool.rootstock.references]]
# name = "NaCl, skewed cell of two atoms, 0-22may2024"
# source = "SevenNet, tests/unit_tests/test_pretrained.py::test_7net0_22May2024"
# versions = { sevenn = ">=0.13,<0.14" }
# model = "0-22may2024"
# symbols = "NaCl"
# cell = [[1.0, 2.815, 2.815], [2.815, 0.0, 2.815], [2.815, 2.815, 0.0]]
# positions = [[0.0, 0.0, 0.0], [2.815, 0.0, 0.0]]
# [tool.rootstock.references.expected]
# energy = -3.4140868186950684
# forces = [[12.628037, 0.0075093508, 0.013480943], [-12.628037, -0.0075093508, -0.013480917]]
# stress = [-0.65014917, -0.01990843, -0.02000658, 0.00589222, 0.03291973, 0.03286226] # the source has xx, yy, zz, xy, yz, zx, and the other sign
# [tool.rootstock.references.tolerance]
# energy = 5e-5
# forces = 2e-4
# stress = 1e-5
#
# [[tool.rootstock.references]]
# name = "H2O, bent further, l3i5"
# source = "SevenNet, tests/unit_tests/test_pretrained.py::test_7net_l3i5"
# versions = { sevenn = ">=0.13,<0.14" }
# model = "l3i5"
# symbols = "OH2"
# positions = [[0.0, 0.2, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]]
# expected = { energy = -12.700481414794922, forces = [[0.0, -14.547814, 8.1347866], [0.0, 10.308369, -10.880318], [0.0, 4.2394452, 2.7455316]] }
# tolerance = { energy = 5e-5, forces = 2e-4 }
#
# [[tool.rootstock.references]]
# name = "NaCl, skewed cell of two atoms, l3i5"
# source = "SevenNet, tests/unit_tests/test_pretrained.py::test_7net_l3i5"
# versions = { sevenn = ">=0.13,<0.14" }
# model = "l3i5"
# symbols = "NaCl"
# cell = [[1.0, 2.815, 2.815], [2.815, 0.0, 2.815], [2.815, 2.815, 0.0]]
# positions = [[0.0, 0.0, 0.0], [2.815, 0.0, 0.0]]
# [tool.rootstock.references.expected]
# energy = -3.611131191253662
# forces = [[13.430887, 0.08655541, 0.08754013], [-13.430886, -0.08655544, -0.08754011]]
# stress = [-0.6818918, -0.04104544, -0.04107663, 0.00565416, 0.04793138, 0.04794561] # the source has xx, yy, zz, xy, yz, zx, and the other sign
# [tool.rootstock.references.tolerance]
# energy = 5e-5
# forces = 2e-4
# stress = 1e-5
#
# [[tool.rootstock.references]]
# name = "H2O, bent further, mf-0/R2SCAN"
# source = "SevenNet, tests/unit_tests/test_pretrained.py::test_7net_mf_0"
# versions = { sevenn = ">=0.13,<0.14" }
# model = "mf-0/R2SCAN"
# symbols = "OH2"
# positions = [[0.0, 0.2, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]]
# expected = { energy = -14.172412872314453, forces = [[0.0, -13.429364, 6.9344816], [0.0, 8.9132404, -9.6807365], [0.0, 4.5161238, 2.7462559]] }
# tolerance = { energy = 5e-5, forces = 2e-4 }
#
# [[tool.rootstock.references]]
# name = "NaCl, skewed cell of two atoms, mf-0/R2SCAN"
# source = "SevenNet, tests/unit_tests/test_pretrained.py::test_7net_mf_0"
# versions = { sevenn = ">=0.13,<0.14" }
# model = "mf-0/R2SCAN"
# symbols = "NaCl"
# cell = [[1.0, 2.815, 2.815], [2.815, 0.0, 2.815], [2.815, 2.815, 0.0]]
# positions = [[0.0, 0.0, 0.0], [2.815, 0.0, 0.0]]
# [tool.rootstock.references.expected]
# energy = -11.607587814331055
# forces = [[8.512259, 0.07307914, 0.06676716], [-8.512257, -0.07307915, -0.06676716]]
# stress = [-0.4516204, -0.02483013, -0.02485001, 0.00259375, 0.03250402, 0.03247492] # the source has xx, yy, zz, xy, yz, zx, and the other sign
# [tool.rootstock.references.tolerance]
# energy = 5e-5
# forces = 2e-4
# stress = 1e-5
#
# [[tool.rootstock.references]]
# name = "H2O, bent further, mf-ompa/mpa"
# source = "SevenNet, tests/unit_tests/test_pretrained.py::test_7net_mf_ompa_mpa"
# versions = { sevenn = ">=0.13,<0.14" }
# model = "mf-ompa/mpa"
# needs_weights = true
# symbols = "OH2"
# positions = [[0.0, 0.2, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]]
# expected = { energy = -12.597525596618652, forces = [[0.0, -12.245223, 7.26795], [0.0, 8.816763, -9.423925], [0.0, 3.4284601, 2.1559749]] }
# tolerance = { energy = 5e-5, forces = 2e-4 }
#
# [[tool.rootstock.references]]
# name = "NaCl, skewed cell of two atoms, mf-ompa/mpa"
# source = "SevenNet, tests/unit_tests/test_pretrained.py::test_7net_mf_ompa_mpa"
# versions = { sevenn = ">=0.13,<0.14" }
# model = "mf-ompa/mpa"
# needs_weights = true
# symbols = "NaCl"
# cell = [[1.0, 2.815, 2.815], [2.815, 0.0, 2.815], [2.815, 2.815, 0.0]]
# positions = [[0.0, 0.0, 0.0], [2.815, 0.0, 0.0]]
# [tool.rootstock.references.expected]
# energy = -3.490943193435669
# forces = [[12.680445, -2.7985498e-04, -2.7979910e-04], [-12.680446, 2.7984008e-04, 2.7981028e-04]]
# stress = [-0.6481662, -0.02462837, -0.02462837, 0.00459635, 0.02693467, 0.02693467] # the source has xx, yy, zz, xy, yz, zx, and the other sign
# [tool.rootstock.references.tolerance]
# energy = 5e-5
# forces = 2e-4
# stress = 1e-5
#
# [[tool.rootstock.references]]
# name = "H2O, bent further, mf-ompa/omat24"
# source = "SevenNet, tests/unit_tests/test_pretrained.py::test_7net_mf_ompa_omat"
# versions = { sevenn = ">=0.13,<0.14" }
# model = "mf-ompa/omat24"
# needs_weights = true
# symbols = "OH2"
# positions = [[0.0, 0.2, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]]
# expected = { energy = -12.6202974319458, forces = [[0.0, -12.205926, 7.2050343], [0.0, 8.790399, -9.368677], [0.0, 3.4155273, 2.163643]] }
# tolerance = { energy = 5e-5, forces = 2e-4 }
#
# [[tool.rootstock.references]]
# name = "NaCl, skewed cell of two atoms, mf-ompa/omat24"
# source = "SevenNet, tests/unit_tests/test_pretrained.py::test_7net_mf_ompa_omat"
# versions = { sevenn = ">=0.13,<0.14" }
# model = "mf-ompa/omat24"
# needs_weights = true
# symbols = "NaCl"
# cell = [[1.0, 2.815, 2.815], [2.815, 0.0, 2.815], [2.815, 2.815, 0.0]]
# positions = [[0.0, 0.0, 0.0], [2.815, 0.0, 0.0]]
# [tool.rootstock.references.expected]
# energy = -3.5094668865203857
# forces = [[12.562084, -1.4219694e-03, -1.4219843e-03], [-12.562084, 1.4219508e-03, 1.4219955e-03]]
# stress = [-0.6430905, -0.0254128, -0.02541281, 0.00460021, 0.0268343, 0.0268343] # the source has xx, yy, zz, xy, yz, zx, and the other sign
# [tool.rootstock.references.tolerance]
# energy = 5e-5
# forces = 2e-4
# stress = 1e-5
#
# [[tool.rootstock.references]]
# name = "H2O, bent further, omat"
# source = "SevenNet, tests/unit_tests/test_pretrained.py::test_7net_omat"
# versions = { sevenn = ">=0.13,<0.14" }
# model = "omat"
# needs_weights = true
# symbols = "OH2"
# positions = [[0.0, 0.2, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]]
# expected = { energy = -12.403768539428711, forces = [[0.0, -12.848297, 7.11432], [0.0, 9.265477, -9.564951], [0.0, 3.58282, 2.4506311]] }
# tolerance = { energy = 5e-5, forces = 2e-4 }
#
# [[tool.rootstock.references]]
# name = "NaCl, skewed cell of two atoms, omat"
# source = "SevenNet, tests/unit_tests/test_pretrained.py::test_7net_omat"
# versions = { sevenn = ">=0.13,<0.14" }
# model = "omat"
# needs_weights = true
# symbols = "NaCl"
# cell = [[1.0, 2.815, 2.815], [2.815, 0.0, 2.815], [2.815, 2.815, 0.0]]
# positions = [[0.0, 0.0, 0.0], [2.815, 0.0, 0.0]]
# [tool.rootstock.references.expected]
# energy = -3.5033323764801025
# forces = [[12.533154, 0.02358698, 0.02358694], [-12.533153, -0.02358699, -0.02358697]]
# stress = [-0.6420925, -0.02781446, -0.02781446, 0.00381664, 0.02575445, 0.02575445] # the source has xx, yy, zz, xy, yz, zx, and the other sign
# [tool.rootstock.references.tolerance]
# energy = 5e-5
# forces = 2e-4
# stress = 1e-5
#
# [[tool.rootstock.references]]
# name = "H2O, bent further, omni/mpa"
# source = "SevenNet, tests/unit_tests/test_pretrained.py::test_7net_omni_mpa"
# versions = { sevenn = ">=0.13,<0.14" }
# model = "omni/mpa"
# needs_weights = true
# symbols = "OH2"
# positions = [[0.0, 0.2, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]]
# expected = { energy = -12.918253898620605, forces = [[0.0, -13.32638, 7.1434574], [0.0, 9.442289, -9.77207], [0.0, 3.8840904, 2.6286132]] }
# tolerance = { energy = 5e-5, forces = 2e-4 }
#
# [[tool.rootstock.references]]
# name = "NaCl, skewed cell of two atoms, omni/mpa"
# source = "SevenNet, tests/unit_tests/test_pretrained.py::test_7net_omni_mpa"
# versions = { sevenn = ">=0.13,<0.14" }
# model = "omni/mpa"
# needs_weights = true
# symbols = "NaCl"
# cell = [[1.0, 2.815, 2.815], [2.815, 0.0, 2.815], [2.815, 2.815, 0.0]]
# positions = [[0.0, 0.0, 0.0], [2.815, 0.0, 0.0]]
# [tool.rootstock.references.expected]
# energy = -3.483455181121826
# forces = [[12.707214, 0.01643602, 0.01643606], [-12.707215, -0.01643603, -0.01643603]]
# stress = [-0.6500675, -0.0290563, -0.0290563, 0.00374571, 0.02576996, 0.02576996] # the source has xx, yy, zz, xy, yz, zx, and the other sign
# [tool.rootstock.references.tolerance]
# energy = 5e-5
# forces = 2e-4
# stress = 1e-5
#
# [[tool.rootstock.references]]
# name = "H2O, bent further, omni-i8/mpa"
# source = "SevenNet, tests/unit_tests/test_pretrained.py::test_7net_omni_i8_mpa"
# versions = { sevenn = ">=0.13,<0.14" }
# model = "omni-i8/mpa"
# needs_weights = true
# symbols = "OH2"
# positions = [[0.0, 0.2, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]]
# expected = { energy = -12.922063827514648, forces = [[0.0, -13.452224, 7.3066516], [0.0, 9.5646286, -9.9248161], [0.0, 3.8875942, 2.6181641]] }
# tolerance = { energy = 5e-5, forces = 2e-4 }
#
# [[tool.rootstock.references]]
# name = "NaCl, skewed cell of two atoms, omni-i8/mpa"
# source = "SevenNet, tests/unit_tests/test_pretrained.py::test_7net_omni_i8_mpa"
# versions = { sevenn = ">=0.13,<0.14" }
# model = "omni-i8/mpa"
# needs_weights = true
# symbols = "NaCl"
# cell = [[1.0, 2.815, 2.815], [2.815, 0.0, 2.815], [2.815, 2.815, 0.0]]
# positions = [[0.0, 0.0, 0.0], [2.815, 0.0, 0.0]]
# [tool.rootstock.references.expected]
# energy = -3.4679641723632812
# forces = [[12.718483, -0.013534063, -0.013534037], [-12.718483, 0.013534017, 0.013534039]]
# stress = [-0.6499892, -0.02532190, -0.02532190, 0.00378853, 0.02772916, 0.02772916] # the source has xx, yy, zz, xy, yz, zx, and the other sign
# [tool.rootstock.references.tolerance]
# energy = 5e-5
# forces = 2e-4
# stress = 1e-5
#
# [[tool.rootstock.references]]
# name = "H2O, bent further, omni-i12/mpa"
# source = "SevenNet, tests/unit_tests/test_pretrained.py::test_7net_omni_i12_mpa"
# versions = { sevenn = ">=0.13,<0.14" }
# model = "omni-i12/mpa"
# needs_weights = true
# symbols = "OH2"
# positions = [[0.0, 0.2, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]]
# expected = { energy = -12.92691421508789, forces = [[0.0, -13.374825, 7.3012400], [0.0, 9.5462170, -9.8908463], [0.0, 3.8286080, 2.5896058]] }
# tolerance = { energy = 5e-5, forces = 2e-4 }
#
# [[tool.rootstock.references]]
# name = "NaCl, skewed cell of two atoms, omni-i12/mpa"
# source = "SevenNet, tests/unit_tests/test_pretrained.py::test_7net_omni_i12_mpa"
# versions = { sevenn = ">=0.13,<0.14" }
# model = "omni-i12/mpa"
# needs_weights = true
# symbols = "NaCl"
# cell = [[1.0, 2.815, 2.815], [2.815, 0.0, 2.815], [2.815, 2.815, 0.0]]
# positions = [[0.0, 0.0, 0.0], [2.815, 0.0, 0.0]]
# [tool.rootstock.references.expected]
# energy = -3.503857135772705
# forces = [[12.539756, 0.027810518, 0.027810508], [-12.539756, -0.027810529, -0.027810507]]
# stress = [-0.6424894, -0.02873472, -0.02873472, 0.00331444, 0.02597278, 0.02597278] # the source has xx, yy, zz, xy, yz, zx, and the other sign
# [tool.rootstock.references.tolerance]
# energy = 5e-5
# forces = 2e-4
# stress = 1e-5
# ///
"""SevenNet."""

import inspect
import os
from pathlib import Path

import torch
from ase import units
from ase.calculators.calculator import all_changes
from ase.calculators.mixing import SumCalculator
from sevenn import _const, _keys
from sevenn.atom_graph_data import AtomGraphData
from sevenn.calculator import SevenNetCalculator
from sevenn.train.dataload import unlabeled_atoms_to_graph
from sevenn.util import download_checkpoint
from torch_geometric.data import Batch

_DEFAULT = "0"

# Fidelity -> its functional, by torch-dftd's name; empty where D3 cannot be added.
_OMNI = {
    "mpa": "pbe", "omat24": "pbe", "matpes_pbe": "pbe", "matpes_r2scan": "r2scan", "mp_r2scan": "r2scan",
    "oc20": "rpbe", "oc22": "pbe", "odac23": "", "omol25_low": "", "omol25_high": "", "spice": "", "qcml": "pbe0",
    "pet_mad": "pbesol",
}  # fmt: skip
# Name -> the place of its weights in the package, and its fidelities.
_MODELS = {
    "0": (_const.SEVENNET_0_11Jul2024, {"": "pbe"}),
    "0-22may2024": (_const.SEVENNET_0_22May2024, {"": "pbe"}),
    "l3i5": (_const.SEVENNET_l3i5, {"": "pbe"}),
    "mf-0": (_const.SEVENNET_MF_0, {"PBE": "pbe", "R2SCAN": "r2scan"}),
    "omat": (_const.SEVENNET_omat, {"": "pbe"}),
    "mf-ompa": (_const.SEVENNET_MF_ompa, {"mpa": "pbe", "omat24": "pbe"}),
    "omni": (_const.SEVENNET_omni, _OMNI),
    "omni-i8": (_const.SEVENNET_omni_i8, _OMNI),
    "omni-i12": (_const.SEVENNET_omni_i12, _OMNI),
}
_OPTIONS = ("modal", "enable_cueq", "enable_flash", "enable_oeq")  # the library takes any other, and ignores it


def setup(model: str, device: str = "cuda", dispersion: bool = False, dispersion_kwargs: dict | None = None, **kwargs):
    """Return SevenNet's calculator.

    Parameters
    ----------
    model : str
        A released model, with ``/FIDELITY`` behind it where it has several; a path to a checkpoint; or empty for the
        default.
    device : str
        ``cuda``, ``cuda:1``, ``cpu``.
    dispersion : bool
        Whether to add D3 by torch-dftd.
    dispersion_kwargs : dict, optional
        Options of `TorchDFTD3Calculator`; by default ``damping="bj"``, ``xc`` of the model, and a ``cutoff`` of 40
        Bohr, given in Angstrom.
    **kwargs
        Options of `SevenNetCalculator`: ``enable_cueq``, ``enable_flash``, ``enable_oeq``; of a checkpoint of one's
        own ``modal``.
    """
    if unknown := sorted(set(kwargs) - {*_OPTIONS}):
        raise TypeError(f"SevenNet takes no option {unknown[0]!r} here; it takes: dispersion, {', '.join(_OPTIONS)}.")
    name, _, fidelity = (model or _DEFAULT).partition("/")
    place, fidelities = _MODELS.get(name, ("", {}))
    xc = fidelities.get(fidelity)
    if place and "modal" in kwargs:
        raise TypeError("The option 'modal' is for a checkpoint of your own: write mf-0/R2SCAN, for example.")
    if xc is not None:
        kwargs.update({"modal": fidelity} if fidelity else {})
    elif place:
        known = ", ".join(f"{name}/{each}".rstrip("/") for each in fidelities)
        raise ValueError(f"Unknown model {model!r}; of {name} there are: {known}.")
    elif not Path(model).expanduser().is_file():
        raise ValueError(f"Unknown model {model!r}: it is neither a file nor one of {', '.join(_MODELS)}.")
    d3 = _dispersion(model, xc, device, dispersion_kwargs) if dispersion else None
    weights = _weights(name, place) if place else str(Path(model).expanduser())
    calculator = BatchingCalculator(weights, device=device, **kwargs)
    return Dispersed([calculator, d3]) if d3 else calculator


def _weights(name: str, place: str) -> str:
    """Return the file of a released model's weights.

    The library itself would first try to write what it fetches into its own package.
    """
    if os.path.isfile(place):
        return place
    path = os.path.realpath(place.replace(_const._prefix, os.path.expanduser("~/.cache/sevennet")))
    if not os.path.isfile(path):
        if os.environ.get("HF_HUB_OFFLINE") == "1":
            raise FileNotFoundError(
                f"The weights of SevenNet's model {name!r} are not in this root: there is no {path}."
            )
        download_checkpoint(path, _const.CHECKPOINT_DOWNLOAD_LINKS[place])
    return path


def _dispersion(model: str, xc: str | None, device: str, given: dict | None):
    """Return D3 with the parameters of a model's functional."""
    from torch_dftd.torch_dftd3_calculator import TorchDFTD3Calculator  # importing it takes half a second

    if xc == "":
        raise ValueError(f"D3 cannot be added to model {model!r}: it holds dispersion, or its functional has no D3.")
    options = {"damping": "bj", "cutoff": 40.0 * units.Bohr, **({"xc": xc} if xc else {}), **(given or {})}
    known = inspect.signature(TorchDFTD3Calculator).parameters.keys() - {"dft", "atoms", "device", "dtype", "kwargs"}
    if unknown := sorted(set(options) - known):
        raise TypeError(f"dispersion_kwargs takes no {unknown[0]!r}; it takes: {', '.join(sorted(known))}.")
    if "xc" not in options:
        raise ValueError("Name the functional of your checkpoint, such as dispersion_kwargs={'xc': 'pbe'}.")
    return TorchDFTD3Calculator(device=device, **options)


class Dispersed(SumCalculator):
    """A model and D3. ASE's sum asks its parts for one property after the other; here each computes all of them once."""

    def calculate(self, atoms, properties, system_changes):
        for part in self.mixer.calcs:
            part.reset()
            part.calculate(atoms, properties, all_changes)
        super().calculate(atoms, properties, system_changes)


class BatchingCalculator(SevenNetCalculator):
    """SevenNet's calculator, for many structures at once as well."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # The stock calculator lists what it computes only with an option, and in units that are not ASE's.
        self.implemented_properties = [each for each in self.implemented_properties if each != "stresses"]

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        self._require_known_elements(atoms)
        super().calculate(atoms, properties, system_changes)

    def calculate_batch(self, images, properties):
        """Return the results of each of some structures, or what is wrong with it; they are computed together."""
        found = [vars(atoms).pop("graph", None) or self._graph(atoms) for atoms in images]
        good = [i for i, graph in enumerate(found) if not isinstance(graph, Exception)]
        for i, results in zip(good, self._predict([found[i] for i in good], properties) if good else (), strict=True):
            found[i] = results
        return found

    def batch_cost(self, images):
        """Return for each structure the edges of its graph, which memory follows.

        The graphs are kept with the structures for `calculate_batch`, so that none is made twice.
        """
        costs = []
        for atoms in images:
            atoms.graph = graph = self._graph(atoms)
            edges = 0 if isinstance(graph, Exception) else graph[_keys.EDGE_IDX].shape[1]
            costs.append(len(atoms) + edges)
        return costs

    def _require_known_elements(self, atoms) -> None:
        """Refuse elements that the model does not know; the library does where a calculator is attached to atoms."""
        if unknown := sorted({int(number) for number in atoms.numbers} - self.type_map.keys()):
            raise ValueError(f"This model of SevenNet has no element of atomic number {unknown[0]}.")

    def _graph(self, atoms):
        """Return the graph of a structure, or the exception for which there is none."""
        try:
            self._require_known_elements(atoms)
            graph = AtomGraphData.from_numpy_dict(unlabeled_atoms_to_graph(atoms, self.cutoff, with_shift=False))
        except Exception as error:  # noqa: BLE001  # it is this structure's, and no reason to compute no other
            return error
        if self.modal:
            graph[_keys.DATA_MODALITY] = self.modal
        return graph

    def _predict(self, graphs, properties) -> list[dict]:
        """Compute of each graph what the stock calculator does."""
        self.model.set_is_batch_data(True)
        try:
            out = self.model(Batch.from_data_list(graphs).to(self.device))
        finally:
            self.model.set_is_batch_data(False)
        sizes = [len(graph[_keys.ATOMIC_NUMBERS]) for graph in graphs]
        energies = out[_keys.PRED_TOTAL_ENERGY].tolist()
        columns = {
            "energy": energies,
            "free_energy": energies,
            "energies": _split(out[_keys.ATOMIC_ENERGY].flatten(), sizes),
            "forces": _split(out[_keys.PRED_FORCE], sizes),
            "num_edges": [graph[_keys.EDGE_IDX].shape[1] for graph in graphs],
        }
        if "stress" in properties:  # it means nothing of structures without a cell
            columns["stress"] = -out[_keys.PRED_STRESS].detach().cpu().numpy()[:, [0, 1, 2, 4, 5, 3]]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _split(tensor: torch.Tensor, sizes: list[int]) -> list:
    return [part.numpy() for part in tensor.detach().cpu().split(sizes)]
