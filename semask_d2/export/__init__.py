"""Models outside of the training code: graphs of standard operators, the files they are written to, and their proof."""
