"""The commands of `semask`: each module has `add_arguments(parser)` and `run(args)`, and `__main__` lists them.

train_net.py is `semask train` and demo/demo.py is `semask predict`.
"""
