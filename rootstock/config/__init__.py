"""What people write: cluster files, environment files, model strings, templates. Checked and rendered, not executed."""
