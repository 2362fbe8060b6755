"""Commands of `semask`: each module has `add_arguments(parser)` and `run(args)`, and `__main__` lists them.

train_net.py runs `semask train`, and demo/demo.py runs `semask predict`.
"""
