"""Packages that were looked at and are not in the list, with the reason."""

LEFT_OUT = {
    "schnetpack": "2.2.0 is not on the index",
    "spectrans": "0.1.0 is not on the index",
    "physicsnemo": "its build fails; `nvidia-physicsnemo` is installed",
    "alphagenome-pytorch": "0.3.1 is not on the index",
    "parallel-wavegan": "its build fails",
}
