"""What trained prompts look like: neighbours, labels, similarity, waywardness, trajectory.

Each module computes with NumPy on the host and describes its result as one JSON-able report;
`reports` turns it into text and `plots` into a figure.
"""
