"""The paper's claims, R0 to R11, tested on a model whose truth is known."""
