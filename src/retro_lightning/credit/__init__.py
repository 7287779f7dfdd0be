"""Credit: returns, baselines, advantages and the losses made of them. Tensors in, tensors out."""
