-- Rendered by Rootstock; do not edit. To change what `module load rootstock` loads: rootstock-site default VERSION
module_version("rootstock/2026.12.0", "default")
