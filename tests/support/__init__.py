"""What tests share: how they run commands, wait, write environment files, and come by roots, users and clusters."""
