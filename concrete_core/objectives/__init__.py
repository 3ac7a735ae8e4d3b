"""Arguments, chunks and site structure of the objectives, without tensors."""
