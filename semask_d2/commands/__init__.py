"""The commands of `semask`, a module each with `add_arguments(parser)` and `run(args)`; `__main__` lists them.

train_net.py is `semask train` and demo/demo.py is `semask predict`.
"""
