-- Rendered by Rootstock; do not edit. To change what `module load rootstock` loads: rootstock-site default VERSION
module_version("rootstock/0.3.0", "default")
