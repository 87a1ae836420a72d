"""What a run would take, from its shapes alone: no weights, no data, not even the accelerator."""
