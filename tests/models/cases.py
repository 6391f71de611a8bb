"""What differs from environment to environment, for the tests that are the same for all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest
from ase import Atoms

from rootstock.config.environment_file import packaged_names
from tests.models import structures

ORB_URL = (
    "https://orbitalmaterials-public-models.s3.us-west-1.amazonaws.com/forcefields/orb-v3/"
    "orb-v3-conservative-inf-omat-20250404.ckpt"
)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Case:
    """What differs from environment to environment.

    Attributes
    ----------
    direct : str
        How its library is used without Rootstock: code that makes ``calc``. DEVICE stands for the device, MODEL for
        the path of a small model with random weights, which ``programs/make_NAME.py`` writes; without it, the default
        model is taken.
    elements : tuple of str
        Two that the model knows.
    unknown : str
        One that it does not know, if there is one.
    cell, mixed : bool
        Whether it computes structures without a cell, and some that are periodic in some directions only.
    mark : str
        The marker, if building takes a real model's packages.
    weights : tuple of str
        A released model whose weights are fetched, and the place under the root's cache where its library keeps them.
    stress : bool
        Whether it computes one.
    given : str
        Where released weights are in the folder that MODELS_WEIGHTS names: MODEL is then their path, and none are made.
    build : callable, optional
        What makes the structure that all others are made from; eight atoms of the elements as rock salt without it.
    molecule : int
        How many atoms each molecule of that structure has; 0: it is none of molecules.
    options : Mapping[str, object]
        Arguments of ``setup()``.
    gpu : bool
        Whether it can compute on one.
    history : bool
        Whether the last digits depend on what was computed before, as of what is self-consistent.
    """

    direct: str
    elements: tuple[str, str] = ("Na", "Cl")
    unknown: str = ""
    cell: bool = True
    mixed: bool = True
    mark: str = ""
    weights: tuple[str, str] = ("", "")
    stress: bool = True
    given: str = ""
    build: Callable[[], Atoms] | None = None
    molecule: int = 0
    options: Mapping[str, object] = field(default_factory=dict)
    gpu: bool = True
    history: bool = False

    @property
    def wanted(self) -> list[str]:
        """What every calculator computes, by ASE's names."""
        return ["energy", "forces", *(["stress"] if self.stress else [])]

    def start(self) -> Atoms:
        """Return a structure that the model computes, periodic, with forces and stress."""
        return self.build() if self.build else structures.rock_salt(self.elements)

    def simulation(self) -> list[Atoms]:
        """Return structures as they follow each other in a simulation, of several kinds."""
        return structures.simulation(self.start(), self.molecule)

    def varied(self) -> list[Atoms]:
        """Return structures that have nothing to do with each other, some of which the model may refuse."""
        return structures.varied(self.elements, self.unknown, self.start(), self.molecule)

    def refuses(self, atoms: Atoms) -> bool:
        """Tell whether a structure is one that the model cannot compute."""
        mixed = atoms.pbc.any() and not atoms.pbc.all()
        return bool(
            self.unknown in atoms.symbols or (mixed and not self.mixed) or (atoms.cell.rank < 3 and not self.cell)
        )

    def code(self, model: str, device: str = "cpu") -> str:
        """Return what makes ``calc`` on a device."""
        return self.direct.replace("MODEL", model).replace("DEVICE", device)


CASES = {
    "emt": Case("from ase.calculators.emt import EMT; calc = EMT()", ("Cu", "Au"), unknown="Fe"),
    "lj": Case("from ase.calculators.lj import LennardJones; calc = LennardJones(rc=10.0)"),
    "chgnet": Case(
        "from chgnet.model import CHGNetCalculator; calc = CHGNetCalculator(use_device='DEVICE')",
        unknown="Am",
        cell=False,
        mark="models",
    ),
    "mace": Case(
        "from mace.calculators import MACECalculator; calc = MACECalculator('MODEL', device='DEVICE')",
        unknown="Fe",
        mark="models",
        weights=("small", "xdg/mace/20231210mace128L0_energy_epoch249model"),
    ),
    "sevennet": Case(
        "from sevenn.calculator import SevenNetCalculator; calc = SevenNetCalculator('7net-0', device='DEVICE')",
        unknown="At",
        mark="models",
    ),
    "sevennet@0.11": Case(
        "from sevenn.calculator import SevenNetCalculator; calc = SevenNetCalculator('7net-0', device='DEVICE')",
        unknown="At",
        mark="all_models",  # test_pinned.py compares it with today's
    ),
    "so3lr": Case(
        """
from so3krates_torch.calculator.so3 import SO3LRCalculator
calc = SO3LRCalculator(default_dtype="float64", compute_stress=True, device="DEVICE")
""",
        ("O", "H"),
        unknown="Fe",
        mark="models",
        build=structures.water,
        molecule=3,
        options={"default_dtype": "float64"},
    ),
    "tblite": Case(
        "from tblite.ase import TBLite; calc = TBLite(method='GFN2-xTB', verbosity=0)",
        ("H", "O"),
        unknown="Fr",
        mark="models",
        build=structures.water,
        molecule=3,
        gpu=False,
        history=True,
    ),
    "alignn": Case(
        "from alignn.ff.calculators import AlignnAtomwiseCalculator as C; calc = C(path='MODEL', device='DEVICE')",
        mark="all_models",
        weights=("matpes_r2scan", "atomgptlab/alignn_ff/matpes_r2scan"),
    ),
    "orb": Case(
        """
from orb_models.forcefield import pretrained
from orb_models.forcefield.inference.calculator import ORBCalculator
model, adapter = pretrained.orb_v3_conservative_inf_omat(weights_path="MODEL", device="DEVICE", compile=False)
calc = ORBCalculator(model, adapter, device="DEVICE")
""",
        mixed=False,
        mark="all_models",
        weights=("orb-v3-conservative-inf-omat", f"cached_path/{sha256(ORB_URL)}.{sha256('etag')}"),
    ),
    "orb@0.5": Case(
        """
from orb_models.forcefield import pretrained
from orb_models.forcefield.calculator import ORBCalculator
model = pretrained.orb_v3_conservative_inf_omat(weights_path="MODEL", device="DEVICE", compile=False)
calc = ORBCalculator(model, device="DEVICE")
""",
        mixed=False,
        mark="all_models",
        weights=("orb-v3-conservative-inf-omat", f"cached_path/{sha256(ORB_URL)}.{sha256('etag')}"),
    ),
    "nequix": Case(
        "from nequix.calculator import NequixCalculator as C; calc = C(model_path='MODEL', use_kernel=False)",
        unknown="At",
        mixed=False,
        mark="all_models",
        weights=("mp-1", "home/.cache/nequix/models/nequix-mp-1.nqx"),
        given="nequix/nequix-mp-1.nqx",
    ),
    "matgl": Case(
        """
import matgl
from matgl.ext.ase import PESCalculator
calc = PESCalculator(matgl.load_model("MODEL").to("DEVICE"), stress_unit="eV/A3")
""",
        unknown="At",
        mixed=False,
        mark="all_models",
        weights=(
            "TensorNet-PES-MatPES-PBE-2025.2",
            "home/.cache/matgl/models--materialyze--TensorNet-PES-MatPES-PBE-2025.2/snapshots/0123456789abcdef",
        ),
    ),
    "matgl@2.1": Case(
        """
import matgl
from matgl.ext.ase import PESCalculator
calc = PESCalculator(matgl.load_model("MODEL").to("DEVICE"), stress_unit="eV/A3")
""",
        unknown="At",
        mixed=False,
        mark="all_models",
        weights=("TensorNet-MatPES-PBE-v2025.1-PES", "home/.cache/matgl/TensorNet-MatPES-PBE-v2025.1-PES"),
        given="matgl/TensorNet-MatPES-PBE-v2025.1-PES",
    ),
    "mace-polar": Case(
        """
from mace.calculators import MACECalculator
calc = MACECalculator(model_paths="MODEL", model_type="PolarMACE", device="DEVICE", default_dtype="float64")
""",
        ("O", "H"),
        unknown="Fe",
        mark="all_models",
        build=structures.ionic_water,
        molecule=3,
        stress=False,
        weights=("1-m", "xdg/mace/MACEPOLAR1Mmodel"),
    ),
    "uma": Case(
        """
from fairchem.core import FAIRChemCalculator
calc = FAIRChemCalculator.from_model_checkpoint("MODEL", task_name="omat", device="DEVICE")
""",
        mark="all_models",
        options={"task_name": "omat"},
        weights=("s-1p2/omat", "fairchem/models--facebook--UMA/snapshots/0123456789abcdef/checkpoints/uma-s-1p2.pt"),
        given="uma/uma-s-1p2.pt",
    ),
}


def marked() -> list[object]:
    """Return the names of all environments, each with its marker, as parameters of a test."""
    marks = {name: CASES[name].mark if name in CASES else "" for name in packaged_names()}
    return [pytest.param(name, marks=[getattr(pytest.mark, mark)] if mark else []) for name, mark in marks.items()]
