"""Many relaxations that go on together, each as ASE's own optimizer would take it alone."""
