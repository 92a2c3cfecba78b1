"""The private engine: sums of clipped per-patient gradients, close to the cost of ordinary ones.

One forward and one backward pass (book-keeping: Bu, Wang, Zha and Karypis 2023, arXiv:2210.00038).
Parameters are no part of autograd, which computes only the gradients of activations. When a layer's
output gradient arrives, the layer writes into its *book* what each patient's weight gradient is
made of and its squared norm, by the cheapest kernel for it (ghost norms: Goodfellow 2015,
arXiv:1510.01799; Li et al. 2022, arXiv:2110.05679; the choice between them and materialised
gradients: Bu, Mao and Xu 2022, arXiv:2205.10683). When all norms are known, each book gives its sum
of clipped gradients.

======================  ====================================================================
``clipped``             the clipped sum, a tile of patients at a time: what others call
``sheet``               all books of one pass: norms over the model, and the weighted sum
``tape``                one forward and backward pass, watched
``layers``              which rule serves which module, and what is refused
``rule``                a layer, its rule, and the book of its gradients
``rows``                kernels for linear maps at many positions: ghost, materialised
``linear``              dense layers and embeddings
``convolution``         convolutions of one to three dimensions, transposed ones too
``normalisation``       group, layer and instance normalisation
``recurrent``           LSTM and GRU, unrolled into dense layers
``vmapped``             any other module, through ``torch.func``
``choice``              which kernel serves which layer: measured, modelled or recorded
``probe``               what is checked on random input before the first step
``alone``               that a patient's bits follow from that patient, on this machine
======================  ====================================================================
"""
