"""The weights inside a build's packages, as its verification finds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rootstock.config.environment_file import EnvironmentSource
from rootstock.config.references import Reference
from rootstock.root.layout import RootLayout
from rootstock.root.weights_file import WeightsFile


@dataclass
class Bundled:
    """What the workers that verified a build have read from its packages.

    Attributes
    ----------
    folder : Path
        The build's.
    files : dict of str to tuple of WeightsFile
        By the model's name: what ``setup()`` opened, by the paths in the build. None at all is a proof, too: the model
        has computed, and nothing was read from the root's cache.
    """

    folder: Path
    files: dict[str, tuple[WeightsFile, ...]] = field(default_factory=dict)

    def add(
        self, source: EnvironmentSource, layout: RootLayout, references: Sequence[Reference], opened: Sequence[str]
    ) -> None:
        """Note what the worker of a model has opened.

        Parameters
        ----------
        source, layout
        references : sequence of Reference
            Of that model. If one of them needs weights from elsewhere, what was opened proves nothing.
        opened : sequence of str
            The files below the root that may be weights.
        """
        paths = list(map(Path, opened))
        if any(reference.needs_weights for reference in references):
            return
        if any(path.is_relative_to(layout.cache.resolve()) for path in paths):
            return
        folder = self.folder.resolve()
        found = tuple(WeightsFile.of(path, folder) for path in sorted(paths) if path.is_relative_to(folder))
        model = source.named(references[0].model)
        self.files[model] = tuple(dict.fromkeys([*self.files.get(model, ()), *found]))
