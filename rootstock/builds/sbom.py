"""What was installed into a build, from which files: for its record, and as a bill of materials."""

from __future__ import annotations

import hashlib
import tomllib
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from rootstock.builds.wheel_tags import best_wheel, file_name, minor_version

Packages = Mapping[str, str]  # installed: name -> version


def installed_files(lock: str, python: str, packages: Packages) -> list[dict[str, str]]:
    """Return the files that packages were installed from, with their hashes.

    Parameters
    ----------
    lock : str
        uv's lock.
    python : str
        The version of the interpreter.
    packages : Mapping[str, str]

    Returns
    -------
    list of dict
        Package, version, file and sha256; the hash is empty where the lock has none and the file is not at hand.
    """
    entries = {(package["name"], package.get("version")): package for package in tomllib.loads(lock).get("package", [])}
    return [
        {"package": name, "version": version, "file": file, "sha256": sha256}
        for name, version in packages.items()
        if (entry := entries.get((canonicalize_name(name), version)))
        for file, sha256 in _file_of(entry, python)
    ]


def _file_of(package: Mapping[str, Any], python: str) -> Iterator[tuple[str, str]]:
    wheels = {file_name(entry): entry for entry in package.get("wheels", [])}
    best = best_wheel(wheels, minor_version(python))
    entry = wheels[best] if best else package.get("sdist")
    if entry is not None:
        yield best or file_name(entry), entry.get("hash", "").removeprefix("sha256:") or _hash(entry.get("path", ""))


def _hash(path: str) -> str:
    if not path or not Path(path).is_file():
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bill_of_materials(exported: Mapping[str, Any], name: str, digest: str, packages: Packages) -> dict[str, Any]:
    """Return uv's bill of materials for a build: with its name, without what is not installed, and without chance.

    Parameters
    ----------
    exported : Mapping
        What uv says of the lock, which is for every platform.
    name, digest : str
        Of the build.
    packages : Mapping[str, str]
    """
    installed = {(canonicalize_name(package), version) for package, version in packages.items()}
    components = [part for part in exported["components"] if (part["name"], part.get("version")) in installed]
    root = exported["metadata"]["component"]
    references = {root["bom-ref"], *(part["bom-ref"] for part in components)}
    metadata = {key: value for key, value in exported["metadata"].items() if key != "timestamp"}
    return {
        **exported,
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_OID, f"rootstock/{name}/{digest}").urn,
        "metadata": {**metadata, "component": {**root, "type": "application", "name": name, "version": digest}},
        "components": components,
        "dependencies": [
            {**part, "dependsOn": [ref for ref in part.get("dependsOn", []) if ref in references]}
            for part in exported.get("dependencies", [])
            if part["ref"] in references
        ],
    }
