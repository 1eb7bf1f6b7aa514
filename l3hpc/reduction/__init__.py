"""φ, from the teacher's embedding to the student's target: PCA, kernel PCA, UMAP, and its file."""

from typing import TYPE_CHECKING

from l3hpc import _lazy

if TYPE_CHECKING:
    from l3hpc.reduction.kernel_pca import StreamingKernelPCA as StreamingKernelPCA
    from l3hpc.reduction.pca import StreamingPCA as StreamingPCA
    from l3hpc.reduction.phi import Phi as Phi
    from l3hpc.reduction.phi import load_phi as load_phi
    from l3hpc.reduction.phi import save_phi as save_phi
    from l3hpc.reduction.umap import StandardizedUMAP as StandardizedUMAP

__all__ = ["Phi", "StandardizedUMAP", "StreamingKernelPCA", "StreamingPCA", "load_phi",
           "save_phi"]
__getattr__, __dir__ = _lazy.attach(__name__, {
    "StreamingPCA": "l3hpc.reduction.pca", "Phi": "l3hpc.reduction.phi",
    "load_phi": "l3hpc.reduction.phi", "save_phi": "l3hpc.reduction.phi",
    "StandardizedUMAP": "l3hpc.reduction.umap",
    "StreamingKernelPCA": "l3hpc.reduction.kernel_pca",
})
