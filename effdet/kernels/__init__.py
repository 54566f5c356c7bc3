"""C++ kernels of training on a CPU, and the blocks that use them. Everything works without a compiler."""
